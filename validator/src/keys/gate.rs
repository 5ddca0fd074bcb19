//! Lets requests in: by key, limits, budget, and a fair part of the API.
//!
//! Everything here is in memory and takes about a microsecond; the one system call is the journal's `write`. Several processes
//! on one database divide limits by their number, and lease parts of budgets ([`super::budgets`]).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::http::HeaderMap;
use common::money::Usd;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::admission::Admission;
use super::bucket::Short;
use super::headers::Levels;
use super::live::KeyState;
use super::{ANONYMOUS, Denied, PREFIX, Reset, Spec, hash};
use crate::clock;
use crate::ledger::Journal;
use crate::store::{Store, StoreError};

/// Between two looks whether a key was changed.
const TURN: Duration = Duration::from_secs(1);
/// Turns after which other processes are told that this one lives.
const RENEW_TURNS: u32 = 10;

/// Who may call, and how much at once, as the operator's configuration says.
#[derive(Clone, Default)]
pub struct GateConfig {
    /// Limits that all who call without a key share; `None`: nobody may.
    pub anonymous: Option<Spec>,
    /// SHA-256 of the keys of the configuration; they are not limited.
    pub keys: BTreeSet<[u8; 32]>,
    /// Requests under way at once; more are refused with 429.
    pub concurrency: usize,
}

impl fmt::Debug for GateConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateConfig")
            .field("anonymous", &self.anonymous)
            .field("keys", &self.keys.len())
            .field("concurrency", &self.concurrency)
            .finish()
    }
}

/// Lets requests in.
#[derive(Debug)]
pub struct Gate {
    config: GateConfig,
    keys: ArcSwap<HashMap<[u8; 32], Arc<KeyState>>>,
    anonymous: Option<Arc<KeyState>>,
    pub(super) journal: Arc<Journal>,
    pub(super) store: Store,
    /// Requests under way, and keys that have any.
    pub(super) held: AtomicUsize,
    pub(super) active: AtomicUsize,
    /// Requests' ids are this and a number.
    pub(super) run: u64,
    pub(super) next: AtomicU64,
    /// Processes that serve the API on this database.
    nodes: AtomicU32,
}

/// Whether a key that holds `held` of the API's `slots` may take one more while all keys hold `all` and `active` keys hold
/// any, this one included.
///
/// A key that is alone may have everything. As soon as there are two, the last eighth of the slots is only for keys that
/// hold less than their part, which is the slots divided by the active keys, rounded up.
///
/// # Errors
/// If it may not.
fn fair(slots: usize, active: usize, held: usize, all: usize) -> Result<(), Denied> {
    if all >= slots {
        return Err(Denied::Full);
    }
    let nearly_full = all >= slots - slots / 8;
    if active >= 2 && nearly_full && held >= slots.div_ceil(active) {
        return Err(Denied::Share { held });
    }
    Ok(())
}

impl Gate {
    /// Reads the keys. To be called after the journals of earlier runs are imported. `run` is random.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn open(
        config: GateConfig,
        store: Store,
        journal: Arc<Journal>,
        run: u64,
    ) -> Result<Self, StoreError> {
        let state =
            |id: &str, spec| KeyState { id: id.into(), spec, revoked: false, live: Arc::default() };
        let anonymous = config.anonymous.clone().map(|spec| Arc::new(state(ANONYMOUS, spec)));
        let mut keys = HashMap::new();
        for hash in &config.keys {
            let id = format!("config_{}", hex::encode(hash.get(..6).unwrap_or(hash)));
            keys.insert(*hash, Arc::new(state(&id, Spec::default())));
        }
        for key in store.api_keys().await? {
            keys.insert(key.hash, Arc::new(KeyState::new(key, Arc::default())));
        }
        Ok(Self {
            config,
            keys: ArcSwap::from_pointee(keys),
            anonymous,
            journal,
            store,
            held: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            run,
            next: AtomicU64::new(0),
            nodes: AtomicU32::new(1),
        })
    }

    /// Takes up the keys as they are in the database now.
    ///
    /// # Errors
    /// If the database fails; nothing changes then.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let old = self.keys.load_full();
        let mut keys: HashMap<_, _> = old
            .iter()
            .filter(|(hash, _)| self.config.keys.contains(*hash))
            .map(|(hash, state)| (*hash, Arc::clone(state)))
            .collect();
        let mut changed = Vec::new();
        for key in self.store.api_keys().await? {
            let known = old.get(&key.hash);
            let live = known.map(|state| Arc::clone(&state.live)).unwrap_or_default();
            let (hash, state) = (key.hash, Arc::new(KeyState::new(key, live)));
            if known.is_some_and(|known| known.has_another_budget(&state)) {
                changed.push(Arc::clone(&state));
            }
            keys.insert(hash, state);
        }
        self.keys.store(Arc::new(keys));
        for key in changed {
            // What was leased of the old budget.
            self.give_back(&key).await?;
        }
        Ok(())
    }

    /// Takes up changes of keys within a second or two, and shares budgets and limits with other processes, until it is told
    /// to stop.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let (mut known, mut failing, mut turns) = (None, false, 0_u32);
        loop {
            let looked = self.look(&mut known, turns.is_multiple_of(RENEW_TURNS)).await;
            if let (Err(error), false) = (&looked, failing) {
                warn!("changes of API keys are not noticed at the moment: {error}");
            }
            failing = looked.is_err();
            turns = turns.wrapping_add(1);
            if tokio::time::timeout(TURN, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    async fn look(&self, known: &mut Option<i64>, renew: bool) -> Result<(), StoreError> {
        let version = self.store.api_keys_version().await?;
        if *known != Some(version) {
            self.reload().await?;
            *known = Some(version);
        }
        if renew {
            self.renew(clock::unix_ms()).await?;
        }
        self.give_back_idle(clock::unix_ms()).await
    }

    /// Who this process is to the others on the database.
    pub(super) fn node(&self) -> &str {
        self.journal.node()
    }

    /// How many processes serve the API.
    pub(super) fn nodes(&self) -> u32 {
        self.nodes.load(Ordering::Relaxed)
    }

    pub(super) fn set_nodes(&self, nodes: u32) {
        self.nodes.store(nodes.max(1), Ordering::Relaxed);
    }

    /// This process's part of a limit: at least 1.
    pub(super) fn part(&self, limit: u32) -> u32 {
        limit.div_ceil(self.nodes())
    }

    pub(super) fn all_keys(&self) -> Vec<Arc<KeyState>> {
        let keys = self.keys.load();
        keys.values().chain(&self.anonymous).map(Arc::clone).collect()
    }

    /// What tells how much of the limits of a caller's key is left; `None` for strangers.
    pub fn levels(&self, bearer: Option<&str>) -> Option<Levels> {
        let key = match self.anonymous_for(bearer) {
            Some(anonymous) => Arc::clone(anonymous),
            None => self.keys.load().get(&hash(bearer?.trim())).cloned()?,
        };
        Some(Levels { key, nodes: self.nodes() })
    }

    /// Whether a caller needs no key. Many clients insist on sending one, so a text that is no key counts as none; one that
    /// looks like a key has to be one.
    pub fn is_open_to(&self, bearer: Option<&str>) -> bool {
        self.anonymous_for(bearer).is_some()
    }

    fn anonymous_for(&self, bearer: Option<&str>) -> Option<&Arc<KeyState>> {
        let is_key = |bearer: &str| {
            bearer.starts_with(PREFIX) || self.keys.load().contains_key(&hash(bearer))
        };
        self.anonymous.as_ref().filter(|_| !bearer.is_some_and(|bearer| is_key(bearer.trim())))
    }

    /// Whose key this is, if it may send a request now. `bearer` is the key itself, without `Bearer`.
    ///
    /// # Errors
    /// If it may not.
    pub fn identify(
        self: &Arc<Self>,
        bearer: Option<&str>,
        now_ms: i64,
    ) -> Result<Admission, Denied> {
        let key = match self.anonymous_for(bearer) {
            Some(anonymous) => Arc::clone(anonymous),
            None => {
                let bearer = bearer.ok_or(Denied::NoKey)?.trim();
                self.keys.load().get(&hash(bearer)).cloned().ok_or(Denied::Unknown)?
            }
        };
        if key.revoked {
            return Err(Denied::Revoked);
        }
        if key.spec.expires_ms.is_some_and(|expires| now_ms >= expires) {
            return Err(Denied::Expired);
        }
        // Counted first, so that two at once cannot both be the last; what is denied is dropped and counted back.
        let all = self.held.fetch_add(1, Ordering::Relaxed);
        let held = key.live.held.fetch_add(1, Ordering::Relaxed);
        if held == 0 {
            self.active.fetch_add(1, Ordering::Relaxed);
        }
        let admission = Admission { gate: Arc::clone(self), key };
        let (key, active) = (&admission.key, self.active.load(Ordering::Relaxed));
        let is_full = |limit: &u32| held >= self.part(*limit) as usize;
        if let Some(limit) = key.spec.parallel.filter(is_full) {
            return Err(Denied::Parallel { limit });
        }
        fair(self.config.concurrency, active, held, all)?;
        if let Some(limit) = key.spec.requests_per_minute {
            let part = self.part(limit);
            key.live.used().requests.take(part, 1, now_ms).map_err(|short| Denied::Requests {
                limit,
                wait: Duration::from_millis(match short {
                    Short::Wait(wait) => wait,
                    Short::Never => 60_000,
                }),
            })?;
        }
        Ok(admission)
    }

    /// The key of a request that only asks about itself, such as for its usage: nothing is counted.
    ///
    /// # Errors
    /// If it is not known, revoked or expired.
    pub fn owner(&self, bearer: Option<&str>, now_ms: i64) -> Result<Owner, Denied> {
        let bearer = bearer.ok_or(Denied::NoKey)?;
        let key = self.keys.load().get(&hash(bearer.trim())).cloned().ok_or(Denied::Unknown)?;
        match key.spec.expires_ms {
            _ if key.revoked => Err(Denied::Revoked),
            Some(expires) if now_ms >= expires => Err(Denied::Expired),
            Some(_) | None => Ok(Owner {
                id: Arc::clone(&key.id),
                budget: key.spec.budget,
                reset: key.spec.budget_reset,
            }),
        }
    }
}

/// Whose key it is.
#[derive(Debug, Clone)]
pub struct Owner {
    pub id: Arc<str>,
    /// `None`: not limited.
    pub budget: Option<Usd>,
    pub reset: Reset,
}

/// The key in `Authorization: Bearer KEY`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(axum::http::header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// [`Gate::identify`]'s time.
pub fn now_ms() -> i64 {
    clock::unix_ms()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_holds_more_than_its_part_when_it_gets_narrow() {
        // Alone, a key may have all.
        assert_eq!(fair(64, 1, 63, 63), Ok(()));
        assert_eq!(fair(64, 1, 64, 64), Err(Denied::Full));
        // With another, only what is not the last eighth.
        assert_eq!(fair(64, 2, 54, 55), Ok(()));
        assert_eq!(fair(64, 2, 55, 56), Err(Denied::Share { held: 55 }));
        // Who comes late still finds room.
        assert_eq!(fair(64, 2, 1, 56), Ok(()));
        assert_eq!(fair(64, 3, 21, 63), Ok(()));
        assert_eq!(fair(64, 3, 22, 63), Err(Denied::Share { held: 22 }));
        assert_eq!(fair(1, 2, 0, 0), Ok(()));
    }
}
