//! What an explanation says. Numbers are unrounded; times are Unix milliseconds.

use std::collections::{BTreeMap, BTreeSet};

use common::checks::Evidence;
use common::{BlockNumber, Hotkey, MechanismId, TaskId, Uid};
use serde::{Deserialize, Serialize};

use super::Reproduction;
use crate::scoring::{Rules, Stretch, TaskScore};
use crate::store::{CheckedAnswer, PeriodId};
use crate::tally::Failures;

/// How one miner's weight came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub hotkey: Hotkey,
    /// The mechanism whose weight is explained: everything below counts its tasks alone.
    pub mechanism: MechanismId,
    /// All mechanisms that have tasks.
    pub mechanisms: BTreeSet<MechanismId>,
    /// The newest weights that the chain has confirmed; absent before the first.
    pub on_chain: Option<OnChain>,
    pub scoring: ScoringFacts,
    /// Whether the weights on chain are those of this scoring.
    pub weights_come_from_scoring: bool,
    /// The miner's score: the sum of its tasks' contributions.
    pub score: f64,
    /// All miners' scores together.
    pub all_scores: f64,
    /// `score / all_scores`, `0.0..=1.0`.
    pub weight: f64,
    /// What each of its tasks adds to the score.
    pub contributions: BTreeMap<TaskId, Contribution>,
    /// The tasks that were asked about.
    pub tasks: Vec<TaskExplanation>,
    /// The scores of everybody in the scoring, and the volumes they come from: what this miner is measured against.
    pub miners: Vec<FieldMiner>,
    pub volumes: BTreeMap<TaskId, BTreeMap<Hotkey, f64>>,
    pub reproduced: Reproduction,
}

/// What the chain has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OnChain {
    pub at_ms: i64,
    pub block: BlockNumber,
    /// The miner's; absent if it has no weight in this block.
    pub uid: Option<Uid>,
    /// The miner's, as the chain stores it; 0 without one.
    pub weight: u16,
    /// `weight / all_weights`, `0.0..=1.0`.
    pub share: f64,
    /// The sum of all weights in this block.
    pub all_weights: u64,
    /// The largest part of all weights that the subnet lets one miner have, of 65535, as far as it shows.
    pub max_weights_limit: u16,
}

/// Which scoring is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoringFacts {
    pub id: i64,
    pub at_ms: i64,
    pub rules: Rules,
    /// The weightings of the mechanism's tasks; over the tasks of all mechanisms they sum to 1.
    pub weightings: BTreeMap<TaskId, f64>,
    /// A later one, whose weights are not on chain yet: when it was, and what the miner's weight is by it.
    pub newer: Option<(i64, f64)>,
}

/// One miner of the scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldMiner {
    pub hotkey: Hotkey,
    /// Absent for those without a weight on chain.
    pub uid: Option<Uid>,
    pub score: f64,
    pub weight: f64,
    /// As the chain stores it; 0 without one.
    pub on_chain: u16,
}

/// What one task adds to a miner's score: `weighting * share`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Contribution {
    pub weighting: f64,
    pub share: f64,
    pub contribution: f64,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskExplanation {
    pub task: TaskId,
    /// Absent if the miner declared no capacity for it, or the task was not scored.
    pub score: Option<TaskScore>,
    /// The mean quality of the checked answers, before any exponent that is applied to it.
    pub mean_quality: Option<f64>,
    pub field: TaskField,
    /// Newest first. Some may have ended after the scoring.
    pub periods: Vec<PeriodRow>,
    /// Newest first. Some may have been judged after the scoring.
    pub answers: Vec<AnswerRow>,
}

/// All miners of a task together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TaskField {
    pub miners: usize,
    /// Their largest effective volume.
    pub largest_volume: f64,
    /// The sum of `(effective volume / largest_volume)^share_exponent`.
    pub sum_of_powers: f64,
    pub share_exponent: f64,
}

/// One scoring period.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PeriodRow {
    pub id: i64,
    pub ended_ms: i64,
    /// Its length.
    pub seconds: f64,
    /// In the task's unit, as all volumes.
    pub declared: f64,
    pub used: f64,
    pub answered: u64,
    pub refused_within: u64,
    /// What the refusals within the declared capacity cost, each `0.0..=1.0`.
    pub refusal_cost: f64,
    pub refused_beyond: u64,
    pub failed: Failed,
    /// What came to nothing on the validator's side.
    pub void: u32,
    pub bursts: u64,
    /// The mean volume per period that the bursts have shown.
    pub shown: Option<f64>,
    pub checked: u64,
    /// The mean quality of the checked answers.
    pub quality: Option<f64>,
    /// The part that users' requests have.
    pub organic_answered: u64,
    pub organic_failed: u64,
    pub organic_checked: u64,
}

/// Failures by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub unreachable: u32,
    pub bad_status: u32,
    pub too_late: u32,
    pub broken: u32,
    pub unusable: u32,
}

/// One checked answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRow {
    pub id: String,
    pub at_ms: i64,
    /// Whether a user asked.
    pub organic: bool,
    pub quality: f64,
    /// Units per second, see [`Stretch::speed`], before the quality is counted in.
    pub speed: f64,
    /// Seconds until the first token.
    pub ttft_s: f64,
    pub tokens: u32,
    pub reasons: Vec<String>,
    pub evidence: Evidence,
}

impl Explanation {
    /// As JSON, for programs.
    ///
    /// # Errors
    /// If a number in it has no place in JSON.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

impl Failed {
    /// The kinds by name.
    pub fn kinds(&self) -> [(&'static str, u32); 5] {
        let Self { unreachable, bad_status, too_late, broken, unusable } = *self;
        [
            ("unreachable", unreachable),
            ("bad status", bad_status),
            ("too late", too_late),
            ("broken off", broken),
            ("unusable", unusable),
        ]
    }
}

impl From<&(PeriodId, Stretch, Failures, u32)> for PeriodRow {
    fn from((id, stretch, failed, void): &(PeriodId, Stretch, Failures, u32)) -> Self {
        let mean = |sum: f64, count: u64| (count > 0).then(|| sum / count as f64);
        let Failures { unreachable, bad_status, too_late, broken, unusable } = *failed;
        Self {
            id: id.0,
            ended_ms: stretch.at_ms,
            seconds: stretch.seconds + stretch.idle_seconds,
            declared: stretch.declared,
            used: stretch.consumed,
            answered: stretch.served,
            refused_within: stretch.refused_within,
            refusal_cost: stretch.refusal_cost,
            refused_beyond: stretch.refused_beyond,
            failed: Failed { unreachable, bad_status, too_late, broken, unusable },
            void: *void,
            bursts: stretch.exams,
            shown: mean(stretch.shown, stretch.exams),
            checked: stretch.checked,
            quality: mean(stretch.quality, stretch.checked),
            organic_answered: stretch.organic_served,
            organic_failed: stretch.organic_failed,
            organic_checked: stretch.organic_checked,
        }
    }
}

impl From<CheckedAnswer> for AnswerRow {
    fn from(answer: CheckedAnswer) -> Self {
        Self {
            id: answer.id,
            at_ms: answer.at_ms,
            organic: answer.organic,
            quality: answer.quality,
            speed: answer.speed,
            ttft_s: answer.ttft_s,
            tokens: answer.tokens,
            reasons: answer.verdict.reasons,
            evidence: answer.verdict.evidence,
        }
    }
}
