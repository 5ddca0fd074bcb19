//! All evidence to all weights: what the presets have in common.

use std::collections::BTreeMap;

use common::TaskId;
use serde::{Deserialize, Serialize};

use super::{Evidence, Rules, Score, Span, amount, subnet19, touchstone};

/// Rules at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Scorer {
    rules: Rules,
    now_ms: i64,
    period_s: f64,
    /// See [`touchstone::observed`].
    observed: f64,
}

/// What the evidence about one contender comes to, without regard to the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Summary {
    Touchstone(touchstone::Summary),
    Subnet19(subnet19::Summary),
}

/// The result: every miner of the evidence, with every number on the way to its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores<K: Ord> {
    pub miners: BTreeMap<K, MinerScore>,
}

/// What one miner has earned.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MinerScore {
    /// The sum of the tasks' contributions.
    pub score: f64,
    /// The share of all miners' scores. Over all miners these sum to 1, or are all 0 if nobody has earned anything.
    pub weight: Score,
    /// The tasks there is evidence for, without those that were not asked about.
    pub tasks: BTreeMap<TaskId, TaskScore>,
}

/// How one miner's contribution for one task came about, in the order of computation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    pub factors: Factors,
    /// What the factors come to, in the task's unit.
    pub effective_volume: f64,
    /// The miner's part of all effective volumes of the task, to the power of the preset's exponent, relative to the
    /// others' again: over all miners these sum to 1, or are all 0.
    pub share: Score,
    /// The task's weighting, `0.0..=1.0`.
    pub task_weight: f64,
    /// `task_weight * share`.
    pub contribution: f64,
}

/// The numbers that make an effective volume.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Factors {
    Touchstone(touchstone::Factors),
    Subnet19(subnet19::Factors),
}

impl TaskScore {
    /// What the checked answers' qualities come to, `0.0..=1.0`; `None` without any.
    pub fn quality(&self) -> Option<f64> {
        match &self.factors {
            Factors::Touchstone(factors) => factors.summary.quality.map(Score::get),
            Factors::Subnet19(factors) => factors.summary.quality.map(Score::get),
        }
    }

    /// Units per second, quality counted in.
    pub fn speed(&self) -> Option<f64> {
        match &self.factors {
            Factors::Touchstone(factors) => factors.summary.speed,
            Factors::Subnet19(factors) => factors.summary.speed,
        }
    }
}

impl<K: Ord + Clone> Scores<K> {
    /// What some of the tasks alone come to, those of one mechanism: everybody's score over them, and the weights by that.
    #[must_use]
    pub fn of_tasks(&self, counts: impl Fn(&TaskId) -> bool) -> Self {
        let of = |(key, miner): (&K, &MinerScore)| {
            let tasks = miner.tasks.iter().filter(|(task, _)| counts(task));
            let tasks: BTreeMap<_, _> = tasks.map(|(task, score)| (task.clone(), *score)).collect();
            // From zero, in the order in which they were added up at first: the sum of all is the same to the last bit.
            let score = tasks.values().fold(0.0, |sum, task| sum + task.contribution);
            (key.clone(), MinerScore { score, weight: Score::ZERO, tasks })
        };
        let mut miners = self.miners.iter().map(of).collect();
        weigh(&mut miners);
        Self { miners }
    }
}

/// The share of all scores that each has.
fn weigh<K>(miners: &mut BTreeMap<K, MinerScore>) {
    let total: f64 = miners.values().map(|miner| miner.score).sum();
    if total > 0.0 {
        for miner in miners.values_mut() {
            miner.weight = Score::clamped(miner.score / total);
        }
    }
}

impl Scorer {
    pub(super) fn new(rules: Rules, now_ms: i64, spans: &[Span], period_s: f64) -> Self {
        let observed = match &rules {
            Rules::Touchstone(parameters) => touchstone::observed(parameters, now_ms, spans),
            Rules::Subnet19(_) => 0.0,
        };
        Self { rules, now_ms, period_s: amount(period_s), observed }
    }

    /// Sums up what is known of one contender.
    pub fn sum_up(&self, evidence: &Evidence) -> Summary {
        match &self.rules {
            Rules::Touchstone(parameters) => Summary::Touchstone(touchstone::sum_up(
                parameters,
                self.now_ms,
                self.observed,
                self.period_s,
                evidence,
            )),
            Rules::Subnet19(parameters) => {
                Summary::Subnet19(subnet19::sum_up(parameters, evidence))
            }
        }
    }

    /// Computes all weights.
    ///
    /// `tasks` are the enabled tasks with their weightings, which sum to 1. Contenders of other tasks are left out, so
    /// that a task can vanish from the catalogue while its evidence is still stored; so are summaries of other rules.
    /// `K` names a miner: its hotkey, never its uid.
    pub fn weights<K: Ord + Clone>(
        &self,
        tasks: &BTreeMap<TaskId, f64>,
        summaries: &BTreeMap<(K, TaskId), Summary>,
    ) -> Scores<K> {
        let mut by_task: BTreeMap<&TaskId, Vec<(&K, &Summary)>> = BTreeMap::new();
        let mut miners: BTreeMap<K, MinerScore> = BTreeMap::new();
        for ((miner, task), summary) in summaries {
            if !miners.contains_key(miner) {
                miners.insert(miner.clone(), MinerScore::default());
            }
            by_task.entry(task).or_default().push((miner, summary));
        }
        for (task, weight) in tasks {
            let Some(contenders) = by_task.get(task) else { continue };
            for (contender, score) in self.score_task(amount(*weight).min(1.0), contenders) {
                if let Some(miner) = miners.get_mut(contender) {
                    miner.score += score.contribution;
                    miner.tasks.insert(task.clone(), score);
                }
            }
        }
        weigh(&mut miners);
        Scores { miners }
    }

    fn score_task<'a, K>(
        &self,
        task_weight: f64,
        contenders: &[(&'a K, &Summary)],
    ) -> Vec<(&'a K, TaskScore)> {
        let (miners, volumes, exponent): (_, Vec<(Factors, f64)>, _) = match &self.rules {
            Rules::Touchstone(parameters) => {
                let (miners, summaries) = of_preset(contenders, Summary::touchstone);
                let volumes = touchstone::volumes(parameters, &summaries).into_iter();
                let volumes =
                    volumes.map(|(factors, volume)| (Factors::Touchstone(factors), volume));
                (miners, volumes.collect(), parameters.share_exponent)
            }
            Rules::Subnet19(parameters) => {
                let (miners, summaries) = of_preset(contenders, Summary::subnet19);
                let volumes = subnet19::volumes(parameters, &summaries).into_iter();
                let volumes = volumes.map(|(factors, volume)| (Factors::Subnet19(factors), volume));
                (miners, volumes.collect(), parameters.share_exponent)
            }
        };
        let shares = shares(volumes.iter().map(|(_, volume)| *volume), exponent);
        let scored = volumes.into_iter().zip(shares).map(|((factors, effective_volume), share)| {
            let contribution = task_weight * share.get();
            TaskScore { factors, effective_volume, share, task_weight, contribution }
        });
        miners.into_iter().zip(scored).collect()
    }
}

impl Summary {
    fn touchstone(&self) -> Option<touchstone::Summary> {
        match self {
            Self::Touchstone(summary) => Some(*summary),
            Self::Subnet19(_) => None,
        }
    }

    fn subnet19(&self) -> Option<subnet19::Summary> {
        match self {
            Self::Subnet19(summary) => Some(*summary),
            Self::Touchstone(_) => None,
        }
    }
}

/// The contenders whose summary is of the preset that `pick` picks.
fn of_preset<'a, K, S>(
    contenders: &[(&'a K, &Summary)],
    pick: impl Fn(&Summary) -> Option<S>,
) -> (Vec<&'a K>, Vec<S>) {
    contenders.iter().filter_map(|(miner, summary)| Some((*miner, pick(summary)?))).unzip()
}

/// Powers of parts, as parts of their sum.
///
/// Taken relative to the largest volume instead of to their sum, which cancels out and can neither overflow nor vanish.
fn shares(volumes: impl Iterator<Item = f64> + Clone, exponent: f64) -> Vec<Score> {
    let largest = volumes.clone().fold(0.0, f64::max);
    if largest == 0.0 {
        return volumes.map(|_| Score::ZERO).collect();
    }
    let powers: Vec<f64> = volumes.map(|volume| (volume / largest).powf(exponent)).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|power| Score::clamped(power / total)).collect()
}
