//! Miners that lie, fail, hang and flood, side by side with honest ones.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ::chain::Axon;
use ::devnet::setup::Client;
use ::localnet::{Localnet, Options};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use common::generation::FinishReason;
use common::openai::model_of;
use common::receipt::{Generated, Receipt, Timings, request_digest};
use common::{Hotkey, Keypair};
use futures::future::{join_all, pending};
use futures::stream;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::{Evidence, Logs, bounded, look_at_chain, start, until_status, weights_after};

/// What a bad miner does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Conduct {
    DeclaresNotANumber,
    DeclaresAbsurdities,
    NeverDeclares,
    Fails,
    AnswersGarbage,
    NeverAnswers,
    Floods,
    Drips,
    InventsTokens,
    SignsWithAnotherKey,
    /// Its axon is on a private network, where nobody is.
    IsPrivate,
    /// Its axon is where clouds serve their secrets.
    IsLinkLocal,
    /// Its axon is the validator's own.
    IsTheValidator,
}

const CONDUCTS: [Conduct; 13] = [
    Conduct::DeclaresNotANumber,
    Conduct::DeclaresAbsurdities,
    Conduct::NeverDeclares,
    Conduct::Fails,
    Conduct::AnswersGarbage,
    Conduct::NeverAnswers,
    Conduct::Floods,
    Conduct::Drips,
    Conduct::InventsTokens,
    Conduct::SignsWithAnotherKey,
    Conduct::IsPrivate,
    Conduct::IsLinkLocal,
    Conduct::IsTheValidator,
];

impl Conduct {
    fn keypair(self) -> Keypair {
        Keypair::development(&format!("{self:?}"))
    }

    fn hotkey(self) -> Hotkey {
        self.keypair().hotkey()
    }

    /// Whether it declares capacity as it should, so that it is asked.
    fn is_asked(self) -> bool {
        self.fails() || self == Self::InventsTokens
    }

    /// Whether each of its answers is a failure by itself, without a checking server.
    fn fails(self) -> bool {
        matches!(
            self,
            Self::Fails
                | Self::AnswersGarbage
                | Self::NeverAnswers
                | Self::Floods
                | Self::Drips
                | Self::SignsWithAnotherKey
        )
    }

    async fn declare(self) -> Response {
        match self {
            Self::DeclaresNotANumber => {
                r#"{"tasks": {"chat-demo": {"volume": NaN}}}"#.into_response()
            }
            Self::DeclaresAbsurdities => {
                let tasks = json!({
                    "chat-demo": {"volume": 1e300},
                    "complete-demo": {"volume": -4000},
                    "chat-unheard-of": {"volume": 4000},
                });
                json!({ "tasks": tasks }).to_string().into_response()
            }
            Self::NeverDeclares => pending().await,
            _ => json!({"tasks": {"chat-demo": {"volume": 4000}}}).to_string().into_response(),
        }
    }

    async fn answer(self, request: &[u8]) -> Response {
        match self {
            Self::AnswersGarbage => {
                events(Body::from("data: {\"choices\": \"\u{0}\n\ndata: [DONE]\n\n"))
            }
            Self::NeverAnswers => pending().await,
            Self::Floods => events(without_end(Duration::ZERO, &"x".repeat(4096))),
            Self::Drips => events(without_end(Duration::from_millis(500), "x")),
            Self::InventsTokens => {
                let receipt = self.receipt(request, vec![4_000_000, u32::MAX]);
                events(whole_answer(&receipt))
            }
            Self::SignsWithAnotherKey => {
                let mut receipt = Self::Fails.receipt(request, vec![5, 6]);
                receipt.hotkey = self.hotkey();
                events(whole_answer(&receipt))
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }

    fn receipt(self, request: &[u8], tokens: Vec<u32>) -> Receipt {
        let generated = Generated {
            task: model_of(request).unwrap(),
            request_digest: request_digest(request),
            prompt_tokens: 9,
            logprobs: vec![-0.1; tokens.len()],
            tokens,
            finish_reason: FinishReason::Stop,
            timings: Timings::default(),
        };
        generated.sign(&self.keypair())
    }
}

fn events(body: Body) -> Response {
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn event(text: &str) -> String {
    let chunk =
        json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]});
    format!("data: {chunk}\n\n")
}

fn whole_answer(receipt: &Receipt) -> Body {
    let last = json!({"choices": [], "receipt": receipt});
    Body::from(format!("{}data: {last}\n\ndata: [DONE]\n\n", event("Once upon a time.")))
}

fn without_end(pause: Duration, text: &str) -> Body {
    let event = Bytes::from(event(text));
    Body::from_stream(stream::unfold(event, move |event| async move {
        tokio::time::sleep(pause).await;
        Some((Ok::<_, Infallible>(event.clone()), event))
    }))
}

/// Serves bad miners, registers them and announces where they are.
async fn let_in(localnet: &Localnet, servers: &mut JoinSet<()>) {
    let people = Client::connect(&format!("ws://{}", localnet.rpc)).await.unwrap();
    let (people, chain) = (&people, &look_at_chain(localnet.rpc).await);
    let coldkey = &Keypair::development("Alice");
    let mut axons = BTreeMap::new();
    for conduct in CONDUCTS {
        let axon = match conduct {
            Conduct::IsPrivate => Axon::at(SocketAddr::new(IpAddr::from([10, 255, 255, 1]), 8091)),
            Conduct::IsLinkLocal => {
                Axon::at(SocketAddr::new(IpAddr::from([169, 254, 169, 254]), 80))
            }
            Conduct::IsTheValidator => Axon::local(localnet.api.port()),
            _ => Axon::local(serve(conduct, servers).await),
        };
        axons.insert(conduct, axon);
    }
    join_all(axons.iter().map(|(conduct, axon)| async move {
        people.burned_register(coldkey, localnet.netuid, conduct.hotkey()).await.unwrap();
        chain.serve_axon(localnet.netuid, *axon, &conduct.keypair()).await.unwrap();
    }))
    .await;
}

/// Returns the port.
async fn serve(conduct: Conduct, servers: &mut JoinSet<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = async |State(conduct): State<Conduct>, body: Bytes| conduct.answer(&body).await;
    let router = Router::new()
        .route("/capacity", get(async |State(conduct): State<Conduct>| conduct.declare().await))
        .route("/v1/chat/completions", post(answer))
        .with_state(conduct);
    servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
    port
}

/// The worst that was seen of each miner, over all periods and tasks.
#[derive(Debug, Default)]
struct Seen {
    failed: BTreeMap<Hotkey, u32>,
    quality: BTreeMap<Hotkey, f64>,
}

#[tokio::test]
async fn bad_miners_earn_nothing_and_cost_the_honest_ones_nothing() {
    bounded(async {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            miners: 2,
            period: Duration::from_secs(5),
            ..Options::in_folder(folder.path().join("subnet"))
        };
        let logs = Logs::collect();
        let localnet = start(&options).await;
        let mut servers = JoinSet::new();
        let_in(&localnet, &mut servers).await;

        let bad: BTreeMap<Hotkey, Conduct> =
            CONDUCTS.into_iter().map(|conduct| (conduct.hotkey(), conduct)).collect();
        let mut seen = Seen::default();
        until_status(&localnet.validator, "every bad miner was found out", |status| {
            for row in &status.rows {
                let failed = row.running.failed.max(row.finished.map_or(0, |counts| counts.failed));
                let worst = seen.failed.entry(row.hotkey).or_default();
                *worst = failed.max(*worst);
                if let Some(quality) = row.quality {
                    let worst = seen.quality.entry(row.hotkey).or_insert(1.0);
                    *worst = quality.min(*worst);
                }
            }
            let failed = |conduct: &Conduct| {
                seen.failed.get(&conduct.hotkey()).is_some_and(|count| *count > 0)
            };
            let all_failed = CONDUCTS.iter().filter(|conduct| conduct.fails()).all(failed);
            let judged = seen.quality.contains_key(&Conduct::InventsTokens.hotkey());
            let honest = seen.quality.keys().filter(|hotkey| !bad.contains_key(*hotkey)).count();
            (all_failed && judged && honest == options.miners).then_some(())
        })
        .await;
        let stored = Evidence::open(&options.data).await;
        stored.further_periods(1).await;
        stored.close().await;
        let now =
            localnet.validator.status().await.unwrap().weights_block.map_or(0, |block| block.0);
        weights_after(&localnet.validator, now).await;

        let status = localnet.validator.status().await.unwrap();
        let table = status.table(validator::status::Shown::Finished);
        let asked = CONDUCTS.iter().filter(|conduct| conduct.is_asked()).count();
        assert_eq!(status.rows.len(), 2 * options.miners + asked, "{table}");
        for row in &status.rows {
            let failed = seen.failed.get(&row.hotkey).copied().unwrap_or(0);
            match bad.get(&row.hotkey) {
                Some(conduct) => {
                    assert!(conduct.is_asked(), "{conduct:?}\n{table}");
                    assert_eq!(failed > 0, conduct.fails(), "{conduct:?}\n{table}");
                    assert_eq!(row.weight, Some(0.0), "{conduct:?}\n{table}");
                    assert_eq!(row.quality.unwrap_or(0.0), 0.0, "{conduct:?}\n{table}");
                }
                None => {
                    assert_eq!(failed, 0, "{table}");
                    assert!(seen.quality[&row.hotkey] >= 0.9 && row.weight > Some(0.0), "{table}");
                }
            }
        }

        let warnings = logs.warnings_of_the_validator();
        let mut once = warnings.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), warnings.len(), "something was said twice");
        for conduct in CONDUCTS.iter().filter(|conduct| **conduct != Conduct::InventsTokens) {
            let hotkey = conduct.hotkey().to_string();
            assert!(warnings.iter().any(|line| line.contains(&hotkey)), "{conduct:?} went unsaid");
        }
        localnet.stop().await;
    })
    .await;
}
