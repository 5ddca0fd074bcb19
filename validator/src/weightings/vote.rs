//! Publishes our own weightings as a commitment and counts everyone's.

use std::collections::BTreeMap;
use std::time::Duration;

use chain::{Chain, ChainError, Committed, Metagraph, SubmitError};
use common::{Hotkey, Keypair, Netuid, TaskId};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Weightings;
use super::ballot::{Outcome, decode, encode, tally_votes};

const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// A commitment that fails for so long fails until a person mends it.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Votes, and counts votes.
#[derive(Debug)]
pub(super) struct Voter {
    pub(super) weightings: Weightings,
    pub(super) quorum: f64,
    /// How often votes are counted.
    pub(super) period: Duration,
    pub(super) chain: Chain,
    pub(super) netuid: Netuid,
    pub(super) keypair: Keypair,
}

/// Something that fails, is tried again after ever longer pauses, and is complained of once.
#[derive(Debug, Default)]
struct Trouble {
    failures: u32,
    not_before: Option<Instant>,
    said: String,
}

impl Trouble {
    fn is_due(&self) -> bool {
        self.not_before.is_none_or(|then| then <= Instant::now())
    }

    /// Whether `problem` is a new one.
    fn failed(&mut self, problem: &str, longest: Duration) -> bool {
        self.not_before = Some(Instant::now() + pause(self.failures, longest));
        self.failures = self.failures.saturating_add(1);
        let new = self.said != problem;
        problem.clone_into(&mut self.said);
        new
    }

    fn over(&mut self) {
        *self = Self::default();
    }
}

/// Doubled with each failure, up to `longest`.
fn pause(failures: u32, longest: Duration) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(longest)
}

impl Voter {
    /// Counts votes each period, and publishes ours whenever the chain holds another one. A chain that fails delays both.
    pub(super) async fn run(self) {
        let mut own = self.weightings.own.subscribe();
        let (mut reading, mut publishing) = (Trouble::default(), Trouble::default());
        loop {
            let weights = own.borrow_and_update().clone();
            let next = match self.read().await {
                Ok((metagraph, commitments)) => {
                    reading.over();
                    let outcome = count(&weights, &metagraph, &commitments, self.quorum);
                    self.weightings.set_voted(outcome);
                    self.publish(&weights, &commitments, &mut publishing).await
                }
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    if reading.failed(&error, self.period) {
                        warn!("votes on task weightings cannot be counted: {error}");
                    }
                    reading.not_before
                }
            };
            let latest = Instant::now() + self.period;
            tokio::select! {
                () = tokio::time::sleep_until(next.map_or(latest, |next| next.min(latest))) => {}
                changed = own.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn read(&self) -> Result<(Metagraph, BTreeMap<Hotkey, Vec<u8>>), ChainError> {
        let metagraph = self.chain.metagraph(self.netuid).await?;
        Ok((metagraph, self.chain.commitments(self.netuid).await?))
    }

    /// Returns when to look again, if before the period is over.
    async fn publish(
        &self,
        weights: &BTreeMap<TaskId, f64>,
        commitments: &BTreeMap<Hotkey, Vec<u8>>,
        trouble: &mut Trouble,
    ) -> Option<Instant> {
        let ballot = match encode(weights) {
            Ok(ballot) => ballot,
            Err(problem) => {
                if trouble.failed(&problem.to_string(), LONGEST_PAUSE) {
                    warn!("our task weightings are not published: {problem}");
                }
                return None;
            }
        };
        if commitments.get(&self.keypair.hotkey()) == Some(&ballot) {
            trouble.over();
            return None;
        }
        if !trouble.is_due() {
            return trouble.not_before;
        }
        match self.chain.commit(self.netuid, &self.keypair, &ballot).await {
            Ok(committed) => {
                if let Committed::Submitted { block, .. } = committed {
                    info!(%block, "our task weightings are published");
                }
                trouble.over();
                Some(Instant::now() + FIRST_PAUSE)
            }
            Err(error) => {
                self.complain(error, trouble);
                trouble.not_before
            }
        }
    }

    fn complain(&self, error: SubmitError, trouble: &mut Trouble) {
        let error = format!("{:#}", anyhow::Error::from(error));
        if trouble.failed(&error, LONGEST_PAUSE) {
            warn!("our task weightings are not published, which is tried again: {error}");
        } else {
            debug!("our task weightings are still not published: {error}");
        }
    }
}

/// What the validators of a subnet have voted for. Those with a permit have a say, by their stake.
fn count(
    own: &BTreeMap<TaskId, f64>,
    metagraph: &Metagraph,
    commitments: &BTreeMap<Hotkey, Vec<u8>>,
    quorum: f64,
) -> Option<Outcome> {
    let validators = || metagraph.neurons.iter().filter(|neuron| neuron.validator_permit);
    let votes: Vec<_> = validators()
        .filter_map(|neuron| Some((neuron.stake, decode(commitments.get(&neuron.hotkey)?)?)))
        .collect();
    let all_stake = validators().map(|neuron| neuron.stake).sum();
    tally_votes(own.keys(), &votes, all_stake, quorum)
}

#[cfg(test)]
mod tests {
    use chain::{BlockHash, Hyperparameters, Neuron};
    use common::{BlockNumber, Uid};
    use proptest::prelude::*;

    use super::*;

    fn key(name: u8) -> Hotkey {
        Hotkey::from_bytes([name; 32])
    }

    /// Neurons by name, stake, and whether they have a permit.
    fn metagraph(neurons: &[(u8, f64, bool)]) -> Metagraph {
        let neuron = |(uid, &(name, stake, validator_permit)): (usize, &(u8, f64, bool))| Neuron {
            uid: Uid(uid as u16),
            hotkey: key(name),
            coldkey: None,
            axon: None,
            stake,
            validator_permit,
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
            neurons: neurons.iter().enumerate().map(neuron).collect(),
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

    fn weights(a: f64, b: f64) -> BTreeMap<TaskId, f64> {
        BTreeMap::from([("a".parse().unwrap(), a), ("b".parse().unwrap(), b)])
    }

    #[test]
    fn only_validators_with_a_permit_have_a_say() {
        let metagraph =
            metagraph(&[(1, 30.0, true), (2, 10.0, true), (3, 900.0, false), (4, 10.0, true)]);
        let commitments = BTreeMap::from([
            (key(1), encode(&weights(1.0, 0.0)).unwrap()),
            (key(2), encode(&weights(0.0, 1.0)).unwrap()),
            (key(3), encode(&weights(0.0, 1.0)).unwrap()),
            (key(4), b"something else".to_vec()),
            (key(9), encode(&weights(0.0, 1.0)).unwrap()),
        ]);
        let own = weights(0.5, 0.5);
        let outcome = count(&own, &metagraph, &commitments, 0.5).unwrap();
        assert_eq!(outcome, Outcome { weights: weights(0.75, 0.25), stake: 0.8 });
        assert_eq!(count(&own, &metagraph, &commitments, 0.81), None);
    }

    #[test]
    fn a_problem_is_said_once_and_again_after_it_was_over() {
        let mut trouble = Trouble::default();
        assert!(trouble.is_due());
        assert!(trouble.failed("no stake", LONGEST_PAUSE));
        assert!(!trouble.failed("no stake", LONGEST_PAUSE));
        assert!(!trouble.is_due());
        assert!(trouble.failed("no permit", LONGEST_PAUSE));
        trouble.over();
        assert!(trouble.is_due() && trouble.failed("no permit", LONGEST_PAUSE));
    }

    proptest! {
        #[test]
        fn pauses_grow_up_to_the_longest(failures: u32) {
            let next = pause(failures.saturating_add(1), LONGEST_PAUSE);
            prop_assert!(pause(failures, LONGEST_PAUSE) <= next && next <= LONGEST_PAUSE);
            prop_assert_eq!(pause(failures, Duration::from_secs(1)), Duration::from_secs(1));
        }
    }
}
