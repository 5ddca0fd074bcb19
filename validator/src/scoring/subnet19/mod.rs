//! The formulas of subnet 19's validator of January 2025.
//!
//! They are kept because subnets that run by them know what to expect, with their known weaknesses: the declared volume
//! counts whether or not it was ever exercised, speed counts by rank, and several rules have cliffs. What was not total
//! in the reference is total here.

mod history;
mod parameters;
mod period;
mod quality;
mod speed;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Evidence, MAX_EXPONENT, Score, amount, out_of_range};

pub use history::{History, Period, history};
pub use parameters::Parameters;
pub use period::{Observed, period_score};
pub use quality::quality;
pub use speed::{speed, speed_bonuses, weighted_speed};

/// What the evidence about one contender comes to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// See [`quality`]. Without checked answers a miner earns nothing.
    pub quality: Option<Score>,
    /// See [`speed`], in units per second.
    pub speed: Option<f64>,
    pub history: History,
    /// The declared volume, in the task's unit.
    pub capacity: f64,
}

/// The numbers that make the effective volume, `combined_quality * history.score * capacity`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Factors {
    pub summary: Summary,
    /// See [`speed_bonuses`]; 0 without a speed.
    pub speed_bonus: f64,
    /// `quality * (1 + speed_bonus)`.
    pub combined_quality: f64,
}

/// Sums up one contender. Each stretch is taken as one scoring period.
pub fn sum_up(parameters: &Parameters, evidence: &Evidence) -> Summary {
    let periods: Vec<_> = evidence
        .stretches
        .iter()
        .map(|stretch| {
            let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
            let refused = count(stretch.refused_within.saturating_add(stretch.refused_beyond));
            let failed = count(stretch.failed);
            let observed = Observed {
                capacity: stretch.declared,
                consumed: stretch.consumed,
                requests: count(stretch.served).saturating_add(refused).saturating_add(failed),
                refused,
                failed,
            };
            Period { score: period_score(parameters, &observed), consumed: stretch.consumed }
        })
        .collect();
    let qualities: Vec<_> = evidence.answers.iter().map(|answer| answer.quality).collect();
    let speeds: Vec<_> = evidence
        .answers
        .iter()
        .map(|answer| weighted_speed(answer.speed, answer.quality))
        .collect();
    Summary {
        quality: quality(parameters, &qualities),
        speed: speed(parameters, &speeds),
        history: history(parameters, &periods),
        capacity: amount(evidence.capacity),
    }
}

/// The effective volumes of a task's contenders, in their order.
pub fn volumes(parameters: &Parameters, contenders: &[Summary]) -> Vec<(Factors, f64)> {
    let speeds: BTreeMap<usize, f64> = contenders
        .iter()
        .enumerate()
        .filter_map(|(index, summary)| Some((index, summary.speed?)))
        .collect();
    let bonuses = speed_bonuses(parameters, &speeds);
    contenders
        .iter()
        .enumerate()
        .map(|(index, summary)| {
            let speed_bonus = bonuses.get(&index).copied().unwrap_or(0.0);
            let combined_quality = summary.quality.map_or(0.0, Score::get) * (1.0 + speed_bonus);
            let volume = combined_quality * summary.history.score.get() * amount(summary.capacity);
            let factors = Factors { summary: *summary, speed_bonus, combined_quality };
            (factors, volume.min(f64::MAX))
        })
        .collect()
}
