//! The real services against each other and against golden vectors, in one binary: each binary that links mistral.rs
//! costs half a minute and 100 MB.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it found, and stops where it cannot go on"
)]

mod beside;
mod chain;
mod chain_faults;
mod checking;
mod commit_reveal;
mod conformance_chain;
mod conformance_common;
mod conformance_scoring;
mod explain;
mod failover;
mod faults;
mod indistinguishable;
mod localnet;
mod outages;
mod submit;
mod support;
mod weightings;
mod weights;
