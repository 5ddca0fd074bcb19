//! The shapes of answers to users, put together from what miners have sent.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use common::TaskId;
use common::generation::{FinishReason, Message, Role, Tools};
use common::openai::{CallReader, Delta, Kind, Part, Usage};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::ask::Piece;

/// What all parts of one answer share.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) model: TaskId,
    /// Unix seconds.
    pub(super) created: u64,
    /// Whether the user asked for log-probabilities; miners always send them.
    pub(super) logprobs: bool,
    pub(super) include_usage: bool,
    /// The functions that the model may or must call.
    pub(super) tools: Option<Tools>,
}

/// Writes the events of one stream.
#[derive(Debug)]
pub(super) struct Writer {
    /// The beginning of each event, up to the choices.
    head: Bytes,
    kind: Kind,
    include_usage: bool,
}

impl Shape {
    pub(super) fn writer(&self) -> Writer {
        let object = match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Completion => "text_completion",
        };
        let head = format!(
            r#"data: {{"id":{},"object":"{object}","created":{},"model":{},"choices":["#,
            json(&self.id),
            self.created,
            json(&self.model),
        );
        Writer { head: head.into(), kind: self.kind, include_usage: self.include_usage }
    }

    /// The whole answer as JSON.
    pub(super) fn whole(&self, choices: Vec<Choice>, usage: Usage) -> Vec<u8> {
        let choices = (0..).zip(choices).map(|(index, choice)| self.choice(index, choice));
        let answer = Answer {
            id: &self.id,
            object: match self.kind {
                Kind::Chat => "chat.completion",
                Kind::Completion => "text_completion",
            },
            created: self.created,
            model: self.model.as_str(),
            choices: choices.collect(),
            usage,
        };
        // Structs of strings, numbers and lists always become JSON.
        serde_json::to_vec(&answer).unwrap_or_default()
    }

    /// What finds the calls in the text of a choice, if there may be any.
    pub(super) fn calls(&self, choice: usize) -> Option<CallReader> {
        let name = || {
            let number = self.id.rsplit('-').next().unwrap_or_default();
            format!("{number}_{choice}_")
        };
        self.tools.as_ref().map(|tools| CallReader::new(Some(tools), name()))
    }

    fn choice(&self, index: u32, choice: Choice) -> AnswerChoice {
        let Choice { text, logprobs, finish_reason } = choice;
        let (message, text, finish_reason) = match (self.kind, self.calls(index as usize)) {
            (Kind::Chat, Some(calls)) => {
                let (message, reason) = calls.whole(&text, finish_reason);
                (Some(message), None, reason)
            }
            (Kind::Chat, None) => (Some(Message::new(Role::Assistant, text)), None, finish_reason),
            (Kind::Completion, _) => (None, Some(text), finish_reason),
        };
        AnswerChoice { index, message, text, logprobs, finish_reason }
    }
}

impl Writer {
    /// The role, which comes first in chat.
    pub(super) fn opening(&self, out: &mut BytesMut, choice: usize) {
        if self.kind == Kind::Chat {
            let delta = br#"{"role":"assistant","content":""}"#;
            self.event(out, choice, delta, None, None);
        }
    }

    /// What a miner has said.
    pub(super) fn piece(&self, out: &mut BytesMut, choice: usize, piece: &Piece) {
        let logprobs = piece.logprobs.as_deref();
        match (self.kind, piece.text.as_deref()) {
            (Kind::Chat, Some(text)) => {
                let delta = [br#"{"content":"#, text, b"}"].concat();
                self.event(out, choice, &delta, logprobs, piece.finish_reason);
            }
            (Kind::Chat, None) => self.event(out, choice, b"{}", logprobs, piece.finish_reason),
            (Kind::Completion, text) => {
                let text = text.unwrap_or(b"\"\"");
                self.event(out, choice, text, logprobs, piece.finish_reason);
            }
        }
    }

    /// What a miner has said where it may call functions.
    pub(super) fn piece_with_calls(
        &self,
        out: &mut BytesMut,
        choice: usize,
        piece: &Piece,
        calls: &mut CallReader,
    ) {
        // It was read as a JSON string before.
        let text: String = piece
            .text
            .as_deref()
            .and_then(|text| serde_json::from_slice(text).ok())
            .unwrap_or_default();
        let mut parts = calls.push(&text);
        let finish_reason = piece.finish_reason.map(|reason| {
            let (rest, reason) = calls.finish(reason);
            parts.extend(rest);
            reason
        });
        // With the first of the events that come of it.
        let mut logprobs = piece.logprobs.as_deref();
        for part in parts {
            let delta = match part {
                Part::Text(text) => Delta { content: Some(text), ..Delta::default() },
                Part::Call(call) => Delta { tool_calls: vec![call], ..Delta::default() },
            };
            self.event(out, choice, json(&delta).as_bytes(), logprobs.take(), None);
        }
        if logprobs.is_some() || finish_reason.is_some() {
            self.event(out, choice, b"{}", logprobs, finish_reason);
        }
    }

    /// `says` is the delta or the text, as JSON.
    fn event(
        &self,
        out: &mut BytesMut,
        choice: usize,
        says: &[u8],
        logprobs: Option<&[u8]>,
        finish_reason: Option<FinishReason>,
    ) {
        out.put_slice(&self.head);
        out.put_slice(b"{\"index\":");
        out.put_slice(choice.to_string().as_bytes());
        out.put_slice(match self.kind {
            Kind::Chat => b",\"delta\":".as_slice(),
            Kind::Completion => b",\"text\":",
        });
        out.put_slice(says);
        out.put_slice(b",\"logprobs\":");
        out.put_slice(logprobs.unwrap_or(b"null"));
        out.put_slice(b",\"finish_reason\":");
        match finish_reason {
            Some(reason) => out.put_slice(json(&reason).as_bytes()),
            None => out.put_slice(b"null"),
        }
        out.put_slice(if self.include_usage { b"}],\"usage\":null}\n\n" } else { b"}]}\n\n" });
    }

    /// The event that only counts tokens, if it was asked for.
    pub(super) fn usage(&self, out: &mut BytesMut, usage: Usage) {
        if self.include_usage {
            out.put_slice(&self.head);
            out.put_slice(b"],\"usage\":");
            out.put_slice(json(&usage).as_bytes());
            out.put_slice(b"}\n\n");
        }
    }

    pub(super) fn done(&self, out: &mut BytesMut) {
        out.put_slice(b"data: [DONE]\n\n");
    }

    /// The last event of an answer that broke off: what went wrong, and that nothing follows.
    pub(super) fn error(&self, out: &mut BytesMut, error: &common::openai::ErrorBody) {
        out.put_slice(b"data: ");
        out.put_slice(json(error).as_bytes());
        out.put_slice(b"\n\n");
    }
}

fn json(value: &impl Serialize) -> String {
    // Structs of strings, numbers and lists always become JSON.
    serde_json::to_string(value).unwrap_or_default()
}

/// One choice of a whole answer.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) logprobs: Option<Logprobs>,
    pub(super) finish_reason: FinishReason,
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<AnswerChoice>,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct AnswerChoice {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    logprobs: Option<Logprobs>,
    finish_reason: FinishReason,
}

/// The log-probabilities of a whole answer as JSON: parsed numbers would be many times as large.
#[derive(Debug, Default, Serialize)]
pub(super) struct Logprobs(BTreeMap<String, LogprobPart>);

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum LogprobPart {
    List(Vec<Box<RawValue>>),
    Other(Box<RawValue>),
}

impl Logprobs {
    /// Adds those of one more chunk. Every list in them is continued; what is no object is left out.
    pub(super) fn append(&mut self, more: &[u8]) {
        let more: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(more).unwrap_or_default();
        for (name, value) in more {
            let list: Option<Vec<Box<RawValue>>> = serde_json::from_str(value.get()).ok();
            match (self.0.get_mut(&name), list) {
                (Some(LogprobPart::List(all)), Some(more)) => all.extend(more),
                (_, Some(list)) => {
                    self.0.insert(name, LogprobPart::List(list));
                }
                (_, None) => {
                    self.0.insert(name, LogprobPart::Other(value));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shape(kind: Kind) -> Shape {
        Shape {
            id: "id-1".into(),
            kind,
            model: "chat-demo".parse().unwrap(),
            created: 1,
            logprobs: false,
            include_usage: true,
            tools: None,
        }
    }

    fn events(write: impl FnOnce(&mut BytesMut)) -> Vec<Value> {
        let mut out = BytesMut::new();
        write(&mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        let event = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap());
        text.split_terminator("\n\n").map(|text| event(text).unwrap()).collect()
    }

    fn piece(text: Option<&'static str>, logprobs: Option<&'static str>) -> Piece {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        Piece { text: text.map(bytes), logprobs: logprobs.map(bytes), finish_reason: None }
    }

    #[test]
    fn a_chat_begins_with_the_role_and_ends_with_the_usage() {
        let writer = shape(Kind::Chat).writer();
        let written = events(|out| {
            writer.opening(out, 1);
            writer.piece(out, 1, &piece(Some(r#""a \"b\"""#), Some(r#"{"content":[]}"#)));
            let end = Piece { finish_reason: Some(FinishReason::Length), ..piece(None, None) };
            writer.piece(out, 1, &end);
            writer.usage(out, Usage::new(2, 3));
        });
        let chunk = |delta: Value, logprobs: Value, finish: Value| {
            json!({"id": "id-1", "object": "chat.completion.chunk", "created": 1, "model": "chat-demo",
                   "choices": [{"index": 1, "delta": delta, "logprobs": logprobs, "finish_reason": finish}],
                   "usage": null})
        };
        assert_eq!(
            written[..3],
            [
                chunk(json!({"role": "assistant", "content": ""}), json!(null), json!(null)),
                chunk(json!({"content": "a \"b\""}), json!({"content": []}), json!(null)),
                chunk(json!({}), json!(null), json!("length")),
            ]
        );
        assert_eq!(written[3]["choices"], json!([]));
        assert_eq!(written[3]["usage"]["total_tokens"], 5);
    }

    #[test]
    fn a_completion_has_text_and_only_the_usage_that_was_asked_for() {
        let writer = Shape { include_usage: false, ..shape(Kind::Completion) }.writer();
        let written = events(|out| {
            writer.opening(out, 0);
            writer.piece(out, 0, &piece(Some("\"hi\""), None));
            writer.usage(out, Usage::new(2, 3));
        });
        assert_eq!(
            written,
            [json!({"id": "id-1", "object": "text_completion", "created": 1, "model": "chat-demo",
                    "choices": [{"index": 0, "text": "hi", "logprobs": null, "finish_reason": null}]})]
        );
    }

    #[test]
    fn logprobs_of_chunks_become_one_list() {
        let mut all = Logprobs::default();
        for more in [r#"{"content": [1], "refusal": null}"#, r#"{"content": [2, 3.50]}"#, "[4]"] {
            all.append(more.as_bytes());
        }
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(text, r#"{"content":[1,2,3.50],"refusal":null}"#);
    }
}
