//! The checks that wait for one engine, and the worker that runs them.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::checks::MAX_BATCH;
use engine::{EngineError, ModelInfo, Reference, ReferencePass, SharedEngine};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::allowance::Allowance;
use crate::metrics::{Metrics, ModelLabels};

/// Bounds of a [`Queue`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bounds {
    /// Checks that may wait or run; at least [`MAX_BATCH`], so that every batch fits into an empty queue.
    pub(crate) places: usize,
    /// The longest that one check may take.
    pub(crate) deadline: Duration,
    /// Tokens that may be computed for second looks, as a share of those that checks need.
    pub(crate) second_looks: f64,
}

/// The way to one engine.
#[derive(Debug)]
pub(crate) struct Queue {
    engine: SharedEngine,
    capacity: usize,
    places: Arc<Semaphore>,
    jobs: mpsc::Sender<Job>,
    pace: Arc<Pace>,
    queued: Gauge,
}

/// Why there is no reference for a check.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoReference {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the check took longer than {} s", .0.as_secs_f64())]
    TooSlow(Duration),
    #[error("the engine crashed on this check")]
    Crashed,
    #[error("the checking server is shutting down")]
    Closing,
}

impl NoReference {
    /// Whether the same check may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Engine(EngineError::Failed(_) | EngineError::Load { .. }) => true,
            Self::Engine(
                EngineError::TooLong { .. }
                | EngineError::OutsideVocabulary { .. }
                | EngineError::BadParameter { .. }
                | EngineError::BadPrompt(_)
                | EngineError::Unsupported(_),
            ) => false,
            Self::TooSlow(_) | Self::Crashed | Self::Closing => true,
        }
    }
}

/// What an engine says of an answer.
#[derive(Debug)]
pub(crate) struct Looks {
    pub(crate) reference: Reference,
    /// By the other pass, if it was computed.
    pub(crate) second_look: Option<Reference>,
}

/// What there is to compute for a check.
#[derive(Debug)]
pub(crate) struct Passes {
    pub(crate) needed: ReferencePass,
    /// Computed for some of the checks.
    pub(crate) second_look: Option<ReferencePass>,
}

/// A check on its way, and its place in the queue.
#[derive(Debug)]
struct Job {
    passes: Passes,
    reply: oneshot::Sender<Result<Looks, NoReference>>,
    /// Freed when the check is done or dropped.
    place: Place,
}

/// One place in a queue, counted as long as it is taken.
#[derive(Debug)]
struct Place {
    _permit: OwnedSemaphorePermit,
    queued: Gauge,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, queued: &Gauge) -> Self {
        queued.inc();
        Self { _permit: permit, queued: queued.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queued.dec();
    }
}

/// Places for some checks, taken together so that a batch is let in whole or not at all.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    queue: &'a Queue,
    places: OwnedSemaphorePermit,
}

impl Queue {
    /// A queue and its worker, which must be [run](Worker::run).
    pub(crate) fn new(engine: SharedEngine, bounds: Bounds, metrics: Metrics) -> (Self, Worker) {
        let capacity = bounds.places.max(MAX_BATCH);
        let (sender, jobs) = mpsc::channel(capacity);
        let pace = Arc::new(Pace::default());
        let labels = ModelLabels { model: engine.model().name.clone() };
        let queued = metrics.queued.get_or_create_owned(&labels);
        let desk = Desk {
            engine: engine.clone(),
            deadline: bounds.deadline,
            pace: pace.clone(),
            allowance: Mutex::new(Allowance::new(bounds.second_looks)),
            metrics,
        };
        let worker = Worker { jobs, desk };
        let places = Arc::new(Semaphore::new(capacity));
        (Self { engine, capacity, places, jobs: sender, pace, queued }, worker)
    }

    /// The engine's model.
    pub(crate) fn model(&self) -> &ModelInfo {
        self.engine.model()
    }

    /// Checks that wait or run.
    pub(crate) fn len(&self) -> usize {
        self.capacity - self.places.available_permits()
    }

    /// Takes places for `count` checks, or says after how long there may be some.
    pub(crate) fn reserve(&self, count: usize) -> Result<Places<'_>, Duration> {
        let many = u32::try_from(count).unwrap_or(u32::MAX);
        match self.places.clone().try_acquire_many_owned(many) {
            Ok(places) => Ok(Places { queue: self, places }),
            Err(_) => Err(self.pace.time_for(self.len().min(count))),
        }
    }
}

impl Places<'_> {
    /// Queues one check. Dropping the receiver takes it out again, unless it has begun.
    pub(crate) fn submit(
        &mut self,
        passes: Passes,
    ) -> oneshot::Receiver<Result<Looks, NoReference>> {
        let (reply, receiver) = oneshot::channel();
        if let Some(permit) = self.places.split(1) {
            let place = Place::new(permit, &self.queue.queued);
            // Cannot be full, there is a slot for every place; closed only while shutting down, which the receiver sees.
            let _ = self.queue.jobs.try_send(Job { passes, reply, place });
        }
        receiver
    }
}

/// How long checks took lately.
#[derive(Debug, Default)]
struct Pace {
    /// Moving average, in microseconds.
    mean_us: AtomicU64,
}

impl Pace {
    fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mean = self.mean_us.load(Ordering::Relaxed);
        let next = if mean == 0 { took } else { mean - mean / 8 + took / 8 };
        self.mean_us.store(next, Ordering::Relaxed);
    }

    /// The likely time for some checks: 1 to 60 s.
    fn time_for(&self, checks: usize) -> Duration {
        let checks = u64::try_from(checks).unwrap_or(u64::MAX);
        Duration::from_micros(self.mean_us.load(Ordering::Relaxed).saturating_mul(checks))
            .clamp(Duration::from_secs(1), Duration::from_secs(60))
    }
}

/// Runs the checks of a [`Queue`], as many at once as the engine can.
#[derive(Debug)]
pub(crate) struct Worker {
    jobs: mpsc::Receiver<Job>,
    desk: Desk,
}

/// Where checks are done.
#[derive(Debug)]
struct Desk {
    engine: SharedEngine,
    deadline: Duration,
    pace: Arc<Pace>,
    allowance: Mutex<Allowance>,
    metrics: Metrics,
}

impl Worker {
    /// Works until `stop`, or until the queue is dropped. The checks in hand are finished.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let Self { mut jobs, desk } = self;
        let mut running = FuturesUnordered::new();
        let most = desk.engine.parallel().max(1);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(()) = running.next(), if !running.is_empty() => {}
                job = jobs.recv(), if running.len() < most => match job {
                    Some(job) => running.push(desk.take(job)),
                    None => break,
                },
            }
        }
        while running.next().await.is_some() {}
    }
}

impl Desk {
    async fn take(&self, job: Job) {
        // Whoever asked has gone: the prefill would be for nothing.
        if job.reply.is_closed() {
            self.metrics.dropped.inc();
            return;
        }
        let started = Instant::now();
        let result = self.looks(job.passes).await;
        self.pace.note(started.elapsed());
        // The place first, so that whoever gets the result finds room for more.
        drop(job.place);
        let _ = job.reply.send(result);
    }

    /// Runs the pass that is needed, and now and then that of a second look.
    async fn looks(&self, passes: Passes) -> Result<Looks, NoReference> {
        let Passes { needed, second_look } = passes;
        let count = u32::try_from(needed.tokens.len()).unwrap_or(u32::MAX);
        // Tossed before anything is known of the answer.
        let is_wanted = self.allowance().allows(rand::random());
        let started = Instant::now();
        let reference = self.reference(needed, self.deadline).await?;
        let left = self.deadline.saturating_sub(started.elapsed());
        let pass = second_look.filter(|_| is_wanted && !left.is_zero());
        // Of the shorter prompt no more than of the whole one; paid for even if nothing comes of it.
        let tokens = reference.prompt_tokens.saturating_add(count);
        self.allowance().note(tokens, if pass.is_some() { tokens } else { 0 });
        let second_look = match pass {
            // One that fails is only missing: nothing is held against anybody.
            Some(pass) => self.reference(pass, left).await.ok(),
            None => None,
        };
        Ok(Looks { reference, second_look })
    }

    fn allowance(&self) -> MutexGuard<'_, Allowance> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reference(
        &self,
        pass: ReferencePass,
        deadline: Duration,
    ) -> Result<Reference, NoReference> {
        let started = Instant::now();
        // An engine that panics on one check must not take the others with it.
        let guarded = AssertUnwindSafe(self.engine.reference(pass)).catch_unwind();
        let result = match timeout(deadline, guarded).await {
            Ok(Ok(result)) => result.map_err(NoReference::from),
            Ok(Err(_panic)) => Err(NoReference::Crashed),
            Err(_elapsed) => Err(NoReference::TooSlow(deadline)),
        };
        self.metrics.reference_seconds.observe(started.elapsed().as_secs_f64());
        if let Err(error) = &result
            && error.is_retryable()
        {
            warn!(model = %self.engine.model().name, %error, "a prefill failed: {error}");
        }
        result
    }
}
