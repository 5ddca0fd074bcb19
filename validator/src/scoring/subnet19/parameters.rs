//! Every constant of the formulas.

use serde::{Deserialize, Serialize};

use super::{MAX_EXPONENT, out_of_range};

/// The constants of the formulas; the defaults are subnet 19's.
///
/// The functions that take them expect [`Parameters::problems`] to be empty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Exponent of the penalty for failures in a period; refusals have 1. At least 1.
    pub failure_exponent: f64,
    /// What a period counts relative to the next newer one with the same volume, above 0 and at most 1.
    pub period_decay: f64,
    /// How many scored periods a miner needs for its whole history score.
    pub full_history_periods: usize,
    /// What the history score is multiplied by until then, `0.0..=1.0`.
    pub newcomer_multiplier: f64,
    /// Exponent of each answer's quality before the mean. Above 0.
    pub quality_exponent: f64,
    /// A mean quality at or below this is raised to `low_quality_exponent`, `0.0..=1.0`.
    pub low_quality: f64,
    /// Exponent for low mean qualities. At least 1.
    pub low_quality_exponent: f64,
    /// Which of a miner's sorted speeds stands for all of them: 0 is the slowest, `0.0..1.0`.
    pub speed_percentile: f64,
    /// Distance between the largest and the smallest speed bonus, `0.0..=2.0`; they lie evenly around 0.
    pub speed_bonus: f64,
    /// Exponent of a miner's share of a task. Above 0; larger favours the best.
    pub share_exponent: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            failure_exponent: 2.0,
            period_decay: 0.5,
            full_history_periods: 9,
            newcomer_multiplier: 0.25,
            quality_exponent: 1.5,
            low_quality: 0.85,
            low_quality_exponent: 2.0,
            speed_percentile: 0.3,
            speed_bonus: 0.5,
            share_exponent: 4.0,
        }
    }
}

impl Parameters {
    /// What is wrong with these constants: pairs of key and sentence, empty if nothing is.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        out_of_range(&[
            ("failure_exponent", self.failure_exponent, 1.0, MAX_EXPONENT),
            ("period_decay", self.period_decay, f64::MIN_POSITIVE, 1.0),
            ("newcomer_multiplier", self.newcomer_multiplier, 0.0, 1.0),
            ("quality_exponent", self.quality_exponent, f64::MIN_POSITIVE, MAX_EXPONENT),
            ("low_quality", self.low_quality, 0.0, 1.0),
            ("low_quality_exponent", self.low_quality_exponent, 1.0, MAX_EXPONENT),
            ("speed_percentile", self.speed_percentile, 0.0, 1.0),
            ("speed_bonus", self.speed_bonus, 0.0, 2.0),
            ("share_exponent", self.share_exponent, f64::MIN_POSITIVE, MAX_EXPONENT),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(Parameters::default().problems(), Vec::new());
    }

    #[test]
    fn each_unsound_constant_is_named() {
        let parameters = Parameters {
            failure_exponent: f64::NAN,
            period_decay: 0.0,
            share_exponent: f64::INFINITY,
            speed_bonus: -0.1,
            ..Parameters::default()
        };
        let keys: Vec<_> = parameters.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["failure_exponent", "period_decay", "speed_bonus", "share_exponent"]);
    }
}
