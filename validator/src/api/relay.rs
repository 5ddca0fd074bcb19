//! Carries miners' answers to one user, as a stream or as one body.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use common::generation::FinishReason;
use common::openai::{CallReader, Usage};
use futures::future::try_join_all;
use futures::stream;
use service::http::ApiError;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::Api;
use super::race::{Asking, Begun};
use super::shape::{Choice, Logprobs, Shape, Writer};
use super::tab::Tab;
use crate::ask::{AnswerStream, Outcome, Piece, Trouble};

/// Proxies close connections that are silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// What a user may lag behind the miners, in pieces. Beyond that the miners wait, which is held against nobody.
const LAG: usize = 256;
/// A user that takes longer than this to make room is the one who is slow.
const SLOW: Duration = Duration::from_millis(50);
/// Events that are ready together are sent together, up to about this many bytes.
const FRAME_BYTES: usize = 16 << 10;
/// Log-probabilities of one whole answer take no more memory than this; what is beyond is left out. Enough for 2,000 tokens
/// with 20 alternatives each.
const MAX_LOGPROBS_BYTES: usize = 8 << 20;
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
    /// Says which miners answer, and how many were asked.
    fn miners(&self) -> [(HeaderName, HeaderValue); 2] {
        let uids: Vec<String> = self
            .choices
            .iter()
            .map(|begun| begun.asking.in_hand.route().uid().to_string())
            .collect();
        let attempts: usize = self.choices.iter().map(|begun| begun.attempts).sum();
        let uids = HeaderValue::try_from(uids.join(",")).unwrap_or(HeaderValue::from_static(""));
        [(MINER_UID, uids), (ATTEMPTS, HeaderValue::from(attempts))]
    }

    /// The answer as server-sent events.
    pub(super) fn stream(self) -> Response {
        let miners = self.miners();
        let Self { api, shape, choices, tab } = self;
        let count = choices.len();
        let (sender, parts) = mpsc::channel(LAG);
        let readers = choices.into_iter().enumerate().map(|(choice, begun)| {
            let reader = Reader { api: Arc::clone(&api), choice, logprobs: shape.logprobs };
            AbortOnDropHandle::new(tokio::spawn(reader.run(begun, sender.clone())))
        });
        let sending = Sending {
            writer: shape.writer(),
            calls: (0..count).map(|choice| shape.calls(choice)).collect(),
            parts,
            _readers: readers.collect(),
            tab,
            open: count,
            usage: Some(Usage::new(0, 0)),
            stage: Stage::Opening(count),
        };
        let events = Body::from_stream(stream::unfold(sending, Sending::next));
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            // Proxies such as nginx must not collect the events.
            (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        ];
        (miners, headers, events).into_response()
    }

    /// The answer as one body.
    ///
    /// # Errors
    /// If a miner breaks off.
    pub(super) async fn whole(self) -> Result<Response, ApiError> {
        let miners = self.miners();
        let Self { api, shape, choices, mut tab } = self;
        let mut reads: Vec<_> =
            choices.into_iter().map(|begun| whole(&api, begun, &shape)).collect();
        let read = match (reads.pop(), reads.is_empty()) {
            // Nearly always.
            (Some(only), true) => vec![only.await?],
            (last, _) => try_join_all(reads.into_iter().chain(last)).await?,
        };
        let usage = read.iter().map(|(_, usage)| *usage).reduce(added);
        let usage = usage.unwrap_or(Usage::new(0, 0));
        tab.settle(Some(usage))?;
        let choices = read.into_iter().map(|(choice, _)| choice).collect();
        let body = shape.whole(choices, usage);
        let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        Ok((miners, json, body).into_response())
    }
}

/// The prompt is the same for all choices, and counts once.
fn added(one: Usage, other: Usage) -> Usage {
    let prompt = one.prompt_tokens.max(other.prompt_tokens);
    Usage::new(prompt, one.completion_tokens.saturating_add(other.completion_tokens))
}

/// Reads one miner's answer to its end and books what came of it.
async fn whole(api: &Api, begun: Begun, shape: &Shape) -> Result<(Choice, Usage), ApiError> {
    let Begun { asking, mut stream, pieces, .. } = begun;
    let (mut logprobs, mut room) = (None, MAX_LOGPROBS_BYTES);
    let mut finish_reason = FinishReason::Stop;
    let mut take = |piece: Piece| {
        finish_reason = piece.finish_reason.unwrap_or(finish_reason);
        if let Some(more) = piece.logprobs.filter(|more| shape.logprobs && more.len() <= room) {
            room -= more.len();
            logprobs.get_or_insert_with(Logprobs::default).append(&more);
        }
    };
    pieces.into_iter().for_each(&mut take);
    let trouble = loop {
        match stream.next().await {
            Ok(Some(piece)) => take(piece),
            Ok(None) => break None,
            Err(trouble) => break Some(trouble),
        }
    };
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
            warn!(task = shape.model, outcome = trouble.label(), "an answer broke off");
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

/// Reads one miner as fast as the user takes it, and a little faster.
#[derive(Debug)]
struct Reader {
    api: Arc<Api>,
    choice: usize,
    logprobs: bool,
}

impl Reader {
    async fn run(self, begun: Begun, parts: mpsc::Sender<Part>) {
        let Begun { asking, mut stream, pieces, .. } = begun;
        for piece in pieces {
            self.hand_on(piece, &parts, &mut stream).await;
        }
        let trouble = loop {
            match stream.next().await {
                Ok(Some(piece)) => self.hand_on(piece, &parts, &mut stream).await,
                Ok(None) => break None,
                Err(trouble) => break Some(trouble),
            }
        };
        let last = self.finish(asking, stream, trouble);
        // Without a receiver this task is about to be dropped.
        let _ = parts.send(last).await;
    }

    async fn hand_on(&self, piece: Piece, parts: &mpsc::Sender<Part>, stream: &mut AnswerStream) {
        let piece = Piece { logprobs: piece.logprobs.filter(|_| self.logprobs), ..piece };
        if piece == Piece::default() {
            return;
        }
        let part = match parts.try_send(Part::Piece(self.choice, piece)) {
            Err(mpsc::error::TrySendError::Full(part)) => part,
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
        };
        let began = Instant::now();
        let _ = parts.send(part).await;
        if began.elapsed() > SLOW {
            stream.was_held_back();
        }
    }

    /// Books what came of the answer.
    fn finish(&self, asking: Asking, stream: AnswerStream, trouble: Option<Trouble>) -> Part {
        let task = asking.query.task.clone();
        let (outcome, last) = match trouble {
            Some(trouble) => {
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

#[derive(Debug)]
struct Sending {
    writer: Writer,
    /// What finds the calls in each choice's text, if there may be any.
    calls: Vec<Option<CallReader>>,
    parts: mpsc::Receiver<Part>,
    _readers: Vec<AbortOnDropHandle<()>>,
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
        let mut out = BytesMut::new();
        match self.stage {
            Stage::Closed => return None,
            Stage::Opening(choices) => {
                self.stage = Stage::Relaying;
                (0..choices).for_each(|choice| self.writer.opening(&mut out, choice));
            }
            Stage::Relaying => {
                match timeout(KEEP_ALIVE, self.parts.recv()).await {
                    Err(_) => out.extend_from_slice(b": keep-alive\n\n"),
                    // A reader that ends without a last word has been stopped with the server.
                    Ok(part) => self.take(&mut out, part.unwrap_or(Part::Broken)),
                }
            }
        }
        // What is ready goes with it; nothing waits for more.
        while self.stage == Stage::Relaying && out.len() < FRAME_BYTES {
            match self.parts.try_recv() {
                Ok(part) => self.take(&mut out, part),
                Err(_) => break,
            }
        }
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
