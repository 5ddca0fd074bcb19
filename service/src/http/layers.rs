//! Request ids, body limits, and the routes that operators use.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use serde::Serialize;
use serde_json::Value;
use tracing::{Instrument, debug_span};

use super::ApiError;
use crate::metrics;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The id of one request: the caller's own `x-request-id` if it is short and plain, or a new one. It is in the answer's
/// header, in the logs, and in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        // It was made of or checked for plain characters.
        self.0.to_str().unwrap_or_default()
    }
}

/// Makes ids that differ between processes and within one.
#[derive(Debug)]
struct Ids {
    process: u64,
    last: AtomicU64,
}

impl Ids {
    fn of(&self, request: &Request) -> RequestId {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        if let Some(own) = request.headers().get(HEADER)
            && (1..=64).contains(&own.len())
            && own.as_bytes().iter().all(plain)
        {
            return RequestId(own.clone());
        }
        let number = self.process.wrapping_add(self.last.fetch_add(1, Ordering::Relaxed));
        let id = format!("req-{number:016x}");
        RequestId(HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("req-0")))
    }
}

/// Adds what every router needs: a request id, a bound on bodies in bytes, and 404 and 405 in OpenAI's error shape.
pub fn layers(router: Router, max_body_bytes: usize) -> Router {
    let ids = Arc::new(Ids { process: RandomState::new().hash_one(0), last: AtomicU64::new(0) });
    router
        .fallback(|| async { ApiError::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            ApiError { status, ..ApiError::bad_request("this path does not take this method") }
        })
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .layer(from_fn_with_state(ids, with_request_id))
}

async fn with_request_id(
    State(ids): State<Arc<Ids>>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = ids.of(&request);
    let span = debug_span!("request", id = id.as_str(), method = %request.method(), path = request.uri().path());
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(HEADER, id.0);
    response
}

/// The answer of `/health`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    /// Decides between 200 and 503.
    pub ok: bool,
    /// What an operator wants to see at a glance; it is public, so nothing secret.
    #[serde(flatten)]
    pub details: serde_json::Map<String, Value>,
}

impl Health {
    /// Healthy, with nothing more to say.
    pub fn ok() -> Self {
        Self { ok: true, details: serde_json::Map::new() }
    }

    /// The same with one more fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// `GET /health` and `GET /metrics`.
pub fn operations<F>(registry: Arc<Registry>, health: F) -> Router
where
    F: Fn() -> Health + Clone + Send + Sync + 'static,
{
    let answer = move || {
        let health = health();
        let status = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        async move { (status, Json(health)).into_response() }
    };
    Router::new()
        .route("/health", get(answer))
        .route("/metrics", get(move || async move { metrics::encode(&registry) }))
}
