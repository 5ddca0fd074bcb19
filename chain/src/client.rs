//! The handle to a chain that a service holds: connects when asked, connects again when the connection is lost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use common::{BlockNumber, MechanismId, Netuid, Uid};
use subxt::dynamic::Value;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tracing::{info, warn};
use url::Url;

use crate::error::{BlockHash, ChainError};
use crate::metagraph::{self, Metagraph};
use crate::network::{ChainConfig, shown};
use crate::rpc::{BlockClient, Connection, turned_away};
use crate::storage::At;

/// Block time where the runtime does not state one: that of the main network.
const DEFAULT_BLOCK_TIME: Duration = Duration::from_secs(12);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Public nodes turn callers away who ask too often; asking on prolongs it.
const TURNED_AWAY_PAUSE: Duration = Duration::from_secs(60);

/// A chain. Clones share one connection.
///
/// Every request has a deadline. A lost connection is opened again by the next request, with growing, randomly shortened
/// pauses in between, during which requests fail at once with [`ChainError::Waiting`]: a service keeps what it knows
/// and asks again later.
#[derive(Clone)]
pub struct Chain {
    inner: Arc<Inner>,
}

struct Inner {
    config: ChainConfig,
    url: Url,
    connection: watch::Sender<Option<Arc<Connection>>>,
    attempts: Mutex<Attempts>,
    heads: watch::Sender<Option<Head>>,
    /// One transaction at a time: the next nonce is known only when the last transaction is in the pool.
    signing: Mutex<()>,
}

/// What the next attempt to connect depends on; locked during an attempt.
#[derive(Default)]
struct Attempts {
    /// The first chain that was met; no other is accepted later.
    genesis: Option<BlockHash>,
    failures: u32,
    not_before: Option<Instant>,
}

/// A finalized block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Head {
    pub number: BlockNumber,
    pub hash: BlockHash,
}

impl Chain {
    /// A handle that connects at its first request. Fails only when the configuration is wrong.
    pub fn new(config: ChainConfig) -> Result<Self, ChainError> {
        let url = config.url()?;
        let attempts = Attempts { genesis: config.network.genesis(), ..Attempts::default() };
        let inner = Inner {
            config,
            url,
            connection: watch::Sender::new(None),
            attempts: Mutex::new(attempts),
            heads: watch::Sender::new(None),
            signing: Mutex::new(()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A handle that is connected now. For services that rather start without their chain than not at all, there is
    /// [`Chain::new`].
    pub async fn connect(config: ChainConfig) -> Result<Self, ChainError> {
        let chain = Self::new(config)?;
        chain.connection().await?;
        Ok(chain)
    }

    /// The endpoint, without what may be secret in its address.
    pub fn endpoint(&self) -> String {
        shown(&self.inner.url)
    }

    /// Whether there is a working connection, as far as is known. Asks nobody.
    pub fn is_connected(&self) -> bool {
        self.living_connection().is_some()
    }

    /// The newest finalized block as the feed has seen it; `None` until the first. The feed is [`Chain::follow`].
    pub fn blocks(&self) -> watch::Receiver<Option<Head>> {
        self.inner.heads.subscribe()
    }

    /// The newest finalized block, asked now.
    pub async fn finalized_block(&self) -> Result<Head, ChainError> {
        Ok(head(&self.connection().await?.finalized().await?))
    }

    /// Everything about a subnet that a service decides on, read at one finalized block.
    pub async fn metagraph(&self, netuid: Netuid) -> Result<Metagraph, ChainError> {
        let at = self.finalized_at().await?;
        metagraph::read(&at, netuid).await
    }

    /// The weights that neuron `uid` has set in a mechanism, as the chain stores them at the newest finalized block.
    pub async fn weights(
        &self,
        netuid: Netuid,
        mechanism: MechanismId,
        uid: Uid,
    ) -> Result<Vec<(Uid, u16)>, ChainError> {
        self.finalized_at().await?.weights(netuid, mechanism, uid).await
    }

    /// How long the chain takes for a block, from the runtime's own constants.
    pub async fn block_time(&self) -> Result<Duration, ChainError> {
        Ok(block_time(&self.connection().await?.finalized().await?))
    }

    pub(crate) async fn finalized_at(&self) -> Result<At, ChainError> {
        let connection = self.connection().await?;
        let block = connection.finalized().await?;
        Ok(At::new(connection, block))
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.inner.config.deadline
    }

    pub(crate) fn signing(&self) -> &Mutex<()> {
        &self.inner.signing
    }

    /// Tells the users of [`Chain::blocks`] about a finalized block.
    pub(crate) fn publish(&self, head: Head) {
        self.inner.heads.send_if_modified(|last| {
            let is_new = *last != Some(head);
            *last = Some(head);
            is_new
        });
    }

    fn living_connection(&self) -> Option<Arc<Connection>> {
        self.inner.connection.borrow().clone().filter(|connection| connection.is_alive())
    }

    /// The connection, opened if need be.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, ChainError> {
        if let Some(connection) = self.living_connection() {
            return Ok(connection);
        }
        let mut attempts = self.inner.attempts.lock().await;
        // Someone else may have connected meanwhile.
        if let Some(connection) = self.living_connection() {
            return Ok(connection);
        }
        if self.inner.connection.send_replace(None).is_some() {
            warn!(endpoint = self.endpoint(), "lost the connection to the chain");
        }
        let pause = attempts.not_before.map(|then| then.saturating_duration_since(Instant::now()));
        if let Some(retry_in) = pause.filter(|pause| !pause.is_zero()) {
            return Err(ChainError::Waiting { endpoint: self.endpoint(), retry_in });
        }
        match self.open(attempts.genesis).await {
            Ok(connection) => {
                let genesis = connection.genesis();
                info!(endpoint = self.endpoint(), %genesis, "connected to the chain");
                let connection = Arc::new(connection);
                self.inner.connection.send_replace(Some(connection.clone()));
                *attempts = Attempts { genesis: Some(genesis), ..Attempts::default() };
                Ok(connection)
            }
            Err(error) => {
                let longest = self.inner.config.longest_pause;
                let mut pause = backoff(attempts.failures, longest, rand::random());
                if let ChainError::Unreachable { source, .. } = &error
                    && turned_away(source)
                {
                    pause = pause.max(TURNED_AWAY_PAUSE);
                }
                attempts.failures = attempts.failures.saturating_add(1);
                attempts.not_before = Some(Instant::now() + pause);
                Err(error)
            }
        }
    }

    async fn open(&self, expected: Option<BlockHash>) -> Result<Connection, ChainError> {
        let endpoint = self.endpoint();
        let connection = Connection::open(&self.inner.url, self.deadline())
            .await
            .map_err(|source| ChainError::Unreachable { endpoint: endpoint.clone(), source })?;
        let found = connection.genesis();
        match expected {
            Some(expected) if expected != found => {
                Err(ChainError::WrongChain { endpoint, expected, found })
            }
            _ => Ok(connection),
        }
    }
}

pub(crate) fn head(at: &BlockClient) -> Head {
    Head { number: BlockNumber(at.block_number()), hash: at.block_hash().into() }
}

/// The constant `Aura.SlotDuration`, in milliseconds.
pub(crate) fn block_time(at: &BlockClient) -> Duration {
    let slot = subxt::dynamic::constant::<Value>("Aura", "SlotDuration");
    let milliseconds = at.constants().entry(slot).ok().and_then(|value| value.as_u128());
    match milliseconds.and_then(|milliseconds| u64::try_from(milliseconds).ok()) {
        Some(milliseconds @ 1..=600_000) => Duration::from_millis(milliseconds),
        _ => DEFAULT_BLOCK_TIME,
    }
}

/// The pause before the next attempt: doubled with each failure up to `longest`, then shortened by up to a half, as
/// `jitter` in `0.0..1.0` says, so that many services do not come back at the same moment.
fn backoff(failures: u32, longest: Duration, jitter: f64) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(longest);
    full.mul_f64(1.0 - jitter / 2.0)
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::Network;

    fn nobody_listens() -> ChainConfig {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let network: Network = format!("ws://{address}").parse().unwrap();
        ChainConfig { deadline: Duration::from_secs(2), ..ChainConfig::new(network) }
    }

    #[tokio::test]
    async fn an_absent_chain_is_an_error_at_once_and_asked_again_only_after_a_pause() {
        let chain = Chain::new(nobody_listens()).unwrap();
        let first = chain.finalized_block().await.unwrap_err();
        assert!(matches!(first, ChainError::Unreachable { .. }), "{first}");
        let second = chain.finalized_block().await.unwrap_err();
        assert!(matches!(second, ChainError::Waiting { .. }), "{second}");
        assert!(second.is_retryable());
        assert!(second.retry_in().unwrap() <= FIRST_PAUSE);
        assert!(!chain.is_connected());
        assert_eq!(*chain.blocks().borrow(), None);
    }

    #[test]
    fn an_unencrypted_endpoint_elsewhere_is_refused_before_anything_is_sent() {
        let endpoint = Url::parse("ws://192.0.2.1:9944").ok();
        let config = ChainConfig { endpoint, ..ChainConfig::new(Network::Finney) };
        assert!(matches!(Chain::new(config), Err(ChainError::Network(_))));
    }

    proptest! {
        #[test]
        fn pauses_stay_between_half_the_first_and_the_longest(failures: u32, jitter in 0.0..1.0_f64) {
            let longest = Duration::from_secs(15);
            let pause = backoff(failures, longest, jitter);
            prop_assert!(pause <= longest);
            prop_assert!(pause >= FIRST_PAUSE / 2);
        }
    }
}
