//! Asks one miner one thing, and says what came of it.
//!
//! Synthetic and organic requests take this same road, so a miner cannot tell them apart and both are accounted alike.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::openai::{Chunk, ErrorBody, Kind};
use common::receipt::{MAX_TOKENS, Receipt, request_digest};
use common::{Hotkey, Keypair, TaskId, btauth};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::clock::unix_ns;
use crate::sse::{EventData, Events};

/// What a stream may hold besides [`BYTES_PER_TOKEN`] for each token: chunks without text and the receipt's frame.
const BASE_BYTES: usize = 64 << 10;
/// A chunk of one token with 20 alternatives, its share of the receipt included, stays below this.
const BYTES_PER_TOKEN: usize = 4 << 10;
/// No vocabulary has longer tokens.
const TEXT_BYTES_PER_TOKEN: usize = 512;
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
    pub body: String,
    pub max_tokens: u32,
    pub timeouts: Timeouts,
}

/// How long a miner has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub first_token: Duration,
    pub total: Duration,
}

/// An answer that came whole, with a receipt that the miner signed for this request.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    pub text: String,
    pub receipt: Receipt,
    pub first_token: Duration,
    pub total: Duration,
}

impl Served {
    /// Tokens of the answer, by its receipt; the checking server finds out whether that is true.
    pub fn tokens(&self) -> u32 {
        u32::try_from(self.receipt.generated.tokens.len()).unwrap_or(u32::MAX)
    }
}

/// What became of a query.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Served(Box<Served>),
    /// The miner said that it is busy (429).
    Refused,
    Failed(Failure),
}

impl Outcome {
    /// One word for logs, metrics and the store.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Served(_) => "served",
            Self::Refused => "refused",
            Self::Failed(_) => "failed",
        }
    }
}

/// Why there is no usable answer, the miner being at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Unreachable(String),
    Status(u16),
    NoFirstToken(Duration),
    NoEnd(Duration),
    Broken(String),
    Garbage(String),
    TooMuch { bytes: usize },
    NoReceipt,
    ForeignReceipt(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "cannot be reached: {why}"),
            Self::Status(status) => write!(f, "answered with status {status}"),
            Self::NoFirstToken(limit) => write!(f, "sent no token within {limit:?}"),
            Self::NoEnd(limit) => write!(f, "did not finish within {limit:?}"),
            Self::Broken(why) => write!(f, "broke the stream off: {why}"),
            Self::Garbage(what) => write!(f, "sent something that is no answer: {what}"),
            Self::TooMuch { bytes } => {
                write!(f, "sent more than {bytes} bytes, which no answer of this length needs")
            }
            Self::NoReceipt => write!(f, "sent no receipt"),
            Self::ForeignReceipt(why) => write!(f, "sent a receipt that {why}"),
        }
    }
}

impl Failure {
    /// One word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Status(_) => "status",
            Self::NoFirstToken(_) => "no_first_token",
            Self::NoEnd(_) => "no_end",
            Self::Broken(_) => "broken",
            Self::Garbage(_) => "garbage",
            Self::TooMuch { .. } => "too_much",
            Self::NoReceipt => "no_receipt",
            Self::ForeignReceipt(_) => "foreign_receipt",
        }
    }
}

/// Why a stream did not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOpened {
    Refused,
    /// The miner says that the request itself is wrong (400 or 413), and why.
    Unacceptable(String),
    Failed(Failure),
}

impl From<NotOpened> for Outcome {
    fn from(not_opened: NotOpened) -> Self {
        match not_opened {
            NotOpened::Refused => Self::Refused,
            NotOpened::Unacceptable(_) => Self::Failed(Failure::Status(400)),
            NotOpened::Failed(failure) => Self::Failed(failure),
        }
    }
}

/// Sends signed requests to miners.
#[derive(Debug, Clone)]
pub struct Asker {
    http: reqwest::Client,
    keypair: Keypair,
    nonces: Arc<btauth::Nonces>,
}

impl Asker {
    /// # Errors
    /// If the HTTP client cannot be set up, for example without TLS roots.
    pub fn new(keypair: Keypair) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(5))
            .pool_idle_timeout(Duration::from_secs(60))
            // A miner that redirects would send us to an address that nobody has checked.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("touchstone-validator/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .build()?;
        Ok(Self { http, keypair, nonces: Arc::default() })
    }

    /// Asks and waits for the whole answer.
    pub async fn ask(&self, query: &Query) -> Outcome {
        let mut stream = match self.open(query).await {
            Ok(stream) => stream,
            Err(not_opened) => return not_opened.into(),
        };
        loop {
            match stream.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(failure) => return Outcome::Failed(failure),
            }
        }
        stream.finish()
    }

    /// Asks and returns the stream as soon as the miner accepts. Dropping it cancels the request.
    ///
    /// # Errors
    /// If the miner refuses or fails before it starts to answer.
    pub async fn open(&self, query: &Query) -> Result<AnswerStream, NotOpened> {
        let started = Instant::now();
        let unreachable = |why: String| NotOpened::Failed(Failure::Unreachable(why));
        let url =
            query.url.join(query.kind.path()).map_err(|error| unreachable(error.to_string()))?;
        let request =
            self.http.post(url).header("content-type", "application/json").body(query.body.clone());
        let request =
            self.sign(request, "POST", query.kind.path(), query.body.as_bytes(), &query.miner);
        let response = match timeout_at(started + query.timeouts.first_token, request.send()).await
        {
            Err(_) => {
                return Err(NotOpened::Failed(Failure::NoFirstToken(query.timeouts.first_token)));
            }
            Ok(Err(error)) => return Err(unreachable(root_cause(&error))),
            Ok(Ok(response)) => response,
        };
        match response.status().as_u16() {
            200 => {}
            429 => return Err(NotOpened::Refused),
            400 | 413 => return Err(NotOpened::Unacceptable(self.reason(response, query).await)),
            status => return Err(NotOpened::Failed(Failure::Status(status))),
        }
        Ok(AnswerStream {
            bytes: response.bytes_stream().boxed(),
            events: Events::default(),
            query: query.clone(),
            started,
            first_token: None,
            received: 0,
            text: String::new(),
            receipt: None,
            done: false,
        })
    }

    /// What a miner gives as the reason of a refusal, as one short line.
    async fn reason(&self, mut response: reqwest::Response, query: &Query) -> String {
        let read = async {
            let mut body = Vec::new();
            while let Ok(Some(part)) = response.chunk().await {
                body.extend_from_slice(&part);
                if body.len() > MAX_REFUSAL_BYTES {
                    break;
                }
            }
            body
        };
        let body = tokio::time::timeout(query.timeouts.first_token, read).await.unwrap_or_default();
        let parsed: Option<ErrorBody> = serde_json::from_slice(&body).ok();
        parsed.map_or_else(
            || "the request is not acceptable".to_owned(),
            |body| plain(&body.error.message),
        )
    }

    /// Fetches a miner's declared capacity: the body as it came, at most 256 KiB.
    ///
    /// # Errors
    /// If the miner cannot be reached, answers with another status than 200, or sends too much.
    pub async fn capacity(
        &self,
        miner: &Hotkey,
        url: &Url,
        deadline: Duration,
    ) -> Result<Bytes, Failure> {
        const MAX_BYTES: usize = 256 << 10;
        let target =
            url.join("/capacity").map_err(|error| Failure::Unreachable(error.to_string()))?;
        let request = self.sign(self.http.get(target), "GET", "/capacity", b"", miner);
        let fetch = async {
            let response =
                request.send().await.map_err(|error| Failure::Unreachable(root_cause(&error)))?;
            if response.status() != reqwest::StatusCode::OK {
                return Err(Failure::Status(response.status().as_u16()));
            }
            let mut body = Vec::new();
            let mut bytes = response.bytes_stream();
            while let Some(part) = bytes.next().await {
                body.extend_from_slice(&part.map_err(|error| Failure::Broken(root_cause(&error)))?);
                if body.len() > MAX_BYTES {
                    return Err(Failure::TooMuch { bytes: MAX_BYTES });
                }
            }
            Ok(Bytes::from(body))
        };
        tokio::time::timeout(deadline, fetch).await.unwrap_or(Err(Failure::NoEnd(deadline)))
    }

    fn sign(
        &self,
        request: reqwest::RequestBuilder,
        method: &str,
        target: &str,
        body: &[u8],
        miner: &Hotkey,
    ) -> reqwest::RequestBuilder {
        let nonce = self.nonces.next(unix_ns());
        let headers = btauth::sign(
            &btauth::Request { method, target, body },
            &self.keypair,
            Some(miner),
            nonce,
        );
        headers.into_iter().fold(request, |request, (name, value)| request.header(name, value))
    }
}

/// A stranger's words as one line of bounded length, fit for logs and users.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The innermost message of an error: reqwest's outer one only repeats the address.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// An answer under way.
pub struct AnswerStream {
    bytes: BoxStream<'static, Result<Bytes, reqwest::Error>>,
    events: Events,
    query: Query,
    started: Instant,
    first_token: Option<Duration>,
    received: usize,
    text: String,
    receipt: Option<Receipt>,
    done: bool,
}

impl fmt::Debug for AnswerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerStream").field("query", &self.query).finish_non_exhaustive()
    }
}

impl AnswerStream {
    /// The next part of the answer, or `None` at its end. The receipt is kept, not returned.
    ///
    /// # Errors
    /// If the miner breaks a deadline, a limit or the format.
    pub async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        loop {
            match self.events.next() {
                Err(error) => return Err(Failure::Garbage(error.to_string())),
                Ok(Some(EventData::Done)) => {
                    self.done = true;
                    return Ok(None);
                }
                Ok(Some(EventData::Json(json))) => {
                    if let Some(chunk) = self.read(&json)? {
                        return Ok(Some(chunk));
                    }
                }
                Ok(None) => {
                    if !self.receive().await? {
                        return if self.receipt.is_some() {
                            self.done = true;
                            Ok(None)
                        } else {
                            Err(Failure::Broken("it ended without `[DONE]`".to_owned()))
                        };
                    }
                }
            }
        }
    }

    /// Returns false at the end of the body.
    async fn receive(&mut self) -> Result<bool, Failure> {
        let Timeouts { first_token, total } = self.query.timeouts;
        let (limit, overdue) = match self.first_token {
            None => (first_token.min(total), Failure::NoFirstToken(first_token)),
            Some(_) => (total, Failure::NoEnd(total)),
        };
        let part = match timeout_at(self.started + limit, self.bytes.next()).await {
            Err(_) => return Err(overdue),
            Ok(None) => return Ok(false),
            Ok(Some(Err(error))) => return Err(Failure::Broken(root_cause(&error))),
            Ok(Some(Ok(part))) => part,
        };
        // A miner that always has one more byte ready would never let the timer above be looked at.
        if self.started.elapsed() > total {
            return Err(Failure::NoEnd(total));
        }
        self.received += part.len();
        let limit = BASE_BYTES + BYTES_PER_TOKEN * (self.query.max_tokens as usize).min(MAX_TOKENS);
        if self.received > limit {
            return Err(Failure::TooMuch { bytes: limit });
        }
        self.events.push(&part);
        Ok(true)
    }

    fn read(&mut self, json: &[u8]) -> Result<Option<Chunk>, Failure> {
        let mut chunk: Chunk = serde_json::from_slice(json).map_err(|error| {
            let reported = serde_json::from_slice::<ErrorBody>(json);
            match reported {
                Ok(body) => Failure::Broken(plain(&body.error.message)),
                Err(_) => Failure::Garbage(error.to_string()),
            }
        })?;
        if let Some(receipt) = chunk.receipt.take() {
            self.receipt = Some(receipt);
            return Ok(None);
        }
        let added: &str = chunk.choices.first().map_or("", |choice| choice.added_text());
        if self.first_token.is_none() && !added.is_empty() {
            self.first_token = Some(self.started.elapsed());
        }
        self.text.push_str(added);
        Ok(Some(chunk))
    }

    /// Judges the whole answer. Call it when [`next`](Self::next) has returned `None`.
    pub fn finish(self) -> Outcome {
        if !self.done {
            return Outcome::Failed(Failure::Broken("it was not read to its end".to_owned()));
        }
        let total = self.started.elapsed();
        let Some(receipt) = self.receipt else { return Outcome::Failed(Failure::NoReceipt) };
        let generated = &receipt.generated;
        let foreign = if generated.task != self.query.task {
            Some("is for another task")
        } else if generated.request_digest != request_digest(self.query.body.as_bytes()) {
            Some("is for another request")
        } else if !receipt.is_signed_by(&self.query.miner) {
            Some("is not signed by the miner's hotkey")
        } else if generated.tokens.len() > self.query.max_tokens as usize {
            Some("holds more tokens than were asked for")
        } else if generated.logprobs.len() != generated.tokens.len() {
            Some("has not one log-probability for each token")
        } else if !generated.logprobs.iter().all(|logprob| logprob.is_finite()) {
            // JSON has no such number, so the answer could never be checked.
            Some("has log-probabilities that are no numbers")
        } else if self.text.len() > TEXT_BYTES_PER_TOKEN * generated.tokens.len() {
            Some("holds too few tokens for its text")
        } else {
            None
        };
        if let Some(why) = foreign {
            return Outcome::Failed(Failure::ForeignReceipt(why));
        }
        Outcome::Served(Box::new(Served {
            text: self.text,
            // An answer of end tokens only has no text; then the end is when the first token was there.
            first_token: self.first_token.unwrap_or(total),
            total,
            receipt,
        }))
    }
}
