//! How fast a miner is, and what that earns it among the others.

use std::collections::BTreeMap;

use super::{Parameters, amount};

/// An answer's speed as evidence: tokens per second times the answer's quality, so that fast garbage is not fast.
pub fn weighted_speed(tokens_per_second: f64, quality: f64) -> f64 {
    amount(tokens_per_second) * amount(quality).min(1.0)
}

/// A miner's speed: the 30th percentile of its answers' weighted speeds (the element at `floor(0.3 * n)` of the sorted
/// ones), so that neither a few stalls nor a few lucky answers decide. `None` without a usable speed.
pub fn speed(parameters: &Parameters, weighted_speeds: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> =
        weighted_speeds.iter().copied().filter(|speed| speed.is_finite()).map(amount).collect();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() as f64 * parameters.speed_percentile) as usize;
    sorted.get(index).or(sorted.last()).copied()
}

/// What each miner's speed earns it: `0.5 * (0.5 - rank / (n - 1))`, rank 0 being the fastest of n, so from +0.25 to
/// -0.25. A miner alone gets 0.
///
/// Equally fast miners share the mean of their ranks (the reference orders them by the order of its rows).
pub fn speed_bonuses<K: Ord + Clone>(
    parameters: &Parameters,
    speeds: &BTreeMap<K, f64>,
) -> BTreeMap<K, f64> {
    let mut fastest_first: Vec<(&K, f64)> =
        speeds.iter().map(|(miner, speed)| (miner, amount(*speed))).collect();
    fastest_first.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let last_rank = fastest_first.len().saturating_sub(1) as f64;
    let mut bonuses = BTreeMap::new();
    let mut ranked = 0;
    for equals in fastest_first.chunk_by(|(_, a), (_, b)| a == b) {
        let rank = ranked as f64 + (equals.len() - 1) as f64 / 2.0;
        ranked += equals.len();
        let bonus =
            if last_rank > 0.0 { parameters.speed_bonus * (0.5 - rank / last_rank) } else { 0.0 };
        bonuses.extend(equals.iter().map(|(miner, _)| ((*miner).clone(), bonus)));
    }
    bonuses
}

#[cfg(test)]
mod tests {
    use proptest::num::f64::ANY;
    use proptest::prelude::*;

    use super::*;

    fn bonuses<const N: usize>(speeds: [(&'static str, f64); N]) -> BTreeMap<&'static str, f64> {
        speed_bonuses(&Parameters::default(), &speeds.into())
    }

    #[test]
    fn a_miner_without_measured_answers_has_no_speed() {
        assert_eq!(speed(&Parameters::default(), &[]), None);
        assert_eq!(speed(&Parameters::default(), &[f64::NAN]), None);
    }

    #[test]
    fn the_thirtieth_percentile_stands_for_all() {
        let speeds = [9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0, 0.0];
        assert_eq!(speed(&Parameters::default(), &speeds), Some(3.0));
    }

    #[test]
    fn the_fastest_gains_what_the_slowest_loses() {
        assert_eq!(
            bonuses([("a", 10.0), ("b", 30.0), ("c", 20.0)]),
            [("a", -0.25), ("b", 0.25), ("c", 0.0)].into()
        );
    }

    #[test]
    fn a_miner_alone_gets_no_bonus() {
        assert_eq!(bonuses([("a", 10.0)]), [("a", 0.0)].into());
    }

    #[test]
    fn equally_fast_miners_get_the_same() {
        assert_eq!(bonuses([("a", 10.0), ("b", 10.0)]), [("a", 0.0), ("b", 0.0)].into());
    }

    #[test]
    fn fast_garbage_is_not_fast() {
        assert_eq!(weighted_speed(1e6, 0.0), 0.0);
        assert_eq!(weighted_speed(f64::INFINITY, 1.0), 0.0);
    }

    proptest! {
        #[test]
        fn bonuses_are_in_range_and_ordered_like_the_speeds(
            speeds in prop::collection::btree_map(any::<u16>(), ANY, 0..40),
        ) {
            let bonuses = speed_bonuses(&Parameters::default(), &speeds);
            prop_assert_eq!(bonuses.len(), speeds.len());
            for (a, bonus_a) in &bonuses {
                prop_assert!((-0.25..=0.25).contains(bonus_a));
                for (b, bonus_b) in &bonuses {
                    if amount(speeds[a]) > amount(speeds[b]) {
                        prop_assert!(bonus_a > bonus_b);
                    }
                }
            }
        }

        #[test]
        fn a_speed_is_one_of_those_measured(speeds in prop::collection::vec(0.0..1e6, 1..60)) {
            let speed = speed(&Parameters::default(), &speeds).unwrap();
            prop_assert!(speeds.contains(&speed));
        }
    }
}
