//! The shapes of answers to users, made from a miner's chunks.

use common::generation::{FinishReason, Message, Role};
use common::openai::{Answer, AnswerChoice, Chunk, ChunkChoice, Delta, Kind, Usage};
use serde_json::{Value, json};

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
    /// A miner's chunk as the user gets it: our id and names, and only what was asked for. `None` if nothing is left.
    pub(super) fn chunk(&self, chunk: Chunk) -> Option<Chunk> {
        let choice = chunk.choices.into_iter().next()?;
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
        logprobs: Option<Value>,
    ) -> Answer {
        let (object, message, text) = match self.kind {
            Kind::Chat => {
                ("chat.completion", Some(Message { role: Role::Assistant, content: text }), None)
            }
            Kind::Completion => ("text_completion", None, Some(text)),
        };
        Answer {
            id: self.id.clone(),
            object: object.to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices: vec![AnswerChoice { index: 0, message, text, logprobs, finish_reason }],
            usage,
            receipt: None,
        }
    }
}

/// Adds a chunk's log-probabilities to those of the chunks before. Every list in them is continued.
pub(super) fn append_logprobs(all: &mut Option<Value>, more: Value) {
    let Value::Object(more) = more else { return };
    let all = all.get_or_insert_with(|| json!({}));
    let Value::Object(all) = all else { return };
    for (name, value) in more {
        match (all.get_mut(&name), value) {
            (Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
            (_, value) => {
                all.insert(name, value);
            }
        }
    }
}

/// The first chunk of a chat, which carries the role, for miners that leave it out.
pub(super) fn opening() -> ChunkChoice {
    ChunkChoice {
        delta: Some(Delta { role: Some(Role::Assistant), content: Some(String::new()) }),
        ..ChunkChoice::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind) -> Frame {
        Frame { id: "id-1".into(), kind, model: "chat-demo".into(), created: 1, logprobs: false }
    }

    fn chunk(choices: Vec<ChunkChoice>) -> Chunk {
        Chunk {
            id: "miner's own".into(),
            object: "x".into(),
            created: 9,
            model: "x".into(),
            choices,
            usage: None,
            receipt: None,
        }
    }

    #[test]
    fn a_miners_names_and_unasked_logprobs_do_not_reach_the_user() {
        let delta = Delta { role: None, content: Some("hi".into()) };
        let choice = ChunkChoice {
            delta: Some(delta),
            logprobs: Some(json!({"content": []})),
            ..ChunkChoice::default()
        };
        let seen = frame(Kind::Chat).chunk(chunk(vec![choice])).unwrap();
        assert_eq!(
            serde_json::to_value(&seen).unwrap(),
            json!({"id": "id-1", "object": "chat.completion.chunk", "created": 1, "model": "chat-demo",
                   "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": null}]}),
        );
    }

    #[test]
    fn chunks_without_news_are_left_out() {
        assert_eq!(frame(Kind::Chat).chunk(chunk(vec![])), None);
        assert_eq!(frame(Kind::Completion).chunk(chunk(vec![ChunkChoice::default()])), None);
    }

    #[test]
    fn logprobs_of_chunks_become_one_list() {
        let mut all = None;
        append_logprobs(&mut all, json!({"content": [1]}));
        append_logprobs(&mut all, json!({"content": [2, 3]}));
        assert_eq!(all, Some(json!({"content": [1, 2, 3]})));
    }
}
