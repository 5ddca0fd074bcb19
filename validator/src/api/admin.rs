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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path as FilePath;
    use std::sync::Arc;

    use axum::body::{Body, to_bytes};
    use axum::http::StatusCode;
    use axum::http::header::AUTHORIZATION;
    use tasks::Catalogue;
    use tower::ServiceExt;

    use super::*;
    use crate::api::usage::usage_routes;
    use crate::clock::unix_ms;
    use crate::keys::{Gate, GateConfig, Used};
    use crate::ledger::{Importer, Journal};
    use crate::store::tests::store;

    const TOKEN: &str = "open-sesame-0123456789";

    /// The status and the body.
    async fn ask(
        router: &Router,
        method: &str,
        path: &str,
        token: &str,
        body: Value,
    ) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    }

    fn json_of(answer: (u16, String)) -> Value {
        assert_eq!(answer.0, 200, "{}", answer.1);
        serde_json::from_str(&answer.1).unwrap()
    }

    #[tokio::test]
    async fn keys_are_made_changed_listed_and_revoked_by_who_has_the_token() {
        let (_folder, store) = store().await;
        let router = admin_routes(hash(TOKEN), store);
        let keys = "/v1/admin/keys";
        assert_eq!(ask(&router, "GET", keys, "open-sesame-0123456788", json!({})).await.0, 401);

        let spec = json!({"name": "shop", "budget": "12.50", "models": ["chat-demo"]});
        let made = json_of(ask(&router, "POST", keys, TOKEN, spec).await);
        assert!(made["secret"].as_str().unwrap().starts_with("ts-"), "{made}");
        let id = made["id"].as_str().unwrap();
        let own = format!("{keys}/{id}");
        for wrong in [json!({"name": ""}), json!({"name": "a", "budget": -1}), json!({"nam": "a"})]
        {
            let (status, body) = ask(&router, "POST", keys, TOKEN, wrong.clone()).await;
            assert_eq!(status, 400, "{wrong}: {body}");
        }

        let spec = json!({"name": "shop", "parallel": 3});
        json_of(ask(&router, "PUT", &own, TOKEN, spec).await);
        let (_, listed) = ask(&router, "GET", keys, TOKEN, json!({})).await;
        assert!(listed.contains("\"parallel\":3") && !listed.contains("12.50"), "{listed}");
        assert!(!listed.contains("ts-"), "the secret is shown once: {listed}");

        json_of(ask(&router, "DELETE", &own, TOKEN, json!({})).await);
        let (_, listed) = ask(&router, "GET", keys, TOKEN, json!({})).await;
        assert!(!listed.contains("\"revoked_ms\":null"), "{listed}");
        let nobody = format!("{keys}/key_000000000000");
        assert_eq!(ask(&router, "DELETE", &nobody, TOKEN, json!({})).await.0, 404);
    }

    #[tokio::test]
    async fn what_was_charged_is_told_to_the_owner_and_to_the_operator() {
        let (folder, store) = store().await;
        let spec =
            Spec { name: "shop".into(), budget: Some("1".parse().unwrap()), ..Spec::default() };
        let made = create(&store, spec).await.unwrap();
        let journal = Arc::new(Journal::open(&folder.path().join("ledger"), 1, 0).unwrap());
        let importer = Importer::start(Arc::clone(&journal), store.clone()).await.unwrap();
        let config = GateConfig { anonymous: None, keys: BTreeSet::new(), concurrency: 8 };
        let gate = Gate::open(config, store.clone(), journal, 1).await.unwrap();
        let gate = Arc::new(gate);
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/tasks.toml");
        let catalogue = Catalogue::load(FilePath::new(file)).unwrap();
        let task = catalogue.task(&"chat-demo".parse().unwrap()).unwrap();
        let admission = gate.identify(Some(&made.secret), unix_ms()).unwrap();
        let reservation = admission.reserve(task, 100, 50, 1, unix_ms()).await.unwrap();
        let used = Used { prompt_tokens: 20, completion_tokens: 10, ..Used::default() };
        let cost = reservation.settle(used, unix_ms()).unwrap();
        importer.import().await.unwrap();

        let owner = usage_routes(gate, store.clone());
        let usage = json_of(ask(&owner, "GET", "/v1/usage", &made.secret, json!({})).await);
        assert_eq!(usage["data"][0]["completion_tokens"], 10, "{usage}");
        assert_eq!(usage["data"][0]["cost_usd"], json!(cost), "{usage}");
        let left = made.key.spec.budget.unwrap().minus(cost);
        assert_eq!(usage["remaining_usd"], json!(left), "{usage}");
        assert_eq!(ask(&owner, "GET", "/v1/usage", "ts-none", json!({})).await.0, 401);
        let wrong = ask(&owner, "GET", "/v1/usage?from=soon", &made.secret, json!({})).await;
        assert_eq!(wrong.0, StatusCode::BAD_REQUEST, "{}", wrong.1);
        let later = "/v1/usage?from=9999-01-01";
        let usage = json_of(ask(&owner, "GET", later, &made.secret, json!({})).await);
        assert_eq!(usage["data"], json!([]));

        let operator = admin_routes(hash(TOKEN), store);
        let usage = json_of(ask(&operator, "GET", "/v1/admin/usage", TOKEN, json!({})).await);
        assert_eq!(usage["data"][0]["key"], json!(made.key.id), "{usage}");
        let (status, csv) = ask(&operator, "GET", "/v1/admin/usage.csv", TOKEN, json!({})).await;
        assert_eq!((status, csv.lines().count()), (200, 2), "{csv}");
        assert!(csv.contains(&cost.to_string()), "{csv}");
    }
}
