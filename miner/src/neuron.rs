//! The miner as a neuron of the subnet: who may call it, and where it is reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chain::{Axon, Chain, Served};
use common::{Keypair, Netuid};
use service::run::Chain as Causes;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::access::{Access, Snapshot};
use crate::config::AccessConfig;

/// Before the first retry of what failed; doubled up to the time between two readings of the metagraph.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// This miner on its chain.
#[derive(Debug, Clone)]
pub(crate) struct Neuron {
    pub(crate) chain: Chain,
    pub(crate) netuid: Netuid,
    pub(crate) keypair: Keypair,
    pub(crate) rules: AccessConfig,
    pub(crate) access: Arc<Snapshot>,
    pub(crate) state: Arc<State>,
}

/// What `/health` says of the chain.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Whether the last question was answered.
    pub(crate) connected: AtomicBool,
    pub(crate) registered: AtomicBool,
}

/// Pauses that grow.
struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    fn up_to(longest: Duration) -> Self {
        Self { next: FIRST_PAUSE.min(longest), longest }
    }

    fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = (2 * pause).min(self.longest);
        pause
    }
}

impl Neuron {
    /// Reads the metagraph again and again, until `stop`.
    pub(crate) async fn follow_metagraph(self, stop: CancellationToken) {
        let mut pauses = Pauses::up_to(self.rules.refresh);
        let mut failing = false;
        while !stop.is_cancelled() {
            let Some(answer) = stop.run_until_cancelled(self.chain.metagraph(self.netuid)).await
            else {
                return;
            };
            let wait = match answer {
                Ok(metagraph) => {
                    if failing {
                        info!(block = %metagraph.block, "the chain answers again");
                    }
                    failing = false;
                    pauses = Pauses::up_to(self.rules.refresh);
                    self.take(&metagraph);
                    self.rules.refresh
                }
                Err(error) => {
                    if failing {
                        debug!(error = %Causes(&error), "the metagraph still cannot be read");
                    } else {
                        warn!(
                            error = %Causes(&error),
                            "the metagraph cannot be read; the last one stays in force, trying on"
                        );
                    }
                    failing = true;
                    self.state.connected.store(false, Ordering::Relaxed);
                    error.retry_in().unwrap_or_default().max(pauses.take())
                }
            };
            stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    fn take(&self, metagraph: &chain::Metagraph) {
        let first = self.access.load().block.is_none();
        let hotkey = self.keypair.hotkey();
        let uid = metagraph.neuron(&hotkey).map(|neuron| neuron.uid);
        let was_registered = self.state.registered.swap(uid.is_some(), Ordering::Relaxed);
        self.state.connected.store(true, Ordering::Relaxed);
        self.access.store(Access::from_metagraph(metagraph, &self.rules));
        match uid {
            Some(uid) if first || !was_registered => {
                info!(%uid, block = %metagraph.block, "registered on subnet {} as uid {uid}", self.netuid);
            }
            None if first || was_registered => warn!(
                "the hotkey {hotkey} is not registered on subnet {}: nobody will find this miner. Register it with its \
                 coldkey, such as by `btcli subnet register`",
                self.netuid
            ),
            _ => {}
        }
    }

    /// Publishes where this miner is reached; tries until it worked, then waits for `stop`.
    pub(crate) async fn announce(self, axon: Axon, stop: CancellationToken) {
        let mut pauses = Pauses::up_to(self.rules.refresh);
        let mut failing = false;
        while !stop.is_cancelled() {
            // An extrinsic under way is followed to its end: dropping it would leave open whether it was included.
            match self.chain.serve_axon(self.netuid, axon, &self.keypair).await {
                Ok(Served::Skipped) => {
                    info!(
                        "the chain knows already that this miner is at {}:{}",
                        axon.ip, axon.port
                    );
                    break;
                }
                Ok(Served::Submitted { block, .. }) => {
                    info!(%block, "published on the chain that this miner is at {}:{}", axon.ip, axon.port);
                    break;
                }
                Err(error) if failing => {
                    debug!(error = %Causes(&error), "the address still cannot be published");
                }
                Err(error) => {
                    warn!(error = %Causes(&error), "the address cannot be published on the chain, trying on");
                    failing = true;
                }
            }
            stop.run_until_cancelled(tokio::time::sleep(pauses.take())).await;
        }
        stop.cancelled().await;
    }
}
