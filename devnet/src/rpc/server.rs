//! One port for everything: JSON-RPC over WebSocket and HTTP, `GET /health` and `GET /metrics`.

use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::Methods;
use jsonrpsee::core::middleware::RpcServiceBuilder;
use jsonrpsee::server::{ServerBuilder, ServerConfig, serve_with_graceful_shutdown, stop_channel};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tracing::debug;

use super::connection::{Connection, Connections};
use super::hindrance::Hindrance;
use super::pages::Pages;
use crate::node::chain::Chain;

/// The largest request that is read, in bytes.
const LARGEST_REQUEST: u32 = 5 << 20;

/// Connections at a time.
const CONNECTIONS: u32 = 4096;

/// Subscriptions per connection; watching a transaction is one.
const SUBSCRIPTIONS: u32 = 8192;

/// Messages that wait for a client that reads slowly. When there are more, its subscriptions wait, and miss blocks if
/// they wait long; one that does not read at all is cut off.
const MESSAGES: u32 = 64;

/// What a server needs.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) listener: TcpListener,
    /// What it answers.
    pub(crate) methods: Methods,
    /// What `/metrics` shows.
    pub(crate) registry: Arc<Registry>,
    /// Whose faults it shows.
    pub(crate) chain: Arc<Chain>,
    /// Whether clients get through. While they do not, every connection is cut and new ones are closed at once, as if
    /// the node was gone; the port stays taken.
    pub(crate) reach: watch::Receiver<bool>,
}

/// Serves until `cancel`; then all connections are closed.
pub(crate) async fn serve(server: Server, cancel: CancellationToken) {
    let Server { listener, methods, registry, chain, mut reach } = server;
    let config = ServerConfig::builder()
        .max_request_body_size(LARGEST_REQUEST)
        .max_connections(CONNECTIONS)
        .max_subscriptions_per_connection(SUBSCRIPTIONS)
        .set_message_buffer_capacity(MESSAGES)
        .build();
    let hindrance = RpcServiceBuilder::new().layer(Hindrance(Arc::clone(&chain)));
    let service =
        ServerBuilder::with_config(config).set_rpc_middleware(hindrance).to_service_builder();
    let (mut cuts, mut changes) = (chain.faults().cuts(), chain.faults().changes());
    let mut next_cut = NextCut::default();
    let mut connections = Connections::default();
    let mut handshakes = JoinSet::new();
    let (stop, handle) = stop_channel();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = reach.changed() => {
                if changed.is_err() {
                    break;
                }
                if !*reach.borrow_and_update() {
                    connections.cut_all();
                }
            }
            Ok(()) = cuts.changed() => connections.cut_clients(),
            Ok(()) = changes.changed() => next_cut.follow(chain.faults().cut_every()),
            () = next_cut.wait() => connections.cut_clients(),
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) if *reach.borrow() => {
                    let _ = socket.set_nodelay(true);
                    let (connection, socket) = Connection::new(socket);
                    connections.add(&connection);
                    let pages = Pages {
                        registry: Arc::clone(&registry),
                        chain: Arc::clone(&chain),
                        connection,
                    };
                    let service = service
                        .clone()
                        .set_http_middleware(ServiceBuilder::new().layer(pages))
                        .build(methods.clone(), stop.clone());
                    let stopped = stop.clone().shutdown();
                    handshakes.spawn(async move {
                        if let Err(error) = serve_with_graceful_shutdown(socket, service, stopped).await {
                            debug!(%peer, error, "a connection ended");
                        }
                    });
                }
                Ok(_) => {}
                Err(error) => debug!(%error, "a connection could not be accepted"),
            },
            Some(_) = handshakes.join_next() => {}
        }
    }
    let _ = handle.stop();
    handshakes.shutdown().await;
    // Requests that a fault leaves without an answer would wait for ever.
    connections.cut_all();
}

/// When connections are cut the next time.
#[derive(Debug, Default)]
struct NextCut {
    every: Option<Duration>,
    at: Option<Instant>,
}

impl NextCut {
    /// Begins to count, or stops.
    fn follow(&mut self, every: Option<Duration>) {
        if self.every != every {
            self.every = every;
            self.at = every.map(|every| Instant::now() + every);
        }
    }

    /// Waits until it is time; for ever if there is no such time.
    async fn wait(&mut self) {
        match (self.at, self.every) {
            (Some(at), Some(every)) => {
                sleep_until(at).await;
                self.at = Some(at + every);
            }
            _ => std::future::pending().await,
        }
    }
}
