//! The miner as a whole: what it is built of, and its life.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::bail;
use axum::Router;
use chain::wallet::load_hotkey;
use chain::{Chain, ChainError, WalletError};
use common::btauth::{Verifier, Windows};
use common::session::{Sessions, Terms};
use common::{Hotkey, Keypair, TaskId};
use engine::{EngineError, SharedEngine};
use service::http::{self, Health};
use service::metrics;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::access::Snapshot;
use crate::api::{self, Served, Shared};
use crate::config::{Config, TaskConfig};
use crate::ledger::Ledger;
use crate::loading;
use crate::metrics::Metrics;
use crate::neuron::{Neuron, State};
use crate::slots::Slots;

/// What a caller has already. What is left out is made from the settings.
#[derive(Debug, Default)]
pub struct Parts {
    pub engines: BTreeMap<TaskId, SharedEngine>,
    pub keypair: Option<Keypair>,
    pub chain: Option<Chain>,
}

/// Why a miner cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the hotkey cannot be used")]
    Wallet(#[from] WalletError),
    #[error("the chain cannot be used")]
    Chain(#[from] ChainError),
    #[error("cannot listen on {address}; is another program using it? See `axon.port`")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("the model of the task `{task}` cannot be served")]
    Engine { task: TaskId, source: EngineError },
}

/// A miner that is ready to serve.
#[derive(Debug)]
pub struct App {
    listener: TcpListener,
    local_addr: SocketAddr,
    router: Router,
    neuron: Neuron,
    axon: Option<chain::Axon>,
    answers: TaskTracker,
}

impl App {
    /// Reads the hotkey, listens, loads the models. The chain is asked only once it runs.
    ///
    /// # Errors
    /// [`BuildError`], each with what to do.
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        Self::build_with(config, Parts::default()).await
    }

    /// The same with parts that are ready, such as engines that several miners of one process share.
    ///
    /// # Errors
    /// [`BuildError`], each with what to do.
    pub async fn build_with(config: Config, parts: Parts) -> Result<Self, BuildError> {
        let keypair = match parts.keypair {
            Some(keypair) => keypair,
            None => load_hotkey(&config.wallet)?,
        };
        let chain = match parts.chain {
            Some(chain) => chain,
            None => Chain::new(config.chain.clone())?,
        };
        let address = config.axon.listen;
        let bind = |source| BuildError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let local_addr = listener.local_addr().map_err(bind)?;
        let engines = loading::engines(&config.tasks, parts.engines).await?;

        let axon = config.axon.register.then(|| config.axon.published(local_addr.port()));
        let access = Arc::new(Snapshot::default());
        let state = Arc::new(State::default());
        let neuron = Neuron {
            chain,
            netuid: config.netuid,
            keypair,
            rules: config.access.clone(),
            access,
            state,
        };
        let answers = TaskTracker::new();
        let router = router(&config, &neuron, &engines, answers.clone());
        Ok(Self { listener, local_addr, router, neuron, axon, answers })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Who it is.
    pub fn hotkey(&self) -> Hotkey {
        self.neuron.keypair.hotkey()
    }

    /// Who may call it, to be set without a chain.
    #[cfg(test)]
    pub(crate) fn access(&self) -> &Snapshot {
        &self.neuron.access
    }

    /// Serves until `stop` resolves, then lets answers under way finish within a few seconds.
    ///
    /// # Errors
    /// If a part of the miner ends by itself, which is a fault.
    pub async fn run_until(self, stop: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
        let Self { listener, local_addr, router, neuron, axon, answers } = self;
        info!("the miner {} listens on {local_addr}", neuron.keypair.hotkey());
        let shutdown = CancellationToken::new();
        let limits = http::Limits::default();
        let mut parts = JoinSet::new();
        let server = http::serve(listener, router, limits, shutdown.clone());
        parts.spawn(named("the HTTP server", server));
        if let Some(axon) = axon {
            parts.spawn(named("the announcement", neuron.clone().announce(axon, shutdown.clone())));
        }
        parts.spawn(named("the metagraph's reader", neuron.follow_metagraph(shutdown.clone())));

        let ended = tokio::select! {
            () = stop => None,
            ended = parts.join_next() => ended,
        };
        info!("shutting down, answers under way get {:?}", limits.grace);
        shutdown.cancel();
        answers.close();
        let drained = async {
            while parts.join_next().await.is_some() {}
            // Their clients are gone now, so they end at once.
            answers.wait().await;
        };
        // The server keeps to its own grace; the rest is for an extrinsic that is followed to its end.
        if timeout(limits.grace + limits.grace / 3, drained).await.is_err() {
            warn!("{} parts and {} answers did not end in time", parts.len(), answers.len());
        }
        match ended {
            None => Ok(()),
            Some(Ok(name)) => bail!("{name} ended by itself"),
            Some(Err(error)) => Err(anyhow::Error::new(error).context("a part of the miner died")),
        }
    }
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

fn router(
    config: &Config,
    neuron: &Neuron,
    engines: &BTreeMap<TaskId, SharedEngine>,
    answers: TaskTracker,
) -> Router {
    let capacities = config.tasks.iter().map(|task| (task.id.clone(), task.capacity)).collect();
    let ledger = Arc::new(Ledger::new(config.period, capacities));
    let mut registry = metrics::registry("miner", env!("CARGO_PKG_VERSION"));
    let ids = config.tasks.iter().map(|task| task.id.clone()).collect();
    let metrics = Arc::new(Metrics::register(&mut registry, Arc::clone(&ledger), ids));
    let hotkey = neuron.keypair.hotkey();
    let shared = Arc::new(Shared {
        keypair: neuron.keypair.clone(),
        verifier: Verifier::new(hotkey, Windows::default()).since(api::unix_time_ns()),
        sessions: Sessions::new(Terms::default()),
        bodies: Semaphore::new(api::BODIES),
        rules: config.access.clone(),
        access: Arc::clone(&neuron.access),
        ledger,
        limits: config.limits,
        tasks: served(config, engines),
        metrics,
        answers,
    });
    let (access, state) = (Arc::clone(&neuron.access), Arc::clone(&neuron.state));
    let health = move || {
        Health::ok()
            .with("hotkey", hotkey.to_string())
            .with("chain_connected", state.connected.load(Ordering::Relaxed))
            .with("registered", state.registered.load(Ordering::Relaxed))
            .with("metagraph_block", access.load().block.map(|block| block.0))
    };
    let router = api::router(shared).merge(http::operations(Arc::new(registry), health));
    http::layers(router, config.limits.body_bytes)
}

/// Tasks without a limit of their own share the places of their engine.
fn served(config: &Config, engines: &BTreeMap<TaskId, SharedEngine>) -> BTreeMap<TaskId, Served> {
    let limits = config.limits;
    let slots = |places| Arc::new(Slots::new(places, limits.waiting, limits.wait));
    let mut shared: Vec<(&SharedEngine, Arc<Slots>)> = Vec::new();
    let mut served = BTreeMap::new();
    for TaskConfig { id, kind, limits, concurrency, .. } in &config.tasks {
        let Some(engine) = engines.get(id) else { continue };
        let known = shared.iter().find(|(other, _)| Arc::ptr_eq(other, engine));
        let slots = match (concurrency, known) {
            (Some(places), _) => slots(*places),
            (None, Some((_, slots))) => Arc::clone(slots),
            (None, None) => {
                let slots = slots(engine.parallel().max(1));
                shared.push((engine, Arc::clone(&slots)));
                slots
            }
        };
        let (kind, limits, engine) = (*kind, *limits, Arc::clone(engine));
        served.insert(id.clone(), Served { kind, limits, engine, slots });
    }
    served
}
