//! One connection to a node: requests with a deadline, and whether the connection still lives.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parity_scale_codec::Encode as _;
use subxt::SubstrateConfig;
use subxt::backend::LegacyBackend;
use subxt::client::{OnlineClient, OnlineClientAtBlock};
use subxt::config::{Hasher as _, Header as _, RpcConfigFor};
use subxt::ext::jsonrpsee::client_transport::ws::{WsHandshakeError, WsTransportClientBuilder};
use subxt::ext::jsonrpsee::core::client::async_client::PingConfig;
use subxt::ext::jsonrpsee::core::client::{Client as WsClient, Error as WsError};
use subxt::rpcs::client::{RawRpcFuture, RawRpcSubscription, RawValue, RpcClientT};
use subxt::rpcs::{LegacyRpcMethods, RpcClient};
use subxt::utils::H256;
use url::Url;

use crate::error::{BlockHash, Cause, ChainError};

/// A block with 5 MB of extrinsics is twice that in hexadecimal digits.
const MAX_ANSWER_BYTES: u32 = 32 * 1024 * 1024;

/// The storage key of `Timestamp.Now`: the Twox-128 hashes of both names. Every Substrate chain has it in every block.
const TIMESTAMP_NOW: [u8; 32] = [
    0xf0, 0xc3, 0x65, 0xc3, 0xcf, 0x59, 0xd6, 0x71, 0xeb, 0x72, 0xda, 0x0e, 0x7a, 0x41, 0x13, 0xc4,
    0x9f, 0x1f, 0x05, 0x15, 0xf4, 0x62, 0xcd, 0xcf, 0x84, 0xe0, 0xf1, 0xd6, 0x04, 0x5d, 0xfc, 0xbb,
];

/// What subxt reads and signs at one block.
pub(crate) type BlockClient = OnlineClientAtBlock<SubstrateConfig>;
pub(crate) type Header = <SubstrateConfig as subxt::Config>::Header;
pub(crate) type Rpc = LegacyRpcMethods<RpcConfigFor<SubstrateConfig>>;

/// A connection. The metadata that it has seen is kept for as long as it lives.
pub(crate) struct Connection {
    online: OnlineClient<SubstrateConfig>,
    rpc: Rpc,
    wire: Arc<Wire>,
}

/// The WebSocket client, and how the connection ended if it did.
struct Wire {
    client: WsClient,
    lost: OnceLock<Loss>,
    /// Whether a refusal for asking too much is a reason to go elsewhere.
    has_alternatives: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Broken,
    Silent,
    /// The node refuses because it is asked too much.
    TurnedAway,
    /// Given up for another node that is better.
    Left,
}

impl Wire {
    /// After an error of the transport nothing on this connection can be relied on, so it is given up. An answer that
    /// says no is no such error.
    fn note<T>(&self, outcome: Result<T, subxt::rpcs::Error>) -> Result<T, subxt::rpcs::Error> {
        let loss = match &outcome {
            Err(subxt::rpcs::Error::Client(error)) => {
                let silent = matches!(error.downcast_ref(), Some(WsError::RequestTimeout));
                Some(if silent { Loss::Silent } else { Loss::Broken })
            }
            Err(subxt::rpcs::Error::User(answer)) if is_too_much(answer.code) => {
                self.has_alternatives.then_some(Loss::TurnedAway)
            }
            Ok(_) | Err(_) => None,
        };
        if let Some(loss) = loss {
            let _ = self.lost.set(loss);
        }
        outcome
    }
}

impl RpcClientT for Wire {
    fn request_raw<'a>(
        &'a self,
        method: &'a str,
        params: Option<Box<RawValue>>,
    ) -> RawRpcFuture<'a, Box<RawValue>> {
        Box::pin(async move { self.note(self.client.request_raw(method, params).await) })
    }

    fn subscribe_raw<'a>(
        &'a self,
        sub: &'a str,
        params: Option<Box<RawValue>>,
        unsub: &'a str,
    ) -> RawRpcFuture<'a, RawRpcSubscription> {
        Box::pin(async move { self.note(self.client.subscribe_raw(sub, params, unsub).await) })
    }
}

impl Connection {
    /// Connects; every later request has the same `deadline`.
    ///
    /// With `has_alternatives` it is given up when the node says that it is asked too much.
    pub(crate) async fn open(
        url: &Url,
        deadline: Duration,
        has_alternatives: bool,
    ) -> Result<Self, Cause> {
        let transport = WsTransportClientBuilder::default()
            .connection_timeout(deadline)
            .max_response_size(MAX_ANSWER_BYTES)
            // One attempt: a redirection might lead to an address that was not checked.
            .max_redirections(1);
        let (sender, receiver) = tokio::time::timeout(deadline, transport.build(url.clone()))
            .await
            .map_err(|_| "no answer in time")??;
        let ping = PingConfig::new().ping_interval(deadline).inactive_limit(deadline * 2);
        let client = WsClient::builder()
            .request_timeout(deadline)
            .max_buffer_capacity_per_subscription(1024)
            .enable_ws_ping(ping)
            .build_with_tokio(sender, receiver);
        let wire = Arc::new(Wire { client, lost: OnceLock::new(), has_alternatives });
        let rpc_client = RpcClient::new(wire.clone());
        let rpc = Rpc::new(rpc_client.clone());
        // Chosen explicitly: subxt's default may send a transaction again through another back end.
        let backend = Arc::new(LegacyBackend::builder().build(rpc_client));
        let online = OnlineClient::from_backend(backend).await?;
        Ok(Self { online, rpc, wire })
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.wire.lost.get().is_none() && self.wire.client.is_connected()
    }

    /// How the connection ended, if it did by what was seen of it.
    pub(crate) fn loss(&self) -> Option<Loss> {
        self.wire.lost.get().copied()
    }

    /// Gives the connection up, after a sign that only its user can see.
    pub(crate) fn give_up(&self) {
        let _ = self.wire.lost.set(Loss::Broken);
    }

    pub(crate) fn genesis(&self) -> BlockHash {
        self.online.genesis_hash().into()
    }

    pub(crate) fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    /// An error of a direct request.
    pub(crate) fn rpc_error(&self, doing: &'static str, error: subxt::rpcs::Error) -> ChainError {
        match error {
            subxt::rpcs::Error::User(answer) => {
                let data = answer
                    .data
                    .as_ref()
                    .map(|data| format!(": {}", data.get()))
                    .unwrap_or_default();
                let message = format!("{}{data}", answer.message).chars().take(300).collect();
                ChainError::Refused { doing, code: answer.code, message }
            }
            error => self.error(doing, error),
        }
    }

    /// An error of subxt, which may or may not stem from the connection.
    pub(crate) fn error(&self, doing: &'static str, error: impl Into<Cause>) -> ChainError {
        match self.wire.lost.get() {
            Some(Loss::Silent) => ChainError::TimedOut { doing },
            Some(Loss::Broken | Loss::TurnedAway | Loss::Left) => {
                ChainError::Lost { doing, source: error.into() }
            }
            None => ChainError::Unexpected { doing, source: error.into() },
        }
    }

    /// The newest block that can no longer be taken back.
    pub(crate) async fn finalized(&self) -> Result<BlockClient, ChainError> {
        const DOING: &str = "reading the newest finalized block";
        self.online.at_current_block().await.map_err(|error| self.error(DOING, error))
    }

    /// The newest block, which may still be taken back.
    pub(crate) async fn best(&self) -> Result<BlockClient, ChainError> {
        const DOING: &str = "reading the newest block";
        let header = self.header(None).await?;
        // Subtensor hashes headers with Blake2; a hasher is at hand only where metadata is.
        let hash = self.rpc.chain_get_block_hash(Some(header.number().into())).await;
        let hash = hash.map_err(|error| self.rpc_error(DOING, error))?;
        let hash =
            hash.ok_or_else(|| ChainError::unexpected(DOING, "the newest block has no hash"))?;
        self.at(hash, header.number()).await
    }

    pub(crate) async fn at(&self, hash: H256, number: u64) -> Result<BlockClient, ChainError> {
        const DOING: &str = "reading the runtime of a block";
        let at = self.online.at_block_hash_and_number(hash, number).await;
        at.map_err(|error| self.error(DOING, error))
    }

    /// Gives the connection up for another node.
    pub(crate) fn leave(&self) {
        let _ = self.wire.lost.set(Loss::Left);
    }

    /// The height of the newest finalized block, if the node can really serve it: header, and state.
    ///
    /// Asks for little, whatever the runtime: no metadata is needed.
    pub(crate) async fn served_height(&self) -> Result<u64, ChainError> {
        const DOING: &str = "looking at a node";
        let hash = self.rpc.chain_get_finalized_head().await;
        let hash = hash.map_err(|error| self.rpc_error(DOING, error))?;
        let header = self.header(Some(hash)).await?;
        let clock = self.rpc.state_get_storage(&TIMESTAMP_NOW, Some(hash)).await;
        let clock = clock.map_err(|error| self.rpc_error(DOING, error))?;
        // The first block has no time yet.
        if clock.is_none() && header.number() > 0 {
            return Err(ChainError::unexpected(
                DOING,
                "the node does not serve the state of the block it names",
            ));
        }
        Ok(header.number())
    }

    /// The header of a block, or of the newest one.
    pub(crate) async fn header(&self, hash: Option<H256>) -> Result<Header, ChainError> {
        const DOING: &str = "reading a block's header";
        let header =
            self.rpc.chain_get_header(hash).await.map_err(|error| self.rpc_error(DOING, error))?;
        header.ok_or_else(|| ChainError::unexpected(DOING, "the node does not know the block"))
    }
}

/// Whether a node's error says that it is asked too much: the codes that public nodes use.
pub(crate) fn is_too_much(code: i32) -> bool {
    matches!(code, -32005 | -32004 | 429)
}

/// Whether a node refused the connection on purpose.
pub(crate) fn turned_away(error: &Cause) -> bool {
    matches!(error.downcast_ref(), Some(WsHandshakeError::Rejected { status_code: 403 | 429 }))
}

/// The hash of a header under the hash function of the chain that `at` belongs to.
pub(crate) fn header_hash(at: &BlockClient, header: &Header) -> BlockHash {
    at.hasher().hash(&header.encode()).into()
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("alive", &self.is_alive()).finish_non_exhaustive()
    }
}
