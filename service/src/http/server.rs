//! The accept loop: bounded connections, deadlines for slow clients, an orderly end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service as HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Tls;

/// How long a client may take to agree on keys.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Bounds of a server. The defaults suit every service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more wait in the system's queue.
    pub connections: usize,
    /// How long a client may take to send a request's headers. Connections that are idle so long are closed, so it is
    /// longer than HTTP clients keep idle connections.
    pub header_timeout: Duration,
    /// Bytes of a request's headers, and of what is read ahead of the body.
    pub header_bytes: usize,
    /// How long requests in hand may take after the server was told to stop. What is left then is cut off.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_timeout: Duration::from_secs(120),
            header_bytes: 64 * 1024,
            grace: Duration::from_secs(3),
        }
    }
}

/// Serves until `stop` is cancelled, then lets requests in hand finish for [`Limits::grace`].
///
/// Nothing of it runs on after it has returned.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    serve_with(listener, TowerToHyperService::new(router), limits, None, stop).await;
}

/// The same for any service, and over HTTPS if there is a certificate.
pub async fn serve_with<S>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    tls: Option<Tls>,
    stop: CancellationToken,
) where
    S: HttpService<Request<Incoming>, Response = Response, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .writev(false)
        .max_buf_size(limits.header_bytes);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        while connections.try_join_next().is_some() {}
        let Some((stream, slot)) = accepted else { continue };
        let (http, service, stop) = (http.clone(), service.clone(), stop.clone());
        match tls.as_ref().map(|tls| tls.acceptor(Instant::now())) {
            None => {
                connections.spawn(connection(http, stream, service, stop, slot));
            }
            Some(acceptor) => {
                connections.spawn(async move {
                    match timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => connection(http, stream, service, stop, slot).await,
                        Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
                        Err(_) => debug!("a TLS handshake did not end in time"),
                    }
                });
            }
        }
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.grace, finished).await.is_err() {
        info!("cutting off {} connections that are still open", connections.len());
        connections.shutdown().await;
    }
}

/// Serves one connection to its end.
async fn connection<S>(
    http: http1::Builder,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S,
    stop: CancellationToken,
    slot: OwnedSemaphorePermit,
) where
    S: HttpService<Request<Incoming>, Response = Response, Error = Infallible>,
{
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients that go away, mostly.
        debug!(%error, "a connection ended early");
    }
    drop(slot);
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "a connection without TCP_NODELAY");
            }
            Some((stream, slot))
        }
        Err(error) => {
            // Out of file descriptors, for example: waiting helps, spinning does not.
            warn!(%error, "a connection cannot be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

#[cfg(test)]
mod tests;
