//! Reads the subnet at the start of a period: who is there, where, and what they declare.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chain::axon::check_reachable;
use chain::{Chain, ChainError, Metagraph};
use common::capacity::Reading;
use common::{Hotkey, Netuid, TaskId, Uid, Volume, capacity};
use futures::{StreamExt, stream};
use tasks::Catalogue;
use tracing::{debug, info, warn};
use url::Url;

use crate::ask::Asker;
use crate::network::{Contender, Network};
use crate::tally::ContenderId;

/// Periods whose lengths differ by less are the same.
const PERIOD_TOLERANCE: f64 = 0.01;
/// How long a miner has to declare its capacity.
const CAPACITY_DEADLINE: Duration = Duration::from_secs(10);
/// How many miners are asked for their capacity at once.
const CONCURRENT: usize = 64;

/// Reads the chain and asks every miner what it can serve.
#[derive(Debug)]
pub struct Observer {
    pub subnet: Subnet,
    /// What was already said of each miner, so that it is said once.
    said: BTreeMap<Hotkey, Vec<String>>,
    /// What each miner declared last, and where.
    declared: BTreeMap<Hotkey, (Url, BTreeMap<TaskId, Volume>)>,
    chain_troubled: bool,
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
}

impl Observer {
    /// An observer that has seen nothing yet.
    pub fn new(subnet: Subnet) -> Self {
        Self { subnet, said: BTreeMap::new(), declared: BTreeMap::new(), chain_troubled: false }
    }

    /// Looks at the whole subnet; `None` before anything is known.
    ///
    /// What cannot be read keeps its last known state: a miner that does not declare its capacity this time, but did
    /// before at the same address, is still asked, and succeeds or fails by that.
    pub async fn observe(&mut self) -> Option<BTreeMap<ContenderId, Contender>> {
        match self.subnet.chain.metagraph(self.subnet.netuid).await {
            Ok(metagraph) => {
                if std::mem::take(&mut self.chain_troubled) {
                    info!("the chain answers again");
                }
                self.subnet.network.set_metagraph(metagraph);
            }
            Err(error) => self.report_chain(error),
        }
        let metagraph = self.subnet.network.metagraph()?;
        let miners = self.reachable(&metagraph);
        let asker = &self.subnet.asker;
        let declarations: Vec<_> = stream::iter(miners)
            .map(|(uid, hotkey, url)| async move {
                let body = asker.capacity(&hotkey, &url, CAPACITY_DEADLINE).await;
                (uid, hotkey, url, body)
            })
            .buffer_unordered(CONCURRENT)
            .collect()
            .await;
        let mut contenders = BTreeMap::new();
        for (uid, hotkey, url, body) in declarations {
            let (declared, complaints) = match body {
                Err(failure) => (None, vec![failure.to_string()]),
                Ok(body) => match capacity::read(&body, |task| self.ceiling(task)) {
                    Err(complaint) => (None, vec![complaint]),
                    Ok(reading) => self.per_our_period(reading),
                },
            };
            self.say(hotkey, complaints);
            for (task, declared) in self.remember(hotkey, &url, declared) {
                let contender = Contender { uid, url: url.clone(), declared };
                contenders.insert(ContenderId { hotkey, task }, contender);
            }
        }
        let registered: BTreeSet<Hotkey> =
            metagraph.neurons.iter().map(|neuron| neuron.hotkey).collect();
        self.said.retain(|hotkey, _| registered.contains(hotkey));
        self.declared.retain(|hotkey, _| registered.contains(hotkey));
        Some(contenders)
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

    /// The declaration that counts: this one, or the last one from the same address.
    fn remember(
        &mut self,
        miner: Hotkey,
        url: &Url,
        declared: Option<BTreeMap<TaskId, Volume>>,
    ) -> BTreeMap<TaskId, Volume> {
        match declared {
            Some(declared) => {
                self.declared.insert(miner, (url.clone(), declared.clone()));
                declared
            }
            None => match self.declared.get(&miner) {
                Some((known, declared)) if known == url => declared.clone(),
                Some(_) | None => BTreeMap::new(),
            },
        }
    }

    fn report_chain(&mut self, error: ChainError) {
        let error = anyhow::Error::from(error);
        if std::mem::replace(&mut self.chain_troubled, true) {
            debug!("the chain still cannot be read: {error:#}");
        } else {
            warn!("the chain cannot be read, going on with what is known: {error:#}");
        }
    }

    fn ceiling(&self, task: &TaskId) -> Option<Volume> {
        self.subnet.catalogue.task(task).filter(|task| task.enabled).map(|task| task.max_capacity)
    }

    fn reachable(&mut self, metagraph: &Metagraph) -> Vec<(Uid, Hotkey, Url)> {
        let mut miners = Vec::new();
        let own = self.subnet.own;
        for neuron in metagraph.neurons.iter().filter(|neuron| neuron.hotkey != own) {
            let Some(axon) = neuron.axon else { continue };
            match check_reachable(&axon, self.subnet.own_address, self.subnet.allow_local) {
                Ok(url) => miners.push((neuron.uid, neuron.hotkey, url)),
                Err(refused) => self.say(neuron.hotkey, vec![format!("is not called: {refused}")]),
            }
        }
        miners
    }

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
