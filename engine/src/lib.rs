//! Inference engines: streaming generation with seeded sampling, and the reference pass that checks are made of.
//!
//! The only crate that names mistral.rs. [`Embedded`] runs a model in this process, [`Remote`] speaks to an
//! OpenAI-compatible server such as vLLM or `mistralrs serve`.

pub mod adjust;
mod api;
mod drawing;
mod embedded;
mod folder;
mod grammar;
mod native;
pub mod noise;
mod reader;
mod remote;
pub mod sampler;
mod scoring;
mod template;
mod text;

pub use api::*;
pub use embedded::{Embedded, EmbeddedConfig, NumberFormat, Progress, Purpose, Quantisation};
pub use native::{Native, NativeConfig};
pub use remote::{ApiKey, Remote, RemoteConfig};
