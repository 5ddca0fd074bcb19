//! Conversations with tools, by the model's own chat template.
//!
//! mistral.rs renders those without: it keeps a function's parameters in a map without order, so that the same request
//! gives other prompts in other processes, which nobody could check. Here everything stays in the order of the request,
//! and JSON is written as Hugging Face's `transformers` does.

use std::fmt;
use std::io;
use std::sync::Arc;

use common::generation::{Message, Tool, ToolObject};
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

/// A model's chat template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChatTemplate {
    source: String,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    pub(crate) fn new(source: &str, bos_token: Option<String>, eos_token: Option<String>) -> Self {
        Self { source: adapted(source), bos_token, eos_token }
    }

    /// Whether it has a place for tools.
    pub(crate) fn shows_tools(&self) -> bool {
        self.source.contains("tools")
    }

    /// The prompt, up to where the answer begins.
    ///
    /// # Errors
    /// Why the template refuses the conversation.
    pub(crate) fn render(&self, messages: &[Message], tools: &[Tool]) -> Result<String, String> {
        self.try_render(messages, tools).map_err(|error| format!("{error:#}"))
    }

    fn try_render(&self, messages: &[Message], tools: &[Tool]) -> Result<String, Error> {
        let mut environment = Environment::new();
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_lstrip_blocks(true);
        environment.set_trim_blocks(true);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        let messages = messages.iter().map(shown).collect::<Result<Vec<_>, _>>()?;
        let tools = tools.iter().map(|tool| ordered(&ToolObject::from(tool)));
        let tools = tools.collect::<Result<Vec<_>, _>>()?;
        environment.template_from_str(&self.source)?.render(context! {
            messages,
            // Templates ask whether there are any.
            tools => (!tools.is_empty()).then_some(tools),
            add_generation_prompt => true,
            enable_thinking => true,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
        })
    }
}

/// The template without what only Python, or training, understands.
fn adapted(source: &str) -> String {
    // Python can walk backwards by a slice, this language does by a filter.
    let source = source.replace("[::-1]", "|reverse");
    source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// A message as templates expect it: arguments of calls are no text but what the text says, and what has no content has
/// an empty one.
fn shown(message: &Message) -> Result<Value, Error> {
    let mut json = serde_json::to_value(message).map_err(bad_json)?;
    json["content"] = message.content.as_str().into();
    let calls = json.get_mut("tool_calls").and_then(serde_json::Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let arguments = call.pointer_mut("/function/arguments");
        if let Some(arguments) = arguments
            && let Some(text) = arguments.as_str()
            && let Ok(read) = serde_json::from_str::<serde_json::Value>(text)
            && read.is_object()
        {
            *arguments = read;
        }
    }
    Ok(value(&json))
}

fn ordered(json: &impl Serialize) -> Result<Value, Error> {
    // By its text: that way whatever stands for raw JSON is read.
    let text = serde_json::to_string(json).map_err(bad_json)?;
    serde_json::from_str(&text).map(|json| value(&json)).map_err(bad_json)
}

fn bad_json(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::BadSerialization, "a message is no JSON").with_source(error)
}

fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(flag) => Value::from(*flag),
        serde_json::Value::Number(number) => {
            let whole = number.as_i64().map(Value::from).or(number.as_u64().map(Value::from));
            whole.or(number.as_f64().map(Value::from)).unwrap_or_default()
        }
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(list) => list.iter().map(value).collect(),
        serde_json::Value::Object(map) => Value::from_object(Map(map
            .iter()
            .map(|(key, json)| (key.clone(), value(json)))
            .collect())),
    }
}

/// An object that keeps its order.
#[derive(Debug)]
struct Map(Vec<(String, Value)>);

impl Object for Map {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let keys: Vec<Value> = self.0.iter().map(|(name, _)| Value::from(name.as_str())).collect();
        Enumerator::Values(keys)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&write(&Value::from_dyn_object(Arc::clone(self)), Spaced).unwrap_or_default())
    }
}

/// As Python's `json.dumps` writes: with blanks, and without the escapes that HTML needs.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let text = match indent {
        Some(indent) => write(&value, PrettyFormatter::with_indent(" ".repeat(indent).as_bytes())),
        None => write(&value, Spaced),
    };
    text.map_err(bad_json)
}

fn write(value: &Value, formatter: impl Formatter) -> serde_json::Result<String> {
    let mut text = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// One line, with a blank after each comma and colon.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use common::generation::{Role, ToolCall};

    use super::*;

    /// As Hermes and Qwen have it, shortened.
    pub(crate) const HERMES: &str = r#"{%- if tools %}
<|im_start|>system
# Tools
{%- for tool in tools %}

{{ tool | tojson }}
{%- endfor %}
<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}
<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"#;

    fn tool() -> Tool {
        let parameters = r#"{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"number","minimum":0.5}},"required":["b","a"]}"#;
        Tool {
            name: "find".to_owned(),
            description: Some("Finds <it> & more".to_owned()),
            parameters: Some(serde_json::from_str(parameters).unwrap()),
        }
    }

    #[test]
    fn tools_calls_and_results_are_shown_in_their_order() {
        let template = ChatTemplate::new(HERMES, None, None);
        let messages = [
            Message::new(Role::User, "Where?"),
            Message {
                tool_calls: vec![ToolCall::new(
                    "c1".to_owned(),
                    "find".to_owned(),
                    r#"{"b":"x","a":1}"#.to_owned(),
                )],
                ..Message::new(Role::Assistant, "")
            },
            Message { tool_call_id: Some("c1".to_owned()), ..Message::new(Role::Tool, "Here.") },
        ];
        let expected = r#"<|im_start|>system
# Tools
{"type": "function", "function": {"name": "find", "description": "Finds <it> & more", "parameters": {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "number", "minimum": 0.5}}, "required": ["b", "a"]}}}<|im_end|>
<|im_start|>user
Where?<|im_end|>
<|im_start|>assistant
<tool_call>
{"name": "find", "arguments": {"b": "x", "a": 1}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
Here.
</tool_response><|im_end|>
<|im_start|>assistant
"#;
        let rendered = template.render(&messages, &[tool()]).unwrap();
        assert_eq!(rendered, expected);
    }

    #[test]
    fn a_template_without_tools_is_none_of_these() {
        assert!(!ChatTemplate::new("{{ messages[0].content }}", None, None).shows_tools());
    }

    #[test]
    fn what_a_template_refuses_is_told() {
        let source = "{{ raise_exception('no tools here') }}{{ tools }}";
        let template = ChatTemplate::new(source, None, None);
        let error = template.render(&[Message::new(Role::User, "hi")], &[]).unwrap_err();
        assert!(error.contains("no tools here"), "{error}");
    }
}
