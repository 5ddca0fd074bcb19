//! All evidence to all weights.

use std::collections::BTreeMap;

use common::TaskId;
use serde::Serialize;

use super::{History, Parameters, Period, Score, amount, history, quality, speed, speed_bonuses};

/// Everything that is known about one miner and one task.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evidence {
    /// The volume the miner declares for the current period, in the task's unit, after the task's maximum was applied.
    pub capacity: f64,
    /// Its past periods, newest first.
    pub periods: Vec<Period>,
    /// The qualities of its checked answers, each in `0.0..=1.0`, in any order.
    pub qualities: Vec<f64>,
    /// The [weighted speeds](super::weighted_speed) of the same answers, in any order.
    pub weighted_speeds: Vec<f64>,
}

/// The result: every miner of the evidence, with every number on the way to its weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores<K: Ord> {
    pub miners: BTreeMap<K, MinerScore>,
}

/// What one miner has earned.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct MinerScore {
    /// The sum of the tasks' contributions.
    pub score: f64,
    /// The share of all miners' scores. Over all miners these sum to 1, or are all 0 if nobody has earned anything.
    pub weight: Score,
    /// The tasks there is evidence for, without those that were not asked about.
    pub tasks: BTreeMap<TaskId, TaskScore>,
}

/// How one miner's contribution for one task came about, in the order of computation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TaskScore {
    /// See [`quality`]. Without checked answers a miner earns nothing.
    pub quality: Option<Score>,
    /// See [`speed`], in units per second.
    pub speed: Option<f64>,
    /// See [`speed_bonuses`]; 0 without a speed.
    pub speed_bonus: f64,
    /// `quality * (1 + speed_bonus)`.
    pub combined_quality: f64,
    pub history: History,
    /// The declared volume, in the task's unit.
    pub capacity: f64,
    /// `combined_quality * history.score * capacity`.
    pub effective_volume: f64,
    /// The miner's part of all effective volumes of the task, to the power of 4, relative to the others' again: over all
    /// miners these sum to 1, or are all 0.
    pub share: Score,
    /// The task's weighting, `0.0..=1.0`.
    pub task_weight: f64,
    /// `task_weight * share`.
    pub contribution: f64,
}

/// Computes all weights.
///
/// `tasks` are the enabled tasks with their weightings, which sum to 1. Evidence for other tasks is left out, so that a
/// task can vanish from the catalogue while its evidence is still stored. `K` names a miner: its hotkey, never its uid.
pub fn weights<K: Ord + Clone>(
    parameters: &Parameters,
    tasks: &BTreeMap<TaskId, f64>,
    evidence: &BTreeMap<(K, TaskId), Evidence>,
) -> Scores<K> {
    let mut by_task: BTreeMap<&TaskId, BTreeMap<&K, &Evidence>> = BTreeMap::new();
    let mut miners: BTreeMap<K, MinerScore> = BTreeMap::new();
    for ((miner, task), evidence) in evidence {
        miners.entry(miner.clone()).or_default();
        by_task.entry(task).or_default().insert(miner, evidence);
    }
    for (task, weight) in tasks {
        let Some(contenders) = by_task.get(task) else { continue };
        for (contender, score) in score_task(parameters, amount(*weight).min(1.0), contenders) {
            if let Some(miner) = miners.get_mut(contender) {
                miner.score += score.contribution;
                miner.tasks.insert(task.clone(), score);
            }
        }
    }
    let total: f64 = miners.values().map(|miner| miner.score).sum();
    if total > 0.0 {
        for miner in miners.values_mut() {
            miner.weight = Score::clamped(miner.score / total);
        }
    }
    Scores { miners }
}

fn score_task<'a, K: Ord + Clone>(
    parameters: &Parameters,
    task_weight: f64,
    contenders: &BTreeMap<&'a K, &Evidence>,
) -> BTreeMap<&'a K, TaskScore> {
    let speeds: BTreeMap<&K, f64> = contenders
        .iter()
        .filter_map(|(miner, seen)| Some((*miner, speed(parameters, &seen.weighted_speeds)?)))
        .collect();
    let bonuses = speed_bonuses(parameters, &speeds);
    let mut scores: BTreeMap<&K, TaskScore> = contenders
        .iter()
        .map(|(miner, seen)| {
            let bonus = bonuses.get(miner).copied().unwrap_or(0.0);
            (*miner, score_contender(parameters, seen, speeds.get(miner).copied(), bonus))
        })
        .collect();
    set_shares(parameters, &mut scores);
    for score in scores.values_mut() {
        score.task_weight = task_weight;
        score.contribution = task_weight * score.share.get();
    }
    scores
}

/// Everything that does not depend on the other miners' volumes.
fn score_contender(
    parameters: &Parameters,
    seen: &Evidence,
    speed: Option<f64>,
    speed_bonus: f64,
) -> TaskScore {
    let quality = quality(parameters, &seen.qualities);
    let combined_quality = quality.map_or(0.0, Score::get) * (1.0 + speed_bonus);
    let history = history(parameters, &seen.periods);
    let capacity = amount(seen.capacity);
    TaskScore {
        quality,
        speed,
        speed_bonus,
        combined_quality,
        history,
        capacity,
        effective_volume: (combined_quality * history.score.get() * capacity).min(f64::MAX),
        share: Score::ZERO,
        task_weight: 0.0,
        contribution: 0.0,
    }
}

/// Powers of parts, as parts of their sum.
///
/// Taken relative to the largest volume instead of to their sum, which cancels out and can neither overflow nor vanish.
fn set_shares<K: Ord>(parameters: &Parameters, scores: &mut BTreeMap<K, TaskScore>) {
    let largest = scores.values().map(|score| score.effective_volume).fold(0.0, f64::max);
    if largest == 0.0 {
        return;
    }
    let power =
        |score: &TaskScore| (score.effective_volume / largest).powf(parameters.share_exponent);
    let total: f64 = scores.values().map(power).sum();
    for score in scores.values_mut() {
        score.share = Score::clamped(power(score) / total);
    }
}

#[cfg(test)]
mod tests {
    use proptest::num::f64::ANY;
    use proptest::prelude::*;

    use super::*;

    fn task(name: &str) -> TaskId {
        name.parse().unwrap()
    }

    fn tasks() -> BTreeMap<TaskId, f64> {
        [(task("chat"), 0.6), (task("completion"), 0.4)].into()
    }

    fn good(capacity: f64) -> Evidence {
        Evidence {
            capacity,
            periods: vec![Period { score: Some(Score::clamped(1.0)), consumed: 50.0 }; 9],
            qualities: vec![1.0; 5],
            weighted_speeds: vec![40.0; 5],
        }
    }

    fn run<const N: usize>(evidence: [((u8, &str), Evidence); N]) -> Scores<u8> {
        let evidence =
            evidence.into_iter().map(|((miner, name), seen)| ((miner, task(name)), seen)).collect();
        weights(&Parameters::default(), &tasks(), &evidence)
    }

    fn weight(scores: &Scores<u8>, miner: u8) -> f64 {
        scores.miners[&miner].weight.get()
    }

    #[test]
    fn nobody_gets_weight_without_evidence() {
        assert!(run([]).miners.is_empty());
        let scores = run([((1, "chat"), Evidence { capacity: 100.0, ..Evidence::default() })]);
        assert_eq!(weight(&scores, 1), 0.0);
    }

    #[test]
    fn equal_miners_get_equal_weight_whatever_their_names() {
        let scores = run([((1, "chat"), good(100.0)), ((2, "chat"), good(100.0))]);
        assert_eq!(weight(&scores, 1), 0.5);
        assert_eq!(weight(&scores, 2), 0.5);
    }

    #[test]
    fn twice_the_volume_gets_sixteen_times_the_weight() {
        let scores = run([((1, "chat"), good(100.0)), ((2, "chat"), good(200.0))]);
        assert!((weight(&scores, 2) / weight(&scores, 1) - 16.0).abs() < 1e-9);
    }

    #[test]
    fn tasks_count_by_their_weighting() {
        let scores = run([((1, "chat"), good(100.0)), ((2, "completion"), good(100.0))]);
        assert!((weight(&scores, 1) - 0.6).abs() < 1e-12);
        assert!((weight(&scores, 2) - 0.4).abs() < 1e-12);
    }

    #[test]
    fn evidence_for_a_task_that_vanished_is_left_out() {
        let scores = run([((1, "chat"), good(100.0)), ((2, "vanished"), good(100.0))]);
        assert_eq!(weight(&scores, 1), 1.0);
        assert_eq!(scores.miners[&2], MinerScore::default());
    }

    #[test]
    fn one_miner_with_absurd_numbers_changes_nothing_for_the_others() {
        let honest = run([((1, "chat"), good(100.0)), ((2, "chat"), good(50.0))]);
        let absurd = Evidence {
            capacity: f64::NAN,
            qualities: vec![-10.0, f64::NAN],
            weighted_speeds: vec![f64::NEG_INFINITY, f64::NAN],
            ..good(1.0)
        };
        let scores =
            run([((1, "chat"), good(100.0)), ((2, "chat"), good(50.0)), ((3, "chat"), absurd)]);
        for miner in [1, 2] {
            assert_eq!(weight(&scores, miner), weight(&honest, miner));
        }
        assert_eq!(weight(&scores, 3), 0.0);
    }

    prop_compose! {
        fn anything()(
            capacity in ANY,
            periods in prop::collection::vec((prop::option::of(ANY), ANY), 0..12),
            qualities in prop::collection::vec(ANY, 0..8),
            weighted_speeds in prop::collection::vec(ANY, 0..8),
        ) -> Evidence {
            let periods =
                periods.into_iter().map(|(score, consumed)| Period { score: score.map(Score::clamped), consumed });
            Evidence { capacity, periods: periods.collect(), qualities, weighted_speeds }
        }
    }

    prop_compose! {
        fn plausible()(
            capacity in 0.0..1e5,
            periods in prop::collection::vec((0.0..=1.0, 0.0..1e5), 0..12),
            answers in prop::collection::vec((0.0..=1.0, 0.0..200.0), 0..8),
        ) -> Evidence {
            let (qualities, weighted_speeds) = answers.into_iter().unzip();
            let periods = periods
                .into_iter()
                .map(|(score, consumed): (f64, f64)| Period { score: Some(Score::clamped(score)), consumed });
            Evidence { capacity, periods: periods.collect(), qualities, weighted_speeds }
        }
    }

    fn field(
        evidence: impl Strategy<Value = Evidence>,
    ) -> impl Strategy<Value = BTreeMap<(u8, TaskId), Evidence>> {
        let name = prop::sample::select(vec!["chat", "completion", "vanished"]).prop_map(task);
        prop::collection::btree_map((0..12u8, name), evidence, 0..24)
    }

    fn check_ranges(scores: &Scores<u8>) -> Result<(), TestCaseError> {
        let total: f64 = scores.miners.values().map(|miner| miner.weight.get()).sum();
        prop_assert!(total == 0.0 || (total - 1.0).abs() < 1e-9, "weights sum to {}", total);
        for miner in scores.miners.values() {
            prop_assert!((0.0..=1.0).contains(&miner.weight.get()));
            prop_assert!(miner.score.is_finite() && miner.score >= 0.0);
            for score in miner.tasks.values() {
                prop_assert!((-0.25..=0.25).contains(&score.speed_bonus));
                prop_assert!((0.0..=1.25).contains(&score.combined_quality));
                prop_assert!((0.0..=f64::MAX).contains(&score.effective_volume));
                prop_assert!((0.0..=1.0).contains(&score.share.get()));
                prop_assert!((0.0..=1.0).contains(&score.contribution));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn no_evidence_makes_a_weight_unusable(
            evidence in field(anything()), weighting in prop::array::uniform2(ANY),
        ) {
            let tasks = [(task("chat"), weighting[0]), (task("completion"), weighting[1])].into();
            check_ranges(&weights(&Parameters::default(), &tasks, &evidence))?;
        }

        #[test]
        fn weights_sum_to_one_as_soon_as_somebody_has_earned_something(evidence in field(plausible())) {
            let scores = weights(&Parameters::default(), &tasks(), &evidence);
            check_ranges(&scores)?;
            let earned = scores.miners.values().any(|miner| miner.score > 0.0);
            let total: f64 = scores.miners.values().map(|miner| miner.weight.get()).sum();
            prop_assert_eq!(earned, total > 0.5);
        }

        #[test]
        fn a_worse_history_never_raises_a_weight(evidence in field(plausible()), which: prop::sample::Index) {
            prop_assume!(!evidence.is_empty());
            let key = evidence.keys().nth(which.index(evidence.len())).unwrap().clone();
            let mut worse = evidence.clone();
            for period in &mut worse.get_mut(&key).unwrap().periods {
                period.score = period.score.map(|score| Score::clamped(score.get() / 2.0));
            }
            let before = weights(&Parameters::default(), &tasks(), &evidence);
            let after = weights(&Parameters::default(), &tasks(), &worse);
            prop_assert!(after.miners[&key.0].weight.get() <= before.miners[&key.0].weight.get() + 1e-12);
        }
    }
}
