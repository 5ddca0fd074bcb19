//! Brings running totals and answers to check to the store: in batches, within bounded memory, and never in anybody's
//! way.

mod room;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use service::run::Chain as Causes;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::{unix_ms, uptime};
use crate::metrics::Metrics;
use crate::store::{PendingCheck, PeriodId, Store, StoreError};
use crate::tally::{ContenderId, Report, Tallies, Tally};
use room::Room;

/// Answers on their way to the store take no more memory than this, however long the store is away.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// Answers per transaction.
const BATCH: usize = 256;
/// How long answers are gathered for one transaction.
const GATHER: Duration = Duration::from_millis(50);
/// How much a crash can lose of the running totals, and how soon a store that failed is tried again.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// The queue is counted no more often than this. What was checked meanwhile is not seen as free.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// What an answer takes besides its texts and tokens.
const BYTES_PER_CHECK: usize = 1 << 10;
/// A token's id and its log-probability, generously.
const BYTES_PER_TOKEN: usize = 16;

/// Where answers to check are handed in.
#[derive(Debug)]
pub struct Sender {
    queue: mpsc::UnboundedSender<PendingCheck>,
    waiting_bytes: Arc<AtomicUsize>,
    /// Whether it was spoken of that too many wait.
    said: AtomicBool,
}

/// The other end: writes to the store.
#[derive(Debug)]
pub struct Writer {
    tallies: Arc<Tallies>,
    metrics: Arc<Metrics>,
    store: Store,
    queue: mpsc::UnboundedReceiver<PendingCheck>,
    waiting_bytes: Arc<AtomicUsize>,
    /// Rung when answers wait for checking.
    queued: Arc<Notify>,
    queue_limit: u32,
    /// What was free in the queue when it was counted last, less what was queued since.
    room: Option<(Instant, Room)>,
    /// Whether it was spoken of that answers are left out of the queue.
    said_full: bool,
    /// Answers that the store did not take yet.
    batch: Vec<PendingCheck>,
    totals: Totals,
    /// Whether the store's trouble was spoken of.
    said: bool,
}

/// What becomes of the running totals.
#[derive(Debug)]
enum Totals {
    /// They are this process's to count, with what others leave for it.
    Saved {
        /// Those that the store did not take yet, and their period.
        unsaved: Option<(PeriodId, BTreeMap<ContenderId, Tally>)>,
    },
    /// They are left for the process that counts.
    Left {
        since_ms: i64,
        /// What the store did not take yet.
        unsaved: BTreeMap<ContenderId, Report>,
    },
}

/// Makes the two ends. In the store at most `queue_limit` answers wait for checking.
pub fn writer(
    tallies: Arc<Tallies>,
    metrics: Arc<Metrics>,
    store: Store,
    queued: Arc<Notify>,
    queue_limit: u32,
) -> (Sender, Writer) {
    let (sender, queue) = mpsc::unbounded_channel();
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let sender = Sender {
        queue: sender,
        waiting_bytes: Arc::clone(&waiting_bytes),
        said: AtomicBool::new(false),
    };
    let writer = Writer {
        tallies,
        metrics,
        store,
        queue,
        waiting_bytes,
        queued,
        queue_limit,
        room: None,
        said_full: false,
        batch: Vec::new(),
        totals: Totals::Saved { unsaved: None },
        said: false,
    };
    (sender, writer)
}

impl Sender {
    /// Hands an answer in. Returns false if too many wait already; it goes unchecked then.
    pub fn send(&self, pending: PendingCheck) -> bool {
        let bytes = size(&pending);
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let taken = before + bytes <= MAX_WAITING_BYTES && self.queue.send(pending).is_ok();
        if !taken {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if !self.said.swap(true, Ordering::Relaxed) {
                warn!(
                    "answers go unchecked: those that wait to be stored fill the memory for them"
                );
            }
        } else if before <= MAX_WAITING_BYTES / 2 && self.said.swap(false, Ordering::Relaxed) {
            info!("answers are kept for checking again");
        }
        taken
    }
}

/// About how much memory an answer takes.
fn size(pending: &PendingCheck) -> usize {
    let check = &pending.check;
    let tokens = check.receipt.generated.tokens.len();
    BYTES_PER_CHECK + check.request.len() + check.text.len() + BYTES_PER_TOKEN * tokens
}

/// The totals to write: those that could not be written before, unless newer ones are at hand.
fn merged(
    unsaved: Option<(PeriodId, BTreeMap<ContenderId, Tally>)>,
    period: PeriodId,
    changed: BTreeMap<ContenderId, Tally>,
) -> BTreeMap<ContenderId, Tally> {
    match unsaved {
        // An older period's totals are written when it is ended.
        Some((earlier, mut totals)) if earlier == period => {
            totals.extend(changed);
            totals
        }
        Some(_) | None => changed,
    }
}

impl Writer {
    /// Leaves the totals for another process, the one that counts them.
    #[must_use]
    pub fn for_another_process(self) -> Self {
        Self { totals: Totals::Left { since_ms: unix_ms(), unsaved: BTreeMap::new() }, ..self }
    }

    /// Writes until it is told to stop, then writes what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut flush = tokio::time::interval(FLUSH_EVERY);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut closed = false;
        loop {
            // A batch that is still at hand was not taken: it waits for the next tick, and what follows waits behind it.
            let failing = !self.batch.is_empty();
            tokio::select! {
                () = stop.cancelled() => break,
                received = self.queue.recv_many(&mut self.batch, BATCH), if !failing && !closed => {
                    closed = received == 0;
                    self.gather(&stop).await;
                    self.queue_checks().await;
                }
                _ = flush.tick() => self.flush().await,
            }
        }
        self.queue.close();
        self.flush().await;
        while self.batch.is_empty() && self.queue.recv_many(&mut self.batch, BATCH).await > 0 {
            self.queue_checks().await;
        }
        let lost = self.batch.len() + self.queue.len();
        if lost > 0 {
            warn!("{lost} answers were not stored before the end and go unchecked");
        }
    }

    /// Those that come soon after the first go with it.
    async fn gather(&mut self, stop: &CancellationToken) {
        if self.batch.len() < BATCH {
            // Told to stop, it goes on with what there is.
            let _ = tokio::time::timeout(GATHER, stop.cancelled()).await;
        }
        while self.batch.len() < BATCH
            && let Ok(pending) = self.queue.try_recv()
        {
            self.batch.push(pending);
        }
    }

    async fn flush(&mut self) {
        self.queue_checks().await;
        self.look_for_room().await;
        let written = match &self.totals {
            Totals::Saved { .. } => self.save_totals().await,
            Totals::Left { .. } => self.leave_totals(unix_ms()).await,
        };
        match written {
            Ok(true) => self.worked(),
            Ok(false) => {}
            Err(error) => self.failed(&error),
        }
    }

    /// Returns whether there was anything to write.
    async fn save_totals(&mut self) -> Result<bool, StoreError> {
        self.absorb_reports().await?;
        let Totals::Saved { unsaved } = &mut self.totals else { return Ok(false) };
        let Some((period, changed)) = self.tallies.take_changed() else { return Ok(false) };
        let totals = merged(unsaved.take(), period, changed);
        if totals.is_empty() {
            return Ok(false);
        }
        let saved = self.store.save_tallies(period, &totals).await;
        if saved.is_err() {
            *unsaved = Some((period, totals));
        }
        saved.map(|()| true)
    }

    /// Counts what other processes have left.
    async fn absorb_reports(&self) -> Result<(), StoreError> {
        if !self.store.has_reports().await? {
            return Ok(());
        }
        for (id, report) in self.store.take_reports().await? {
            let ago = |ms: i64| {
                let passed = u64::try_from(unix_ms().saturating_sub(ms)).unwrap_or(0);
                uptime().saturating_sub(Duration::from_millis(passed))
            };
            self.tallies.absorb(&id, &report, ago(report.from_ms), ago(report.to_ms));
        }
        Ok(())
    }

    /// Returns whether there was anything to write.
    async fn leave_totals(&mut self, now_ms: i64) -> Result<bool, StoreError> {
        let Totals::Left { since_ms, unsaved } = &mut self.totals else { return Ok(false) };
        for (id, report) in self.tallies.drain(*since_ms, now_ms) {
            let known = unsaved.get(&id).map_or(report, |earlier| earlier.and(&report));
            unsaved.insert(id, known);
        }
        *since_ms = now_ms;
        if unsaved.is_empty() {
            return Ok(false);
        }
        self.store.leave_reports(unsaved).await?;
        unsaved.clear();
        Ok(true)
    }

    async fn queue_checks(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if let Err(error) = self.make_room().await {
            self.failed(&error);
            return;
        }
        if self.batch.is_empty() {
            return;
        }
        match self.store.queue_checks(&self.batch, self.queue_limit).await {
            Ok(taken) => {
                for pending in self.batch.iter().skip(taken) {
                    self.metrics.checked(&pending.check.task, "dropped");
                }
                if taken < self.batch.len() {
                    self.say_full();
                }
                let bytes = self.batch.iter().map(size).sum();
                self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.batch.clear();
                self.queued.notify_one();
                self.worked();
            }
            Err(error) => {
                // The batch is tried again, and must not take its places twice.
                self.room = None;
                self.failed(&error);
            }
        }
    }

    /// Leaves out answers of contenders that have their part of the queue.
    async fn make_room(&mut self) -> Result<(), StoreError> {
        let counted = self.room.take().filter(|(at, _)| at.elapsed() < COUNT_EVERY);
        let (at, mut room) = match counted {
            Some(counted) => counted,
            None => {
                let of_each = self.store.checks_waiting_of_each().await?;
                (Instant::now(), Room::new(self.queue_limit, of_each))
            }
        };
        let mut left_out = 0;
        self.batch.retain(|pending| {
            let check = &pending.check;
            let id = ContenderId { hotkey: check.miner, task: check.task.clone() };
            let taken = room.take(&id);
            if !taken {
                self.metrics.checked(&check.task, "dropped");
                left_out += size(pending);
            }
            taken
        });
        self.room = Some((at, room));
        self.waiting_bytes.fetch_sub(left_out, Ordering::Relaxed);
        if left_out > 0 {
            self.say_full();
        }
        Ok(())
    }

    fn say_full(&mut self) {
        if !std::mem::replace(&mut self.said_full, true) {
            warn!(
                "answers go unchecked, because too many wait: the checking server does not keep up with them. The \
                 metric `checks` counts them as `dropped`"
            );
        }
    }

    async fn look_for_room(&mut self) {
        if !self.said_full {
            return;
        }
        // A store in trouble is spoken of elsewhere.
        let Ok(waiting) = self.store.checks_waiting().await else { return };
        if Room::is_relaxed(self.queue_limit, waiting) {
            self.said_full = false;
            info!("the checking server keeps up again, no answers are left out any more");
        }
    }

    fn failed(&mut self, error: &StoreError) {
        self.metrics.store_failed();
        if !std::mem::replace(&mut self.said, true) {
            warn!(
                "evidence cannot be stored and is kept in memory, which a crash would lose; trying again every \
                 {FLUSH_EVERY:?}: {}",
                Causes(error)
            );
        }
    }

    fn worked(&mut self) {
        if std::mem::take(&mut self.said) {
            info!("evidence is stored again, and what was kept meanwhile too");
        }
    }
}

#[cfg(test)]
mod tests {
    use common::{Hotkey, Keypair};
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::store::tests::{pending, store};

    impl Writer {
        /// What was handed in and not stored yet.
        pub(crate) fn take_waiting(&mut self) -> Vec<PendingCheck> {
            std::iter::from_fn(|| self.queue.try_recv().ok()).collect()
        }
    }

    #[tokio::test]
    async fn one_contender_cannot_push_the_answers_of_others_out_of_the_queue() {
        let (_folder, store) = store().await;
        let metrics = Metrics::new(&mut Registry::default());
        let (sender, mut writer) =
            writer(Arc::default(), metrics, store.clone(), Arc::default(), 20);
        let bob = Keypair::development("Bob").hotkey();
        let mut waiting: Vec<_> = (0..30).map(|n| pending(&format!("alice-{n}"), n)).collect();
        waiting.push(pending("bob", 99));
        waiting[30].check.miner = bob;
        for pending in waiting {
            assert!(sender.send(pending));
        }
        for _ in 0..2 {
            writer.batch = writer.take_waiting();
            writer.queue_checks().await;
            writer.flush().await;
            assert!(writer.said_full);
        }
        let of_each = store.checks_waiting_of_each().await.unwrap();
        let of = |name: &str| of_each[&contender(Keypair::development(name).hotkey())];
        assert_eq!((of("Alice"), of("Bob")), (4, 1));
        assert_eq!(writer.waiting_bytes.load(Ordering::Relaxed), 0);
        for pending in store.next_checks(10).await.unwrap() {
            store.drop_check(&pending.check.id).await.unwrap();
        }
        writer.flush().await;
        assert!(!writer.said_full);
    }

    fn contender(hotkey: Hotkey) -> ContenderId {
        ContenderId { hotkey, task: "chat-demo".parse().unwrap() }
    }

    fn id(name: u8) -> ContenderId {
        ContenderId { hotkey: Hotkey::from_bytes([name; 32]), task: "chat-demo".parse().unwrap() }
    }

    fn totals(served: &[(u8, u32)]) -> BTreeMap<ContenderId, Tally> {
        served
            .iter()
            .map(|(name, served)| (id(*name), Tally { served: *served, ..Tally::default() }))
            .collect()
    }

    #[test]
    fn totals_that_were_not_stored_are_written_again_unless_newer_ones_are_there() {
        let unsaved = Some((PeriodId(7), totals(&[(1, 10), (2, 20)])));
        let merged = merged(unsaved, PeriodId(7), totals(&[(2, 21), (3, 30)]));
        assert_eq!(merged, totals(&[(1, 10), (2, 21), (3, 30)]));
    }

    #[test]
    fn totals_of_a_period_that_is_over_do_not_get_into_the_next() {
        let unsaved = Some((PeriodId(7), totals(&[(1, 10)])));
        assert_eq!(merged(unsaved, PeriodId(8), totals(&[(2, 1)])), totals(&[(2, 1)]));
    }
}
