//! The whole miner over HTTP, with a model that says what it is told to.

mod requests;
mod scripted;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chain::{Chain, ChainConfig, Network};
use common::btauth::{self, Nonces};
use common::openai::Chunk;
use common::{Hotkey, Keypair};
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::access::Access;
use crate::access::tests::metagraph;
use crate::{App, Config, Parts};
use scripted::Scripted;

/// A running miner, and one validator of its subnet.
struct World {
    url: String,
    miner: Hotkey,
    validator: Keypair,
    nonces: Nonces,
    client: reqwest::Client,
    stop: oneshot::Sender<()>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl World {
    /// Both demo tasks are served by `engine`. The chain cannot be reached; the metagraph knows the validator with 300
    /// TAO, another with 100, and Ferdie without a permit.
    async fn start(engine: Scripted, change: impl FnOnce(&mut Config)) -> Self {
        let (mut config, _) = Config::load(Config::sources()).unwrap();
        config.axon.listen = "127.0.0.1:0".parse().unwrap();
        config.axon.register = false;
        config.access.min_stake = 100.0;
        change(&mut config);
        let engine = engine.shared();
        let engines = config.tasks.iter().map(|task| (task.id.clone(), engine.clone())).collect();
        // Nobody listens on the discard port.
        let nowhere = Network::Endpoint("ws://127.0.0.1:9".parse().unwrap());
        let parts = Parts {
            engines,
            keypair: Some(Keypair::development("Bob")),
            chain: Some(Chain::new(ChainConfig::new(nowhere)).unwrap()),
        };
        let rules = config.access.clone();
        let app = App::build_with(config, parts).await.unwrap();
        let neurons = [
            (Keypair::development("Alice").hotkey(), 300.0, true),
            (Keypair::development("Charlie").hotkey(), 100.0, true),
            (Keypair::development("Ferdie").hotkey(), 500.0, false),
        ];
        app.access().store(Access::from_metagraph(&metagraph(&neurons), &rules));
        let (url, miner) = (format!("http://{}", app.local_addr()), app.hotkey());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(app.run_until(async { stopped.await.unwrap_or(()) }));
        Self {
            url,
            miner,
            validator: Keypair::development("Alice"),
            nonces: Nonces::default(),
            client: reqwest::Client::new(),
            stop,
            running,
        }
    }

    fn signed(
        &self,
        keypair: &Keypair,
        method: &Method,
        path: &str,
        body: &str,
    ) -> btauth::Headers {
        let request =
            btauth::Request { method: method.as_str(), target: path, body: body.as_bytes() };
        btauth::sign(&request, keypair, Some(&self.miner), self.nonces.next(now_ns()))
    }

    /// Sends a request with the headers of `signed`.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &str,
        signed: btauth::Headers,
    ) -> Response {
        let mut request =
            self.client.request(method, format!("{}{path}", self.url)).body(body.to_owned());
        for (name, value) in signed {
            request = request.header(name, value);
        }
        request.send().await.unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        let body = body.to_string();
        let signed = self.signed(&self.validator, &Method::POST, path, &body);
        self.send(Method::POST, path, &body, signed).await
    }

    async fn get_as(&self, keypair: &Keypair, path: &str) -> Response {
        let signed = self.signed(keypair, &Method::GET, path, "");
        self.send(Method::GET, path, "", signed).await
    }

    async fn metrics(&self) -> String {
        reqwest::get(format!("{}/metrics", self.url)).await.unwrap().text().await.unwrap()
    }

    /// Waits until the metrics hold `line`.
    async fn eventually(&self, line: &str) {
        for _ in 0..1000 {
            if self.metrics().await.lines().any(|other| other == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no line {line} in\n{}", self.metrics().await);
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// The `data:` lines of a stream.
fn events(body: &str) -> Vec<&str> {
    body.split("\n\n")
        .filter(|event| !event.is_empty())
        .map(|event| event.strip_prefix("data: ").expect("an event with data only"))
        .collect()
}

fn chunk(event: &str) -> Chunk {
    serde_json::from_str(event).unwrap()
}

async fn error_of(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.json::<Value>().await.unwrap()["error"].take())
}
