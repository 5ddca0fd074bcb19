//! What the miner counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::TaskId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::ledger::Ledger;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    Answered,
    Cancelled,
    Failed,
    BadRequest,
    /// Who sent it is not proved: 401.
    Unauthenticated,
    /// Who sent it may not: 403.
    Forbidden,
    /// The share of the capacity is used up: 429.
    OverCapacity,
    /// Too many at once: 429.
    Busy,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTask {
    task: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    /// Empty if the request did not come so far.
    task: String,
    outcome: Outcome,
}

/// Labels are task ids from the settings and [`Outcome`]s, so their number is bounded.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Family<Ended, Counter>,
    tokens: Family<OfTask, Counter>,
    first_token: Family<OfTask, Histogram>,
    answer: Family<OfTask, Histogram>,
    in_flight: Family<OfTask, Gauge>,
}

impl Metrics {
    pub(crate) fn register(
        registry: &mut Registry,
        ledger: Arc<Ledger>,
        tasks: Vec<TaskId>,
    ) -> Self {
        // 5 ms to 80 s.
        let histogram = || Histogram::new(exponential_buckets(0.005, 2.0, 15));
        let metrics = Self {
            requests: Family::default(),
            tokens: Family::default(),
            first_token: Family::new_with_constructor(histogram),
            answer: Family::new_with_constructor(histogram),
            in_flight: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("miner");
        registry.register("requests", "Requests by how they ended", metrics.requests.clone());
        registry.register("tokens", "Tokens written", metrics.tokens.clone());
        registry.register_with_unit(
            "first_token",
            "From a request's arrival to its first token",
            Unit::Seconds,
            metrics.first_token.clone(),
        );
        registry.register_with_unit(
            "answer",
            "From a request's arrival to its answer's end",
            Unit::Seconds,
            metrics.answer.clone(),
        );
        registry.register("in_flight", "Answers under way", metrics.in_flight.clone());
        registry.register_collector(Box::new(Capacity { ledger, tasks }));
        metrics
    }

    /// Counts a request that was refused before an answer began.
    pub(crate) fn refused(&self, task: Option<&TaskId>, outcome: Outcome) {
        let task = task.map(ToString::to_string).unwrap_or_default();
        self.requests.get_or_create(&Ended { task, outcome }).inc();
    }

    pub(crate) fn started(&self, task: &TaskId) {
        self.in_flight.get_or_create(&of(task)).inc();
    }

    /// Counts an answer that was [`started`](Self::started).
    pub(crate) fn finished(
        &self,
        task: &TaskId,
        outcome: Outcome,
        tokens: u64,
        first_token: Option<Duration>,
        total: Duration,
    ) {
        self.requests.get_or_create(&Ended { task: task.to_string(), outcome }).inc();
        self.tokens.get_or_create(&of(task)).inc_by(tokens);
        if let Some(first) = first_token {
            self.first_token.get_or_create(&of(task)).observe(first.as_secs_f64());
        }
        self.answer.get_or_create(&of(task)).observe(total.as_secs_f64());
        self.in_flight.get_or_create(&of(task)).dec();
    }
}

fn of(task: &TaskId) -> OfTask {
    OfTask { task: task.to_string() }
}

/// Reads the ledger when it is asked for, since windows end by themselves.
#[derive(Debug)]
struct Capacity {
    ledger: Arc<Ledger>,
    tasks: Vec<TaskId>,
}

impl Collector for Capacity {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = Instant::now();
        let usage: Vec<_> =
            self.tasks.iter().map(|task| (of(task), self.ledger.use_of(task, now))).collect();
        let mut family = |name, help, value: fn((u64, f64)) -> f64| {
            let gauge = ConstGauge::new(0.0);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            usage.iter().try_for_each(|(labels, usage)| {
                ConstGauge::new(value(*usage)).encode(family.encode_family(labels)?)
            })
        };
        family("capacity_tokens", "Declared tokens per period", |(_, capacity)| capacity)?;
        family("capacity_used_tokens", "Tokens written in the running windows", |(used, _)| {
            used as f64
        })
    }
}
