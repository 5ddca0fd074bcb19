//! Answers in OpenAI's shapes, streamed and whole.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use common::generation::{Message, Role};
use common::openai::{Answer, AnswerChoice, Asked, Chunk, ChunkChoice, Delta, Kind};
use engine::{Alternative, Token};
use futures::stream;
use serde::Serialize;
use serde_json::{Map, Value, json};
use service::http::ApiError;
use tokio::sync::mpsc;

use crate::generating::{Done, Step};

/// What all events of one answer share.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    /// Unix seconds.
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) include_usage: bool,
    pub(crate) logprobs: bool,
}

impl Shape {
    /// The shape of the answer to a request with this id.
    pub(crate) fn new(asked: &Asked, kind: Kind, request_id: &str, created: u64) -> Self {
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        Self {
            kind,
            id: format!("{prefix}-{}", request_id.trim_start_matches("req-")),
            created,
            model: asked.task.to_string(),
            include_usage: asked.include_usage,
            logprobs: asked.logprobs,
        }
    }

    /// Streams the steps as server-sent events. The last before `[DONE]` carries the receipt.
    pub(crate) fn stream(self, steps: mpsc::Receiver<Step>) -> Response {
        let events = stream::unfold(Streaming::new(self, steps), Streaming::next);
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            // Proxies such as nginx must not collect the events.
            (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        ];
        (headers, Body::from_stream(events)).into_response()
    }

    /// Collects the steps into one answer.
    pub(crate) async fn whole(self, mut steps: mpsc::Receiver<Step>) -> Result<Answer, ApiError> {
        let mut text = String::new();
        let mut tokens = Vec::new();
        let Done { finish_reason, usage, receipt } = loop {
            match steps.recv().await {
                Some(Step::Piece(piece)) => {
                    text.push_str(&piece.text);
                    tokens.extend(piece.tokens);
                }
                Some(Step::Done(done)) => break *done,
                Some(Step::Failed(why)) => return Err(failed(why)),
                None => return Err(ApiError::internal()),
            }
        };
        let logprobs = self.logprobs.then(|| self.logprobs_of(&tokens, 0));
        let (message, text, object) = match self.kind {
            Kind::Chat => (Some(Message::new(Role::Assistant, text)), None, "chat.completion"),
            Kind::Completion => (None, Some(text), "text_completion"),
        };
        Ok(Answer {
            id: self.id,
            object: object.to_owned(),
            created: self.created,
            model: self.model,
            choices: vec![AnswerChoice { index: 0, message, text, logprobs, finish_reason }],
            usage,
            receipt: Some(receipt),
        })
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> Chunk {
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
            usage: None,
            receipt: None,
        }
    }

    fn choice(&self, text: Option<String>) -> ChunkChoice {
        match self.kind {
            Kind::Chat => ChunkChoice {
                delta: Some(Delta { content: text, ..Delta::default() }),
                ..ChunkChoice::default()
            },
            Kind::Completion => {
                ChunkChoice { text: Some(text.unwrap_or_default()), ..ChunkChoice::default() }
            }
        }
    }

    /// `offset` is where the tokens' text starts, in characters.
    fn logprobs_of(&self, tokens: &[Token], offset: usize) -> Value {
        match self.kind {
            Kind::Chat => json!({"content": tokens.iter().map(chat_logprob).collect::<Vec<_>>()}),
            Kind::Completion => completion_logprobs(tokens, offset),
        }
    }
}

fn failed(why: &'static str) -> ApiError {
    ApiError { message: why.to_owned(), ..ApiError::internal() }
}

fn chat_logprob(token: &Token) -> Value {
    let top: Vec<_> = token
        .top
        .iter()
        .map(|Alternative { text, logprob, .. }| one_logprob(text, *logprob))
        .collect();
    let mut entry = one_logprob(&token.text, token.logprob);
    entry.insert("top_logprobs".to_owned(), top.into());
    entry.into()
}

fn one_logprob(text: &str, logprob: f32) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("token".to_owned(), text.into());
    entry.insert("logprob".to_owned(), number(logprob));
    entry.insert("bytes".to_owned(), text.as_bytes().into());
    entry
}

fn completion_logprobs(tokens: &[Token], mut offset: usize) -> Value {
    let offsets: Vec<usize> = tokens
        .iter()
        .map(|token| {
            let start = offset;
            offset += token.text.chars().count();
            start
        })
        .collect();
    let top = |token: &Token| -> Map<String, Value> {
        token.top.iter().map(|other| (other.text.clone(), number(other.logprob))).collect()
    };
    json!({
        "tokens": tokens.iter().map(|token| token.text.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| number(token.logprob)).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

/// JSON has no infinities.
fn number(logprob: f32) -> Value {
    Value::from(if logprob.is_finite() { logprob } else { -9999.0 })
}

/// The state of one event stream.
struct Streaming {
    shape: Shape,
    steps: mpsc::Receiver<Step>,
    begun: bool,
    ended: bool,
    /// Characters of the tokens so far.
    offset: usize,
}

impl Streaming {
    fn new(shape: Shape, steps: mpsc::Receiver<Step>) -> Self {
        Self { shape, steps, begun: false, ended: false, offset: 0 }
    }

    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Self)> {
        let mut out = Vec::new();
        if !self.begun {
            self.begun = true;
            if self.shape.kind == Kind::Chat {
                let delta = Delta {
                    role: Some(Role::Assistant),
                    content: Some(String::new()),
                    ..Delta::default()
                };
                let choice = ChunkChoice { delta: Some(delta), ..ChunkChoice::default() };
                event(&mut out, &self.shape.chunk(vec![choice]));
            }
        }
        while out.is_empty() && !self.ended {
            let step = self.steps.recv().await;
            self.write(&mut out, step);
        }
        if out.is_empty() { None } else { Some((Ok(out.into()), self)) }
    }

    fn write(&mut self, out: &mut Vec<u8>, step: Option<Step>) {
        let shape = &self.shape;
        match step {
            Some(Step::Piece(piece)) => {
                if piece.text.is_empty() && (!shape.logprobs || piece.tokens.is_empty()) {
                    return;
                }
                let mut choice = shape.choice(Some(piece.text));
                if shape.logprobs {
                    choice.logprobs = Some(shape.logprobs_of(&piece.tokens, self.offset));
                }
                self.offset +=
                    piece.tokens.iter().map(|token| token.text.chars().count()).sum::<usize>();
                event(out, &shape.chunk(vec![choice]));
            }
            Some(Step::Done(done)) => {
                let Done { finish_reason, usage, receipt } = *done;
                let mut choice = shape.choice(None);
                choice.finish_reason = Some(finish_reason);
                event(out, &shape.chunk(vec![choice]));
                if shape.include_usage {
                    event(out, &Chunk { usage: Some(usage), ..shape.chunk(vec![]) });
                }
                event(out, &Chunk { receipt: Some(receipt), ..shape.chunk(vec![]) });
                out.extend_from_slice(b"data: [DONE]\n\n");
                self.ended = true;
            }
            Some(Step::Failed(why)) => {
                event(out, &failed(why).body());
                self.ended = true;
            }
            // The task that reads the engine died.
            None => {
                event(out, &ApiError::internal().body());
                self.ended = true;
            }
        }
    }
}

fn event(out: &mut Vec<u8>, content: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    // Strings, finite numbers and lists: there is nothing in them that JSON cannot hold, and a vector takes all bytes.
    let _ = serde_json::to_writer(&mut *out, content);
    out.extend_from_slice(b"\n\n");
}
