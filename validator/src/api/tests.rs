//! The API in front of scripted miners.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Mutex;

use axum::Router as HttpRouter;
use axum::body::Bytes;
use axum::body::{Body, to_bytes};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use common::generation::FinishReason;
use common::money::Usd;
use common::receipt::{Generated, Timings, request_digest};
use common::{Keypair, Uid, Volume};
use futures::StreamExt;
use futures::future::pending;
use futures::stream::{self, once};
use prometheus_client::registry::Registry;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use url::Url;

use super::*;
use crate::accounts::Origin;
use crate::keys::edit::create;
use crate::keys::{GateConfig, Spec};
use crate::ledger::{Importer, Journal};
use crate::metrics::Metrics;
use crate::network::Contender;
use crate::routing::Candidate;
use crate::store::PeriodId;
use crate::store::tests::store;
use crate::suspicion::Suspicions;
use crate::tally::{ContenderId, Tallies, Tally};
use crate::writer::{Writer, writer};

/// What a scripted miner does with every request.
#[derive(Debug, Clone, Copy)]
enum Conduct {
    /// Says "hello there" and signs for it.
    Answers,
    /// The same, with all but the first word when [`LEAVE`] is given.
    WaitsForLeave,
    /// Calls a function, as its text.
    Calls,
    /// Says "hello" and then reports an error.
    BreaksOff,
    /// Says "hello" and then nothing more.
    FallsSilent,
    /// Takes the request and never answers.
    Hangs,
    Status(u16),
}

const KEY: &str = "sesame-0123456789";
static LEAVE: Semaphore = Semaphore::const_new(0);

async fn miner(name: &'static str, conduct: Conduct) -> Url {
    let answer = move |body: String| async move {
        match conduct {
            Conduct::Hangs => pending().await,
            conduct => act(name, conduct, &body),
        }
    };
    let router = HttpRouter::new().route(Kind::Chat.path(), post(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

fn act(name: &str, conduct: Conduct, body: &str) -> Response {
    let chunk = |text: &str, finish: Option<&str>| {
        let logprobs = json!({"content": [{"token": text, "logprob": -0.5}]});
        let choice = json!({"index": 0, "delta": {"content": text}, "logprobs": logprobs,
                            "finish_reason": finish});
        format!("data: {}\n\n", json!({"choices": [choice]}))
    };
    let stream = match conduct {
        Conduct::Status(status) => {
            let reason = json!({"error": {"message": "the prompt is too long", "type": "invalid_request_error",
                                          "param": null, "code": null}});
            return (StatusCode::from_u16(status).unwrap(), reason.to_string()).into_response();
        }
        Conduct::FallsSilent | Conduct::Hangs => {
            let first = Bytes::from(chunk("hello", None));
            let stream = once(async { Ok::<_, Infallible>(first) }).chain(stream::pending());
            return ([("content-type", "text/event-stream")], Body::from_stream(stream))
                .into_response();
        }
        Conduct::BreaksOff => {
            let trouble = json!({"error": {"message": "engine died", "type": "server_error", "param": null, "code": null}});
            [chunk("hello", None), format!("data: {trouble}\n\n")].concat()
        }
        Conduct::Answers | Conduct::WaitsForLeave | Conduct::Calls => {
            let generated = Generated {
                task: "chat-demo".parse().unwrap(),
                request_digest: request_digest(body.as_bytes()),
                prompt_tokens: 5,
                tokens: vec![1, 2, 3],
                logprobs: vec![-0.1, -0.2, -0.3],
                finish_reason: FinishReason::Stop,
                timings: Timings::default(),
            };
            let receipt = generated.sign(&Keypair::development(name));
            let last =
                format!("data: {}\n\ndata: [DONE]\n\n", json!({"choices": [], "receipt": receipt}));
            let said = match conduct {
                Conduct::Calls => [r#"{"name": "clock", "#, r#""arguments": {}}"#],
                _ => ["hello", " there"],
            };
            let (first, rest) = (
                chunk(said[0], None),
                [chunk(said[1], None), chunk("", Some("stop")), last].concat(),
            );
            if matches!(conduct, Conduct::WaitsForLeave) {
                let rest = async {
                    LEAVE.acquire().await.unwrap().forget();
                    rest
                };
                let parts = once(async { first }).chain(once(rest)).map(Ok::<_, Infallible>);
                return ([("content-type", "text/event-stream")], Body::from_stream(parts))
                    .into_response();
            }
            first + &rest
        }
    };
    ([("content-type", "text/event-stream")], Body::from(stream)).into_response()
}

struct World {
    importer: Importer,
    registry: Registry,
    api: Arc<Api>,
    tallies: Arc<Tallies>,
    _writer: Mutex<Writer>,
    _folder: tempfile::TempDir,
}

/// Miners in the order in which they are tried: one by one, each trips the one before.
async fn world(miners: &[(&'static str, Conduct)], config: GateConfig) -> World {
    let catalogue = include_str!("../../../config/tasks.toml");
    let catalogue = Arc::new(Catalogue::parse(catalogue, "tasks.toml").unwrap());
    let (folder, store) = store().await;
    let tallies = Arc::new(Tallies::default());
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let (to_check, writer) =
        writer(Arc::clone(&tallies), Arc::clone(&metrics), store.clone(), Arc::default(), 10);
    let suspicions = Arc::new(Suspicions::default());
    let accounts = Accounts::new(Arc::clone(&tallies), metrics, suspicions, to_check);
    let mut declared = BTreeMap::new();
    let mut candidates = Vec::new();
    for (uid, (name, conduct)) in (1..).map(Uid).zip(miners) {
        let (hotkey, task) = (Keypair::development(name).hotkey(), "chat-demo".parse().unwrap());
        let id = ContenderId { hotkey, task };
        let url = miner(name, *conduct).await;
        let contender = Contender { uid, url, declared: Volume::from(300) };
        // A later miner is all but never taken before an earlier one.
        let quality = Some(0.1_f64.powi(i32::from(uid.0) - 1));
        let score = 1e-9_f64.powi(i32::from(uid.0));
        candidates.push(Candidate { id: id.clone(), contender, score, quality });
        declared.insert(id, Volume::from(300));
    }
    tallies.turn(PeriodId(1), &declared, 60.0);
    let router = Arc::new(routing::Router::default());
    router.replace(candidates);
    let asker = Asker::new(Keypair::development("Alice"));
    let journal = Arc::new(Journal::open(&folder.path().join("ledger"), 1, 0).unwrap());
    let importer = Importer::start(Arc::clone(&journal), store.clone()).await.unwrap();
    let gate = Gate::open(config, store.clone(), journal, 1).await.unwrap();
    let api = Api::new(Arc::new(gate), catalogue, router, asker, Arc::new(accounts), store);
    let (api, writer) = (Arc::new(api), Mutex::new(writer));
    World { api, registry, tallies, importer, _writer: writer, _folder: folder }
}

fn id(name: &str) -> ContenderId {
    ContenderId { hotkey: Keypair::development(name).hotkey(), task: "chat-demo".parse().unwrap() }
}

fn open() -> GateConfig {
    GateConfig { anonymous: Some(Spec::default()), keys: BTreeSet::new(), concurrency: 8 }
}

impl World {
    async fn ask(&self, extra: Value, key: Option<&str>) -> (StatusCode, String) {
        let mut body =
            json!({"model": "chat-demo", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut request = Request::builder().method("POST").uri(Kind::Chat.path());
        if let Some(key) = key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Body::from(body.to_string())).unwrap();
        let response = Arc::clone(&self.api).answer(Kind::Chat, request).await;
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn tally(&self, name: &str) -> Tally {
        self.tallies.snapshot()[&id(name)]
    }

    /// Books that a miner refused a request of 60 tokens.
    fn refuses(&self, name: &str) -> Tally {
        let accounts = &self.api.accounts;
        accounts.begin(id(name), 60, Origin::Organic).close(&Outcome::Refused);
        self.tally(name)
    }
}

#[tokio::test]
async fn an_answer_reaches_the_user_without_the_receipt_and_counts_for_the_miner() {
    let world = world(&[("Bob", Conduct::Answers)], open()).await;
    let (status, body) = world.ask(json!({}), None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "hello there");
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8})
    );
    assert_eq!(answer.get("receipt"), None);
    let tally = world.tally("Bob");
    assert_eq!((tally.served, tally.organic_served, tally.asked()), (1, 1, 1));
    assert_eq!(tally.consumed, 3.0);
}

#[tokio::test]
async fn the_next_miner_answers_when_the_first_fails() {
    let world =
        world(&[("Bob", Conduct::Status(500)), ("Charlie", Conduct::Answers)], open()).await;
    for _ in 0..5 {
        assert_eq!(world.ask(json!({}), None).await.0, StatusCode::OK);
    }
    assert_eq!(world.tally("Charlie").served, 5);
    assert!(world.tally("Bob").failed.bad_status > 0);
}

#[tokio::test]
async fn a_request_that_every_miner_calls_wrong_is_the_users_mistake() {
    let miners = [("Bob", Conduct::Status(400)), ("Charlie", Conduct::Status(400))];
    let world = world(&miners, open()).await;
    let (status, body) = world.ask(json!({}), None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("the prompt is too long"), "{body}");
    assert_eq!((world.tally("Bob").asked(), world.tally("Charlie").asked()), (0, 0));
}

#[tokio::test]
async fn a_miner_that_alone_calls_a_request_wrong_has_failed() {
    let world =
        world(&[("Bob", Conduct::Status(400)), ("Charlie", Conduct::Answers)], open()).await;
    for _ in 0..5 {
        assert_eq!(world.ask(json!({}), None).await.0, StatusCode::OK);
    }
    assert!(world.tally("Bob").failed.bad_status > 0);
}

#[tokio::test]
async fn one_miners_objection_is_no_proof_when_the_others_do_not_answer() {
    let miners = [("Bob", Conduct::Status(500)), ("Charlie", Conduct::Status(400))];
    let world = world(&miners, open()).await;
    assert_eq!(world.ask(json!({}), None).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let failed = |name: &str| world.tally(name).failed.bad_status;
    assert_eq!((failed("Bob"), failed("Charlie")), (1, 1));
}

#[tokio::test]
async fn logprobs_reach_the_user_who_asks_for_them() {
    let world = world(&[("Bob", Conduct::Answers)], open()).await;
    let (_, body) = world.ask(json!({"logprobs": true, "top_logprobs": 1}), None).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    let expected = json!({"content": [{"token": "hello", "logprob": -0.5},
                                      {"token": " there", "logprob": -0.5}, {"token": "", "logprob": -0.5}]});
    assert_eq!(answer["choices"][0]["logprobs"], expected, "{body}");
    let (_, body) = world.ask(json!({"logprobs": true, "stream": true}), None).await;
    assert_eq!(body.matches("\"logprob\":-0.5").count(), 3, "{body}");
    let (_, body) = world.ask(json!({}), None).await;
    assert!(!body.contains("-0.5"), "{body}");
}

#[tokio::test]
async fn refusals_are_no_answer_but_no_failure_either() {
    let world = world(&[("Bob", Conduct::Status(429))], open()).await;
    assert_eq!(world.ask(json!({}), None).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let tally = world.tally("Bob");
    assert_eq!((tally.refused_within, tally.asked()), (1, 1));
}

#[tokio::test]
async fn a_miner_that_had_only_a_part_of_the_time_has_not_failed_when_it_runs_out() {
    let world = world(&[("Bob", Conduct::Hangs), ("Charlie", Conduct::Answers)], open()).await;
    assert_eq!(world.ask(json!({}), None).await.0, StatusCode::OK);
    let tally = world.tally("Bob");
    assert_eq!((tally.void, tally.asked()), (1, 0));
    assert_eq!(world.tally("Charlie").served, 1);
}

#[tokio::test]
async fn the_slow_tail_is_asked_a_second_time_and_the_loser_is_called_off() {
    let world = world(&[("Bob", Conduct::Hangs), ("Charlie", Conduct::Answers)], open()).await;
    let routes = world.api.router.of(&"chat-demo".parse().unwrap()).unwrap();
    // Both are usually quick, so the first is soon known to be late.
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    for tried in [vec![], vec![id("Bob").hotkey]] {
        let route = routes.choose(None, &tried, Duration::ZERO, &mut rng).unwrap();
        let in_hand = route.begin(Duration::ZERO);
        (0..30).for_each(|_| in_hand.first_token(Duration::from_millis(1)));
    }
    (0..100).for_each(|_| routes.asked());
    assert_eq!(world.ask(json!({}), None).await.0, StatusCode::OK);
    let (bob, charlie) = (world.tally("Bob"), world.tally("Charlie"));
    assert_eq!((bob.void, bob.asked(), charlie.served), (1, 0, 1));
    // Nothing of it is under way any more.
    assert_eq!(world.refuses("Bob").refused_within, 1);
}

#[tokio::test]
async fn several_answers_come_from_as_many_requests_with_their_own_seeds() {
    let world = world(&[("Bob", Conduct::Answers)], open()).await;
    let (status, body) = world.ask(json!({"n": 3}), None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let choices = answer["choices"].as_array().unwrap();
    let indices: Vec<_> = choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2]);
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14})
    );
    assert_eq!(world.tally("Bob").served, 3);

    let extra = json!({"n": 2, "stream": true, "stream_options": {"include_usage": true}});
    let (_, body) = world.ask(extra, None).await;
    for choice in ["\"index\":0", "\"index\":1"] {
        assert_eq!(body.matches(choice).count(), 4, "role, two texts, end: {body}");
    }
    assert_eq!(body.matches("[DONE]").count(), 1);
    assert!(body.contains("\"completion_tokens\":6"), "{body}");
}

#[tokio::test]
async fn calls_are_found_in_the_text_streamed_or_not() {
    let world = world(&[("Bob", Conduct::Calls)], open()).await;
    let tools = json!([{"type": "function", "function": {"name": "clock"}}]);
    let extra = |stream: bool| json!({"tools": tools, "tool_choice": "required", "stream": stream});
    let (status, body) = world.ask(extra(false), None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "clock", "arguments": "{}"}));
    assert!(call["id"].as_str().unwrap().starts_with("call_"), "{body}");

    let (_, body) = world.ask(extra(true), None).await;
    assert!(body.contains(r#""name":"clock""#) && body.contains(r#""arguments":"{}""#), "{body}");
    assert!(body.contains(r#""finish_reason":"tool_calls""#), "{body}");
    assert!(!body.contains(r#""content":"{"#), "{body}");
}

#[tokio::test]
async fn an_answers_receipt_tells_who_gave_it() {
    let world = world(&[("Bob", Conduct::Answers)], open()).await;
    let (_, body) = world.ask(json!({}), None).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    let id: AnswerId = answer["id"].as_str().unwrap().parse().unwrap();
    let receipt = world.api.receipts.of(id, &world.api.store).await.unwrap().unwrap();
    let receipt = serde_json::to_value(receipt).unwrap();
    let choice = &receipt["choices"][0];
    assert_eq!(choice["miner"]["hotkey"], json!(Keypair::development("Bob").hotkey()));
    assert_eq!((&choice["prompt_tokens"], &choice["completion_tokens"]), (&json!(5), &json!(3)));
    assert!(choice["verification"]["state"].is_string(), "{receipt}");
}

#[tokio::test]
async fn only_known_keys_may_call() {
    let keys = BTreeSet::from([crate::keys::hash(KEY)]);
    let config = GateConfig { anonymous: None, keys, concurrency: 8 };
    let world = world(&[("Bob", Conduct::Answers)], config).await;
    for key in [None, Some("sesame-0123456788"), Some("")] {
        let (status, body) = world.ask(json!({}), key).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    }
    assert_eq!(world.ask(json!({}), Some(KEY)).await.0, StatusCode::OK);
}

/// What is left of the budget of a key that may spend one USD.
async fn left(world: &World, key: &str) -> Usd {
    world.importer.import().await.unwrap();
    let owner = world.api.gate.owner(Some(key), unix_ms()).unwrap();
    owner.budget.unwrap().minus(world.api.store.charged(&owner.id, 0).await.unwrap())
}

async fn key_with_a_dollar(world: &World) -> String {
    let budget = Some("1".parse().unwrap());
    let spec = Spec { name: "shop".to_owned(), budget, ..Spec::default() };
    let made = create(&world.api.store, spec).await.unwrap();
    world.api.gate.reload().await.unwrap();
    made.secret
}

#[tokio::test]
async fn an_answer_is_charged_by_its_tokens_before_its_end_is_out() {
    let world = world(&[("Bob", Conduct::Answers)], open()).await;
    let key = key_with_a_dollar(&world).await;
    for extra in [json!({}), json!({"stream": true}), json!({"n": 2})] {
        let before = left(&world, &key).await;
        let completion = if extra["n"] == 2 { 6 } else { 3 };
        assert_eq!(world.ask(extra, Some(&key)).await.0, StatusCode::OK);
        let price = world.api.catalogue.task(&"chat-demo".parse().unwrap()).unwrap().price;
        assert!(!price.is_free());
        assert_eq!(before.minus(left(&world, &key).await), price.of(5, completion));
    }
}

#[tokio::test]
async fn what_never_began_is_free_and_what_broke_off_is_charged_as_far_as_it_came() {
    let miners = [("Bob", Conduct::Status(500)), ("Charlie", Conduct::Status(500))];
    let nobody = world(&miners, open()).await;
    let key = key_with_a_dollar(&nobody).await;
    assert_eq!(nobody.ask(json!({}), Some(&key)).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(left(&nobody, &key).await.to_string(), "1.00");

    let broken = world(&[("Bob", Conduct::BreaksOff)], open()).await;
    let key = key_with_a_dollar(&broken).await;
    assert_eq!(broken.ask(json!({}), Some(&key)).await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(left(&broken, &key).await.to_string(), "1.00", "nothing of it was delivered");
    broken.ask(json!({"stream": true}), Some(&key)).await;
    let one: Usd = "1".parse().unwrap();
    let charged = one.minus(left(&broken, &key).await);
    let price = broken.api.catalogue.task(&"chat-demo".parse().unwrap()).unwrap().price;
    // The prompt by its bytes, "hi" and 16 more, and the one piece that came.
    assert_eq!(charged, price.of(5, 1));
}

#[tokio::test]
async fn limits_are_told_with_each_answer() {
    let world = world(&[("Bob", Conduct::Answers)], open()).await;
    let spec = Spec { name: "shop".to_owned(), requests_per_minute: Some(2), ..Spec::default() };
    let made = create(&world.api.store, spec).await.unwrap();
    world.api.gate.reload().await.unwrap();
    let ask = async || {
        let body = json!({"model": "chat-demo", "messages": [{"role": "user", "content": "hi"}]});
        let bearer = format!("Bearer {}", made.secret);
        let request = Request::builder().method("POST").header(AUTHORIZATION, bearer);
        let request = request.body(Body::from(body.to_string())).unwrap();
        Arc::clone(&world.api).answer(Kind::Chat, request).await
    };
    let response = ask().await;
    assert_eq!(response.headers()["x-ratelimit-limit-requests"], "2");
    assert_eq!(response.headers()["x-ratelimit-remaining-requests"], "1");
    assert_eq!(ask().await.status(), StatusCode::OK);
    let refused = ask().await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["x-ratelimit-remaining-requests"], "0");
    assert!(refused.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn callers_beyond_the_limit_are_turned_away_at_once() {
    let world = world(&[("Bob", Conduct::Answers)], GateConfig { concurrency: 1, ..open() }).await;
    let taken = world.api.gate.identify(None, unix_ms()).unwrap();
    assert_eq!(world.ask(json!({}), None).await.0, StatusCode::TOO_MANY_REQUESTS);
    drop(taken);
    assert_eq!(world.ask(json!({}), None).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_users_mistakes_are_named_and_cost_no_miner_anything() {
    let world = world(&[("Bob", Conduct::Answers)], open()).await;
    for (extra, param) in [
        (json!({"temperature": 3}), "temperature"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"messages": []}), "messages"),
    ] {
        let (status, body) = world.ask(extra, None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(error["error"]["param"], param);
    }
    assert_eq!(world.ask(json!({"model": "gpt-9"}), None).await.0, StatusCode::NOT_FOUND);
    assert_eq!(world.ask(json!({"model": "complete-demo"}), None).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(world.tally("Bob").asked(), 0);
}

#[tokio::test]
async fn the_description_names_every_model_and_has_no_dangling_reference() {
    let world = world(&[("Bob", Conduct::Answers)], open()).await;
    let document = world.api.openapi();
    let models = &document["paths"][Kind::Chat.path()]["post"]["requestBody"]["content"]["application/json"]
        ["schema"]["properties"]["model"]["enum"];
    assert_eq!(models, &json!(["chat-demo"]));
    let text = document.to_string();
    let names =
        text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap());
    let names: BTreeSet<_> = names.collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}

mod streams;
