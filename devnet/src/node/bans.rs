//! Transactions that are not even looked at for a while, because they were in a block or are invalid.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use sp_core::H256;

/// How long, as in Substrate.
const BAN: Duration = Duration::from_secs(30 * 60);

/// How many are remembered at most.
const MOST: usize = 16_384;

/// The transactions that are banned.
#[derive(Debug, Default)]
pub(super) struct Bans {
    all: HashSet<H256>,
    /// Oldest first.
    order: VecDeque<(Instant, H256)>,
}

impl Bans {
    /// Bans a transaction. The oldest ban is lifted if there are too many.
    pub(super) fn add(&mut self, hash: H256, now: Instant) {
        if self.all.insert(hash) {
            self.order.push_back((now, hash));
        }
        if self.order.len() > MOST {
            self.lift_oldest();
        }
    }

    /// Whether a transaction is banned.
    pub(super) fn has(&mut self, hash: &H256, now: Instant) -> bool {
        let over = |since: Instant| now.saturating_duration_since(since) >= BAN;
        while self.order.front().is_some_and(|(since, _)| over(*since)) {
            self.lift_oldest();
        }
        self.all.contains(hash)
    }

    /// Lets a transaction be looked at again.
    pub(super) fn lift(&mut self, hash: &H256) {
        if self.all.remove(hash) {
            self.order.retain(|(_, banned)| banned != hash);
        }
    }

    fn lift_oldest(&mut self) {
        if let Some((_, hash)) = self.order.pop_front() {
            self.all.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_ends_after_a_while_or_when_it_is_lifted() {
        let (mut bans, now) = (Bans::default(), Instant::now());
        let hash = H256::repeat_byte(1);
        assert!(!bans.has(&hash, now));
        bans.add(hash, now);
        assert!(bans.has(&hash, now + BAN - Duration::from_secs(1)));
        assert!(!bans.has(&hash, now + BAN));
        bans.add(hash, now);
        bans.lift(&hash);
        assert!(!bans.has(&hash, now));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let (mut bans, now) = (Bans::default(), Instant::now());
        for n in 0..=MOST {
            bans.add(H256::from_low_u64_be(n as u64), now);
        }
        assert!(!bans.has(&H256::zero(), now));
        assert!(bans.has(&H256::from_low_u64_be(1), now));
        assert_eq!(bans.order.len(), MOST);
    }
}
