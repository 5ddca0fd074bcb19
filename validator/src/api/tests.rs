//! The API in front of scripted miners.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use axum::Router as HttpRouter;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use common::generation::FinishReason;
use common::receipt::{Generated, Timings, request_digest};
use common::{Keypair, Uid, Volume};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use url::Url;

use super::*;
use crate::accounts::{Writer, accounts};
use crate::metrics::Metrics;
use crate::network::Contender;
use crate::routing::Candidate;
use crate::store::PeriodId;
use crate::store::tests::store;
use crate::tally::{Tallies, Tally};

/// What a scripted miner does with every request.
#[derive(Debug, Clone, Copy)]
enum Conduct {
    /// Says "hello there" and signs for it.
    Answers,
    /// Says "hello" and then reports an error.
    BreaksOff,
    Status(u16),
}

const KEY: &str = "sesame-0123456789";

async fn miner(name: &'static str, conduct: Conduct) -> Url {
    let answer = move |body: String| async move { act(name, conduct, &body) };
    let router = HttpRouter::new().route(Kind::Chat.path(), post(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

fn act(name: &str, conduct: Conduct, body: &str) -> Response {
    let chunk = |text: &str, finish: Option<&str>| {
        let choice = json!({"index": 0, "delta": {"content": text}, "finish_reason": finish});
        format!("data: {}\n\n", json!({"choices": [choice]}))
    };
    let stream = match conduct {
        Conduct::Status(status) => {
            let reason = json!({"error": {"message": "the prompt is too long", "type": "invalid_request_error",
                                          "param": null, "code": null}});
            return (StatusCode::from_u16(status).unwrap(), reason.to_string()).into_response();
        }
        Conduct::BreaksOff => {
            let trouble = json!({"error": {"message": "engine died", "type": "server_error", "param": null, "code": null}});
            [chunk("hello", None), format!("data: {trouble}\n\n")].concat()
        }
        Conduct::Answers => {
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
            [chunk("hello", None), chunk(" there", None), chunk("", Some("stop")), last].concat()
        }
    };
    ([("content-type", "text/event-stream")], Body::from(stream)).into_response()
}

struct World {
    api: Arc<Api>,
    tallies: Arc<Tallies>,
    _writer: Mutex<Writer>,
    _folder: tempfile::TempDir,
}

/// Miners in the order in which they are tried: one by one, each trips the one before.
async fn world(miners: &[(&'static str, Conduct)], config: ApiConfig) -> World {
    let catalogue = include_str!("../../../config/tasks.toml");
    let catalogue = Arc::new(Catalogue::parse(catalogue, "tasks.toml").unwrap());
    let (folder, store) = store().await;
    let (tallies, network) = (Arc::new(Tallies::default()), Arc::new(Network::default()));
    let metrics = Metrics::new(&mut Registry::default());
    let (accounts, writer) = accounts(Arc::clone(&tallies), metrics, store, Arc::default(), 10);
    let mut contenders = BTreeMap::new();
    let mut candidates = Vec::new();
    for (uid, (name, conduct)) in (1..).map(Uid).zip(miners) {
        let (hotkey, task) = (Keypair::development(name).hotkey(), "chat-demo".parse().unwrap());
        let id = ContenderId { hotkey, task };
        // A later miner is all but never drawn before an earlier one.
        let score = 1e-9_f64.powi(i32::from(uid.0));
        candidates.push(Candidate { task: id.task.clone(), uid, hotkey, score });
        let url = miner(name, *conduct).await;
        contenders.insert(id, Contender { uid, url, declared: Volume::from(100) });
    }
    network.set_contenders(contenders);
    tallies.turn(PeriodId(1), &network.declared());
    let router = Arc::new(routing::Router::default());
    router.replace(candidates);
    let asker = Asker::new(Keypair::development("Alice")).unwrap();
    let api = Api::new(config, catalogue, network, router, asker, Arc::new(accounts));
    World { api: Arc::new(api), tallies, _writer: Mutex::new(writer), _folder: folder }
}

fn open() -> ApiConfig {
    ApiConfig { open: true, keys: BTreeSet::new(), concurrency: 8 }
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
        let response = match Arc::clone(&self.api).answer(Kind::Chat, request).await {
            Ok(response) => response,
            Err(error) => error.into_response(),
        };
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn tally(&self, name: &str) -> Tally {
        let id = ContenderId {
            hotkey: Keypair::development(name).hotkey(),
            task: "chat-demo".parse().unwrap(),
        };
        self.tallies.snapshot()[&id]
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
    assert_eq!((tally.served, tally.failed, tally.consumed), (1, 0, 3.0));
}

#[tokio::test]
async fn a_stream_has_the_role_first_the_usage_near_the_end_and_done_last() {
    let world = world(&[("Bob", Conduct::Answers)], open()).await;
    let extra = json!({"stream": true, "stream_options": {"include_usage": true}});
    let (_, body) = world.ask(extra, None).await;
    let events: Vec<_> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let parsed: Vec<Value> =
        events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    assert_eq!(parsed[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(parsed.last().unwrap()["usage"]["completion_tokens"], 3);
    assert_eq!(events.last(), Some(&"[DONE]"));
    let text: String = parsed
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "hello there");
    assert!(!body.contains("receipt"), "{body}");
}

#[tokio::test]
async fn the_next_miner_answers_when_the_first_fails() {
    let world =
        world(&[("Bob", Conduct::Status(500)), ("Charlie", Conduct::Answers)], open()).await;
    for _ in 0..5 {
        assert_eq!(world.ask(json!({}), None).await.0, StatusCode::OK);
    }
    assert_eq!(world.tally("Charlie").served, 5);
    assert!(world.tally("Bob").failed > 0);
}

#[tokio::test]
async fn a_request_that_every_miner_calls_wrong_is_the_users_mistake() {
    let miners = [("Bob", Conduct::Status(400)), ("Charlie", Conduct::Status(400))];
    let world = world(&miners, open()).await;
    let (status, body) = world.ask(json!({}), None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("the prompt is too long"), "{body}");
    assert_eq!((world.tally("Bob").failed, world.tally("Charlie").failed), (0, 0));
}

#[tokio::test]
async fn a_miner_that_alone_calls_a_request_wrong_has_failed() {
    let world =
        world(&[("Bob", Conduct::Status(400)), ("Charlie", Conduct::Answers)], open()).await;
    for _ in 0..5 {
        assert_eq!(world.ask(json!({}), None).await.0, StatusCode::OK);
    }
    assert!(world.tally("Bob").failed > 0);
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_an_error_event_and_no_second_answer() {
    let miners = [("Bob", Conduct::BreaksOff), ("Charlie", Conduct::BreaksOff)];
    let world = world(&miners, open()).await;
    let (_, body) = world.ask(json!({"stream": true}), None).await;
    let last = body.lines().rfind(|line| line.starts_with("data: ")).unwrap();
    assert!(last.contains("\"error\""), "{body}");
    assert_eq!(body.matches("hello").count(), 1, "{body}");
    assert_eq!(world.tally("Bob").failed + world.tally("Charlie").failed, 1);
    assert_eq!(world.ask(json!({}), None).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn refusals_are_no_answer_but_no_failure_either() {
    let world = world(&[("Bob", Conduct::Status(429))], open()).await;
    assert_eq!(world.ask(json!({}), None).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let tally = world.tally("Bob");
    assert_eq!((tally.refused, tally.failed), (1, 0));
}

#[tokio::test]
async fn only_known_keys_may_call() {
    let keys = BTreeSet::from([ApiConfig::hash(KEY)]);
    let config = ApiConfig { open: false, keys, concurrency: 8 };
    let world = world(&[("Bob", Conduct::Answers)], config).await;
    for key in [None, Some("sesame-0123456788"), Some("")] {
        let (status, body) = world.ask(json!({}), key).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    }
    assert_eq!(world.ask(json!({}), Some(KEY)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn callers_beyond_the_limit_are_turned_away_at_once() {
    let world = world(&[("Bob", Conduct::Answers)], ApiConfig { concurrency: 1, ..open() }).await;
    let taken = Arc::clone(&world.api.slots).try_acquire_owned().unwrap();
    assert_eq!(world.ask(json!({}), None).await.0, StatusCode::TOO_MANY_REQUESTS);
    drop(taken);
    assert_eq!(world.ask(json!({}), None).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_users_mistakes_are_named_and_cost_no_miner_anything() {
    let world = world(&[("Bob", Conduct::Answers)], open()).await;
    for (extra, param) in [
        (json!({"temperature": 3}), "temperature"),
        (json!({"tools": []}), "tools"),
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
