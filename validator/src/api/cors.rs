//! Lets pages of other origins call the API from a browser.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

/// What clients need beside the body.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, x-miner-uid, x-routing-attempts, retry-after, x-ratelimit-limit-requests, \
     x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, \
     x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
/// Seconds that browsers may remember the permission.
const MAX_AGE: HeaderValue = HeaderValue::from_static("3600");

/// Whose pages may call. By default nobody's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins {
    any: bool,
    listed: BTreeSet<String>,
}

impl Origins {
    /// Reads origins such as `https://chat.example.org`, or `*` for all.
    ///
    /// # Errors
    /// The first text that is neither, and why.
    pub fn read(texts: &[String]) -> Result<Self, String> {
        let mut origins = Self::default();
        for text in texts {
            if text == "*" {
                origins.any = true;
                continue;
            }
            let url = url::Url::parse(text).ok();
            let origin = url.map(|url| url.origin()).filter(|origin| origin.is_tuple());
            match origin {
                Some(origin) if origin.ascii_serialization() == *text => {
                    origins.listed.insert(text.clone());
                }
                Some(origin) => {
                    let meant = origin.ascii_serialization();
                    return Err(format!("`{text}` is more than an origin; write `{meant}`"));
                }
                None => {
                    return Err(format!(
                        "`{text}` is no origin; write for example `https://chat.example.org`, or `*` for all"
                    ));
                }
            }
        }
        Ok(origins)
    }

    /// Whether no other origin may call.
    pub fn is_empty(&self) -> bool {
        !self.any && self.listed.is_empty()
    }

    fn allow(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        let listed = || origin.to_str().is_ok_and(|origin| self.listed.contains(origin));
        (self.any || listed()).then(|| origin.clone())
    }
}

/// Adds the permission to all answers, and answers browsers that ask for it first. Nothing is added without origins.
pub(crate) fn layer(router: Router, origins: Origins) -> Router {
    if origins.is_empty() {
        return router;
    }
    router.layer(from_fn_with_state(Arc::new(origins), permit))
}

async fn permit(State(origins): State<Arc<Origins>>, request: Request, next: Next) -> Response {
    let allowed = origins.allow(request.headers());
    let headers = request.headers();
    let preflight = request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let wanted = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response =
        if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if preflight {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
            if let Some(wanted) = wanted {
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted);
            }
        } else {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    fn origins(texts: &[&str]) -> Result<Origins, String> {
        Origins::read(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    async fn answer(texts: &[&str], method: &str, origin: &str, asks: bool) -> Response {
        let router = layer(Router::new().route("/", get(|| async {})), origins(texts).unwrap());
        let mut request = Request::builder().method(method).uri("/").header(ORIGIN, origin);
        if asks {
            request = request
                .header(ACCESS_CONTROL_REQUEST_METHOD, "POST")
                .header(ACCESS_CONTROL_REQUEST_HEADERS, "authorization");
        }
        router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn listed_origins_may_call_and_others_may_not() {
        const LISTED: &str = "https://chat.example.org";
        let allowed = |response: &Response| {
            let origin = response.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN)?;
            Some(origin.to_str().unwrap().to_owned())
        };
        let response = answer(&[LISTED], "GET", LISTED, false).await;
        assert_eq!(allowed(&response).as_deref(), Some(LISTED));
        let response = answer(&[LISTED], "GET", "https://evil.example.org", false).await;
        assert_eq!((response.status(), allowed(&response)), (StatusCode::OK, None));
        let response = answer(&["*"], "GET", "https://evil.example.org", false).await;
        assert!(allowed(&response).is_some());
        let response = answer(&[], "GET", LISTED, false).await;
        assert!(allowed(&response).is_none() && !response.headers().contains_key(VARY));

        let response = answer(&[LISTED], "OPTIONS", LISTED, true).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_HEADERS], "authorization");
        let response = answer(&[LISTED], "OPTIONS", LISTED, false).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn what_is_no_origin_is_refused_with_what_was_meant() {
        assert!(origins(&["*", "http://localhost:3000"]).is_ok());
        let why = origins(&["https://chat.example.org/"]).unwrap_err();
        assert!(why.contains("write `https://chat.example.org`"), "{why}");
        for wrong in ["chat.example.org", "", "file:///tmp"] {
            assert!(origins(&[wrong]).unwrap_err().contains("no origin"), "{wrong}");
        }
    }
}
