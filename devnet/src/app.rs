//! A running devnet: the chain, its clock and its server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::server::RegisterMethodError;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::node::chain::{Chain, ChainError, MOST_UNFINAL};
use crate::node::faults::{BadFault, Fault};
use crate::specs::pulses::{self, PulsesError};
use crate::specs::{Fees, Genesis, Source, Spec};
use crate::{metrics, rpc};

/// How a devnet is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Time between two blocks; above zero.
    pub block_time: Duration,
    /// The folder that the chain is kept in; in memory only without one.
    pub data: Option<PathBuf>,
    /// How many blocks finality is behind the newest block: 0 to [`MOST_UNFINAL`].
    pub finality: u32,
    /// Which runtime it has.
    pub spec: Spec,
    /// Where the signatures that open time-locked weights come from.
    pub beacon: Beacon,
    /// Who pays for what hotkeys call.
    pub fees: Fees,
}

/// A chain's beacon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beacon {
    /// Of its own, whose key everybody knows: see [`crate::runtime::drand::beacon_key`].
    Own {
        /// Seconds between two rounds.
        period_s: NonZeroU32,
    },
    /// Recorded pulses of drand quicknet in this file: see [`pulses::read`].
    Recorded(PathBuf),
}

impl Default for Beacon {
    /// Its own, with a round every second.
    fn default() -> Self {
        Self::Own { period_s: NonZeroU32::MIN }
    }
}

impl Beacon {
    fn source(self) -> Result<Source, PulsesError> {
        Ok(match self {
            Self::Own { period_s } => Source::Own { period_s },
            Self::Recorded(file) => Source::Recorded(pulses::read(&file)?),
        })
    }
}

impl Default for Config {
    /// A block every 250 ms on `127.0.0.1:9944`, in memory, final at once, with spec 365.
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9944),
            block_time: Duration::from_millis(250),
            data: None,
            finality: 0,
            spec: Spec::default(),
            beacon: Beacon::default(),
            fees: Fees::default(),
        }
    }
}

/// Why a devnet did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// A block time of zero.
    #[error("the block time must be at least 1 ms")]
    NoBlockTime,
    /// Finality too far behind.
    #[error("finality can be at most {MOST_UNFINAL} blocks behind, not {0}")]
    Finality(u32),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The recorded pulses cannot be used.
    #[error("the beacon has no pulses")]
    Pulses(#[from] PulsesError),
    /// The chain could not be opened or a block not be made.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Two methods of the same name: a mistake in this crate.
    #[error("the methods cannot be set up")]
    Methods(#[from] RegisterMethodError),
    /// A part of it broke down.
    #[error("a part of the devnet broke down")]
    Task(#[from] tokio::task::JoinError),
}

/// A devnet that is ready to run.
#[derive(Debug)]
pub struct App {
    chain: Arc<Chain>,
    server: rpc::Server,
    local_addr: SocketAddr,
    controls: Controls,
}

impl App {
    /// Opens or creates the chain and takes the port.
    ///
    /// # Errors
    /// If the chain's file is damaged or in use, or the port is taken.
    pub async fn build(config: Config) -> Result<Self, DevnetError> {
        if config.block_time < Duration::from_millis(1) {
            return Err(DevnetError::NoBlockTime);
        }
        if config.finality > MOST_UNFINAL {
            return Err(DevnetError::Finality(config.finality));
        }
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| DevnetError::Listen { address, source })?;
        let local_addr =
            listener.local_addr().map_err(|source| DevnetError::Listen { address, source })?;
        let finality = config.finality;
        let open = move || {
            let beacon = config.beacon.source()?;
            let genesis = Genesis { spec: config.spec, beacon, fees: config.fees };
            Ok::<_, DevnetError>(Chain::open(config.data.as_deref(), config.block_time, &genesis)?)
        };
        let chain = Arc::new(tokio::task::spawn_blocking(open).await??.with_finality(finality));
        let (let_in, reach) = watch::channel(true);
        let server = rpc::Server {
            listener,
            methods: rpc::methods(Arc::clone(&chain))?,
            registry: Arc::new(metrics::registry(Arc::clone(&chain))),
            chain: Arc::clone(&chain),
            reach,
        };
        let controls = Controls { chain: Arc::clone(&chain), let_in: Arc::new(let_in) };
        Ok(Self { chain, server, local_addr, controls })
    }

    /// Where clients connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where clients connect, as they write it.
    pub fn url(&self) -> String {
        format!("ws://{}", self.local_addr)
    }

    /// Handles that make the chain fail on purpose.
    pub fn controls(&self) -> Controls {
        self.controls.clone()
    }

    /// The chain itself, for measurements and tests.
    pub fn chain(&self) -> Arc<Chain> {
        Arc::clone(&self.chain)
    }

    /// Makes blocks and serves clients until `shutdown`.
    ///
    /// # Errors
    /// If a block cannot be made or the file not be written.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), DevnetError> {
        let Self { chain, server, local_addr, controls } = self;
        let head = chain.head();
        info!(
            address = %local_addr,
            block = head.header.number,
            spec = %chain.spec(),
            genesis = ?chain.genesis(),
            block_time_ms = chain.block_time().as_millis(),
            "the devnet runs"
        );
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let serving = rpc::serve(server, cancel.clone());
        tasks.spawn(async {
            serving.await;
            Ok(())
        });
        tasks.spawn(produce(Arc::clone(&chain), cancel.clone()));
        let mut ended = Ok(());
        tokio::select! {
            () = shutdown => {}
            Some(task) = tasks.join_next() => ended = task.map_err(DevnetError::from).flatten(),
        }
        cancel.cancel();
        while let Some(task) = tasks.join_next().await {
            ended = ended.and(task.map_err(DevnetError::from).flatten());
        }
        drop(controls);
        chain.close().map_err(ChainError::from)?;
        info!(block = chain.head().header.number, "the devnet has stopped");
        ended
    }
}

async fn produce(chain: Arc<Chain>, cancel: CancellationToken) -> Result<(), DevnetError> {
    let mut clock = tokio::time::interval(chain.block_time());
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = clock.tick() => {}
        }
        let chain = Arc::clone(&chain);
        if let Some(block) = tokio::task::spawn_blocking(move || chain.turn()).await?? {
            debug!(number = block.number(), extrinsics = block.extrinsics.len(), "a new block");
        }
    }
}

/// Makes the chain fail on purpose, for tests of those who use it.
#[derive(Debug, Clone)]
pub struct Controls {
    chain: Arc<Chain>,
    let_in: Arc<watch::Sender<bool>>,
}

impl Controls {
    /// Lets something go wrong, until [`Controls::resume`] unless it ends by itself. A fault takes the place of an
    /// earlier one of its kind.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn order(&self, fault: Fault) -> Result<(), BadFault> {
        self.chain.order(fault)
    }

    /// What goes wrong now.
    pub fn in_force(&self) -> Vec<Fault> {
        self.chain.faults().in_force()
    }

    /// Ends every fault, also a pause. Who has no reach keeps having none.
    pub fn resume(&self) {
        self.always(Fault::Resume);
    }

    /// Replaces the newest blocks, at most 64, by others and one more as soon as so many are not final.
    ///
    /// # Errors
    /// If `depth` is 0 or too deep.
    pub fn reorg(&self, depth: u32, drop_transactions: bool) -> Result<(), BadFault> {
        self.order(Fault::Reorg { depth, drop_transactions })
    }

    /// Makes no block for so many block times.
    ///
    /// # Errors
    /// If it is none.
    pub fn stall(&self, blocks: u32) -> Result<(), BadFault> {
        self.order(Fault::Stall { blocks: Some(blocks) })
    }

    /// Makes no more blocks. Clients are still answered.
    pub fn pause_blocks(&self) {
        self.always(Fault::Stall { blocks: None });
    }

    /// Makes blocks again. Other faults stay.
    pub fn resume_blocks(&self) {
        self.chain.faults().end_stall();
    }

    /// Lets blocks be made and not become final.
    pub fn stall_finality(&self) {
        self.always(Fault::StallFinality);
    }

    /// Cuts all connections, once; or every so often.
    ///
    /// # Errors
    /// If the time is below 1 ms or above an hour.
    pub fn drop_connections(&self, every: Option<Duration>) -> Result<(), BadFault> {
        self.order(Fault::DropConnections { every_ms: every.map(milliseconds) })
    }

    /// Delays every answer.
    ///
    /// # Errors
    /// If the time is below 1 ms or above an hour.
    pub fn slow(&self, by: Duration) -> Result<(), BadFault> {
        self.order(Fault::Slow { by_ms: milliseconds(by) })
    }

    /// Takes requests and answers none.
    pub fn silent(&self) {
        self.always(Fault::Silent);
    }

    /// Refuses requests (error -32005) and new connections (status 429) for a time.
    ///
    /// # Errors
    /// If the time is below 1 ms or above an hour.
    pub fn refuse(&self, time: Duration) -> Result<(), BadFault> {
        self.order(Fault::Refuse { for_ms: milliseconds(time) })
    }

    /// Claims heads that are so many blocks higher than what can be read, at most 64.
    ///
    /// # Errors
    /// If `by` is 0 or too much.
    pub fn lie_height(&self, by: u32) -> Result<(), BadFault> {
        self.order(Fault::LieHeight { by })
    }

    /// Takes submitted transactions and cuts the connection before it answers.
    pub fn lose_answers(&self) {
        self.always(Fault::LoseAnswers);
    }

    /// Takes submitted transactions and forgets them; lets those go that wait.
    pub fn drop_transactions(&self) {
        self.always(Fault::DropTransactions);
    }

    /// Refuses submitted transactions with a custom error (0 to 255) or with error 1010, 1012, 1013, 1014 or 1016.
    ///
    /// # Errors
    /// If there is no such error.
    pub fn reject_transactions(&self, code: u16) -> Result<(), BadFault> {
        self.order(Fault::RejectTransactions { code })
    }

    /// Brings the next version of the runtime with the next block.
    pub fn upgrade_runtime(&self) {
        self.always(Fault::UpgradeRuntime);
    }

    /// Without reach every connection is cut and new ones are closed at once, as if the node was gone. Blocks go on.
    pub fn set_reachable(&self, reachable: bool) {
        self.let_in.send_replace(reachable);
    }

    /// Orders what always makes sense.
    fn always(&self, fault: Fault) {
        debug_assert_eq!(fault.check(), Ok(()));
        let _ = self.order(fault);
    }
}

/// Rounded up, so that no time becomes none.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
