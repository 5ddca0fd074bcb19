//! Carries miners' answers to one user, as a stream or as one body.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use common::generation::FinishReason;
use common::openai::{CallReader, Usage};
use futures::future::{FutureExt, try_join_all};
use futures::stream::{self, BoxStream, SelectAll, StreamExt};
use service::http::ApiError;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::Api;
use super::race::{Answering, Begun};
use super::shape::{Choice, Logprobs, Shape, Writer};
use super::tab::Tab;
use crate::ask::{HeldBack, Outcome, Piece, Trouble};

/// Proxies close connections that are silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A user that takes longer than this to make room for more is the one who is slow. The miner waits meanwhile, which is held
/// against nobody.
pub(super) const SLOW: Duration = Duration::from_millis(50);
/// Events that are ready together are sent together, up to about this many bytes.
const FRAME_BYTES: usize = 16 << 10;
/// Log-probabilities of one whole answer take no more memory than this; what is beyond is left out. Enough for 2,000 tokens
/// with 20 alternatives each.
const MAX_LOGPROBS_BYTES: usize = 8 << 20;
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const MINER_UID: HeaderName = HeaderName::from_static("x-miner-uid");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-routing-attempts");

/// Answers on their way, one for each choice. Dropping it, when the user goes away, cancels the miners' work and holds it
/// against nobody.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) api: Arc<Api>,
    pub(super) shape: Shape,
    pub(super) choices: Vec<Begun>,
    pub(super) tab: Tab,
}

impl Relay {
    /// Begins the response: its type, which miners answer, and how many were asked.
    fn headers(&self, content_type: &'static str) -> HeaderMap {
        let begun = || self.choices.iter();
        let uids: Vec<String> =
            begun().map(|begun| begun.answering.asking.in_hand.route().uid().to_string()).collect();
        let attempts: usize = begun().map(|begun| begun.attempts).sum();
        let uids = HeaderValue::try_from(uids.join(",")).unwrap_or(HeaderValue::from_static(""));
        // With the limits of the key, the request's id, and what the server adds.
        let mut headers = HeaderMap::with_capacity(14);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(MINER_UID, uids);
        headers.insert(ATTEMPTS, HeaderValue::from(attempts));
        headers
    }

    /// The answer as server-sent events.
    pub(super) fn stream(self) -> Response {
        let mut headers = self.headers("text/event-stream");
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Proxies such as nginx must not collect the events.
        headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        let Self { api, shape, choices, tab } = self;
        let count = choices.len();
        let reader = |(choice, begun): (_, Begun)| {
            let (api, answering) = (Arc::clone(&api), begun.answering);
            Reader { api, choice, logprobs: shape.logprobs, answering }.parts()
        };
        let held_back = choices.iter().map(|begun| begun.answering.stream.held_back()).collect();
        let sending = Sending {
            writer: shape.writer(),
            calls: (0..count).map(|choice| shape.calls(choice)).collect(),
            parts: choices.into_iter().enumerate().map(reader).collect(),
            held_back,
            given: None,
            tab,
            open: count,
            usage: Some(Usage::new(0, 0)),
            stage: Stage::Opening(count),
        };
        let events = Body::from_stream(stream::unfold(sending, Sending::next));
        let mut response = Response::new(events);
        *response.headers_mut() = headers;
        response
    }

    /// The answer as one body.
    ///
    /// # Errors
    /// If a miner breaks off.
    pub(super) async fn whole(self) -> Result<Response, ApiError> {
        let headers = self.headers("application/json");
        let Self { api, shape, choices, mut tab } = self;
        let one = |begun| whole(&api, begun, &shape);
        let read = match <[Begun; 1]>::try_from(choices) {
            // Nearly always.
            Ok([only]) => vec![one(only).await?],
            Err(many) => Box::pin(try_join_all(many.into_iter().map(one))).await?,
        };
        let usage = read.iter().map(|(_, usage)| *usage).reduce(added);
        let usage = usage.unwrap_or(Usage::new(0, 0));
        tab.settle(Some(usage))?;
        let choices = read.into_iter().map(|(choice, _)| choice).collect();
        let mut response = Response::new(Body::from(shape.whole(choices, usage)));
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// The prompt is the same for all choices, and counts once.
fn added(one: Usage, other: Usage) -> Usage {
    let prompt = one.prompt_tokens.max(other.prompt_tokens);
    Usage::new(prompt, one.completion_tokens.saturating_add(other.completion_tokens))
}

/// Reads one miner's answer to its end and books what came of it.
async fn whole(api: &Api, begun: Begun, shape: &Shape) -> Result<(Choice, Usage), ApiError> {
    let mut answering = begun.answering;
    let (mut logprobs, mut room) = (None, MAX_LOGPROBS_BYTES);
    let mut finish_reason = FinishReason::Stop;
    let mut take = |piece: Piece| {
        finish_reason = piece.finish_reason.unwrap_or(finish_reason);
        if let Some(more) = piece.logprobs.filter(|more| shape.logprobs && more.len() <= room) {
            room -= more.len();
            logprobs.get_or_insert_with(Logprobs::default).append(&more);
        }
    };
    answering.pieces.drain(..).for_each(&mut take);
    let trouble = loop {
        match answering.stream.next().await {
            Ok(Some(piece)) => take(piece),
            Ok(None) => break None,
            Err(trouble) => break Some(trouble),
        }
    };
    let Answering { asking, stream, .. } = *answering;
    let outcome = match trouble {
        Some(trouble) => trouble.into(),
        None => stream.finish(),
    };
    let answer = match &outcome {
        Outcome::Served(served) => {
            let usage = Usage::new(served.receipt.generated.prompt_tokens, served.tokens());
            let text = served.text.clone();
            Ok((Choice { text, logprobs, finish_reason }, usage))
        }
        trouble => {
            warn!(task = %shape.model, outcome = trouble.label(), "an answer broke off");
            Err(broken_off())
        }
    };
    api.settle(asking, outcome);
    answer
}

fn broken_off() -> ApiError {
    ApiError {
        status: StatusCode::BAD_GATEWAY,
        ..ApiError::unavailable(
            "the miner broke off its answer, please try again",
            super::RETRY_AFTER,
        )
    }
    .with_code("upstream_error")
}

/// What a reader hands on.
#[derive(Debug)]
enum Part {
    Piece(usize, Piece),
    /// The end of one choice, with its token counts if the receipt is in order.
    End(Option<Usage>),
    Broken,
}

/// Reads one miner as the user takes it: what the connections' buffers hold, the miner is ahead of the user.
#[derive(Debug)]
struct Reader {
    api: Arc<Api>,
    choice: usize,
    logprobs: bool,
    answering: Box<Answering>,
}

impl Reader {
    /// All parts up to the last. Dropped before that, it cancels the miner's work.
    fn parts(self) -> BoxStream<'static, Part> {
        stream::unfold(Some(self), Self::next).boxed()
    }

    async fn next(reader: Option<Self>) -> Option<(Part, Option<Self>)> {
        let mut reader = reader?;
        let Answering { stream, pieces, .. } = &mut *reader.answering;
        let trouble = loop {
            let next = match pieces.pop_front() {
                Some(piece) => Ok(Some(piece)),
                None => stream.next().await,
            };
            match next {
                Ok(Some(piece)) => {
                    let logprobs = piece.logprobs.filter(|_| reader.logprobs);
                    let piece = Piece { logprobs, ..piece };
                    if piece != Piece::default() {
                        return Some((Part::Piece(reader.choice, piece), Some(reader)));
                    }
                }
                Ok(None) => break None,
                Err(trouble) => break Some(trouble),
            }
        };
        Some((reader.finish(trouble), None))
    }

    /// Books what came of the answer.
    fn finish(self, trouble: Option<Trouble>) -> Part {
        let Answering { asking, stream, .. } = *self.answering;
        let (outcome, last) = match trouble {
            Some(trouble) => {
                let task = &asking.query.task;
                warn!(%task, "an answer broke off: the miner {trouble}");
                (trouble.into(), Part::Broken)
            }
            None => {
                let outcome = stream.finish();
                let usage = match &outcome {
                    Outcome::Served(served) => {
                        Some(Usage::new(served.receipt.generated.prompt_tokens, served.tokens()))
                    }
                    // The text is still the user's; the rest is between the miner and us.
                    Outcome::Refused | Outcome::Failed(_) | Outcome::Void(_) => None,
                };
                (outcome, Part::End(usage))
            }
        };
        self.api.settle(asking, outcome);
        last
    }
}

struct Sending {
    writer: Writer,
    /// What finds the calls in each choice's text, if there may be any.
    calls: Vec<Option<CallReader>>,
    parts: SelectAll<BoxStream<'static, Part>>,
    /// Of each choice.
    held_back: Vec<HeldBack>,
    /// When the last events were given to the server, which asks for more as soon as it has room.
    given: Option<Instant>,
    tab: Tab,
    /// Choices that have not ended.
    open: usize,
    usage: Option<Usage>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The roles of so many choices come first.
    Opening(usize),
    Relaying,
    Closed,
}

impl Sending {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.given.is_some_and(|then| then.elapsed() > SLOW) {
            self.held_back.iter().for_each(HeldBack::note);
        }
        let mut out = BytesMut::new();
        match self.stage {
            Stage::Closed => return None,
            Stage::Opening(choices) => {
                self.stage = Stage::Relaying;
                (0..choices).for_each(|choice| self.writer.opening(&mut out, choice));
            }
            Stage::Relaying => {
                match timeout(KEEP_ALIVE, self.parts.next()).await {
                    Err(_) => out.extend_from_slice(b": keep-alive\n\n"),
                    // Every reader has a last word.
                    Ok(part) => self.take(&mut out, part.unwrap_or(Part::Broken)),
                }
            }
        }
        // What is ready goes with it; nothing waits for more.
        while self.stage == Stage::Relaying && out.len() < FRAME_BYTES {
            match self.parts.next().now_or_never() {
                Some(part) => self.take(&mut out, part.unwrap_or(Part::Broken)),
                None => break,
            }
        }
        self.given = Some(Instant::now());
        Some((Ok(out.freeze()), self))
    }

    fn take(&mut self, out: &mut BytesMut, part: Part) {
        match part {
            Part::Piece(choice, piece) => {
                self.tab.deliver(1);
                match self.calls.get_mut(choice) {
                    Some(Some(calls)) => self.writer.piece_with_calls(out, choice, &piece, calls),
                    Some(None) | None => self.writer.piece(out, choice, &piece),
                }
            }
            Part::End(usage) => {
                self.open -= 1;
                self.usage = self.usage.zip(usage).map(|(all, one)| added(all, one));
                if self.open == 0 {
                    self.close(out);
                }
            }
            Part::Broken => {
                self.writer.error(out, &broken_off().body());
                self.stage = Stage::Closed;
            }
        }
    }

    /// Charges the request, then ends the stream.
    fn close(&mut self, out: &mut BytesMut) {
        self.stage = Stage::Closed;
        if let Err(denied) = self.tab.settle(self.usage) {
            self.writer.error(out, &ApiError::from(denied).body());
            return;
        }
        if let Some(usage) = self.usage {
            self.writer.usage(out, usage);
        }
        self.writer.done(out);
    }
}
