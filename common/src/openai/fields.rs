//! A request's JSON, read in one pass into typed fields.
//!
//! Not by a derived `Deserialize` with a flattened rest: once anything in the program turns on arbitrary precision in
//! `serde_json`, as Substrate does, numbers no longer pass through a flattened struct. Nor by way of a `Value`: this is
//! the hot path of the API. This also names the parameter that is wrong.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::request::{BadRequest, Kind};
use crate::generation::{Json, Message};

/// What a body holds. `None` stands for fields that are left out or null.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) model: Option<Cow<'a, str>>,
    pub(super) messages: Option<Vec<Message>>,
    pub(super) prompt: Option<String>,
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) max_tokens: Option<u32>,
    pub(super) max_completion_tokens: Option<u32>,
    pub(super) stop: Option<Stop>,
    pub(super) seed: Option<Seed>,
    pub(super) n: Option<u32>,
    pub(super) presence_penalty: Option<f64>,
    pub(super) frequency_penalty: Option<f64>,
    pub(super) logit_bias: Option<BTreeMap<u32, f64>>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    /// `logprobs` of chat requests.
    pub(super) with_logprobs: Option<bool>,
    /// `top_logprobs` of chat requests, `logprobs` of completion requests.
    pub(super) top_logprobs: Option<u32>,
    pub(super) response_format: Option<ResponseFormat<'a>>,
    pub(super) tools: Option<Vec<WrittenTool<'a>>>,
    pub(super) tool_choice: Option<WrittenChoice>,
    pub(super) parallel_tool_calls: Option<bool>,
    /// The first parameter that is not known and not null.
    pub(super) unknown: Option<String>,
}

/// How a stream shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
}

/// `response_format`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResponseFormat<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    pub(super) json_schema: Option<WrittenSchema>,
}

/// `response_format.json_schema`. The name and the description are for people, and every schema is followed strictly.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenSchema {
    pub(super) name: String,
    pub(super) schema: Option<Json>,
    #[serde(rename = "description")]
    _description: Option<String>,
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

/// One of `tools`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenTool<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    pub(super) function: WrittenFunction,
}

/// `function` of a tool.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenFunction {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) parameters: Option<Json>,
    pub(super) strict: Option<bool>,
}

/// Any 64 bits, written with or without sign.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed(pub(super) u64);

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bits;
        impl Visitor<'_> for Bits {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of 64 bits")
            }

            fn visit_u64<E>(self, bits: u64) -> Result<u64, E> {
                Ok(bits)
            }

            fn visit_i64<E>(self, bits: i64) -> Result<u64, E> {
                Ok(bits.cast_unsigned())
            }
        }
        deserializer.deserialize_u64(Bits).map(Self)
    }
}

/// One stop text or several.
#[derive(Debug)]
pub(super) struct Stop(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Vec<String>, E> {
                Ok(vec![text.to_owned()])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(texts)
            }
        }
        deserializer.deserialize_any(Texts).map(Self)
    }
}

/// `tool_choice`.
#[derive(Debug)]
pub(super) enum WrittenChoice {
    Mode(String),
    Function(String),
}

impl<'de> Deserialize<'de> for WrittenChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Function {
            name: String,
        }
        struct Choice;
        impl<'de> Visitor<'de> for Choice {
            type Value = WrittenChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    r#""auto", "none", "required" or {"type": "function", "function": {"name": …}}"#,
                )
            }

            fn visit_str<E>(self, mode: &str) -> Result<WrittenChoice, E> {
                Ok(WrittenChoice::Mode(mode.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WrittenChoice, A::Error> {
                let (mut kind, mut function): (Option<String>, Option<Function>) = (None, None);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "type" => kind = Some(map.next_value()?),
                        "function" => function = Some(map.next_value()?),
                        other => return Err(A::Error::unknown_field(other, &["type", "function"])),
                    }
                }
                match (kind.as_deref(), function) {
                    (Some("function"), Some(Function { name })) => {
                        Ok(WrittenChoice::Function(name))
                    }
                    (Some(other), _) if other != "function" => {
                        Err(A::Error::unknown_variant(other, &["function"]))
                    }
                    (None, _) => Err(A::Error::missing_field("type")),
                    (Some(_), _) => Err(A::Error::missing_field("function")),
                }
            }
        }
        deserializer.deserialize_any(Choice)
    }
}

/// Reads a body.
///
/// # Errors
/// If it is no JSON object, holds a parameter twice, or one of the wrong type, which is named.
pub(super) fn read(kind: Kind, body: &[u8]) -> Result<Fields<'_>, BadRequest> {
    let mut reader = Reader { kind, at: None };
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = (&mut reader).deserialize(&mut json).and_then(|fields| json.end().map(|()| fields));
    read.map_err(|error| match reader.at.filter(|_| !error.is_eof()) {
        Some(name) => BadRequest::of(name, format!("`{name}` is not valid: {error}")),
        None => {
            BadRequest { message: format!("the body is not a valid request: {error}"), param: None }
        }
    })
}

struct Reader {
    kind: Kind,
    /// The parameter that is being read.
    at: Option<&'static str>,
}

/// Without a copy where there is no escape.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for &mut Reader {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Reader {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        let chat = self.kind == Kind::Chat;
        while let Some(Text(name)) = map.next_key()? {
            let (map, to) = (&mut map, &mut fields);
            match &*name {
                "model" => {
                    let mut model: Option<Text<'de>> = to.model.take().map(Text);
                    self.take(map, "model", &mut model)?;
                    to.model = model.map(|Text(model)| model);
                }
                "messages" if chat => self.take(map, "messages", &mut to.messages)?,
                "prompt" if !chat => self.take(map, "prompt", &mut to.prompt)?,
                "temperature" => self.take(map, "temperature", &mut to.temperature)?,
                "top_p" => self.take(map, "top_p", &mut to.top_p)?,
                "max_tokens" => self.take(map, "max_tokens", &mut to.max_tokens)?,
                "max_completion_tokens" => {
                    self.take(map, "max_completion_tokens", &mut to.max_completion_tokens)?;
                }
                "stop" => self.take(map, "stop", &mut to.stop)?,
                "seed" => self.take(map, "seed", &mut to.seed)?,
                "n" => self.take(map, "n", &mut to.n)?,
                "presence_penalty" => {
                    self.take(map, "presence_penalty", &mut to.presence_penalty)?;
                }
                "frequency_penalty" => {
                    self.take(map, "frequency_penalty", &mut to.frequency_penalty)?;
                }
                "logit_bias" => self.take(map, "logit_bias", &mut to.logit_bias)?,
                "stream" => self.take(map, "stream", &mut to.stream)?,
                "stream_options" => self.take(map, "stream_options", &mut to.stream_options)?,
                "logprobs" if chat => self.take(map, "logprobs", &mut to.with_logprobs)?,
                "logprobs" => self.take(map, "logprobs", &mut to.top_logprobs)?,
                "top_logprobs" if chat => self.take(map, "top_logprobs", &mut to.top_logprobs)?,
                "response_format" if chat => {
                    self.take(map, "response_format", &mut to.response_format)?;
                }
                "tools" if chat => self.take(map, "tools", &mut to.tools)?,
                "tool_choice" if chat => self.take(map, "tool_choice", &mut to.tool_choice)?,
                "parallel_tool_calls" if chat => {
                    self.take(map, "parallel_tool_calls", &mut to.parallel_tool_calls)?;
                }
                // They carry no wish.
                "user" => self.take(map, "user", &mut None::<Text<'de>>)?,
                "metadata" => self.take(map, "metadata", &mut None::<IgnoredAny>)?,
                // Only the values that ask for what happens anyway.
                "echo" if !chat => self.without(map, "echo", |echo: bool| !echo)?,
                "best_of" if !chat => self.without(map, "best_of", |best_of: u32| best_of == 1)?,
                "suffix" if !chat => {
                    self.without(map, "suffix", |Text(suffix): Text<'de>| suffix.is_empty())?;
                }
                "store" => self.without(map, "store", |store: bool| !store)?,
                "service_tier" => {
                    self.without(map, "service_tier", |Text(tier): Text<'de>| tier == "auto")?;
                }
                _ => {
                    if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                        to.unknown.get_or_insert_with(|| name.into_owned());
                    }
                }
            }
        }
        Ok(fields)
    }
}

impl Reader {
    fn take<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
        &mut self,
        map: &mut A,
        name: &'static str,
        slot: &mut Option<T>,
    ) -> Result<(), A::Error> {
        self.at = Some(name);
        if slot.is_some() {
            return Err(A::Error::custom("it is given twice"));
        }
        *slot = map.next_value()?;
        self.at = None;
        Ok(())
    }

    fn without<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
        &mut self,
        map: &mut A,
        name: &'static str,
        has_no_effect: impl FnOnce(T) -> bool,
    ) -> Result<(), A::Error> {
        let mut value = None;
        self.take(map, name, &mut value)?;
        if value.is_none_or(has_no_effect) {
            return Ok(());
        }
        self.at = Some(name);
        Err(A::Error::custom("this value cannot be honoured, leave the parameter out"))
    }
}
