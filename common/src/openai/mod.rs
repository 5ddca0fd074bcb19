//! The OpenAI-compatible messages that users, validators and miners exchange.

mod answer;
mod request;

pub use answer::{
    Answer, AnswerChoice, Chunk, ChunkChoice, Delta, ErrorBody, ErrorDetail, Usage,
};
pub use request::{Asked, BadRequest, Kind, Limits, StreamOptions, model_of, parse};
