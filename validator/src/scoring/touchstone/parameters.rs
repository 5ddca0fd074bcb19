//! Every constant of the formulas.

use serde::{Deserialize, Serialize};

use super::super::{MAX_EXPONENT, out_of_range};

/// The constants of the formulas. `docs/scoring.md` says why the defaults are what they are.
///
/// The functions that take them expect [`Parameters::problems`] to be empty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// After so many hours evidence counts half.
    pub half_life_hours: f64,
    /// Exponent of the mean quality. More than 1, so that answers which cost nothing to make do not pay.
    pub quality_exponent: f64,
    /// What a failure costs, where a refusal while idle costs 1.
    pub failure_cost: f64,
    /// Exponent of the share of requests that were answered. At least 1.
    pub reliability_exponent: f64,
    /// How many standard errors below the mean of the shown volumes the proven one lies: 1.645 is a one-sided 95 %.
    pub confidence: f64,
    /// How often users' requests count where the validator's own count once.
    pub organic_weight: f64,
    /// Which of a stretch's sorted speeds stands for all of them, and which of the stretches': 0 is the slowest,
    /// `0.0..=1.0`.
    pub speed_percentile: f64,
    /// Distance between the factors of endless and of no speed, `0.0..=2.0`; they lie evenly around 1.
    pub speed_bonus: f64,
    /// Exponent of a miner's volume. A little more than 1, so that splitting one miner into several does not pay.
    pub share_exponent: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            half_life_hours: 8.0,
            quality_exponent: 2.0,
            failure_cost: 2.0,
            reliability_exponent: 2.0,
            confidence: 1.645,
            organic_weight: 1.0,
            speed_percentile: 0.3,
            speed_bonus: 0.5,
            share_exponent: 1.25,
        }
    }
}

impl Parameters {
    /// What is wrong with these constants: pairs of key and sentence, empty if nothing is.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        out_of_range(&[
            // Less than a second would forget a period before it is scored.
            ("half_life_hours", self.half_life_hours, 0.0003, 8760.0),
            ("quality_exponent", self.quality_exponent, f64::MIN_POSITIVE, MAX_EXPONENT),
            ("failure_cost", self.failure_cost, 0.0, 1000.0),
            ("reliability_exponent", self.reliability_exponent, f64::MIN_POSITIVE, MAX_EXPONENT),
            ("confidence", self.confidence, 0.0, 10.0),
            ("organic_weight", self.organic_weight, 0.0, 1000.0),
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
    fn each_unsound_constant_is_named() {
        let parameters = Parameters {
            half_life_hours: 0.0,
            failure_cost: f64::NAN,
            share_exponent: f64::INFINITY,
            speed_bonus: -0.1,
            ..Parameters::default()
        };
        let keys: Vec<_> = parameters.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["half_life_hours", "failure_cost", "speed_bonus", "share_exponent"]);
    }
}
