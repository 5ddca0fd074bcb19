//! The faults that concern every request: late answers, none, or a refusal.

use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::Extensions;
use jsonrpsee::core::middleware::{Batch, Notification, RpcServiceT};
use jsonrpsee::server::MethodResponse;
use jsonrpsee::types::{ErrorObjectOwned, Id, Request};
use tower::Layer;

use super::connection::Connection;
use super::devnet::NAMESPACE;
use crate::node::chain::Chain;
use crate::node::faults::Treatment;

/// What public endpoints say to those who ask too much.
const TOO_MANY: i32 = -32005;

/// Puts the faults between the clients and the methods.
#[derive(Debug, Clone)]
pub(super) struct Hindrance(pub(super) Arc<Chain>);

impl<S> Layer<S> for Hindrance {
    type Service = Hindered<S>;

    fn layer(&self, inner: S) -> Hindered<S> {
        Hindered { inner, chain: Arc::clone(&self.0) }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Hindered<S> {
    inner: S,
    chain: Arc<Chain>,
}

impl<S> Hindered<S> {
    fn treatment(&self, extensions: &Extensions) -> Treatment {
        match extensions.get::<Connection>() {
            Some(connection) if connection.is_spared() => Treatment::Late(Duration::ZERO),
            _ => self.chain.faults().treatment(),
        }
    }
}

fn refusal() -> ErrorObjectOwned {
    ErrorObjectOwned::owned(TOO_MANY, "Too many requests: try again later", None::<()>)
}

async fn late(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

impl<S> RpcServiceT for Hindered<S>
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            NotificationResponse = MethodResponse,
            BatchResponse = MethodResponse,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = MethodResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let treatment = match request.method_name().starts_with(NAMESPACE) {
            true => Treatment::Late(Duration::ZERO),
            false => self.treatment(request.extensions()),
        };
        let inner = self.inner.clone();
        async move {
            match treatment {
                Treatment::Late(time) => {
                    late(time).await;
                    inner.call(request).await
                }
                Treatment::Refused => MethodResponse::error(request.id, refusal()),
                // It ends with the connection.
                Treatment::Ignored => std::future::pending().await,
            }
        }
    }

    fn batch<'a>(&self, mut batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let treatment = self.treatment(batch.extensions());
        let inner = self.inner.clone();
        async move {
            match treatment {
                Treatment::Late(time) => {
                    late(time).await;
                    inner.batch(batch).await
                }
                Treatment::Refused => MethodResponse::error(Id::Null, refusal()),
                Treatment::Ignored => std::future::pending().await,
            }
        }
    }

    fn notification<'a>(
        &self,
        notification: Notification<'a>,
    ) -> impl Future<Output = MethodResponse> + Send + 'a {
        let inner = self.inner.clone();
        async move { inner.notification(notification).await }
    }
}
