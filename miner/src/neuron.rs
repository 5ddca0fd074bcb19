//! The miner as a neuron of the subnet: who may call it, and where it is reached.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chain::{Axon, Chain, Served};
use common::{BlockNumber, Keypair, Netuid};
use service::run::Chain as Causes;
use tokio::sync::Notify;
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

/// What is known of the chain: what `/health` says, and what the metagraph's reader tells the announcement.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Whether the last question was answered.
    pub(crate) connected: AtomicBool,
    pub(crate) registered: AtomicBool,
    /// The block of the last registration that was seen.
    registration: Mutex<Option<BlockNumber>>,
    /// The hotkey was registered while this miner runs: the chain has forgotten its address, or never knew it.
    registered_anew: Notify,
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
        let neuron = metagraph.neuron(&hotkey);
        let uid = neuron.map(|neuron| neuron.uid);
        if self.state.is_registered_anew(neuron.map(|neuron| neuron.registered_at)) && !first {
            self.state.registered_anew.notify_one();
        }
        let was_registered = self.state.registered.swap(uid.is_some(), Ordering::Relaxed);
        self.state.connected.store(true, Ordering::Relaxed);
        self.access.store(Access::from_metagraph(metagraph, &self.rules));
        match uid {
            Some(uid) if first || !was_registered => {
                info!(%uid, block = %metagraph.block, "registered on subnet {} as uid {uid}", self.netuid);
            }
            None if first || was_registered => warn!(
                "the hotkey {hotkey} is not registered on subnet {}: nobody will find this miner. Register it with its \
                 coldkey, `miner how-to-register` prints the command",
                self.netuid
            ),
            _ => {}
        }
    }

    /// Publishes where this miner is reached, and again whenever the hotkey was registered anew, until `stop`.
    pub(crate) async fn announce(self, axon: Axon, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.publish(axon, &stop).await;
            stop.run_until_cancelled(self.state.registered_anew.notified()).await;
        }
    }

    /// Tries until it worked.
    async fn publish(&self, axon: Axon, stop: &CancellationToken) {
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
                    return;
                }
                Ok(Served::Submitted { block, .. }) => {
                    info!(%block, "published on the chain that this miner is at {}:{}", axon.ip, axon.port);
                    return;
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
    }
}

impl State {
    /// Whether there is a registration, and it is not the last one that was seen.
    fn is_registered_anew(&self, registration: Option<BlockNumber>) -> bool {
        let mut last = self.registration.lock().unwrap_or_else(PoisonError::into_inner);
        registration.is_some() && std::mem::replace(&mut *last, registration) != registration
    }
}

#[cfg(test)]
mod tests {
    use chain::{ChainConfig, Metagraph, Network};
    use futures::FutureExt;

    use super::*;
    use crate::access::tests::{metagraph, rules};

    #[tokio::test]
    async fn a_hotkey_that_is_registered_anew_is_announced_again() {
        let keypair = Keypair::development("Bob");
        let hotkey = keypair.hotkey();
        let nowhere = Network::Endpoint("ws://127.0.0.1:9".parse().unwrap());
        let neuron = Neuron {
            chain: Chain::new(ChainConfig::new(nowhere)).unwrap(),
            netuid: Netuid(1),
            keypair,
            rules: rules(),
            access: Arc::default(),
            state: Arc::default(),
        };
        let registered = |block| {
            let mut metagraph = metagraph(&[(hotkey, 0.0, false)]);
            metagraph.neurons[0].registered_at = BlockNumber(block);
            metagraph
        };
        let announces = |metagraph: Metagraph| {
            neuron.take(&metagraph);
            neuron.state.registered_anew.notified().now_or_never().is_some()
        };
        assert!(!announces(registered(5)), "the start announces by itself");
        assert!(!announces(registered(5)));
        assert!(!announces(metagraph(&[])));
        assert!(announces(registered(9)));
        assert!(announces(registered(12)), "between two readings");
        assert!(!announces(registered(12)));
    }
}
