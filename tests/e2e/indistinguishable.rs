//! What a miner sees of the validator's own requests and of users' requests: two samples that no test tells apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ::chain::Axon;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, OriginalUri, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use common::generation::{FinishReason, Format, Prompt, ToolObject, Tools};
use common::openai::{Kind, Limits, parse};
use common::receipt::{Generated, Timings, request_digest};
use common::{Keypair, TaskId};
use futures::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use statrs::stats_tests::NaNPolicy;
use statrs::stats_tests::chisquare::chisquare;
use statrs::stats_tests::ks_test::{KSTwoSampleAlternativeMethod, ks_twosample};
use tasks::synthetic::{self, Synthetic};
use tasks::{Catalogue, Task};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::chain::{Devnet, Subnet};
use crate::support::{bounded, eventually};

/// Requests of each kind that are compared, for each task.
const SAMPLE: usize = 800;
/// Users who ask at once.
const USERS: usize = 4;
/// How likely it may be that one of all comparisons fails although there is no difference.
const ALPHA: f64 = 1e-4;
/// Users' seeds are small; what is larger was drawn because there was none.
const LARGEST_SEED_OF_A_USER: u64 = 100_000;
/// Numbers of so few different values are compared value by value.
const FEW: usize = 30;
/// Values that occur so seldom are compared together.
const LEAST_EXPECTED: f64 = 8.0;

const CATALOGUE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/tasks.toml");

/// A request as it reached the miner.
#[derive(Debug, Clone)]
struct Seen {
    path: String,
    headers: Vec<(String, String)>,
    peer: SocketAddr,
    body: Vec<u8>,
}

/// A miner of our own: strangers may run what they like, so it is not one of the services.
#[derive(Debug)]
struct Miner {
    keypair: Keypair,
    seen: Mutex<Vec<Seen>>,
}

impl Miner {
    async fn serve(keypair: Keypair) -> (Arc<Self>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let miner = Arc::new(Self { keypair, seen: Mutex::default() });
        let router = Router::new()
            .route("/capacity", get(declare))
            .route(Kind::Chat.path(), post(answer))
            .route(Kind::Completion.path(), post(answer))
            .with_state(Arc::clone(&miner))
            .into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (miner, port)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn declare() -> String {
    let volume = json!({"volume": 20_000});
    json!({"tasks": {"chat-demo": volume, "complete-demo": volume}}).to_string()
}

async fn answer(
    State(miner): State<Arc<Miner>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let headers = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let seen = Seen { path: uri.to_string(), headers, peer, body: body.to_vec() };
    let Ok(task) = common::openai::model_of(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    miner.seen.lock().unwrap().push(seen);
    let generated = Generated {
        task,
        request_digest: request_digest(&body),
        prompt_tokens: 1,
        tokens: vec![7],
        logprobs: vec![-0.5],
        finish_reason: FinishReason::Stop,
        timings: Timings::default(),
    };
    let receipt = generated.sign(&miner.keypair);
    let choice = json!({"index": 0, "text": "ok", "finish_reason": "stop"});
    let text = json!({ "choices": [choice] });
    let last = json!({"choices": [], "receipt": receipt});
    let events = format!("data: {text}\n\ndata: {last}\n\ndata: [DONE]\n\n");
    ([(CONTENT_TYPE, "text/event-stream")], events).into_response()
}

/// Everything about a request that a user decides. Who gives no seed decides about none.
fn identity(task: &TaskId, request: &Synthetic) -> String {
    let mut generation = request.generation.clone();
    if generation.sampling.seed > LARGEST_SEED_OF_A_USER {
        generation.sampling.seed = u64::MAX;
    }
    format!("{task} {generation:?}")
}

/// A request as its author would write it: without what has the usual value anyway.
fn as_a_user_writes(task: &Task, request: &Synthetic) -> Value {
    let generation = &request.generation;
    let sampling = generation.sampling;
    let mut body = json!({"model": task.id});
    let fields = body.as_object_mut().unwrap();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    match &generation.prompt {
        Prompt::Chat(messages) => put("messages", json!(messages)),
        Prompt::Text(text) => put("prompt", json!(text)),
    };
    if sampling.temperature != 1.0 {
        put("temperature", json!(sampling.temperature));
    }
    if sampling.top_p != 1.0 {
        put("top_p", json!(sampling.top_p));
    }
    if sampling.seed <= LARGEST_SEED_OF_A_USER {
        put("seed", json!(sampling.seed));
    }
    if generation.max_tokens != task.limits.max_tokens {
        put("max_tokens", json!(generation.max_tokens));
    }
    if !generation.stop.is_empty() {
        put("stop", json!(generation.stop));
    }
    if generation.format != Format::Text {
        put("response_format", json!(generation.format));
    }
    if let Some(tools) = &generation.tools {
        put("tools", json!(tools.list.iter().map(ToolObject::from).collect::<Vec<_>>()));
        put("tool_choice", json!(tools.choice));
        put("parallel_tool_calls", json!(tools.parallel));
    }
    let adjustment = &generation.adjustment;
    if adjustment.presence_penalty != 0.0 {
        put("presence_penalty", json!(adjustment.presence_penalty));
    }
    if adjustment.frequency_penalty != 0.0 {
        put("frequency_penalty", json!(adjustment.frequency_penalty));
    }
    if !adjustment.bias.is_empty() {
        let bias: BTreeMap<u32, f64> = adjustment.bias.iter().copied().collect();
        put("logit_bias", json!(bias));
    }
    if generation.top_logprobs > 0 {
        match task.kind {
            Kind::Chat => {
                put("logprobs", json!(true));
                put("top_logprobs", json!(generation.top_logprobs));
            }
            Kind::Completion => {
                put("logprobs", json!(generation.top_logprobs));
            }
        }
    }
    if sampling.seed.is_multiple_of(2) {
        put("stream", json!(true));
    }
    body
}

/// Asks until `count` requests of a task are answered. Returns who they were.
async fn use_api(api: SocketAddr, task: &Task, count: usize, seed: u64) -> Vec<String> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sent = Vec::new();
    for _ in 0..count {
        let request = synthetic::request(task, &mut rng);
        let url = format!("http://{api}{}", task.kind.path());
        let body = as_a_user_writes(task, &request);
        let response = client.post(url).json(&body).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{status} {text} to {body}");
        sent.push(identity(&task.id, &request));
    }
    sent
}

/// One request in numbers and words.
#[derive(Debug)]
struct Features {
    numbers: BTreeMap<&'static str, f64>,
    words: BTreeMap<&'static str, String>,
}

/// Header fields whose values cannot be the same in two requests.
const CHANGING: [&str; 3] = ["x-bittensor-nonce", "x-bittensor-signature", "content-length"];

fn features(seen: &Seen, request: &Synthetic) -> Features {
    let generation = &request.generation;
    let (messages, characters, words) = match &generation.prompt {
        Prompt::Chat(messages) => (
            messages.len(),
            messages.iter().map(|message| message.content.chars().count()).sum(),
            messages.iter().map(|message| message.content.split_whitespace().count()).sum(),
        ),
        Prompt::Text(text) => (1, text.chars().count(), text.split_whitespace().count()),
    };
    let length: usize = seen
        .headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map(|(_, value)| value.parse().unwrap())
        .expect("a length is sent");
    let numbers = BTreeMap::from([
        ("temperature", generation.sampling.temperature),
        ("top_p", generation.sampling.top_p),
        ("max_tokens", f64::from(generation.max_tokens)),
        ("seed", generation.sampling.seed as f64),
        ("messages", messages as f64),
        ("characters", characters as f64),
        ("words", words as f64),
        ("stops", generation.stop.len() as f64),
        ("top_logprobs", f64::from(generation.top_logprobs)),
        ("schema", f64::from(u8::from(generation.format != Format::Text))),
        ("tools", generation.tools.as_ref().map_or(0.0, |tools| tools.list.len() as f64)),
        ("forced", f64::from(u8::from(generation.tools.as_ref().is_some_and(Tools::are_forced)))),
        ("biased", generation.adjustment.bias.len() as f64),
        ("presence_penalty", generation.adjustment.presence_penalty),
        ("frequency_penalty", generation.adjustment.frequency_penalty),
        ("body length", seen.body.len() as f64),
        ("content-length", length as f64),
    ]);
    let names: Vec<_> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    let fixed: Vec<_> =
        seen.headers.iter().filter(|(name, _)| !CHANGING.contains(&name.as_str())).collect();
    let text = std::str::from_utf8(&seen.body).unwrap();
    // Which fields the body has, in their order: the parsed map would sort them.
    let mut fields: Vec<_> = ["model", "messages", "prompt", "temperature", "top_p", "max_tokens"]
        .into_iter()
        .chain(["stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "stream"])
        .chain(["stream_options", "logprobs", "top_logprobs", "response_format", "tools"])
        .chain(["tool_choice", "parallel_tool_calls"])
        .filter_map(|field| Some((text.rfind(&format!("\"{field}\":"))?, field)))
        .collect();
    fields.sort_unstable();
    let count = serde_json::from_str::<Value>(text).unwrap().as_object().unwrap().len();
    let fields: Vec<_> = fields.into_iter().map(|(_, field)| field).collect();
    let words = BTreeMap::from([
        ("path", seen.path.clone()),
        ("names of headers", names.join(" ")),
        ("headers that stay", format!("{fixed:?}")),
        ("fields of the body", format!("{count} {}", fields.join(" "))),
        ("stop", format!("{:?}", generation.stop)),
    ]);
    Features { numbers, words }
}

/// How likely two samples of the same numbers differ as much as these: by Kolmogorov and Smirnov, or by Pearson if there
/// are few different ones.
fn same_numbers(a: &[f64], b: &[f64]) -> f64 {
    let different: BTreeSet<u64> = a.iter().chain(b).map(|number| number.to_bits()).collect();
    if different.len() <= FEW {
        let words = |sample: &[f64]| sample.iter().map(f64::to_string).collect::<Vec<_>>();
        return same_words(&words(a), &words(b));
    }
    let method = KSTwoSampleAlternativeMethod::TwoSidedAsymptotic;
    ks_twosample(a.to_vec(), b.to_vec(), method, NaNPolicy::Error).unwrap().1
}

/// How likely two samples of the same words differ as much as these, by Pearson.
fn same_words(a: &[String], b: &[String]) -> f64 {
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for (which, sample) in [a, b].into_iter().enumerate() {
        for word in sample {
            counts.entry(word).or_default()[which] += 1;
        }
    }
    let total = (a.len() + b.len()) as f64;
    let part = [a.len() as f64 / total, b.len() as f64 / total];
    let mut cells: Vec<[usize; 2]> = Vec::new();
    let mut seldom = [0; 2];
    for count in counts.into_values() {
        let expected = (count[0] + count[1]) as f64 * part[0].min(part[1]);
        if expected < LEAST_EXPECTED {
            seldom = [seldom[0] + count[0], seldom[1] + count[1]];
        } else {
            cells.push(count);
        }
    }
    cells.extend((seldom != [0; 2]).then_some(seldom));
    if cells.len() < 2 {
        return 1.0;
    }
    let observed: Vec<usize> = cells.iter().flatten().copied().collect();
    let expected: Vec<f64> = cells
        .iter()
        .flat_map(|count| part.map(|part| (count[0] + count[1]) as f64 * part))
        .collect();
    // A table of k rows and 2 columns has k - 1 degrees of freedom; as a list of 2 k cells it had 2 k - 1.
    chisquare(&observed, Some(&expected), Some(cells.len())).unwrap().1
}

/// Every comparison that says that two samples differ, with the probability of that if they do not.
fn differences(a: &[Features], b: &[Features], alpha: f64) -> Vec<String> {
    let numbers = a[0].numbers.keys().map(|name| {
        let of =
            |sample: &[Features]| sample.iter().map(|all| all.numbers[name]).collect::<Vec<_>>();
        (*name, same_numbers(&of(a), &of(b)))
    });
    let words = a[0].words.keys().map(|name| {
        let of = |sample: &[Features]| {
            sample.iter().map(|all| all.words[name].clone()).collect::<Vec<_>>()
        };
        (*name, same_words(&of(a), &of(b)))
    });
    let all: Vec<_> = numbers.chain(words).collect();
    let bar = alpha / all.len() as f64;
    all.into_iter()
        .filter(|(_, probability)| probability.is_nan() || *probability < bar)
        .map(|(name, probability)| format!("{name}: {probability:e}"))
        .collect()
}

/// Both kinds of requests for one task, told apart by what only the users know. Where both have sent the very same, it
/// does not matter which is called whose.
fn sorted(seen: &[Seen], task: &Task, sent: Vec<String>) -> [Vec<(Seen, Synthetic)>; 2] {
    let mut users: BTreeMap<String, usize> = BTreeMap::new();
    for identity in sent {
        *users.entry(identity).or_default() += 1;
    }
    let limits: Limits = task.limits();
    let mut kinds = [Vec::new(), Vec::new()];
    for seen in seen.iter().filter(|seen| seen.path == task.kind.path()) {
        let body = String::from_utf8(seen.body.clone()).unwrap();
        let generation = parse(task.kind, &seen.body, limits).unwrap().generation;
        let request = Synthetic { body, generation };
        let left = users.get_mut(&identity(&task.id, &request)).filter(|left| **left > 0);
        let kind = match left {
            Some(left) => {
                *left -= 1;
                0
            }
            None => 1,
        };
        kinds[kind].push((seen.clone(), request));
    }
    assert!(users.values().all(|left| *left == 0), "a user's request came changed: {users:?}");
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miner_cannot_tell_users_requests_from_the_validators_own() {
    bounded(async {
        let devnet = Devnet::boot().await;
        let subnet = Subnet::set_up(&devnet).await;
        let [keypair, _] = subnet.miners.clone();
        let (miner, port) = Miner::serve(keypair.clone()).await;
        let chain = devnet.client().await;
        chain.serve_axon(subnet.netuid, Axon::local(port), &keypair).await.unwrap();

        let folder = tempfile::tempdir().unwrap();
        let flags = [
            ("chain.netuid", subnet.netuid.to_string()),
            ("chain.endpoint", devnet.url()),
            ("tasks.catalogue", CATALOGUE.to_owned()),
            ("store.at", folder.path().join("validator.sqlite").display().to_string()),
            ("scoring.period_s", "4".to_owned()),
            ("probing.min_queries", "200".to_owned()),
            ("probing.max_queries", "200".to_owned()),
            ("miners.allow_local", "true".to_owned()),
            // Nobody listens there; answers wait.
            ("checking.url", "http://127.0.0.1:9".to_owned()),
            ("api.listen", "127.0.0.1:0".to_owned()),
            ("api.open", "true".to_owned()),
        ];
        let flags = flags.map(|(key, value)| (key.to_owned(), value)).to_vec();
        let (config, _) = validator::Config::load(None, Vec::new(), flags).unwrap();
        let app = validator::App::build_with(config, subnet.validator.clone()).await.unwrap();
        let api = app.local_addr();
        let stop = CancellationToken::new();
        let running = tokio::spawn(app.run_until(stop.clone().cancelled_owned()));
        eventually("the validator asks the miner", async || {
            (!miner.seen().is_empty()).then_some(())
        })
        .await;

        let catalogue = Catalogue::load(CATALOGUE.as_ref()).unwrap();
        let tasks: Vec<&Task> = catalogue.enabled().map(|(task, _)| task).collect();
        let users = tasks.iter().enumerate().map(|(task_number, task)| async move {
            let users = (0..USERS).map(|user| {
                use_api(api, task, SAMPLE / USERS, (task_number * USERS + user) as u64)
            });
            join_all(users).await.concat()
        });
        let sent = join_all(users).await;
        eventually("the validator has asked as often as its users", async || {
            let seen = miner.seen();
            let enough = |task: &&Task| {
                let all = seen.iter().filter(|seen| seen.path == task.kind.path()).count();
                all >= 2 * SAMPLE
            };
            tasks.iter().all(enough).then_some(())
        })
        .await;
        stop.cancel();
        running.await.unwrap().unwrap();
        devnet.stop().await;

        let seen = miner.seen();
        for (task, sent) in tasks.iter().zip(sent) {
            let [organic, synthetic] = sorted(&seen, task, sent);
            let of = |sample: &[(Seen, Synthetic)]| {
                sample.iter().map(|(seen, request)| features(seen, request)).collect::<Vec<_>>()
            };
            let alpha = ALPHA / tasks.len() as f64;
            let found = differences(&of(&organic), &of(&synthetic), alpha);
            assert!(found.is_empty(), "{}: {found:#?}", task.id);

            let peers = |sample: &[(Seen, Synthetic)]| -> BTreeSet<SocketAddr> {
                sample.iter().map(|(seen, _)| seen.peer).collect()
            };
            let shared = peers(&organic).intersection(&peers(&synthetic)).count();
            assert!(shared > 0, "{}: both come over the same connections", task.id);

            // Would it be noticed? A validator that always asks with the same temperature is.
            let careless: Vec<_> = synthetic
                .iter()
                .map(|(seen, request)| {
                    let mut request = request.clone();
                    request.generation.sampling.temperature = 0.5;
                    features(seen, &request)
                })
                .collect();
            let found = differences(&of(&organic), &careless, alpha);
            assert!(
                !found.is_empty() && found.iter().all(|what| what.starts_with("temperature")),
                "{}: {found:#?}",
                task.id
            );
        }
    })
    .await;
}
