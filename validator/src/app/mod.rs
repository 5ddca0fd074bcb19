//! Puts the parts together and keeps them running.

mod beside;
mod handle;
mod organic;
mod parts;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use chain::Chain;
use chain::wallet::load_hotkey;
use common::Keypair;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use service::http::{Limits, operations};
use tokio::sync::{Notify, watch};
use tracing::warn;

use self::handle::{health, status_routes};
use self::organic::{Listening, Organic, Settings, front};
use self::parts::Parts;
use crate::accounts::Accounts;
use crate::api::Front;
use crate::ask::Asker;
use crate::checking::Checker;
use crate::clock;
use crate::config::Config;
use crate::cycle::Cycle;
use crate::judge::Judge;
use crate::keys::Gate;
use crate::lag::Lags;
use crate::ledger::Importer;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::observe::{Observer, Subnet};
use crate::routing;
use crate::store::Store;
use crate::suspicion::Suspicions;
use crate::tally::{ContenderId, Tallies, Tally};
use crate::weightings;
use crate::weights::{MechanismProgress, Progress, WeightSetter};
use crate::writer::{Writer, writer};

pub use self::beside::ApiApp;
pub use self::handle::Handle;

/// A validator that listens but does not work yet.
#[derive(Debug)]
pub struct App {
    listening: Listening,
    front: Front,
    chain: Chain,
    cycle: Cycle,
    judge: Judge,
    checker: Checker,
    writer: Writer,
    /// `None`: other processes serve the API.
    organic: Option<(Arc<Gate>, Importer)>,
    lags: Arc<Lags>,
    weightings: weightings::Keeper,
    weights: WeightSetter,
    store: Store,
    handle: Handle,
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
        let limits = Limits { grace: config.grace, ..Limits::default() };
        let listening = Listening::on(config.listen, config.tls.as_ref(), limits).await?;
        let address = listening.address;
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
        let routes = status_routes(handle.clone())
            .merge(operations(Arc::new(registry), health(handle.clone())));
        let (front, organic) = if config.roles.api {
            let settings = Settings {
                api: config.api,
                journal: config.journal,
                admin_token: config.admin_token,
            };
            let Organic { api, gate, importer, routes: own } =
                Organic::build(settings, config.catalogue, router, asker, accounts, &store).await?;
            (front(Some(api), own.merge(routes), config.cors), Some((gate, importer)))
        } else {
            (front(None, routes, config.cors), None)
        };
        Ok(Self {
            listening,
            front,
            chain,
            cycle,
            judge,
            checker,
            writer,
            organic,
            lags,
            weightings,
            weights,
            store,
            handle,
        })
    }

    /// Where the API listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.listening.address
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
        let mut parts = Parts::new(self.listening.limits.grace);
        let what = if self.organic.is_some() { "the organic API" } else { "the validator" };
        let (listening, front) = (self.listening, self.front);
        parts.spawn("api", |stop| listening.serve(front, what, stop));
        let (chain, lags) = (self.chain, self.lags);
        parts.spawn("chain", |stop| async move { chain.follow(stop).await });
        parts.spawn("lags", |stop| async move { lags.watch(stop).await });
        parts.spawn("cycle", |stop| self.cycle.run(stop));
        parts.spawn("checks", |stop| self.checker.run(stop));
        parts.spawn("scores", |stop| self.judge.run(stop));
        parts.spawn("weightings", |stop| self.weightings.run(stop));
        parts.spawn("weights", |stop| self.weights.run(stop));
        if let Some((gate, importer)) = self.organic {
            parts.spawn("keys", |stop| gate.watch(stop));
            parts.spawn_last("ledger", |stop| importer.run(stop));
        }
        parts.spawn_last("writer", |stop| self.writer.run(stop));
        let ended = parts.run_until(stop).await;
        self.store.close().await;
        ended
    }
}
