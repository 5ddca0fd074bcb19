//! What would be sent now, decided as the validator decides, and not sent.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use chain::wallet::load_hotkey;
use chain::{Chain, Metagraph, PlannedKind, Submission, Way, WeightFacts, WeightsPlan};
use common::{BlockNumber, Hotkey, MechanismId, Netuid, TaskId};
use serde::{Deserialize, Serialize};

use super::{Foreseen, NamedWeight, about, named};
use crate::config::Config;
use crate::explain::open;
use crate::scoring::Scores;
use crate::store::Scoring;
use crate::weights::{NamedWeights, Plan, WeightsConfig, plan, weights_of};

/// What would be sent. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DryRun {
    pub netuid: Netuid,
    pub hotkey: Hotkey,
    /// The scoring that the weights come from, and when it was.
    pub scoring: i64,
    pub scored_ms: i64,
    pub mechanisms: Vec<OfMechanism>,
}

/// One mechanism.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfMechanism {
    pub mechanism: MechanismId,
    pub tasks: BTreeSet<TaskId>,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What would become of a mechanism's weights now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// They would be sent.
    Sends {
        /// The newest block, by which it was decided.
        at_block: BlockNumber,
        way: Way,
        call: String,
        version_key: u64,
        reveal: Option<Foreseen>,
        weights: Vec<NamedWeight>,
    },
    /// They would not.
    Waits {
        why: String,
        /// The block from which they may be sent, where only time is missing, and roughly when it will be.
        allowed_from: Option<BlockNumber>,
        about_ms: Option<i64>,
    },
}

/// Decides what would be sent by the newest scoring of the configured store and the chain's newest block. Sends nothing.
///
/// # Errors
/// If the hotkey, the store or the chain cannot be read, or nothing was scored yet.
pub async fn dry_run(config: &Config) -> anyhow::Result<DryRun> {
    let hotkey = load_hotkey(&config.wallet)?.hotkey();
    let store = open(&config.store).await?;
    let read = async { Ok((store.last_scoring().await?, store.open_submissions().await?)) };
    let read: Result<_, crate::store::StoreError> = read.await;
    store.close().await;
    let (scoring, open) = read?;
    let scoring = scoring
        .context("nothing was scored yet: scores come at the end of the first scoring period")?;
    let chain = Chain::connect(config.chain.clone()).await?;
    let metagraph = chain.metagraph(config.netuid).await?;
    let mut mechanisms = Vec::new();
    for (mechanism, tasks) in config.catalogue.mechanisms() {
        let open = open.iter().map(|kept| &kept.submission);
        let open: Vec<_> = open.filter(|open| open.mechanism == mechanism).collect();
        let outcome = match weighed(&scoring, &tasks, &metagraph) {
            Err(why) => waits(why),
            Ok(weights) => match chain.weight_facts(config.netuid, mechanism, hotkey).await {
                Err(chain::SubmitError::Preflight(reason)) => waits(reason.to_string()),
                Err(error) => return Err(error.into()),
                Ok(facts) => outcome(&facts, &open, &weights, config.weights),
            },
        };
        mechanisms.push(OfMechanism { mechanism, tasks, outcome });
    }
    Ok(DryRun {
        netuid: config.netuid,
        hotkey,
        scoring: scoring.id.0,
        scored_ms: scoring.at_ms,
        mechanisms,
    })
}

fn weighed(
    scoring: &Scoring,
    tasks: &BTreeSet<TaskId>,
    metagraph: &Metagraph,
) -> Result<NamedWeights, String> {
    let scores = Scores { miners: scoring.scores.clone() };
    weights_of(&scores, tasks, metagraph)
}

fn waits(why: String) -> Outcome {
    Outcome::Waits { why, allowed_from: None, about_ms: None }
}

/// Pure.
fn outcome(
    facts: &WeightFacts,
    open: &[&Submission],
    weights: &NamedWeights,
    config: WeightsConfig,
) -> Outcome {
    let now_ms = i64::try_from(facts.now.as_millis()).unwrap_or(i64::MAX);
    let open = open.iter().copied();
    match plan(facts, open, weights, config.version_key, config.commit_reveal) {
        Plan::Wait(reason) => Outcome::Waits {
            why: reason.to_string(),
            allowed_from: reason.until(),
            about_ms: reason
                .until()
                .map(|block| about(now_ms, facts.head, block, facts.block_time)),
        },
        Plan::Send(plan) => Outcome::Sends {
            at_block: facts.head,
            way: plan.way(),
            call: plan.call.to_owned(),
            version_key: plan.version_key,
            reveal: foreseen(&plan, now_ms, facts.block_time),
            weights: named(weights),
        },
    }
}

fn foreseen(plan: &WeightsPlan, now_ms: i64, block_time: Duration) -> Option<Foreseen> {
    let reveal = plan.reveal()?;
    Some(Foreseen {
        epoch: reveal.epoch,
        first_block: reveal.first,
        last_block: reveal.last,
        about_ms: about(now_ms, plan.made_at, reveal.first, block_time),
        round: match plan.kind {
            PlannedKind::Timelocked { round, .. } => Some(round),
            PlannedKind::Plain | PlannedKind::Hashed { .. } => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::tests::{facts, named_weights};
    use chain::CommitReveal;

    const CONFIG: WeightsConfig =
        WeightsConfig { version_key: 0, commit_reveal: CommitReveal::Auto };

    #[test]
    fn what_would_be_sent_is_told_with_the_time_of_its_reveal() {
        let outcome = outcome(&facts(1010), &[], &named_weights(), CONFIG);
        let Outcome::Sends { at_block, way, call, reveal, weights, .. } = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!((at_block, way), (BlockNumber(1010), Way::Hashed));
        assert_eq!(call, "commit_mechanism_weights");
        assert_eq!(weights.len(), 2);
        let reveal = reveal.unwrap();
        assert_eq!((reveal.epoch, reveal.first_block), (9, BlockNumber(1100)));
        assert_eq!(reveal.about_ms, 1_700_000_000_000 + 90 * 12_000);
    }

    #[test]
    fn what_would_not_be_sent_is_told_with_the_block_from_which_it_may_be() {
        let facts =
            WeightFacts { last_update: BlockNumber(1000), weights_rate_limit: 100, ..facts(1010) };
        let Outcome::Waits { why, allowed_from, about_ms } =
            outcome(&facts, &[], &named_weights(), CONFIG)
        else {
            panic!("the rate limit")
        };
        assert_eq!(allowed_from, Some(BlockNumber(1100)), "{why}");
        assert_eq!(about_ms, Some(1_700_000_000_000 + 90 * 12_000));
    }
}
