//! Finds a miner that answers: one after the other, and in the slow tail two at once, until a first token has come.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::future::poll_fn;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use common::Hotkey;
use common::generation::{Prompt, Role};
use common::openai::BadRequest;
use futures::future::{BoxFuture, FutureExt};
use service::http::ApiError;
use tasks::Task;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::receipts::AnswerId;
use super::{Api, RETRY_AFTER};
use crate::accounts::{Origin, UnderWay};
use crate::ask::{AnswerStream, Asker, Failure, NotOpened, Ours, Outcome, Piece, Query};
use crate::clock::uptime;
use crate::cycle::query;
use crate::routing::{InHand, Routes};

/// How many miners one request is tried on, hedges included.
const ATTEMPTS: usize = 4;
/// What of a conversation's beginning tells it from others.
const PREFIX_BYTES: usize = 2048;
/// Shorter prompts are read so quickly that nothing is gained by asking the same miner.
const LEAST_PREFIX_BYTES: usize = 256;

/// A query to a miner on behalf of a user.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) answer: AnswerId,
    pub(super) choice: usize,
    pub(super) query: Arc<Query>,
    pub(super) under_way: UnderWay,
    pub(super) in_hand: InHand,
}

/// An answer that is under way.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) asking: Asking,
    pub(super) stream: AnswerStream,
    /// What has come, up to the first that says something.
    pub(super) pieces: VecDeque<Piece>,
}

/// An answer that has begun.
#[derive(Debug)]
pub(super) struct Begun {
    /// Boxed, as every future that it is handed on to would have to hold it.
    pub(super) answering: Box<Answering>,
    /// How many miners were asked for it.
    pub(super) attempts: usize,
}

/// One answer that is wanted.
#[derive(Debug)]
pub(super) struct Race<'a> {
    pub(super) api: &'a Arc<Api>,
    pub(super) answer: AnswerId,
    pub(super) choice: usize,
    pub(super) task: &'a Task,
    pub(super) body: Bytes,
    pub(super) max_tokens: u32,
    pub(super) prefix: Option<u64>,
}

/// What comes of asking a miner, up to the first piece that says something.
type Opened = Result<(AnswerStream, VecDeque<Piece>), NotOpened>;

/// One miner that is asked.
struct Attempt {
    asking: Asking,
    opening: BoxFuture<'static, Opened>,
}

/// The attempts of a race.
struct Attempts {
    tried: Vec<Hotkey>,
    /// At most [`ATTEMPTS`], and nearly always one.
    running: Vec<Attempt>,
    /// Miners that call the request itself wrong. They are right if all that were asked say so.
    objections: Vec<(Asking, BadRequest)>,
    deadline: Instant,
}

impl Attempts {
    /// Waits for the first that is over. Never ends if there is none.
    async fn next(&mut self) -> (Asking, Opened) {
        poll_fn(|cx| {
            for index in 0..self.running.len() {
                if let Poll::Ready(opened) = self.running[index].opening.poll_unpin(cx) {
                    return Poll::Ready((self.running.swap_remove(index).asking, opened));
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl Race<'_> {
    /// Tries miners until one sends its first token, within the task's time for that.
    ///
    /// # Errors
    /// If no miner answers, or all that were asked call the request wrong.
    pub(super) async fn run(self) -> Result<Begun, ApiError> {
        let Some(routes) = self.api.router.of(&self.task.id) else { return Err(self.nobody(0)) };
        routes.asked();
        let mut attempts = Attempts {
            tried: Vec::with_capacity(1),
            running: Vec::with_capacity(1),
            objections: Vec::new(),
            deadline: Instant::now() + self.task.timeouts.first_token(),
        };
        let hedge_after = routes.hedge_after();
        let mut hedge_at = None;
        loop {
            if attempts.running.is_empty() {
                if !self.start(&routes, &mut attempts) {
                    break;
                }
                hedge_at = hedge_after.map(|after| Instant::now() + after);
            }
            // Whether or not there is a moment for it: the branch is only polled if there is.
            let hedge = sleep_until(hedge_at.unwrap_or(attempts.deadline));
            let (asking, opened) = tokio::select! {
                biased;
                over = attempts.next() => over,
                () = hedge, if hedge_at.is_some() => {
                    hedge_at = None;
                    if routes.may_hedge() {
                        self.start(&routes, &mut attempts);
                    }
                    continue;
                }
            };
            match opened {
                Ok((stream, pieces)) => {
                    asking.in_hand.first_token(uptime());
                    let count = attempts.tried.len();
                    self.call_off(attempts);
                    let answering = Box::new(Answering { asking, stream, pieces });
                    return Ok(Begun { answering, attempts: count });
                }
                Err(NotOpened::Unacceptable(why)) => attempts.objections.push((asking, why)),
                Err(not_opened @ (NotOpened::Refused | NotOpened::Trouble(_))) => {
                    self.api.settle(asking, not_opened.into());
                }
            }
        }
        let asked = attempts.tried.len();
        // The word of one miner alone is no proof: we have found nothing wrong with the request ourselves.
        if attempts.objections.len() < asked {
            self.overrule(attempts.objections);
        } else if let Some((.., why)) = attempts.objections.into_iter().next() {
            return Err(why.into());
        }
        Err(self.nobody(asked))
    }

    /// Asks one more miner. Returns false if there is none, or no time.
    fn start(&self, routes: &Routes, attempts: &mut Attempts) -> bool {
        let whole = self.task.timeouts.first_token();
        let left = attempts.deadline.saturating_duration_since(Instant::now());
        if attempts.tried.len() >= ATTEMPTS || left.is_zero() {
            return false;
        }
        let now = uptime();
        let Some(route) = routes.choose(self.prefix, &attempts.tried, now, &mut rand::rng()) else {
            return false;
        };
        attempts.tried.push(route.id.hotkey);
        let last = attempts.tried.len() >= ATTEMPTS.min(routes.len());
        let (id, contender) = (&route.id, &route.contender);
        let mut query = query(id.hotkey, contender, self.task, self.body.clone(), self.max_tokens);
        query.timeouts.first_token = route.time_for(left, whole, last);
        query.cut_short = query.timeouts.first_token < whole;
        let under_way = self.api.accounts.begin(id.clone(), self.max_tokens, Origin::Organic);
        let (answer, choice) = (self.answer, self.choice);
        let (query, in_hand) = (Arc::new(query), route.begin(now));
        let asking = Asking { answer, choice, query, under_way, in_hand };
        let opening = first_token(self.api.asker.clone(), Arc::clone(&asking.query)).boxed();
        attempts.running.push(Attempt { asking, opening });
        true
    }

    /// Somebody has answered: ends what else is under way, each accounted as what it is.
    fn call_off(&self, attempts: Attempts) {
        for Attempt { asking, opening } in attempts.running {
            drop(opening);
            self.api.settle(asking, Outcome::Void(Ours::Outrun));
        }
        self.overrule(attempts.objections);
    }

    /// These miners called a request wrong that is not.
    fn overrule(&self, objections: Vec<(Asking, BadRequest)>) {
        for (asking, _) in objections {
            self.api.settle(asking, Outcome::Failed(Failure::Status(400)));
        }
    }

    fn nobody(&self, asked: usize) -> ApiError {
        let task = &self.task.id;
        warn!(%task, miners = asked, "no miner answered a request");
        ApiError::unavailable(format!("no miner answers for `{task}` at the moment"), RETRY_AFTER)
    }
}

/// Asks one miner and waits for its first token.
async fn first_token(asker: Asker, query: Arc<Query>) -> Opened {
    let mut stream = asker.open(&query).await?;
    let mut pieces = VecDeque::with_capacity(1);
    while let Some(piece) = stream.next().await.map_err(NotOpened::Trouble)? {
        let says_something = piece.text.is_some() || piece.finish_reason.is_some();
        pieces.push_back(piece);
        if says_something {
            break;
        }
    }
    Ok((stream, pieces))
}

/// Stands for the beginning of a conversation, which all its later requests share: the messages up to the first one of the
/// user. `None` where nothing would be gained by asking the same miner.
pub(super) fn prefix_of(prompt: &Prompt) -> Option<u64> {
    let mut hash = DefaultHasher::new();
    match prompt {
        Prompt::Chat(messages) => {
            let total: usize = messages.iter().map(|message| message.content.len()).sum();
            if messages.len() < 2 && total < LEAST_PREFIX_BYTES {
                return None;
            }
            let first_user = messages.iter().position(|message| message.role == Role::User);
            for message in &messages[..first_user.map_or(messages.len(), |first| first + 1)] {
                message.role.hash(&mut hash);
                let content = message.content.as_bytes();
                content[..content.len().min(PREFIX_BYTES)].hash(&mut hash);
            }
        }
        Prompt::Text(text) if text.len() < LEAST_PREFIX_BYTES => return None,
        Prompt::Text(text) => text.as_bytes()[..LEAST_PREFIX_BYTES].hash(&mut hash),
    }
    Some(hash.finish())
}

#[cfg(test)]
mod tests {
    use common::generation::Message;

    use super::*;

    fn chat(messages: &[(Role, &str)]) -> Prompt {
        let message = |(role, content): &(Role, &str)| Message::new(*role, *content);
        Prompt::Chat(messages.iter().map(message).collect())
    }

    #[test]
    fn a_conversation_keeps_its_prefix_and_another_one_has_another() {
        let (system, hi) = ((Role::System, "Be kind."), (Role::User, "hi"));
        let first = prefix_of(&chat(&[system, hi]));
        assert!(first.is_some());
        let later = chat(&[system, hi, (Role::Assistant, "hello"), (Role::User, "bye")]);
        assert_eq!(prefix_of(&later), first);
        assert_ne!(prefix_of(&chat(&[system, (Role::User, "ho")])), first);
    }

    #[test]
    fn short_prompts_have_none() {
        assert_eq!(prefix_of(&chat(&[(Role::User, "hi")])), None);
        assert_eq!(prefix_of(&Prompt::Text("hi".to_owned())), None);
        let long = "x".repeat(300);
        assert!(prefix_of(&chat(&[(Role::User, &long)])).is_some());
        assert_eq!(
            prefix_of(&Prompt::Text(long.clone())),
            prefix_of(&Prompt::Text(format!("{long} and more")))
        );
    }
}
