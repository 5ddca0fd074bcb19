//! What one miner did for one task during one scoring period.

use serde::{Deserialize, Serialize};

use super::{Parameters, Score, amount};

/// What the validator saw of one miner, for one task, in one period.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Observed {
    /// The volume the miner declared, in the task's unit, after the task's maximum was applied.
    pub capacity: f64,
    /// The volume it served, in the same unit.
    pub consumed: f64,
    /// All requests that were sent to it: answered, refused and failed.
    pub requests: u32,
    /// Those it refused with status 429.
    pub refused: u32,
    /// Those that ended in any other way than an answer or a refusal.
    pub failed: u32,
}

/// Scores one period, or `None` where there is nothing to judge: no evidence is not bad evidence.
///
/// With `u` the unused share of the capacity and `p429`, `p500` the shares of refused and failed requests, the score is
/// `(1 - p429 - p500) * (1 - p429 * u) * (1 - p500 * u)^2`: refusing costs less the more of the declared volume was
/// used. A capacity below one unit counts as one.
pub fn period_score(parameters: &Parameters, seen: &Observed) -> Option<Score> {
    let capacity = amount(seen.capacity);
    if seen.requests == 0 || capacity == 0.0 {
        return None;
    }
    let capacity = capacity.max(1.0);
    let unused = (capacity - amount(seen.consumed)).max(0.0) / capacity;
    let share = |count: u32| (f64::from(count) / f64::from(seen.requests)).min(1.0);
    let (refused, failed) = (share(seen.refused), share(seen.failed));
    let answered = (1.0 - refused - failed).max(0.0);
    let kept = (1.0 - refused * unused) * (1.0 - failed * unused).powf(parameters.failure_exponent);
    Some(Score::clamped(answered * kept))
}

#[cfg(test)]
mod tests {
    use proptest::num::f64::ANY;
    use proptest::prelude::*;

    use super::*;

    const PERFECT: Observed =
        Observed { capacity: 100.0, consumed: 100.0, requests: 10, refused: 0, failed: 0 };

    fn score(seen: Observed) -> f64 {
        period_score(&Parameters::default(), &seen).unwrap().get()
    }

    #[test]
    fn a_miner_that_nobody_asked_is_not_scored() {
        assert_eq!(
            period_score(&Parameters::default(), &Observed { requests: 0, ..PERFECT }),
            None
        );
    }

    #[test]
    fn a_miner_that_declared_nothing_is_not_scored() {
        for capacity in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(
                period_score(&Parameters::default(), &Observed { capacity, ..PERFECT }),
                None
            );
        }
    }

    #[test]
    fn answering_everything_scores_one_however_little_was_asked() {
        assert_eq!(score(PERFECT), 1.0);
        assert_eq!(score(Observed { consumed: 1.0, ..PERFECT }), 1.0);
    }

    #[test]
    fn refusing_while_idle_costs_more_than_refusing_while_busy() {
        let busy = Observed { refused: 5, ..PERFECT };
        assert!(score(Observed { consumed: 10.0, ..busy }) < score(busy));
    }

    #[test]
    fn failing_while_idle_costs_more_than_refusing_while_idle() {
        let idle = Observed { consumed: 10.0, ..PERFECT };
        assert!(score(Observed { failed: 3, ..idle }) < score(Observed { refused: 3, ..idle }));
    }

    prop_compose! {
        fn anything()(
            capacity in ANY, consumed in ANY, requests in 0..1000u32, refused in 0..1000u32, failed in 0..1000u32,
        ) -> Observed {
            Observed { capacity, consumed, requests, refused, failed }
        }
    }

    prop_compose! {
        fn plausible()(requests in 1..200u32)(
            requests in Just(requests), capacity in 0.1..1e6, used in 0.0..1.5,
            refused in 0..=requests, failed in 0..=requests,
        ) -> Observed {
            Observed { capacity, consumed: used * capacity, requests, refused, failed: failed.min(requests - refused) }
        }
    }

    proptest! {
        #[test]
        fn no_evidence_leaves_the_range(seen in anything()) {
            if let Some(score) = period_score(&Parameters::default(), &seen) {
                prop_assert!((0.0..=1.0).contains(&score.get()));
            }
        }

        #[test]
        fn a_failure_in_place_of_an_answer_never_helps(seen in plausible()) {
            let worse = Observed { failed: seen.failed + 1, ..seen };
            prop_assert!(score(worse) <= score(seen));
        }

        #[test]
        fn a_refusal_in_place_of_an_answer_never_helps(seen in plausible()) {
            let worse = Observed { refused: seen.refused + 1, ..seen };
            prop_assert!(score(worse) <= score(seen));
        }

        #[test]
        fn serving_more_never_hurts(seen in plausible(), more in 0.0..1e6) {
            let better = Observed { consumed: seen.consumed + more, ..seen };
            prop_assert!(score(better) >= score(seen));
        }
    }
}
