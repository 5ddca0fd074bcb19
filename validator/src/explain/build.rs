//! From what is stored to an explanation.

use std::collections::{BTreeMap, BTreeSet};

use common::{Hotkey, MechanismId, TaskId, Uid};

use super::model::{
    AnswerRow, Contribution, Explanation, FieldMiner, OnChain, PeriodRow, ScoringFacts,
    TaskExplanation, TaskField,
};
use super::reproduce::{Reproduction, limit_that_shows, powers, reproduce};
use crate::scoring::{Factors, MinerScore, Rules, Score};
use crate::store::{Scoring, WeightsOnChain};

/// What the store has on a question.
#[derive(Debug)]
pub(super) struct Found {
    pub hotkey: Hotkey,
    /// The mechanism that is explained, and all that have tasks. What follows is of this one alone.
    pub mechanism: MechanismId,
    pub mechanisms: BTreeSet<MechanismId>,
    pub set: Option<WeightsOnChain>,
    /// The scoring that the weights on chain come from, if it is kept.
    pub behind: Option<Scoring>,
    pub newest: Scoring,
    /// The evidence on each task that is asked about.
    pub tasks: BTreeMap<TaskId, (Vec<PeriodRow>, Vec<AnswerRow>)>,
}

/// Shows the scoring behind the weights on chain. Who was not in it, having come later, is shown the newest one.
pub(super) fn build(found: Found) -> Explanation {
    let Found { hotkey, mechanism, mechanisms, set, behind, newest, tasks } = found;
    let in_newest = newest.scores.get(&hotkey).map(|miner| (newest.at_ms, miner.weight.get()));
    let behind = behind.filter(|behind| behind.scores.contains_key(&hotkey) || in_newest.is_none());
    let weights_come_from_scoring = behind.is_some();
    let newer = behind.as_ref().filter(|behind| behind.id != newest.id).and(in_newest);
    let scoring = behind.unwrap_or(newest);
    let own = scoring.scores.get(&hotkey).cloned().unwrap_or_default();
    let volumes = volumes(&scoring);
    let exponent = share_exponent(&scoring.rules);
    let tasks = tasks
        .into_iter()
        .map(|(task, (periods, answers))| {
            let score = own.tasks.get(&task).copied();
            let mean_quality = score.and_then(|score| mean_quality(&scoring.rules, &score.factors));
            let field = field(volumes.get(&task), exponent);
            TaskExplanation { task, score, mean_quality, field, periods, answers }
        })
        .collect();
    let miners = miners(&scoring, set.as_ref());
    let mut explanation = Explanation {
        hotkey,
        mechanism,
        mechanisms,
        on_chain: set.map(|set| on_chain(&hotkey, &set, &miners, weights_come_from_scoring)),
        scoring: ScoringFacts {
            id: scoring.id.0,
            at_ms: scoring.at_ms,
            rules: scoring.rules,
            weightings: scoring.tasks,
            newer,
        },
        weights_come_from_scoring,
        score: own.score,
        all_scores: miners.iter().map(|miner| miner.score).sum::<f64>() + 0.0,
        weight: own.weight.get(),
        contributions: contributions(&own),
        tasks,
        miners,
        volumes,
        reproduced: Reproduction::default(),
    };
    explanation.reproduced = reproduce(&explanation);
    explanation
}

fn contributions(own: &MinerScore) -> BTreeMap<TaskId, Contribution> {
    let of = |(task, score): (&TaskId, &crate::scoring::TaskScore)| {
        let contribution = Contribution {
            weighting: score.task_weight,
            share: score.share.get(),
            contribution: score.contribution,
        };
        (task.clone(), contribution)
    };
    own.tasks.iter().map(of).collect()
}

fn miners(scoring: &Scoring, set: Option<&WeightsOnChain>) -> Vec<FieldMiner> {
    let set: BTreeMap<Hotkey, (Uid, u16)> = set
        .iter()
        .flat_map(|set| &set.weights)
        .map(|(uid, hotkey, weight)| (*hotkey, (*uid, *weight)))
        .collect();
    scoring
        .scores
        .iter()
        .map(|(hotkey, miner)| {
            let set = set.get(hotkey);
            FieldMiner {
                hotkey: *hotkey,
                uid: set.map(|(uid, _)| *uid),
                score: miner.score,
                weight: miner.weight.get(),
                on_chain: set.map_or(0, |(_, weight)| *weight),
            }
        })
        .collect()
}

fn volumes(scoring: &Scoring) -> BTreeMap<TaskId, BTreeMap<Hotkey, f64>> {
    let mut volumes: BTreeMap<TaskId, BTreeMap<Hotkey, f64>> = BTreeMap::new();
    for (hotkey, miner) in &scoring.scores {
        for (task, score) in &miner.tasks {
            volumes.entry(task.clone()).or_default().insert(*hotkey, score.effective_volume);
        }
    }
    volumes
}

pub(super) fn share_exponent(rules: &Rules) -> f64 {
    match rules {
        Rules::Touchstone(parameters) => parameters.share_exponent,
        Rules::Subnet19(parameters) => parameters.share_exponent,
    }
}

fn field(volumes: Option<&BTreeMap<Hotkey, f64>>, share_exponent: f64) -> TaskField {
    let volumes: Vec<f64> = volumes.into_iter().flat_map(BTreeMap::values).copied().collect();
    let (largest_volume, powers) = powers(&volumes, share_exponent);
    TaskField {
        miners: volumes.len(),
        largest_volume,
        // A sum of nothing is a negative zero.
        sum_of_powers: powers.iter().sum::<f64>() + 0.0,
        share_exponent,
    }
}

/// The mean before the rules' exponent.
fn mean_quality(rules: &Rules, factors: &Factors) -> Option<f64> {
    match (rules, factors) {
        (Rules::Touchstone(_), Factors::Touchstone(factors)) => {
            let summary = &factors.summary;
            (summary.checked > 0.0).then(|| summary.quality_sum / summary.checked)
        }
        // There each answer's quality has an exponent, and then the mean.
        (Rules::Subnet19(parameters), Factors::Subnet19(factors)) => {
            let quality = factors.summary.quality.map(Score::get)?;
            let root = quality.powf(1.0 / parameters.low_quality_exponent);
            Some(if root <= parameters.low_quality { root } else { quality })
        }
        _ => None,
    }
}

/// `from_scoring`: whether these weights come from the scores of `miners`.
fn on_chain(
    hotkey: &Hotkey,
    set: &WeightsOnChain,
    miners: &[FieldMiner],
    from_scoring: bool,
) -> OnChain {
    let own = set.weights.iter().find(|(_, owner, _)| owner == hotkey);
    let weight = own.map_or(0, |(.., weight)| *weight);
    let all_weights: u64 = set.weights.iter().map(|(.., weight)| u64::from(*weight)).sum();
    let share = if all_weights > 0 { f64::from(weight) / all_weights as f64 } else { 0.0 };
    let limit = if from_scoring { limit_that_shows(miners) } else { None };
    OnChain {
        at_ms: set.at_ms,
        block: set.block,
        uid: own.map(|(uid, ..)| *uid),
        weight,
        share,
        all_weights,
        max_weights_limit: limit.unwrap_or(u16::MAX),
    }
}
