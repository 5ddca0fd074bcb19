//! Budgets: each process spends what it has leased of them, so that several on one database never spend more together.
//!
//! A request waits for the database only when the lease does not cover it, which is seldom: each time a part of what is left
//! is leased, or what the request needs if that is more.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::money::Usd;
use tracing::warn;

use super::Denied;
use super::gate::Gate;
use super::live::{KeyState, Live, Short};
use crate::store::{StoreError, Wanted};

/// A process that has not been heard of for so long is taken for dead, and its leases are free, in milliseconds.
const LEASE_MS: i64 = 60_000;
/// Who has no more requests of a key gives the rest of its lease back, for other processes.
const IDLE_MS: i64 = 10_000;
/// How long it is believed that a budget is used up.
const SHORT_MS: i64 = 1_000;
/// The least that a request needs, even a free one: a budget that is used up is used up.
const LEAST: Usd = Usd::from_pico(1);

impl Gate {
    /// Sets the most that a request may cost aside.
    pub(super) async fn reserve(
        self: &Arc<Self>,
        key: &Arc<KeyState>,
        most: Usd,
        now_ms: i64,
    ) -> Result<(), Denied> {
        let Some(budget) = key.spec.budget else {
            let mut used = key.live.used();
            used.reserved = used.reserved.plus(most);
            return Ok(());
        };
        while !covered(&key.live, most, now_ms)? {
            // In a task of its own: what the database grants must be known here, even if the caller goes away meanwhile.
            let (gate, key) = (Arc::clone(self), Arc::clone(key));
            let leased =
                tokio::spawn(async move { gate.lease(&key, budget, most, now_ms).await }).await;
            if let Err(error) = leased.map_err(anyhow::Error::from).and_then(|done| Ok(done?)) {
                warn!("a request is refused, because its budget cannot be looked up: {error:#}");
                return Err(Denied::NoLedger);
            }
        }
        Ok(())
    }

    /// Leases what a request needs beyond what is leased already, or learns that there is not as much.
    async fn lease(
        &self,
        key: &KeyState,
        budget: Usd,
        most: Usd,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let _leasing = key.live.leasing.lock().await;
        let needs = most.max(LEAST);
        // Another request may have leased enough.
        let unspent = key.live.used().unspent();
        if unspent >= needs {
            return Ok(());
        }
        let wanted = Wanted {
            key: &key.id,
            node: self.node(),
            budget,
            reset: key.spec.budget_reset,
            least: needs.minus(unspent),
            until_ms: now_ms.saturating_add(LEASE_MS),
        };
        let leased = self.store.lease(wanted, now_ms).await?;
        let mut used = key.live.used();
        used.leased = used.leased.plus(leased.more);
        used.short = match leased.more {
            Usd::ZERO => Short { until_ms: now_ms.saturating_add(SHORT_MS), left: leased.left },
            _ => Short::default(),
        };
        Ok(())
    }

    /// Tells the database that this process lives, and learns how many there are. What others have taken, because nothing
    /// was heard of it for too long, is not spent any more.
    pub(super) async fn renew(&self, now_ms: i64) -> Result<(), StoreError> {
        let keys: Vec<_> = self.budgeted().collect();
        let mut leasing = Vec::new();
        for key in &keys {
            leasing.push(key.live.leasing.lock().await);
        }
        let leased = self.store.renew_leases(self.node(), now_ms, LEASE_MS).await?;
        for key in keys.iter().filter(|key| !leased.contains(&*key.id)) {
            let mut used = key.live.used();
            used.leased = used.leased.min(used.reserved);
        }
        drop(leasing);
        self.set_nodes(self.store.api_nodes().await?);
        Ok(())
    }

    /// Gives back what keys have leased and do not spend. With no other process there is nobody to give it to.
    pub(super) async fn give_back_idle(&self, now_ms: i64) -> Result<(), StoreError> {
        if self.nodes() == 1 {
            return Ok(());
        }
        let keys: Vec<_> = self.budgeted().collect();
        for key in keys {
            if now_ms.saturating_sub(key.live.used().reserved_ms) >= IDLE_MS {
                self.give_back(&key).await?;
            }
        }
        Ok(())
    }

    /// Gives back what a key has leased and not reserved.
    pub(super) async fn give_back(&self, key: &KeyState) -> Result<(), StoreError> {
        let _leasing = key.live.leasing.lock().await;
        let unspent = {
            let mut used = key.live.used();
            let unspent = used.unspent();
            used.leased = used.leased.minus(unspent);
            used.short = Short::default();
            unspent
        };
        if unspent == Usd::ZERO {
            return Ok(());
        }
        let given = self.store.give_back(&key.id, self.node(), unspent).await;
        if given.is_err() {
            let mut used = key.live.used();
            used.leased = used.leased.plus(unspent);
        }
        given
    }

    /// Keys that have leased something.
    fn budgeted(&self) -> impl Iterator<Item = Arc<KeyState>> + use<> {
        let mut seen = BTreeSet::new();
        let keys = self.all_keys().into_iter();
        keys.filter(move |key| {
            key.live.used().leased > Usd::ZERO && seen.insert(Arc::clone(&key.id))
        })
    }
}

/// Whether the lease covers a request, which is then reserved.
fn covered(live: &Live, most: Usd, now_ms: i64) -> Result<bool, Denied> {
    let mut used = live.used();
    if used.reserve(most, now_ms) {
        return Ok(true);
    }
    let left = used.unspent().plus(used.short.left);
    if now_ms < used.short.until_ms && most.max(LEAST) > left {
        return Err(Denied::Budget { needs: most, left });
    }
    Ok(false)
}
