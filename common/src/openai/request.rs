//! What users and validators ask for, and its parsing into a [`Generation`].
//!
//! Requests are read strictly: what cannot be honoured is refused by name, never silently changed.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::TaskId;
use crate::generation::{Generation, Message, Prompt, Sampling};

/// The most messages of one conversation.
pub const MAX_MESSAGES: usize = 256;
/// What a message counts beside its text in [`Limits::max_prompt_bytes`]: chat templates wrap each one in a few tokens.
pub const BYTES_PER_MESSAGE: usize = 16;

/// The limits of a task that a request is read against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest `max_tokens`; also what a request without one gets.
    pub max_tokens: u32,
    /// The most bytes of prompt text over all messages, each of which counts [`BYTES_PER_MESSAGE`] more.
    pub max_prompt_bytes: usize,
}

/// Why a request is refused. Shown to the caller as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    pub message: String,
    /// The parameter that is wrong, if it is one.
    pub param: Option<String>,
}

impl BadRequest {
    /// A refusal that names the parameter.
    pub fn of(param: &str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param.to_owned()) }
    }
}

/// What both request kinds share.
struct Parameters {
    temperature: Option<f64>,
    top_p: Option<f64>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    stop: Option<Stop>,
    seed: Option<u64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// A flag in chat requests, a number in completion requests.
    logprobs: Option<Value>,
    top_logprobs: Option<u8>,
    /// Everything else, so that it can be refused by name.
    other: BTreeMap<String, Value>,
}

/// One stop text or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Several(Vec<String>),
}

/// How a stream shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
}

/// Which of the two paths a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Chat,
    Completion,
}

impl Kind {
    /// The path of this kind, the same on miners and validators.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
        }
    }
}

/// A request of either kind, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub task: TaskId,
    /// `sampling.seed` is 0 if the request has none: see [`Asked::has_seed`].
    pub generation: Generation,
    pub has_seed: bool,
    pub stream: bool,
    pub include_usage: bool,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
}

/// The task a body asks for, read before its limits are known.
///
/// # Errors
/// If the body is no JSON object with a `model` that is a task id.
pub fn model_of(body: &[u8]) -> Result<TaskId, BadRequest> {
    #[derive(Deserialize)]
    struct Model {
        model: String,
    }
    let Model { model } = parse_json(body)?;
    model.parse().map_err(|_| {
        BadRequest::of("model", format!("the model `{}` is not served here", short(&model)))
    })
}

/// Reads a request.
///
/// # Errors
/// A [`BadRequest`] that names the parameter: wrong JSON, wrong types, values out of range, unknown parameters.
pub fn parse(kind: Kind, body: &[u8], limits: Limits) -> Result<Asked, BadRequest> {
    let mut fields = Fields(parse_json(body)?);
    let model: String = fields.required("model")?;
    let prompt = match kind {
        Kind::Chat => {
            let messages: Vec<Message> = fields.required("messages")?;
            if messages.is_empty() {
                return Err(BadRequest::of(
                    "messages",
                    "`messages` must hold at least one message",
                ));
            }
            if messages.len() > MAX_MESSAGES {
                return Err(BadRequest::of(
                    "messages",
                    format!(
                        "`messages` may hold at most {MAX_MESSAGES} messages, got {}",
                        messages.len()
                    ),
                ));
            }
            Prompt::Chat(messages)
        }
        Kind::Completion => {
            let prompt: String = fields.required("prompt")?;
            if prompt.is_empty() {
                return Err(BadRequest::of("prompt", "`prompt` must not be empty"));
            }
            Prompt::Text(prompt)
        }
    };
    let parameters = fields.parameters()?;
    let task = model.parse().map_err(|_| {
        BadRequest::of("model", format!("the model `{}` is not served here", short(&model)))
    })?;
    let prompt_bytes = match &prompt {
        Prompt::Chat(messages) => {
            messages.iter().map(|message| message.content.len() + BYTES_PER_MESSAGE).sum()
        }
        Prompt::Text(text) => text.len(),
    };
    if prompt_bytes > limits.max_prompt_bytes {
        return Err(BadRequest::of(
            if kind == Kind::Chat { "messages" } else { "prompt" },
            format!(
                "the prompt counts {prompt_bytes} bytes, this model takes at most {}",
                limits.max_prompt_bytes
            ),
        ));
    }
    parameters.read(task, prompt, kind, limits)
}

/// A request's fields, taken one by one.
///
/// Not by a derived `Deserialize` with a flattened rest: once anything in the program turns on arbitrary precision in
/// `serde_json`, as Substrate does, numbers no longer pass through a flattened struct. This also names what is wrong.
struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, BadRequest> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map_err(|error| BadRequest::of(name, format!("`{name}` is not valid: {error}"))),
        }
    }

    fn required<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, BadRequest> {
        self.optional(name)?.ok_or_else(|| BadRequest::of(name, format!("`{name}` is missing")))
    }

    fn parameters(mut self) -> Result<Parameters, BadRequest> {
        Ok(Parameters {
            temperature: self.optional("temperature")?,
            top_p: self.optional("top_p")?,
            max_tokens: self.optional("max_tokens")?,
            max_completion_tokens: self.optional("max_completion_tokens")?,
            stop: self.optional("stop")?,
            seed: self.optional("seed")?,
            stream: self.optional("stream")?,
            stream_options: self.optional("stream_options")?,
            logprobs: self.optional("logprobs")?,
            top_logprobs: self.optional("top_logprobs")?,
            other: self.0,
        })
    }
}

impl Parameters {
    fn read(
        self,
        task: TaskId,
        prompt: Prompt,
        kind: Kind,
        limits: Limits,
    ) -> Result<Asked, BadRequest> {
        self.refuse_unknown()?;
        let temperature = self.temperature.unwrap_or(1.0);
        if !(0.0..=2.0).contains(&temperature) {
            return Err(BadRequest::of(
                "temperature",
                format!("`temperature` must be between 0 and 2, got {temperature}"),
            ));
        }
        let top_p = self.top_p.unwrap_or(1.0);
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(BadRequest::of(
                "top_p",
                format!("`top_p` must be above 0 and at most 1, got {top_p}"),
            ));
        }
        let max_tokens = match (self.max_completion_tokens, self.max_tokens) {
            (Some(_), Some(_)) => {
                return Err(BadRequest::of(
                    "max_tokens",
                    "give `max_tokens` or `max_completion_tokens`, not both",
                ));
            }
            (Some(max), None) | (None, Some(max)) => max,
            (None, None) => limits.max_tokens,
        };
        if max_tokens == 0 || max_tokens > limits.max_tokens {
            return Err(BadRequest::of(
                if self.max_completion_tokens.is_some() {
                    "max_completion_tokens"
                } else {
                    "max_tokens"
                },
                format!(
                    "`max_tokens` must be between 1 and {}, got {max_tokens}",
                    limits.max_tokens
                ),
            ));
        }
        let (logprobs, top_logprobs) = self.read_logprobs(kind)?;
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(BadRequest::of("stream_options", "`stream_options` needs `stream`: true"));
        }
        Ok(Asked {
            task,
            generation: Generation {
                prompt,
                sampling: Sampling { seed: self.seed.unwrap_or(0), temperature, top_p },
                max_tokens,
                stop: read_stop(self.stop)?,
                top_logprobs,
            },
            has_seed: self.seed.is_some(),
            stream,
            include_usage: self.stream_options.is_some_and(|options| options.include_usage),
            logprobs,
        })
    }

    /// Parameters that ask for what happens anyway are let through, `user` and `metadata` carry no wish.
    fn refuse_unknown(&self) -> Result<(), BadRequest> {
        for (name, value) in &self.other {
            let harmless = match name.as_str() {
                "user" | "metadata" => true,
                "n" => value.as_u64() == Some(1),
                "presence_penalty" | "frequency_penalty" => value.as_f64() == Some(0.0),
                _ => value.is_null(),
            };
            if !harmless {
                return Err(BadRequest::of(
                    name,
                    format!("the parameter `{}` is not supported", short(name)),
                ));
            }
        }
        Ok(())
    }

    fn read_logprobs(&self, kind: Kind) -> Result<(bool, u8), BadRequest> {
        let top = match kind {
            Kind::Chat => {
                let wanted = match &self.logprobs {
                    None | Some(Value::Null) => false,
                    Some(Value::Bool(wanted)) => *wanted,
                    Some(_) => {
                        return Err(BadRequest::of("logprobs", "`logprobs` must be true or false"));
                    }
                };
                if self.top_logprobs.is_some() && !wanted {
                    return Err(BadRequest::of(
                        "top_logprobs",
                        "`top_logprobs` needs `logprobs`: true",
                    ));
                }
                wanted.then(|| self.top_logprobs.unwrap_or(0))
            }
            Kind::Completion => match &self.logprobs {
                None | Some(Value::Null) => None,
                Some(number) => {
                    match number.as_u64().and_then(|number| u8::try_from(number).ok()) {
                        Some(number) => Some(number),
                        None => {
                            return Err(BadRequest::of(
                                "logprobs",
                                "`logprobs` must be a number from 0 to 20",
                            ));
                        }
                    }
                }
            },
        };
        match top {
            Some(top) if top > 20 => Err(BadRequest::of(
                if kind == Kind::Chat { "top_logprobs" } else { "logprobs" },
                format!("at most 20 alternatives can be reported, got {top}"),
            )),
            Some(top) => Ok((true, top)),
            None => Ok((false, 0)),
        }
    }
}

fn read_stop(stop: Option<Stop>) -> Result<Vec<String>, BadRequest> {
    let stop = match stop {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Several(texts)) => texts,
    };
    if stop.len() > 4 {
        return Err(BadRequest::of("stop", format!("at most 4 stop texts, got {}", stop.len())));
    }
    if stop.iter().any(|text| text.is_empty() || text.len() > 256) {
        return Err(BadRequest::of("stop", "a stop text must have 1 to 256 bytes"));
    }
    Ok(stop)
}

fn parse_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, BadRequest> {
    serde_json::from_slice(body).map_err(|error| BadRequest {
        message: format!("the body is not a valid request: {error}"),
        param: None,
    })
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const LIMITS: Limits = Limits { max_tokens: 256, max_prompt_bytes: 1000 };

    fn chat(extra: Value) -> Result<Asked, BadRequest> {
        let mut body =
            json!({"model": "chat-demo", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        parse(Kind::Chat, body.to_string().as_bytes(), LIMITS)
    }

    #[test]
    fn a_plain_request_gets_the_defaults() {
        let asked = chat(json!({})).unwrap();
        assert_eq!(asked.generation.max_tokens, 256);
        assert_eq!(asked.generation.sampling, Sampling { seed: 0, temperature: 1.0, top_p: 1.0 });
        assert!(!asked.stream && !asked.has_seed && !asked.logprobs);
    }

    #[test]
    fn each_wrong_parameter_is_refused_by_its_name() {
        let cases = [
            ("temperature", json!({"temperature": -0.1})),
            ("temperature", json!({"temperature": 2.1})),
            ("top_p", json!({"top_p": 0})),
            ("max_tokens", json!({"max_tokens": 0})),
            ("max_tokens", json!({"max_tokens": 257})),
            ("max_completion_tokens", json!({"max_completion_tokens": 257})),
            ("max_tokens", json!({"max_completion_tokens": 1, "max_tokens": 1})),
            ("stop", json!({"stop": ["a", "b", "c", "d", "e"]})),
            ("stop", json!({"stop": ""})),
            ("logprobs", json!({"logprobs": 3})),
            ("top_logprobs", json!({"top_logprobs": 3})),
            ("top_logprobs", json!({"logprobs": true, "top_logprobs": 21})),
            ("stream_options", json!({"stream_options": {"include_usage": true}})),
            ("tools", json!({"tools": []})),
            ("n", json!({"n": 2})),
            ("messages", json!({"messages": []})),
            ("messages", json!({"messages": [{"role": "user", "content": "x".repeat(985)}]})),
            ("messages", json!({"messages": vec![json!({"role": "user", "content": ""}); 63]})),
            ("model", json!({"model": "No Such"})),
        ];
        for (param, extra) in cases {
            let error = chat(extra.clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{extra}: {error}");
        }
    }

    #[test]
    fn a_conversation_has_a_bounded_number_of_messages() {
        let limits = Limits { max_prompt_bytes: 1 << 20, ..LIMITS };
        let parsed = |count: usize| {
            let messages = vec![json!({"role": "user", "content": ""}); count];
            let body = json!({"model": "chat-demo", "messages": messages}).to_string();
            parse(Kind::Chat, body.as_bytes(), limits).map_err(|error| error.param)
        };
        assert!(parsed(MAX_MESSAGES).is_ok());
        assert_eq!(parsed(MAX_MESSAGES + 1), Err(Some("messages".to_owned())));
    }

    #[test]
    fn parameters_that_change_nothing_are_let_through() {
        assert!(chat(json!({"n": 1, "presence_penalty": 0, "user": "me", "tools": null})).is_ok());
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(Kind::Chat, &body, LIMITS);
            let _ = parse(Kind::Completion, &body, LIMITS);
        }
    }
}
