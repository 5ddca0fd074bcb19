//! How good a miner's checked answers were.

use super::{Parameters, Score};

/// The mean of `q^1.5` over the answers' qualities; squared if it is at most 0.85. `None` without a usable quality.
///
/// A quality that is not finite is no evidence and is left out; one below 0 counts as 0, one above 1 as 1. (The
/// reference's image tasks know no low mean: give them `low_quality: 0.0`.)
pub fn quality(parameters: &Parameters, qualities: &[f64]) -> Option<Score> {
    let (mut sum, mut count) = (0.0, 0.0);
    for quality in qualities.iter().copied().filter(|quality| quality.is_finite()) {
        sum += quality.clamp(0.0, 1.0).powf(parameters.quality_exponent);
        count += 1.0;
    }
    if count == 0.0 {
        return None;
    }
    let mean = sum / count;
    let low = mean <= parameters.low_quality;
    Some(Score::clamped(if low { mean.powf(parameters.low_quality_exponent) } else { mean }))
}

#[cfg(test)]
mod tests {
    use proptest::num::f64::ANY;
    use proptest::prelude::*;

    use super::*;

    fn of(qualities: &[f64]) -> Option<f64> {
        quality(&Parameters::default(), qualities).map(Score::get)
    }

    #[test]
    fn a_miner_without_checked_answers_has_no_quality() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[f64::NAN, f64::INFINITY]), None);
    }

    #[test]
    fn perfect_answers_have_quality_one() {
        assert_eq!(of(&[1.0; 5]), Some(1.0));
    }

    #[test]
    fn a_negative_quality_is_no_better_and_no_worse_than_zero() {
        assert_eq!(of(&[1.0, -10.0]), of(&[1.0, 0.0]));
    }

    #[test]
    fn a_low_mean_is_squared() {
        let mean: f64 = (1.0 + 0.0) / 2.0;
        assert_eq!(of(&[1.0, 0.0]), Some(mean.powi(2)));
    }

    proptest! {
        #[test]
        fn no_evidence_leaves_the_range(qualities in prop::collection::vec(ANY, 0..60)) {
            if let Some(quality) = of(&qualities) {
                prop_assert!((0.0..=1.0).contains(&quality));
            }
        }

        #[test]
        fn a_worse_answer_never_helps(
            qualities in prop::collection::vec(0.0..=1.0, 1..60), which: prop::sample::Index, lost in 0.0..=1.0,
        ) {
            let mut worse = qualities.clone();
            let which = which.index(worse.len());
            worse[which] *= lost;
            prop_assert!(of(&worse) <= of(&qualities));
        }
    }
}
