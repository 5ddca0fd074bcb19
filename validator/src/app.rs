//! Puts the parts together and keeps them running.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::routing::get;
use axum::{Json, Router};
use chain::wallet::load_hotkey;
use chain::{Chain, NodeHealth, NodeState};
use common::{Hotkey, Keypair, MechanismId, TaskId};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use serde_json::json;
use service::http::{ApiError, Health, Limits, Tls, layers, operations, serve_with};
use tasks::Catalogue;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use crate::accounts::Accounts;
use crate::api::admin::admin_routes;
use crate::api::usage::usage_routes;
use crate::api::{self, Api, Front, MAX_BODY_BYTES};
use crate::ask::Asker;
use crate::checking::Checker;
use crate::clock;
use crate::config::Config;
use crate::cycle::Cycle;
use crate::judge::{Judge, Judgement};
use crate::keys::{Gate, GateConfig};
use crate::lag::Lags;
use crate::ledger::{Importer, Journal};
use crate::metrics::Metrics;
use crate::network::Network;
use crate::observe::{Observer, Subnet};
use crate::routing;
use crate::status::{Counts, Status, StatusRow, WeightsStatus};
use crate::store::{Store, WeightsOnChain};
use crate::suspicion::Suspicions;
use crate::tally::{ContenderId, Tallies, Tally};
use crate::weightings;
use crate::weights::{MechanismProgress, Progress, WeightSetter};
use crate::writer::{Writer, writer};

/// How old a status may be.
const STATUS_AGE: Duration = Duration::from_secs(1);

/// A validator that listens but does not work yet.
#[derive(Debug)]
pub struct App {
    listener: TcpListener,
    address: SocketAddr,
    front: Front,
    limits: Limits,
    tls: Option<Tls>,
    chain: Chain,
    cycle: Cycle,
    judge: Judge,
    checker: Checker,
    writer: Writer,
    gate: Arc<Gate>,
    importer: Importer,
    lags: Arc<Lags>,
    weightings: weightings::Keeper,
    weights: WeightSetter,
    store: Store,
    handle: Handle,
}

/// A view into a running validator.
#[derive(Debug, Clone)]
pub struct Handle {
    chain: Chain,
    network: Arc<Network>,
    catalogue: Arc<Catalogue>,
    tallies: Arc<Tallies>,
    store: Store,
    judgement: watch::Receiver<Option<Arc<Judgement>>>,
    confirmed: watch::Receiver<Option<Arc<WeightsOnChain>>>,
    progress: watch::Receiver<Progress>,
    ended: watch::Receiver<Ended>,
    ends: watch::Receiver<Option<Instant>>,
}

/// The totals of the period that was over last.
pub(crate) type Ended = Arc<std::collections::BTreeMap<ContenderId, Tally>>;

impl App {
    /// Builds a validator with the hotkey of the configured wallet.
    ///
    /// # Errors
    /// If the wallet, the store or the address cannot be used. An absent chain is no error: it is waited for.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let keypair = load_hotkey(&config.wallet)?;
        Self::build_with(config, keypair).await
    }

    /// Builds a validator with this hotkey.
    ///
    /// # Errors
    /// As [`App::build`].
    pub async fn build_with(config: Config, keypair: Keypair) -> anyhow::Result<Self> {
        let store = Store::open(&config.store).await?;
        // A clock that was set back must not make new evidence look older than what is stored.
        if let Some(newest) = store.periods(i64::MIN).await?.iter().map(|span| span.at_ms).max() {
            let behind = clock::not_before(newest);
            if !behind.is_zero() {
                warn!("the clock is {behind:?} behind the newest evidence; going on from there");
            }
        }
        let tls = config.tls.as_ref().map(|(certificate, key)| Tls::open(certificate, key));
        let tls = tls.transpose().context("HTTPS cannot be served")?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {} (`api.listen`)", config.listen))?;
        let address = listener.local_addr().context("the listener has no address")?;
        let chain = Chain::new(config.chain.clone())?;
        let asker = Asker::new(keypair.clone());

        let mut registry = service::metrics::registry("validator", env!("CARGO_PKG_VERSION"));
        let metrics = Metrics::new(registry.sub_registry_with_prefix("touchstone_validator"));
        let (network, tallies) = (Arc::new(Network::default()), Arc::new(Tallies::default()));
        let router = Arc::new(routing::Router::default());
        let (turned, queued, judged) =
            (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let suspicions = Arc::new(Suspicions::from_history(&store.recent_quality().await?));
        let (to_check, writer) = writer(
            Arc::clone(&tallies),
            Arc::clone(&metrics),
            store.clone(),
            Arc::clone(&queued),
            config.checking.queue,
        );
        let accounts = Arc::new(Accounts::new(
            Arc::clone(&tallies),
            Arc::clone(&metrics),
            Arc::clone(&suspicions),
            to_check,
        ));
        let (judgement, judgements) = watch::channel(None);
        let last_weights = store.last_weights().await?.map(Arc::new);
        let (confirmed, confirmations) = watch::channel(last_weights);
        let mechanisms = config.catalogue.mechanisms();
        let mut past = Progress::new();
        for mechanism in mechanisms.keys() {
            let in_force = store.last_weights_of(*mechanism).await?.map(Arc::new);
            past.insert(*mechanism, MechanismProgress { in_force, ..MechanismProgress::default() });
        }
        let (progress, progressed) = watch::channel(past);
        let (ends, period_ends) = watch::channel(None);
        let (ended, last_ended) = watch::channel(Ended::default());

        let observer = Arc::new(Observer::new(Subnet {
            chain: chain.clone(),
            netuid: config.netuid,
            period: config.period,
            own: keypair.hotkey(),
            own_address: Some(SocketAddr::new(
                config.external_ip.unwrap_or(address.ip()),
                address.port(),
            )),
            allow_local: config.allow_local_miners,
            asker: asker.clone(),
            catalogue: Arc::clone(&config.catalogue),
            network: Arc::clone(&network),
            router: Arc::clone(&router),
        }));
        let lags = asker.lags();
        let cycle = Cycle {
            period: config.period,
            probing: config.probing,
            catalogue: Arc::clone(&config.catalogue),
            network: Arc::clone(&network),
            observer,
            asker: asker.clone(),
            accounts: Arc::clone(&accounts),
            tallies: Arc::clone(&tallies),
            store: store.clone(),
            turned: Arc::clone(&turned),
            ends,
            ended,
            rng: ChaCha12Rng::from_os_rng(),
        };
        let checker = Checker::new(
            config.checking,
            store.clone(),
            Arc::clone(&metrics),
            suspicions,
            queued,
            Arc::clone(&judged),
        )
        .context("the HTTP client cannot be set up")?;
        let weightings = weightings::Keeper::new(
            config.weightings,
            Arc::clone(&config.catalogue),
            chain.clone(),
            config.netuid,
            keypair.clone(),
        );
        let judge = Judge {
            rules: config.rules,
            period: config.period,
            retention: config.retention,
            patience: config.patience,
            weightings: weightings.weightings(),
            mechanisms: config
                .catalogue
                .enabled()
                .map(|(task, _)| (task.id.clone(), task.mechanism))
                .collect(),
            network: Arc::clone(&network),
            router: Arc::clone(&router),
            store: store.clone(),
            turned,
            judged,
            judgement,
        };
        let weights = WeightSetter {
            chain: chain.clone(),
            netuid: config.netuid,
            keypair,
            config: config.weights,
            mechanisms,
            store: store.clone(),
            metrics,
            judgement: judgements.clone(),
            progress,
            confirmed,
        };
        let handle = Handle {
            chain: chain.clone(),
            network: Arc::clone(&network),
            catalogue: Arc::clone(&config.catalogue),
            tallies,
            store: store.clone(),
            judgement: judgements,
            confirmed: confirmations,
            progress: progressed,
            ended: last_ended,
            ends: period_ends,
        };
        let now = clock::unix_ms();
        let journal = Journal::open(&config.journal, rand::random(), now).with_context(|| {
            format!("cannot use the folder {} (`api.journal`)", config.journal.display())
        })?;
        let journal = Arc::new(journal);
        let importer = Importer::start(Arc::clone(&journal), store.clone()).await?;
        let gate_config = GateConfig {
            anonymous: config.api.open.then(Default::default),
            keys: config.api.keys.clone(),
            concurrency: config.api.concurrency,
        };
        let gate = Gate::open(gate_config, store.clone(), journal, rand::random()).await?;
        let gate = Arc::new(gate);
        let mut keys = usage_routes(Arc::clone(&gate), store.clone());
        if let Some(token) = config.admin_token {
            keys = keys.merge(admin_routes(token, store.clone()));
        }
        let api = Arc::new(Api::new(
            Arc::clone(&gate),
            config.catalogue,
            router,
            asker,
            accounts,
            store.clone(),
        ));
        let router = Arc::clone(&api)
            .routes()
            .merge(keys)
            .merge(status_routes(handle.clone()))
            .merge(operations(Arc::new(registry), health(handle.clone())));
        let routed = !config.cors.is_empty();
        let router = api::cors(layers(router, MAX_BODY_BYTES), config.cors);
        let front = Front::new(api, router, routed);
        Ok(Self {
            listener,
            address,
            front,
            limits: Limits { grace: config.grace, ..Limits::default() },
            tls,
            chain,
            cycle,
            judge,
            checker,
            writer,
            gate,
            importer,
            lags,
            weightings,
            weights,
            store,
            handle,
        })
    }

    /// Where the API listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// A view into the validator, for whoever runs it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Works until `stop` resolves or a part ends by itself, then finishes what is in hand.
    ///
    /// # Errors
    /// If a part ended by itself.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let shutdown = CancellationToken::new();
        let mut services = JoinSet::new();
        let child = || shutdown.clone();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        info!("the organic API listens on {scheme}://{}", self.address);
        let api = serve_with(self.listener, self.front, self.limits, self.tls, child());
        services.spawn(named("api", api));
        let (chain, feed) = (self.chain, child());
        services.spawn(named("chain", async move { chain.follow(feed).await }));
        let (gate, watched) = (self.gate, child());
        services.spawn(named("keys", gate.watch(watched)));
        let (lags, watched) = (self.lags, child());
        services.spawn(named("lags", async move { lags.watch(watched).await }));
        services.spawn(named("cycle", self.cycle.run(child())));
        services.spawn(named("checks", self.checker.run(child())));
        services.spawn(named("scores", self.judge.run(child())));
        services.spawn(named("weightings", self.weightings.run(child())));
        services.spawn(named("weights", self.weights.run(child())));
        // The writer goes last: it stores what the others leave behind.
        let last = CancellationToken::new();
        let mut writer = JoinSet::new();
        writer.spawn(named("ledger", self.importer.run(last.clone())));
        writer.spawn(named("writer", self.writer.run(last.clone())));

        let died = tokio::select! {
            () = stop => None,
            ended = services.join_next() => ended,
            ended = writer.join_next() => ended,
        };

        shutdown.cancel();
        let grace = self.limits.grace + Duration::from_secs(1);
        let drained = async { while services.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, drained).await.is_err() {
            warn!("{} parts of the validator did not end in time", services.len());
            services.shutdown().await;
        }
        last.cancel();
        while writer.join_next().await.is_some() {}
        self.store.close().await;

        match died {
            None => Ok(()),
            Some(Ok(name)) => anyhow::bail!("the validator's part `{name}` stopped by itself"),
            Some(Err(panic)) => Err(panic).context("a part of the validator panicked"),
        }
    }
}

async fn named(name: &'static str, service: impl Future<Output = ()>) -> &'static str {
    service.instrument(info_span!("validator", part = name)).await;
    name
}

/// The status is public, so it is made at most once a second, however many ask.
fn status_routes(handle: Handle) -> Router {
    let last: Arc<tokio::sync::Mutex<Option<(Instant, Status)>>> = Arc::default();
    let answer = move || {
        let (handle, last) = (handle.clone(), Arc::clone(&last));
        async move {
            let mut last = last.lock().await;
            match &*last {
                Some((made, status)) if made.elapsed() < STATUS_AGE => Ok(Json(status.clone())),
                Some(_) | None => match handle.status().await {
                    Ok(status) => Ok(Json(last.insert((Instant::now(), status)).1.clone())),
                    Err(error) => {
                        warn!("the status cannot be read: {error:#}");
                        Err(ApiError::internal())
                    }
                },
            }
        }
    };
    Router::new().route("/v1/network/status", get(answer))
}

fn health(handle: Handle) -> impl Fn() -> Health + Clone + Send + Sync + 'static {
    move || {
        let block = handle.chain.blocks().borrow().map(|head| head.number.0);
        Health::ok()
            .with("block", block)
            .with("chain_nodes", nodes_health(handle.chain.nodes()))
            .with("contenders", handle.network.contenders().len())
            .with("weights_block", handle.confirmed.borrow().as_ref().map(|set| set.block.0))
            .with("weights", weights_health(&handle.progress.borrow()))
    }
}

/// Which chain nodes there are, which is asked, and how far behind each is. Why one is not usable is in the log: an error may
/// name what is not for the public.
fn nodes_health(nodes: Vec<NodeHealth>) -> Vec<serde_json::Value> {
    let one = |NodeHealth { endpoint, in_use, state }| match state {
        NodeState::Unknown => json!({ "endpoint": endpoint, "in_use": in_use, "state": "unknown" }),
        NodeState::Well { look, lag } => json!({
            "endpoint": endpoint,
            "in_use": in_use,
            "state": "well",
            "finalized": look.finalized,
            "lag_blocks": lag,
            "answered_in_ms": look.took.as_secs_f64() * 1e3,
        }),
        NodeState::Unusable(_) => {
            json!({ "endpoint": endpoint, "in_use": in_use, "state": "unusable" })
        }
    };
    nodes.into_iter().map(one).collect()
}

/// Each mechanism's weights at a glance.
fn weights_health(progress: &Progress) -> Vec<serde_json::Value> {
    let one = |(mechanism, progress): (&MechanismId, &MechanismProgress)| {
        json!({
            "mechanism": mechanism,
            "in_force_since": progress.in_force.as_ref().map(|set| set.block),
            "committed": progress.committed,
            "trouble": progress.trouble,
        })
    };
    progress.iter().map(one).collect()
}

impl Handle {
    /// Tells of each confirmation of weights on chain; starts with the last one of an earlier run, if there is one.
    pub fn confirmed_weights(&self) -> watch::Receiver<Option<Arc<WeightsOnChain>>> {
        self.confirmed.clone()
    }

    /// Each miner's whole score, `0.0..=1.0`, by the last scoring.
    pub fn scores(&self) -> Vec<(Hotkey, f64)> {
        let judgement = self.judgement.borrow();
        let scores = judgement.as_ref().map(|judgement| &judgement.scores.miners);
        scores.into_iter().flatten().map(|(hotkey, miner)| (*hotkey, miner.weight.get())).collect()
    }

    /// Everything that is known of every contender.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn status(&self) -> anyhow::Result<Status> {
        let checks_waiting = self.store.checks_waiting().await?;
        let contenders = self.network.contenders();
        let (running, ended) = (self.tallies.snapshot(), self.ended.borrow().clone());
        let (judgement, confirmed) =
            (self.judgement.borrow().clone(), self.confirmed.borrow().clone());
        let progress = self.progress.borrow().clone();
        let mechanism_of = |task: &TaskId| {
            let known = self.catalogue.task(task).map(|task| task.mechanism);
            known.unwrap_or_default()
        };
        let mut rows: Vec<_> = contenders
            .iter()
            .map(|(id, contender)| {
                let miner = judgement
                    .as_ref()
                    .and_then(|judgement| judgement.scores.miners.get(&id.hotkey));
                let task = miner.and_then(|miner| miner.tasks.get(&id.task));
                let mechanism = mechanism_of(&id.task);
                let set = progress.get(&mechanism).and_then(|known| known.in_force.as_ref());
                let weight = set.and_then(|set| share(set, &id.hotkey));
                StatusRow {
                    uid: contender.uid,
                    hotkey: id.hotkey,
                    task: id.task.clone(),
                    mechanism,
                    running: running.get(id).map(counts).unwrap_or_default(),
                    finished: ended.get(id).map(counts),
                    quality: task.and_then(|task| task.quality()),
                    speed: task.and_then(|task| task.speed()),
                    score: task.map(|task| task.contribution),
                    weight,
                }
            })
            .collect();
        rows.sort_by(|a, b| (a.uid, &a.task).cmp(&(b.uid, &b.task)));
        Ok(Status {
            block: self.chain.blocks().borrow().map(|head| head.number),
            period_ends_in_s: self
                .ends
                .borrow()
                .map(|ends| ends.saturating_duration_since(Instant::now()).as_secs_f64()),
            checks_waiting,
            weights_block: confirmed.map(|set| set.block),
            weights: progress
                .into_iter()
                .map(|(mechanism, progress)| WeightsStatus {
                    mechanism,
                    in_force_since: progress.in_force.map(|set| set.block),
                    committed: progress.committed,
                    trouble: progress.trouble,
                })
                .collect(),
            rows,
        })
    }
}

/// A miner's part of the weights; `None` where there are none at all.
fn share(set: &WeightsOnChain, hotkey: &Hotkey) -> Option<f64> {
    let total: f64 = set.weights.iter().map(|(.., weight)| f64::from(*weight)).sum();
    let own = set.weights.iter().find(|(_, owner, _)| owner == hotkey);
    (total > 0.0).then(|| own.map_or(0.0, |(.., weight)| f64::from(*weight) / total))
}

fn counts(tally: &Tally) -> Counts {
    Counts {
        declared: tally.declared,
        used: tally.consumed,
        answered: tally.served,
        refused: tally.refused(),
        failed: tally.failed.sum(),
    }
}
