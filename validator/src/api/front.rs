//! What stands in front of the router: the two paths that are asked all the time are answered without it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
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
    /// `None`: the router serves all paths, because there is no API, or a layer that must see all requests.
    api: Option<Arc<Api>>,
    router: TowerToHyperService<Router>,
}

impl Front {
    /// Without an API of its own, the router serves all paths.
    pub fn new(api: Option<Arc<Api>>, router: Router) -> Self {
        Self { api, router: TowerToHyperService::new(router) }
    }

    fn of(&self, request: &Request<Incoming>) -> Option<(Arc<Api>, Kind)> {
        let api = self.api.as_ref().filter(|_| request.method() == Method::POST)?;
        let mut kinds = [Kind::Chat, Kind::Completion].into_iter();
        let kind = kinds.find(|kind| request.uri().path() == kind.path())?;
        Some((Arc::clone(api), kind))
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let Some((api, kind)) = self.of(&request) else {
            return Box::pin(self.router.call(request));
        };
        Box::pin(async move {
            let id = RequestId::of(request.headers());
            let mut response = api.answer(kind, request).await;
            id.put_into(&mut response);
            Ok(response)
        })
    }
}
