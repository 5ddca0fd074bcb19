//! The life of a scoring period: plan, ask, look who is there, turn over to the next without a gap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::Hotkey;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use service::run::Chain as Causes;
use tasks::{Catalogue, Task};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::accounts::{Accounts, Origin, fresh_id};
use crate::app::Ended;
use crate::ask::{Asker, Query, Timeouts};
use crate::clock::unix_ms;
use crate::network::{Contender, Network};
use crate::observe::Observer;
use crate::plan::{Declared, Probe, Probing, most_unanswered, schedule, typical_tokens};
use crate::store::{PeriodId, Store, StoreError};
use crate::tally::{ContenderId, Tallies, Tally};

/// Synthetic queries under way at once, over all miners.
const MAX_IN_FLIGHT: usize = 16_384;
/// How soon an empty subnet is looked at again, and a store that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// How long the very first period waits for declarations.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// Declarations for the next period are asked for this part of a period before it begins, but no earlier than
/// [`MAX_LEAD`]. Miners begin their own period when they are asked, if theirs is over but for a fifth at most.
const LEAD_PART: u32 = 10;
const MAX_LEAD: Duration = Duration::from_secs(12);
/// How long probing pauses at most for the store to begin a period; past that it goes on in the old one.
const TURN_PATIENCE: Duration = Duration::from_millis(250);
/// A probe that is due for longer, because this machine slept, is left out: all at once they would be a flood.
const MAX_LATE: Duration = Duration::from_secs(5);

/// Runs one period after the other.
#[derive(Debug)]
pub struct Cycle {
    pub period: Duration,
    pub probing: Probing,
    pub catalogue: Arc<Catalogue>,
    pub network: Arc<Network>,
    pub observer: Arc<Observer>,
    pub asker: Asker,
    pub accounts: Arc<Accounts>,
    pub tallies: Arc<Tallies>,
    pub store: Store,
    /// Rung when contenders have changed or a period is over, so that scores are computed anew.
    pub turned: Arc<Notify>,
    /// When the running period ends.
    pub ends: watch::Sender<Option<Instant>>,
    /// The totals of the period that was over last.
    pub ended: watch::Sender<Ended>,
    pub rng: ChaCha12Rng,
}

/// What is under way over several periods.
#[derive(Debug)]
struct UnderWay {
    queries: JoinSet<()>,
    looks: JoinSet<()>,
    places: Arc<Semaphore>,
    unanswered: BTreeMap<ContenderId, Arc<AtomicU32>>,
}

/// A stretch of time that was planned: a period, or one more of its length that the store cannot begin.
#[derive(Debug)]
struct Planned {
    probes: Vec<Probe>,
    begins: Instant,
    ends: Instant,
}

/// One synthetic query of a contender that is not answered yet.
#[derive(Debug)]
struct Unanswered(Arc<AtomicU32>);

impl Unanswered {
    fn one_more(of: Arc<AtomicU32>) -> Self {
        of.fetch_add(1, Ordering::Relaxed);
        Self(of)
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When declarations for the next period are asked for, before it begins.
fn lead(period: Duration) -> Duration {
    (period / LEAD_PART).min(MAX_LEAD)
}

/// When the next period begins: when the last one ends, unless that is long past.
fn next_beginning(ends: Instant, now: Instant) -> Instant {
    if now.saturating_duration_since(ends) > MAX_LATE { now } else { ends }
}

/// When a period ended that an earlier run left open: the time until this run is none in which anybody was asked.
fn end_of_the_interrupted(began_ms: Option<i64>, now_ms: i64, period: Duration) -> i64 {
    let length = i64::try_from(period.as_millis()).unwrap_or(i64::MAX);
    began_ms.map_or(now_ms, |began| began.saturating_add(length).min(now_ms).max(began))
}

impl Cycle {
    /// Runs until it is told to stop. The open period's totals stay in the store.
    pub async fn run(mut self, stop: CancellationToken) {
        self.end_what_was_left_open().await;
        let mut under_way = UnderWay {
            queries: JoinSet::new(),
            looks: JoinSet::new(),
            places: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            unanswered: BTreeMap::new(),
        };
        let (to_end, ending) = self.ending();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.go_round(&mut under_way, &to_end) => {}
        }
        // Queries under way are dropped: they were ours to finish, so they count for nobody.
        under_way.queries.shutdown().await;
        drop(to_end);
        // What is not ended by then stays open in the store, and the next run ends it.
        let _ = timeout(TURN_PATIENCE, ending).await;
    }

    async fn go_round(&mut self, under_way: &mut UnderWay, to_end: &mpsc::UnboundedSender<Over>) {
        let mut begins = Instant::now();
        let mut next: Option<Beginning> = None;
        let mut said = false;
        loop {
            if self.observer.contenders().is_empty() && self.network.contenders().is_empty() {
                self.wait_for_somebody(&mut said, under_way).await;
                begins = Instant::now();
                continue;
            }
            said = false;
            // A store that was in trouble at the end of the last stretch is not waited for again.
            let patience = if next.is_some() { Duration::ZERO } else { TURN_PATIENCE };
            let beginning = next.get_or_insert_with(|| Beginning::of_a_period(self.store.clone()));
            let begun = if self.ends.borrow().is_some() {
                timeout(patience, beginning.done()).await.ok()
            } else {
                // There is no period in which anything could count.
                Some(beginning.done().await)
            };
            if let Some(id) = begun {
                next = None;
                // Asked again, because beginning may have taken long.
                self.turn(id, self.observer.contenders(), to_end);
                let contenders = self.network.contenders();
                under_way.unanswered.retain(|id, _| contenders.contains_key(id));
                if contenders.is_empty() {
                    self.ends.send_replace(None);
                    continue;
                }
            }
            let probes = self.plan();
            self.tallies.plan_bursts(&probes);
            let planned = Planned { probes, begins, ends: begins + self.period };
            self.ends.send_replace(Some(planned.ends));
            info!(
                "{}: {} contenders, {} synthetic queries",
                if begun.is_some() {
                    "a scoring period begins"
                } else {
                    "the scoring period goes on"
                },
                self.network.contenders().len(),
                planned.probes.len()
            );
            let ends = planned.ends;
            let early = self.act(planned, next.as_mut(), under_way).await;
            begins = if early { Instant::now() } else { next_beginning(ends, Instant::now()) };
        }
    }

    /// Nobody serves a task: looks for some time whether somebody comes.
    async fn wait_for_somebody(&self, said: &mut bool, under_way: &mut UnderWay) {
        if under_way.looks.is_empty() {
            under_way.looks.spawn(Arc::clone(&self.observer).look());
        }
        // A look that takes longer, because somebody hangs, goes on; the others have been heard.
        let _ = timeout(FIRST_LOOK, under_way.looks.join_next()).await;
        if !self.observer.contenders().is_empty() {
            return;
        }
        if !std::mem::replace(said, true) {
            // Miners that are yet to come are no fault.
            info!(
                "no miner of this subnet serves a task of the catalogue; looking again every {TRY_AGAIN:?}"
            );
        }
        sleep(TRY_AGAIN).await;
    }

    fn plan(&mut self) -> Vec<Probe> {
        let ended = Arc::clone(&self.ended.borrow());
        let tokens_per_request = |task: &Task| {
            let of_task = ended.iter().filter(|(id, _)| id.task == task.id);
            typical_tokens(task.tokens_per_request, of_task.map(|(_, tally)| tally))
        };
        let typical: BTreeMap<_, _> = self
            .catalogue
            .enabled()
            .map(|(task, _)| (task.id.clone(), tokens_per_request(task)))
            .collect();
        let declared: Vec<_> = self
            .network
            .contenders()
            .iter()
            .filter_map(|(id, contender)| {
                Some(Declared {
                    hotkey: id.hotkey,
                    task: id.task.clone(),
                    volume: contender.declared,
                    tokens_per_request: *typical.get(&id.task)?,
                })
            })
            .collect();
        schedule(&declared, &self.probing, self.period, &mut self.rng)
    }

    /// Sends what was planned, looks around before the end, and returns at the end. Returns true before it, as soon as
    /// `next` is there: what was left of a stretch that only filled the time is left out.
    async fn act(
        &self,
        planned: Planned,
        next: Option<&mut Beginning>,
        under_way: &mut UnderWay,
    ) -> bool {
        let Planned { probes, begins, ends } = planned;
        let mut probes = probes.into_iter();
        let UnderWay { queries, looks, places, unanswered } = under_way;
        let look = async {
            sleep_until(ends - lead(self.period)).await;
            while looks.try_join_next().is_some() {}
            looks.spawn(Arc::clone(&self.observer).look());
            sleep_until(ends).await;
        };
        let ask = async {
            while let Some(due) = probes.as_slice().first().map(|probe| begins + probe.at) {
                sleep_until(due).await;
                while queries.try_join_next().is_some() {}
                if let Some(probe) = probes.next() {
                    let late = due.elapsed() > MAX_LATE;
                    self.send(probe, late, queries, places, unanswered);
                }
            }
        };
        let early = async {
            match next {
                Some(next) => next.done().await,
                None => std::future::pending().await,
            }
        };
        let early = tokio::select! {
            ((), ()) = async { tokio::join!(look, ask) } => false,
            _ = early => true,
        };
        for Probe { hotkey, task, burst, .. } in probes.filter(|probe| probe.burst.is_some()) {
            self.accounts.not_sent(ContenderId { hotkey, task }, burst);
        }
        early
    }

    fn send(
        &self,
        probe: Probe,
        late: bool,
        queries: &mut JoinSet<()>,
        places: &Arc<Semaphore>,
        unanswered: &mut BTreeMap<ContenderId, Arc<AtomicU32>>,
    ) {
        let Probe { hotkey, task, seed, burst, .. } = probe;
        let id = ContenderId { hotkey, task };
        let Some(contender) = self.network.contenders().get(&id).cloned() else { return };
        if burst.is_none() && self.tallies.take_organic(&id) {
            return;
        }
        let Some(task) = self.catalogue.task(&id.task) else { return };
        let own = Arc::clone(unanswered.entry(id.clone()).or_default());
        let most = most_unanswered(
            contender.declared.get(),
            self.period,
            task.tokens_per_request,
            task.timeouts.total(),
        );
        if own.load(Ordering::Relaxed) >= most {
            // What can no longer be answered in time is not sent: as good as refused.
            self.accounts.given_up(id, burst);
            return;
        }
        let Some(place) = Arc::clone(places).try_acquire_owned().ok().filter(|_| !late) else {
            self.accounts.not_sent(id, burst);
            return;
        };
        let (asker, accounts) = (self.asker.clone(), Arc::clone(&self.accounts));
        let catalogue = Arc::clone(&self.catalogue);
        let own = Unanswered::one_more(own);
        queries.spawn(async move {
            let Some(task) = catalogue.task(&id.task) else { return };
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let request = tasks::synthetic::request(task, &mut rng);
            let max_tokens = request.generation.max_tokens;
            let query = query(id.hotkey, &contender, task, request.body.into(), max_tokens);
            let query = Arc::new(query);
            let under_way = accounts.begin(id, max_tokens, Origin::Synthetic { burst });
            let outcome = asker.ask(&query).await;
            under_way.settle(&query, outcome, task.checking.share, &mut rng, fresh_id);
            drop((place, own));
        });
    }

    /// Ends the running period and begins the next.
    fn turn(
        &self,
        next: PeriodId,
        contenders: BTreeMap<ContenderId, Contender>,
        to_end: &mpsc::UnboundedSender<Over>,
    ) {
        self.network.set_contenders(contenders);
        let contenders = self.network.contenders();
        self.accounts.keep_only(|id| contenders.contains_key(id));
        let declared = self.network.declared();
        match self.tallies.turn(next, &declared, self.period.as_secs_f64()) {
            Some((period, tallies)) => {
                let tallies = Arc::new(tallies);
                self.ended.send_replace(Arc::clone(&tallies));
                // The receiver lives as long as this.
                let _ = to_end.send(Over { period, at_ms: unix_ms(), tallies });
            }
            None => self.turned.notify_one(),
        }
    }

    /// Ends periods in the store, one after the other, and rings for each. Probing does not wait for it.
    fn ending(&self) -> (mpsc::UnboundedSender<Over>, AbortOnDropHandle<()>) {
        let (sender, mut receiver) = mpsc::unbounded_channel::<Over>();
        let (store, turned) = (self.store.clone(), Arc::clone(&self.turned));
        let ending = tokio::spawn(async move {
            while let Some(Over { period, at_ms, tallies }) = receiver.recv().await {
                let what = "end a scoring period, whose totals are kept until then";
                insist(what, || store.end_period(period, at_ms, &tallies)).await;
                turned.notify_one();
            }
        });
        (sender, AbortOnDropHandle::new(ending))
    }

    async fn end_what_was_left_open(&self) {
        let ended = async {
            for (period, tallies) in self.store.open_periods().await? {
                info!(
                    "going on from an earlier run: its last scoring period counts as far as it came"
                );
                let began = self.store.period_began(period).await?;
                let at_ms = end_of_the_interrupted(began, unix_ms(), self.period);
                self.store.end_period(period, at_ms, &tallies).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = ended.await {
            warn!(
                "an earlier run's last period cannot be ended now, the next start tries again: {}",
                Causes(&error)
            );
        }
    }
}

/// A period that is over but not ended in the store.
#[derive(Debug)]
struct Over {
    period: PeriodId,
    at_ms: i64,
    tallies: Arc<BTreeMap<ContenderId, Tally>>,
}

/// A new period that the store is asked for, as often as it takes.
#[derive(Debug)]
struct Beginning {
    id: watch::Receiver<Option<PeriodId>>,
    _task: AbortOnDropHandle<()>,
}

impl Beginning {
    fn of_a_period(store: Store) -> Self {
        let (sender, id) = watch::channel(None);
        let task = tokio::spawn(async move {
            let what = "begin a scoring period, so the last one goes on";
            let begun = insist(what, || store.begin_period(unix_ms())).await;
            sender.send_replace(Some(begun));
        });
        Self { id, _task: AbortOnDropHandle::new(task) }
    }

    async fn done(&mut self) -> PeriodId {
        loop {
            if let Some(id) = *self.id.borrow_and_update() {
                return id;
            }
            if self.id.changed().await.is_err() {
                // The task ends only when it has an id, or with the whole validator.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Repeats what the store is to do until it does it, and says once that it does not.
async fn insist<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut said = false;
    loop {
        match attempt().await {
            Ok(done) => {
                if said {
                    info!("the store works again");
                }
                return done;
            }
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    warn!(
                        "the store cannot {what}; trying again every {TRY_AGAIN:?}: {}",
                        Causes(&error)
                    );
                }
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// The query that asks a contender.
pub fn query(
    miner: Hotkey,
    contender: &Contender,
    task: &Task,
    body: Bytes,
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
        cut_short: false,
    }
}

#[cfg(test)]
mod tests;
