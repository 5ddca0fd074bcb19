//! The subnet, open to the world: an OpenAI-compatible API in front of the miners.

pub(crate) mod admin;
mod cors;
mod front;
mod models;
mod openapi;
mod race;
mod receipts;
mod relay;
mod shape;
mod tab;
pub(crate) mod usage;

use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use common::generation::{Generation, Sampling, choice_seed};
use common::openai::{self, Asked, BadRequest, Kind};
use futures::future::try_join_all;
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use service::http::ApiError;
use tasks::{Catalogue, Task, wire};
use tracing::warn;

use crate::accounts::Accounts;
use crate::ask::{Asker, Ours, Outcome};
use crate::clock::{unix_ms, uptime};
use crate::keys::{Admission, Gate, Used, bearer};
use crate::routing;
use crate::store::Store;
pub use cors::Origins;
pub(crate) use cors::layer as cors;
pub use front::Front;
use models::{Model, Models, not_served};
use race::{Asking, Begun, Race, prefix_of};
use receipts::{AnswerId, AnswerReceipt, Receipts};
use relay::Relay;
use shape::Shape;
use tab::{Tab, prompt_size};

/// The largest request that is read.
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// How long a caller may take to send it.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// When a caller that was turned away may come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Answers users.
#[derive(Debug)]
pub struct Api {
    gate: Arc<Gate>,
    catalogue: Arc<Catalogue>,
    router: Arc<routing::Router>,
    asker: Asker,
    accounts: Arc<Accounts>,
    store: Store,
    receipts: Receipts,
    /// Unix seconds; what `/v1/models` calls `created`.
    started: i64,
}

impl Api {
    /// An API over these parts.
    pub fn new(
        gate: Arc<Gate>,
        catalogue: Arc<Catalogue>,
        router: Arc<routing::Router>,
        asker: Asker,
        accounts: Arc<Accounts>,
        store: Store,
    ) -> Self {
        let started = crate::clock::unix_ms() / 1000;
        let receipts = Receipts::default();
        Self { gate, catalogue, router, asker, accounts, store, receipts, started }
    }

    /// The routes.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route(Kind::Chat.path(), post(chat))
            .route(Kind::Completion.path(), post(completion))
            .route("/openapi.json", get(openapi))
            .route("/v1/models", get(models))
            .route("/v1/models/{id}", get(model))
            .route("/v1/receipts/{id}", get(receipt))
            .with_state(self)
    }

    /// Who may ask for something that costs nothing.
    fn may_look(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        match bearer(headers) {
            key if self.gate.is_open_to(key) => Ok(()),
            key => Ok(self.gate.owner(key, unix_ms()).map(|_| ())?),
        }
    }

    fn parse(&self, kind: Kind, body: &[u8]) -> Result<(&Task, Asked), ApiError> {
        let mut task = None;
        let asked = openai::parse_with(kind, body, |model| {
            let served = self.catalogue.task(model).filter(|task| task.enabled);
            let served = served.ok_or_else(|| not_served(model.as_str()))?;
            if served.kind != kind {
                let path = served.kind.path();
                let message = format!("the model `{model}` is served at {path}");
                return Err(BadRequest::of("model", message).into());
            }
            task = Some(served);
            Ok::<_, ApiError>(served.limits())
        })?;
        // The limits were asked for, or there would be an error.
        let task = task.ok_or_else(ApiError::internal)?;
        Ok((task, asked))
    }

    async fn answer<B>(self: Arc<Self>, kind: Kind, request: Request<B>) -> Response
    where
        B: Body<Error: Into<BoxError>>,
    {
        // Before the body is read: strangers, and more callers than there is room for, must not fill the memory.
        let bearer = bearer(request.headers());
        let (levels, answer) = match self.gate.identify(bearer, unix_ms()) {
            Ok(admission) => {
                let levels = admission.levels();
                (Some(levels), self.admitted(admission, kind, request.into_body()).await)
            }
            Err(denied) => (self.gate.levels(bearer), Err(denied.into())),
        };
        let mut response = answer.unwrap_or_else(IntoResponse::into_response);
        if let Some(levels) = levels {
            levels.headers(unix_ms()).write(response.headers_mut());
        }
        response
    }

    async fn admitted<B>(
        self: &Arc<Self>,
        admission: Admission,
        kind: Kind,
        body: B,
    ) -> Result<Response, ApiError>
    where
        B: Body<Error: Into<BoxError>>,
    {
        let body = Limited::new(body, MAX_BODY_BYTES).collect();
        let body = tokio::time::timeout(BODY_DEADLINE, body)
            .await
            .map_err(|_| ApiError::too_slow())?
            .map_err(|_| ApiError::too_large(MAX_BODY_BYTES))?
            .to_bytes();
        let (task, mut asked) = self.parse(kind, &body)?;
        // It is a part of the connection's buffer, which can be used again now.
        drop(body);
        if !asked.has_seed {
            // By nothing that a miner or a user could know.
            asked.generation.sampling.seed = wire::draw_seed(&mut rand::rng());
        }
        let (bytes, most_tokens) = prompt_size(&asked.generation);
        let max_tokens = asked.generation.max_tokens;
        let reserved = admission.reserve(task, most_tokens, max_tokens, asked.n, unix_ms());
        let reservation = reserved.await?;
        let id = AnswerId::new(kind, rand::random());
        let choices = self.begin(id, task, &asked).await?;
        let shape = Shape {
            id: id.to_string(),
            kind,
            model: task.id.clone(),
            created: u64::try_from(unix_ms() / 1000).unwrap_or(0),
            logprobs: asked.logprobs,
            include_usage: asked.include_usage,
            tools: asked.generation.tools.take(),
        };
        let used = used(&choices, asked.stream);
        let tab = Tab::new(reservation, bytes, used);
        let relay = Relay { api: Arc::clone(self), shape, choices, tab };
        if asked.stream { Ok(relay.stream()) } else { relay.whole().await }
    }

    /// Waits until every choice that was asked for has begun.
    async fn begin(
        self: &Arc<Self>,
        answer: AnswerId,
        task: &Task,
        asked: &Asked,
    ) -> Result<Vec<Begun>, ApiError> {
        let generation = &asked.generation;
        let prefix = prefix_of(&generation.prompt);
        let race = |choice: u32| {
            let seed = choice_seed(generation.sampling.seed, choice);
            let body = match choice {
                0 => wire::miner_body(&task.id, generation),
                _ => {
                    let sampling = Sampling { seed, ..generation.sampling };
                    wire::miner_body(&task.id, &Generation { sampling, ..generation.clone() })
                }
            };
            let (body, max_tokens) = (Bytes::from(body), generation.max_tokens);
            let choice = choice as usize;
            Race { api: self, answer, choice, task, body, max_tokens, prefix }.run()
        };
        if asked.n == 1 {
            return Ok(vec![race(0).await?]);
        }
        Box::pin(try_join_all((0..asked.n).map(race))).await
    }

    /// Books what came of a query, for the miner's score and for the next choice of a miner.
    fn settle(&self, asking: Asking, outcome: Outcome) {
        let Asking { answer, choice, query, under_way, in_hand } = asking;
        match &outcome {
            Outcome::Served(served) => {
                in_hand.succeeded(served.tokens());
                let uid = in_hand.route().uid();
                self.receipts.remember(answer, choice, uid, served);
            }
            Outcome::Refused => in_hand.refused(uptime()),
            // A miner that used up the user's patience is avoided, though this does not count as a failure.
            Outcome::Failed(_) | Outcome::Void(Ours::Budget) => in_hand.failed(uptime()),
            Outcome::Void(_) => {}
        }
        let floor = self.catalogue.task(&query.task).map_or(0.0, |task| task.checking.share);
        under_way.settle(&query, outcome, floor, &mut rand::rng(), |_| answer.check(choice));
    }
}

/// Who answers, for the ledger.
fn used(choices: &[Begun], streamed: bool) -> Used {
    let first = choices.first().map(|begun| begun.answering.asking.in_hand.route());
    let attempts: usize = choices.iter().map(|begun| begun.attempts).sum();
    Used {
        uid: first.map(|route| route.uid().0),
        hotkey: first.map(|route| Arc::clone(route.address())),
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        streamed,
        ..Used::default()
    }
}

async fn chat(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.answer(Kind::Chat, request).await
}

async fn completion(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.answer(Kind::Completion, request).await
}

async fn openapi(State(api): State<Arc<Api>>) -> Json<serde_json::Value> {
    Json(api.openapi())
}

async fn models(State(api): State<Arc<Api>>) -> Json<Models> {
    Json(api.models())
}

async fn model(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    api.model(&id).map(Json)
}

async fn receipt(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<AnswerReceipt>, ApiError> {
    api.may_look(&headers)?;
    let known = match id.parse() {
        Ok(id) => api.receipts.of(id, &api.store).await.map_err(|error| {
            warn!("a receipt cannot be read: {:#}", anyhow::Error::from(error));
            ApiError::internal()
        })?,
        Err(()) => None,
    };
    known.map(Json).ok_or_else(|| {
        ApiError::not_found(
            "no answer with this id is remembered; receipts are kept for the newest",
        )
    })
}

#[cfg(test)]
mod tests;
