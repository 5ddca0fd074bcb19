//! The miner's HTTP routes. Everything but `/health` and `/metrics` takes signed requests of permitted validators only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use common::btauth::{self, Rejection, Verifier};
use common::openai::{self, Asked, BadRequest, Kind, Limits as TaskLimits};
use common::receipt::request_digest;
use common::session::{self, Sessions};
use common::{Hotkey, Keypair, TaskId};
use engine::{EngineError, SharedEngine};
use serde_json::json;
use service::http::{ApiError, RequestId};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::access::{Permission, Snapshot};
use crate::answer::Shape;
use crate::config::{AccessConfig, Limits};
use crate::generating::{LAG, Work};
use crate::ledger::Ledger;
use crate::metrics::{Metrics, Outcome};
use crate::slots::Slots;

/// How long a request's body may take to arrive. What takes longer is refused anyway: its nonce is no longer fresh.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// Bodies that are read at once: they are held in memory before it is proved who sent them.
pub(crate) const BODIES: usize = 64;
/// When all places are taken, one is usually free again after about an answer's length.
const BUSY_RETRY: Duration = Duration::from_secs(1);
/// Until the metagraph has been read for the first time.
const METAGRAPH_RETRY: Duration = Duration::from_secs(5);

/// What the handlers work with.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) keypair: Keypair,
    pub(crate) verifier: Verifier,
    pub(crate) sessions: Sessions,
    /// [`BODIES`] places.
    pub(crate) bodies: Semaphore,
    pub(crate) rules: AccessConfig,
    pub(crate) access: Arc<Snapshot>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) limits: Limits,
    pub(crate) tasks: BTreeMap<TaskId, Served>,
    pub(crate) metrics: Arc<Metrics>,
    /// Answers under way.
    pub(crate) answers: TaskTracker,
}

/// One task that is served.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) kind: Kind,
    pub(crate) limits: TaskLimits,
    pub(crate) engine: SharedEngine,
    pub(crate) slots: Arc<Slots>,
}

/// An authenticated and permitted request.
struct Call {
    validator: Hotkey,
    /// Of the capacity.
    share: f64,
    body: Bytes,
    /// If it is part of one.
    session: Option<session::Claim>,
    id: String,
    arrived: Instant,
}

/// A refusal, for the caller and for the metrics.
struct Refused {
    outcome: Outcome,
    task: Option<TaskId>,
    error: ApiError,
}

type Context = State<Arc<Shared>>;

/// The routes for validators.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(
            Kind::Chat.path(),
            post(|state: Context, request| generate(state, Kind::Chat, request)),
        )
        .route(
            Kind::Completion.path(),
            post(|state: Context, request| generate(state, Kind::Completion, request)),
        )
        .route(session::PATH, post(open_session))
        .route("/v1/models", get(models))
        .route("/capacity", get(capacity))
        .with_state(shared)
}

async fn generate(
    State(shared): Context,
    kind: Kind,
    request: Request,
) -> Result<Response, ApiError> {
    let answer = async {
        let call = shared.authenticate(request).await?;
        shared.answer(kind, call).await
    };
    answer.await.map_err(|refused| shared.count(refused))
}

async fn capacity(State(shared): Context, request: Request) -> Result<Response, ApiError> {
    let call = shared.authenticate(request).await.map_err(|refused| shared.count(refused))?;
    Ok(Json(shared.ledger.declare(&call.validator, call.share, call.arrived)).into_response())
}

async fn open_session(State(shared): Context, request: Request) -> Result<Response, ApiError> {
    let call = shared.authenticate(request).await.map_err(|refused| shared.count(refused))?;
    let accepted = shared.accept_session(&call).map_err(|refused| shared.count(refused))?;
    Ok(Json(accepted).into_response())
}

async fn models(State(shared): Context, request: Request) -> Result<Response, ApiError> {
    shared.authenticate(request).await.map_err(|refused| shared.count(refused))?;
    let owner = shared.keypair.hotkey();
    let model = |id| json!({"id": id, "object": "model", "created": 0, "owned_by": owner});
    let models: Vec<_> = shared.tasks.keys().map(model).collect();
    Ok(Json(json!({"object": "list", "data": models})).into_response())
}

impl Shared {
    fn count(&self, refused: Refused) -> ApiError {
        self.metrics.refused(refused.task.as_ref(), refused.outcome);
        refused.error
    }

    /// Who sent it, and whether they may. No body is read for those who only by their headers may not. The nonces of
    /// strangers are not remembered: what they sent is refused anyway, and they could make as many keys as they like.
    async fn authenticate(&self, request: Request) -> Result<Call, Refused> {
        let arrived = Instant::now();
        let (parts, body) = request.into_parts();
        let header = |name: &str| header(&parts.headers, name);
        let session = self.sessions.claimed(header, arrived).map_err(no_session)?;
        let claimed = match &session {
            Some(session) => session.hotkey(),
            None => self.verifier.claimed(header, unix_time_ns()).map_err(unauthenticated)?,
        };
        let share = self.share_of(&claimed)?;
        let body = self.read_body(body).await?;
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let signed = btauth::Request { method: parts.method.as_str(), target, body: &body };
        if let Some(session) = &session {
            session.check(&signed).map_err(no_session)?;
        } else {
            let now_ns = unix_time_ns();
            let sender = self.verifier.check(&signed, header, now_ns).map_err(unauthenticated)?;
            self.verifier.remember(&sender, now_ns).map_err(unauthenticated)?;
        }
        let id = parts.extensions.get::<RequestId>().map_or("none", RequestId::as_str).to_owned();
        Ok(Call { validator: claimed, share, body, session, id, arrived })
    }

    /// Only a signature opens a session, so that none outlives its term by opening the next.
    fn accept_session(&self, call: &Call) -> Result<session::Accepted, Refused> {
        let bad = |why: String| Refused {
            outcome: Outcome::BadRequest,
            task: None,
            error: ApiError::bad_request(why),
        };
        if call.session.is_some() {
            return Err(bad("a session is opened by a request that is signed".to_owned()));
        }
        let opening = serde_json::from_slice(&call.body)
            .map_err(|error| bad(format!("the body is no request for a session: {error}")))?;
        let (secret, id) = (rand::random(), rand::random());
        self.sessions
            .accept(&call.validator, &opening, &self.keypair, secret, id, call.arrived)
            .map_err(|error| bad(error.to_string()))
    }

    /// The share of the capacity that `hotkey` has, if it may send requests.
    fn share_of(&self, hotkey: &Hotkey) -> Result<f64, Refused> {
        let error = match self.access.load().permission(hotkey, &self.rules) {
            Permission::Granted { share } => return Ok(share),
            Permission::Denied(denial) => ApiError::forbidden(denial.to_string()),
            Permission::Unknown => {
                let message =
                    "this miner has just started and does not know the subnet's validators yet";
                ApiError::unavailable(message, METAGRAPH_RETRY)
            }
        };
        Err(Refused { outcome: Outcome::Forbidden, task: None, error })
    }

    async fn read_body(&self, body: Body) -> Result<Bytes, Refused> {
        let Ok(Ok(_place)) = timeout(self.limits.wait, self.bodies.acquire()).await else {
            let error = ApiError::too_many("too many requests arrive at once", BUSY_RETRY);
            return Err(Refused { outcome: Outcome::Busy, task: None, error });
        };
        let limit = self.limits.body_bytes;
        let error = match timeout(BODY_DEADLINE, to_bytes(body, limit)).await {
            Ok(Ok(bytes)) => return Ok(bytes),
            // A connection that broke is not told apart: nobody reads that answer.
            Ok(Err(_)) => ApiError::too_large(limit),
            Err(_) => ApiError::too_slow(),
        };
        Err(Refused { outcome: Outcome::BadRequest, task: None, error })
    }

    async fn answer(&self, kind: Kind, call: Call) -> Result<Response, Refused> {
        let bad = |error: BadRequest| Refused {
            outcome: Outcome::BadRequest,
            task: None,
            error: error.into(),
        };
        let model = openai::model_of(&call.body).map_err(bad)?;
        let Some((task, served)) = self.tasks.get_key_value(&model) else {
            let error = ApiError::not_found(format!("the model `{model}` is not served here"))
                .with_code("model_not_found");
            return Err(Refused { outcome: Outcome::BadRequest, task: None, error });
        };
        let refuse = |outcome, error| Refused { outcome, task: Some(task.clone()), error };
        if served.kind != kind {
            let message = format!("the model `{task}` is served at {}", served.kind.path());
            return Err(refuse(Outcome::BadRequest, BadRequest::of("model", message).into()));
        }
        let mut asked = openai::parse(kind, &call.body, served.limits)
            .map_err(|error| refuse(Outcome::BadRequest, error.into()))?;
        if asked.n != 1 {
            let message =
                "miners give one answer at a time: ask for each of `n` with a seed of its own";
            return Err(refuse(Outcome::BadRequest, BadRequest::of("n", message).into()));
        }
        if !asked.has_seed {
            asked.generation.sampling.seed = rand::random();
        }
        if let Err(used_up) = self.ledger.admit(&call.validator, task, call.share, Instant::now()) {
            let message = format!("your share of this miner's capacity for `{task}` is used up");
            let error = ApiError::too_many(message, used_up.retry_after);
            return Err(refuse(Outcome::OverCapacity, error));
        }
        let place = served.slots.take().await.map_err(|_| {
            let message = format!("`{task}` is answering as many requests as it can");
            refuse(Outcome::Busy, ApiError::too_many(message, BUSY_RETRY))
        })?;
        let started = Instant::now();
        let generating = match timeout(
            self.limits.stall,
            served.engine.generate(asked.generation.clone()),
        )
        .await
        {
            Ok(Ok(generating)) => generating,
            Ok(Err(error)) => {
                let (outcome, error) = engine_error(task, error);
                return Err(refuse(outcome, error));
            }
            Err(_) => {
                warn!(%task, "the engine does not take requests");
                return Err(refuse(Outcome::Failed, ApiError::internal()));
            }
        };
        let work = Work {
            validator: call.validator,
            session: call.session,
            task: task.clone(),
            request_digest: request_digest(&call.body),
            max_tokens: asked.generation.max_tokens,
            arrived: call.arrived,
            started,
            limits: self.limits,
            keypair: self.keypair.clone(),
            ledger: Arc::clone(&self.ledger),
            metrics: Arc::clone(&self.metrics),
            place,
        };
        let (sender, steps) = mpsc::channel(LAG);
        self.metrics.started(task);
        self.answers.spawn(work.run(generating, sender));
        respond(&asked, kind, &call.id, steps).await.map_err(|error| Refused {
            outcome: Outcome::Failed,
            task: None,
            error,
        })
    }
}

async fn respond(
    asked: &Asked,
    kind: Kind,
    id: &str,
    steps: mpsc::Receiver<crate::generating::Step>,
) -> Result<Response, ApiError> {
    let shape = Shape::new(asked, kind, id, unix_time().as_secs());
    if asked.stream {
        Ok(shape.stream(steps))
    } else {
        Ok(Json(shape.whole(steps).await?).into_response())
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn unauthenticated(rejection: Rejection) -> Refused {
    let message = rejection.to_string();
    let (outcome, error) = match rejection {
        Rejection::Overloaded => (Outcome::Busy, ApiError::too_many(message, BUSY_RETRY)),
        Rejection::MalformedAuth(_)
        | Rejection::WrongReceiver
        | Rejection::StaleRequest
        | Rejection::BadSignature
        | Rejection::ReplayedRequest => {
            (Outcome::Unauthenticated, ApiError::unauthenticated(message))
        }
    };
    Refused { outcome, task: None, error: error.with_code(rejection.name()) }
}

fn no_session(rejection: session::Rejection) -> Refused {
    let error = ApiError::unauthenticated(rejection.to_string()).with_code(rejection.name());
    Refused { outcome: Outcome::Unauthenticated, task: None, error }
}

fn engine_error(task: &TaskId, error: EngineError) -> (Outcome, ApiError) {
    if let EngineError::BadParameter { name, problem } = &error {
        return (Outcome::BadRequest, BadRequest::of(name, problem.as_str()).into());
    }
    if error.is_callers_mistake() {
        let answer = ApiError::bad_request(error.to_string());
        let too_long = matches!(error, EngineError::TooLong { .. });
        let answer = if too_long { answer.with_code("context_length_exceeded") } else { answer };
        return (Outcome::BadRequest, answer);
    }
    warn!(%task, error = %service::run::Chain(&error), "the engine failed");
    (Outcome::Failed, ApiError::internal())
}

pub(crate) fn unix_time_ns() -> u64 {
    u64::try_from(unix_time().as_nanos()).unwrap_or(u64::MAX)
}

fn unix_time() -> Duration {
    // Before 1970 every request is stale, which is right for a clock that is so wrong.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
