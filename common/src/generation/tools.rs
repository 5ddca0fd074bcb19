//! Functions that a model may call.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::Json;

/// The functions of a request and how they are to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// Not empty; no two have the same name.
    pub list: Vec<Tool>,
    pub choice: ToolChoice,
    /// Whether the answer may hold several calls. Always so with [`ToolChoice::Auto`], never with a named function.
    pub parallel: bool,
}

/// Who decides whether a function is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model; it is shown the functions by its chat template.
    Auto,
    /// A function is called, whichever.
    Required,
    /// This one is called. It is in the list.
    Named(String),
}

/// A function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// 1 to 64 of a-z, A-Z, 0-9, `_` and `-`.
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON schema of the arguments, an object; without one there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Json>,
}

impl Tools {
    /// Whether the answer is certain to be calls.
    pub fn are_forced(&self) -> bool {
        self.choice != ToolChoice::Auto
    }

    /// The functions that may be called.
    pub fn callable(&self) -> impl Iterator<Item = &Tool> {
        self.list.iter().filter(|tool| match &self.choice {
            ToolChoice::Auto | ToolChoice::Required => true,
            ToolChoice::Named(name) => tool.name == *name,
        })
    }

    /// Bytes of text that the model may be shown.
    pub fn bytes(&self) -> usize {
        let bytes = self.list.iter().map(|tool| {
            tool.name.len()
                + tool.description.as_ref().map_or(0, String::len)
                + tool.parameters.as_ref().map_or(0, |parameters| parameters.get().len())
        });
        bytes.sum()
    }
}

/// As `tools` has it: a function of the only kind that there is.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ToolObject<'a> {
    r#type: &'static str,
    function: &'a Tool,
}

impl<'a> From<&'a Tool> for ToolObject<'a> {
    fn from(function: &'a Tool) -> Self {
        Self { r#type: "function", function }
    }
}

/// As `tool_choice` has it.
impl Serialize for ToolChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Function<'a> {
            name: &'a str,
        }
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Required => serializer.serialize_str("required"),
            Self::Named(name) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("type", "function")?;
                map.serialize_entry("function", &Function { name })?;
                map.end()
            }
        }
    }
}
