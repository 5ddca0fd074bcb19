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

use crate::node::chain::{Chain, ChainError};
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
    /// A block every 250 ms on `127.0.0.1:9944`, in memory, with spec 365.
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9944),
            block_time: Duration::from_millis(250),
            data: None,
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
    blocks: watch::Receiver<bool>,
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
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| DevnetError::Listen { address, source })?;
        let local_addr =
            listener.local_addr().map_err(|source| DevnetError::Listen { address, source })?;
        let open = move || {
            let beacon = config.beacon.source()?;
            let genesis = Genesis { spec: config.spec, beacon, fees: config.fees };
            Ok::<_, DevnetError>(Chain::open(config.data.as_deref(), config.block_time, &genesis)?)
        };
        let chain = Arc::new(tokio::task::spawn_blocking(open).await??);
        let (produce, blocks) = watch::channel(true);
        let (let_in, reach) = watch::channel(true);
        let server = rpc::Server {
            listener,
            methods: rpc::methods(Arc::clone(&chain))?,
            registry: Arc::new(metrics::registry(Arc::clone(&chain))),
            reach,
        };
        let controls = Controls { produce: Arc::new(produce), let_in: Arc::new(let_in) };
        Ok(Self { chain, server, local_addr, controls, blocks })
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
        let Self { chain, server, local_addr, controls, blocks } = self;
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
        tasks.spawn(produce(Arc::clone(&chain), blocks, cancel.clone()));
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
        chain.sync().map_err(ChainError::from)?;
        info!(block = chain.head().header.number, "the devnet has stopped");
        ended
    }
}

async fn produce(
    chain: Arc<Chain>,
    blocks: watch::Receiver<bool>,
    cancel: CancellationToken,
) -> Result<(), DevnetError> {
    let mut clock = tokio::time::interval(chain.block_time());
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = clock.tick() => {}
        }
        if !*blocks.borrow() {
            continue;
        }
        let chain = Arc::clone(&chain);
        let block = tokio::task::spawn_blocking(move || chain.produce()).await??;
        debug!(number = block.header.number, extrinsics = block.extrinsics.len(), "a new block");
    }
}

/// Makes the chain fail on purpose, for tests of those who use it.
#[derive(Debug, Clone)]
pub struct Controls {
    produce: Arc<watch::Sender<bool>>,
    let_in: Arc<watch::Sender<bool>>,
}

impl Controls {
    /// Makes no more blocks. Clients are still answered.
    pub fn pause_blocks(&self) {
        self.produce.send_replace(false);
    }

    /// Makes blocks again.
    pub fn resume_blocks(&self) {
        self.produce.send_replace(true);
    }

    /// Without reach every connection is cut and new ones are closed at once, as if the node was gone. Blocks go on.
    pub fn set_reachable(&self, reachable: bool) {
        self.let_in.send_replace(reachable);
    }
}
