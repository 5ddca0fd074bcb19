//! `GET /v1/usage`: what a key's owner used.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use common::money::Usd;
use serde::Deserialize;
use serde_json::{Value, json};
use service::http::ApiError;
use tracing::warn;

use crate::explain::utc;
use crate::keys::{Gate, bearer, now_ms, parse_day, window_start};
use crate::store::{Store, StoreError, Usage};

/// Days in UTC, such as `from=2027-01-01&to=2027-02-01`; `to` is left out.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Days {
    from: Option<String>,
    to: Option<String>,
}

impl Days {
    /// In Unix milliseconds.
    pub(super) fn read(&self) -> Result<(i64, i64), ApiError> {
        let read = |day: &Option<String>, default| {
            day.as_deref().map_or(Ok(default), parse_day).map_err(ApiError::bad_request)
        };
        Ok((read(&self.from, i64::MIN)?, read(&self.to, i64::MAX)?))
    }
}

/// The route.
pub fn usage_routes(gate: Arc<Gate>, store: Store) -> Router {
    Router::new().route("/v1/usage", get(own)).with_state((gate, store))
}

async fn own(
    State((gate, store)): State<(Arc<Gate>, Store)>,
    Query(days): Query<Days>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let owner = gate.owner(bearer(&headers), now_ms())?;
    let (from, to) = days.read()?;
    let remaining = match owner.budget {
        Some(budget) => {
            let since = window_start(owner.reset, now_ms());
            let charged = store.charged(&owner.id, since).await.map_err(failed)?;
            Some(budget.minus(charged).max(Usd::ZERO))
        }
        None => None,
    };
    let usage = store.usage(Some(&owner.id), from, to).await.map_err(failed)?;
    Ok(Json(json!({
        "object": "list",
        "data": rows(&usage),
        "key": &*owner.id,
        "budget_usd": owner.budget,
        "remaining_usd": remaining,
    })))
}

pub(super) fn rows(usage: &[Usage]) -> Vec<Value> {
    usage
        .iter()
        .map(|usage| {
            json!({
                "day": utc(usage.day_ms).get(..10),
                "key": usage.key,
                "model": usage.task,
                "requests": usage.requests,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "cost_usd": usage.cost_usd,
            })
        })
        .collect()
}

pub(super) fn failed(error: StoreError) -> ApiError {
    warn!("an answer about keys or usage failed: {error}");
    ApiError::internal()
}
