//! A whole subnet on one machine: chain, miners, checking server, validator, all in one process on loopback ports.
//!
//! Nothing here is a stand-in: the services are the ones that run in production, built by the same functions, and they
//! meet over HTTP and the chain only.

mod models;
mod report;
mod screen;
mod setup;
mod stage;

pub use report::{MinerReport, Report};
pub use screen::Screen;
pub use stage::{Cheat, Localnet, Options};
