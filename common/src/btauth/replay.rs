//! Which nonces were used, in bounded memory.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use super::{Rejection, Windows};
use crate::Hotkey;

/// How often everybody's nonces are looked through at most, so that a full memory does not cost time as well.
const SWEEP_EVERY_NS: u64 = 1_000_000_000;

/// The nonces of accepted requests. A nonce is a time, so it is forgotten by its own value: once it is older than the
/// retention it would be refused as stale whatever is remembered.
#[derive(Debug)]
pub(super) struct Replays {
    max_age_ns: u64,
    retention_ns: u64,
    capacity: usize,
    per_sender: usize,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    of: HashMap<Hotkey, BTreeSet<u64>>,
    total: usize,
    swept_ns: u64,
}

impl Replays {
    pub(super) fn new(windows: &Windows) -> Self {
        let nanoseconds =
            |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            max_age_ns: nanoseconds(windows.max_age),
            retention_ns: nanoseconds(windows.retention.max(windows.max_age)),
            capacity: windows.capacity,
            per_sender: windows.per_sender,
            seen: Mutex::default(),
        }
    }

    /// Takes note of a nonce, unless it was seen or there is no room.
    pub(super) fn insert(
        &self,
        sender: &Hotkey,
        nonce_ns: u64,
        now_ns: u64,
    ) -> Result<(), Rejection> {
        // A panic while it was held left at worst a nonce too many.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.of.get(sender).is_some_and(|nonces| nonces.contains(&nonce_ns)) {
            return Err(Rejection::ReplayedRequest);
        }
        let expired = now_ns.saturating_sub(self.retention_ns);
        let stale = now_ns.saturating_sub(self.max_age_ns);
        if now_ns.abs_diff(seen.swept_ns) >= SWEEP_EVERY_NS {
            seen.swept_ns = now_ns;
            seen.forget_all_before(expired);
            if seen.total >= self.capacity {
                seen.forget_all_before(stale);
            }
        }
        if seen.of.get(sender).is_some_and(|nonces| nonces.len() >= self.per_sender) {
            seen.forget_before(sender, stale);
        }
        let own = seen.of.get(sender).map_or(0, BTreeSet::len);
        if seen.total >= self.capacity || own >= self.per_sender {
            return Err(Rejection::Overloaded);
        }
        seen.of.entry(*sender).or_default().insert(nonce_ns);
        seen.total += 1;
        Ok(())
    }
}

impl Seen {
    fn forget_all_before(&mut self, limit_ns: u64) {
        self.of.retain(|_, nonces| {
            if nonces.first().is_some_and(|first| *first < limit_ns) {
                *nonces = nonces.split_off(&limit_ns);
            }
            !nonces.is_empty()
        });
        self.total = self.of.values().map(BTreeSet::len).sum();
    }

    fn forget_before(&mut self, sender: &Hotkey, limit_ns: u64) {
        let Some(nonces) = self.of.get_mut(sender) else { return };
        let before = nonces.len();
        *nonces = nonces.split_off(&limit_ns);
        self.total -= before - nonces.len();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000 * SECOND;

    fn replays(capacity: usize, per_sender: usize) -> Replays {
        Replays::new(&Windows { capacity, per_sender, ..Windows::default() })
    }

    fn key(number: u8) -> Hotkey {
        Hotkey::from_bytes([number; 32])
    }

    #[test]
    fn a_sender_that_fills_its_part_is_refused_and_the_others_are_not() {
        let replays = replays(100, 2);
        for nonce in [NOW, NOW + 1] {
            assert_eq!(replays.insert(&key(1), nonce, NOW), Ok(()));
        }
        assert_eq!(replays.insert(&key(1), NOW + 2, NOW), Err(Rejection::Overloaded));
        assert_eq!(replays.insert(&key(2), NOW + 2, NOW), Ok(()));
        // What was remembered is still refused, and room comes back once the old nonces are stale anyway.
        assert_eq!(replays.insert(&key(1), NOW, NOW), Err(Rejection::ReplayedRequest));
        let later = NOW + 11 * SECOND;
        assert_eq!(replays.insert(&key(1), later, later), Ok(()));
    }

    #[test]
    fn a_full_memory_refuses_and_recovers() {
        let replays = replays(2, 2);
        assert_eq!(replays.insert(&key(1), NOW, NOW), Ok(()));
        assert_eq!(replays.insert(&key(2), NOW, NOW), Ok(()));
        assert_eq!(replays.insert(&key(3), NOW, NOW), Err(Rejection::Overloaded));
        let later = NOW + 11 * SECOND;
        assert_eq!(replays.insert(&key(3), later, later), Ok(()));
    }

    #[test]
    fn nonces_outlive_the_freshness_window_in_case_the_clock_steps_back() {
        let replays = replays(100, 100);
        replays.insert(&key(1), NOW, NOW).unwrap();
        replays.insert(&key(1), NOW + 30 * SECOND, NOW + 30 * SECOND).unwrap();
        assert_eq!(replays.insert(&key(1), NOW, NOW), Err(Rejection::ReplayedRequest));
    }

    proptest! {
        #[test]
        fn no_fresh_nonce_is_ever_accepted_twice_and_memory_stays_bounded(
            requests in prop::collection::vec((0..4u8, 0..30u64, 0..3u64), 1..300),
            capacity in 1..40usize,
            per_sender in 1..20usize,
        ) {
            let replays = replays(capacity, per_sender);
            let mut accepted = std::collections::HashSet::new();
            let mut now = NOW;
            for (sender, age, step) in requests {
                now += step * SECOND;
                let nonce = now - (age % 10) * SECOND;
                if replays.insert(&key(sender), nonce, now).is_ok() {
                    prop_assert!(accepted.insert((sender, nonce)), "accepted twice");
                }
                let seen = replays.seen.lock().unwrap();
                prop_assert!(seen.total <= capacity);
                prop_assert_eq!(seen.total, seen.of.values().map(BTreeSet::len).sum::<usize>());
            }
        }

        #[test]
        fn retention_is_never_shorter_than_the_freshness_window(age in 0..100u64, retention in 0..100u64) {
            let windows = Windows {
                max_age: Duration::from_secs(age),
                retention: Duration::from_secs(retention),
                ..Windows::default()
            };
            let replays = Replays::new(&windows);
            prop_assert!(replays.retention_ns >= replays.max_age_ns);
        }
    }
}
