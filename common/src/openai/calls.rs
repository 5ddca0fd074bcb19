//! From the text of an answer to the calls in it.
//!
//! To miners and checking servers an answer is text, the one that its token ids decode to. Who answers a user, the
//! validator, makes calls of it, piece by piece as the text comes:
//!
//! - where a call is certain, the text is `{"name": "f", "arguments": {…}}`, or a list of these;
//! - where the model decides, calls stand in the text as Hermes and Qwen write them:
//!   `<tool_call>{"name": "f", "arguments": {…}}</tool_call>`.
//!
//! Text that is neither stays text.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::generation::{FinishReason, Message, Role, ToolCall, ToolKind, Tools};

/// What a chunk adds to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// Which call of the answer.
    pub index: u32,
    /// In the first part of a call, like its type and its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ToolKind>,
    pub function: FunctionDelta,
}

/// What a chunk adds to a called function.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FunctionDelta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// What a piece of text turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Call(ToolCallDelta),
}

/// Finds the calls in an answer's text.
#[derive(Debug)]
pub struct CallReader {
    state: State,
    /// Text that is not decided yet.
    held: String,
    id: String,
    calls: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but text.
    Plain,
    /// Before the arguments of a certain call.
    Head,
    /// In them.
    Arguments { depth: u32, in_string: bool, escaped: bool },
    /// Outside of calls that the model may make.
    Outside,
    /// In one of them.
    Inside,
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// The head of a certain call holds a name of 64 bytes at most.
const LONGEST_HEAD: usize = 256;

impl CallReader {
    /// For an answer to a request with these tools. The ids of its calls are `id` with their numbers: it should be of
    /// the answer alone.
    pub fn new(tools: Option<&Tools>, id: impl Into<String>) -> Self {
        let state = match tools {
            None => State::Plain,
            Some(tools) if tools.are_forced() => State::Head,
            Some(_) => State::Outside,
        };
        Self { state, held: String::new(), id: id.into(), calls: 0 }
    }

    /// What is certain with this piece of text.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        if self.state == State::Plain {
            put_text(&mut parts, text);
            return parts;
        }
        self.held.push_str(text);
        while self.step(&mut parts) {}
        parts
    }

    /// What is left at the end, and why the answer ended for the user.
    pub fn finish(&mut self, reason: FinishReason) -> (Vec<Part>, FinishReason) {
        let mut parts = Vec::new();
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Plain => put_text(&mut parts, &held),
            // What follows the last call is a bracket.
            State::Head if self.calls == 0 => put_text(&mut parts, &held),
            State::Head | State::Arguments { .. } => {}
            State::Outside if self.calls > 0 => put_text(&mut parts, held.trim_end()),
            State::Outside => put_text(&mut parts, &held),
            State::Inside => {
                if !self.whole_call(&held, &mut parts) {
                    put_text(&mut parts, &format!("{OPEN}{held}"));
                }
            }
        }
        let reason = match reason {
            FinishReason::Length => reason,
            FinishReason::Stop | FinishReason::ToolCalls if self.calls > 0 => {
                FinishReason::ToolCalls
            }
            FinishReason::Stop | FinishReason::ToolCalls => FinishReason::Stop,
        };
        (parts, reason)
    }

    /// The message that a whole text is, and why it ended.
    pub fn whole(mut self, text: &str, reason: FinishReason) -> (Message, FinishReason) {
        let mut parts = self.push(text);
        let (rest, reason) = self.finish(reason);
        parts.extend(rest);
        let mut message = Message::new(Role::Assistant, "");
        for part in parts {
            match part {
                Part::Text(text) => message.content.push_str(&text),
                Part::Call(delta) => {
                    let arguments = delta.function.arguments.unwrap_or_default();
                    if let (Some(id), Some(name)) = (delta.id, delta.function.name) {
                        message.tool_calls.push(ToolCall::new(id, name, arguments));
                    } else if let Some(call) = message.tool_calls.last_mut() {
                        call.function.arguments.push_str(&arguments);
                    }
                }
            }
        }
        (message, reason)
    }

    /// Whether there may be more to find in what is held.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state {
            State::Plain => false,
            State::Head => self.head(parts),
            State::Arguments { depth, in_string, escaped } => {
                self.arguments(depth, in_string, escaped, parts)
            }
            State::Outside => self.outside(parts),
            State::Inside => {
                let Some(end) = self.held.find(CLOSE) else { return false };
                let inside = self.held[..end].to_owned();
                self.held.drain(..end + CLOSE.len());
                self.state = State::Outside;
                if !self.whole_call(&inside, parts) {
                    put_text(parts, &format!("{OPEN}{inside}{CLOSE}"));
                }
                true
            }
        }
    }

    fn head(&mut self, parts: &mut Vec<Part>) -> bool {
        if let Some((name, rest)) = read_head(&self.held) {
            let (name, rest) = (name.to_owned(), rest.to_owned());
            parts.push(Part::Call(self.begin(name, String::new())));
            self.held = rest;
            self.state = State::Arguments { depth: 0, in_string: false, escaped: false };
            return true;
        }
        if self.calls == 0 && self.held.len() > LONGEST_HEAD {
            self.state = State::Plain;
            put_text(parts, &std::mem::take(&mut self.held));
        }
        false
    }

    fn arguments(
        &mut self,
        mut depth: u32,
        mut in_string: bool,
        mut escaped: bool,
        parts: &mut Vec<Part>,
    ) -> bool {
        let mut end = None;
        for (at, byte) in self.held.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        end = Some(at + 1);
                        break;
                    }
                }
                _ => {}
            }
        }
        let rest = self.held.split_off(end.unwrap_or(self.held.len()));
        let added = std::mem::replace(&mut self.held, rest);
        if !added.is_empty() {
            let function = FunctionDelta { name: None, arguments: Some(added) };
            let index = self.calls.saturating_sub(1);
            parts.push(Part::Call(ToolCallDelta { index, id: None, kind: None, function }));
        }
        self.state = match end {
            Some(_) => State::Head,
            None => State::Arguments { depth, in_string, escaped },
        };
        end.is_some()
    }

    fn outside(&mut self, parts: &mut Vec<Part>) -> bool {
        if let Some(start) = self.held.find(OPEN) {
            // White space around calls is part of how they are written.
            let before = self.held[..start].trim_end().to_owned();
            put_text(parts, &before);
            self.held.drain(..start + OPEN.len());
            self.state = State::Inside;
            return true;
        }
        let start = if self.calls > 0 { self.held.len() - self.held.trim_start().len() } else { 0 };
        let begun = (1..OPEN.len()).rev().find(|length| self.held.ends_with(&OPEN[..*length]));
        let certain = &self.held[..self.held.len() - begun.unwrap_or(0)];
        let certain = certain.trim_end().len();
        if certain > start {
            put_text(parts, &self.held[start..certain]);
            self.held.drain(..certain);
        }
        false
    }

    /// Whether this is a whole call.
    fn whole_call(&mut self, text: &str, parts: &mut Vec<Part>) -> bool {
        #[derive(Deserialize)]
        struct Written<'a> {
            name: String,
            #[serde(borrow)]
            arguments: Option<&'a RawValue>,
        }
        let Ok(Written { name, arguments }) = serde_json::from_str(text.trim()) else {
            return false;
        };
        let arguments = arguments.map_or("{}", RawValue::get);
        // Some models write them as a text that holds JSON.
        let arguments = serde_json::from_str(arguments).unwrap_or_else(|_| arguments.to_owned());
        let call = self.begin(name, arguments);
        parts.push(Part::Call(call));
        true
    }

    fn begin(&mut self, name: String, arguments: String) -> ToolCallDelta {
        let index = self.calls;
        self.calls += 1;
        ToolCallDelta {
            index,
            id: Some(format!("call_{}{index}", self.id)),
            kind: Some(ToolKind::Function),
            function: FunctionDelta { name: Some(name), arguments: Some(arguments) },
        }
    }
}

fn put_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

/// The name of a call and what follows `"arguments":`, from a text that begins with the call, or with what separates it
/// from the one before.
fn read_head(text: &str) -> Option<(&str, &str)> {
    let after = |text: &'_ str, expected: &str| {
        // The lifetime of the result is that of the text.
        text.trim_start().strip_prefix(expected).map(str::len).map(|left| text.len() - left)
    };
    let start = text.find('{')?;
    let mut rest = &text[start + 1..];
    for expected in [r#""name""#, ":", "\""] {
        rest = &rest[after(rest, expected)?..];
    }
    let end = rest.find('"')?;
    let name = &rest[..end];
    rest = &rest[end + 1..];
    for expected in [",", r#""arguments""#, ":"] {
        rest = &rest[after(rest, expected)?..];
    }
    let value = rest.trim_start();
    (!value.is_empty()).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::generation::{Tool, ToolChoice};

    fn tools(choice: ToolChoice) -> Tools {
        let tool = Tool { name: "find".to_owned(), description: None, parameters: None };
        Tools { list: vec![tool], choice, parallel: true }
    }

    /// Reads a text in pieces of so many characters.
    fn read(choice: Option<ToolChoice>, text: &str, size: usize) -> (Message, FinishReason) {
        let tools = choice.map(tools);
        let mut reader = CallReader::new(tools.as_ref(), "x");
        let characters: Vec<char> = text.chars().collect();
        let mut parts: Vec<Part> = characters
            .chunks(size)
            .flat_map(|chunk| reader.push(&chunk.iter().collect::<String>()))
            .collect();
        let (rest, reason) = reader.finish(FinishReason::Stop);
        parts.extend(rest);
        let mut message = Message::new(Role::Assistant, "");
        for part in parts {
            match part {
                Part::Text(text) => message.content.push_str(&text),
                Part::Call(delta) => {
                    let arguments = delta.function.arguments.unwrap();
                    match delta.id {
                        Some(id) => {
                            assert_eq!(delta.index as usize, message.tool_calls.len());
                            let name = delta.function.name.unwrap();
                            message.tool_calls.push(ToolCall::new(id, name, arguments));
                        }
                        None => {
                            let call = message.tool_calls.last_mut().unwrap();
                            call.function.arguments.push_str(&arguments);
                        }
                    }
                }
            }
        }
        (message, reason)
    }

    fn calls(message: &Message) -> Vec<(&str, &str)> {
        let calls = message.tool_calls.iter();
        calls.map(|call| (call.function.name.as_str(), call.function.arguments.as_str())).collect()
    }

    #[test]
    fn certain_calls_are_found_whatever_the_pieces() {
        let one =
            r#"{"name": "find", "arguments": {"what": "a \"}\" {", "deep": {"list": [1, {}]}}}"#;
        let arguments = r#"{"what": "a \"}\" {", "deep": {"list": [1, {}]}}"#;
        let several = format!(r#"[{one}, {{"name":"find","arguments":{{}}}}]"#);
        for size in 1..90 {
            let (message, reason) = read(Some(ToolChoice::Required), one, size);
            assert_eq!(calls(&message), [("find", arguments)]);
            assert_eq!((message.content.as_str(), reason), ("", FinishReason::ToolCalls));
            assert_eq!(message.tool_calls[0].id, "call_x0");
            let (message, _) = read(Some(ToolChoice::Required), &several, size);
            assert_eq!(calls(&message), [("find", arguments), ("find", "{}")]);
        }
    }

    #[test]
    fn calls_that_the_model_chose_are_found_whatever_the_pieces() {
        let text = "Let me see. <tool_call>\n{\"name\": \"find\", \"arguments\": {\"a\": 1.50}}\n</tool_call>\n\
                    <tool_call>{\"name\": \"find\", \"arguments\": \"{}\"}</tool_call>\n";
        for size in 1..120 {
            let (message, reason) = read(Some(ToolChoice::Auto), text, size);
            assert_eq!(calls(&message), [("find", r#"{"a": 1.50}"#), ("find", "{}")]);
            assert_eq!(
                (message.content.as_str(), reason),
                ("Let me see.", FinishReason::ToolCalls)
            );
        }
    }

    #[test]
    fn text_that_holds_no_call_stays_what_it_is() {
        let cases = [
            (Some(ToolChoice::Auto), "1 < 2, and <tool_cal is no tag.\n"),
            (Some(ToolChoice::Auto), "<tool_call>nonsense</tool_call>"),
            (Some(ToolChoice::Auto), "<tool_call>{\"name\": \"find\""),
            (None, "<tool_call>{\"name\": \"find\", \"arguments\": {}}</tool_call>"),
            (Some(ToolChoice::Required), "I would rather not."),
        ];
        for (choice, text) in cases {
            for size in 1..20 {
                let (message, reason) = read(choice.clone(), text, size);
                assert_eq!((message.content.as_str(), reason), (text, FinishReason::Stop));
                assert_eq!(message.tool_calls, []);
            }
        }
    }

    #[test]
    fn a_call_that_was_cut_keeps_what_there_is_of_it() {
        let tools = tools(ToolChoice::Required);
        let text = r#"{"name": "find", "arguments": {"what": "a lo"#;
        let (message, reason) =
            CallReader::new(Some(&tools), "x").whole(text, FinishReason::Length);
        assert_eq!(calls(&message), [("find", r#"{"what": "a lo"#)]);
        assert_eq!(reason, FinishReason::Length);
    }

    proptest! {
        #[test]
        fn no_text_is_lost_or_makes_the_reader_panic(
            text in r#"([<>/a-z_{}"\[\]:, \\]|<tool_call>|</tool_call>|\{"name": "f", "arguments": \{){0,20}"#, size in 1..9_usize,
        ) {
            for choice in [ToolChoice::Auto, ToolChoice::Required] {
                let (message, reason) = read(Some(choice), &text, size);
                if message.tool_calls.is_empty() {
                    prop_assert_eq!(reason, FinishReason::Stop);
                    prop_assert_eq!(
                        message.content.replace(char::is_whitespace, ""),
                        text.replace(char::is_whitespace, "")
                    );
                }
            }
        }
    }
}
