//! From evidence to weights: how much each miner has served, how well and how fast, over all tasks.
//!
//! Pure on purpose: no clock, no database, no logging, no randomness, and fixed orders of summation. Everything a weight
//! depends on is an argument, so that two validators with the same evidence set the same weights, and a disputed weight
//! can be computed again from the rows it came from. [`Rules::at`] is the way in: the scorer it returns sums up each
//! contender alone, and then weighs all of them against each other.
//!
//! There are two sets of rules: [`touchstone`], the default, and [`subnet19`], the formulas of subnet 19's validator of
//! January 2025. Both are total: no evidence, however wrong, makes a score negative, infinite or not a number.
//! `docs/scoring.md` gives the reasons.

mod evidence;
mod rules;
mod scorer;
pub mod subnet19;
pub mod touchstone;

use serde::{Deserialize, Serialize};

pub use evidence::{Answer, Evidence, Span, Stretch};
pub use rules::{Preset, Rules, UnknownPreset, WrongSetting};
pub use scorer::{Factors, MinerScore, Scorer, Scores, Summary, TaskScore};

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

/// Checks constants: names those outside their range `least..=most`, with a sentence.
fn out_of_range(checks: &[(&'static str, f64, f64, f64)]) -> Vec<(&'static str, String)> {
    checks
        .iter()
        .filter(|(_, value, least, most)| !(*least..=*most).contains(value))
        .map(|(key, value, least, most)| {
            let range = if *least == f64::MIN_POSITIVE {
                format!("above 0 and at most {most}")
            } else {
                format!("between {least} and {most}")
            };
            (*key, format!("must be {range}, is {value}"))
        })
        .collect()
}

/// Exponents above this lose all differences to rounding.
const MAX_EXPONENT: f64 = 64.0;
