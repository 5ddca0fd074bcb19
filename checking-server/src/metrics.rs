//! What the checking server counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Labels of [`Metrics::checks`]. Both from small closed sets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CheckLabels {
    /// A task of the catalogue, or `unknown`.
    pub(crate) task: String,
    /// `full`, `reduced`, `zero` or `unchecked`.
    pub(crate) outcome: &'static str,
}

/// Labels of [`Metrics::queued`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ModelLabels {
    pub(crate) model: String,
}

/// The counters, shared by cloning.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) checks: Family<CheckLabels, Counter>,
    pub(crate) refused_batches: Counter,
    pub(crate) dropped: Counter,
    pub(crate) reference_seconds: Histogram,
    pub(crate) queued: Family<ModelLabels, Gauge>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            checks: Family::default(),
            refused_batches: Counter::default(),
            dropped: Counter::default(),
            reference_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            queued: Family::default(),
        };
        registry.register("checks", "Checks by task and outcome", metrics.checks.clone());
        registry.register(
            "refused_batches",
            "Batches refused because a queue was full",
            metrics.refused_batches.clone(),
        );
        registry.register(
            "dropped_checks",
            "Checks whose client went away",
            metrics.dropped.clone(),
        );
        registry.register(
            "reference_seconds",
            "Time of one reference prefill",
            metrics.reference_seconds.clone(),
        );
        registry.register(
            "queue_length",
            "Checks that wait or run, by model",
            metrics.queued.clone(),
        );
        metrics
    }
}
