//! The task weightings in force: those of the catalogue, read again when its file changes, or, where validators vote, the
//! stake-weighted mean of what they have published on chain.

pub mod ballot;
mod file;
mod vote;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chain::Chain;
use common::{Keypair, Netuid, TaskId};
use serde::{Deserialize, Serialize};
use tasks::Catalogue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use ballot::Outcome;
use file::{CatalogueFile, LOOK_EVERY};
use vote::Voter;

/// Where weightings come from.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightingsConfig {
    /// The catalogue's file.
    pub catalogue: PathBuf,
    /// Whether ours are published and those of all validators are used.
    pub vote: bool,
    /// The part of all stake with a permit that must have voted, `0.0..=1.0`.
    pub quorum: f64,
    /// How often votes are counted.
    pub period: Duration,
}

/// How the weightings in force came about.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Our own catalogue has them.
    Own,
    /// Validators voted for them, with this part of all stake, above 0 and at most 1.
    Voted { stake: f64 },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("this validator's task catalogue"),
            Self::Voted { stake } => {
                write!(f, "voted by validators with {:.1} % of the stake", stake * 100.0)
            }
        }
    }
}

/// The weightings in force. Clones share them.
#[derive(Debug, Clone)]
pub struct Weightings {
    own: Arc<watch::Sender<BTreeMap<TaskId, f64>>>,
    voted: Arc<watch::Sender<Option<Outcome>>>,
}

impl Weightings {
    /// Those of the catalogue that the validator works with.
    pub fn new(catalogue: &Catalogue) -> Self {
        Self {
            own: Arc::new(watch::Sender::new(catalogue.weights().clone())),
            voted: Arc::new(watch::Sender::new(None)),
        }
    }

    /// The enabled tasks with their weightings, which sum to 1.
    pub fn current(&self) -> BTreeMap<TaskId, f64> {
        let voted = self.voted.borrow().as_ref().map(|outcome| outcome.weights.clone());
        voted.unwrap_or_else(|| self.own.borrow().clone())
    }

    /// How they came about.
    pub fn origin(&self) -> Origin {
        let voted = self.voted.borrow();
        voted.as_ref().map_or(Origin::Own, |outcome| Origin::Voted { stake: outcome.stake })
    }

    fn set_own(&self, weights: BTreeMap<TaskId, f64>) {
        let changed = self.own.send_if_modified(|own| {
            let changed = *own != weights;
            *own = weights;
            changed
        });
        if changed {
            info!("the task catalogue has new weightings: {}", shown(&self.own.borrow()));
        }
    }

    fn set_voted(&self, outcome: Option<Outcome>) {
        let before = self.current();
        self.voted.send_replace(outcome);
        let now = self.current();
        if now != before {
            info!("task weightings are now {} ({})", shown(&now), self.origin());
        }
    }
}

fn shown(weights: &BTreeMap<TaskId, f64>) -> String {
    let tasks: Vec<_> =
        weights.iter().map(|(task, weight)| format!("{task} {:.1} %", weight * 100.0)).collect();
    tasks.join(", ")
}

/// The loop that keeps [`Weightings`] up to date.
#[derive(Debug)]
pub struct Keeper {
    weightings: Weightings,
    file: CatalogueFile,
    voter: Option<Voter>,
}

impl Keeper {
    /// The chain is asked only where validators vote.
    pub fn new(
        config: WeightingsConfig,
        catalogue: Arc<Catalogue>,
        chain: Chain,
        netuid: Netuid,
        keypair: Keypair,
    ) -> Self {
        let weightings = Weightings::new(&catalogue);
        let voter = config.vote.then(|| Voter {
            weightings: weightings.clone(),
            quorum: config.quorum,
            period: config.period,
            chain,
            netuid,
            keypair,
        });
        Self { weightings, file: CatalogueFile::new(config.catalogue, catalogue), voter }
    }

    /// What this keeps up to date.
    pub fn weightings(&self) -> Weightings {
        self.weightings.clone()
    }

    /// Works until it is told to stop, whatever happens to the file and the chain.
    pub async fn run(self, stop: CancellationToken) {
        let Self { weightings, mut file, voter } = self;
        let watching = async {
            loop {
                if let Some(weights) = file.look().await {
                    weightings.set_own(weights);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let voting = async {
            match voter {
                Some(voter) => voter.run().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = watching => {}
            () = voting => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_stands_above_the_own_catalogue_as_long_as_it_stands() {
        let text = include_str!("../../config/tasks.toml");
        let weightings = Weightings::new(&Catalogue::parse(text, "tasks.toml").unwrap());
        let weights = |chat, complete| {
            let named = [("chat-demo", chat), ("complete-demo", complete)];
            BTreeMap::from(named.map(|(id, weight): (&str, f64)| (id.parse().unwrap(), weight)))
        };
        assert_eq!((weightings.current(), weightings.origin()), (weights(0.6, 0.4), Origin::Own));
        let outcome = Outcome { weights: weights(0.5, 0.5), stake: 0.75 };
        weightings.set_voted(Some(outcome.clone()));
        weightings.set_own(weights(1.0, 0.0));
        assert_eq!(weightings.current(), outcome.weights);
        assert_eq!(weightings.origin(), Origin::Voted { stake: 0.75 });
        assert_eq!(weightings.origin().to_string(), "voted by validators with 75.0 % of the stake");
        weightings.set_voted(None);
        assert_eq!((weightings.current(), weightings.origin()), (weights(1.0, 0.0), Origin::Own));
    }
}
