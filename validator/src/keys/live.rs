//! What is known of a key in this process.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::money::Usd;

use super::bucket::Bucket;
use super::{Key, Spec};

/// A key and how much of its limits is used.
#[derive(Debug)]
pub(super) struct KeyState {
    pub(super) id: Arc<str>,
    pub(super) spec: Spec,
    pub(super) revoked: bool,
    /// Stays when the limits change.
    pub(super) live: Arc<Live>,
}

#[derive(Debug, Default)]
pub(super) struct Live {
    /// Requests under way.
    pub(super) held: AtomicUsize,
    used: Mutex<Counters>,
    /// Held while more of the budget is leased, or some is given back.
    pub(super) leasing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) requests: Bucket,
    pub(super) tokens: Bucket,
    /// The most that requests under way may cost.
    pub(super) reserved: Usd,
    /// What this process may still charge to the budget, `reserved` included.
    pub(super) leased: Usd,
    /// When a request last reserved something, Unix milliseconds.
    pub(super) reserved_ms: i64,
    pub(super) short: Short,
}

/// The budget did not cover a request: not to ask the database again for each one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Short {
    /// Until then this is taken for true, Unix milliseconds.
    pub(super) until_ms: i64,
    /// What nobody held.
    pub(super) left: Usd,
}

impl KeyState {
    pub(super) fn new(key: Key, live: Arc<Live>) -> Self {
        Self { id: key.id.into(), spec: key.spec, revoked: key.revoked_ms.is_some(), live }
    }

    /// Whether the other form of this key has another budget.
    pub(super) fn has_another_budget(&self, other: &Self) -> bool {
        let budget = |key: &Self| (key.spec.budget, key.spec.budget_reset);
        budget(self) != budget(other)
    }
}

impl Live {
    pub(super) fn used(&self) -> MutexGuard<'_, Counters> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    /// What is leased and not reserved.
    pub(super) fn unspent(&self) -> Usd {
        self.leased.minus(self.reserved).max(Usd::ZERO)
    }

    /// Reserves, if the lease covers it.
    pub(super) fn reserve(&mut self, most: Usd, now_ms: i64) -> bool {
        // A budget that is used up is not for free tasks either.
        let covered = self.unspent() >= most && self.unspent() > Usd::ZERO;
        if covered {
            self.reserved = self.reserved.plus(most);
            self.reserved_ms = now_ms;
        }
        covered
    }
}
