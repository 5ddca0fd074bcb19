//! What comes before JSON-RPC: `GET /health`, `GET /metrics`, and the faults that a connection begins with.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use jsonrpsee::core::BoxError;
use jsonrpsee::server::http::response::too_many_requests;
use jsonrpsee::server::{HttpBody, HttpRequest, HttpResponse};
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

use super::connection::{CONTROL, Connection};
use crate::node::chain::Chain;
use crate::node::faults::Treatment;

/// Answers the pages; everything else is JSON-RPC and learns which connection it came by.
#[derive(Debug, Clone)]
pub(super) struct Pages {
    pub(super) registry: Arc<Registry>,
    pub(super) chain: Arc<Chain>,
    pub(super) connection: Connection,
}

impl<S> Layer<S> for Pages {
    type Service = WithPages<S>;

    fn layer(&self, inner: S) -> WithPages<S> {
        WithPages { inner, pages: self.clone() }
    }
}

#[derive(Debug, Clone)]
pub(super) struct WithPages<S> {
    inner: S,
    pages: Pages,
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

    fn call(&mut self, mut request: HttpRequest<B>) -> Self::Future {
        let Pages { registry, chain, connection } = &self.pages;
        let get = request.method() == "GET";
        match request.uri().path() {
            "/health" if get => {
                return Box::pin(async {
                    Ok(HttpResponse::new(HttpBody::from("ok\n".to_owned())))
                });
            }
            "/metrics" if get => {
                let response = service::metrics::encode(registry).map(HttpBody::new);
                return Box::pin(async { Ok(response) });
            }
            CONTROL => connection.spare(),
            _ if chain.faults().treatment() == Treatment::Refused => {
                return Box::pin(async { Ok(too_many_requests()) });
            }
            _ => {}
        }
        request.extensions_mut().insert(connection.clone());
        Box::pin(self.inner.call(request))
    }
}
