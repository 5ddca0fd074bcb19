//! Keys and usage for the operator, under `/v1/admin`, with a token of its own.

use axum::extract::{Path, Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use service::http::ApiError;

use super::usage::{Days, failed, rows};
use crate::keys::edit::{EditError, change, create, revoke};
use crate::keys::{Spec, bearer, hash};
use crate::ledger::csv;
use crate::store::Store;

/// The routes; `token` is the SHA-256 of the admin token.
pub fn admin_routes(token: [u8; 32], store: Store) -> Router {
    Router::new()
        .route("/v1/admin/keys", get(list).post(make))
        .route("/v1/admin/keys/{id}", axum::routing::put(replace).delete(end))
        .route("/v1/admin/keys/{id}/revoke", post(end))
        .route("/v1/admin/usage", get(usage))
        .route("/v1/admin/usage.csv", get(export))
        .layer(from_fn(move |request: Request, next: Next| async move {
            // Hashes are compared, so the time it takes says nothing about the token.
            match bearer(request.headers()) {
                Some(given) if hash(given.trim()) == token => Ok(next.run(request).await),
                Some(_) | None => Err(ApiError::unauthenticated(
                    "send the admin token as `Authorization: Bearer TOKEN`",
                )),
            }
        }))
        .with_state(store)
}

impl From<EditError> for ApiError {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Wrong(why) => Self::bad_request(why),
            EditError::NoSuchKey(_) => Self::not_found(error.to_string()),
            EditError::Store(error) => failed(error),
        }
    }
}

/// JSON whose mistakes are told in OpenAI's shape.
fn spec(body: &[u8]) -> Result<Spec, ApiError> {
    serde_json::from_slice(body).map_err(|bad| ApiError::bad_request(format!("the body: {bad}")))
}

async fn list(State(store): State<Store>) -> Result<Json<Value>, ApiError> {
    let keys = store.api_keys().await.map_err(failed)?;
    Ok(Json(json!({"object": "list", "data": keys})))
}

async fn make(State(store): State<Store>, body: bytes::Bytes) -> Result<Response, ApiError> {
    Ok(Json(create(&store, spec(&body)?).await?).into_response())
}

async fn replace(
    State(store): State<Store>,
    Path(id): Path<String>,
    body: bytes::Bytes,
) -> Result<Response, ApiError> {
    let new = spec(&body)?;
    Ok(Json(change(&store, &id, |spec| *spec = new).await?).into_response())
}

async fn end(State(store): State<Store>, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(Json(revoke(&store, &id).await?).into_response())
}

async fn usage(
    State(store): State<Store>,
    Query(days): Query<Days>,
) -> Result<Json<Value>, ApiError> {
    let (from, to) = days.read()?;
    let usage = store.usage(None, from, to).await.map_err(failed)?;
    Ok(Json(json!({"object": "list", "data": rows(&usage)})))
}

async fn export(
    State(store): State<Store>,
    Query(days): Query<Days>,
) -> Result<Response, ApiError> {
    let (from, to) = days.read()?;
    let text = csv(&store, from, to).await.map_err(failed)?;
    Ok(([(CONTENT_TYPE, "text/csv")], text).into_response())
}
