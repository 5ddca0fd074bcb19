//! How much of the queue for checking each contender may take. Pure.

use std::collections::BTreeMap;

use crate::tally::ContenderId;

/// A contender may take a place as long as it has less than this part of what is free. So a few that are checked always
/// can fill most of the queue, many of them together leave room all the same, and whoever has nothing in it gets in.
const PART_OF_FREE: u32 = 4;
/// There is room again when no more than this part of the queue is taken. Nobody is turned away before a fifth is.
const RELAXED_PART: u32 = 10;

/// The queue's places.
#[derive(Debug)]
pub(super) struct Room {
    limit: u32,
    taken: u32,
    of_each: BTreeMap<ContenderId, u32>,
}

impl Room {
    /// Of `limit` places these are taken.
    pub(super) fn new(limit: u32, of_each: BTreeMap<ContenderId, u32>) -> Self {
        let taken = of_each.values().fold(0, |sum: u32, count| sum.saturating_add(*count));
        Self { limit, taken, of_each }
    }

    /// Takes a place for a contender's answer, or returns false if it has its part.
    pub(super) fn take(&mut self, id: &ContenderId) -> bool {
        let free = self.limit.saturating_sub(self.taken);
        let own = self.of_each.get(id).copied().unwrap_or(0);
        if free == 0 || own >= (free / PART_OF_FREE).max(1) {
            return false;
        }
        self.taken += 1;
        self.of_each.insert(id.clone(), own + 1);
        true
    }

    /// Whether a queue with so many answers has room for everybody.
    pub(super) fn is_relaxed(limit: u32, waiting: u32) -> bool {
        waiting <= limit / RELAXED_PART
    }
}

#[cfg(test)]
mod tests {
    use common::Hotkey;
    use proptest::prelude::*;

    use super::*;

    fn id(name: u16) -> ContenderId {
        let mut hotkey = [0; 32];
        hotkey[..2].copy_from_slice(&name.to_be_bytes());
        ContenderId { hotkey: Hotkey::from_bytes(hotkey), task: "chat-demo".parse().unwrap() }
    }

    #[test]
    fn newcomers_that_are_checked_always_leave_room_for_the_others() {
        let mut room = Room::new(20_000, BTreeMap::new());
        for _ in 0..20_000 {
            for newcomer in 0..200 {
                room.take(&id(newcomer));
            }
        }
        assert!(room.taken > 15_000, "{}", room.taken);
        for honest in 200..300 {
            assert!(room.take(&id(honest)));
        }
    }

    #[test]
    fn what_waits_already_counts() {
        let mut room = Room::new(100, BTreeMap::from([(id(1), 20), (id(2), 1)]));
        assert!(!room.take(&id(1)));
        assert!(room.take(&id(2)));
    }

    proptest! {
        #[test]
        fn the_limit_holds_and_nobody_is_turned_away_from_a_relaxed_queue(
            limit in 0..200_u32, names in prop::collection::vec(0..20_u16, 0..400),
        ) {
            let mut room = Room::new(limit, BTreeMap::new());
            for name in names {
                let before = room.taken;
                let taken = room.take(&id(name));
                prop_assert!(room.taken <= limit);
                prop_assert!(taken || before == limit || !Room::is_relaxed(limit, before));
            }
        }
    }
}
