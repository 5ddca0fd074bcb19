//! A local Bittensor chain for development and tests: a FRAME runtime compiled natively, with the pallets, calls,
//! storage, errors and transaction extensions of Bittensor's spec 365, served over Substrate JSON-RPC.

extern crate alloc;

mod app;
mod metrics;
pub mod node;
mod rpc;
#[expect(
    missing_debug_implementations,
    clippy::too_many_arguments,
    reason = "FRAME's macros make types without and functions with many"
)]
pub mod runtime;
pub mod setup;

pub use app::{App, Config, Controls, DevnetError};

#[cfg(test)]
mod tests;
