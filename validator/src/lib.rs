//! Queries miners, has their answers checked, scores them, sets weights on chain, and opens the subnet to the world.
//!
//! Scoring (`scoring`) and planning (`plan`) are pure; everything else observes or acts.

mod accounts;
mod api;
mod app;
mod ask;
mod changes;
mod checking;
mod clock;
mod config;
mod cycle;
pub mod evidence;
pub(crate) mod exam;
pub mod explain;
pub mod flagged;
mod follow;
pub mod gateway;
mod judge;
pub mod keys;
mod lag;
pub mod ledger;
mod metrics;
mod network;
mod observe;
pub mod plan;
mod routing;
pub mod scoring;
pub mod simulate;
mod sse;
pub mod status;
pub mod store;
pub mod submitted;
mod suspicion;
pub mod tally;
pub mod tune;
pub mod weightings;
mod weights;
mod writer;

pub use app::{ApiApp, App, Handle};
pub use config::{Config, DEFAULTS, Roles};
pub use store::WeightsOnChain;
