//! How closely each contender is looked at: the worse its last verdicts, the more of its answers are checked.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::tally::ContenderId;

/// What is left of a suspicion after one more good verdict: a tenth after 22, a hundredth after 44.
const FADES: f64 = 0.9;
/// Of whom nothing is known: a newcomer's answers are all checked.
const UNKNOWN: f64 = 1.0;

/// The suspicion after one more verdict of this quality, both `0.0..=1.0`.
///
/// A bad answer raises it at once, to what is missing from full quality; good ones let it fade. So it is the largest of
/// all `(1 - quality) * FADES^age`, the age in verdicts, and a mixture of good and bad answers is no way around it.
fn after(before: f64, quality: f64) -> f64 {
    let missing = if quality.is_finite() { 1.0 - quality.clamp(0.0, 1.0) } else { 1.0 };
    (before * FADES).max(missing)
}

/// The suspicion by a history of verdicts, oldest first.
fn suspicion(qualities: &[f64]) -> f64 {
    qualities.iter().copied().fold(UNKNOWN, after)
}

/// The share of answers to check: the floor without suspicion, everything with full suspicion. `0.0..=1.0`.
fn share(floor: f64, suspicion: f64) -> f64 {
    let floor = floor.clamp(0.0, 1.0);
    (floor + (1.0 - floor) * suspicion).clamp(floor, 1.0)
}

/// The suspicions against all contenders.
#[derive(Debug, Default)]
pub struct Suspicions(Mutex<BTreeMap<ContenderId, f64>>);

impl Suspicions {
    /// Goes on from the last qualities of an earlier run, oldest first.
    pub fn from_history(recent: &BTreeMap<ContenderId, Vec<f64>>) -> Self {
        let suspicions = Self::default();
        suspicions.replace(recent);
        suspicions
    }

    /// Takes over what another process has found out, as [`from_history`](Self::from_history).
    pub fn replace(&self, recent: &BTreeMap<ContenderId, Vec<f64>>) {
        let known = recent.iter().map(|(id, qualities)| (id.clone(), suspicion(qualities)));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known.collect();
    }

    /// Takes note of a verdict.
    pub fn judged(&self, id: &ContenderId, quality: f64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(id).copied().unwrap_or(UNKNOWN);
        known.insert(id.clone(), after(before, quality));
    }

    /// The share of a contender's answers to check, at least `floor`.
    pub fn share(&self, id: &ContenderId, floor: f64) -> f64 {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        share(floor, known.get(id).copied().unwrap_or(UNKNOWN))
    }

    /// Forgets those that are no contenders any more; should they come back, they are newcomers.
    pub fn keep_only(&self, contenders: impl Fn(&ContenderId) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| contenders(id));
    }
}

#[cfg(test)]
mod tests {
    use common::Hotkey;
    use proptest::prelude::*;

    use super::*;

    fn id(name: u8) -> ContenderId {
        ContenderId { hotkey: Hotkey::from_bytes([name; 32]), task: "chat-demo".parse().unwrap() }
    }

    #[test]
    fn a_newcomer_is_checked_always_an_honest_miner_hardly_more_than_the_floor() {
        let suspicions = Suspicions::default();
        assert_eq!(suspicions.share(&id(1), 0.1), 1.0);
        for _ in 0..50 {
            suspicions.judged(&id(1), 1.0);
        }
        assert!(suspicions.share(&id(1), 0.1) < 0.11);
        assert_eq!(suspicions.share(&id(2), 0.1), 1.0);
    }

    #[test]
    fn one_worthless_answer_is_enough_to_be_checked_always() {
        let suspicions = Suspicions::from_history(&BTreeMap::from([(id(1), vec![1.0; 50])]));
        assert!(suspicions.share(&id(1), 0.1) < 0.11);
        suspicions.judged(&id(1), 0.0);
        assert_eq!(suspicions.share(&id(1), 0.1), 1.0);
    }

    #[test]
    fn who_leaves_and_comes_back_is_a_newcomer() {
        let suspicions =
            Suspicions::from_history(&BTreeMap::from([(id(1), vec![1.0; 9]), (id(2), vec![1.0])]));
        suspicions.keep_only(|contender| *contender == id(2));
        assert_eq!(suspicions.share(&id(1), 0.0), 1.0);
        assert_eq!(suspicions.share(&id(2), 0.0), 0.9);
    }

    fn any_quality() -> impl Strategy<Value = f64> {
        prop_oneof![8 => 0.0..=1.0_f64, 1 => any::<f64>()]
    }

    proptest! {
        #[test]
        fn the_share_is_never_below_the_floor_nor_above_all(
            floor in any_quality(), qualities in prop::collection::vec(any_quality(), 0..60),
        ) {
            let floor = if floor.is_finite() { floor } else { 0.5 };
            let suspicion = suspicion(&qualities);
            prop_assert!((0.0..=1.0).contains(&suspicion));
            let share = share(floor, suspicion);
            prop_assert!(share >= floor.clamp(0.0, 1.0) && share <= 1.0, "{share}");
        }

        #[test]
        fn a_better_answer_never_raises_suspicion(
            qualities in prop::collection::vec(0.0..=1.0_f64, 1..60), which: prop::sample::Index, better in 0.0..=1.0_f64,
        ) {
            let which = which.index(qualities.len());
            let mut improved = qualities.clone();
            improved[which] = improved[which].max(better);
            prop_assert!(suspicion(&improved) <= suspicion(&qualities));
        }

        #[test]
        fn good_answers_let_suspicion_fade_and_a_bad_one_raises_it_at_once(
            qualities in prop::collection::vec(0.0..=1.0_f64, 0..60), bad in 0.0..0.5_f64,
        ) {
            let before = suspicion(&qualities);
            prop_assert!(after(before, 1.0) <= before);
            let followed_by_good = (0..50).fold(before, |suspicion, _| after(suspicion, 1.0));
            prop_assert!(followed_by_good < 0.01);
            prop_assert!(after(before, bad) >= 1.0 - bad);
        }
    }
}
