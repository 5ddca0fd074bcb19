//! A process that serves the organic API alone, beside one that validates: they share a database and a hotkey.
//!
//! It asks the miners that the validating process names, needs no chain, and leaves what became of the requests for it.

use std::net::SocketAddr;
use std::sync::Arc;

use chain::wallet::load_hotkey;
use common::Keypair;
use service::http::{Health, Limits, operations};
use tokio::sync::{Notify, watch};
use tracing::info;

use super::organic::{Listening, Organic, Settings, front};
use super::parts::Parts;
use crate::accounts::Accounts;
use crate::api::Front;
use crate::ask::Asker;
use crate::config::Config;
use crate::follow::{Followed, Follower};
use crate::keys::Gate;
use crate::lag::Lags;
use crate::ledger::Importer;
use crate::metrics::Metrics;
use crate::routing;
use crate::store::Store;
use crate::suspicion::Suspicions;
use crate::tally::Tallies;
use crate::writer::{Writer, writer};

/// An API that listens but does not serve yet.
#[derive(Debug)]
pub struct ApiApp {
    listening: Listening,
    front: Front,
    follower: Follower,
    gate: Arc<Gate>,
    lags: Arc<Lags>,
    importer: Importer,
    writer: Writer,
    store: Store,
}

impl ApiApp {
    /// Builds the API with the hotkey of the configured wallet.
    ///
    /// # Errors
    /// If the wallet, the store, the journal or the address cannot be used.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let keypair = load_hotkey(&config.wallet)?;
        Self::build_with(config, keypair).await
    }

    /// Builds the API with this hotkey.
    ///
    /// # Errors
    /// As [`ApiApp::build`].
    pub async fn build_with(config: Config, keypair: Keypair) -> anyhow::Result<Self> {
        let store = Store::open(&config.store).await?;
        let limits = Limits { grace: config.grace, ..Limits::default() };
        let listening = Listening::on(config.listen, config.tls.as_ref(), limits).await?;
        let mut registry = service::metrics::registry("api", env!("CARGO_PKG_VERSION"));
        let metrics = Metrics::new(registry.sub_registry_with_prefix("touchstone_validator"));
        let (tallies, suspicions) = (Arc::new(Tallies::default()), Arc::new(Suspicions::default()));
        let (to_check, writer) = writer(
            Arc::clone(&tallies),
            Arc::clone(&metrics),
            store.clone(),
            // The validating process looks by itself.
            Arc::new(Notify::new()),
            config.checking.queue,
        );
        let accounts =
            Accounts::new(Arc::clone(&tallies), metrics, Arc::clone(&suspicions), to_check);
        let (accounts, asker) = (Arc::new(accounts), Asker::new(keypair));
        let router = Arc::new(routing::Router::default());
        let (followed, news) = watch::channel(Followed::default());
        let follower = Follower {
            store: store.clone(),
            router: Arc::clone(&router),
            tallies,
            suspicions,
            accounts: Arc::clone(&accounts),
            asker: asker.clone(),
            followed,
        };
        let lags = asker.lags();
        let settings =
            Settings { api: config.api, journal: config.journal, admin_token: config.admin_token };
        let Organic { api, gate, importer, routes } =
            Organic::build(settings, config.catalogue, router, asker, accounts, &store).await?;
        let routes = routes.merge(operations(Arc::new(registry), health(news)));
        Ok(Self {
            listening,
            front: front(Some(api), routes, config.cors),
            follower,
            gate,
            lags,
            importer,
            writer: writer.for_another_process(),
            store,
        })
    }

    /// Where the API listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.listening.address
    }

    /// Serves until `stop` resolves or a part ends by itself, then finishes what is in hand.
    ///
    /// # Errors
    /// If a part ended by itself.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { listening, front, follower, gate, lags, importer, writer, store } = self;
        let mut parts = Parts::new(listening.limits.grace);
        // Who may be asked is known before the first request, if it is known at all.
        follower.look().await;
        parts.spawn("api", |stop| listening.serve(front, "the organic API", stop));
        parts.spawn("keys", |stop| gate.watch(stop));
        parts.spawn("lags", |stop| async move { lags.watch(stop).await });
        parts.spawn("follower", |stop| follower.run(stop));
        parts.spawn_last("ledger", |stop| importer.run(stop));
        parts.spawn_last("writer", |stop| writer.run(stop));
        info!("serving for the validator whose database this is");
        let ended = parts.run_until(stop).await;
        store.close().await;
        ended
    }
}

fn health(news: watch::Receiver<Followed>) -> impl Fn() -> Health + Clone + Send + Sync + 'static {
    move || {
        let followed = *news.borrow();
        let heard = followed.heard.map(|heard| heard.elapsed().as_secs());
        Health::ok()
            .with("contenders", followed.contenders)
            // Long silence means that nobody validates: the miners and scores are those of then.
            .with("validator_heard_s", heard)
    }
}
