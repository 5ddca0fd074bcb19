//! Callers of what is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::mock::{FRAMES, SAYS, unix_us};
use crate::process::Running;

/// Callers with as many connections as they need.
#[derive(Debug, Clone)]
pub(crate) struct Callers {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    authorization: String,
}

/// What one caller saw of a stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) first: Duration,
    pub(crate) gaps: Vec<Duration>,
    pub(crate) lost: u32,
}

impl Callers {
    pub(crate) fn of(running: &Running) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            address: running.address,
            authorization: format!("Bearer {}", running.key.as_deref().unwrap_or("none")),
        }
    }

    fn request(&self, stream: bool) -> anyhow::Result<Request<Full<Bytes>>> {
        let body = json!({
            "model": "chat-demo",
            "messages": [{"role": "user", "content": "Hello, what kind of day is it today?"}],
            "max_tokens": if stream { FRAMES } else { 32 },
            "stream": stream,
        });
        let request = Request::post(format!("http://{}/v1/chat/completions", self.address))
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, &self.authorization);
        Ok(request.body(Full::new(Bytes::from(body.to_string())))?)
    }

    /// One short request; the answer's status and content are looked at.
    pub(crate) async fn ask(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let response = self.client.request(self.request(false)?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let took = began.elapsed();
        let says = SAYS.as_bytes();
        if status != StatusCode::OK || !body.windows(says.len()).any(|part| part == says) {
            bail!("{} answered {status}: {}", self.address, String::from_utf8_lossy(&body));
        }
        Ok(took)
    }

    /// So many requests by so many callers, each with one at a time.
    pub(crate) async fn ask_many(&self, callers: usize, requests: u64) -> anyhow::Result<()> {
        let (next, mut running) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
        for _ in 0..callers {
            let (own, next) = (self.clone(), Arc::clone(&next));
            running.spawn(async move {
                while next.fetch_add(1, Ordering::Relaxed) < requests {
                    own.ask().await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = running.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Leaves a paced stream after a tenth of its frames. Returns when that was, in Unix microseconds.
    pub(crate) async fn leave(&self) -> anyhow::Result<u64> {
        let response = self.client.request(self.request(true)?).await?;
        let mut body = response.into_body();
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            seen.extend_from_slice(&frame?.into_data().unwrap_or_default());
            if seen.windows(5).filter(|part| part == b"word5").count() > 0 {
                break;
            }
        }
        let left = unix_us();
        drop(body);
        Ok(left)
    }

    /// Another path of the same program, as JSON.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = Request::get(format!("http://{}{path}", self.address))
            .header(AUTHORIZATION, &self.authorization)
            .body(Full::default())?;
        let response = self.client.request(request).await?;
        let status = response.status();
        ensure!(status == StatusCode::OK, "{path} answered {status}");
        Ok(serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?)
    }

    /// One paced stream, read as it comes.
    pub(crate) async fn stream(&self) -> anyhow::Result<Stream> {
        let began = Instant::now();
        let response = self.client.request(self.request(true)?).await?;
        ensure!(response.status() == StatusCode::OK, "a stream got {}", response.status());
        let (mut body, mut seen) = (response.into_body(), Stream::default());
        let (mut words, mut last, mut done) = (0, None::<Instant>, false);
        // An event may come in two parts.
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            rest.extend_from_slice(&data);
            let whole = rest.windows(2).rposition(|end| end == b"\n\n").map_or(0, |end| end + 2);
            let events: Vec<u8> = rest.drain(..whole).collect();
            let text = String::from_utf8_lossy(&events);
            let new = text.matches("\"content\":\"word").count();
            done |= text.contains("[DONE]");
            if new == 0 {
                continue;
            }
            let now = Instant::now();
            match last {
                None => seen.first = now - began,
                Some(last) => seen.gaps.push(now - last),
            }
            (words, last) = (words + new as u32, Some(now));
        }
        seen.lost = FRAMES.saturating_sub(words) + u32::from(!done);
        Ok(seen)
    }
}

/// The value that so many of a hundred are at most.
pub(crate) fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    let index = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or_default()
}
