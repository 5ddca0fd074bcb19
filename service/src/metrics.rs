//! Prometheus metrics: one registry per application, never a global one.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tracing::error;

use crate::http::ApiError;

/// A registry with what every service reports: its build and its memory. Register a service's own metrics below
/// `registry.sub_registry_with_prefix("miner")`, with names that end in `_total`, `_seconds` or `_bytes`.
pub fn registry(service: &'static str, version: &'static str) -> Registry {
    let mut registry = Registry::default();
    let build = Info::new(vec![("service", service), ("version", version)]);
    registry.register("touchstone_build", "Which service this is", build);
    registry.register_collector(Box::new(Memory));
    registry
}

/// The metrics in OpenMetrics text.
pub fn encode(registry: &Registry) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, kind)], body).into_response()
        }
        Err(error) => {
            error!(%error, "the metrics cannot be encoded");
            ApiError::internal().into_response()
        }
    }
}

/// Reads the memory when it is asked for.
#[derive(Debug)]
struct Memory;

impl Collector for Memory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(bytes) = resident_bytes() else { return Ok(()) };
        let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
        let metric = encoder.encode_descriptor(
            "process_resident_memory_bytes",
            "Memory of this process that is not swapped out",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

/// Resident memory of this process; `None` where there is no `/proc`.
pub fn resident_bytes() -> Option<u64> {
    // In kilobytes, whatever the page size, unlike in statm.
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_and_memory_are_reported() {
        let mut text = String::new();
        text::encode(&mut text, &registry("miner", "1.2.3")).unwrap();
        assert!(
            text.contains(r#"touchstone_build_info{service="miner",version="1.2.3"} 1"#),
            "{text}"
        );
        if resident_bytes().is_some() {
            assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
        }
    }
}
