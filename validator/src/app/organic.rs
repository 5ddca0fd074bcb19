//! The organic API as one part of a process, whichever other parts that has.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use service::http::{Limits, Tls, layers, serve_with};
use tasks::Catalogue;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::accounts::Accounts;
use crate::api::admin::admin_routes;
use crate::api::usage::usage_routes;
use crate::api::{self, Api, Front, MAX_BODY_BYTES, Origins};
use crate::ask::Asker;
use crate::clock;
use crate::keys::{Gate, GateConfig};
use crate::ledger::{Importer, Journal};
use crate::routing;
use crate::store::Store;

/// Of the configuration, what the API is about.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) api: GateConfig,
    pub(super) journal: PathBuf,
    pub(super) admin_token: Option<[u8; 32]>,
}

/// The API, with what lets requests in and what charges for them.
#[derive(Debug)]
pub(super) struct Organic {
    pub(super) api: Arc<Api>,
    pub(super) gate: Arc<Gate>,
    pub(super) importer: Importer,
    pub(super) routes: Router,
}

impl Organic {
    /// Takes over what earlier runs left in the journal.
    pub(super) async fn build(
        settings: Settings,
        catalogue: Arc<Catalogue>,
        router: Arc<routing::Router>,
        asker: Asker,
        accounts: Arc<Accounts>,
        store: &Store,
    ) -> anyhow::Result<Self> {
        let Settings { api, journal, admin_token } = settings;
        let opened = Journal::open(&journal, rand::random(), clock::unix_ms());
        let journal = Arc::new(opened.with_context(|| {
            format!("cannot use the folder {} (`api.journal`)", journal.display())
        })?);
        let importer = Importer::start(Arc::clone(&journal), store.clone()).await?;
        let config =
            GateConfig { anonymous: api.anonymous, keys: api.keys, concurrency: api.concurrency };
        let gate = Arc::new(Gate::open(config, store.clone(), journal, rand::random()).await?);
        let mut routes = usage_routes(Arc::clone(&gate), store.clone());
        if let Some(token) = admin_token {
            routes = routes.merge(admin_routes(token, store.clone()));
        }
        let (own, store) = (Arc::clone(&gate), store.clone());
        let api = Arc::new(Api::new(own, catalogue, router, asker, accounts, store));
        let routes = routes.merge(Arc::clone(&api).routes());
        Ok(Self { api, gate, importer, routes })
    }
}

/// An address that is listened on, and how it is served.
#[derive(Debug)]
pub(super) struct Listening {
    listener: TcpListener,
    pub(super) address: SocketAddr,
    tls: Option<Tls>,
    pub(super) limits: Limits,
}

impl Listening {
    pub(super) async fn on(
        address: SocketAddr,
        tls: Option<&(PathBuf, PathBuf)>,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let tls = tls.map(|(certificate, key)| Tls::open(certificate, key));
        let tls = tls.transpose().context("HTTPS cannot be served")?;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} (`api.listen`)"))?;
        let address = listener.local_addr().context("the listener has no address")?;
        Ok(Self { listener, address, tls, limits })
    }

    pub(super) async fn serve(self, front: Front, what: &str, stop: CancellationToken) {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        info!("{what} listens on {scheme}://{}", self.address);
        serve_with(self.listener, front, self.limits, self.tls, stop).await;
    }
}

/// What is served: the API's busy paths by themselves, and all routes.
pub(super) fn front(api: Option<Arc<Api>>, routes: Router, cors: Origins) -> Front {
    let routed = !cors.is_empty();
    let router = api::cors(layers(routes, MAX_BODY_BYTES), cors);
    Front::new(api.filter(|_| !routed), router)
}
