//! Makes the small language models that the repository ships: text from a grammar, a tokenizer, a Llama and its training.

pub mod corpus;
pub mod evaluate;
pub mod folder;
pub mod grammar;
pub mod model;
pub mod ops;
pub mod tokenizer;
pub mod train;
