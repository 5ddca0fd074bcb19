//! Asks one miner one thing, and says what came of it.
//!
//! Synthetic and organic requests take this same road, so a miner cannot tell them apart and both are accounted alike.

mod answer;
mod outcome;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::openai::{ErrorBody, Kind};
use common::{Hotkey, Keypair, TaskId, btauth};
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};
use url::Url;

pub use answer::AnswerStream;
pub use outcome::{Failure, NotOpened, Ours, Outcome, Served, Trouble};

use crate::clock::unix_ns;
use crate::lag::{Lags, is_ours};
use outcome::whose;

/// How long a connection may take to open.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
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
    http: reqwest::Client,
    keypair: Keypair,
    nonces: Arc<btauth::Nonces>,
    lags: Arc<Lags>,
}

/// When a request was sent, and what is needed to say whose fault it is if a time limit runs out.
#[derive(Debug, Clone)]
struct Watch {
    started: Instant,
    cut_short: bool,
    lags: Arc<Lags>,
}

impl Watch {
    /// A time limit ran out: the miner's failure, unless less time was given than is due or we were held up ourselves.
    fn ran_out(&self, limit: Duration, failure: Failure) -> Trouble {
        if self.cut_short && matches!(failure, Failure::NoFirstToken(_)) {
            return Trouble::Ours(Ours::Budget);
        }
        let held_up = self.lags.worst_since(self.started);
        if is_ours(held_up, limit) {
            return Trouble::Ours(Ours::Stalled(held_up));
        }
        failure.into()
    }
}

impl Asker {
    /// # Errors
    /// If the HTTP client cannot be set up, for example without TLS roots.
    pub fn new(keypair: Keypair) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_DEADLINE)
            .pool_idle_timeout(Duration::from_secs(60))
            // A miner that redirects would send us to an address that nobody has checked.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("touchstone-validator/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .build()?;
        Ok(Self { http, keypair, nonces: Arc::default(), lags: Arc::default() })
    }

    /// What tells whether this process was held up. Somebody has to run [`Lags::watch`].
    pub fn lags(&self) -> Arc<Lags> {
        Arc::clone(&self.lags)
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
                Err(trouble) => return trouble.into(),
            }
        }
        stream.finish()
    }

    /// Asks and returns the stream as soon as the miner accepts. Dropping it cancels the request.
    ///
    /// # Errors
    /// If the miner refuses or fails before it starts to answer.
    pub async fn open(&self, query: &Query) -> Result<AnswerStream, NotOpened> {
        let url = query
            .url
            .join(query.kind.path())
            .map_err(|error| NotOpened::Trouble(Failure::Unreachable(error.to_string()).into()))?;
        let request =
            self.http.post(url).header("content-type", "application/json").body(query.body.clone());
        let request =
            self.sign(request, "POST", query.kind.path(), query.body.as_bytes(), &query.miner);
        let watch = Watch {
            started: Instant::now(),
            cut_short: query.cut_short,
            lags: Arc::clone(&self.lags),
        };
        let limit = query.timeouts.first_token;
        let response = match timeout_at(watch.started + limit, request.send()).await {
            Err(_) => {
                return Err(NotOpened::Trouble(watch.ran_out(limit, Failure::NoFirstToken(limit))));
            }
            Ok(Err(error)) => {
                return Err(NotOpened::Trouble(not_sent(&error, &query.url, &watch)));
            }
            Ok(Ok(response)) => response,
        };
        match response.status().as_u16() {
            200 => {}
            429 => return Err(NotOpened::Refused),
            400 | 413 => return Err(NotOpened::Unacceptable(self.reason(response, query).await)),
            status => return Err(NotOpened::Trouble(Failure::Status(status).into())),
        }
        Ok(AnswerStream::new(response, query.clone(), watch))
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
    /// If the miner cannot be reached, answers with another status than 200, or sends too much; or if we cannot ask.
    pub async fn capacity(
        &self,
        miner: &Hotkey,
        url: &Url,
        deadline: Duration,
    ) -> Result<Bytes, Trouble> {
        const MAX_BYTES: usize = 256 << 10;
        let target =
            url.join("/capacity").map_err(|error| Failure::Unreachable(error.to_string()))?;
        let request = self.sign(self.http.get(target), "GET", "/capacity", b"", miner);
        let watch =
            Watch { started: Instant::now(), cut_short: false, lags: Arc::clone(&self.lags) };
        let fetch = async {
            let response = request.send().await.map_err(|error| not_sent(&error, url, &watch))?;
            if response.status() != reqwest::StatusCode::OK {
                return Err(Failure::Status(response.status().as_u16()).into());
            }
            let mut body = Vec::new();
            let mut bytes = response.bytes_stream();
            while let Some(part) = bytes.next().await {
                body.extend_from_slice(&part.map_err(|error| whose(&error, url, Failure::Broken))?);
                if body.len() > MAX_BYTES {
                    return Err(Failure::TooMuch { bytes: MAX_BYTES }.into());
                }
            }
            Ok(Bytes::from(body))
        };
        tokio::time::timeout(deadline, fetch)
            .await
            .unwrap_or_else(|_| Err(watch.ran_out(deadline, Failure::NoEnd(deadline))))
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

/// Why a request got no answer at all.
fn not_sent(error: &reqwest::Error, miner: &Url, watch: &Watch) -> Trouble {
    let trouble = whose(error, miner, |why| {
        if error.is_connect() || error.is_timeout() {
            Failure::Unreachable(why)
        } else {
            Failure::Broken(why)
        }
    });
    match trouble {
        Trouble::Theirs(failure) if error.is_timeout() => watch.ran_out(CONNECT_DEADLINE, failure),
        trouble => trouble,
    }
}
