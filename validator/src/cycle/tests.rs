//! Periods one after the other, against a miner that refuses everything and a store that others lock.

use std::path::PathBuf;

use axum::Router;
use axum::http::StatusCode;
use chain::{Chain, ChainConfig};
use common::{Keypair, Netuid, Uid, Volume};
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use url::Url;

use super::*;
use crate::metrics::Metrics;
use crate::observe::Subnet;
use crate::store::tests::store;
use crate::writer::writer;

const PERIOD: Duration = Duration::from_millis(300);

async fn refusing_miner() -> Url {
    let router = Router::new().fallback(async || StatusCode::TOO_MANY_REQUESTS);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

/// A cycle that runs.
struct Bench {
    tallies: Arc<Tallies>,
    ends: watch::Receiver<Option<Instant>>,
    ended: watch::Receiver<Ended>,
    file: PathBuf,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn run() -> Self {
        let (folder, store) = store().await;
        let (tallies, network) = (Arc::new(Tallies::default()), Arc::new(Network::default()));
        let catalogue = include_str!("../../../config/tasks.toml");
        let catalogue = Arc::new(Catalogue::parse(catalogue, "tasks.toml").unwrap());
        let keypair = Keypair::development("Alice");
        let asker = Asker::new(keypair.clone());
        let observer = Arc::new(Observer::new(Subnet {
            // Nobody listens there.
            chain: Chain::new(ChainConfig::new("ws://127.0.0.1:9".parse().unwrap())).unwrap(),
            netuid: Netuid(1),
            period: PERIOD,
            own: keypair.hotkey(),
            own_address: None,
            allow_local: true,
            asker: asker.clone(),
            catalogue: Arc::clone(&catalogue),
            network: Arc::clone(&network),
            router: Arc::default(),
        }));
        let hotkey = Keypair::development("Bob").hotkey();
        let id = ContenderId { hotkey, task: "chat-demo".parse().unwrap() };
        let declared = Volume::from(10_000);
        observer.learn(&id, Contender { uid: Uid(1), url: refusing_miner().await, declared });
        let metrics = Metrics::new(&mut Registry::default());
        let (to_check, _writer) =
            writer(Arc::clone(&tallies), Arc::clone(&metrics), store.clone(), Arc::default(), 1);
        let accounts = Accounts::new(Arc::clone(&tallies), metrics, Arc::default(), to_check);
        let (ends, ends_seen) = watch::channel(None);
        let (ended, ended_seen) = watch::channel(Ended::default());
        let cycle = Cycle {
            period: PERIOD,
            probing: Probing::default(),
            catalogue,
            network,
            observer,
            asker,
            accounts: Arc::new(accounts),
            tallies: Arc::clone(&tallies),
            store,
            turned: Arc::default(),
            ends,
            ended,
            rng: ChaCha12Rng::seed_from_u64(1),
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(cycle.run(stop.clone()));
        let file = folder.path().join("evidence.sqlite");
        let (ends, ended) = (ends_seen, ended_seen);
        Self { tallies, ends, ended, file, stop, running, _folder: folder }
    }

    fn asked(&self) -> u32 {
        self.tallies.snapshot().values().map(Tally::asked).sum()
    }

    async fn next_end(&mut self) -> Instant {
        self.ends.changed().await.unwrap();
        self.ends.borrow_and_update().unwrap()
    }

    /// Takes the store for itself.
    async fn lock(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(&self.file);
        let mut other = options.connect().await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        other
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

#[tokio::test]
async fn periods_follow_each_other_without_a_gap() {
    let mut bench = Bench::run().await;
    let mut last = bench.next_end().await;
    for _ in 0..4 {
        let end = bench.next_end().await;
        // A test that was not awake for a whole period misses one.
        let periods = (end - last).as_micros() / PERIOD.as_micros();
        assert_eq!(end - last, PERIOD * u32::try_from(periods).unwrap());
        last = end;
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_store_that_is_locked_stops_neither_probing_nor_counting() {
    let mut bench = Bench::run().await;
    bench.next_end().await;
    let other = bench.lock().await;
    for _ in 0..4 {
        bench.next_end().await;
    }
    let before = bench.asked();
    while bench.asked() <= before {
        bench.next_end().await;
    }

    other.close().await.unwrap();
    let counted = |ended: &Ended| ended.values().map(Tally::asked).sum::<u32>() > before;
    bench.ended.wait_for(counted).await.unwrap();
    bench.stop().await;
}

#[test]
fn a_period_begins_when_the_last_ends_unless_the_machine_slept() {
    let ends = Instant::now();
    assert_eq!(next_beginning(ends, ends + Duration::from_millis(40)), ends);
    let awake = ends + Duration::from_secs(3600);
    assert_eq!(next_beginning(ends, awake), awake);
}

#[test]
fn the_time_between_two_runs_belongs_to_no_period() {
    let minute = Duration::from_secs(60);
    assert_eq!(end_of_the_interrupted(Some(1_000), 9_000, minute), 9_000);
    assert_eq!(end_of_the_interrupted(Some(1_000), 900_000, minute), 61_000);
    assert_eq!(end_of_the_interrupted(Some(5_000), 1_000, minute), 5_000, "no time runs backwards");
    assert_eq!(end_of_the_interrupted(None, 7, minute), 7);
}

proptest! {
    #[test]
    fn declarations_are_asked_for_when_miners_are_ready_to_begin_a_new_period(seconds in 1..100_000_u64) {
        let period = Duration::from_secs(seconds);
        prop_assert!(lead(period) > Duration::ZERO && lead(period) <= period / 5);
        prop_assert!(lead(period) <= MAX_LEAD);
    }
}
