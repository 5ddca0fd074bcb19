//! Asks one miner one thing, and says what came of it.
//!
//! Synthetic and organic requests take this same road, so a miner cannot tell them apart and both are accounted alike.

mod answer;
mod link;
mod outcome;
mod sessions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::openai::{BadRequest, ErrorBody, Kind};
use common::{Hotkey, Keypair, TaskId};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use url::Url;

pub use answer::{AnswerStream, Piece};
pub use outcome::{Failure, NotOpened, Ours, Outcome, Served, Trouble};

use crate::lag::{Lags, is_ours};
use link::{CONNECT_DEADLINE, Call, Link, SendError};
use outcome::whose;

/// What is read of a refusal, to tell the user why.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// A request to a miner.
#[derive(Debug, Clone)]
pub struct Query {
    pub miner: Hotkey,
    /// Base of the miner's server.
    pub url: Url,
    pub task: TaskId,
    pub kind: Kind,
    /// Sent as it is; the receipt is bound to these bytes.
    pub body: Bytes,
    pub max_tokens: u32,
    pub timeouts: Timeouts,
    /// Whether the time for the first token is less than the task allows, because some of it was spent before. That it
    /// runs out is then nobody's failure.
    pub cut_short: bool,
}

/// How long a miner has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub first_token: Duration,
    pub total: Duration,
}

/// Sends signed requests to miners.
#[derive(Debug, Clone)]
pub struct Asker {
    link: Arc<Link>,
    lags: Arc<Lags>,
}

/// Whether the user took so long to take what had come that the miner was not listened to. Times then say no longer anything
/// about the miner.
#[derive(Debug, Clone, Default)]
pub struct HeldBack(Arc<AtomicBool>);

impl HeldBack {
    /// It was so.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn was(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// When a request was sent, and what is needed to say whose fault it is if a time limit runs out.
#[derive(Debug, Clone)]
struct Watch {
    started: Instant,
    cut_short: bool,
    held_back: HeldBack,
    lags: Arc<Lags>,
}

impl Watch {
    /// A time limit ran out: the miner's failure, unless less time was given than is due or we were held up ourselves.
    fn ran_out(&self, limit: Duration, failure: Failure) -> Trouble {
        if self.cut_short && matches!(failure, Failure::NoFirstToken(_)) {
            return Trouble::Ours(Ours::Budget);
        }
        if self.held_back.was() {
            return Trouble::Ours(Ours::SlowUser);
        }
        let held_up = self.lags.worst_since(self.started);
        if is_ours(held_up, limit) {
            return Trouble::Ours(Ours::Stalled(held_up));
        }
        failure.into()
    }
}

impl Asker {
    /// Asks with this hotkey.
    pub fn new(keypair: Keypair) -> Self {
        Self { link: Link::new(keypair), lags: Arc::default() }
    }

    /// Drops what is kept for miners that have left the subnet.
    pub fn forget(&self, gone: impl Fn(&Hotkey) -> bool) {
        self.link.forget(gone);
    }

    /// What tells whether this process was held up. Somebody has to run [`Lags::watch`].
    pub fn lags(&self) -> Arc<Lags> {
        Arc::clone(&self.lags)
    }

    /// Asks and waits for the whole answer.
    pub async fn ask(&self, query: &Arc<Query>) -> Outcome {
        let mut stream = match self.open(query).await {
            Ok(stream) => stream,
            Err(not_opened) => return not_opened.into(),
        };
        loop {
            match stream.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(trouble) => return trouble.into(),
            }
        }
        stream.finish()
    }

    /// Asks and returns the stream as soon as the miner accepts. Dropping it cancels the request.
    ///
    /// # Errors
    /// If the miner refuses or fails before it starts to answer.
    pub async fn open(&self, query: &Arc<Query>) -> Result<AnswerStream, NotOpened> {
        let call = Call {
            miner: &query.miner,
            url: &query.url,
            method: &Method::POST,
            path: query.kind.path(),
            body: &query.body,
        };
        let watch = self.watch(query.cut_short);
        let limit = query.timeouts.first_token;
        let (response, proof) = match timeout_at(watch.started + limit, self.link.send(call)).await
        {
            Err(_) => {
                return Err(NotOpened::Trouble(watch.ran_out(limit, Failure::NoFirstToken(limit))));
            }
            Ok(Err(error)) => {
                return Err(NotOpened::Trouble(not_sent(&error, &query.url, &watch)));
            }
            Ok(Ok(answer)) => answer,
        };
        match response.status() {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => return Err(NotOpened::Refused),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
                return Err(NotOpened::Unacceptable(reason(response, query).await));
            }
            status => return Err(NotOpened::Trouble(Failure::Status(status.as_u16()).into())),
        }
        Ok(AnswerStream::new(response.into_body(), proof, Arc::clone(query), watch))
    }

    /// Fetches a miner's declared capacity: the body as it came, at most 256 KiB.
    ///
    /// # Errors
    /// If the miner cannot be reached, answers with another status than 200, or sends too much; or if we cannot ask.
    pub async fn capacity(
        &self,
        miner: &Hotkey,
        url: &Url,
        deadline: Duration,
    ) -> Result<Bytes, Trouble> {
        const MAX_BYTES: usize = 256 << 10;
        let body = Bytes::new();
        let call = Call { miner, url, method: &Method::GET, path: "/capacity", body: &body };
        let watch = self.watch(false);
        let fetch = async {
            let sent = self.link.send(call).await;
            let (response, _) = sent.map_err(|error| not_sent(&error, url, &watch))?;
            if response.status() != StatusCode::OK {
                return Err(Failure::Status(response.status().as_u16()).into());
            }
            let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
            body.map(|body| body.to_bytes()).map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    Failure::TooMuch { bytes: MAX_BYTES }.into()
                } else {
                    whose(error.as_ref(), url, Failure::Broken)
                }
            })
        };
        tokio::time::timeout(deadline, fetch)
            .await
            .unwrap_or_else(|_| Err(watch.ran_out(deadline, Failure::NoEnd(deadline))))
    }

    fn watch(&self, cut_short: bool) -> Watch {
        Watch {
            started: Instant::now(),
            cut_short,
            held_back: HeldBack::default(),
            lags: Arc::clone(&self.lags),
        }
    }
}

/// What a miner gives as the reason of a refusal, as one short line, with the parameter that it names.
async fn reason(response: Response<Incoming>, query: &Query) -> BadRequest {
    let read = Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect();
    let read = tokio::time::timeout(query.timeouts.first_token, read).await;
    let body = read.ok().and_then(Result::ok).map(|body| body.to_bytes());
    let parsed: Option<ErrorBody> = body.and_then(|body| serde_json::from_slice(&body).ok());
    match parsed {
        Some(ErrorBody { error }) => BadRequest {
            message: plain(&error.message),
            param: error.param.map(|param| plain(&param)),
        },
        None => BadRequest { message: "the request is not acceptable".to_owned(), param: None },
    }
}

/// A stranger's words as one line of bounded length, fit for logs and users.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Why a request got no answer at all.
fn not_sent(error: &SendError, miner: &Url, watch: &Watch) -> Trouble {
    let trouble = match error {
        SendError::Address(why) => Failure::Unreachable(why.clone()).into(),
        SendError::Http(http) => whose(http, miner, |why| {
            if error.is_connect() { Failure::Unreachable(why) } else { Failure::Broken(why) }
        }),
    };
    match trouble {
        Trouble::Theirs(failure) if error.is_timeout() => watch.ran_out(CONNECT_DEADLINE, failure),
        trouble => trouble,
    }
}
