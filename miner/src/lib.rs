//! Serves declared capacity of language models to the validators of a subnet.
//!
//! Requests are signed by validators ([`common::btauth`]); who may send them, and which share of the capacity each has,
//! comes from the metagraph. Every answer ends with a receipt that the miner signs.

mod access;
mod answer;
mod api;
mod app;
mod config;
mod generating;
mod ledger;
mod loading;
mod metrics;
mod neuron;
mod slots;

pub use app::{App, BuildError, Parts};
pub use config::{
    AccessConfig, AxonConfig, Config, DEFAULTS, EngineConfig, Limits, PREFIX, TaskConfig,
};

#[cfg(test)]
mod tests;
