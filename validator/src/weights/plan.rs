//! Decides what to do about a mechanism's weights. Pure: scores, a metagraph, what the chain says at one block, and what was
//! sent before go in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chain::weights::encode_within;
use chain::{
    CommitReveal, Metagraph, Preflight, Stage, Submission, WeightFacts, WeightsPlan, plan_weights,
};
use common::{BlockNumber, Hotkey, TaskId, Uid};

use crate::scoring::Scores;

/// Weights by uid, the largest 65535, with whose they are.
pub type NamedWeights = Vec<(Uid, Hotkey, u16)>;

/// What the scores of these tasks, those of one mechanism, come to.
///
/// Hotkeys that have left the subnet are left out; a uid is only looked up here, in the metagraph of the block that is
/// decided on, so a slot that has changed hands cannot get its former owner's weight.
///
/// # Errors
/// With a sentence that says why there is nothing to set.
pub fn weights_of(
    scores: &Scores<Hotkey>,
    tasks: &BTreeSet<TaskId>,
    metagraph: &Metagraph,
) -> Result<NamedWeights, String> {
    let hotkeys: BTreeMap<Hotkey, Uid> =
        metagraph.neurons.iter().map(|neuron| (neuron.hotkey, neuron.uid)).collect();
    let scores = scores.of_tasks(|task| tasks.contains(task));
    let by_uid: BTreeMap<Uid, (Hotkey, f64)> = scores
        .miners
        .iter()
        .filter_map(|(hotkey, miner)| Some((*hotkeys.get(hotkey)?, (*hotkey, miner.weight.get()))))
        .collect();
    if !by_uid.values().any(|(_, weight)| *weight > 0.0) {
        return Err("no registered miner has earned anything yet".to_owned());
    }
    let weights: Vec<_> = by_uid.iter().map(|(uid, (_, weight))| (uid.0, *weight)).collect();
    let encoded = encode_within(&weights, metagraph.params.max_weights_limit)
        .map_err(|error| format!("the scores do not become weights: {error}"))?;
    let named = encoded.into_iter().filter_map(|(uid, weight)| {
        let (hotkey, _) = by_uid.get(&uid)?;
        Some((uid, *hotkey, weight))
    });
    Ok(named.collect())
}

/// What to do about the weights now.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Boxed: it holds the weights of a whole subnet.
    Send(Box<WeightsPlan>),
    Wait(Reason),
}

/// Why weights are not sent now.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// Earlier ones may still take effect.
    Open { until: Option<BlockNumber> },
    /// The epoch has its commit: another would be revealed together with it.
    CommittedAlready { block: BlockNumber, epoch: u64, next_epoch: Option<BlockNumber> },
    /// The chain would refuse them.
    Refused(Preflight),
}

impl Reason {
    /// The block before which there is no use in deciding again, where one is known.
    pub fn until(&self) -> Option<BlockNumber> {
        match self {
            Self::Open { until } => *until,
            Self::CommittedAlready { next_epoch, .. } => *next_epoch,
            Self::Refused(reason) => reason.allowed_from(),
        }
    }

    /// Whether time alone helps, so that nobody need do anything.
    pub fn passes(&self) -> bool {
        match self {
            Self::Open { .. } | Self::CommittedAlready { .. } => true,
            // Permits come with stake, not with time.
            Self::Refused(Preflight::NoPermit { .. }) => false,
            Self::Refused(reason) => reason.allowed_from().is_some(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { until: Some(block) } => write!(
                f,
                "what became of the last weights is not known yet; until block {block} they may still take effect"
            ),
            Self::Open { until: None } => {
                f.write_str("what became of the last weights is not known yet")
            }
            Self::CommittedAlready { block, epoch, next_epoch } => {
                write!(
                    f,
                    "weights were committed in block {block} for epoch {epoch}; one commit an epoch is enough"
                )?;
                next_epoch.map_or(Ok(()), |block| {
                    write!(f, ", the next epoch begins about block {block}")
                })
            }
            Self::Refused(reason) => fmt::Display::fmt(reason, f),
        }
    }
}

/// Decides. `open` are submissions for the same mechanism of which it is not known yet what becomes of them.
pub fn plan<'a>(
    facts: &WeightFacts,
    open: impl IntoIterator<Item = &'a Submission>,
    weights: &NamedWeights,
    version_key: u64,
    preference: CommitReveal,
) -> Plan {
    let current = facts.clock.epoch();
    for submission in open {
        // What another hotkey has sent from the same database, or for another subnet, is in nobody's way.
        if submission.hotkey != facts.hotkey || submission.netuid != facts.netuid {
            continue;
        }
        match submission.stage {
            Stage::Sent => return Plan::Wait(Reason::Open { until: submission.open_until }),
            Stage::Committed { block, epoch }
                if facts.commit_reveal_enabled
                    && current.is_some_and(|current| epoch >= current)
                    // A longer tempo may have numbered the epochs anew.
                    && submission.reveal_blocks().is_none_or(|(_, last)| facts.head <= last) =>
            {
                let next_epoch = facts.next_epoch();
                return Plan::Wait(Reason::CommittedAlready { block, epoch, next_epoch });
            }
            Stage::Committed { .. } | Stage::InForce { .. } | Stage::Failed { .. } => {}
        }
    }
    let weights: Vec<_> = weights.iter().map(|(uid, _, weight)| (*uid, *weight)).collect();
    match plan_weights(facts, &weights, version_key, preference) {
        Ok(plan) => Plan::Send(Box::new(plan)),
        Err(reason) => Plan::Wait(Reason::Refused(reason)),
    }
}
