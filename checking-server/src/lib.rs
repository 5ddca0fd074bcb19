//! Re-computes the answers of miners with its own copy of each model, and says how good they are and why.
//!
//! `POST /v1/checks` takes a batch of answers with their requests and receipts. Each is examined for its form, waits in
//! its model's queue for one reference prefill, and is [judged](judge). What could not be checked is said to be so, and
//! never held against the miner.

mod allowance;
mod api;
mod app;
pub mod benchmark;
pub mod calibration;
mod checker;
mod config;
mod duplicates;
pub mod judge;
mod metrics;
mod queue;
mod traffic;
pub mod verify;

pub use app::{App, StartError, StoppedEarly, Wanted, wanted};
pub use config::{Access, AccessToken, Config, Settings};

#[cfg(test)]
mod tests;
