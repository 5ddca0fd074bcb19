//! Carries one miner's answer to one user.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use common::Uid;
use common::generation::FinishReason;
use common::openai::{Asked, Chunk, ChunkChoice, Kind, Usage};
use futures::stream;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use serde_json::value::{RawValue, to_raw_value};
use service::http::ApiError;
use tasks::Task;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::answer::{Frame, Logprobs, opening};
use super::{Api, Asking};
use crate::ask::{AnswerStream, Asker, Failure, NotOpened, Outcome, Trouble};
use crate::clock::unix_ms;
use crate::routing::Route;

/// Proxies close connections that are silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Log-probabilities of one answer take no more memory than this; what is beyond is left out. Enough for 2,000 tokens
/// with 20 alternatives each.
const MAX_LOGPROBS_BYTES: usize = 8 << 20;

/// An answer on its way. Dropping it, when the user goes away, cancels the miner's work and holds it against nobody.
#[derive(Debug)]
pub(super) struct Relay {
    api: Arc<Api>,
    frame: Frame,
    include_usage: bool,
    pub(super) rng: ChaCha12Rng,
    source: Option<Source>,
    slot: Option<OwnedSemaphorePermit>,
}

/// Why a miner's answer did not begin.
#[derive(Debug)]
pub(super) enum NotBegun {
    /// The miner calls the request itself wrong, with this reason.
    Objection(Asking, String),
    Outcome(Asking, Outcome),
}

/// The miner that answers.
#[derive(Debug)]
struct Source {
    uid: Uid,
    parts: mpsc::UnboundedReceiver<Part>,
    /// Reads the miner as fast as it sends, whatever the user's pace: a slow reader is not the miner's fault. What waits
    /// in between is bounded, because answers are, and [`Keeping`] lets nothing through that nobody will read.
    _reader: AbortOnDropHandle<()>,
}

/// What the reader hands on.
#[derive(Debug)]
enum Part {
    /// What a chunk says, and its log-probabilities apart, as JSON: parsed numbers would be many times as large.
    Choice(Box<ChunkChoice>, Option<Box<RawValue>>),
    /// The end, with the token counts if the receipt is in order.
    End(Option<Usage>),
    Broken(Trouble),
}

/// What of a miner's chunks waits for the user.
#[derive(Debug)]
struct Keeping {
    /// Whether the user asked for log-probabilities; miners always send them.
    logprobs: bool,
    /// Bytes of them that may still be kept.
    room: usize,
}

impl Keeping {
    /// `None` if nothing is left of the chunk.
    fn part(&mut self, chunk: Chunk) -> Option<Part> {
        let mut choice = chunk.choices.into_iter().next()?;
        let logprobs = choice
            .logprobs
            .take()
            .filter(|_| self.logprobs)
            .and_then(|logprobs| to_raw_value(&logprobs).ok())
            .filter(|logprobs| logprobs.get().len() <= self.room);
        self.room -= logprobs.as_ref().map_or(0, |logprobs| logprobs.get().len());
        (says_something(&choice) || logprobs.is_some())
            .then(|| Part::Choice(Box::new(choice), logprobs))
    }
}

fn says_something(choice: &ChunkChoice) -> bool {
    !choice.added_text().is_empty() || choice.finish_reason.is_some()
}

impl Relay {
    pub(super) fn new(
        api: Arc<Api>,
        task: &Task,
        asked: &Asked,
        slot: OwnedSemaphorePermit,
        mut rng: ChaCha12Rng,
    ) -> Self {
        let prefix = match task.kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        let frame = Frame {
            id: format!("{prefix}-{:032x}", rng.random::<u128>()),
            kind: task.kind,
            model: task.id.to_string(),
            created: u64::try_from(unix_ms() / 1000).unwrap_or(0),
            logprobs: asked.logprobs,
        };
        let include_usage = asked.include_usage;
        Self { api, frame, include_usage, rng, source: None, slot: Some(slot) }
    }

    /// Asks a miner and waits for its first token.
    pub(super) async fn begin(
        &mut self,
        asker: &Asker,
        asking: Asking,
        route: Route,
    ) -> Result<(), NotBegun> {
        let mut stream = match asker.open(&asking.query).await {
            Ok(stream) => stream,
            Err(NotOpened::Unacceptable(why)) => return Err(NotBegun::Objection(asking, why)),
            Err(not_opened @ (NotOpened::Refused | NotOpened::Trouble(_))) => {
                return Err(NotBegun::Outcome(asking, not_opened.into()));
            }
        };
        let (sender, parts) = mpsc::unbounded_channel();
        let mut keeping = Keeping { logprobs: self.frame.logprobs, room: MAX_LOGPROBS_BYTES };
        loop {
            let chunk = match stream.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(trouble) => return Err(NotBegun::Outcome(asking, trouble.into())),
            };
            let said_something = chunk.choices.first().is_some_and(says_something);
            if let Some(part) = keeping.part(chunk) {
                // The receiver is at hand.
                let _ = sender.send(part);
            }
            if said_something {
                break;
            }
        }
        let uid = route.uid;
        let reader = Reader {
            api: Arc::clone(&self.api),
            asking,
            route,
            stream,
            keeping,
            rng: self.rng.clone(),
        };
        let reader = AbortOnDropHandle::new(tokio::spawn(reader.run(sender)));
        self.source = Some(Source { uid, parts, _reader: reader });
        Ok(())
    }

    async fn next(&mut self) -> Part {
        let part = match &mut self.source {
            Some(source) => source.parts.recv().await,
            None => None,
        };
        // A reader that ends without a last word has been stopped with the server.
        part.unwrap_or_else(|| {
            Part::Broken(Failure::Broken("the server is stopping".to_owned()).into())
        })
    }

    /// Says which miner answers.
    fn miner(&self) -> [(&'static str, String); 1] {
        let uid = self.source.as_ref().map_or_else(String::new, |source| source.uid.to_string());
        [("x-miner-uid", uid)]
    }

    /// The answer as server-sent events.
    pub(super) fn stream(self) -> Response {
        let miner = self.miner();
        let events = stream::unfold(Sending { relay: self, stage: Stage::Opening }, Sending::next);
        let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
        let headers = [("cache-control", "no-cache"), ("x-accel-buffering", "no")];
        (miner, headers, Sse::new(events).keep_alive(keep_alive)).into_response()
    }

    /// The answer as one body.
    pub(super) async fn collect(mut self) -> Result<Response, ApiError> {
        let miner = self.miner();
        let mut text = String::new();
        let mut logprobs: Option<Logprobs> = None;
        let mut finish_reason = FinishReason::Stop;
        let usage = loop {
            let (choice, more) = match self.next().await {
                Part::Choice(choice, more) => (choice, more),
                Part::End(usage) => break usage.ok_or_else(broken_off)?,
                Part::Broken(trouble) => {
                    warn!(task = self.frame.model, "an answer broke off: the miner {trouble}");
                    return Err(broken_off());
                }
            };
            text.push_str(choice.added_text());
            finish_reason = choice.finish_reason.unwrap_or(finish_reason);
            if let Some(more) = more {
                logprobs.get_or_insert_default().append(&more);
            }
        };
        drop(self.slot.take());
        Ok((miner, Json(self.frame.answer(text, finish_reason, usage, logprobs))).into_response())
    }
}

/// Reads a miner's answer to its end and books what came of it.
#[derive(Debug)]
struct Reader {
    api: Arc<Api>,
    asking: Asking,
    route: Route,
    stream: AnswerStream,
    keeping: Keeping,
    rng: ChaCha12Rng,
}

impl Reader {
    async fn run(mut self, parts: mpsc::UnboundedSender<Part>) {
        let trouble = loop {
            match self.stream.next().await {
                Ok(Some(chunk)) => {
                    if let Some(part) = self.keeping.part(chunk) {
                        // Without a receiver this task is about to be dropped.
                        let _ = parts.send(part);
                    }
                }
                Ok(None) => break None,
                Err(trouble) => break Some(trouble),
            }
        };
        let (outcome, last) = match trouble {
            Some(trouble) => (trouble.clone().into(), Part::Broken(trouble)),
            None => {
                let outcome = self.stream.finish();
                let usage = match &outcome {
                    Outcome::Served(served) => {
                        Some(Usage::new(served.receipt.generated.prompt_tokens, served.tokens()))
                    }
                    Outcome::Refused | Outcome::Failed(_) | Outcome::Void(_) => None,
                };
                (outcome, Part::End(usage))
            }
        };
        match &outcome {
            Outcome::Served(_) => self.route.succeeded(),
            Outcome::Failed(_) => self.route.failed(),
            Outcome::Refused | Outcome::Void(_) => {}
        }
        self.api.settle(self.asking, outcome, &mut self.rng);
        let _ = parts.send(last);
    }
}

fn broken_off() -> ApiError {
    ApiError::unavailable("the miner broke off its answer, please try again", super::RETRY_AFTER)
        .with_code("upstream_error")
}

#[derive(Debug)]
struct Sending {
    relay: Relay,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The role comes first in chat.
    Opening,
    Relaying,
    /// `[DONE]` comes next.
    Closing,
    Closed,
}

impl Sending {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            let event = match self.stage {
                Stage::Opening => {
                    self.stage = Stage::Relaying;
                    if self.relay.frame.kind != Kind::Chat {
                        continue;
                    }
                    let first = Chunk {
                        choices: vec![opening()],
                        ..self.relay.frame.usage(Usage::new(0, 0))
                    };
                    json(&Chunk { usage: None, ..first })
                }
                Stage::Relaying => match self.relay.next().await {
                    Part::Choice(choice, logprobs) => {
                        match self.relay.frame.chunk(whole(*choice, logprobs)) {
                            Some(chunk) => json(&chunk),
                            None => continue,
                        }
                    }
                    Part::End(usage) => {
                        self.stage = Stage::Closing;
                        match usage.filter(|_| self.relay.include_usage) {
                            Some(usage) => json(&self.relay.frame.usage(usage)),
                            // Without a usable receipt the text is still the user's; the rest is between the miner and us.
                            None => continue,
                        }
                    }
                    Part::Broken(trouble) => {
                        self.stage = Stage::Closed;
                        warn!(
                            task = self.relay.frame.model,
                            "an answer broke off: the miner {trouble}"
                        );
                        json(&broken_off().body())
                    }
                },
                Stage::Closing => {
                    self.stage = Stage::Closed;
                    Event::default().data("[DONE]")
                }
                Stage::Closed => return None,
            };
            return Some((Ok(event), self));
        }
    }
}

/// With its log-probabilities, and without the role, which we have sent ourselves.
fn whole(mut choice: ChunkChoice, logprobs: Option<Box<RawValue>>) -> ChunkChoice {
    if let Some(delta) = choice.delta.as_mut() {
        delta.role = None;
    }
    choice.logprobs = logprobs.and_then(|logprobs| serde_json::from_str(logprobs.get()).ok());
    choice
}

fn json(value: &impl serde::Serialize) -> Event {
    // Structs of strings, numbers and lists always become JSON.
    Event::default().data(serde_json::to_string(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGPROBS: &str = r#"{"content":[-0.5]}"#;

    fn chunk(text: &str) -> Chunk {
        let chunk = format!(r#"{{"choices": [{{"text": "{text}", "logprobs": {LOGPROBS}}}]}}"#);
        serde_json::from_str(&chunk).unwrap()
    }

    fn kept(keeping: &mut Keeping, text: &str) -> Option<(String, Option<String>)> {
        match keeping.part(chunk(text))? {
            Part::Choice(choice, logprobs) => {
                assert_eq!(choice.logprobs, None);
                let logprobs = logprobs.map(|logprobs| logprobs.get().to_owned());
                Some((choice.added_text().to_owned(), logprobs))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_waits_for_the_user_that_was_not_asked_for() {
        let mut keeping = Keeping { logprobs: false, room: 1_000 };
        assert_eq!(kept(&mut keeping, "hi"), Some(("hi".to_owned(), None)));
        assert_eq!(kept(&mut keeping, ""), None);
    }

    #[test]
    fn of_logprobs_only_so_many_wait() {
        let mut keeping = Keeping { logprobs: true, room: 2 * LOGPROBS.len() + 1 };
        let with = |text: &str| Some((text.to_owned(), Some(LOGPROBS.to_owned())));
        assert_eq!(kept(&mut keeping, "a"), with("a"));
        assert_eq!(kept(&mut keeping, ""), with(""));
        assert_eq!(kept(&mut keeping, "b"), Some(("b".to_owned(), None)));
        assert_eq!(kept(&mut keeping, ""), None);
    }
}
