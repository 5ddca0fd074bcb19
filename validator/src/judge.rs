//! Turns the stored evidence into scores after each period, and hands them to the router and to the weight setter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{Hotkey, MechanismId, TaskId};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::unix_ms;
use crate::evidence::{Moment, Retention, bucket_ms, summaries};
use crate::network::Network;
use crate::routing::{Candidate, Router};
use crate::scoring::{Rules, Scores};
use crate::store::{Retain, ScoringId, Store, StoreError};
use crate::tally::ContenderId;
use crate::weightings::Weightings;

/// The result of one scoring.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    pub scores: Scores<Hotkey>,
    /// Where it is stored, for whoever wants to see how a weight came about.
    pub scoring: ScoringId,
}

/// The loop that scores.
#[derive(Debug)]
pub struct Judge {
    pub rules: Rules,
    pub period: Duration,
    pub retention: Retention,
    /// How long scoring waits for answers that are still being checked.
    pub patience: Duration,
    pub weightings: Weightings,
    /// The mechanism for which each task counts.
    pub mechanisms: BTreeMap<TaskId, MechanismId>,
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
            self.router.turn();
            self.route().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wait_for_checks() => {}
            }
            match self.judge().await {
                Ok(judgement) => {
                    self.judgement.send_replace(Some(Arc::new(judgement)));
                    self.route().await;
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
        let retention = self.retention;
        let moment = Moment { now_ms: unix_ms(), period: self.period, retention };
        self.store.refresh(bucket_ms(self.period), self.rules.speed_percentile()).await?;
        self.store
            .prune(Retain {
                stretches_ms: moment.since(retention.evidence),
                periods_ms: moment.since(retention.periods),
                verdicts_ms: moment.since(retention.verdicts),
                waiting_ms: moment.since(retention.waiting_checks),
            })
            .await?;
        let declared = self.network.declared();
        let (scorer, summaries) = summaries(&self.store, &self.rules, &moment, &declared).await?;
        let tasks = self.weightings.current();
        let scores = scorer.weights(&tasks, &summaries);
        let mechanisms = &self.mechanisms;
        let scoring = self
            .store
            .save_scoring(moment.now_ms, &self.rules, &tasks, mechanisms, &scores)
            .await?;
        Ok(Judgement { scores, scoring })
    }

    /// Tells this process's router, and other processes, whom to ask.
    async fn route(&self) {
        let candidates = self.candidates();
        // First: users here must not wait for a database that is away.
        self.router.replace(candidates.clone());
        if let Err(error) = self.store.publish(&candidates).await {
            warn!(
                "other processes do not learn who may be asked: {:#}",
                anyhow::Error::from(error)
            );
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let judgement = self.judgement.borrow().clone();
        let scored = |id: &ContenderId| {
            let scores = &judgement.as_ref()?.scores;
            scores.miners.get(&id.hotkey)?.tasks.get(&id.task)
        };
        self.network
            .contenders()
            .iter()
            .map(|(id, contender)| {
                let task = scored(id);
                Candidate {
                    id: id.clone(),
                    contender: contender.clone(),
                    score: task.map_or(0.0, |task| task.share.get()),
                    quality: task.and_then(|task| task.quality()),
                }
            })
            .collect()
    }
}
