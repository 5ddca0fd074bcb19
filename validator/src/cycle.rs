//! The life of a scoring period: observe, plan, ask, turn over to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::Hotkey;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use tasks::{Catalogue, Task};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::accounts::Accounts;
use crate::app::Ended;
use crate::ask::{Asker, Query, Timeouts};
use crate::clock::unix_ms;
use crate::evidence::period_scores;
use crate::network::{Contender, Network};
use crate::observe::Observer;
use crate::plan::{Declared, Probe, Probing, schedule};
use crate::scoring::Parameters;
use crate::store::{PeriodId, Store};
use crate::tally::{ContenderId, Tallies, Tally};

/// Synthetic queries under way at once, over all miners.
const MAX_IN_FLIGHT: usize = 256;
/// How soon an empty subnet is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Runs one period after the other.
#[derive(Debug)]
pub struct Cycle {
    pub period: Duration,
    pub probing: Probing,
    pub parameters: Parameters,
    pub catalogue: Arc<Catalogue>,
    pub network: Arc<Network>,
    pub observer: Observer,
    pub asker: Asker,
    pub accounts: Arc<Accounts>,
    pub tallies: Arc<Tallies>,
    pub store: Store,
    /// Rung when contenders have changed or a period is over, so that scores are computed anew.
    pub turned: Arc<Notify>,
    /// When the running period ends.
    pub ends: tokio::sync::watch::Sender<Option<Instant>>,
    /// The totals of the period that was over last.
    pub ended: tokio::sync::watch::Sender<Ended>,
    pub rng: ChaCha12Rng,
}

impl Cycle {
    /// Runs until it is told to stop. The open period's totals stay in the store.
    pub async fn run(mut self, stop: CancellationToken) {
        self.end_what_was_left_open().await;
        let mut asking = JoinSet::new();
        let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let mut waiting_said = false;
        loop {
            let contenders = tokio::select! {
                () = stop.cancelled() => break,
                contenders = self.observer.observe() => contenders.unwrap_or_default(),
            };
            let nobody = contenders.is_empty() && self.network.contenders().is_empty();
            let started = !nobody && self.turn(contenders).await;
            if !started || self.network.contenders().is_empty() {
                if !std::mem::replace(&mut waiting_said, true) {
                    info!("no miner of this subnet serves a task of the catalogue; looking again every {LOOK_AGAIN:?}");
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(LOOK_AGAIN) => continue,
                }
            }
            waiting_said = false;
            let probes = self.plan();
            let ends = Instant::now() + self.period;
            self.ends.send_replace(Some(ends));
            info!("a scoring period begins: {} contenders, {} synthetic queries", self.contender_count(), probes.len());
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.ask_all(probes, ends, &mut asking, &in_flight) => {}
            }
        }
        // Queries under way are dropped: they were ours to finish, so they count for nobody.
        asking.shutdown().await;
    }

    fn contender_count(&self) -> usize {
        self.network.contenders().len()
    }

    fn plan(&mut self) -> Vec<Probe> {
        let declared: Vec<_> = self
            .network
            .contenders()
            .iter()
            .filter_map(|(id, contender)| {
                let task = self.catalogue.task(&id.task)?;
                Some(Declared {
                    hotkey: id.hotkey,
                    task: id.task.clone(),
                    volume: contender.declared,
                    tokens_per_request: task.tokens_per_request,
                })
            })
            .collect();
        schedule(&declared, &self.probing, self.period, &mut self.rng)
    }

    async fn ask_all(
        &self,
        probes: Vec<Probe>,
        ends: Instant,
        asking: &mut JoinSet<()>,
        in_flight: &Arc<Semaphore>,
    ) {
        let begins = ends - self.period;
        for probe in probes {
            sleep_until(begins + probe.at).await;
            while asking.try_join_next().is_some() {}
            let contenders = self.network.contenders();
            let id = ContenderId { hotkey: probe.hotkey, task: probe.task };
            let (Some(contender), Some(task)) = (contenders.get(&id), self.catalogue.task(&id.task)) else {
                continue;
            };
            let Ok(permit) = Arc::clone(in_flight).acquire_owned().await else { return };
            let mut rng = ChaCha12Rng::seed_from_u64(probe.seed);
            let request = tasks::synthetic::request(task, &mut rng);
            let query = query(id.hotkey, contender, task, request.body, request.generation.max_tokens);
            let (asker, accounts, share) = (self.asker.clone(), Arc::clone(&self.accounts), task.checking.share);
            asking.spawn(async move {
                let outcome = asker.ask(&query).await;
                accounts.settle(&query, outcome, share, &mut rng);
                drop(permit);
            });
        }
        sleep_until(ends).await;
    }

    /// Ends the running period and begins the next. Returns false if the store did not let it.
    async fn turn(&mut self, contenders: BTreeMap<ContenderId, Contender>) -> bool {
        let now = unix_ms();
        let next = match self.store.begin_period(now).await {
            Ok(next) => next,
            Err(error) => {
                warn!("no new scoring period can begin, the old one goes on: {:#}", anyhow::Error::from(error));
                return false;
            }
        };
        self.network.set_contenders(contenders);
        self.accounts.keep_only(|id| self.network.contenders().contains_key(id));
        if let Some((ended, tallies)) = self.tallies.turn(next, &self.network.declared()) {
            self.end(ended, now, &tallies).await;
            self.ended.send_replace(Arc::new(tallies));
        }
        self.turned.notify_one();
        true
    }

    async fn end(&self, period: PeriodId, now: i64, tallies: &BTreeMap<ContenderId, Tally>) {
        let scored = period_scores(&self.parameters, tallies);
        if let Err(error) = self.store.end_period(period, now, &scored).await {
            warn!("a scoring period cannot be stored and will not count: {:#}", anyhow::Error::from(error));
        }
    }

    async fn end_what_was_left_open(&self) {
        match self.store.open_period().await {
            Ok(None) => {}
            Ok(Some((period, tallies))) => {
                info!("going on from an earlier run: its last scoring period counts as far as it came");
                self.end(period, unix_ms(), &tallies).await;
            }
            Err(error) => warn!("an earlier run's last period cannot be read: {:#}", anyhow::Error::from(error)),
        }
    }
}

/// The query that asks a contender.
pub fn query(miner: Hotkey, contender: &Contender, task: &Task, body: String, max_tokens: u32) -> Query {
    Query {
        miner,
        url: contender.url.clone(),
        task: task.id.clone(),
        kind: task.kind,
        body,
        max_tokens,
        timeouts: Timeouts { first_token: task.timeouts.first_token(), total: task.timeouts.total() },
    }
}
