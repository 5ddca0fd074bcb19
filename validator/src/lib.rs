//! Queries miners, has their answers checked, scores them, sets weights on chain, and opens the subnet to the world.
//!
//! Scoring (`scoring`) and planning (`plan`) are pure; everything else observes or acts.

mod accounts;
mod api;
mod app;
mod ask;
mod checking;
mod clock;
mod config;
mod cycle;
mod evidence;
pub(crate) mod exam;
mod judge;
mod metrics;
mod network;
mod observe;
pub mod plan;
mod routing;
pub mod scoring;
mod sse;
pub mod status;
mod store;
pub(crate) mod tally;
mod weights;

pub use app::{App, Handle};
pub use config::{Config, DEFAULTS};
pub use store::WeightsOnChain;
