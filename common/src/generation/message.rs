//! One turn of a conversation, as OpenAI's clients write it.

use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Newer clients call it `developer`.
    #[serde(alias = "developer")]
    System,
    User,
    Assistant,
    /// The result of a tool's call.
    Tool,
}

impl Role {
    /// The name chat templates use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Message {
    pub role: Role,
    /// Several text parts are put together as they are. Empty where an assistant only calls tools.
    pub content: String,
    /// Who of several with the same role; shown to the model if its chat template does.
    pub name: Option<String>,
    /// Of an assistant only.
    pub tool_calls: Vec<ToolCall>,
    /// Which call this is the result of. With [`Role::Tool`], and only then.
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message of text alone.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        let content = content.into();
        Self { role, content, name: None, tool_calls: Vec::new(), tool_call_id: None }
    }

    /// Bytes of text that the model may be shown.
    pub fn bytes(&self) -> usize {
        let calls = self
            .tool_calls
            .iter()
            .map(|call| call.id.len() + call.function.name.len() + call.function.arguments.len());
        let id = self.tool_call_id.as_ref().map_or(0, String::len);
        let name = self.name.as_ref().map_or(0, String::len);
        self.content.len() + name + id + calls.sum::<usize>()
    }

    /// Whether a chat template must know tools to show it.
    pub fn needs_tools(&self) -> bool {
        self.role == Role::Tool || !self.tool_calls.is_empty()
    }
}

/// A function that the model called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    pub id: String,
    #[serde(rename = "type", default)]
    pub kind: ToolKind,
    pub function: CalledFunction,
}

/// The only kind of tool there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolKind {
    #[default]
    Function,
}

/// Which function, with which arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalledFunction {
    pub name: String,
    /// JSON as the model wrote it.
    pub arguments: String,
}

impl ToolCall {
    /// A call of a function.
    pub fn new(id: String, name: String, arguments: String) -> Self {
        Self { id, kind: ToolKind::Function, function: CalledFunction { name, arguments } }
    }
}

/// A message before it is known to make sense. The fields that come last are those of answers that clients send back;
/// only their empty values are taken.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    role: Role,
    content: Option<Content>,
    name: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_call_id: Option<String>,
    refusal: Option<IgnoredAny>,
    audio: Option<IgnoredAny>,
    function_call: Option<IgnoredAny>,
    annotations: Option<Vec<IgnoredAny>>,
}

impl TryFrom<Written> for Message {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { role, content, name, tool_calls, tool_call_id, .. } = written;
        if written.refusal.is_some() {
            return Err("a message's `refusal` is not supported");
        }
        if written.audio.is_some() {
            return Err("a message's `audio` is not supported");
        }
        if written.function_call.is_some() {
            return Err("a message's `function_call` is not supported, use `tool_calls`");
        }
        if written.annotations.is_some_and(|annotations| !annotations.is_empty()) {
            return Err("a message's `annotations` are not supported");
        }
        let tool_calls = tool_calls.unwrap_or_default();
        if !tool_calls.is_empty() && role != Role::Assistant {
            return Err("only a message of the role `assistant` can have `tool_calls`");
        }
        if (role == Role::Tool) != tool_call_id.is_some() {
            return Err("messages of the role `tool`, and only those, have a `tool_call_id`");
        }
        let content = match content {
            Some(Content(content)) => content,
            None if tool_calls.is_empty() => {
                return Err("a message needs `content`, unless it has `tool_calls`");
            }
            None => String::new(),
        };
        Ok(Self { role, content, name, tool_calls, tool_call_id })
    }
}

/// A text, or a list of parts of text.
struct Content(String);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor).map(Self)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of text parts")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_string<E>(self, text: String) -> Result<String, E> {
        Ok(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<String, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Part {
            #[serde(rename = "type")]
            _kind: Kind,
            text: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Kind {
            Text,
        }
        let mut content = String::new();
        while let Some(part) = parts.next_element::<Part>()? {
            content.push_str(&part.text);
        }
        Ok(content)
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("role", &self.role)?;
        let content = (!self.content.is_empty() || self.tool_calls.is_empty())
            .then_some(self.content.as_str());
        map.serialize_entry("content", &content)?;
        if let Some(name) = &self.name {
            map.serialize_entry("name", name)?;
        }
        if !self.tool_calls.is_empty() {
            map.serialize_entry("tool_calls", &self.tool_calls)?;
        }
        if let Some(id) = &self.tool_call_id {
            map.serialize_entry("tool_call_id", id)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(message: serde_json::Value) -> Result<Message, String> {
        serde_json::from_str(&message.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_form_that_clients_write_is_read() {
        let call =
            json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let cases = [
            json!({"role": "user", "content": "hi"}),
            json!({"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}),
            json!({"role": "developer", "content": "hi"}),
            json!({"role": "user", "content": "hi", "name": "Ann"}),
            json!({"role": "assistant", "content": null, "tool_calls": [call], "refusal": null, "annotations": []}),
            json!({"role": "tool", "content": "hi", "tool_call_id": "c1"}),
        ];
        for case in cases {
            let message = read(case.clone()).unwrap();
            assert_eq!(message.content, if message.tool_calls.is_empty() { "hi" } else { "" });
            let again = read(serde_json::to_value(&message).unwrap()).unwrap();
            assert_eq!(again, message, "{case}");
        }
    }

    #[test]
    fn messages_that_make_no_sense_are_refused() {
        let call = json!({"id": "c1", "function": {"name": "f", "arguments": "{}"}});
        let cases = [
            json!({"role": "user"}),
            json!({"role": "user", "content": null}),
            json!({"role": "nobody", "content": "hi"}),
            json!({"role": "user", "content": "hi", "mood": "good"}),
            json!({"role": "user", "content": 7}),
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            json!({"role": "user", "content": "hi", "tool_calls": [call]}),
            json!({"role": "tool", "content": "hi"}),
            json!({"role": "user", "content": "hi", "tool_call_id": "c1"}),
            json!({"role": "assistant", "content": "hi", "function_call": {}}),
        ];
        for case in cases {
            assert!(read(case.clone()).is_err(), "{case}");
        }
    }
}
