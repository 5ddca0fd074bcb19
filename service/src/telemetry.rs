//! Logs on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::flags::LogFormat;

/// What is logged unless `RUST_LOG` says otherwise: ourselves, and of the libraries only what goes wrong.
const DEFAULT_FILTER: &str = "warn,chain=info,checking_server=info,devnet=info,engine=info,localnet=info,miner=info,\
                              service=info,tasks=info,validator=info";

/// Sends the logs of this process to standard error. Which ones is up to `RUST_LOG`.
///
/// # Errors
/// If the process has a subscriber already.
pub fn init(format: LogFormat) -> Result<(), TryInitError> {
    init_with(format, DEFAULT_FILTER)
}

/// The same with another choice of lines where there is no `RUST_LOG`.
///
/// # Errors
/// If the process has a subscriber already.
pub fn init_with(format: LogFormat, default_filter: &str) -> Result<(), TryInitError> {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => {
            registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
}
