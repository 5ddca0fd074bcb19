//! The connections to miners, and the proof of who is asking: a session where there is one, else a signature.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Hotkey, Keypair, btauth};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;
use url::Url;

use super::sessions::{Proof, Sessions};
use crate::clock::unix_ns;

/// How long a connection may take to open.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(60);
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("touchstone-validator/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Sends requests to miners. Miners have addresses, not names, and speak plain HTTP; nothing is followed elsewhere.
#[derive(Debug)]
pub(super) struct Link {
    http: Client<HttpConnector, Full<Bytes>>,
    keypair: Keypair,
    nonces: btauth::Nonces,
    sessions: Sessions,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) miner: &'a Hotkey,
    /// Base of the miner's server.
    pub(super) url: &'a Url,
    pub(super) method: &'a Method,
    pub(super) path: &'static str,
    pub(super) body: &'a Bytes,
}

/// Why there is no answer at all.
#[derive(Debug)]
pub(super) enum SendError {
    /// The address makes no URL.
    Address(String),
    Http(ClientError),
}

impl SendError {
    /// Whether no connection came about.
    pub(super) fn is_connect(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_connect())
    }

    /// Whether [`CONNECT_DEADLINE`] ran out.
    pub(super) fn is_timeout(&self) -> bool {
        let Self::Http(error) = self else { return false };
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return error.kind() == io::ErrorKind::TimedOut;
            }
            cause = error.source();
        }
        false
    }
}

impl Link {
    pub(super) fn new(keypair: Keypair) -> Arc<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_DEADLINE));
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http1_writev(false)
            .build(connector);
        let (nonces, sessions) = (btauth::Nonces::default(), Sessions::default());
        Arc::new(Self { http, keypair, nonces, sessions })
    }

    pub(super) fn forget(&self, gone: impl Fn(&Hotkey) -> bool) {
        self.sessions.forget(gone);
    }

    /// Sends a request, and once more if the miner no longer knows the session it was part of.
    ///
    /// Returns the answer, and the proof that came with the request: the answer's receipt is bound to it.
    pub(super) async fn send(
        self: &Arc<Self>,
        call: Call<'_>,
    ) -> Result<(Response<Incoming>, Proof), SendError> {
        let (proof, open) = self.sessions.proof(call.miner, Instant::now());
        if open {
            self.open_session(*call.miner, call.url.clone());
        }
        let response = self.send_with(call, &proof).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Proof::Session(session, _) = &proof
        {
            // It was restarted, or has closed the session for another reason.
            self.sessions.close(call.miner, session, Instant::now());
            let response = self.send_with(call, &Proof::Signature).await?;
            return Ok((response, Proof::Signature));
        }
        Ok((response, proof))
    }

    async fn send_with(
        &self,
        call: Call<'_>,
        proof: &Proof,
    ) -> Result<Response<Incoming>, SendError> {
        let request = self.request(call, proof)?;
        self.http.request(request).await.map_err(SendError::Http)
    }

    fn request(&self, call: Call<'_>, proof: &Proof) -> Result<Request<Full<Bytes>>, SendError> {
        let Call { miner, url, method, path, body } = call;
        let bad = |error: hyper::http::Error| SendError::Address(error.to_string());
        let uri = Uri::builder()
            .scheme(url.scheme())
            .authority(url.authority())
            .path_and_query(path)
            .build()
            .map_err(bad)?;
        let signed = btauth::Request { method: method.as_str(), target: path, body };
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        // With what the client adds.
        headers.reserve(8);
        headers.insert(USER_AGENT, AGENT);
        headers.insert(CONTENT_TYPE, JSON);
        let mut put = |(name, value): (&'static str, String)| {
            let value = HeaderValue::try_from(value).map_err(|error| bad(error.into()))?;
            headers.insert(HeaderName::from_static(name), value);
            Ok(())
        };
        match proof {
            Proof::Session(session, counter) => {
                session.headers(&signed, *counter).into_iter().try_for_each(&mut put)?;
            }
            Proof::Signature => {
                let nonce = self.nonces.next(unix_ns());
                let signed = btauth::sign(&signed, &self.keypair, Some(miner), nonce);
                signed.into_iter().try_for_each(&mut put)?;
            }
        }
        Ok(request)
    }

    /// Opens a session in the background, so that no request waits for it.
    fn open_session(self: &Arc<Self>, miner: Hotkey, url: Url) {
        let link = Arc::clone(self);
        tokio::spawn(async move {
            let opener = super::sessions::opener();
            let opened = super::sessions::open(&link, opener, &miner, &url).await;
            link.sessions.opened(&miner, opened, Instant::now());
        });
    }

    pub(super) fn own(&self) -> Hotkey {
        self.keypair.hotkey()
    }

    /// Sends a request that is signed.
    pub(super) async fn send_signed(
        &self,
        call: Call<'_>,
    ) -> Result<Response<Incoming>, SendError> {
        self.send_with(call, &Proof::Signature).await
    }
}
