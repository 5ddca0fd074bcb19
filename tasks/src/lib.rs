//! The task catalogue: kinds, limits, weightings, work units, and the synthetic requests that tasks are probed with.

mod catalogue;
pub mod edit;
mod reader;
pub mod synthetic;
pub mod wire;

pub use catalogue::{
    BadCatalogue, Catalogue, Checking, Dtype, Engine, ModelSource, Prompts, Span, Task, TaskLimits,
    Timeouts,
};
pub use reader::Problem;
