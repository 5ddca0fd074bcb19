//! What the validator counts for Prometheus.

use std::sync::Arc;

use common::TaskId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::ask::Outcome;

/// Labels come from the catalogue and from fixed words, so their number is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    task: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOrigin {
    task: String,
    /// `organic` or `synthetic`.
    origin: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTask {
    task: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    outcome: &'static str,
}

/// The validator's metrics.
#[derive(Debug)]
pub struct Metrics {
    queries: Family<ByOrigin, Counter>,
    tokens: Family<ByTask, Counter>,
    first_token: Family<ByTask, Histogram, fn() -> Histogram>,
    total: Family<ByTask, Histogram, fn() -> Histogram>,
    checks: Family<ByOutcome, Counter>,
    weights: Family<ByResult, Counter>,
    store_failures: Counter,
}

/// From 1 ms to 65 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

impl Metrics {
    /// Registers everything in `registry`.
    pub fn new(registry: &mut Registry) -> Arc<Self> {
        let metrics = Self {
            queries: Family::default(),
            tokens: Family::default(),
            first_token: Family::new_with_constructor(seconds),
            total: Family::new_with_constructor(seconds),
            checks: Family::default(),
            weights: Family::default(),
            store_failures: Counter::default(),
        };
        registry.register(
            "queries",
            "Queries to miners, by origin and outcome; outcomes that begin with void_ came to nothing on our own side",
            metrics.queries.clone(),
        );
        registry.register("answer_tokens", "Tokens of whole answers", metrics.tokens.clone());
        registry.register(
            "first_token_seconds",
            "From sending a query to the first token of its answer",
            metrics.first_token.clone(),
        );
        registry.register(
            "answer_seconds",
            "From sending a query to the end of its answer",
            metrics.total.clone(),
        );
        registry.register(
            "checks",
            "Answers on their way through checking, by outcome",
            metrics.checks.clone(),
        );
        registry.register(
            "weights",
            "Attempts to set weights, by outcome",
            metrics.weights.clone(),
        );
        registry.register(
            "store_failures",
            "Failed attempts to store evidence; each is repeated until it succeeds",
            metrics.store_failures.clone(),
        );
        Arc::new(metrics)
    }

    /// A query has ended.
    pub fn asked(&self, task: &TaskId, organic: bool, outcome: &Outcome) {
        let labels = ByOrigin {
            task: task.to_string(),
            origin: if organic { "organic" } else { "synthetic" },
            outcome: outcome.label(),
        };
        self.queries.get_or_create(&labels).inc();
        if let Outcome::Served(served) = outcome {
            let task = ByTask { task: task.to_string() };
            self.tokens.get_or_create(&task).inc_by(u64::from(served.tokens()));
            self.first_token.get_or_create(&task).observe(served.first_token.as_secs_f64());
            self.total.get_or_create(&task).observe(served.total.as_secs_f64());
        }
    }

    /// The store did not take evidence.
    pub fn store_failed(&self) {
        self.store_failures.inc();
    }

    /// Something has become of a check.
    pub fn checked(&self, task: &TaskId, outcome: &'static str) {
        self.checks.get_or_create(&ByOutcome { task: task.to_string(), outcome }).inc();
    }

    /// An attempt to set weights has ended.
    pub fn weights(&self, outcome: &'static str) {
        self.weights.get_or_create(&ByResult { outcome }).inc();
    }
}
