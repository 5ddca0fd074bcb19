//! Turns the stored evidence into scores after each period, and hands them to the router and to the weight setter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{Hotkey, TaskId};
use tasks::Catalogue;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::unix_ms;
use crate::evidence::gather;
use crate::network::Network;
use crate::routing::{Candidate, Router};
use crate::scoring::{self, Parameters, Scores};
use crate::store::{Store, StoreError};

/// How long evidence is used and kept. The reference keeps periods for 3 days and verdicts for 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub periods: Duration,
    pub verdicts: Duration,
    /// Answers that could not be checked for so long are given up.
    pub waiting_checks: Duration,
}

/// The result of one scoring.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    pub scores: Scores<Hotkey>,
}

/// The loop that scores.
#[derive(Debug)]
pub struct Judge {
    pub parameters: Parameters,
    pub retention: Retention,
    /// How long scoring waits for answers that are still being checked.
    pub patience: Duration,
    pub catalogue: Arc<Catalogue>,
    pub network: Arc<Network>,
    pub router: Arc<Router>,
    pub store: Store,
    /// Rung when a period is over.
    pub turned: Arc<Notify>,
    /// Rung when verdicts were written.
    pub judged: Arc<Notify>,
    pub judgement: watch::Sender<Option<Arc<Judgement>>>,
}

impl Judge {
    /// Scores after each period until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.turned.notified() => {}
            }
            // New contenders can be asked at once, with the scores that are known.
            self.route();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wait_for_checks() => {}
            }
            match self.judge().await {
                Ok(judgement) => {
                    self.judgement.send_replace(Some(Arc::new(judgement)));
                    self.route();
                }
                Err(error) => {
                    warn!(
                        "no new scores, the last ones stay in force: {:#}",
                        anyhow::Error::from(error)
                    );
                }
            }
        }
    }

    /// Until every answer is checked, but not longer than patience allows: a checking server that is down delays
    /// scores, it does not stop them.
    async fn wait_for_checks(&self) {
        let drained = async {
            loop {
                let judged = self.judged.notified();
                match self.store.checks_waiting().await {
                    Ok(1..) => judged.await,
                    Ok(0) | Err(_) => return,
                }
            }
        };
        if tokio::time::timeout(self.patience, drained).await.is_err() {
            info!("some answers are not checked yet; scores are computed from what is known");
        }
    }

    async fn judge(&self) -> Result<Judgement, StoreError> {
        let now = unix_ms();
        let since = |window: Duration| {
            now.saturating_sub(i64::try_from(window.as_millis()).unwrap_or(i64::MAX))
        };
        self.store
            .prune(
                since(self.retention.periods),
                since(self.retention.verdicts),
                since(self.retention.waiting_checks),
            )
            .await?;
        let past = self.store.past_periods(since(self.retention.periods)).await?;
        let judged = self.store.judged(since(self.retention.verdicts)).await?;
        let evidence = gather(&self.network.declared(), &past, &judged);
        let weights: BTreeMap<TaskId, f64> = self.catalogue.weights().clone();
        Ok(Judgement { scores: scoring::weights(&self.parameters, &weights, &evidence) })
    }

    fn route(&self) {
        let judgement = self.judgement.borrow().clone();
        let share = |hotkey: &Hotkey, task: &TaskId| {
            let scores = &judgement.as_ref()?.scores;
            Some(scores.miners.get(hotkey)?.tasks.get(task)?.share.get())
        };
        let candidates = self
            .network
            .contenders()
            .iter()
            .map(|(id, contender)| Candidate {
                task: id.task.clone(),
                uid: contender.uid,
                hotkey: id.hotkey,
                score: share(&id.hotkey, &id.task).unwrap_or(0.0),
            })
            .collect();
        self.router.replace(candidates);
    }
}
