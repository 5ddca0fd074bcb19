//! Lets requests in: by key, limits, budget, and a fair part of the API.
//!
//! Everything here is in memory and takes about a microsecond; the one system call is the journal's `write`. Limits and
//! budgets are those of one process: several on one database do not know of each other.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, HeaderValue};
use common::money::Usd;
use tasks::Task;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::bucket::{Bucket, Level, Short};
use super::{Denied, Key, PREFIX, Reset, Spec, hash, window_start};
use crate::clock;
use crate::ledger::{Entry, Journal, Record};
use crate::store::{Store, StoreError};

/// Between two looks whether a key was changed.
const TURN: Duration = Duration::from_secs(1);
/// Who calls without a key, in the ledger.
const ANONYMOUS: &str = "anonymous";

/// What the operator's configuration says.
#[derive(Debug, Clone, Default)]
pub struct GateConfig {
    /// Limits that all who call without a key share; `None`: nobody may.
    pub anonymous: Option<Spec>,
    /// SHA-256 of the keys of the configuration; they are not limited.
    pub keys: BTreeSet<[u8; 32]>,
    /// Requests under way at once.
    pub concurrency: usize,
}

/// Lets requests in.
#[derive(Debug)]
pub struct Gate {
    config: GateConfig,
    keys: ArcSwap<HashMap<[u8; 32], Arc<KeyState>>>,
    anonymous: Option<Arc<KeyState>>,
    journal: Arc<Journal>,
    store: Store,
    /// Requests under way, and keys that have any.
    held: AtomicUsize,
    active: AtomicUsize,
    /// Requests' ids are this and a number.
    run: u64,
    next: AtomicU64,
}

/// A key and how much of its limits is used.
#[derive(Debug)]
struct KeyState {
    id: Arc<str>,
    spec: Spec,
    revoked: bool,
    /// Stays when the limits change.
    live: Arc<Live>,
}

#[derive(Debug, Default)]
struct Live {
    held: AtomicUsize,
    used: Mutex<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    requests: Bucket,
    tokens: Bucket,
    reserved: Usd,
    /// By [`Reset`], so that another one can be chosen at any time: since when, and how much.
    spent: [(i64, Usd); 4],
}

impl Counters {
    /// What was spent of a budget by now.
    fn spent(&self, reset: Reset, now_ms: i64) -> Usd {
        let (since, spent) = self.spent[reset as usize];
        if since >= window_start(reset, now_ms) { spent } else { Usd::ZERO }
    }

    fn charge(&mut self, amount: Usd, now_ms: i64) {
        for reset in Reset::ALL {
            let spent = self.spent(reset, now_ms).plus(amount);
            let since = self.spent[reset as usize].0.max(window_start(reset, now_ms));
            self.spent[reset as usize] = (since, spent);
        }
    }
}

impl Live {
    fn used(&self) -> MutexGuard<'_, Counters> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    /// Reads the keys and what they spent. To be called after the journals of earlier runs are imported. `run` is random.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn open(
        config: GateConfig,
        store: Store,
        journal: Arc<Journal>,
        run: u64,
        now_ms: i64,
    ) -> Result<Self, StoreError> {
        let mut spent: HashMap<String, Counters> = HashMap::new();
        for reset in Reset::ALL {
            let since = window_start(reset, now_ms);
            for (key, amount) in store.charged_since(since).await? {
                spent.entry(key).or_default().spent[reset as usize] = (since, amount);
            }
        }
        let live = |id: &str, spent: &mut HashMap<String, Counters>| {
            let used = spent.remove(id).unwrap_or_default();
            Arc::new(Live { held: AtomicUsize::new(0), used: Mutex::new(used) })
        };
        let anonymous = config.anonymous.clone().map(|spec| {
            let live = live(ANONYMOUS, &mut spent);
            Arc::new(KeyState { id: ANONYMOUS.into(), spec, revoked: false, live })
        });
        let mut keys = HashMap::new();
        for hash in &config.keys {
            let id: Arc<str> =
                format!("config_{}", hex::encode(hash.get(..6).unwrap_or(hash))).into();
            let live = live(&id, &mut spent);
            let state = KeyState { id, spec: Spec::default(), revoked: false, live };
            keys.insert(*hash, Arc::new(state));
        }
        for key in store.api_keys().await? {
            let live = live(&key.id, &mut spent);
            keys.insert(key.hash, Arc::new(KeyState::new(key, live)));
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
        for key in self.store.api_keys().await? {
            // Who is new has spent nothing.
            let live = old.get(&key.hash).map(|state| Arc::clone(&state.live)).unwrap_or_default();
            keys.insert(key.hash, Arc::new(KeyState::new(key, live)));
        }
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    /// Takes up changes of keys within a second or two, until it is told to stop.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut known = None;
        let mut failing = false;
        while tokio::time::timeout(TURN, stop.cancelled()).await.is_err() {
            let looked = async {
                let version = self.store.api_keys_version().await?;
                if known != Some(version) {
                    self.reload().await?;
                    known = Some(version);
                }
                Ok::<_, StoreError>(())
            };
            let looked = looked.await;
            if let (Err(error), false) = (&looked, failing) {
                warn!("changes of API keys are not noticed at the moment: {error}");
            }
            failing = looked.is_err();
        }
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
        if let Some(limit) = key.spec.parallel.filter(|limit| held >= *limit as usize) {
            return Err(Denied::Parallel { limit });
        }
        fair(self.config.concurrency, active, held, all)?;
        if let Some(limit) = key.spec.requests_per_minute {
            key.live.used().requests.take(limit, 1, now_ms).map_err(|short| Denied::Requests {
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
                remaining: key.remaining(now_ms),
            }),
        }
    }
}

/// Whose key it is.
#[derive(Debug, Clone)]
pub struct Owner {
    pub id: Arc<str>,
    pub budget: Option<Usd>,
    /// `None`: not limited.
    pub remaining: Option<Usd>,
}

impl KeyState {
    fn new(key: Key, live: Arc<Live>) -> Self {
        Self { id: key.id.into(), spec: key.spec, revoked: key.revoked_ms.is_some(), live }
    }

    /// What is left of the budget, reservations not counted.
    fn remaining(&self, now_ms: i64) -> Option<Usd> {
        let spent = self.live.used().spent(self.spec.budget_reset, now_ms);
        Some(self.spec.budget?.minus(spent).max(Usd::ZERO))
    }
}

/// A request that was let in. It counts as under way until this is dropped.
#[derive(Debug)]
pub struct Admission {
    gate: Arc<Gate>,
    key: Arc<KeyState>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.gate.held.fetch_sub(1, Ordering::Relaxed);
        if self.key.live.held.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.gate.active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The `x-ratelimit-…` headers of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers {
    pub requests: Option<Level>,
    pub tokens: Option<Level>,
}

impl Headers {
    /// Writes them, where the key has the limit.
    pub fn write(&self, headers: &mut HeaderMap) {
        for (level, names) in [
            (self.requests, ["limit-requests", "remaining-requests", "reset-requests"]),
            (self.tokens, ["limit-tokens", "remaining-tokens", "reset-tokens"]),
        ] {
            let Some(level) = level else { continue };
            let texts = [
                level.limit.to_string(),
                level.remaining.to_string(),
                format!("{}ms", level.reset_ms),
            ];
            for (name, text) in names.into_iter().zip(texts) {
                let name = format!("x-ratelimit-{name}");
                if let (Ok(name), Ok(value)) =
                    (name.parse::<axum::http::HeaderName>(), HeaderValue::try_from(text))
                {
                    headers.insert(name, value);
                }
            }
        }
    }
}

impl Admission {
    /// The key's id, as in the ledger.
    pub fn key(&self) -> &str {
        &self.key.id
    }

    /// How much of the limits is left.
    pub fn headers(&self, now_ms: i64) -> Headers {
        let (spec, used) = (&self.key.spec, self.key.live.used());
        Headers {
            requests: spec.requests_per_minute.map(|limit| used.requests.level(limit, now_ms)),
            tokens: spec.tokens_per_minute.map(|limit| used.tokens.level(limit, now_ms)),
        }
    }

    /// Whether the key may use a task.
    pub fn may_use(&self, task: &Task) -> bool {
        self.key.spec.models.is_empty() || self.key.spec.models.contains(&task.id)
    }

    /// Reserves tokens and money for the most that a request can use: `choices` answers of `max_completion` tokens each.
    /// `prompt_tokens` has to be an upper bound: no more than what is reserved is ever charged.
    ///
    /// # Errors
    /// If the key may not use the task, or has too little left, or what the request costs could not be written down.
    pub fn reserve(
        self,
        task: &Task,
        prompt_tokens: u64,
        max_completion: u32,
        choices: u32,
        now_ms: i64,
    ) -> Result<Reservation, Denied> {
        if !self.may_use(task) {
            return Err(Denied::Model(task.id.clone()));
        }
        let completion = u64::from(max_completion) * u64::from(choices);
        let needs = prompt_tokens.saturating_add(completion);
        let most = task.price.of(prompt_tokens, completion);
        let spec = &self.key.spec;
        {
            let mut used = self.key.live.used();
            if let Some(budget) = spec.budget {
                let left = budget.minus(used.spent(spec.budget_reset, now_ms)).minus(used.reserved);
                // A budget that is used up is not for free tasks either.
                if most > left || left <= Usd::ZERO {
                    return Err(Denied::Budget { needs: most, left: left.max(Usd::ZERO) });
                }
            }
            if let Some(limit) = spec.tokens_per_minute {
                used.tokens.take(limit, needs, now_ms).map_err(|short| match short {
                    Short::Wait(wait) => {
                        Denied::Tokens { limit, needs, wait: Duration::from_millis(wait) }
                    }
                    Short::Never => Denied::TooLarge { limit, needs },
                })?;
            }
            used.reserved = used.reserved.plus(most);
        }
        let number = self.gate.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:016x}-{number:08x}", self.gate.run);
        let opened = Record::Opened { id: id.clone(), key: Arc::clone(&self.key.id) };
        let written = self.gate.journal.append(&opened);
        let reservation = Reservation {
            admission: self,
            id,
            task: task.id.clone(),
            price: task.price,
            most,
            tokens: needs,
            state: if written.is_ok() { State::Noted } else { State::Unnoted },
        };
        // What costs nothing is given away anyhow.
        if written.is_err() && !task.price.is_free() {
            return Err(Denied::NoLedger);
        }
        Ok(reservation)
    }
}

/// What a request really used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Used {
    pub prompt_tokens: u64,
    /// That the user was given: of an answer that broke off, those before.
    pub completion_tokens: u64,
    pub uid: Option<u16>,
    pub hotkey: Option<String>,
    /// Miners that were asked.
    pub attempts: u32,
    pub streamed: bool,
}

/// Money and tokens that are set aside for a request. Dropped, nothing is charged.
#[derive(Debug)]
pub struct Reservation {
    admission: Admission,
    id: String,
    task: common::TaskId,
    price: common::money::Price,
    most: Usd,
    tokens: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The journal says that it began.
    Noted,
    Unnoted,
    Settled,
}

impl Reservation {
    /// The request's id, as in the ledger.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How much of the key's limits is left.
    pub fn headers(&self, now_ms: i64) -> Headers {
        self.admission.headers(now_ms)
    }

    /// Charges what was used, at most what was reserved, and returns it. To be called before the user gets the end of the
    /// answer: once this has returned, the charge survives the end of the process.
    ///
    /// # Errors
    /// If it cannot be written down; nothing is charged then.
    pub fn settle(mut self, used: Used, now_ms: i64) -> Result<Usd, Denied> {
        let amount = self.price.of(used.prompt_tokens, used.completion_tokens).min(self.most);
        let tokens = used.prompt_tokens.saturating_add(used.completion_tokens).min(self.tokens);
        let entry = Entry {
            id: self.id.clone(),
            at_ms: now_ms,
            key: Arc::clone(&self.admission.key.id),
            task: self.task.clone(),
            prompt_tokens: used.prompt_tokens,
            completion_tokens: used.completion_tokens,
            amount: amount.into(),
            uid: used.uid,
            hotkey: used.hotkey,
            attempts: used.attempts,
            streamed: used.streamed,
        };
        let written = self.admission.gate.journal.append(&Record::Settled(entry));
        if written.is_err() && !self.price.is_free() {
            return Err(Denied::NoLedger);
        }
        self.state = State::Settled;
        let mut counters = self.admission.key.live.used();
        counters.reserved = counters.reserved.minus(self.most);
        counters.charge(amount, now_ms);
        counters.tokens.give_back(self.tokens - tokens);
        drop(counters);
        Ok(amount)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.state == State::Settled {
            return;
        }
        {
            let mut counters = self.admission.key.live.used();
            counters.reserved = counters.reserved.minus(self.most);
            if self.admission.key.spec.tokens_per_minute.is_some() {
                counters.tokens.give_back(self.tokens);
            }
        }
        if self.state == State::Noted {
            // What is lost here is counted as cut off, and the journal has said why.
            _ = self.admission.gate.journal.append(&Record::Released { id: self.id.clone() });
        }
    }
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
