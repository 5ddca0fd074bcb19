//! What a task takes of the parameters that a request may have.

use serde::Serialize;

/// The limits of a task that a request is read against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest `max_tokens`; also what a request without one gets.
    pub max_tokens: u32,
    /// The most bytes of prompt text over all messages, each of which counts [`BYTES_PER_MESSAGE`] more.
    ///
    /// [`BYTES_PER_MESSAGE`]: super::BYTES_PER_MESSAGE
    pub max_prompt_bytes: usize,
    pub features: Features,
}

impl Limits {
    /// With every feature.
    pub const fn new(max_tokens: u32, max_prompt_bytes: usize) -> Self {
        Self { max_tokens, max_prompt_bytes, features: Features::ALL }
    }
}

/// What not every engine and model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Features {
    /// `response_format` with JSON: answers constrained by a grammar.
    pub json_schema: bool,
    /// `tool_choice` that makes a call certain: constrained too, so the model need not know of tools.
    pub forced_tools: bool,
    /// `tool_choice` `auto`, and conversations that hold calls and results: the model's chat template shows them.
    pub tools: bool,
}

impl Features {
    pub const ALL: Self = Self { json_schema: true, forced_tools: true, tools: true };
    pub const NONE: Self = Self { json_schema: false, forced_tools: false, tools: false };
}
