//! Sets weights on chain when there is something new to say and the chain lets us say it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chain::{Chain, Metagraph, SubmitError, weights::encode_within};
use common::{BlockNumber, Hotkey, Keypair, Netuid, Uid};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::unix_ms;
use crate::judge::Judgement;
use crate::metrics::Metrics;
use crate::store::{Store, WeightsOnChain};

/// How soon a failed attempt is repeated.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// What to do about the weights now.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    Set(Vec<(Uid, u16)>),
    /// Nothing yet, and why.
    Wait(String),
}

/// Decides. Pure: scores by hotkey and the metagraph of one block in, weights by uid out.
///
/// Hotkeys that have left the subnet are left out; a uid is only looked up here, in the metagraph of the block that is
/// decided on, so a slot that has changed hands cannot get its former owner's weight.
pub fn plan(judgement: &Judgement, metagraph: &Metagraph) -> Plan {
    let uids: BTreeMap<Hotkey, Uid> =
        metagraph.neurons.iter().map(|neuron| (neuron.hotkey, neuron.uid)).collect();
    let scores: Vec<(u16, f64)> = judgement
        .scores
        .miners
        .iter()
        .filter_map(|(hotkey, miner)| Some((uids.get(hotkey)?.0, miner.weight.get())))
        .collect();
    if !scores.iter().any(|(_, score)| *score > 0.0) {
        return Plan::Wait("no registered miner has earned anything yet".to_owned());
    }
    match encode_within(&scores, metagraph.params.max_weights_limit) {
        Ok(weights) => Plan::Set(weights),
        Err(error) => Plan::Wait(format!("the scores do not become weights: {error}")),
    }
}

/// The loop that sets weights.
#[derive(Debug)]
pub struct WeightSetter {
    pub chain: Chain,
    pub netuid: Netuid,
    pub keypair: Keypair,
    pub version_key: u64,
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub judgement: watch::Receiver<Option<Arc<Judgement>>>,
    /// The newest weights that the chain has confirmed.
    pub confirmed: watch::Sender<Option<Arc<WeightsOnChain>>>,
}

/// What a reason to wait is told once for.
#[derive(Debug, Default)]
struct Said(String);

impl Said {
    fn once(&mut self, reason: String) -> bool {
        let new = self.0 != reason;
        self.0 = reason;
        new
    }
}

impl WeightSetter {
    /// Sets weights after each scoring until it is told to stop. A transaction that has been sent is waited for as long
    /// as the application's grace lasts; after that the chain knows of it, and the next run reads it there.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut said = Said::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.judgement.changed() => if changed.is_err() { return },
            }
            // Until these scores are on chain, or newer ones have come.
            while let Some(wait) = self.try_to_set(&mut said).await {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.until(wait) => {}
                }
            }
        }
    }

    /// Waits for a block, or for a while where none is known or the chain is silent.
    async fn until(&self, block: Option<BlockNumber>) {
        let Some(block) = block else { return tokio::time::sleep(TRY_AGAIN).await };
        let mut heads = self.chain.blocks();
        // A feed that has ended must not make this loop spin.
        if heads.wait_for(|head| head.is_some_and(|head| head.number >= block)).await.is_err() {
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// Returns when to try again, or `None` if there is nothing more to do for these scores.
    async fn try_to_set(&mut self, said: &mut Said) -> Option<Option<BlockNumber>> {
        let judgement = self.judgement.borrow_and_update().clone()?;
        let metagraph = match self.chain.metagraph(self.netuid).await {
            Ok(metagraph) => metagraph,
            Err(error) => {
                let error = anyhow::Error::from(error);
                if said.once("chain".to_owned()) {
                    warn!("weights wait for the chain: {error:#}");
                }
                return Some(None);
            }
        };
        let weights = match plan(&judgement, &metagraph) {
            Plan::Set(weights) => weights,
            Plan::Wait(why) => {
                if said.once(why.clone()) {
                    info!("no weights to set: {why}");
                }
                return None;
            }
        };
        match self.chain.set_weights(self.netuid, &weights, self.version_key, &self.keypair).await {
            Ok(set) => {
                let hotkeys: BTreeMap<Uid, Hotkey> =
                    metagraph.neurons.iter().map(|neuron| (neuron.uid, neuron.hotkey)).collect();
                let weights = set
                    .weights
                    .iter()
                    .filter_map(|(uid, weight)| Some((*uid, *hotkeys.get(uid)?, *weight)))
                    .collect();
                self.confirm(WeightsOnChain {
                    at_ms: unix_ms(),
                    block: set.block,
                    weights,
                    scoring: Some(judgement.scoring),
                })
                .await;
                *said = Said::default();
                None
            }
            Err(error) => {
                self.metrics.weights("failed");
                let (retry, not_before) = (error.is_retryable(), error.not_before());
                self.report(error, said);
                // What only a person can mend is tried again with the next scores.
                retry.then_some(not_before)
            }
        }
    }

    async fn confirm(&self, set: WeightsOnChain) {
        info!(block = %set.block, "{} weights are on chain since block {}", set.weights.len(), set.block);
        self.metrics.weights("confirmed");
        if let Err(error) = self.store.save_weights(&set).await {
            warn!(
                "the weights are on chain, but not in the store: {:#}",
                anyhow::Error::from(error)
            );
        }
        self.confirmed.send_replace(Some(Arc::new(set)));
    }

    fn report(&self, error: SubmitError, said: &mut Said) {
        let waits = matches!(error, SubmitError::Preflight(_)) && error.is_retryable();
        let error = anyhow::Error::from(error);
        let text = format!("{error:#}");
        if !said.once(text.clone()) {
            debug!("weights still not set: {text}");
        } else if waits {
            info!("weights wait: {text}");
        } else {
            warn!("weights are not set: {text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use chain::{BlockHash, Hyperparameters, Neuron};

    use super::*;
    use crate::scoring::{MinerScore, Score, Scores};
    use crate::store::ScoringId;

    fn key(name: u8) -> Hotkey {
        Hotkey::from_bytes([name; 32])
    }

    fn metagraph(neurons: &[(u16, u8)]) -> Metagraph {
        let neuron = |&(uid, name): &(u16, u8)| Neuron {
            uid: Uid(uid),
            hotkey: key(name),
            coldkey: None,
            axon: None,
            stake: 0.0,
            validator_permit: false,
            active: true,
            last_update: BlockNumber(0),
            registered_at: BlockNumber(0),
            incentive: 0.0,
            consensus: 0.0,
            dividends: 0.0,
        };
        Metagraph {
            block: BlockNumber(1),
            block_hash: BlockHash([0; 32]),
            netuid: Netuid(1),
            neurons: neurons.iter().map(neuron).collect(),
            params: Hyperparameters {
                tempo: 360,
                weights_rate_limit: 100,
                weights_version: 0,
                min_allowed_weights: 1,
                max_weights_limit: u16::MAX,
                commit_reveal_enabled: false,
                serving_rate_limit: 50,
                immunity_period: 4096,
                activity_cutoff: 5000,
                stake_threshold: 0.0,
            },
            next_epoch: None,
            owner: None,
        }
    }

    fn judgement(scores: &[(u8, f64)]) -> Judgement {
        let miner = |&(name, weight): &(u8, f64)| {
            (key(name), MinerScore { weight: Score::clamped(weight), ..MinerScore::default() })
        };
        Judgement {
            scores: Scores { miners: scores.iter().map(miner).collect() },
            scoring: ScoringId(1),
        }
    }

    #[test]
    fn weights_follow_the_hotkey_to_its_new_uid_and_leave_with_it() {
        // Miner 1 has moved to slot 7, miner 2 has left, and a stranger sits in its slot.
        let plan = plan(&judgement(&[(1, 0.5), (2, 0.5)]), &metagraph(&[(7, 1), (2, 9)]));
        assert_eq!(plan, Plan::Set(vec![(Uid(7), u16::MAX)]));
    }

    #[test]
    fn nothing_is_set_while_nobody_registered_has_earned_anything() {
        for scores in [&[][..], &[(1, 0.0)], &[(2, 1.0)]] {
            let plan = plan(&judgement(scores), &metagraph(&[(1, 1)]));
            assert!(matches!(plan, Plan::Wait(_)), "{scores:?}: {plan:?}");
        }
    }

    #[test]
    fn the_best_gets_the_whole_scale() {
        let plan = plan(&judgement(&[(1, 0.2), (2, 0.8)]), &metagraph(&[(1, 1), (2, 2)]));
        assert_eq!(plan, Plan::Set(vec![(Uid(1), 16_384), (Uid(2), u16::MAX)]));
    }
}
