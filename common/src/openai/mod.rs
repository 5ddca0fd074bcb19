//! The OpenAI-compatible messages that users, validators and miners exchange.

mod answer;
mod calls;
mod fields;
mod limits;
mod request;

pub use answer::{Answer, AnswerChoice, Chunk, ChunkChoice, Delta, ErrorBody, ErrorDetail, Usage};
pub use calls::{CallReader, FunctionDelta, Part, ToolCallDelta};
pub use fields::StreamOptions;
pub use limits::{Features, Limits};
pub use request::{
    Asked, BYTES_PER_MESSAGE, BadRequest, Kind, MAX_BIAS, MAX_CHOICES, MAX_MESSAGES,
    MAX_SCHEMA_BYTES, MAX_TOOLS, model_of, parse, parse_with, prompt_bytes,
};
