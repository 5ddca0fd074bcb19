//! From evidence to weights: how much each miner has served, how well and how fast, over all tasks.
//!
//! Pure on purpose: no clock, no database, no logging, no randomness, and fixed orders of summation. Everything a weight
//! depends on is an argument, so that two validators with the same evidence set the same weights, and a disputed weight
//! can be computed again from the rows it came from. [`weights`] is the way in; the functions it is made of are public so
//! that each step can be explained and tested alone.
//!
//! The formulas are those of subnet 19's validator of January 2025. They are total here: no evidence, however wrong,
//! makes a score negative, infinite or not a number.

mod history;
mod parameters;
mod period;
mod quality;
mod speed;
mod weights;

use serde::{Deserialize, Serialize};

pub use history::{History, Period, history};
pub use parameters::Parameters;
pub use period::{Observed, period_score};
pub use quality::quality;
pub use speed::{speed, speed_bonuses, weighted_speed};
pub use weights::{Evidence, MinerScore, Scores, TaskScore, weights};

/// A number in `0.0..=1.0`. Never NaN, so that scores can be compared and summed without ceremony.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct Score(f64);

impl Score {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);

    /// The nearest score; 0 for what is not finite.
    pub fn clamped(raw: f64) -> Self {
        // `+ 0.0` turns a negative zero into zero.
        Self(if raw.is_finite() { raw.clamp(0.0, 1.0) + 0.0 } else { 0.0 })
    }

    /// The number, in `0.0..=1.0`.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl From<f64> for Score {
    fn from(raw: f64) -> Self {
        Self::clamped(raw)
    }
}

impl From<Score> for f64 {
    fn from(score: Score) -> Self {
        score.0
    }
}

/// An amount from evidence: what is not finite or is negative counts as nothing.
fn amount(raw: f64) -> f64 {
    if raw.is_finite() { raw.max(0.0) } else { 0.0 }
}
