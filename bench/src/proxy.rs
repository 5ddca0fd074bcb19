//! The floor: a plain HTTP/1.1 proxy of hyper's server and its pooled client, which reads and changes nothing.

use std::net::SocketAddr;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::http::uri::Authority;
use hyper::service::service_fn;
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::mock::AS_MINER;

/// Serves until the process ends. Of miners it gets what a validator gets.
pub(crate) async fn serve(
    listener: TcpListener,
    upstream: SocketAddr,
    miners: bool,
) -> anyhow::Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
    let authority = Authority::try_from(upstream.to_string())?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, authority) = (client.clone(), authority.clone());
        tokio::spawn(async move {
            let service = service_fn(move |mut request: Request<Incoming>| {
                let (client, authority) = (client.clone(), authority.clone());
                async move {
                    let path = request.uri().path();
                    let uri = Uri::builder()
                        .scheme("http")
                        .authority(authority)
                        .path_and_query(path)
                        .build()?;
                    *request.uri_mut() = uri;
                    if miners {
                        request.headers_mut().insert(AS_MINER, HeaderValue::from_static("1"));
                    }
                    Ok::<_, anyhow::Error>(client.request(request).await?)
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // Who goes away is not reported.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
