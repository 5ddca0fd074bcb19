//! A miner that answers at once, or streams 64 frames at a pace of 20 ms. It offers sessions and signs its receipts.
//!
//! To a caller that does not speak as a validator does it is an OpenAI server, so that other routers can be put in front.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, bail};
use bytes::Bytes;
use common::btauth;
use common::generation::FinishReason;
use common::receipt::{Generated, Receipt, Timings, request_digest};
use common::session::{HEADER_SESSION, PATH, Sessions, Terms};
use common::{Hotkey, Keypair, TaskId};
use futures::stream::{self, Stream, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use validator::gateway::miner_key;

/// Frames of a paced stream.
pub(crate) const FRAMES: u32 = 64;
pub(crate) const PACE: Duration = Duration::from_millis(20);
/// In every answer that is not paced.
pub(crate) const SAYS: &str = "It is a fine day for a walk by the river, and the ducks know it.";
/// Lets this many of the miners die: they close connections without an answer.
pub(crate) const DIE: &str = "/bench/die/";
/// When paced streams were given up by who asked, in Unix microseconds.
pub(crate) const GIVEN_UP: &str = "/bench/given-up";

/// Asks for what a validator gets, without proving to be one: of a plain proxy in front of a miner.
pub(crate) const AS_MINER: HeaderName = HeaderName::from_static("x-bench-as-miner");

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// All miners, at one address.
struct Miners {
    task: TaskId,
    keys: HashMap<Hotkey, Keypair>,
    /// In the order of their numbers.
    hotkeys: Vec<Hotkey>,
    dead: AtomicU16,
    sessions: Sessions,
    /// Whose session it is, by its name.
    of_session: Mutex<HashMap<String, Hotkey>>,
    given_up: Arc<Mutex<Vec<u64>>>,
}

/// What is read of a request.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct Asks {
    max_tokens: u32,
    #[serde(default)]
    stream: bool,
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, count: u16) -> anyhow::Result<()> {
    let keys: Vec<_> = (0..count).map(miner_key).collect();
    let hotkeys = keys.iter().map(Keypair::hotkey).collect();
    let terms = Terms { per_hotkey: 2 * usize::from(count), ..Terms::default() };
    let miners = Arc::new(Miners {
        task: validator::gateway::task()?,
        keys: keys.into_iter().map(|keypair| (keypair.hotkey(), keypair)).collect(),
        hotkeys,
        dead: AtomicU16::new(0),
        sessions: Sessions::new(terms),
        of_session: Mutex::default(),
        given_up: Arc::default(),
    });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let miners = Arc::clone(&miners);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let miners = Arc::clone(&miners);
                async move { miners.answer(request).await }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            // Who goes away is not reported.
            let _ =
                http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Miners {
    /// An error closes the connection.
    async fn answer(&self, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let hotkey = |name| header(name).and_then(|hotkey| hotkey.parse::<Hotkey>().ok());
        let as_miner = parts.headers.contains_key(AS_MINER);
        let asked = match header(HEADER_SESSION) {
            Some(session) => locked(&self.of_session).get(session).copied(),
            None if as_miner => self.hotkeys.last().copied(),
            None => hotkey(btauth::HEADER_RECEIVER),
        };
        let path = parts.uri.path();
        let Some(asked) = asked else { return self.answer_anybody(path, &body) };
        let keypair = self.keys.get(&asked).ok_or_else(|| anyhow!("it is no miner"))?;
        let dead = self.dead.load(Ordering::Relaxed).into();
        if self.hotkeys.iter().take(dead).any(|hotkey| *hotkey == asked) {
            bail!("it is dead");
        }
        if path == PATH {
            return Ok(self.session(keypair, hotkey(btauth::HEADER_HOTKEY), &body));
        }
        let claim = self.sessions.claimed(header, Instant::now()).ok().flatten();
        let asks: Asks = serde_json::from_slice(&body)?;
        let paced = asks.max_tokens == FRAMES;
        let tokens: Vec<u32> = (0..if paced { FRAMES } else { 16 }).collect();
        let generated = Generated {
            task: self.task.clone(),
            request_digest: request_digest(&body),
            prompt_tokens: 9,
            logprobs: vec![-0.5; tokens.len()],
            tokens,
            finish_reason: FinishReason::Stop,
            timings: Timings::default(),
        };
        let tag = claim.map(|claim| claim.receipt_tag(&generated.digest()));
        let receipt = if tag.is_none() && !as_miner {
            generated.sign(keypair)
        } else {
            // In a session it is the tag that is looked at. Making a signature takes as long as a whole proxy does, so the
            // mock would be what is measured.
            let signature = ANY_SIGNATURE.clone();
            Receipt { generated, hotkey: keypair.hotkey(), signature, tag }
        };
        let last = serde_json::to_string(&Last { choices: [], receipt: &receipt })?;
        Ok(self.events(paced, &format!("data: {last}\n\n")))
    }

    /// As an OpenAI server does.
    fn answer_anybody(&self, path: &str, body: &[u8]) -> anyhow::Result<Response<Body>> {
        if let Some(count) = path.strip_prefix(DIE) {
            self.dead.store(count.parse()?, Ordering::Relaxed);
            return Ok(whole(&json!({"dead": count})));
        }
        match path {
            GIVEN_UP => return Ok(whole(&json!(*locked(&self.given_up)))),
            "/health" => return Ok(whole(&json!({"status": "ok"}))),
            "/v1/models" => {
                let model =
                    json!({"id": self.task, "object": "model", "created": 1, "owned_by": "bench"});
                return Ok(whole(&json!({"object": "list", "data": [model]})));
            }
            _ => {}
        }
        // Routers ask for other things as well, to learn what is behind them.
        let asks: Asks = serde_json::from_slice(body).unwrap_or_default();
        if asks.stream {
            return Ok(self.events(asks.max_tokens == FRAMES, ""));
        }
        let message = json!({"role": "assistant", "content": SAYS});
        Ok(whole(&json!({
            "id": "chatcmpl-0", "object": "chat.completion", "created": 1, "model": self.task,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 16, "total_tokens": 25},
        })))
    }

    fn events(&self, paced: bool, more: &str) -> Response<Body> {
        let Texts { first, says, stop } = &*TEXTS;
        let body = if paced {
            let watched = Watched { given_up: Arc::clone(&self.given_up), whole: false };
            let last = Bytes::from([stop, more, DONE].concat());
            UnsyncBoxBody::new(StreamBody::new(frames(first, last, watched).map(frame)))
        } else {
            let whole = Bytes::from([says, stop, more, DONE].concat());
            UnsyncBoxBody::new(StreamBody::new(stream::iter([frame(whole)])))
        };
        let mut response = Response::new(body);
        let kind = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    fn session(&self, keypair: &Keypair, opener: Option<Hotkey>, body: &[u8]) -> Response<Body> {
        let accepted =
            opener.zip(serde_json::from_slice(body).ok()).and_then(|(opener, opening)| {
                let (secret, id) = (rand::random(), rand::random());
                self.sessions.accept(&opener, &opening, keypair, secret, id, Instant::now()).ok()
            });
        if let Some(accepted) = &accepted {
            locked(&self.of_session).insert(accepted.session.clone(), keypair.hotkey());
        }
        whole(&json!(accepted))
    }
}

/// Takes note of a stream that is dropped before its end.
struct Watched {
    given_up: Arc<Mutex<Vec<u64>>>,
    whole: bool,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.whole {
            locked(&self.given_up).push(unix_us());
        }
    }
}

/// Of the clock that all processes of the machine share.
pub(crate) fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const DONE: &str = "data: [DONE]\n\n";

/// What is the same in all answers, written once: the mock has to be quicker than what is measured.
struct Texts {
    /// Of a paced answer: the role, then one word per frame.
    first: Vec<Bytes>,
    /// Of one that is not.
    says: String,
    stop: String,
}

static TEXTS: LazyLock<Texts> = LazyLock::new(|| {
    let role = chunk(&json!([{"index": 0, "delta": {"role": "assistant", "content": ""}}]));
    let paced = (0..FRAMES).map(|number| said(&format!("word{number} ")));
    let stop = chunk(&json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]));
    let first = [role].into_iter().chain(paced).map(Bytes::from).collect();
    Texts { first, says: said(SAYS), stop }
});

static ANY_SIGNATURE: LazyLock<String> = LazyLock::new(|| format!("0x{}", "5a".repeat(64)));

/// The event that carries the receipt.
#[derive(Serialize)]
struct Last<'a> {
    choices: [(); 0],
    receipt: &'a Receipt,
}

/// What comes first at once, and then one part after the other.
fn frames(first: &'static [Bytes], last: Bytes, watched: Watched) -> impl Stream<Item = Bytes> {
    let parts = first.iter().cloned().chain([last]).enumerate();
    stream::unfold((parts, watched), |(mut parts, mut watched)| async move {
        let (number, text) = parts.next()?;
        if number > 1 {
            tokio::time::sleep(PACE).await;
        }
        watched.whole = parts.size_hint().0 == 0;
        Some((text, (parts, watched)))
    })
}

fn said(text: &str) -> String {
    let logprobs =
        json!({"content": [{"token": text, "logprob": -0.5, "bytes": null, "top_logprobs": []}]});
    chunk(
        &json!([{"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": null}]),
    )
}

fn chunk(choices: &Value) -> String {
    event(
        &json!({"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1, "model": "chat-demo",
                  "choices": choices}),
    )
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn frame(part: Bytes) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(part))
}

fn whole(value: &Value) -> Response<Body> {
    let mut response = Response::new(UnsyncBoxBody::new(Full::from(value.to_string())));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
