//! The shapes of answers to users, made from a miner's chunks.

use std::collections::BTreeMap;

use common::generation::{FinishReason, Message, Role};
use common::openai::{Chunk, ChunkChoice, Delta, Kind, Usage};
use serde::Serialize;
use serde_json::value::RawValue;

/// What all parts of one answer share.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) model: String,
    /// Unix seconds.
    pub(super) created: u64,
    /// Whether the user asked for log-probabilities; miners always send them.
    pub(super) logprobs: bool,
}

impl Frame {
    /// What a miner's chunk says, as the user gets it: our id and names, and only what was asked for. `None` if
    /// nothing is left.
    pub(super) fn chunk(&self, choice: ChunkChoice) -> Option<Chunk> {
        let choice = ChunkChoice {
            index: 0,
            delta: (self.kind == Kind::Chat).then(|| choice.delta.unwrap_or_default()),
            text: (self.kind == Kind::Completion).then(|| choice.text.unwrap_or_default()),
            logprobs: choice.logprobs.filter(|_| self.logprobs),
            finish_reason: choice.finish_reason,
        };
        let says_something = !choice.added_text().is_empty()
            || choice.finish_reason.is_some()
            || choice.delta.as_ref().is_some_and(|delta| delta.role.is_some());
        says_something.then(|| self.with(vec![choice], None))
    }

    /// The chunk that only counts tokens.
    pub(super) fn usage(&self, usage: Usage) -> Chunk {
        self.with(Vec::new(), Some(usage))
    }

    fn with(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> Chunk {
        let object = match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Completion => "text_completion",
        };
        Chunk {
            id: self.id.clone(),
            object: object.to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
            receipt: None,
        }
    }

    /// The whole answer.
    pub(super) fn answer(
        &self,
        text: String,
        finish_reason: FinishReason,
        usage: Usage,
        logprobs: Option<Logprobs>,
    ) -> Answer {
        let (object, message, text) = match self.kind {
            Kind::Chat => ("chat.completion", Some(Message::new(Role::Assistant, text)), None),
            Kind::Completion => ("text_completion", None, Some(text)),
        };
        Answer {
            id: self.id.clone(),
            object,
            created: self.created,
            model: self.model.clone(),
            choices: [AnswerChoice { index: 0, message, text, logprobs, finish_reason }],
            usage,
        }
    }
}

/// A [`common::openai::Answer`] to write, whose log-probabilities take no more memory than their JSON.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: [AnswerChoice; 1],
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
pub(super) struct Logprobs(BTreeMap<String, Part>);

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Part {
    List(Vec<Box<RawValue>>),
    Other(Box<RawValue>),
}

impl Logprobs {
    /// Adds those of one more chunk. Every list in them is continued; what is no object is left out.
    pub(super) fn append(&mut self, more: &RawValue) {
        let more: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(more.get()).unwrap_or_default();
        for (name, value) in more {
            let list: Option<Vec<Box<RawValue>>> = serde_json::from_str(value.get()).ok();
            match (self.0.get_mut(&name), list) {
                (Some(Part::List(all)), Some(more)) => all.extend(more),
                (_, Some(list)) => {
                    self.0.insert(name, Part::List(list));
                }
                (_, None) => {
                    self.0.insert(name, Part::Other(value));
                }
            }
        }
    }
}

/// The first chunk of a chat, which carries the role, for miners that leave it out.
pub(super) fn opening() -> ChunkChoice {
    ChunkChoice {
        delta: Some(Delta {
            role: Some(Role::Assistant),
            content: Some(String::new()),
            ..Delta::default()
        }),
        ..ChunkChoice::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn frame(kind: Kind) -> Frame {
        Frame { id: "id-1".into(), kind, model: "chat-demo".into(), created: 1, logprobs: false }
    }

    #[test]
    fn unasked_logprobs_do_not_reach_the_user() {
        let delta = Delta { content: Some("hi".into()), ..Delta::default() };
        let choice = ChunkChoice {
            delta: Some(delta),
            logprobs: Some(json!({"content": []})),
            ..ChunkChoice::default()
        };
        let seen = frame(Kind::Chat).chunk(choice).unwrap();
        assert_eq!(
            serde_json::to_value(&seen).unwrap(),
            json!({"id": "id-1", "object": "chat.completion.chunk", "created": 1, "model": "chat-demo",
                   "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": null}]}),
        );
    }

    #[test]
    fn chunks_without_news_are_left_out() {
        assert_eq!(frame(Kind::Completion).chunk(ChunkChoice::default()), None);
    }

    #[test]
    fn logprobs_of_chunks_become_one_list() {
        let mut all = Logprobs::default();
        for more in [r#"{"content": [1], "refusal": null}"#, r#"{"content": [2, 3.50]}"#, "[4]"] {
            all.append(serde_json::from_str(more).unwrap());
        }
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(text, r#"{"content":[1,2,3.50],"refusal":null}"#);
    }
}
