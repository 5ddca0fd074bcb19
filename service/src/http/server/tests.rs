use std::time::Instant;

use axum::routing::{get, post};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::http::{Health, layers, operations};

struct Server {
    url: String,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

async fn start(router: Router, limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let running = tokio::spawn(serve(listener, layers(router, 1000), limits, stop.clone()));
    Server { url, stop, running }
}

/// Answers once `go` is notified; says through `begun` that it has the request.
fn slow(begun: Arc<Notify>, go: Arc<Notify>) -> Router {
    Router::new().route(
        "/slow",
        get(async move || {
            begun.notify_one();
            go.notified().await;
            "done"
        }),
    )
}

#[tokio::test]
async fn a_request_in_hand_is_finished_after_stop() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = start(slow(begun.clone(), go.clone()), Limits::default()).await;
    let answer = tokio::spawn(reqwest::get(format!("{}/slow", server.url)));
    begun.notified().await;
    server.stop.cancel();
    go.notify_one();
    assert_eq!(answer.await.unwrap().unwrap().text().await.unwrap(), "done");
    server.running.await.unwrap();
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_off_after_the_grace() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let limits = Limits { grace: Duration::from_millis(50), ..Limits::default() };
    let server = start(slow(begun.clone(), go), limits).await;
    let answer = tokio::spawn(reqwest::get(format!("{}/slow", server.url)));
    begun.notified().await;
    let stopped = Instant::now();
    server.stop.cancel();
    server.running.await.unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(30));
    assert!(answer.await.unwrap().is_err());
}

#[tokio::test]
async fn unknown_paths_wrong_methods_and_large_bodies_are_refused_in_one_shape() {
    let router = Router::new().route("/echo", post(|body: String| async { body }));
    let server = start(router, Limits::default()).await;
    let client = reqwest::Client::new();
    let url = |path| format!("{}{path}", server.url);

    let missing = client.get(url("/nothing")).header("x-request-id", "mine").send().await.unwrap();
    assert_eq!(missing.status(), 404);
    assert_eq!(missing.headers()["x-request-id"], "mine");
    assert_eq!(missing.json::<Value>().await.unwrap()["error"]["type"], "not_found_error");

    let wrong =
        client.get(url("/echo")).header("x-request-id", "{not plain}").send().await.unwrap();
    assert_eq!(wrong.status(), 405);
    assert!(wrong.headers()["x-request-id"].to_str().unwrap().starts_with("req-"));

    let large = client.post(url("/echo")).body("x".repeat(1001)).send().await.unwrap();
    assert_eq!(large.status(), 413);
    server.stop.cancel();
}

#[tokio::test]
async fn health_and_metrics_are_served() {
    let registry = Arc::new(Registry::default());
    let router =
        operations(registry, || Health { ok: false, ..Health::ok().with("chain", "lost") });
    let server = start(router, Limits::default()).await;
    let health = reqwest::get(format!("{}/health", server.url)).await.unwrap();
    assert_eq!(health.status(), 503);
    assert_eq!(health.json::<Value>().await.unwrap(), json!({"ok": false, "chain": "lost"}));
    let metrics = reqwest::get(format!("{}/metrics", server.url)).await.unwrap();
    assert_eq!(metrics.text().await.unwrap(), "# EOF\n");
    server.stop.cancel();
}

#[tokio::test]
async fn with_a_certificate_it_speaks_https_and_a_client_without_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] =
        [("cert.pem", include_str!("test-cert.pem")), ("key.pem", include_str!("test-key.pem"))]
            .map(|(name, text)| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                path
            });
    let tls = Some(Tls::open(&certificate, &key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let router = layers(Router::new().route("/", get(|| async { "hello" })), 1000);
    let running = tokio::spawn(serve_with(
        listener,
        TowerToHyperService::new(router),
        Limits::default(),
        tls,
        stop.clone(),
    ));
    let root = reqwest::Certificate::from_pem(include_bytes!("test-cert.pem")).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let answer = client.get(format!("https://{address}/")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "hello");
    assert!(client.get(format!("http://{address}/")).send().await.is_err());
    stop.cancel();
    running.await.unwrap();
}
