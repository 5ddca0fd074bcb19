//! A request for text, parsed: what an engine generates from and what a checker re-computes.

mod message;
mod tools;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

pub use message::{CalledFunction, Message, Role, ToolCall, ToolKind};
pub use tools::{Tool, ToolChoice, ToolObject, Tools};

/// What the model continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, rendered with the model's own chat template. Never empty.
    Chat(Vec<Message>),
    /// Raw text. Never empty.
    Text(String),
}

/// How the next token is drawn. The whole answer is a function of this, the prompt and the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Seed of the Gumbel noise.
    pub seed: u64,
    /// In `0.0..=2.0`; 0 takes the most likely token and needs no noise.
    pub temperature: f64,
    /// In `(0.0, 1.0]`: only the most likely tokens that together reach this probability take part.
    pub top_p: f64,
}

/// What is added to logits before the draw. The default adds nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Adjustment {
    /// Taken off once from each token that the answer holds already. In `-2.0..=2.0`.
    pub presence_penalty: f64,
    /// Taken off for each time that the answer holds a token already. In `-2.0..=2.0`.
    pub frequency_penalty: f64,
    /// Token ids, ascending and each once, with what is added to their logits, in `-100.0..=100.0`. At most 300.
    pub bias: Vec<(u32, f64)>,
}

impl Adjustment {
    /// Whether it changes no logit.
    pub fn is_none(&self) -> bool {
        self.presence_penalty == 0.0 && self.frequency_penalty == 0.0 && self.bias.is_empty()
    }
}

/// The form that the whole answer must have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    JsonSchema(JsonSchema),
}

/// A JSON schema that an answer follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JsonSchema {
    /// For people; the model does not see it.
    pub name: String,
    /// An object.
    pub schema: Json,
}

/// JSON exactly as it was written: its bytes decide what is computed from it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// The text.
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Json {}

/// A valid request for text.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    pub prompt: Prompt,
    pub sampling: Sampling,
    pub adjustment: Adjustment,
    /// At least 1.
    pub max_tokens: u32,
    /// Texts that end the answer; they are not part of it. At most 4, none empty.
    pub stop: Vec<String>,
    /// How many alternatives to report beside each token, `0..=20`.
    pub top_logprobs: u8,
    /// [`Format::Text`] where tools are to be called for certain.
    pub format: Format,
    /// The functions that the model may or must call; `None` if it is to write text.
    pub tools: Option<Tools>,
}

impl Generation {
    /// A request for nothing but text.
    pub fn plain(prompt: Prompt, sampling: Sampling, max_tokens: u32) -> Self {
        Self {
            prompt,
            sampling,
            adjustment: Adjustment::default(),
            max_tokens,
            stop: Vec::new(),
            top_logprobs: 0,
            format: Format::Text,
            tools: None,
        }
    }

    /// Whether the answer has to follow a grammar.
    pub fn is_constrained(&self) -> bool {
        self.format != Format::Text || self.tools.as_ref().is_some_and(Tools::are_forced)
    }
}

/// The seed of one of several answers to a request: the request's own for the first, for another one the first 53 bits
/// of SHA-256 over `touchstone/choice/1`, the seed (u64, little endian) and the index (u32, little endian).
pub fn choice_seed(seed: u64, index: u32) -> u64 {
    if index == 0 {
        return seed;
    }
    let mut hash = Sha256::new();
    hash.update(b"touchstone/choice/1");
    hash.update(seed.to_le_bytes());
    hash.update(index.to_le_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    u64::from_be_bytes(first) >> 11
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop text came.
    Stop,
    /// `max_tokens` or the context window was reached.
    Length,
    /// The model calls tools. Only in answers to users: to miners the calls are text.
    ToolCalls,
}

/// As `response_format` has it.
impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Text => map.serialize_entry("type", "text")?,
            Self::JsonObject => map.serialize_entry("type", "json_object")?,
            Self::JsonSchema(schema) => {
                map.serialize_entry("type", "json_schema")?;
                map.serialize_entry("json_schema", schema)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_further_choices_are_fixed_and_fit_every_json_reader() {
        assert_eq!(choice_seed(7, 0), 7);
        let seeds: std::collections::BTreeSet<u64> =
            (0..100).map(|index| choice_seed(u64::MAX, index + 1)).collect();
        assert_eq!(seeds.len(), 100);
        assert!(seeds.iter().all(|seed| *seed < 1 << 53));
        assert_ne!(choice_seed(7, 1), choice_seed(8, 1));
    }

    #[test]
    fn json_keeps_its_bytes() {
        let text = r#"{"b": 1.50, "a":[ ]}"#;
        let json: Json = serde_json::from_str(text).unwrap();
        assert_eq!(json.get(), text);
        assert_eq!(serde_json::to_string(&json).unwrap(), text);
    }
}
