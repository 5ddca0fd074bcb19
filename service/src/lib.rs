//! What every service has: layered settings, command-line flags, logs, metrics, an HTTP server that drains.

pub mod flags;
pub mod http;
pub mod metrics;
pub mod run;
pub mod settings;
pub mod telemetry;
