//! A request that was let in, and the money and tokens that are set aside for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::money::Usd;
use tasks::Task;

use super::Denied;
use super::bucket::Short;
use super::gate::Gate;
use super::headers::Levels;
use super::live::KeyState;
use crate::ledger::Entry;

/// A request that was let in. It counts as under way until this is dropped.
#[derive(Debug)]
pub struct Admission {
    pub(super) gate: Arc<Gate>,
    pub(super) key: Arc<KeyState>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.gate.held.fetch_sub(1, Ordering::Relaxed);
        if self.key.live.held.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.gate.active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Admission {
    /// The key's id, as in the ledger.
    pub fn key(&self) -> &str {
        &self.key.id
    }

    /// What tells how much of the limits is left, at any time.
    pub fn levels(&self) -> Levels {
        Levels { key: Arc::clone(&self.key), nodes: self.gate.nodes() }
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
    pub async fn reserve(
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
        self.gate.reserve(&self.key, most, now_ms).await?;
        if let Some(limit) = self.key.spec.tokens_per_minute {
            let part = self.gate.part(limit);
            let mut used = self.key.live.used();
            if let Err(short) = used.tokens.take(part, needs, now_ms) {
                used.reserved = used.reserved.minus(most);
                return Err(match short {
                    Short::Wait(wait) => {
                        Denied::Tokens { limit, needs, wait: Duration::from_millis(wait) }
                    }
                    Short::Never => Denied::TooLarge { limit: part, needs },
                });
            }
        }
        let number = self.gate.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:016x}-{number:08x}", self.gate.run);
        let written = self.gate.journal.begin(&id, &self.key.id);
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
    pub hotkey: Option<Arc<str>>,
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
        let written = self.admission.gate.journal.settle(entry);
        if written.is_err() && !self.price.is_free() {
            return Err(Denied::NoLedger);
        }
        self.state = State::Settled;
        let mut counters = self.admission.key.live.used();
        counters.reserved = counters.reserved.minus(self.most);
        if self.admission.key.spec.budget.is_some() {
            counters.leased = counters.leased.minus(amount);
        }
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
            self.admission.gate.journal.release(&self.id);
        }
    }
}
