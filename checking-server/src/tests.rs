//! The real server with a scripted engine behind it, and with the demo model.

mod parameters;
mod second_looks;
mod without_seeds;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::bundle::{Bundle, Telling, VERSION};
use common::checks::{Check, CheckBatch, CheckResult, CheckResults, Finding, Outcome};
use common::generation::{FinishReason, Generation, Prompt, Role};
use common::receipt::{Generated, Timings, request_digest};
use common::{Keypair, TaskId};
use engine::{
    Engine, EngineError, Generating, ModelInfo, NumberFormat, Reference, ReferencePass,
    SharedEngine, TokenScore,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tasks::Catalogue;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::verify::{Verified, verify};
use crate::{Access, AccessToken, App, Config, Settings, StoppedEarly};

const TOKEN: &str = "a-token-for-tests";
const END: u32 = 2;

/// Agrees with every answer, except those that begin with a token of the script.
struct Scripted {
    info: ModelInfo,
    /// One permit is used up by each pass.
    gate: Semaphore,
    passes: AtomicUsize,
}

const DIES: u32 = 90;
const PANICS: u32 = 91;
const HANGS: u32 = 92;
const DOES_NOT_FIT: u32 = 93;
const DISAGREES: u32 = 94;
const DIES_WITHOUT_SYSTEM: u32 = 95;

impl Scripted {
    fn new(open_for: usize) -> Arc<Self> {
        let info = ModelInfo {
            name: "scripted".to_owned(),
            vocabulary: 100,
            context: 1000,
            end_tokens: vec![END],
        };
        Arc::new(Self { info, gate: Semaphore::new(open_for), passes: AtomicUsize::new(0) })
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Engine for Scripted {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn parallel(&self) -> usize {
        1
    }

    fn generate(&self, _: Generation) -> BoxFuture<'_, Result<Generating, EngineError>> {
        async { Err(EngineError::Unsupported("this engine only checks".to_owned())) }.boxed()
    }

    fn reference(&self, pass: ReferencePass) -> BoxFuture<'_, Result<Reference, EngineError>> {
        async move {
            self.gate.acquire().await.unwrap().forget();
            self.passes.fetch_add(1, Ordering::SeqCst);
            match pass.tokens[0] {
                DIES_WITHOUT_SYSTEM if !has_system(&pass.generation) => {
                    return Err(EngineError::Failed("it died".to_owned()));
                }
                DIES => return Err(EngineError::Failed("it died".to_owned())),
                PANICS => panic!("on purpose"),
                HANGS => std::future::pending().await,
                DOES_NOT_FIT => {
                    return Err(EngineError::TooLong {
                        tokens: 990,
                        max_tokens: 20,
                        context: 1000,
                    });
                }
                _ => {}
            }
            let wrong = pass.tokens[0] == DISAGREES;
            let score = |&token| TokenScore {
                logprob: -1.0,
                log_sum_exp: 9.0,
                rank: 0,
                entropy: 1.0,
                variance: 0.8,
                collision: 0.3,
                drawn: if wrong { 99 } else { token },
                deficit: if wrong { 3.0 } else { 0.0 },
                rivals: Vec::new(),
                elsewhere: [token; 4],
                tempered: -1.0,
                otherwise: None,
                tempered_entropy: 1.0,
                tempered_variance: 0.8,
                end: 0.01,
                top: Vec::new(),
            };
            let tokens = pass.tokens.iter().map(score).collect();
            let text = "Hello.".to_owned();
            Ok(Reference { prompt_tokens: 5, tokens, text, outside_grammar: None })
        }
        .boxed()
    }
}

fn has_system(asked: &Generation) -> bool {
    let Prompt::Chat(messages) = &asked.prompt else { return false };
    messages.iter().any(|message| message.role == Role::System)
}

/// A running server.
struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<(), StoppedEarly>>,
    client: Client,
}

impl Server {
    async fn start(engine: SharedEngine) -> Self {
        Self::start_with(engine, Duration::from_secs(60)).await
    }

    async fn start_with(engine: SharedEngine, deadline: Duration) -> Self {
        Self::start_of(engine, deadline, include_str!("../../config/tasks.toml")).await
    }

    async fn start_of(engine: SharedEngine, deadline: Duration, catalogue: &str) -> Self {
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            access: Access::Token(AccessToken::new(TOKEN).unwrap()),
            places: 64,
            deadline,
            max_body_bytes: 1 << 20,
            ..Settings::read(None, Vec::new()).unwrap().config.unwrap()
        };
        let catalogue = Catalogue::parse(catalogue, "config/tasks.toml").unwrap();
        let engines =
            ["chat-demo", "complete-demo"].map(|id| (id.parse().unwrap(), Arc::clone(&engine)));
        let app = App::build_with(config, &catalogue, &BTreeMap::from(engines)).await.unwrap();
        let stop = CancellationToken::new();
        Self {
            address: app.local_addr(),
            running: tokio::spawn(app.run_until(stop.clone().cancelled_owned())),
            stop,
            client: Client::builder().no_proxy().build().unwrap(),
        }
    }

    fn post(&self, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.client.post(format!("http://{}/v1/checks", self.address)).bearer_auth(TOKEN).body(body)
    }

    async fn check(&self, checks: Vec<Check>) -> Vec<CheckResult> {
        let batch = serde_json::to_vec(&CheckBatch { checks }).unwrap();
        let response = self.post(batch).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.json::<CheckResults>().await.unwrap().results
    }

    async fn text(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.address);
        self.client.get(url).send().await.unwrap().text().await.unwrap()
    }

    async fn queued_is(&self, wanted: u64) {
        let waiting = async {
            loop {
                let health: Value = serde_json::from_str(&self.text("/health").await).unwrap();
                if health["models"][0]["queued"] == wanted {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the queue's length");
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

/// An honest answer, or one whose first token makes the engine follow its script.
fn check(id: &str, first: u32) -> Check {
    answered(id, first, &json!([{"role": "user", "content": "hi"}]))
}

/// The same to these messages.
fn answered(id: &str, first: u32, messages: &Value) -> Check {
    let alice = Keypair::development("Alice");
    let request = json!({
        "model": "chat-demo",
        "messages": messages,
        "seed": 7,
        "max_tokens": 50,
    })
    .to_string();
    let mut tokens = vec![20; 30];
    tokens[0] = first;
    tokens[29] = END;
    let generated = Generated {
        task: "chat-demo".parse::<TaskId>().unwrap(),
        request_digest: request_digest(request.as_bytes()),
        prompt_tokens: 5,
        logprobs: vec![-1.0; tokens.len()],
        tokens,
        finish_reason: FinishReason::Stop,
        timings: Timings::default(),
    };
    Check {
        id: id.to_owned(),
        task: "chat-demo".parse().unwrap(),
        miner: alice.hotkey(),
        request,
        text: "Hello.".to_owned(),
        receipt: generated.sign(&alice),
    }
}

/// The catalogue of tasks, with the models' folders where tests run.
fn catalogue() -> String {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo-model");
    include_str!("../../config/tasks.toml").replace("../demo-model", models)
}

/// What a miner is accused by.
fn bundle(telling: Vec<Telling>) -> Bundle {
    let first = &telling[0].check;
    Bundle {
        version: VERSION,
        miner: first.miner,
        task: first.task.clone(),
        at_ms: 0,
        answers: telling.len() as u64,
        log_e: 20.0,
        hypothesis: "whatever".to_owned(),
        telling,
    }
}

/// What comes of computing it again.
async fn verified(bundle: &Bundle, catalogue: &str) -> Verified {
    let catalogue = Catalogue::parse(catalogue, "config/tasks.toml").unwrap();
    verify(bundle, &catalogue, NumberFormat::F32).await.unwrap()
}

/// The quality, or whether to retry.
fn short(result: &CheckResult) -> Result<f64, bool> {
    match &result.outcome {
        Outcome::Verdict(verdict) => Ok(verdict.quality),
        Outcome::Unchecked { retry, .. } => Err(*retry),
    }
}

#[tokio::test]
async fn only_who_has_the_token_gets_verdicts() {
    let server = Server::start(Scripted::new(100)).await;
    let url = |path| format!("http://{}{path}", server.address);
    let requests = [
        server.client.get(url("/v1/models")),
        server.client.post(url("/v1/checks")).body("{}"),
        server.client.post(url("/v1/checks")).body("{}").bearer_auth("a-token-for-testz"),
    ];
    for request in requests {
        assert_eq!(request.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    let models = server.client.get(url("/v1/models")).bearer_auth(TOKEN).send().await.unwrap();
    let models: Value = models.json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "chat-demo");
    assert_eq!(short(&server.check(vec![check("1", 20)]).await[0]), Ok(1.0));
    server.stop().await;
}

#[tokio::test]
async fn a_bad_check_costs_itself_only_and_the_order_stays() {
    let server = Server::start(Scripted::new(100)).await;
    let mut foreign = check("foreign", 20);
    foreign.miner = Keypair::development("Bob").hotkey();
    let mut unknown = check("unknown", 20);
    unknown.task = "chat-nowhere".parse().unwrap();
    let mut seedless = check("seedless", 20);
    seedless.request = seedless.request.replace("\"seed\":7,", "");
    let mut infinite = serde_json::to_value(check("infinite", 20)).unwrap();
    infinite["receipt"]["generated"]["logprobs"][3] = Value::Null;
    let mut batch = vec![
        serde_json::to_value(check("honest", 20)).unwrap(),
        json!({"id": "garbage"}),
        infinite,
    ];
    for check in [foreign, unknown, seedless, check("other", DISAGREES), check("last", 20)] {
        batch.push(serde_json::to_value(check).unwrap());
    }

    let response = server.post(json!({"checks": batch}).to_string()).send().await.unwrap();
    let results = response.json::<CheckResults>().await.unwrap().results;
    let seen: Vec<_> = results.iter().map(|result| (result.id.as_str(), short(result))).collect();
    assert_eq!(
        seen,
        [
            ("honest", Ok(1.0)),
            ("garbage", Err(false)),
            ("infinite", Ok(0.0)),
            ("foreign", Ok(0.0)),
            ("unknown", Err(false)),
            ("seedless", Err(false)),
            ("other", Ok(0.0)),
            ("last", Ok(1.0)),
        ]
    );
    let Outcome::Verdict(foreign) = &results[3].outcome else { panic!("{results:?}") };
    assert_eq!(foreign.evidence.findings, [Finding::BadSignature]);
    let metrics = server.text("/metrics").await;
    assert!(
        metrics.contains(r#"checking_checks_total{task="chat-demo",outcome="full"} 2"#),
        "{metrics}"
    );
    assert!(metrics.contains(r#"checking_queue_length{model="scripted"} 0"#), "{metrics}");
    server.stop().await;
}

#[tokio::test]
async fn an_engine_that_fails_is_never_held_against_the_miner_and_the_queue_goes_on() {
    let server = Server::start_with(Scripted::new(100), Duration::from_millis(200)).await;
    let checks = [20, DIES, 20, PANICS, HANGS, DOES_NOT_FIT, 20]
        .map(|first| check(&first.to_string(), first))
        .to_vec();
    let results = server.check(checks).await;
    let seen: Vec<_> = results.iter().map(short).collect();
    assert_eq!(
        seen,
        [Ok(1.0), Err(true), Ok(1.0), Err(true), Err(true), Err(false), Ok(1.0)],
        "{results:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_batch_that_does_not_fit_is_refused_whole_with_a_time_to_come_back() {
    let engine = Scripted::new(0);
    let server = Server::start(engine.clone()).await;
    let full = server.check((0..64).map(|id| check(&id.to_string(), 20)).collect());
    let then = async {
        server.queued_is(64).await;
        let batch = serde_json::to_vec(&CheckBatch { checks: vec![check("late", 20)] }).unwrap();
        let response = server.post(batch).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait));
        engine.gate.add_permits(1000);
    };
    let (results, ()) = tokio::join!(full, then);
    assert_eq!(results.iter().map(short).collect::<Vec<_>>(), [Ok(1.0); 64]);
    server.stop().await;
}

#[tokio::test]
async fn checks_of_a_client_that_went_away_are_not_done() {
    let engine = Scripted::new(0);
    let server = Server::start_with(engine.clone(), Duration::from_millis(200)).await;
    let batch = CheckBatch { checks: (0..64).map(|id| check(&id.to_string(), 20)).collect() };
    let gone = tokio::spawn(server.post(serde_json::to_vec(&batch).unwrap()).send());
    server.queued_is(64).await;
    gone.abort();
    let _ = gone.await;
    // The one in hand is given up at its deadline, the others are dropped.
    server.queued_is(0).await;
    engine.gate.add_permits(1000);
    assert_eq!(short(&server.check(vec![check("next", 20)]).await[0]), Ok(1.0));
    assert!(engine.passes.load(Ordering::SeqCst) < 10);
    server.stop().await;
}

#[tokio::test]
async fn requests_that_are_no_batches_are_refused() {
    let server = Server::start(Scripted::new(0)).await;
    let many = json!({"checks": vec![json!({}); 65]}).to_string();
    let cases = [
        ("{".to_owned(), StatusCode::BAD_REQUEST),
        (r#"{"checks": 1}"#.to_owned(), StatusCode::BAD_REQUEST),
        (many, StatusCode::BAD_REQUEST),
        ("x".repeat((1 << 20) + 1), StatusCode::PAYLOAD_TOO_LARGE),
    ];
    for (body, status) in cases {
        let head: String = body.chars().take(20).collect();
        assert_eq!(server.post(body).send().await.unwrap().status(), status, "{head}");
    }
    assert_eq!(server.check(Vec::new()).await, []);
    server.stop().await;
}

#[tokio::test]
async fn a_stop_finishes_the_check_in_hand_and_gives_the_others_back() {
    let engine = Scripted::new(0);
    let server = Server::start(engine.clone()).await;
    let batch = server.check((0..3).map(|id| check(&id.to_string(), 20)).collect());
    let stop = async {
        server.queued_is(3).await;
        server.stop.cancel();
        engine.gate.add_permits(1000);
    };
    let (results, ()) = tokio::join!(batch, stop);
    let seen: Vec<_> = results.iter().map(short).collect();
    assert!(seen[1..].iter().all(|seen| *seen == Err(true)), "{seen:?}");
    server.running.await.unwrap().unwrap();
}

#[test]
fn models_that_cannot_be_loaded_are_all_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let text = include_str!("../../config/tasks.toml").replace("../demo-model", "no-such-folder");
    std::fs::write(folder.path().join("tasks.toml"), text).unwrap();
    let catalogue = Catalogue::load(&folder.path().join("tasks.toml")).unwrap();
    let only = ["chat-demo", "complete-demo", "chat-nowhere"].map(|id| id.parse().unwrap());
    let error = crate::wanted(&only, &catalogue).unwrap_err().to_string();
    for part in
        ["`chat-demo`: there is no model folder", "`complete-demo`", "tasks.only: `chat-nowhere`"]
    {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_task_with_a_foreign_tokenizer_is_refused() {
    let text = include_str!("../../config/tasks.toml");
    let text = text.replacen("context = 1024", "context = 1024\ntokenizer = \"some/other\"", 1);
    let catalogue = Catalogue::parse(&text, "tasks.toml").unwrap();
    let error = crate::wanted(&["chat-demo".parse().unwrap()], &catalogue).unwrap_err().to_string();
    assert!(error.contains("`chat-demo`: its tokenizer is some/other"), "{error}");
}
