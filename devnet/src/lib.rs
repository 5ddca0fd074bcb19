//! A local Bittensor chain for development and tests: a FRAME runtime compiled natively, with the pallets, calls,
//! storage, errors and transaction extensions of Bittensor's spec 365 or 425, served over Substrate JSON-RPC.

#![allow(
    clippy::duplicate_mod,
    reason = "the runtime's sources are compiled once for each spec, so that its metadata has that spec's layouts"
)]

extern crate alloc;

mod app;
mod metrics;
pub mod node;
mod rpc;
pub mod setup;
pub mod specs;

pub use app::{App, Beacon, Config, Controls, DevnetError};
/// The runtime of spec 365. Calls are the same bytes in both.
pub use specs::v365::runtime;
pub use specs::{Fees, Spec};

#[cfg(test)]
mod tests;
