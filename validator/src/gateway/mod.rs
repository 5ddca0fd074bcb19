//! The organic API by itself, in front of miners that are given: what the benchmark measures. There is no chain, and nobody
//! scores or probes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::{Keypair, TaskId, Uid, Volume};
use prometheus_client::registry::Registry;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use service::http::{Limits, layers, serve_with};
use tasks::Catalogue;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::accounts::Accounts;
use crate::api::usage::usage_routes;
use crate::api::{Api, Front, MAX_BODY_BYTES};
use crate::ask::Asker;
use crate::clock::unix_ms;
use crate::keys::edit::create;
use crate::keys::{Gate, GateConfig, Spec};
use crate::ledger::{Importer, Journal};
use crate::metrics::Metrics;
use crate::network::Contender;
use crate::routing::{Candidate, Router};
use crate::store::{Location, PeriodId, Store};
use crate::suspicion::Suspicions;
use crate::tally::{ContenderId, Tallies};
use crate::writer::{Writer, writer};

const CATALOGUE: &str = include_str!("tasks.toml");
/// Answers that wait for a checking server, which there is not.
const QUEUE: u32 = 1_000;
/// Good verdicts after which a miner is hardly suspected any more.
const VERDICTS: usize = 200;
const STREAMS: usize = 8_192;

/// What to serve.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where all miners are.
    pub upstream: SocketAddr,
    /// How many there are, see [`miner_key`].
    pub miners: u16,
    /// Whether callers need a key that has limits and a budget. Otherwise everybody may call.
    pub governed: bool,
    /// For the store and the journal.
    pub folder: PathBuf,
}

/// An API that is ready.
#[derive(Debug)]
pub struct Gateway {
    front: Front,
    gate: Arc<Gate>,
    importer: Importer,
    writer: Writer,
    key: Option<String>,
}

/// The task that is served.
///
/// # Errors
/// Never: the name is a good one.
pub fn task() -> anyhow::Result<TaskId> {
    Ok("chat-demo".parse()?)
}

/// The hotkey of a miner by its number.
pub fn miner_key(number: u16) -> Keypair {
    Keypair::development(&format!("Miner{number}"))
}

fn candidate(keypair: &Keypair, uid: u16, upstream: SocketAddr) -> anyhow::Result<Candidate> {
    let contender = Contender {
        uid: Uid(uid),
        url: format!("http://{upstream}").parse()?,
        declared: Volume::try_from(1e15)?,
    };
    let id = ContenderId { hotkey: keypair.hotkey(), task: task()? };
    Ok(Candidate { id, contender, score: 1.0, quality: Some(1.0) })
}

impl Gateway {
    /// Sets everything up.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub async fn build(setup: Setup) -> anyhow::Result<Self> {
        let Setup { upstream, miners, governed, folder } = setup;
        let catalogue = Arc::new(Catalogue::parse(CATALOGUE, "tasks.toml")?);
        let at = Location::Sqlite(folder.join("validator.sqlite"));
        let store = Store::open(&at).await?;
        let (tallies, metrics) =
            (Arc::new(Tallies::default()), Metrics::new(&mut Registry::default()));
        let (to_check, writer) = writer(
            Arc::clone(&tallies),
            Arc::clone(&metrics),
            store.clone(),
            Arc::new(Notify::new()),
            QUEUE,
        );
        let suspicions = Suspicions::default();
        let (mut candidates, mut declared) = (Vec::new(), BTreeMap::new());
        for number in 0..miners {
            let candidate = candidate(&miner_key(number), number, upstream)?;
            (0..VERDICTS).for_each(|_| suspicions.judged(&candidate.id, 1.0));
            declared.insert(candidate.id.clone(), candidate.contender.declared);
            candidates.push(candidate);
        }
        let period = store.begin_period(unix_ms()).await?;
        tallies.turn(PeriodId(period.0), &declared, 3_600.0);
        let router = Arc::new(Router::default());
        router.replace(candidates);
        let accounts = Arc::new(Accounts::new(tallies, metrics, Arc::new(suspicions), to_check));

        let journals = crate::ledger::folder(&at, None, "");
        let journal = Journal::open(&journals, rand::random(), unix_ms());
        let journal = Arc::new(journal.context("the journal cannot be written")?);
        let importer = Importer::start(Arc::clone(&journal), store.clone()).await?;
        let key = if governed { Some(governed_key(&store).await?) } else { None };
        let config = GateConfig {
            anonymous: (!governed).then(Spec::default),
            keys: BTreeSet::new(),
            concurrency: STREAMS,
        };
        let gate = Gate::open(config, store.clone(), journal, rand::random()).await?;
        let gate = Arc::new(gate);
        let asker = Asker::new(Keypair::development("Alice"));
        let own = (Arc::clone(&gate), store.clone());
        let api = Arc::new(Api::new(own.0, catalogue, router, asker, accounts, own.1));
        let routes = Arc::clone(&api).routes().merge(usage_routes(Arc::clone(&gate), store));
        let router = layers(routes, MAX_BODY_BYTES);
        Ok(Self { front: Front::new(Some(api), router), gate, importer, writer, key })
    }

    /// The key that callers have to send.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Serves until it is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let stop = CancellationToken::new();
        tokio::spawn(self.writer.run(stop.clone()));
        tokio::spawn(self.importer.run(stop.clone()));
        tokio::spawn(self.gate.watch(stop.clone()));
        serve_with(listener, self.front, Limits::default(), None, stop).await;
    }
}

/// A key with every kind of limit, none of which is reached.
async fn governed_key(store: &Store) -> anyhow::Result<String> {
    let spec = Spec {
        name: "bench".to_owned(),
        models: BTreeSet::from([task()?]),
        requests_per_minute: Some(u32::MAX),
        tokens_per_minute: Some(u32::MAX),
        parallel: Some(STREAMS as u32),
        budget: Some("1000000".parse()?),
        ..Spec::default()
    };
    Ok(create(store, spec).await?.secret)
}

/// How long it takes to choose one of so many miners, in nanoseconds: the mean of many choices.
///
/// # Errors
/// If there is no miner.
pub fn nanoseconds_per_choice(miners: u16) -> anyhow::Result<f64> {
    const CHOICES: u32 = 200_000;
    let upstream = SocketAddr::from(([127, 0, 0, 1], 1));
    let candidates: Result<Vec<_>, _> =
        (0..miners).map(|number| candidate(&miner_key(number), number, upstream)).collect();
    let router = Router::default();
    router.replace(candidates?);
    let task = task()?;
    let (mut rng, now) = (ChaCha12Rng::seed_from_u64(1), Duration::ZERO);
    let choose = |prefix: u64, rng: &mut ChaCha12Rng| {
        let route = router.of(&task)?.choose(Some(prefix), &[], now, rng)?;
        // What a request teaches: no two miners are alike.
        let in_hand = route.begin(now);
        in_hand.first_token(Duration::from_millis(1 + prefix % 50));
        Some(())
    };
    (0..CHOICES / 10).for_each(|number| _ = choose(number.into(), &mut rng));
    let began = Instant::now();
    for number in 0..CHOICES {
        choose(number.into(), &mut rng).context("there is no miner to choose")?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(CHOICES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_has_the_task_and_miners_can_be_told_apart() {
        let catalogue = Catalogue::parse(CATALOGUE, "tasks.toml").unwrap();
        assert!(catalogue.task(&task().unwrap()).is_some());
        assert_ne!(miner_key(0).hotkey(), miner_key(1).hotkey());
        assert!(nanoseconds_per_choice(0).is_err());
    }
}
