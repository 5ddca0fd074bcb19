//! The subnet, open to the world: an OpenAI-compatible API in front of the miners.

pub(crate) mod admin;
mod answer;
mod relay;
pub(crate) mod usage;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use common::openai::{self, Asked, Kind};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use serde_json::{Value, json};
use service::http::ApiError;
use sha2::{Digest, Sha256};
use tasks::{Catalogue, Task, wire};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::warn;

use crate::accounts::{Accounts, Origin, UnderWay};
use crate::ask::{Asker, Failure, Ours, Outcome, Query};
use crate::cycle::query;
use crate::network::Network;
use crate::routing;
use crate::tally::ContenderId;
use relay::{NotBegun, Relay};

/// How many miners one request is tried on.
const ATTEMPTS: usize = 3;
/// The largest request that is read.
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// How long a caller may take to send it.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// When a caller that was turned away may come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Who may call, and how much at once.
#[derive(Clone)]
pub struct ApiConfig {
    /// Without a key, everybody may.
    pub open: bool,
    /// SHA-256 of each key.
    pub keys: BTreeSet<[u8; 32]>,
    /// Requests under way at once; more are refused with 429.
    pub concurrency: usize,
}

impl ApiConfig {
    /// The form in which a key is kept.
    pub fn hash(key: &str) -> [u8; 32] {
        Sha256::digest(key.as_bytes()).into()
    }
}

impl fmt::Debug for ApiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiConfig")
            .field("open", &self.open)
            .field("keys", &self.keys.len())
            .field("concurrency", &self.concurrency)
            .finish()
    }
}

/// Answers users.
#[derive(Debug)]
pub struct Api {
    config: ApiConfig,
    catalogue: Arc<Catalogue>,
    network: Arc<Network>,
    router: Arc<routing::Router>,
    asker: Asker,
    accounts: Arc<Accounts>,
    slots: Arc<Semaphore>,
    /// Unix seconds; what `/v1/models` calls `created`.
    started: i64,
}

impl Api {
    /// An API over these parts.
    pub fn new(
        config: ApiConfig,
        catalogue: Arc<Catalogue>,
        network: Arc<Network>,
        router: Arc<routing::Router>,
        asker: Asker,
        accounts: Arc<Accounts>,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(config.concurrency));
        let started = crate::clock::unix_ms() / 1000;
        Self { config, catalogue, network, router, asker, accounts, slots, started }
    }

    /// The routes.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route(Kind::Chat.path(), post(chat))
            .route(Kind::Completion.path(), post(completion))
            .route("/v1/models", get(models))
            .with_state(self)
    }

    /// The key's holder may go on, or everybody may.
    fn authenticate(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.config.open {
            return Ok(());
        }
        let key = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| {
                ApiError::unauthenticated("send your API key as `Authorization: Bearer KEY`")
            })?;
        // Looked up by its hash, so the time it takes says nothing about the keys that exist.
        if self.config.keys.contains(&ApiConfig::hash(key.trim())) {
            Ok(())
        } else {
            Err(ApiError::unauthenticated("this API key is not known").with_code("invalid_api_key"))
        }
    }

    fn parse(&self, kind: Kind, body: &[u8]) -> Result<(&Task, Asked), ApiError> {
        let model = openai::model_of(body)?;
        let task = self.catalogue.task(&model).filter(|task| task.enabled).ok_or_else(|| {
            ApiError::not_found(format!(
                "the model `{model}` is not served here; see GET /v1/models"
            ))
            .with_code("model_not_found")
        })?;
        if task.kind != kind {
            return Err(ApiError::bad_request(format!(
                "the model `{model}` is served at {}",
                task.kind.path()
            )));
        }
        Ok((task, openai::parse(kind, body, task.limits())?))
    }

    async fn answer(self: Arc<Self>, kind: Kind, request: Request) -> Result<Response, ApiError> {
        // Before the body is read: strangers, and more callers than there is room for, must not fill the memory.
        self.authenticate(request.headers())?;
        let slot = Arc::clone(&self.slots)
            .try_acquire_owned()
            .map_err(|_| ApiError::too_many("too many requests at once", RETRY_AFTER))?;
        let body =
            tokio::time::timeout(BODY_DEADLINE, to_bytes(request.into_body(), MAX_BODY_BYTES))
                .await
                .map_err(|_| ApiError::too_slow())?
                .map_err(|_| ApiError::too_large(MAX_BODY_BYTES))?;
        let (task, mut asked) = self.parse(kind, &body)?;
        // Not seeded by anything a miner or a user could know.
        let mut rng = ChaCha12Rng::from_os_rng();
        if !asked.has_seed {
            asked.generation.sampling.seed = wire::draw_seed(&mut rng);
        }
        let relay = self.first_to_answer(task, &asked, slot, rng).await?;
        if asked.stream { Ok(relay.stream()) } else { relay.collect().await }
    }

    /// Tries miners one after the other until one sends its first token, within the task's time for that.
    async fn first_to_answer(
        self: &Arc<Self>,
        task: &Task,
        asked: &Asked,
        slot: OwnedSemaphorePermit,
        mut rng: ChaCha12Rng,
    ) -> Result<Relay, ApiError> {
        let body = wire::miner_body(&task.id, &asked.generation);
        let contenders = self.network.contenders();
        let routes = self.router.choose(&task.id, ATTEMPTS, &mut rng);
        let mut relay = Relay::new(Arc::clone(self), task, asked, slot, rng);
        // Miners that call the request itself wrong. They are right if all that were asked say so.
        let mut objections: Vec<(Asking, routing::Route, String)> = Vec::new();
        let mut asked_all = 0;
        let whole = task.timeouts.first_token();
        let deadline = Instant::now() + whole;
        for (tried, route) in routes.iter().enumerate() {
            let id = ContenderId { hotkey: route.hotkey, task: task.id.clone() };
            let Some(contender) = contenders.get(&id) else { continue };
            let max_tokens = asked.generation.max_tokens;
            let mut query = query(id.hotkey, contender, task, body.clone(), max_tokens);
            let left = deadline.saturating_duration_since(Instant::now());
            let last = tried + 1 == routes.len();
            query.timeouts.first_token = time_for(left, whole, last);
            query.cut_short = query.timeouts.first_token < whole;
            asked_all += 1;
            let under_way = self.accounts.begin(id, max_tokens, Origin::Organic);
            let asking = Asking { query, under_way };
            match relay.begin(&self.asker, asking, route.clone()).await {
                Ok(()) => {
                    self.overrule(objections, &mut relay.rng);
                    return Ok(relay);
                }
                Err(NotBegun::Objection(asking, why)) => {
                    objections.push((asking, route.clone(), why));
                }
                Err(NotBegun::Outcome(asking, outcome)) => {
                    // A miner that used up the user's patience is avoided, though this does not count as a failure.
                    if matches!(outcome, Outcome::Failed(_) | Outcome::Void(Ours::Budget)) {
                        route.failed();
                    }
                    self.settle(asking, outcome, &mut relay.rng);
                }
            }
        }
        // The word of one miner alone is no proof: we have found nothing wrong with the request ourselves.
        if objections.len() < asked_all {
            self.overrule(objections, &mut relay.rng);
        } else if let Some((.., why)) = objections.into_iter().next() {
            return Err(ApiError::bad_request(why));
        }
        warn!(task = %task.id, miners = routes.len(), "no miner answered a request");
        Err(ApiError::unavailable(
            format!("no miner answers for `{}` at the moment", task.id),
            RETRY_AFTER,
        ))
    }

    /// These miners called a request wrong that is not.
    fn overrule(&self, objections: Vec<(Asking, routing::Route, String)>, rng: &mut ChaCha12Rng) {
        for (asking, route, _) in objections {
            route.failed();
            self.settle(asking, Outcome::Failed(Failure::Status(400)), rng);
        }
    }

    fn settle(&self, asking: Asking, outcome: Outcome, rng: &mut ChaCha12Rng) {
        let Asking { query, under_way } = asking;
        let floor = self.catalogue.task(&query.task).map_or(0.0, |task| task.checking.share);
        under_way.settle(&query, outcome, floor, rng);
    }

    fn models(&self) -> Value {
        let data: Vec<_> = self
            .catalogue
            .enabled()
            .map(|(task, _)| {
                json!({
                    "id": task.id,
                    "object": "model",
                    "created": self.started,
                    "owned_by": "touchstone",
                    "name": task.display_name,
                    "description": task.description,
                    "context_length": task.engine.context,
                    "served": self.router.serves(&task.id),
                })
            })
            .collect();
        json!({"object": "list", "data": data})
    }
}

/// A query to a miner on behalf of a user.
#[derive(Debug)]
struct Asking {
    query: Query,
    under_way: UnderWay,
}

/// How much of the time that is left until a user's first token one miner gets: half, so that one that hangs does not
/// use up the user's patience, and all for the last. Who gets nearly the whole time gets the whole.
fn time_for(left: Duration, whole: Duration, last: bool) -> Duration {
    match last {
        true if left >= whole.mul_f64(0.9) => whole,
        true => left,
        false => left / 2,
    }
}

async fn chat(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    api.answer(Kind::Chat, request).await
}

async fn completion(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    api.answer(Kind::Completion, request).await
}

async fn models(State(api): State<Arc<Api>>) -> Json<Value> {
    Json(api.models())
}

#[cfg(test)]
mod tests;
