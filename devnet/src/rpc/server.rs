//! One port for everything: JSON-RPC over WebSocket and HTTP, `GET /health` and `GET /metrics`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use jsonrpsee::Methods;
use jsonrpsee::core::BoxError;
use jsonrpsee::server::{
    HttpBody, HttpRequest, HttpResponse, ServerBuilder, ServerConfig, serve_with_graceful_shutdown,
    stop_channel,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service, ServiceBuilder};
use tracing::debug;

/// The largest request that is read, in bytes.
const LARGEST_REQUEST: u32 = 5 << 20;

/// Connections at a time.
const CONNECTIONS: u32 = 1000;

/// Subscriptions per connection; watching a transaction is one.
const SUBSCRIPTIONS: u32 = 8192;

/// What a server needs.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) listener: TcpListener,
    /// What it answers.
    pub(crate) methods: Methods,
    /// What `/metrics` shows.
    pub(crate) registry: Arc<Registry>,
    /// Whether clients get through. While they do not, every connection is cut and new ones are closed at once, as if
    /// the node was gone; the port stays taken.
    pub(crate) reach: watch::Receiver<bool>,
}

/// Serves until `cancel`; then all connections are closed.
pub(crate) async fn serve(server: Server, cancel: CancellationToken) {
    let Server { listener, methods, registry, mut reach } = server;
    let config = ServerConfig::builder()
        .max_request_body_size(LARGEST_REQUEST)
        .max_connections(CONNECTIONS)
        .max_subscriptions_per_connection(SUBSCRIPTIONS)
        .build();
    let service = ServerBuilder::with_config(config)
        .set_http_middleware(ServiceBuilder::new().layer(Pages(registry)))
        .to_service_builder();
    let mut connections = JoinSet::new();
    let (mut stop, mut handle) = stop_channel();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = reach.changed() => {
                if changed.is_err() {
                    break;
                }
                if !*reach.borrow_and_update() {
                    let _ = handle.stop();
                    connections.shutdown().await;
                    (stop, handle) = stop_channel();
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) if *reach.borrow() => {
                    let service = service.clone().build(methods.clone(), stop.clone());
                    let stopped = stop.clone().shutdown();
                    connections.spawn(async move {
                        let _ = socket.set_nodelay(true);
                        if let Err(error) = serve_with_graceful_shutdown(socket, service, stopped).await {
                            debug!(%peer, error, "a connection ended");
                        }
                    });
                }
                Ok(_) => {}
                Err(error) => debug!(%error, "a connection could not be accepted"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
    let _ = handle.stop();
    connections.shutdown().await;
}

/// Answers `GET /health` and `GET /metrics`; everything else is JSON-RPC.
#[derive(Debug, Clone)]
struct Pages(Arc<Registry>);

impl<S> Layer<S> for Pages {
    type Service = WithPages<S>;

    fn layer(&self, inner: S) -> WithPages<S> {
        WithPages { inner, registry: Arc::clone(&self.0) }
    }
}

#[derive(Debug, Clone)]
struct WithPages<S> {
    inner: S,
    registry: Arc<Registry>,
}

impl<S, B> Service<HttpRequest<B>> for WithPages<S>
where
    S: Service<HttpRequest<B>, Response = HttpResponse, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest<B>) -> Self::Future {
        let get = request.method() == "GET";
        match request.uri().path() {
            "/health" if get => {
                Box::pin(async { Ok(HttpResponse::new(HttpBody::from("ok\n".to_owned()))) })
            }
            "/metrics" if get => {
                let response = service::metrics::encode(&self.registry).map(HttpBody::new);
                Box::pin(async { Ok(response) })
            }
            _ => Box::pin(self.inner.call(request)),
        }
    }
}
