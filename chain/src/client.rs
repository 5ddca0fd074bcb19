//! The handle to a chain that a service holds: connects when asked, connects again, or to another node, when the connection
//! is lost.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as Lock, PoisonError};
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
use crate::nodes::{NodeHealth, NodeState, Told, told};
use crate::rpc::{BlockClient, Connection, Loss, is_too_much, turned_away};
use crate::storage::At;

/// Block time where the runtime does not state one: that of the main network.
const DEFAULT_BLOCK_TIME: Duration = Duration::from_secs(12);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Public nodes turn callers away who ask too often, and asking on prolongs it: they are left alone for so many times
/// the longest pause.
const TURNED_AWAY_PAUSES: u32 = 4;

/// A chain. Clones share one connection, to one of the configured nodes.
///
/// Every request has a deadline. A lost connection is opened again by the next request, to the next node where there are
/// several, with growing, randomly shortened pauses in between for each node, during which requests fail at once with
/// [`ChainError::Waiting`]: a service keeps what it knows and asks again later.
#[derive(Clone)]
pub struct Chain {
    inner: Arc<Inner>,
}

struct Inner {
    config: ChainConfig,
    /// Never empty.
    urls: Vec<Url>,
    /// Which of them the connection belongs to, or the last one did.
    current: AtomicUsize,
    connection: watch::Sender<Option<Arc<Connection>>>,
    attempts: Mutex<Attempts>,
    heads: watch::Sender<Option<Head>>,
    /// The node whose head was published last.
    told_by: AtomicUsize,
    health: Lock<Vec<NodeState>>,
    /// One transaction at a time: the next nonce is known only when the last transaction is in the pool.
    signing: Mutex<()>,
}

/// What the next attempt to connect depends on; locked during an attempt.
struct Attempts {
    /// The first chain that was met; no other is accepted later.
    genesis: Option<BlockHash>,
    /// The node to try first.
    first: usize,
    nodes: Vec<Pause>,
}

/// How long a node is left alone.
#[derive(Default, Clone, Copy)]
struct Pause {
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
        let urls = config.urls()?;
        let nodes = urls.len();
        let attempts = Attempts {
            genesis: config.network.genesis(),
            first: 0,
            nodes: vec![Pause::default(); nodes],
        };
        let inner = Inner {
            config,
            urls,
            current: AtomicUsize::new(0),
            connection: watch::Sender::new(None),
            attempts: Mutex::new(attempts),
            heads: watch::Sender::new(None),
            told_by: AtomicUsize::new(0),
            health: Lock::new(vec![NodeState::Unknown; nodes]),
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

    /// The node that is asked, without what may be secret in its address.
    pub fn endpoint(&self) -> String {
        self.endpoint_of(self.current())
    }

    /// The health of all configured nodes. They are looked at by [`Chain::follow`] when there are several.
    pub fn nodes(&self) -> Vec<NodeHealth> {
        let states = self.inner.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let health = |(index, state)| NodeHealth {
            endpoint: self.endpoint_of(index),
            in_use: index == self.current(),
            state,
        };
        states.into_iter().enumerate().map(health).collect()
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

    /// How often nodes are looked at when there are several.
    pub(crate) fn look_every(&self) -> Duration {
        self.inner.config.look_every
    }

    pub(crate) fn count(&self) -> usize {
        self.inner.urls.len()
    }

    /// The node that is asked.
    pub(crate) fn current(&self) -> usize {
        self.inner.current.load(Ordering::Relaxed)
    }

    pub(crate) fn endpoint_of(&self, node: usize) -> String {
        self.inner.urls.get(node).map(shown).unwrap_or_default()
    }

    pub(crate) fn set_health(&self, states: Vec<NodeState>) {
        *self.inner.health.lock().unwrap_or_else(PoisonError::into_inner) = states;
    }

    /// Tells the users of [`Chain::blocks`] about a finalized block that `node` has told of.
    pub(crate) fn publish(&self, head: Head, node: usize) {
        let by_the_same_node = self.inner.told_by.load(Ordering::Relaxed) == node;
        let is_new = self.inner.heads.send_if_modified(|last| {
            let told = told(last.as_ref(), &head, by_the_same_node);
            if let (Told::Contradiction, Some(known)) = (told, &*last) {
                warn!(
                    endpoint = self.endpoint_of(node),
                    "a final block was taken back: block {} was {}, now the newest is {} with hash {}",
                    known.number, known.hash, head.number, head.hash,
                );
            }
            let is_new = told != Told::Nothing;
            if is_new {
                *last = Some(head);
            }
            is_new
        });
        if is_new {
            self.inner.told_by.store(node, Ordering::Relaxed);
        }
    }

    /// Resolves when another connection has taken the place of this one.
    pub(crate) async fn replaced(&self, connection: &Arc<Connection>) {
        let is_another = |now: &Option<Arc<Connection>>| {
            now.as_ref().is_some_and(|now| !Arc::ptr_eq(now, connection))
        };
        // The sender lives as long as this handle.
        let _ = self.inner.connection.subscribe().wait_for(is_another).await;
    }

    /// How long a node is left alone after so many failures in a row.
    pub(crate) fn pause(&self, failures: u32, is_turned_away: bool) -> Duration {
        let longest = self.inner.config.longest_pause;
        let pause = backoff(failures, longest, rand::random());
        if is_turned_away { pause.max(longest * TURNED_AWAY_PAUSES) } else { pause }
    }

    /// Uses another node from now on.
    pub(crate) async fn change_to(&self, node: usize) {
        self.inner.attempts.lock().await.first = node;
        if let Some(connection) = self.living_connection() {
            connection.leave();
        }
        // Who still follows the old connection sees the new one. If none can be opened, the next request tries again.
        let _ = self.connection().await;
    }

    /// The connection, if there is one that works as far as is known.
    pub(crate) fn living_connection(&self) -> Option<Arc<Connection>> {
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
        if let Some(lost) = self.inner.connection.send_replace(None) {
            self.note_loss(&mut attempts, lost.loss());
        }
        let (mut error, mut retry_in) = (None, self.inner.config.longest_pause);
        let (first, count) = (attempts.first, self.count());
        for node in (0..count).map(|offset| (first + offset) % count) {
            let not_before = attempts.nodes[node].not_before;
            let pause = not_before.map(|then| then.saturating_duration_since(Instant::now()));
            if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
                retry_in = retry_in.min(pause);
                continue;
            }
            match self.open(node, attempts.genesis).await {
                Ok(connection) => {
                    let genesis = connection.genesis();
                    info!(endpoint = self.endpoint_of(node), %genesis, "connected to the chain");
                    let connection = Arc::new(connection);
                    self.inner.current.store(node, Ordering::Relaxed);
                    self.inner.connection.send_replace(Some(connection.clone()));
                    attempts.nodes[node] = Pause::default();
                    (attempts.genesis, attempts.first) = (Some(genesis), node);
                    return Ok(connection);
                }
                Err(reason) => {
                    attempts.nodes[node] = self.pause_after(attempts.nodes[node], &reason);
                    if count > 1 {
                        let cause = std::error::Error::source(&reason).map(ToString::to_string);
                        warn!(cause, "trying the next node: {reason}");
                    }
                    error.get_or_insert(reason);
                }
            }
        }
        Err(error.unwrap_or(ChainError::Waiting { endpoint: self.endpoint(), retry_in }))
    }

    fn note_loss(&self, attempts: &mut Attempts, loss: Option<Loss>) {
        let node = self.current();
        match loss {
            Some(Loss::Left) => return,
            Some(Loss::TurnedAway) => {
                attempts.nodes[node].not_before = Some(Instant::now() + self.pause(0, true));
            }
            Some(Loss::Broken | Loss::Silent) | None => {}
        }
        warn!(endpoint = self.endpoint_of(node), "lost the connection to the chain");
        attempts.first = (node + 1) % self.count();
    }

    fn pause_after(&self, before: Pause, reason: &ChainError) -> Pause {
        let pause = self.pause(before.failures, was_turned_away(reason));
        Pause {
            failures: before.failures.saturating_add(1),
            not_before: Some(Instant::now() + pause),
        }
    }

    /// The chain that all nodes must serve, once it is known.
    pub(crate) async fn expected_genesis(&self) -> Option<BlockHash> {
        self.inner.attempts.lock().await.genesis
    }

    pub(crate) async fn open(
        &self,
        node: usize,
        expected: Option<BlockHash>,
    ) -> Result<Connection, ChainError> {
        let endpoint = self.endpoint_of(node);
        let connection =
            Connection::open(&self.inner.urls[node], self.deadline(), self.count() > 1)
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

/// Whether the node has said that it is asked too much.
pub(crate) fn was_turned_away(error: &ChainError) -> bool {
    match error {
        ChainError::Unreachable { source, .. } => turned_away(source),
        ChainError::Refused { code, .. } => is_too_much(*code),
        _ => false,
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
