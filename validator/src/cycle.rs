//! The life of a scoring period: observe, plan, ask, turn over to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::Hotkey;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use service::run::Chain as Causes;
use tasks::{Catalogue, Task};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
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
use crate::store::{PeriodId, Store, StoreError};
use crate::tally::{ContenderId, Tallies, Tally};

/// Synthetic queries under way at once, over all miners.
const MAX_IN_FLIGHT: usize = 256;
/// Synthetic queries under way at once to one miner.
const MAX_PER_MINER: usize = 16;
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
        let mut said = String::new();
        loop {
            let contenders = tokio::select! {
                () = stop.cancelled() => break,
                contenders = self.observer.observe() => contenders.unwrap_or_default(),
            };
            let nobody = contenders.is_empty();
            // An empty period is begun once, to end the one before it.
            let turned = if nobody && self.network.contenders().is_empty() {
                Ok(())
            } else {
                self.turn(contenders).await
            };
            let trouble = match &turned {
                Err(error) => Some(format!("no new scoring period can begin: {}", Causes(error))),
                Ok(()) if nobody => {
                    Some("no miner of this subnet serves a task of the catalogue".to_owned())
                }
                Ok(()) => None,
            };
            if let Some(trouble) = trouble {
                if said != trouble {
                    // Miners that are yet to come are no fault.
                    if turned.is_err() {
                        warn!("{trouble}; trying again every {LOOK_AGAIN:?}");
                    } else {
                        info!("{trouble}; looking again every {LOOK_AGAIN:?}");
                    }
                    said = trouble;
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(LOOK_AGAIN) => continue,
                }
            }
            said.clear();
            let probes = self.plan();
            let ends = Instant::now() + self.period;
            self.ends.send_replace(Some(ends));
            info!(
                "a scoring period begins: {} contenders, {} synthetic queries",
                self.contender_count(),
                probes.len()
            );
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
        let mut per_miner: BTreeMap<Hotkey, Arc<Semaphore>> = BTreeMap::new();
        for probe in probes {
            sleep_until(begins + probe.at).await;
            while asking.try_join_next().is_some() {}
            // A miner that leaves so many queries unanswered tells nothing new, and must not take the others' places.
            let own = per_miner
                .entry(probe.hotkey)
                .or_insert_with(|| Arc::new(Semaphore::new(MAX_PER_MINER)));
            let Ok(own) = Arc::clone(own).try_acquire_owned() else { continue };
            let contenders = self.network.contenders();
            let id = ContenderId { hotkey: probe.hotkey, task: probe.task };
            let (Some(contender), Some(task)) =
                (contenders.get(&id), self.catalogue.task(&id.task))
            else {
                continue;
            };
            let Ok(Ok(permit)) = timeout_at(ends, Arc::clone(in_flight).acquire_owned()).await
            else {
                break;
            };
            let mut rng = ChaCha12Rng::seed_from_u64(probe.seed);
            let request = tasks::synthetic::request(task, &mut rng);
            let query =
                query(id.hotkey, contender, task, request.body, request.generation.max_tokens);
            let (asker, accounts, share) =
                (self.asker.clone(), Arc::clone(&self.accounts), task.checking.share);
            asking.spawn(async move {
                let outcome = asker.ask(&query).await;
                accounts.settle(&query, outcome, share, &mut rng);
                drop((permit, own));
            });
        }
        sleep_until(ends).await;
    }

    /// Ends the running period and begins the next.
    ///
    /// If the store does not let it, the old one stays open: what is answered still counts in it.
    async fn turn(
        &mut self,
        contenders: BTreeMap<ContenderId, Contender>,
    ) -> Result<(), StoreError> {
        let now = unix_ms();
        let next = self.store.begin_period(now).await?;
        self.network.set_contenders(contenders);
        self.accounts.keep_only(|id| self.network.contenders().contains_key(id));
        if let Some((ended, tallies)) = self.tallies.turn(next, &self.network.declared()) {
            self.end(ended, now, &tallies).await;
            self.ended.send_replace(Arc::new(tallies));
        }
        self.turned.notify_one();
        Ok(())
    }

    async fn end(&self, period: PeriodId, now: i64, tallies: &BTreeMap<ContenderId, Tally>) {
        let scored = period_scores(&self.parameters, tallies);
        if let Err(error) = self.store.end_period(period, now, &scored).await {
            warn!("a scoring period cannot be stored and will not count: {}", Causes(&error));
        }
    }

    async fn end_what_was_left_open(&self) {
        match self.store.open_periods().await {
            Ok(open) => {
                for (period, tallies) in open {
                    info!(
                        "going on from an earlier run: its last scoring period counts as far as it came"
                    );
                    self.end(period, unix_ms(), &tallies).await;
                }
            }
            Err(error) => warn!("an earlier run's last period cannot be read: {}", Causes(&error)),
        }
    }
}

/// The query that asks a contender.
pub fn query(
    miner: Hotkey,
    contender: &Contender,
    task: &Task,
    body: String,
    max_tokens: u32,
) -> Query {
    Query {
        miner,
        url: contender.url.clone(),
        task: task.id.clone(),
        kind: task.kind,
        body,
        max_tokens,
        timeouts: Timeouts {
            first_token: task.timeouts.first_token(),
            total: task.timeouts.total(),
        },
    }
}
