//! Request ids, body limits, and the routes that operators use.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
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

/// Ids begin at a random number, so that they differ between processes, and count on.
static NEXT_ID: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(0)));

impl RequestId {
    /// The id of the request with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        if let Some(own) = headers.get(HEADER)
            && (1..=64).contains(&own.len())
            && own.as_bytes().iter().all(plain)
        {
            return Self(own.clone());
        }
        let id = format!("req-{:016x}", NEXT_ID.fetch_add(1, Ordering::Relaxed));
        Self(HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("req-0")))
    }

    /// Puts the id into the answer.
    pub fn put_into(self, response: &mut Response) {
        response.headers_mut().insert(HEADER, self.0);
    }
}

/// Adds what every router needs: a request id, a bound on bodies in bytes, and 404 and 405 in OpenAI's error shape.
pub fn layers(router: Router, max_body_bytes: usize) -> Router {
    router
        .fallback(|| async { ApiError::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            ApiError { status, ..ApiError::bad_request("this path does not take this method") }
        })
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .layer(from_fn(with_request_id))
}

async fn with_request_id(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let span = debug_span!("request", id = id.as_str(), method = %request.method(), path = request.uri().path());
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).instrument(span).await;
    id.put_into(&mut response);
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
