//! How a validator publishes its task weightings in the few bytes of a commitment, and what many of them come to. Pure.
//!
//! A ballot is `TsW`, a version, and for each task the first four bytes of the SHA-256 of its id and its share in 65535ths,
//! little-endian, in ascending order of the former.

use std::collections::BTreeMap;

use common::TaskId;
use sha2::{Digest as _, Sha256};

/// The mark of a ballot, and its version. Hotkeys publish other things too.
const HEAD: [u8; 4] = *b"TsW\x01";
/// Four bytes of name, two of share.
const BYTES_PER_TASK: usize = 6;
/// As many as fit into the chain's 128 bytes.
pub const MAX_TASKS: usize = (chain::MAX_COMMITMENT_BYTES - HEAD.len()) / BYTES_PER_TASK;

/// How a ballot names a task.
type Name = [u8; 4];

/// One validator's task weightings as published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ballot {
    /// At least one is above 0.
    shares: BTreeMap<Name, u16>,
}

/// Why weightings cannot be published.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unpublishable {
    #[error("a ballot has room for {MAX_TASKS} tasks, the catalogue has {0} enabled ones")]
    TooMany(usize),
    #[error("the weightings are not numbers of at least 0 with one above 0")]
    BadNumbers,
    #[error("the tasks `{0}` and `{1}` have the same name in a ballot; rename one")]
    SameName(TaskId, TaskId),
}

/// What a vote has come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Sums to 1.
    pub weights: BTreeMap<TaskId, f64>,
    /// The part of all stake that has voted, above 0 and at most 1.
    pub stake: f64,
}

fn name(task: &TaskId) -> Name {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(task.as_str()).into();
    [a, b, c, d]
}

/// The published form of `weights`, numbers of any sum; tasks that weigh nothing are published too.
///
/// # Errors
/// What cannot be published, without which nobody can vote.
pub fn encode(weights: &BTreeMap<TaskId, f64>) -> Result<Vec<u8>, Unpublishable> {
    if weights.len() > MAX_TASKS {
        return Err(Unpublishable::TooMany(weights.len()));
    }
    let total: f64 = weights.values().sum();
    let sound = weights.values().all(|weight| *weight >= 0.0);
    if !(sound && total.is_finite() && total > 0.0) {
        return Err(Unpublishable::BadNumbers);
    }
    let mut shares = BTreeMap::new();
    for (task, weight) in weights {
        // The quotient is in 0..=1, so the cast is exact.
        let share = (weight / total * f64::from(u16::MAX)).round() as u16;
        if let Some((other, _)) = shares.insert(name(task), (task, share)) {
            return Err(Unpublishable::SameName(other.clone(), task.clone()));
        }
    }
    let tasks = shares.into_iter().flat_map(|(name, (_, share))| {
        let [low, high] = share.to_le_bytes();
        let [a, b, c, d] = name;
        [a, b, c, d, low, high]
    });
    Ok(HEAD.into_iter().chain(tasks).collect())
}

/// Reads a commitment. `None` for everything but a ballot of this version exactly as [`encode`] writes it.
pub fn decode(commitment: &[u8]) -> Option<Ballot> {
    let (tasks, rest) = commitment.strip_prefix(&HEAD)?.as_chunks::<BYTES_PER_TASK>();
    if !rest.is_empty() || tasks.len() > MAX_TASKS {
        return None;
    }
    let mut shares = BTreeMap::new();
    for &[a, b, c, d, low, high] in tasks {
        let name = [a, b, c, d];
        if shares.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return None;
        }
        shares.insert(name, u16::from_le_bytes([low, high]));
    }
    shares.values().any(|share| *share > 0).then_some(Ballot { shares })
}

impl Ballot {
    /// The part of the whole that the ballot gives to a task, `0.0..=1.0`.
    pub fn share(&self, task: &TaskId) -> f64 {
        let total: f64 = self.shares.values().map(|share| f64::from(*share)).sum();
        self.shares.get(&name(task)).map_or(0.0, |share| f64::from(*share) / total)
    }
}

/// The stake-weighted mean of `votes` over `tasks`, if those with a say have voted with at least `quorum` of `all_stake`.
///
/// Each vote is a stake and a ballot. A ballot gives nothing to tasks that it does not name; what ballots give to tasks that
/// are not in `tasks` is ignored and does not count towards the quorum. Votes whose stake is no number above 0 are not counted.
pub fn tally_votes<'a>(
    tasks: impl IntoIterator<Item = &'a TaskId>,
    votes: &[(f64, Ballot)],
    all_stake: f64,
    quorum: f64,
) -> Option<Outcome> {
    let counts = |stake: f64| stake.is_finite() && stake > 0.0;
    if !counts(all_stake) {
        return None;
    }
    let votes: Vec<_> = votes.iter().filter(|(stake, _)| counts(*stake)).collect();
    let cast: f64 = votes.iter().map(|(stake, _)| stake).sum();
    let voted = (cast / all_stake).min(1.0);
    if !(counts(cast) && voted > 0.0 && voted >= quorum) {
        return None;
    }
    let given: BTreeMap<TaskId, f64> = tasks
        .into_iter()
        .map(|task| {
            let given = votes.iter().map(|(stake, ballot)| stake / cast * ballot.share(task)).sum();
            (task.clone(), given)
        })
        .collect();
    let total: f64 = given.values().sum();
    // What is given to tasks of another catalogue is no vote on this one. What is left may be so small that dividing by it
    // loses all digits.
    let voted = voted * total.min(1.0);
    if total < f64::MIN_POSITIVE || voted < quorum {
        return None;
    }
    let weights = given.into_iter().map(|(task, given)| (task, given / total)).collect();
    Some(Outcome { weights, stake: voted })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tasks(count: usize) -> Vec<TaskId> {
        (0..count).map(|n| format!("task-{n}").parse().unwrap()).collect()
    }

    fn weights(weights: &[f64]) -> BTreeMap<TaskId, f64> {
        tasks(weights.len()).into_iter().zip(weights.iter().copied()).collect()
    }

    fn ballot(shares: &[f64]) -> Ballot {
        decode(&encode(&weights(shares)).unwrap()).unwrap()
    }

    fn shares(outcome: Option<Outcome>) -> Vec<f64> {
        outcome.map(|outcome| outcome.weights.into_values().collect()).unwrap_or_default()
    }

    #[test]
    fn the_published_form_stays_what_other_validators_read() {
        let published = encode(&weights(&[3.0, 1.0])).unwrap();
        assert_eq!(
            published.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            "54735701600153c1ffbf7afaa3460040"
        );
    }

    #[test]
    fn twenty_tasks_fit_and_one_more_does_not() {
        assert_eq!(MAX_TASKS, 20);
        assert_eq!(encode(&weights(&[1.0; 20])).unwrap().len(), 124);
        assert_eq!(encode(&weights(&[1.0; 21])), Err(Unpublishable::TooMany(21)));
    }

    #[test]
    fn weightings_that_are_no_shares_are_not_published() {
        for bad in [&[][..], &[0.0, 0.0], &[1.0, f64::NAN], &[1.0, -0.5], &[f64::MAX, f64::MAX]] {
            assert_eq!(encode(&weights(bad)), Err(Unpublishable::BadNumbers), "{bad:?}");
        }
    }

    #[test]
    fn only_what_encode_writes_is_a_ballot() {
        let good = encode(&weights(&[1.0, 0.0])).unwrap();
        assert!(decode(&good).is_some());
        let mut other_version = good.clone();
        other_version[3] = 2;
        let swapped = [&good[..4], &good[10..], &good[4..10]].concat();
        let twice = [&good[..10], &good[4..10]].concat();
        let nothing = [&good[..8], &[0, 0]].concat();
        let long = [&good[..], &[0]].concat();
        let json = br#"{"model": "x"}"#.to_vec();
        for bad in [other_version, swapped, twice, nothing, long, json, HEAD.to_vec(), Vec::new()] {
            assert_eq!(decode(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_mean_weighs_votes_by_stake() {
        let votes = [(300.0, ballot(&[1.0, 0.0])), (100.0, ballot(&[0.0, 1.0]))];
        let outcome = tally_votes(&tasks(2), &votes, 400.0, 0.5).unwrap();
        assert_eq!(outcome.stake, 1.0);
        assert_eq!(outcome.weights, weights(&[0.75, 0.25]));
    }

    #[test]
    fn a_vote_counts_from_the_quorum_on() {
        let votes = [(50.0, ballot(&[1.0, 1.0]))];
        assert_eq!(tally_votes(&tasks(2), &votes, 100.0, 0.5).unwrap().stake, 0.5);
        assert_eq!(tally_votes(&tasks(2), &votes, 100.1, 0.5), None);
        assert_eq!(tally_votes(&tasks(2), &[], 100.0, 0.0), None);
    }

    #[test]
    fn votes_for_unknown_tasks_and_votes_without_stake_are_ignored() {
        let votes = [
            (10.0, ballot(&[1.0, 1.0, 2.0])),
            (f64::NAN, ballot(&[0.0, 1.0])),
            (f64::INFINITY, ballot(&[0.0, 1.0])),
            (-5.0, ballot(&[0.0, 1.0])),
        ];
        let found = shares(tally_votes(&tasks(2), &votes, 10.0, 0.5));
        assert!((found[0] - 0.5).abs() < 1e-4, "{found:?}");
        let elsewhere = [(10.0, ballot(&[0.0, 0.0, 1.0]))];
        assert_eq!(tally_votes(&tasks(2), &elsewhere, 10.0, 0.5), None);
        for all_stake in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(tally_votes(&tasks(2), &votes, all_stake, 0.5), None);
        }
    }

    proptest! {
        #[test]
        fn a_ballot_says_what_its_weightings_were(
            given in prop::collection::vec(0.0..1e9_f64, 1..=MAX_TASKS),
        ) {
            prop_assume!(given.iter().any(|weight| *weight > 0.0));
            let published = encode(&weights(&given)).unwrap();
            prop_assert!(published.len() <= chain::MAX_COMMITMENT_BYTES);
            let ballot = decode(&published).unwrap();
            let total: f64 = given.iter().sum();
            for (task, weight) in weights(&given) {
                prop_assert!((ballot.share(&task) - weight / total).abs() < 20.0 / 65535.0);
            }
            // What was read and is published again stays as it was.
            let again = tasks(given.len()).into_iter().map(|task| (task.clone(), ballot.share(&task)));
            prop_assert_eq!(decode(&encode(&again.collect()).unwrap()).unwrap().shares.len(), given.len());
        }

        #[test]
        fn no_commitment_makes_decoding_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), ours: bool) {
            let bytes = if ours { [&HEAD[..], &bytes].concat() } else { bytes };
            if let Some(ballot) = decode(&bytes) {
                prop_assert!(ballot.shares.len() <= MAX_TASKS);
            }
        }

        #[test]
        fn an_outcome_is_a_distribution_within_what_was_voted(
            votes in prop::collection::vec(
                (
                    prop_oneof![0.0..1e9, Just(f64::MAX), Just(f64::MIN_POSITIVE), any::<f64>()],
                    prop::collection::vec(0.0..1.0_f64, 3),
                ),
                0..6,
            ),
            all_stake in prop_oneof![0.0..1e10, any::<f64>()],
            quorum in 0.0..=1.0_f64,
        ) {
            let votes: Vec<_> = votes
                .into_iter()
                .filter(|(_, shares)| shares.iter().any(|share| *share > 0.0))
                .map(|(stake, shares)| (stake, ballot(&shares)))
                .collect();
            if let Some(outcome) = tally_votes(&tasks(3), &votes, all_stake, quorum) {
                prop_assert!(outcome.stake >= quorum && outcome.stake <= 1.0);
                prop_assert!((outcome.weights.values().sum::<f64>() - 1.0).abs() < 1e-9);
                for (task, weight) in &outcome.weights {
                    let shares = votes.iter().map(|(_, ballot)| ballot.share(task));
                    let (low, high) = shares.fold((1.0_f64, 0.0_f64), |(low, high), share| {
                        (low.min(share), high.max(share))
                    });
                    prop_assert!(*weight >= low - 1e-9 && *weight <= high + 1e-9);
                }
            }
        }
    }
}
