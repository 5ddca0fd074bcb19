//! The HTTP surface.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use common::checks::{CheckResults, MAX_BATCH};
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde_json::{Value, json};
use service::http::{ApiError, Health, layers, operations};
use tokio::time::timeout;

use crate::checker::Checker;
use crate::config::Access;

/// The longest that a request's body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct ApiState {
    checker: Arc<Checker>,
    access: Access,
    max_body_bytes: usize,
}

pub(crate) fn router(
    checker: Arc<Checker>,
    access: Access,
    max_body_bytes: usize,
    registry: Registry,
) -> Router {
    let watched = Arc::clone(&checker);
    let state = Arc::new(ApiState { checker, access, max_body_bytes });
    let api = Router::new()
        .route("/v1/checks", post(checks))
        .route("/v1/models", get(models))
        .route_layer(from_fn_with_state(Arc::clone(&state), only_with_token))
        .with_state(state);
    layers(api.merge(operations(Arc::new(registry), move || health(&watched))), max_body_bytes)
}

/// Runs before a body is read.
async fn only_with_token(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Response {
    if is_admitted(&state.access, request.headers()) {
        next.run(request).await
    } else {
        let message = "send the checking server's access token as `Authorization: Bearer TOKEN`";
        ApiError::unauthenticated(message).into_response()
    }
}

fn is_admitted(access: &Access, headers: &HeaderMap) -> bool {
    match access {
        Access::Open => true,
        Access::Token(token) => headers
            .get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
            .is_some_and(|given| token.is(given)),
    }
}

/// A [`common::checks::CheckBatch`] whose checks are read one by one, so that a bad one costs itself only.
#[derive(Debug, Deserialize)]
struct Batch {
    checks: Vec<Value>,
}

/// `POST /v1/checks`
async fn checks(
    State(state): State<Arc<ApiState>>,
    request: Request,
) -> Result<Json<CheckResults>, ApiError> {
    let body = read_body(request, state.max_body_bytes).await?;
    let Batch { checks } = serde_json::from_slice(&body).map_err(|error| {
        ApiError::bad_request(format!("the body is no batch of checks: {error}"))
    })?;
    if checks.len() > MAX_BATCH {
        let message = format!("one request may hold {MAX_BATCH} checks, got {}", checks.len());
        return Err(ApiError::bad_request(message));
    }
    let results = state.checker.check(checks).await.map_err(|busy| {
        let message = "as many checks are waiting as this server takes, try again later";
        ApiError::too_many(message, busy.retry_after)
    })?;
    Ok(Json(CheckResults { results }))
}

async fn read_body(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    match timeout(BODY_DEADLINE, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if BytesRejection::status(&error) == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(ApiError::too_large(limit))
        }
        Ok(Err(error)) => Err(ApiError::bad_request(error.body_text())),
        Err(_elapsed) => Err(ApiError::too_slow()),
    }
}

/// `GET /v1/models`: the tasks that are checked here, in OpenAI's shape.
async fn models(State(state): State<Arc<ApiState>>) -> Json<Value> {
    let data: Vec<_> = state
        .checker
        .tasks
        .iter()
        .map(|(id, task)| {
            let model = state.checker.queues[task.queue].model();
            json!({"id": id, "object": "model", "owned_by": "touchstone", "root": model.name, "max_model_len": model.context})
        })
        .collect();
    Json(json!({"object": "list", "data": data}))
}

fn health(checker: &Checker) -> Health {
    let models: Vec<_> = checker
        .queues
        .iter()
        .map(|queue| json!({"model": queue.model().name, "queued": queue.len()}))
        .collect();
    Health::ok().with("models", models)
}
