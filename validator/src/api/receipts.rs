//! Who answered, and whether it was verified: what users can ask later about their answers.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::openai::Kind;
use common::{Hotkey, TaskId, Uid};
use serde::Serialize;

use crate::ask::Served;
use crate::store::{CheckStanding, Store, StoreError};

/// Choices of answers that are remembered; each takes about half a kilobyte.
const REMEMBERED: usize = 16_384;

/// The name of an answer, as users see it, and of the checks of its choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct AnswerId {
    kind: Kind,
    number: u128,
}

impl AnswerId {
    /// `number` is random.
    pub(super) fn new(kind: Kind, number: u128) -> Self {
        Self { kind, number }
    }

    /// The id of the check of one of its choices.
    pub(super) fn check(self, choice: usize) -> String {
        format!("{:032x}", self.number.wrapping_add(choice as u128))
    }
}

const fn prefix(kind: Kind) -> &'static str {
    match kind {
        Kind::Chat => "chatcmpl-",
        Kind::Completion => "cmpl-",
    }
}

impl fmt::Display for AnswerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:032x}", prefix(self.kind), self.number)
    }
}

impl FromStr for AnswerId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let read = |kind| {
            let id = Self {
                kind,
                number: u128::from_str_radix(text.strip_prefix(prefix(kind))?, 16).ok()?,
            };
            // Only the one canonical text.
            (id.to_string() == text).then_some(id)
        };
        read(Kind::Chat).or_else(|| read(Kind::Completion)).ok_or(())
    }
}

/// The answer of `GET /v1/receipts/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct AnswerReceipt {
    id: String,
    object: &'static str,
    model: TaskId,
    /// One for each choice.
    choices: Vec<ChoiceReceipt>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ChoiceReceipt {
    index: usize,
    miner: Miner,
    prompt_tokens: u32,
    completion_tokens: u32,
    /// What the miner has signed, and its signature: it cannot deny this answer.
    receipt_digest: String,
    signature: String,
    verification: Verification,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Miner {
    uid: Uid,
    hotkey: Hotkey,
}

/// What came of checking an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Verification {
    /// Only a share of the answers is computed again.
    NotChecked,
    Waiting,
    /// `quality` is 1 for what an honest miner sends.
    Checked {
        quality: f64,
        reasons: Vec<String>,
    },
}

/// A choice of an answer that was given.
#[derive(Debug, Clone)]
struct Part {
    index: usize,
    model: TaskId,
    miner: Miner,
    prompt_tokens: u32,
    completion_tokens: u32,
    digest: [u8; 32],
    signature: String,
}

/// The newest answers.
#[derive(Debug, Default)]
pub(super) struct Receipts(Mutex<Newest>);

/// Oldest first. Every choice is written here and hardly any is asked for, so one is looked for among all names: an index of
/// them would cost every request some misses of the processor's caches.
#[derive(Debug, Default)]
struct Newest {
    ids: VecDeque<AnswerId>,
    parts: VecDeque<Part>,
}

impl Newest {
    fn of(&self, id: AnswerId) -> Vec<Part> {
        let named = self.ids.iter().zip(&self.parts).filter(|(own, _)| **own == id);
        let mut parts: Vec<_> = named.map(|(_, part)| part.clone()).collect();
        parts.sort_by_key(|part| part.index);
        parts
    }
}

impl Receipts {
    /// A choice of an answer was given in full.
    pub(super) fn remember(&self, id: AnswerId, choice: usize, uid: Uid, served: &Served) {
        let receipt = &served.receipt;
        let generated = &receipt.generated;
        let part = Part {
            index: choice,
            model: generated.task.clone(),
            miner: Miner { uid, hotkey: receipt.hotkey },
            prompt_tokens: generated.prompt_tokens,
            completion_tokens: served.tokens(),
            digest: served.digest,
            signature: receipt.signature.clone(),
        };
        let mut newest = self.lock();
        if newest.ids.len() >= REMEMBERED {
            newest.ids.pop_front();
            newest.parts.pop_front();
        }
        newest.ids.push_back(id);
        newest.parts.push_back(part);
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of an answer; `None` if it is not remembered.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) async fn of(
        &self,
        id: AnswerId,
        store: &Store,
    ) -> Result<Option<AnswerReceipt>, StoreError> {
        let parts = self.lock().of(id);
        let Some(first) = parts.first() else { return Ok(None) };
        let model = first.model.clone();
        let mut choices = Vec::with_capacity(parts.len());
        for part in parts {
            let index = part.index;
            let verification = match store.check_standing(&id.check(index)).await? {
                Some(CheckStanding::Judged(verdict)) => {
                    Verification::Checked { quality: verdict.quality, reasons: verdict.reasons }
                }
                Some(CheckStanding::Waiting) => Verification::Waiting,
                None => Verification::NotChecked,
            };
            choices.push(ChoiceReceipt {
                index,
                miner: part.miner,
                prompt_tokens: part.prompt_tokens,
                completion_tokens: part.completion_tokens,
                receipt_digest: format!("0x{}", hex::encode(part.digest)),
                signature: part.signature,
                verification,
            });
        }
        Ok(Some(AnswerReceipt { id: id.to_string(), object: "receipt", model, choices }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::Keypair;
    use common::checks::{Evidence, Verdict};
    use common::generation::FinishReason;
    use common::receipt::{Generated, Timings, request_digest};

    use super::*;
    use crate::store::tests::{pending, store};

    fn served() -> Served {
        let generated = Generated {
            task: "chat-demo".parse().unwrap(),
            request_digest: request_digest(b"{}"),
            prompt_tokens: 5,
            tokens: vec![1, 2, 3],
            logprobs: vec![-0.1; 3],
            finish_reason: FinishReason::Stop,
            timings: Timings::default(),
        };
        Served {
            text: "a b c".to_owned(),
            digest: generated.digest(),
            receipt: generated.sign(&Keypair::development("Bob")),
            first_token: Duration::ZERO,
            mean_arrival: Duration::ZERO,
            total: Duration::ZERO,
            distorted: false,
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for kind in [Kind::Chat, Kind::Completion] {
            let id = AnswerId::new(kind, 77);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for wrong in ["", "chatcmpl-", "chatcmpl-77", "cmpl-+0000000000000000000000000000077", "x"]
        {
            assert_eq!(wrong.parse::<AnswerId>(), Err(()), "{wrong}");
        }
    }

    #[tokio::test]
    async fn an_answer_tells_who_gave_it_and_later_what_came_of_its_check() {
        let (_folder, store) = store().await;
        let (receipts, id) = (Receipts::default(), AnswerId::new(Kind::Chat, 7));
        assert_eq!(receipts.of(id, &store).await.unwrap(), None);
        receipts.remember(id, 0, Uid(4), &served());
        let verification = async || {
            let known = receipts.of(id, &store).await.unwrap().unwrap();
            assert_eq!(known.choices.len(), 1);
            let choice = known.choices.into_iter().next().unwrap();
            assert_eq!((choice.miner.uid, choice.completion_tokens), (Uid(4), 3));
            choice.verification
        };
        assert_eq!(verification().await, Verification::NotChecked);
        let waiting = pending(&id.check(0), 1);
        store.queue_checks(std::slice::from_ref(&waiting), 10).await.unwrap();
        assert_eq!(verification().await, Verification::Waiting);
        let verdict =
            Verdict { quality: 0.5, evidence: Evidence::default(), reasons: vec!["a".into()] };
        store.save_verdict(&waiting, &verdict).await.unwrap();
        let checked = Verification::Checked { quality: 0.5, reasons: vec!["a".into()] };
        assert_eq!(verification().await, checked);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let (receipts, served) = (Receipts::default(), served());
        for number in 0..=REMEMBERED as u128 {
            receipts.remember(AnswerId::new(Kind::Chat, number), 0, Uid(1), &served);
        }
        let newest = receipts.lock();
        assert_eq!((newest.ids.len(), newest.parts.len()), (REMEMBERED, REMEMBERED));
        assert!(newest.of(AnswerId::new(Kind::Chat, 0)).is_empty());
        assert_eq!(newest.of(AnswerId::new(Kind::Chat, 1)).len(), 1);
    }
}
