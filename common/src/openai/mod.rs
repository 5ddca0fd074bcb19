//! The OpenAI-compatible messages that users, validators and miners exchange.

mod answer;
mod request;

pub use answer::{Answer, AnswerChoice, Chunk, ChunkChoice, Delta, ErrorBody, ErrorDetail, Usage};
pub use request::{
    Asked, BYTES_PER_MESSAGE, BadRequest, Kind, Limits, MAX_MESSAGES, StreamOptions, model_of,
    parse,
};
