//! What became of each query, synthetic or organic: counted, reported, and now and then sent to be checked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::checks::Check;
use rand::Rng;
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ask::{Outcome, Query};
use crate::clock::unix_ms;
use crate::metrics::Metrics;
use crate::store::{PendingCheck, Store};
use crate::tally::{ContenderId, Tallies};

/// Answers on their way to the store. Past this, answers go unchecked rather than requests wait.
const BUFFER: usize = 4_096;
/// How much a crash can lose of the running totals.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Where outcomes are brought. Never waits.
#[derive(Debug)]
pub struct Accounts {
    tallies: Arc<Tallies>,
    metrics: Arc<Metrics>,
    to_check: mpsc::Sender<PendingCheck>,
    /// The last trouble of each contender, so that it is said once.
    troubles: Mutex<BTreeMap<ContenderId, &'static str>>,
}

/// The other end: writes to the store.
#[derive(Debug)]
pub struct Writer {
    tallies: Arc<Tallies>,
    metrics: Arc<Metrics>,
    store: Store,
    to_check: mpsc::Receiver<PendingCheck>,
    /// Rung when answers wait for checking.
    queued: Arc<Notify>,
    queue_limit: u32,
}

/// Makes the two ends. At most `queue_limit` answers wait for checking.
pub fn accounts(
    tallies: Arc<Tallies>,
    metrics: Arc<Metrics>,
    store: Store,
    queued: Arc<Notify>,
    queue_limit: u32,
) -> (Accounts, Writer) {
    let (sender, receiver) = mpsc::channel(BUFFER);
    let accounts = Accounts {
        tallies: Arc::clone(&tallies),
        metrics: Arc::clone(&metrics),
        to_check: sender,
        troubles: Mutex::default(),
    };
    (accounts, Writer { tallies, metrics, store, to_check: receiver, queued, queue_limit })
}

impl Accounts {
    /// Settles one query. `checked` is the share of answers that are checked, `0.0..=1.0`.
    pub fn settle(&self, query: &Query, outcome: Outcome, checked: f64, rng: &mut impl Rng) {
        let id = ContenderId { hotkey: query.miner, task: query.task.clone() };
        self.tallies.record(&id, &outcome);
        self.metrics.asked(&query.task, &outcome);
        self.report(&id, &outcome);
        let Outcome::Served(served) = outcome else { return };
        if rng.random::<f64>() >= checked {
            return;
        }
        let tokens = served.tokens();
        let seconds = served.total.as_secs_f64().max(1e-6);
        let pending = PendingCheck {
            at_ms: unix_ms(),
            speed: f64::from(tokens) / seconds,
            tokens,
            check: Check {
                id: format!("{:032x}", rng.random::<u128>()),
                task: query.task.clone(),
                miner: query.miner,
                request: query.body.clone(),
                text: served.text,
                receipt: served.receipt,
            },
        };
        if self.to_check.try_send(pending).is_err() {
            self.metrics.checked(&query.task, "dropped");
        }
    }

    fn report(&self, id: &ContenderId, outcome: &Outcome) {
        let label = match outcome {
            Outcome::Failed(failure) => failure.label(),
            Outcome::Served(_) | Outcome::Refused => outcome.label(),
        };
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let before = troubles.insert(id.clone(), label);
        drop(troubles);
        let ContenderId { hotkey, task } = id;
        match outcome {
            Outcome::Failed(failure) if before != Some(label) => {
                warn!(miner = %hotkey, %task, "miner {hotkey} {failure}");
            }
            Outcome::Refused if before != Some(label) => {
                info!(miner = %hotkey, %task, "miner {hotkey} refuses: it says that it is busy");
            }
            Outcome::Served(_) if before.is_some_and(|before| before != label) => {
                info!(miner = %hotkey, %task, "miner {hotkey} answers again");
            }
            Outcome::Served(_) | Outcome::Refused | Outcome::Failed(_) => {}
        }
    }

    /// Forgets the troubles of those that are no contenders any more.
    pub fn keep_only(&self, contenders: impl Fn(&ContenderId) -> bool) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| contenders(id));
    }
}

impl Writer {
    /// Writes until it is told to stop, then writes what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut flush = tokio::time::interval(FLUSH_EVERY);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = self.to_check.recv_many(&mut batch, 256) => self.queue(&mut batch).await,
                _ = flush.tick() => self.flush().await,
            }
        }
        while let Ok(pending) = self.to_check.try_recv() {
            batch.push(pending);
        }
        self.queue(&mut batch).await;
        self.flush().await;
    }

    async fn queue(&self, batch: &mut Vec<PendingCheck>) {
        if batch.is_empty() {
            return;
        }
        match self.store.queue_checks(batch, self.queue_limit).await {
            Ok(taken) => {
                for pending in batch.iter().skip(taken) {
                    self.metrics.checked(&pending.check.task, "dropped");
                }
                self.queued.notify_one();
            }
            Err(error) => {
                warn!("{} answers go unchecked: {:#}", batch.len(), anyhow::Error::from(error))
            }
        }
        batch.clear();
    }

    async fn flush(&self) {
        let Some((period, changed)) = self.tallies.take_changed() else { return };
        if changed.is_empty() {
            return;
        }
        if let Err(error) = self.store.save_tallies(period, &changed).await {
            warn!(
                "running totals are not stored, a crash would lose them: {:#}",
                anyhow::Error::from(error)
            );
        }
    }
}
