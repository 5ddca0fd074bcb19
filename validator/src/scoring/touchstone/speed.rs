//! How fast a miner is, and what that earns it.

use super::super::{Stretch, amount};
use super::{Parameters, weight};

/// The value below which `percentile` of the weight lies. `None` without any weight.
fn weighted_percentile(mut values: Vec<(f64, f64)>, percentile: f64) -> Option<f64> {
    values.retain(|(value, weight)| value.is_finite() && *weight > 0.0);
    values.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let total: f64 = values.iter().map(|(_, weight)| weight).sum();
    let mut below = 0.0;
    for (value, weight) in &values {
        below += weight;
        if below > percentile * total {
            return Some(*value);
        }
    }
    values.last().map(|(value, _)| *value)
}

/// A miner's speed: the low percentile of its stretches' speeds, each counting by its checked answers and its age.
pub(super) fn speed(parameters: &Parameters, now_ms: i64, stretches: &[Stretch]) -> Option<f64> {
    let speeds = stretches.iter().filter_map(|stretch| {
        let count = weight(parameters, now_ms, stretch.at_ms) * stretch.checked as f64;
        Some((amount(stretch.speed?), count))
    });
    weighted_percentile(speeds.collect(), parameters.speed_percentile)
}

/// The median of pairs of speed and volume, by volume: miners that serve next to nothing do not move it.
pub(super) fn typical_speed(measured: Vec<(f64, f64)>) -> Option<f64> {
    weighted_percentile(measured, 0.5)
}

/// What a speed earns, as a factor around 1. It depends on values, not on ranks: miners that are alike earn alike.
pub(super) fn speed_factor(
    parameters: &Parameters,
    speed: Option<f64>,
    typical: Option<f64>,
) -> f64 {
    let (Some(speed), Some(typical)) = (speed, typical) else { return 1.0 };
    let (speed, typical) = (amount(speed), amount(typical));
    if speed + typical == 0.0 {
        return 1.0;
    }
    // (r - 1) / (r + 1) with r = speed / typical, by halves so that absurd speeds do not overflow.
    let relative = (speed / 2.0 - typical / 2.0) / (speed / 2.0 + typical / 2.0);
    1.0 + parameters.speed_bonus / 2.0 * relative
}

#[cfg(test)]
mod tests {
    use proptest::num::f64::ANY;
    use proptest::prelude::*;

    use super::*;

    fn factor(speed: f64, typical: f64) -> f64 {
        speed_factor(&Parameters::default(), Some(speed), Some(typical))
    }

    #[test]
    fn miners_within_noise_of_each_other_earn_within_noise_of_each_other() {
        assert!((factor(101.0, 100.0) / factor(100.0, 100.0) - 1.0).abs() < 0.002);
    }

    #[test]
    fn twice_the_typical_speed_gains_what_half_of_it_loses() {
        assert!((factor(200.0, 100.0) - 1.0 - (1.0 - factor(50.0, 100.0))).abs() < 1e-12);
        assert_eq!(factor(100.0, 100.0), 1.0);
        assert_eq!(speed_factor(&Parameters::default(), None, Some(1.0)), 1.0);
    }

    #[test]
    fn a_crowd_that_serves_nothing_does_not_move_the_typical_speed() {
        let mut measured = vec![(100.0, 50.0), (110.0, 50.0), (90.0, 50.0)];
        measured.extend((0..1000).map(|_| (1.0, 1e-6)));
        assert_eq!(typical_speed(measured), Some(100.0));
    }

    #[test]
    fn what_is_old_or_little_checked_says_less_about_the_speed() {
        let now = 40 * 3_600_000;
        let stretch = |at_ms, checked, speed| Stretch {
            at_ms,
            checked,
            speed: Some(speed),
            ..Stretch::default()
        };
        let stretches = [stretch(now, 100, 50.0), stretch(0, 100, 5.0), stretch(now, 2, 4.0)];
        assert_eq!(speed(&Parameters::default(), now, &stretches), Some(50.0));
    }

    proptest! {
        #[test]
        fn a_factor_stays_within_half_the_bonus_and_grows_with_the_speed(
            a in ANY, b in ANY, typical in ANY,
        ) {
            let (slow, fast) = (amount(a).min(amount(b)), amount(a).max(amount(b)));
            prop_assert!((0.75..=1.25).contains(&factor(a, typical)));
            prop_assert!(factor(slow, typical) <= factor(fast, typical));
        }

        #[test]
        fn a_percentile_is_one_of_the_values(
            values in prop::collection::vec((ANY, ANY), 0..20), percentile in 0.0..=1.0,
        ) {
            let found = weighted_percentile(values.clone(), percentile);
            let usable = values.iter().any(|(value, weight)| value.is_finite() && *weight > 0.0);
            prop_assert_eq!(found.is_some(), usable);
            if let Some(found) = found {
                prop_assert!(values.iter().any(|(value, _)| *value == found));
            }
        }
    }
}
