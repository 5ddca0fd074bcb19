//! What scoring knows of a miner.

use serde::{Deserialize, Serialize};

/// Everything that is known about one contender: one miner and one task.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evidence {
    /// The volume the miner declares for the current period, in the task's unit, after the task's maximum was applied.
    pub capacity: f64,
    /// What it did, newest first, in stretches that do not overlap.
    pub stretches: Vec<Stretch>,
    /// Its checked answers, in any order. Only the preset `subnet19` looks at single answers.
    pub answers: Vec<Answer>,
}

/// One checked answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// As the checking server judged it, `0.0..=1.0`.
    pub quality: f64,
    /// See [`Stretch::speed`].
    pub speed: f64,
}

/// What one contender did during one stretch of time: a scoring period, or several that were added up.
///
/// Counts are sums over the stretch's periods. Anything that is not finite or is negative counts as nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Stretch {
    /// When it was, in Unix milliseconds: the mean of its periods' ends.
    pub at_ms: i64,
    /// Length of its periods in which the miner was asked something, in seconds.
    pub seconds: f64,
    /// Length of those in which it could not be asked, or in which everything that was asked failed on our side, in
    /// seconds. They count neither for nor against a miner. Periods for which it declared nothing are in neither sum.
    pub idle_seconds: f64,
    /// Declared volume, in the task's unit.
    pub declared: f64,
    /// Served volume, in the task's unit.
    pub consumed: f64,
    /// Answers.
    pub served: u64,
    /// Refusals with status 429 within the declared capacity, and what they cost together: each the unused share of the
    /// capacity, `0.0..=1.0`.
    pub refused_within: u64,
    pub refusal_cost: f64,
    /// Refusals with status 429 beyond the declared capacity.
    pub refused_beyond: u64,
    /// What ended in any other way.
    pub failed: u64,
    /// The part of `served`, `refusal_cost` and `failed` that users' requests have.
    pub organic_served: u64,
    pub organic_refusal_cost: f64,
    pub organic_failed: u64,
    /// Bursts at the declared rate, the sum of the volumes per period that they have shown, each at most the declared
    /// one, and the sum of the squares.
    pub exams: u64,
    pub shown: f64,
    pub shown_squared: f64,
    /// Checked answers and the sum of their qualities; the part that is users'.
    pub checked: u64,
    pub quality: f64,
    pub organic_checked: u64,
    pub organic_quality: f64,
    /// The low percentile of the checked answers' speeds, each times its quality, in units per second; absent without
    /// any. An answer's speed is its tokens divided by twice the mean time at which its text arrived, counted from when
    /// it was asked for.
    pub speed: Option<f64>,
}

/// The periods that this validator has scored, whoever was there: what presence is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Its end, in Unix milliseconds.
    pub at_ms: i64,
    pub seconds: f64,
}
