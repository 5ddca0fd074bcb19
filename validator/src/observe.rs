//! Reads the subnet before a period begins: who is there, where, and what they declare.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chain::axon::check_reachable;
use chain::{Chain, Metagraph};
use common::capacity::Reading;
use common::{Hotkey, Netuid, TaskId, Uid, Volume, capacity};
use futures::{StreamExt, stream};
use tasks::Catalogue;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};
use url::Url;

use crate::ask::{Asker, Ours, Trouble};
use crate::network::{Contender, Network};
use crate::routing::Router;
use crate::tally::ContenderId;

/// Periods whose lengths differ by less are the same.
const PERIOD_TOLERANCE: f64 = 0.01;
/// How long a miner has to declare its capacity.
const CAPACITY_DEADLINE: Duration = Duration::from_secs(10);
/// How long the chain has to show the metagraph, before declarations are asked for by the last one.
const CHAIN_DEADLINE: Duration = Duration::from_secs(5);
const NOT_REGISTERED: &str = "weights wait and miners may refuse to answer until it is; `validator how-to-register` prints \
                              the commands";
/// How many miners are asked for their capacity at once.
const CONCURRENT: usize = 256;

/// Reads the chain and asks every miner what it can serve.
///
/// A look takes as long as it takes, and several may be under way; [`contenders`](Self::contenders) tells at any time
/// what is known by then. So a miner that hangs delays nobody.
#[derive(Debug)]
pub struct Observer {
    subnet: Subnet,
    /// Held while the chain is read: an older metagraph must not replace a newer one.
    reading: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Where the miners are that may be called.
    miners: BTreeMap<Hotkey, (Uid, Url)>,
    /// What each miner declared last, and where.
    declared: BTreeMap<Hotkey, (Url, BTreeMap<TaskId, Volume>)>,
    /// Miners that owe an answer.
    asked: BTreeSet<Hotkey>,
    /// What was already said of each miner, so that it is said once.
    said: BTreeMap<Hotkey, Vec<String>>,
    chain_troubled: bool,
    network_troubled: bool,
}

/// What an [`Observer`] looks at, and with what.
#[derive(Debug)]
pub struct Subnet {
    pub chain: Chain,
    pub netuid: Netuid,
    /// Length of a scoring period.
    pub period: Duration,
    /// Who we are: not a miner to ask.
    pub own: Hotkey,
    /// Where we are reached: not an address to call.
    pub own_address: Option<SocketAddr>,
    /// Whether miners on this machine may be called, for local subnets.
    pub allow_local: bool,
    pub asker: Asker,
    pub catalogue: Arc<Catalogue>,
    pub network: Arc<Network>,
    pub router: Arc<Router>,
}

impl Observer {
    /// An observer that has seen nothing yet.
    pub fn new(subnet: Subnet) -> Self {
        Self { subnet, reading: tokio::sync::Mutex::default(), known: Mutex::default() }
    }

    /// Looks at the whole subnet, until every miner has declared or failed to.
    pub async fn look(self: Arc<Self>) {
        self.read_chain().await;
        let Some(metagraph) = self.subnet.network.metagraph() else { return };
        let miners = self.reachable(&metagraph);
        let asker = &self.subnet.asker;
        let observer = &self;
        stream::iter(miners)
            .for_each_concurrent(CONCURRENT, |(hotkey, url)| async move {
                let Some(_asking) = Asking::begin(observer, hotkey) else { return };
                let body = asker.capacity(&hotkey, &url, CAPACITY_DEADLINE).await;
                observer.take(hotkey, url, body);
            })
            .await;
    }

    /// Everybody who may be asked, by what is known now.
    ///
    /// What could not be read keeps its last known state: a miner that does not declare its capacity this time, but did
    /// before at the same address, is still asked, and succeeds or fails by that.
    pub fn contenders(&self) -> BTreeMap<ContenderId, Contender> {
        let known = self.known();
        let mut contenders = BTreeMap::new();
        for (hotkey, (uid, url)) in &known.miners {
            let Some((_, tasks)) = known.declared.get(hotkey).filter(|(at, _)| at == url) else {
                continue;
            };
            for (task, declared) in tasks {
                let id = ContenderId { hotkey: *hotkey, task: task.clone() };
                let contender = Contender { uid: *uid, url: url.clone(), declared: *declared };
                contenders.insert(id, contender);
            }
        }
        contenders
    }

    /// As if it had been seen.
    #[cfg(test)]
    pub(crate) fn learn(&self, id: &ContenderId, contender: Contender) {
        let Contender { uid, url, declared } = contender;
        let mut known = self.known();
        known.miners.insert(id.hotkey, (uid, url.clone()));
        known.declared.insert(id.hotkey, (url, BTreeMap::from([(id.task.clone(), declared)])));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_chain(&self) {
        let Ok(_reading) = self.reading.try_lock() else { return };
        let read = timeout(CHAIN_DEADLINE, self.subnet.chain.metagraph(self.subnet.netuid)).await;
        let trouble = match read {
            Ok(Ok(metagraph)) => {
                self.take_over(metagraph);
                None
            }
            Ok(Err(error)) => Some(format!("{:#}", anyhow::Error::from(error))),
            Err(_) => Some(format!("it does not answer within {CHAIN_DEADLINE:?}")),
        };
        let troubled = std::mem::replace(&mut self.known().chain_troubled, trouble.is_some());
        match (trouble, troubled) {
            (None, true) => info!("the chain answers again"),
            (None, false) => {}
            (Some(why), true) => debug!("the chain still cannot be read: {why}"),
            (Some(why), false) => {
                warn!("the chain cannot be read, going on with what is known: {why}");
            }
        }
    }

    /// Takes over what has changed in the subnet, and says it.
    fn take_over(&self, metagraph: Metagraph) {
        let Subnet { own, netuid, network, router, asker, .. } = &self.subnet;
        let registered = metagraph.neuron(own).map(|neuron| neuron.uid);
        let Some(changes) = network.update(metagraph) else {
            if registered.is_none() {
                error!("the hotkey {own} is not registered on subnet {netuid}: {NOT_REGISTERED}");
            }
            return;
        };
        let gone = changes.gone();
        router.forget(&gone);
        asker.forget(|hotkey| gone.contains(hotkey));
        for line in changes.lines() {
            info!("{line}");
        }
        if changes.figures > 0 {
            debug!(
                "stake, rewards or the last weights of {} neurons have changed",
                changes.figures
            );
        }
        let about_us = |all: &[(Uid, Hotkey)]| all.iter().any(|(_, hotkey)| hotkey == own);
        if about_us(&changes.left) {
            error!("the hotkey {own} is no longer registered on subnet {netuid}: {NOT_REGISTERED}");
        }
        if about_us(&changes.dismissed) {
            warn!(
                "this validator has lost its permit: others have more stake; its weights do not count"
            );
        }
        if about_us(&changes.joined) {
            info!("the hotkey {own} is registered now");
        }
    }

    /// Takes note of what a miner answered when it was asked for its capacity.
    fn take(&self, hotkey: Hotkey, url: Url, body: Result<Bytes, Trouble>) {
        let (declared, complaints) = match body {
            Err(Trouble::Ours(ours)) => {
                self.say_of_ourselves(&ours);
                return;
            }
            Err(Trouble::Theirs(failure)) => (None, vec![failure.to_string()]),
            Ok(body) => match capacity::read(&body, |task| self.ceiling(task)) {
                Err(complaint) => (None, vec![complaint]),
                Ok(reading) => self.per_our_period(reading),
            },
        };
        let mut known = self.known();
        if let Some(declared) = declared {
            known.declared.insert(hotkey, (url, declared));
            if std::mem::take(&mut known.network_troubled) {
                info!("miners can be asked for their capacity again");
            }
        }
        known.say(hotkey, complaints);
    }

    fn say_of_ourselves(&self, ours: &Ours) {
        if let Ours::Network(why) = ours
            && !std::mem::replace(&mut self.known().network_troubled, true)
        {
            warn!("miners cannot be asked for their capacity because of our own side: {why}");
        }
    }

    /// A declaration for another length of time, as one for ours.
    fn per_our_period(&self, reading: Reading) -> (Option<BTreeMap<TaskId, Volume>>, Vec<String>) {
        let Reading { mut tasks, mut refused, period_s } = reading;
        let ours = self.subnet.period.as_secs_f64();
        if let Some(theirs) =
            period_s.filter(|theirs| (ours / theirs - 1.0).abs() > PERIOD_TOLERANCE)
        {
            refused.push(format!(
                "declares its capacity for periods of {theirs} s, where this validator's have {ours} s; it is converted"
            ));
            tasks = rescaled(&tasks, ours / theirs, |task| self.ceiling(task));
        }
        (Some(tasks), refused)
    }

    fn ceiling(&self, task: &TaskId) -> Option<Volume> {
        self.subnet.catalogue.task(task).filter(|task| task.enabled).map(|task| task.max_capacity)
    }

    /// The miners that may be called. Those that left the subnet are forgotten.
    fn reachable(&self, metagraph: &Metagraph) -> Vec<(Hotkey, Url)> {
        let Subnet { own, own_address, allow_local, .. } = &self.subnet;
        let mut miners = BTreeMap::new();
        let mut known = self.known();
        for neuron in metagraph.neurons.iter().filter(|neuron| neuron.hotkey != *own) {
            let Some(axon) = neuron.axon else { continue };
            match check_reachable(&axon, *own_address, *allow_local) {
                Ok(url) => {
                    miners.insert(neuron.hotkey, (neuron.uid, url));
                }
                Err(refused) => known.say(neuron.hotkey, vec![format!("is not called: {refused}")]),
            }
        }
        let registered: BTreeSet<Hotkey> =
            metagraph.neurons.iter().map(|neuron| neuron.hotkey).collect();
        known.said.retain(|hotkey, _| registered.contains(hotkey));
        known.declared.retain(|hotkey, _| registered.contains(hotkey));
        known.miners = miners;
        known.miners.iter().map(|(hotkey, (_, url))| (*hotkey, url.clone())).collect()
    }
}

impl Known {
    fn say(&mut self, miner: Hotkey, complaints: Vec<String>) {
        let before = self.said.insert(miner, complaints.clone()).unwrap_or_default();
        for complaint in complaints.iter().filter(|complaint| !before.contains(complaint)) {
            warn!(%miner, "miner {miner}: {complaint}");
        }
        if complaints.is_empty() && !before.is_empty() {
            info!(%miner, "miner {miner} declares its capacity properly again");
        }
    }
}

/// A miner that is being asked for its capacity, so that it is not asked a second time meanwhile.
#[derive(Debug)]
struct Asking<'a> {
    observer: &'a Observer,
    miner: Hotkey,
}

impl<'a> Asking<'a> {
    fn begin(observer: &'a Observer, miner: Hotkey) -> Option<Self> {
        let first = observer.known().asked.insert(miner);
        first.then_some(Self { observer, miner })
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.observer.known().asked.remove(&self.miner);
    }
}

/// Volumes times `factor`, each at most its task's ceiling.
fn rescaled(
    tasks: &BTreeMap<TaskId, Volume>,
    factor: f64,
    ceiling: impl Fn(&TaskId) -> Option<Volume>,
) -> BTreeMap<TaskId, Volume> {
    tasks
        .iter()
        .filter_map(|(task, volume)| {
            // What is not finite was no declaration.
            let volume = Volume::try_from(volume.get() * factor).ok()?;
            Some((task.clone(), volume.min(ceiling(task)?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_for_longer_periods_shrinks_and_one_for_shorter_ones_grows_to_the_ceiling() {
        let task: TaskId = "chat-demo".parse().unwrap();
        let declared = BTreeMap::from([(task.clone(), Volume::from(900))]);
        let ceiling = |_: &TaskId| Some(Volume::from(1000));
        assert_eq!(rescaled(&declared, 1.0 / 90.0, ceiling)[&task], Volume::from(10));
        assert_eq!(rescaled(&declared, 90.0, ceiling)[&task], Volume::from(1000));
        assert!(rescaled(&declared, f64::INFINITY, ceiling).is_empty());
    }
}
