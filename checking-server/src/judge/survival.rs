//! How often numeric noise turns a draw over.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF};

/// Deficits at which the bound is measured: eight per decade, in nats of logits.
const STEPS_PER_DECADE: i32 = 8;
const DECADES: std::ops::RangeInclusive<i32> = -6..=0;

/// Anything may happen to one token in a million.
const FLOOR: f64 = 1e-6;
const FLOOR_OF_ENDS: f64 = 1e-8;
/// Beyond the largest difference that was measured, the bound falls by this power of the distance.
const TAIL_POWER: f64 = 3.0;

/// An upper bound of the probability that an honest engine gives a token which misses the best score by a deficit.
///
/// The noise of two engines is compared position by position: the difference of the log-probability ratios of the drawn
/// token and a rival. A rival wins if that exceeds its deficit, whatever the noise of the draw was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Survival {
    /// Deficit, in nats of logits, ascending; and the bound from there to the next.
    steps: Vec<(f64, f64)>,
}

impl Survival {
    /// From differences of noise, in nats, signs left out; each bound holds with the given confidence by itself.
    pub fn measured(differences: &[f64], confidence: f64) -> Self {
        let mut sorted: Vec<f64> = differences
            .iter()
            .map(|difference| difference.abs())
            .filter(|d| d.is_finite())
            .collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let mut steps = Vec::new();
        for edge in edges() {
            let beyond = count - sorted.partition_point(|difference| *difference <= edge);
            // Noise has no preferred sign, and only one of them turns the draw over.
            steps.push((edge, 0.5 * upper_bound(beyond, count, confidence)));
            // From here on nothing was seen.
            if beyond == 0 {
                break;
            }
        }
        Self { steps }
    }

    /// For a stack that was not measured: a bound that falls with the fourth power from a scale, in nats.
    pub fn assumed(scale: f64) -> Self {
        Self { steps: edges().map(|edge| (edge, 0.5 * (1.0 + edge / scale).powi(-4))).collect() }
    }

    /// The larger of two bounds at each deficit.
    pub fn or(&self, other: &Self) -> Self {
        let longer = if self.steps.len() >= other.steps.len() { self } else { other };
        let larger = |&(edge, _): &(f64, f64)| (edge, self.bound(edge).max(other.bound(edge)));
        Self { steps: longer.steps.iter().map(larger).collect() }
    }

    /// The bound at a deficit in nats of logits: at most 1, at least one in a million, never growing.
    pub fn bound(&self, deficit: f64) -> f64 {
        self.unbounded(deficit).clamp(FLOOR, 1.0)
    }

    /// The same for a token that ends the answer: of what may happen to a token, ending the answer is the least.
    pub fn bound_of_end(&self, deficit: f64) -> f64 {
        self.unbounded(deficit).clamp(FLOOR_OF_ENDS, 1.0)
    }

    fn unbounded(&self, deficit: f64) -> f64 {
        match self.steps.last() {
            // What was seen never to happen so often does not stop at the edge of the table.
            Some(&(last, bound)) if deficit > last => bound * (last / deficit).powf(TAIL_POWER),
            _ => self.step(deficit),
        }
    }

    fn step(&self, deficit: f64) -> f64 {
        let after = self.steps.partition_point(|&(edge, _)| edge <= deficit);
        after.checked_sub(1).and_then(|at| self.steps.get(at)).map_or(1.0, |&(_, bound)| bound)
    }

    /// The size that noise exceeds one time in three at most, in nats of logits: about a standard deviation.
    pub fn scale(&self) -> f64 {
        // A bound is that of one sign.
        let rare = self.steps.iter().find(|(_, bound)| *bound <= 0.16);
        rare.or(self.steps.last()).map_or(f64::INFINITY, |(edge, _)| *edge)
    }

    /// Whether it can be a bound at all: what a file says is not trusted.
    pub fn is_sound(&self) -> bool {
        !self.steps.is_empty()
            && self.steps.iter().all(|(edge, bound)| *edge > 0.0 && (0.0..=1.0).contains(bound))
            && self.steps.is_sorted_by(|a, b| a.0 < b.0 && a.1 >= b.1)
    }
}

/// Deficits at which the bound is told, in nats of logits.
fn edges() -> impl Iterator<Item = f64> {
    (DECADES.start() * STEPS_PER_DECADE..=DECADES.end() * STEPS_PER_DECADE)
        .map(|step| 10_f64.powf(f64::from(step) / f64::from(STEPS_PER_DECADE)))
}

/// The Clopper–Pearson upper bound of a share of which `hits` of `count` were seen.
pub fn upper_bound(hits: usize, count: usize, confidence: f64) -> f64 {
    if hits >= count {
        return 1.0;
    }
    Beta::new(hits as f64 + 1.0, (count - hits) as f64)
        .map_or(1.0, |beta| beta.inverse_cdf(confidence))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn measured() -> Survival {
        // Half of the differences are up to 0.01 nats, the others spread evenly to 0.1.
        let differences: Vec<f64> = (1..=1000)
            .map(|i| if i % 2 == 0 { 1e-5 * f64::from(i) } else { 1e-4 * f64::from(i) })
            .collect();
        Survival::measured(&differences, 0.95)
    }

    #[test]
    fn a_bound_is_above_half_the_share_of_larger_differences_and_near_it() {
        let survival = measured();
        for (deficit, share) in [(0.005, 0.725), (0.02, 0.4), (0.05, 0.25)] {
            let bound = survival.bound(deficit);
            assert!(bound > 0.5 * share && bound < 0.5 * share + 0.1, "{deficit}: {bound}");
        }
    }

    #[test]
    fn beyond_what_was_seen_it_falls_to_the_floor_and_not_below() {
        let survival = measured();
        assert!(survival.bound(0.5) > survival.bound(1.0) && survival.bound(1.0) > FLOOR);
        assert_eq!(survival.bound(1e4), FLOOR);
        assert_eq!(survival.bound(f64::INFINITY), FLOOR);
    }

    #[test]
    fn the_upper_bound_is_that_of_known_tables() {
        assert!((upper_bound(0, 1000, 0.95) - 0.002_991).abs() < 1e-5);
        assert!((upper_bound(3, 100, 0.95) - 0.0757).abs() < 1e-3);
        assert_eq!(upper_bound(5, 5, 0.95), 1.0);
        assert_eq!(upper_bound(0, 0, 0.95), 1.0);
    }

    #[test]
    fn the_scale_grows_with_the_noise() {
        let scales = [0.001, 0.01, 0.1].map(|scale| Survival::assumed(scale).scale());
        assert!(scales.is_sorted() && scales[1] > 0.003 && scales[1] < 0.01, "{scales:?}");
    }

    #[test]
    fn what_a_file_says_is_looked_at() {
        assert!(measured().is_sound() && Survival::assumed(0.01).is_sound());
        for steps in [
            vec![],
            vec![(0.1, 0.5), (0.01, 0.1)],
            vec![(0.1, 0.1), (0.2, 0.5)],
            vec![(0.1, f64::NAN)],
        ] {
            assert!(!Survival { steps }.is_sound());
        }
    }

    proptest! {
        #[test]
        fn a_larger_deficit_never_has_a_larger_bound(a in 0.0..30.0_f64, b in 0.0..30.0_f64, scale in 1e-3..1.0_f64) {
            let (small, large) = (a.min(b), a.max(b));
            for survival in [measured(), Survival::assumed(scale), measured().or(&Survival::assumed(scale))] {
                prop_assert!(survival.bound(small) >= survival.bound(large));
                prop_assert!((FLOOR..=1.0).contains(&survival.bound(small)));
            }
        }

        #[test]
        fn of_two_stacks_the_noisier_one_counts(deficit in 1e-6..30.0_f64, scale in 1e-3..1.0_f64) {
            let (one, other) = (measured(), Survival::assumed(scale));
            let both = one.or(&other);
            prop_assert!(both.bound(deficit) + 1e-12 >= one.bound(deficit).max(other.bound(deficit)));
        }
    }
}
