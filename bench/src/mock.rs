//! A miner that answers at once, or streams 64 frames at a pace of 20 ms. It offers sessions and signs its receipts.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::btauth;
use common::generation::FinishReason;
use common::receipt::{Generated, Receipt, Timings, request_digest};
use common::session::{HEADER_SESSION, PATH, Sessions, Terms};
use common::{Hotkey, Keypair, TaskId};
use futures::stream::{self, Stream, StreamExt};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use validator::gateway::miner_key;

/// Frames of a paced stream, and of nothing else: a request for so many tokens is one for a paced stream.
pub(crate) const FRAMES: u32 = 64;
pub(crate) const PACE: Duration = Duration::from_millis(20);
/// In every answer that is not paced.
pub(crate) const SAYS: &str = "It is a fine day for a walk by the river, and the ducks know it.";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// All miners, at one address.
struct Miners {
    task: TaskId,
    keys: HashMap<Hotkey, Keypair>,
    sessions: Sessions,
    /// Whose session it is, by its name.
    of_session: Mutex<HashMap<String, Hotkey>>,
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, count: u16) -> anyhow::Result<()> {
    let keys = (0..count).map(miner_key).map(|keypair| (keypair.hotkey(), keypair)).collect();
    let terms = Terms { per_hotkey: 2 * usize::from(count), ..Terms::default() };
    let (sessions, of_session) = (Sessions::new(terms), Mutex::default());
    let task = validator::gateway::task()?;
    let miners = Arc::new(Miners { task, keys, sessions, of_session });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let miners = Arc::clone(&miners);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let miners = Arc::clone(&miners);
                async move { Ok::<_, Infallible>(miners.answer(request).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            // Who goes away is not reported.
            let _ =
                http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Miners {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let hotkey = |name| header(name).and_then(|hotkey| hotkey.parse::<Hotkey>().ok());
        // A plain proxy's requests are for nobody in particular.
        let asked = match header(HEADER_SESSION) {
            Some(session) => self.of_session().get(session).copied(),
            None => hotkey(btauth::HEADER_RECEIVER),
        };
        let Some(keypair) =
            asked.and_then(|hotkey| self.keys.get(&hotkey)).or_else(|| self.keys.values().next())
        else {
            return events(stream::empty());
        };
        if parts.uri.path() == PATH {
            return self.session(keypair, hotkey(btauth::HEADER_HOTKEY), &body);
        }
        let claim = self.sessions.claimed(header, Instant::now()).ok().flatten();
        let paced = asks_for(&body) == Some(FRAMES);
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
        let receipt = Receipt { tag, ..generated.sign(keypair) };
        let last = [
            chunk(&json!([{"index": 0, "delta": {}, "finish_reason": "stop"}])),
            event(&json!({"choices": [], "receipt": receipt})),
            "data: [DONE]\n\n".to_owned(),
        ]
        .concat();
        if paced { events(frames(last)) } else { events(stream::iter([said(SAYS) + &last])) }
    }

    fn session(&self, keypair: &Keypair, opener: Option<Hotkey>, body: &[u8]) -> Response<Body> {
        let accepted =
            opener.zip(serde_json::from_slice(body).ok()).and_then(|(opener, opening)| {
                let (secret, id) = (rand::random(), rand::random());
                self.sessions.accept(&opener, &opening, keypair, secret, id, Instant::now()).ok()
            });
        if let Some(accepted) = &accepted {
            self.of_session().insert(accepted.session.clone(), keypair.hotkey());
        }
        let body = serde_json::to_string(&accepted).unwrap_or_default();
        events(stream::iter([body]))
    }

    fn of_session(&self) -> MutexGuard<'_, HashMap<String, Hotkey>> {
        self.of_session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn asks_for(body: &[u8]) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Asks {
        max_tokens: u32,
    }
    serde_json::from_slice::<Asks>(body).ok().map(|asks| asks.max_tokens)
}

/// The role, then one word per frame.
fn frames(last: String) -> impl Stream<Item = String> {
    let role = chunk(&json!([{"index": 0, "delta": {"role": "assistant", "content": ""}}]));
    let paced = (0..FRAMES).map(|number| said(&format!("word{number} ")));
    stream::iter([role].into_iter().chain(paced).chain([last]).enumerate()).then(
        |(number, text)| async move {
            if number > 1 {
                tokio::time::sleep(PACE).await;
            }
            text
        },
    )
}

fn said(text: &str) -> String {
    let logprobs =
        json!({"content": [{"token": text, "logprob": -0.5, "bytes": null, "top_logprobs": []}]});
    chunk(
        &json!([{"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": null}]),
    )
}

fn chunk(choices: &serde_json::Value) -> String {
    event(
        &json!({"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1, "model": "chat-demo",
                  "choices": choices}),
    )
}

fn event(value: &serde_json::Value) -> String {
    format!("data: {value}\n\n")
}

fn events(parts: impl Stream<Item = String> + Send + 'static) -> Response<Body> {
    let body = StreamBody::new(parts.map(|part| Ok(Frame::data(Bytes::from(part)))));
    Response::new(UnsyncBoxBody::new(body))
}
