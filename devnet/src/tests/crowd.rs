//! Many clients at once, clients that do not read, and metadata for every kind of client.

use std::time::Instant;

use jsonrpsee::core::client::{ClientT, Subscription, SubscriptionClientT};
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::WsClientBuilder;
use parity_scale_codec::{Decode, Encode};
use serde_json::Value;
use subxt::Metadata;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// How many clients are connected at once. A devnet takes 4096.
const CLIENTS: usize = 400;

#[tokio::test]
async fn hundreds_of_subscribers_hear_of_every_block() {
    let devnet = Running::start(quick(None), |_| {}).await;
    let mut clients = Vec::new();
    let mut subscriptions: Vec<Subscription<Value>> = Vec::new();
    for _ in 0..CLIENTS {
        let client = WsClientBuilder::default().build(&devnet.url).await.unwrap();
        let (method, end) = ("chain_subscribeNewHeads", "chain_unsubscribeNewHeads");
        subscriptions.push(client.subscribe(method, rpc_params![], end).await.unwrap());
        clients.push(client);
    }
    for subscription in &mut subscriptions {
        let mut next = async || {
            let head = tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap();
            let head = head.unwrap().unwrap();
            let number = head["number"].as_str().unwrap().trim_start_matches("0x").to_owned();
            u32::from_str_radix(&number, 16).unwrap()
        };
        let first = next().await;
        assert_eq!([next().await, next().await], [first + 1, first + 2]);
    }
    assert!(clients.iter().all(|client| client.is_connected()));
    devnet.stop().await;
}

/// A WebSocket message of a client, masked with zeros.
fn frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    let mut bytes = vec![0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0];
    bytes.extend(text.as_bytes());
    bytes
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_others_do_not_notice() {
    let devnet = Running::start(quick(None), |_| {}).await;
    let address = devnet.url.trim_start_matches("ws://").to_owned();
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let handshake = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    socket.write_all(handshake.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    let subscribe = r#"{"jsonrpc":"2.0","id":1,"method":"chain_subscribeNewHeads","params":[]}"#;
    socket.write_all(&frame(subscribe)).await.unwrap();
    let ask = frame(r#"{"jsonrpc":"2.0","id":2,"method":"state_getMetadata","params":[]}"#);
    let other = WsClientBuilder::default().build(&devnet.url).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    // Enough answers to fill every buffer on the way, then until the server has had enough.
    while socket.write_all(&ask).await.is_ok() {
        assert!(Instant::now() < deadline, "the connection is cut");
        let header: Value = other.request("chain_getHeader", rpc_params![]).await.unwrap();
        assert!(header["number"].is_string());
    }
    assert!(other.is_connected());
    devnet.stop().await;
}

#[tokio::test]
async fn metadata_is_served_in_all_three_versions() {
    let devnet = Running::start(quick(None), |_| {}).await;
    let client = WsClientBuilder::default().build(&devnet.url).await.unwrap();
    let bytes = |text: String| hex::decode(text.trim_start_matches("0x")).unwrap();
    let call = async |function: &str, data: String| {
        let answer: String =
            client.request("state_call", rpc_params![function, data]).await.unwrap();
        bytes(answer)
    };
    let versions = call("Metadata_metadata_versions", "0x".to_owned()).await;
    let versions = Vec::<u32>::decode(&mut versions.as_slice()).unwrap();
    for version in [14_u32, 15, 16] {
        assert!(versions.contains(&version), "{versions:?}");
        let data = format!("0x{}", hex::encode(version.encode()));
        let answer = call("Metadata_metadata_at_version", data).await;
        let metadata = Option::<Vec<u8>>::decode(&mut answer.as_slice()).unwrap().unwrap();
        assert_eq!((&metadata[..4], metadata[4]), (&b"meta"[..], version as u8));
        let decoded = Metadata::decode_from(&metadata).unwrap();
        let pallet = decoded.pallet_by_name("SubtensorModule").unwrap();
        assert!(pallet.call_variant_by_name("set_weights").is_some());
        assert!(pallet.storage().unwrap().entry_by_name("Weights").is_some());
    }
    let plain: String = client.request("state_getMetadata", rpc_params![]).await.unwrap();
    assert_eq!(bytes(plain)[4], 14);
    let none = call("Metadata_metadata_at_version", "0x63000000".to_owned()).await;
    assert_eq!(none, [0], "there is no version 99");
    devnet.stop().await;
}
