//! Brings weights on chain when there is something new to say and the chain lets us say it, and finds out what became of them.
//!
//! Each of the subnet's mechanisms is on its own. What is sent is kept first, so that after a restart, or when the chain was
//! away, its fate is looked up and never guessed; [`plan`] decides, [`Mechanism`] acts.

mod mechanism;
mod plan;
mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chain::{Chain, CommitReveal, Head};
use common::{BlockNumber, Keypair, MechanismId, Netuid, TaskId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::judge::Judgement;
use crate::metrics::Metrics;
use crate::store::{KeptSubmission, Store, WeightsOnChain};
use mechanism::Mechanism;

pub use plan::{NamedWeights, Plan, plan, weights_of};
pub use progress::{Committed, MechanismProgress, Progress};

/// How soon a failed attempt is repeated at first; each further time it is twice as long, up to the longest pause.
const TRY_AGAIN: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// How long a node that is behind is left alone, unless there is a new block.
const NODE_IS_BEHIND: Duration = Duration::from_secs(1);

/// How weights are set, as an operator chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightsConfig {
    /// The version of the rules by which is validated.
    pub version_key: u64,
    pub commit_reveal: CommitReveal,
}

/// The loops that set weights.
#[derive(Debug)]
pub struct WeightSetter {
    pub chain: Chain,
    pub netuid: Netuid,
    pub keypair: Keypair,
    pub config: WeightsConfig,
    /// The mechanisms that weights are set for, each with its tasks.
    pub mechanisms: BTreeMap<MechanismId, BTreeSet<TaskId>>,
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub judgement: watch::Receiver<Option<Arc<Judgement>>>,
    pub progress: watch::Sender<Progress>,
    /// The newest weights that the chain has confirmed, of whichever mechanism.
    pub confirmed: watch::Sender<Option<Arc<WeightsOnChain>>>,
}

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// When this block is final.
    Block(BlockNumber),
    After(Duration),
    /// When there are new scores.
    Never,
}

/// What a reason to wait is told once for.
#[derive(Debug, Default)]
struct Said(String);

impl Said {
    fn once(&mut self, reason: &str) -> bool {
        let new = self.0 != reason;
        if new {
            self.0 = reason.to_owned();
        }
        new
    }

    fn forget(&mut self) {
        self.0.clear();
    }
}

impl WeightSetter {
    /// Sets weights after each scoring until it is told to stop. A transaction that has been sent is waited for as long
    /// as the application's grace lasts; after that the next run looks up what became of it.
    pub async fn run(self, stop: CancellationToken) {
        let Some(open) = self.open_submissions(&stop).await else { return };
        let mut by_mechanism: BTreeMap<MechanismId, Vec<KeptSubmission>> =
            self.mechanisms.keys().map(|mechanism| (*mechanism, Vec::new())).collect();
        for kept in open {
            // Those of mechanisms that have left the catalogue too.
            by_mechanism.entry(kept.submission.mechanism).or_default().push(kept);
        }
        let mechanisms = by_mechanism.into_iter().map(|(mechanism, open)| {
            let tasks = self.mechanisms.get(&mechanism).cloned().unwrap_or_default();
            Mechanism::new(&self, mechanism, tasks, open).run(stop.clone())
        });
        futures::future::join_all(mechanisms).await;
    }

    /// What was under way when the last run ended. `None` when told to stop.
    async fn open_submissions(&self, stop: &CancellationToken) -> Option<Vec<KeptSubmission>> {
        let mut said = Said::default();
        loop {
            match self.store.open_submissions().await {
                Ok(open) => return Some(open),
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    if said.once(&error) {
                        warn!("weights wait, what was sent before cannot be read: {error}");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(TRY_AGAIN) => {}
            }
        }
    }

    async fn until(&self, wake: Wake) {
        match wake {
            Wake::Never => std::future::pending().await,
            Wake::After(pause) => tokio::time::sleep(pause).await,
            Wake::Block(block) => {
                let mut heads = self.chain.blocks();
                let reached = |head: &Option<Head>| head.is_some_and(|head| head.number >= block);
                // Told of already, so the node that was asked is behind: it is not asked again and again.
                if reached(&heads.borrow_and_update()) {
                    let _ = tokio::time::timeout(NODE_IS_BEHIND, heads.changed()).await;
                    return;
                }
                // A feed that has ended must not make this loop spin.
                if heads.wait_for(reached).await.is_err() {
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }
}

impl Wake {
    fn earlier(self, other: Self) -> Self {
        match (self, other) {
            (Self::Never, other) | (other, Self::Never) => other,
            (Self::After(one), Self::After(other)) => Self::After(one.min(other)),
            (Self::Block(one), Self::Block(other)) => Self::Block(one.min(other)),
            // Looking too early costs a request.
            (Self::After(pause), Self::Block(_)) | (Self::Block(_), Self::After(pause)) => {
                Self::After(pause)
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
