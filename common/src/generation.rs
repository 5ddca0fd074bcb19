//! A request for text, parsed: what an engine generates from and what a checker re-computes.

use serde::{Deserialize, Serialize};

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// The name chat templates use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

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

/// A valid request for text.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    pub prompt: Prompt,
    pub sampling: Sampling,
    /// At least 1.
    pub max_tokens: u32,
    /// Texts that end the answer; they are not part of it. At most 4, none empty.
    pub stop: Vec<String>,
    /// How many alternatives to report beside each token, `0..=20`.
    pub top_logprobs: u8,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop text came.
    Stop,
    /// `max_tokens` or the context window was reached.
    Length,
}
