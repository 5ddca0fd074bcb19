//! A view into a running validator: what its operator and the public are shown.

use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use chain::{Chain, NodeHealth, NodeState};
use common::{Hotkey, MechanismId, TaskId};
use serde_json::json;
use service::http::{ApiError, Health};
use tasks::Catalogue;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::Ended;
use crate::judge::Judgement;
use crate::network::Network;
use crate::status::{Counts, Status, StatusRow, WeightsStatus};
use crate::store::{Store, WeightsOnChain};
use crate::tally::{Tallies, Tally};
use crate::weights::{MechanismProgress, Progress};

/// How old a status may be.
const STATUS_AGE: Duration = Duration::from_secs(1);

/// A view into a running validator.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) chain: Chain,
    pub(super) network: Arc<Network>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) tallies: Arc<Tallies>,
    pub(super) store: Store,
    pub(super) judgement: watch::Receiver<Option<Arc<Judgement>>>,
    pub(super) confirmed: watch::Receiver<Option<Arc<WeightsOnChain>>>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) ended: watch::Receiver<Ended>,
    pub(super) ends: watch::Receiver<Option<Instant>>,
}

/// The status is public, so it is made at most once a second, however many ask.
pub(super) fn status_routes(handle: Handle) -> Router {
    let last: Arc<tokio::sync::Mutex<Option<(Instant, Status)>>> = Arc::default();
    let answer = move || {
        let (handle, last) = (handle.clone(), Arc::clone(&last));
        async move {
            let mut last = last.lock().await;
            match &*last {
                Some((made, status)) if made.elapsed() < STATUS_AGE => Ok(Json(status.clone())),
                Some(_) | None => match handle.status().await {
                    Ok(status) => Ok(Json(last.insert((Instant::now(), status)).1.clone())),
                    Err(error) => {
                        warn!("the status cannot be read: {error:#}");
                        Err(ApiError::internal())
                    }
                },
            }
        }
    };
    Router::new().route("/v1/network/status", get(answer))
}

pub(super) fn health(handle: Handle) -> impl Fn() -> Health + Clone + Send + Sync + 'static {
    move || {
        let block = handle.chain.blocks().borrow().map(|head| head.number.0);
        Health::ok()
            .with("block", block)
            .with("chain_nodes", nodes_health(handle.chain.nodes()))
            .with("contenders", handle.network.contenders().len())
            .with("weights_block", handle.confirmed.borrow().as_ref().map(|set| set.block.0))
            .with("weights", weights_health(&handle.progress.borrow()))
    }
}

/// Which chain nodes there are, which is asked, and how far behind each is. Why one is not usable is in the log: an error may
/// name what is not for the public.
fn nodes_health(nodes: Vec<NodeHealth>) -> Vec<serde_json::Value> {
    let one = |NodeHealth { endpoint, in_use, state }| match state {
        NodeState::Unknown => json!({ "endpoint": endpoint, "in_use": in_use, "state": "unknown" }),
        NodeState::Well { look, lag } => json!({
            "endpoint": endpoint,
            "in_use": in_use,
            "state": "well",
            "finalized": look.finalized,
            "lag_blocks": lag,
            "answered_in_ms": look.took.as_secs_f64() * 1e3,
        }),
        NodeState::Unusable(_) => {
            json!({ "endpoint": endpoint, "in_use": in_use, "state": "unusable" })
        }
    };
    nodes.into_iter().map(one).collect()
}

/// Each mechanism's weights at a glance.
fn weights_health(progress: &Progress) -> Vec<serde_json::Value> {
    let one = |(mechanism, progress): (&MechanismId, &MechanismProgress)| {
        json!({
            "mechanism": mechanism,
            "in_force_since": progress.in_force.as_ref().map(|set| set.block),
            "committed": progress.committed,
            "trouble": progress.trouble,
        })
    };
    progress.iter().map(one).collect()
}

impl Handle {
    /// Tells of each confirmation of weights on chain; starts with the last one of an earlier run, if there is one.
    pub fn confirmed_weights(&self) -> watch::Receiver<Option<Arc<WeightsOnChain>>> {
        self.confirmed.clone()
    }

    /// Each miner's whole score, `0.0..=1.0`, by the last scoring.
    pub fn scores(&self) -> Vec<(Hotkey, f64)> {
        let judgement = self.judgement.borrow();
        let scores = judgement.as_ref().map(|judgement| &judgement.scores.miners);
        scores.into_iter().flatten().map(|(hotkey, miner)| (*hotkey, miner.weight.get())).collect()
    }

    /// Everything that is known of every contender.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn status(&self) -> anyhow::Result<Status> {
        let checks_waiting = self.store.checks_waiting().await?;
        let contenders = self.network.contenders();
        let (running, ended) = (self.tallies.snapshot(), self.ended.borrow().clone());
        let (judgement, confirmed) =
            (self.judgement.borrow().clone(), self.confirmed.borrow().clone());
        let progress = self.progress.borrow().clone();
        let mechanism_of = |task: &TaskId| {
            let known = self.catalogue.task(task).map(|task| task.mechanism);
            known.unwrap_or_default()
        };
        let mut rows: Vec<_> = contenders
            .iter()
            .map(|(id, contender)| {
                let miner = judgement
                    .as_ref()
                    .and_then(|judgement| judgement.scores.miners.get(&id.hotkey));
                let task = miner.and_then(|miner| miner.tasks.get(&id.task));
                let mechanism = mechanism_of(&id.task);
                let set = progress.get(&mechanism).and_then(|known| known.in_force.as_ref());
                let weight = set.and_then(|set| share(set, &id.hotkey));
                StatusRow {
                    uid: contender.uid,
                    hotkey: id.hotkey,
                    task: id.task.clone(),
                    mechanism,
                    running: running.get(id).map(counts).unwrap_or_default(),
                    finished: ended.get(id).map(counts),
                    quality: task.and_then(|task| task.quality()),
                    speed: task.and_then(|task| task.speed()),
                    score: task.map(|task| task.contribution),
                    weight,
                }
            })
            .collect();
        rows.sort_by(|a, b| (a.uid, &a.task).cmp(&(b.uid, &b.task)));
        Ok(Status {
            block: self.chain.blocks().borrow().map(|head| head.number),
            period_ends_in_s: self
                .ends
                .borrow()
                .map(|ends| ends.saturating_duration_since(Instant::now()).as_secs_f64()),
            checks_waiting,
            weights_block: confirmed.map(|set| set.block),
            weights: progress
                .into_iter()
                .map(|(mechanism, progress)| WeightsStatus {
                    mechanism,
                    in_force_since: progress.in_force.map(|set| set.block),
                    committed: progress.committed,
                    trouble: progress.trouble,
                })
                .collect(),
            rows,
        })
    }
}

/// A miner's part of the weights; `None` where there are none at all.
fn share(set: &WeightsOnChain, hotkey: &Hotkey) -> Option<f64> {
    let total: f64 = set.weights.iter().map(|(.., weight)| f64::from(*weight)).sum();
    let own = set.weights.iter().find(|(_, owner, _)| owner == hotkey);
    (total > 0.0).then(|| own.map_or(0.0, |(.., weight)| f64::from(*weight) / total))
}

fn counts(tally: &Tally) -> Counts {
    Counts {
        declared: tally.declared,
        used: tally.consumed,
        answered: tally.served,
        refused: tally.refused(),
        failed: tally.failed.sum(),
    }
}
