//! Running totals of the open scoring period.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use common::{Hotkey, TaskId, Volume};

use crate::ask::Outcome;
use crate::store::PeriodId;

/// A miner together with one of the tasks it serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContenderId {
    pub hotkey: Hotkey,
    pub task: TaskId,
}

/// What one contender did in the open period.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    /// Work it declared for the period, in the task's unit.
    pub declared: f64,
    /// Work it did.
    pub consumed: f64,
    pub served: u32,
    pub refused: u32,
    pub failed: u32,
}

impl Tally {
    /// Everything it was asked.
    pub fn asked(&self) -> u32 {
        self.served.saturating_add(self.refused).saturating_add(self.failed)
    }
}

/// The totals of all contenders, shared by everyone who asks miners.
#[derive(Debug, Default)]
pub struct Tallies {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// `None` before the first period.
    period: Option<PeriodId>,
    tallies: BTreeMap<ContenderId, Tally>,
    /// Those that differ from what is stored.
    changed: BTreeSet<ContenderId>,
}

impl Tallies {
    /// Counts one finished query. An outcome counts in the period in which it is known.
    ///
    /// Somebody who is no contender any more, because a new period has begun without it, is not counted.
    pub fn record(&self, id: &ContenderId, outcome: &Outcome) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tally) = open.tallies.get_mut(id) else { return };
        match outcome {
            Outcome::Served(served) => {
                tally.served = tally.served.saturating_add(1);
                tally.consumed += f64::from(served.tokens());
            }
            Outcome::Refused => tally.refused = tally.refused.saturating_add(1),
            Outcome::Failed(_) => tally.failed = tally.failed.saturating_add(1),
        }
        open.changed.insert(id.clone());
    }

    /// Ends the period and begins `next` with these contenders at zero. Returns the one that ended and its totals.
    pub fn turn(
        &self,
        next: PeriodId,
        declared: &BTreeMap<ContenderId, Volume>,
    ) -> Option<(PeriodId, BTreeMap<ContenderId, Tally>)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Open {
            period: Some(next),
            tallies: declared
                .iter()
                .map(|(id, volume)| {
                    (id.clone(), Tally { declared: volume.get(), ..Tally::default() })
                })
                .collect(),
            changed: declared.keys().cloned().collect(),
        };
        let ended = std::mem::replace(&mut *open, next);
        Some((ended.period?, ended.tallies))
    }

    /// The totals as they are now.
    pub fn snapshot(&self) -> BTreeMap<ContenderId, Tally> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).tallies.clone()
    }

    /// The totals that have changed since the last call, and their period. `None` before the first period.
    pub fn take_changed(&self) -> Option<(PeriodId, BTreeMap<ContenderId, Tally>)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = std::mem::take(&mut open.changed);
        let totals = changed
            .into_iter()
            .filter_map(|id| Some((id.clone(), *open.tallies.get(&id)?)))
            .collect();
        Some((open.period?, totals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Failure;

    fn id(name: u8) -> ContenderId {
        ContenderId { hotkey: Hotkey::from_bytes([name; 32]), task: "chat-demo".parse().unwrap() }
    }

    #[test]
    fn a_new_period_starts_at_zero_and_keeps_the_old_totals_apart() {
        let tallies = Tallies::default();
        let declared = BTreeMap::from([(id(1), Volume::from(100))]);
        assert_eq!(tallies.turn(PeriodId(1), &declared), None);
        tallies.record(&id(1), &Outcome::Refused);
        tallies.record(&id(1), &Outcome::Failed(Failure::NoReceipt));
        tallies.record(&id(2), &Outcome::Refused);

        let ended = tallies.turn(PeriodId(2), &declared);

        let expected = Tally { declared: 100.0, refused: 1, failed: 1, ..Tally::default() };
        assert_eq!(ended, Some((PeriodId(1), BTreeMap::from([(id(1), expected)]))));
        assert_eq!(tallies.snapshot()[&id(1)].asked(), 0);
    }

    #[test]
    fn only_what_changed_is_handed_to_the_store() {
        let tallies = Tallies::default();
        let changed =
            |tallies: &Tallies| tallies.take_changed().unwrap().1.into_keys().collect::<Vec<_>>();
        tallies.turn(
            PeriodId(1),
            &BTreeMap::from([(id(1), Volume::from(1)), (id(2), Volume::from(1))]),
        );
        assert_eq!(changed(&tallies), [id(1), id(2)]);
        tallies.record(&id(2), &Outcome::Refused);
        assert_eq!(changed(&tallies), [id(2)]);
        assert!(changed(&tallies).is_empty());
    }
}
