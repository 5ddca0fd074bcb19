//! What stands in front of the router: the two paths that are asked all the time are answered without it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use common::openai::Kind;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Method, Request};
use hyper_util::service::TowerToHyperService;
use service::http::RequestId;

use super::Api;

/// Serves the API's two paths itself, and everything else with a router.
#[derive(Debug, Clone)]
pub struct Front {
    api: Arc<Api>,
    router: TowerToHyperService<Router>,
    /// Whether there is a layer around the router that must see all requests.
    routed: bool,
}

impl Front {
    /// With `routed`, the router serves all paths.
    pub fn new(api: Arc<Api>, router: Router, routed: bool) -> Self {
        Self { api, router: TowerToHyperService::new(router), routed }
    }

    fn kind(&self, request: &Request<Incoming>) -> Option<Kind> {
        let is_here = !self.routed && request.method() == Method::POST;
        let kinds = [Kind::Chat, Kind::Completion];
        kinds.into_iter().find(|kind| is_here && request.uri().path() == kind.path())
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let Some(kind) = self.kind(&request) else {
            return Box::pin(self.router.call(request));
        };
        let api = Arc::clone(&self.api);
        Box::pin(async move {
            let id = RequestId::of(request.headers());
            let mut response = api.answer(kind, request.map(Body::new)).await;
            id.put_into(&mut response);
            Ok(response)
        })
    }
}
