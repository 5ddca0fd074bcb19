//! Processes that serve the organic API alone, beside a validator: they answer, what they saw of the miners counts where it is
//! scored, and a budget is one budget.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ::localnet::{Localnet, Options};
use common::money::Usd;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use validator::keys::{Spec, edit};
use validator::store::{Location, Store};
use validator::{ApiApp, Config, Roles};

use crate::support::{Evidence, bounded, eventually, start};

const REQUESTS: usize = 3;

struct Process {
    address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Process {
    async fn start(data: &Path, netuid: u16, name: &str) -> Self {
        let file = |path: &str| data.join(path).display().to_string();
        let flags = [
            ("run.roles", "api".to_owned()),
            ("chain.netuid", netuid.to_string()),
            // Nobody is there: it needs no chain.
            ("chain.endpoint", "ws://127.0.0.1:9".to_owned()),
            ("wallet.name", "localnet".to_owned()),
            ("wallet.hotkey", "validator".to_owned()),
            ("wallet.path", file("wallets")),
            ("tasks.catalogue", file("config/tasks.toml")),
            ("store.at", file("validator.sqlite")),
            ("api.listen", "127.0.0.1:0".to_owned()),
            ("api.journal", file(name)),
        ];
        let flags = flags.map(|(key, value)| (key.to_owned(), value)).to_vec();
        let config = Config::load(None, Vec::new(), flags).unwrap().0;
        assert_eq!(config.roles, Roles { validator: false, api: true });
        let app = ApiApp::build(config).await.unwrap();
        let (address, stop) = (app.local_addr(), CancellationToken::new());
        let running = tokio::spawn(app.run_until(stop.clone().cancelled_owned()));
        Self { address, stop, running }
    }

    /// Answers so many requests, and returns their ids.
    async fn answers(&self, client: &reqwest::Client, key: &str) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        for number in 0..REQUESTS {
            let body = json!({
                "model": "chat-demo", "max_tokens": 5, "stream": number == 0,
                "messages": [{"role": "user", "content": "Tell me a short story about a fox."}],
            });
            let url = format!("http://{}/v1/chat/completions", self.address);
            let answer = eventually("a miner has time for a user", async || {
                let asked = client.post(&url).bearer_auth(key).json(&body).send().await.unwrap();
                match asked.status().as_u16() {
                    200 => Some(asked.text().await.unwrap()),
                    429 | 503 => None,
                    status => panic!("{status} {}", asked.text().await.unwrap()),
                }
            })
            .await;
            let event = answer.lines().next().unwrap();
            let event = event.strip_prefix("data: ").unwrap_or(&answer);
            let event: Value = serde_json::from_str(event).unwrap();
            let id = event["id"].as_str().unwrap();
            let receipt = format!("http://{}/v1/receipts/{id}", self.address);
            let receipt = client.get(receipt).bearer_auth(key).send().await.unwrap();
            assert_eq!(receipt.status(), 200);
            ids.insert(id.to_owned());
        }
        ids
    }

    async fn ends(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_serve_the_api_alone_share_the_validators_miners_evidence_and_budgets() {
    bounded(async {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("subnet");
        let period = Duration::from_secs(6);
        let options = Options { miners: 2, period, ..Options::in_folder(data.clone()) };
        let localnet: Localnet = start(&options).await;
        let netuid = localnet.netuid.0;
        let first = Process::start(&data, netuid, "ledger-1").await;
        let second = Process::start(&data, netuid, "ledger-2").await;
        let at = Location::Sqlite(data.join("validator.sqlite"));
        let store = Store::open(&at).await.unwrap();
        let budget: Usd = "0.01".parse().unwrap();
        let spec = Spec { name: "shop".into(), budget: Some(budget), ..Spec::default() };
        let made = edit::create(&store, spec).await.unwrap();
        let client =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(40)).build().unwrap();
        for process in [&first, &second] {
            eventually("the key and the miners are known", async || {
                let url = format!("http://{}/v1/usage", process.address);
                let known = client.get(url).bearer_auth(&made.secret).send().await.unwrap();
                let url = format!("http://{}/health", process.address);
                let health: Value = client.get(url).send().await.unwrap().json().await.unwrap();
                (known.status() == 200 && health["contenders"] == 4).then_some(())
            })
            .await;
        }

        let mut ids = first.answers(&client, &made.secret).await;
        ids.extend(second.answers(&client, &made.secret).await);
        assert_eq!(ids.len(), 2 * REQUESTS);
        let evidence = Evidence::open(&data).await;
        eventually("the validator counts what the others saw", async || {
            let served = evidence.organic_served().await;
            assert!(served <= ids.len() as i64, "{served} of {}", ids.len());
            (served == ids.len() as i64).then_some(())
        })
        .await;
        first.ends().await;
        second.ends().await;

        let usage = store.usage(Some(&made.key.id), 0, i64::MAX).await.unwrap();
        let requests: u64 = usage.iter().map(|usage| usage.requests).sum();
        assert_eq!(requests, ids.len() as u64);
        let spent = usage.iter().map(|usage| usage.cost_usd).fold(Usd::ZERO, Usd::plus);
        assert!(spent > Usd::ZERO && spent <= budget, "{spent}");
        assert_eq!(evidence.leases().await, 0, "nothing is leased by who has ended");
        assert_eq!(store.api_nodes().await.unwrap(), 1, "the validator's own process is left");
        evidence.close().await;
        store.close().await;
        localnet.stop().await;
    })
    .await;
}
