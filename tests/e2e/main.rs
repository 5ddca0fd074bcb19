//! The real services against each other and against golden vectors, in one binary: each binary that links mistral.rs
//! costs half a minute and 100 MB.

mod chain;
mod checking;
mod conformance_chain;
mod conformance_common;
mod conformance_scoring;
