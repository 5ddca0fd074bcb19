//! Has answers judged by the checking server.
//!
//! Answers wait in the store, so neither a checking server that is away nor a restart loses them. A verdict is applied
//! once: it replaces the waiting answer in one transaction.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::checks::{CheckBatch, CheckResults, MAX_BATCH, Outcome, Verdict};
use common::evidence::Flag;
use service::run::Chain as Causes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use crate::metrics::Metrics;
use crate::store::{PendingCheck, Store, StoreError};
use crate::suspicion::Suspicions;
use crate::tally::ContenderId;

/// The largest answer of a checking server that is read.
const MAX_RESPONSE_BYTES: usize = 16 << 20;
/// How long a batch may take: checking servers queue.
const BATCH_DEADLINE: Duration = Duration::from_secs(120);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often the queue is looked at without being told to.
const IDLE: Duration = Duration::from_secs(5);
/// Below this the operator is told of an answer.
const BAD_QUALITY: f64 = 0.5;

/// Where answers are checked.
#[derive(Clone)]
pub struct CheckingConfig {
    pub url: Url,
    /// Sent as bearer token. Never logged.
    pub token: String,
    /// The most answers per request, at most [`MAX_BATCH`].
    pub batch: u32,
    /// The most answers that wait; further ones are not queued.
    pub queue: u32,
}

impl fmt::Debug for CheckingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckingConfig").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// The loop that empties the queue.
#[derive(Debug)]
pub struct Checker {
    http: reqwest::Client,
    config: CheckingConfig,
    store: Store,
    metrics: Arc<Metrics>,
    /// Learn of every verdict.
    suspicions: Arc<Suspicions>,
    /// Rung when answers were queued.
    queued: Arc<Notify>,
    /// Rung when answers have left the queue.
    judged: Arc<Notify>,
    /// Whose bad answers, and whose flags, were told.
    spoken_of: Mutex<SpokenOf>,
    flags_told: Mutex<SpokenOf>,
}

/// Whose bad answers have been spoken of. Bounded, because hotkeys come and go: after that many everybody may be
/// spoken of once more.
#[derive(Debug, Default)]
struct SpokenOf(BTreeSet<ContenderId>);

impl SpokenOf {
    /// More than serve a subnet at a time.
    const MOST: usize = 4_096;

    /// Returns whether it is new.
    fn insert(&mut self, contender: ContenderId) -> bool {
        if self.0.len() >= Self::MOST && !self.0.contains(&contender) {
            self.0.clear();
        }
        self.0.insert(contender)
    }
}

/// Whether nothing was said of a contender yet; from now on something was.
fn is_new(spoken_of: &Mutex<SpokenOf>, contender: &ContenderId) -> bool {
    spoken_of.lock().unwrap_or_else(PoisonError::into_inner).insert(contender.clone())
}

/// Why a batch came back without verdicts.
#[derive(Debug, thiserror::Error)]
enum NotChecked {
    #[error("the checking server cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the checking server is busy")]
    Busy,
    #[error("the checking server refuses our token: set `checking.token` to its `access.token`")]
    WrongToken,
    #[error("the checking server cannot read the request")]
    Unreadable,
    #[error("the checking server answered with status {0}: check `checking.url`")]
    Status(u16),
    #[error("the checking server sent something that is no list of verdicts")]
    Garbage,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Checker {
    /// # Errors
    /// If the HTTP client cannot be set up.
    pub fn new(
        config: CheckingConfig,
        store: Store,
        metrics: Arc<Metrics>,
        suspicions: Arc<Suspicions>,
        queued: Arc<Notify>,
        judged: Arc<Notify>,
    ) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(5))
            .timeout(BATCH_DEADLINE)
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            config,
            store,
            metrics,
            suspicions,
            queued,
            judged,
            spoken_of: Mutex::default(),
            flags_told: Mutex::default(),
        })
    }

    /// Works until it is told to stop. What is not judged by then waits in the store.
    pub async fn run(self, stop: CancellationToken) {
        let whole = self.config.batch.clamp(1, MAX_BATCH as u32);
        let mut size = whole;
        let mut pause = FIRST_PAUSE;
        let mut said = false;
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.check_some(size) => outcome,
            };
            let wait = match outcome {
                Ok(0) => IDLE,
                Ok(_) => {
                    if std::mem::take(&mut said) {
                        info!("the checking server answers again");
                    }
                    (size, pause) = (size.saturating_mul(2).min(whole), FIRST_PAUSE);
                    continue;
                }
                Err(NotChecked::Busy) => grow(&mut pause),
                Err(error) => {
                    // What takes too long together may be done in parts.
                    if matches!(&error, NotChecked::Unreachable(error) if error.is_timeout()) {
                        size = (size / 2).max(1);
                    }
                    // Said once, not at every try: an outage would fill the log.
                    if !std::mem::replace(&mut said, true) {
                        warn!("answers wait for checking: {}", Causes(&error));
                    }
                    grow(&mut pause)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                // New answers are no reason to ask a server in trouble sooner.
                () = self.queued.notified(), if wait == IDLE => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Returns how many answers left the queue.
    async fn check_some(&self, size: u32) -> Result<usize, NotChecked> {
        let waiting = self.store.next_checks(size).await?;
        if waiting.is_empty() {
            return Ok(0);
        }
        let outcome = match self.send(&waiting).await {
            Ok(results) => self.apply(&waiting, &results).await,
            // One answer that the server will not read must not hold up the others for ever.
            Err(NotChecked::Unreadable) => self.one_by_one(&waiting).await,
            Err(error) => return Err(error),
        };
        // Even after an error: some may have left the queue before it.
        self.judged.notify_waiters();
        outcome
    }

    /// Sends the answers of a batch that the server would not read alone, and gives up on those that it refuses again.
    async fn one_by_one(&self, waiting: &[PendingCheck]) -> Result<usize, NotChecked> {
        let mut done = 0;
        for pending in waiting {
            let alone = std::slice::from_ref(pending);
            let sent = if waiting.len() > 1 {
                self.send(alone).await
            } else {
                Err(NotChecked::Unreadable)
            };
            match sent {
                Ok(results) => match self.apply(alone, &results).await {
                    Ok(judged) => done += judged,
                    Err(NotChecked::Busy) => {}
                    Err(error) => return Err(error),
                },
                Err(NotChecked::Unreadable) => {
                    let task = &pending.check.task;
                    warn!(%task, "the checking server cannot read an answer; it counts for nothing");
                    self.store.drop_check(&pending.check.id).await?;
                    self.metrics.checked(task, "unchecked");
                    done += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Returns how many answers left the queue; [`NotChecked::Busy`] if none did, so that they are not sent again at once.
    async fn apply(
        &self,
        waiting: &[PendingCheck],
        results: &CheckResults,
    ) -> Result<usize, NotChecked> {
        let mut done = 0;
        for pending in waiting {
            let (id, task) = (&pending.check.id, &pending.check.task);
            let outcome = results
                .results
                .iter()
                .find(|result| result.id == *id)
                .map(|result| &result.outcome);
            match outcome {
                Some(Outcome::Verdict(verdict)) if (0.0..=1.0).contains(&verdict.quality) => {
                    let applied = self.store.save_verdict(pending, verdict).await?;
                    self.metrics.checked(task, "verdict");
                    let contender = ContenderId { hotkey: pending.check.miner, task: task.clone() };
                    // Evidence of many answers is as good a reason to look closer as a bad one.
                    let flagged = applied.flag >= Flag::Soft;
                    self.suspicions.judged(&contender, if flagged { 0.0 } else { verdict.quality });
                    if applied.is_settled && is_new(&self.flags_told, &contender) {
                        let miner = pending.check.miner;
                        warn!(
                            %miner, %task,
                            "miner {miner}: its answers to {task} are not honest, at odds of a million to one; they are worth \
                             nothing in this period (`validator evidence` shows why)"
                        );
                    }
                    self.speak_of(contender, verdict);
                    done += 1;
                }
                Some(Outcome::Unchecked { reason, retry: false }) => {
                    info!(%task, "an answer cannot be checked and counts for nothing: {reason}");
                    self.store.drop_check(id).await?;
                    self.metrics.checked(task, "unchecked");
                    done += 1;
                }
                Some(Outcome::Unchecked { retry: true, .. } | Outcome::Verdict(_)) | None => {
                    self.metrics.checked(task, "retry");
                    if self.store.postpone_check(id).await? {
                        info!(%task, "an answer came back unchecked too often and counts for nothing");
                        done += 1;
                    }
                }
            }
        }
        if done == 0 { Err(NotChecked::Busy) } else { Ok(done) }
    }

    /// Says once of each miner and task that its answers are bad, and why.
    fn speak_of(&self, contender: ContenderId, verdict: &Verdict) {
        if verdict.quality >= BAD_QUALITY {
            return;
        }
        if is_new(&self.spoken_of, &contender) {
            let ContenderId { hotkey: miner, task } = contender;
            let (quality, reasons) = (verdict.quality, verdict.reasons.join("; "));
            warn!(%miner, %task, "miner {miner}: an answer has quality {quality:.2}: {reasons}");
        }
    }

    async fn send(&self, waiting: &[PendingCheck]) -> Result<CheckResults, NotChecked> {
        let batch =
            CheckBatch { checks: waiting.iter().map(|pending| pending.check.clone()).collect() };
        let url = self.config.url.join("/v1/checks").map_err(|_| NotChecked::Garbage)?;
        let mut response = self
            .http
            .post(url)
            .bearer_auth(&self.config.token)
            .json(&batch)
            .send()
            .await
            .map_err(NotChecked::Unreachable)?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err(NotChecked::WrongToken),
            429 => return Err(NotChecked::Busy),
            400 | 413 | 422 => return Err(NotChecked::Unreadable),
            status => return Err(NotChecked::Status(status)),
        }
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(NotChecked::Unreachable)? {
            body.extend_from_slice(&part);
            if body.len() > MAX_RESPONSE_BYTES {
                return Err(NotChecked::Garbage);
            }
        }
        serde_json::from_slice(&body).map_err(|_| NotChecked::Garbage)
    }
}

/// Returns this pause and doubles the next one.
fn grow(pause: &mut Duration) -> Duration {
    let now = *pause;
    *pause = (now * 2).min(LONGEST_PAUSE);
    now
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use axum::extract::State;
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Response};
    use axum::routing::post;
    use axum::{Json, Router};
    use common::checks::{CheckResult, Evidence};
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::store::tests::{pending, store};

    /// A checking server that answers as it is told. Ids that start with `bad` are never judged.
    #[derive(Debug, Default)]
    struct Script {
        /// 0: judge.
        status: AtomicU16,
        /// How many answers each batch had.
        batches: Mutex<Vec<usize>>,
    }

    async fn answer(State(script): State<Arc<Script>>, Json(batch): Json<CheckBatch>) -> Response {
        script.batches.lock().unwrap().push(batch.checks.len());
        let status = script.status.load(Ordering::Relaxed);
        let unreadable =
            status == 413 && batch.checks.iter().any(|check| check.id.starts_with("bad"));
        if status != 0 && (status != 413 || unreadable) {
            return StatusCode::from_u16(status).unwrap().into_response();
        }
        let judge = |id: String| {
            let verdict =
                Verdict { quality: 1.0, evidence: Evidence::default(), reasons: Vec::new() };
            let outcome = if id.starts_with("bad") {
                Outcome::Unchecked { reason: "the engine failed".to_owned(), retry: true }
            } else {
                Outcome::Verdict(verdict)
            };
            CheckResult { id, outcome }
        };
        Json(CheckResults {
            results: batch.checks.into_iter().map(|check| judge(check.id)).collect(),
        })
        .into_response()
    }

    struct Bench {
        checker: Checker,
        script: Arc<Script>,
        _server: tokio::task::JoinHandle<()>,
        _folder: tempfile::TempDir,
    }

    async fn bench(ids: &[&str]) -> Bench {
        let script = Arc::new(Script::default());
        let router =
            Router::new().route("/v1/checks", post(answer)).with_state(Arc::clone(&script));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let (folder, store) = store().await;
        let waiting: Vec<_> = (0..).zip(ids).map(|(at, id)| pending(id, at)).collect();
        store.queue_checks(&waiting, 100).await.unwrap();
        let config = CheckingConfig { url, token: "x".to_owned(), batch: 16, queue: 100 };
        let metrics = Metrics::new(&mut Registry::default());
        let checker =
            Checker::new(config, store, metrics, Arc::default(), Arc::default(), Arc::default())
                .unwrap();
        Bench { checker, script, _server: server, _folder: folder }
    }

    #[tokio::test]
    async fn answers_that_keep_coming_back_do_not_hold_up_the_others_and_are_given_up() {
        let bench = bench(&["bad-1", "bad-2", "good-1", "good-2"]).await;
        // One place per batch: the bad ones are the oldest.
        for _ in 0..4 {
            let _ = bench.checker.check_some(1).await;
        }
        assert_eq!(bench.checker.store.checks_waiting().await.unwrap(), 2);
        for _ in 0..20 {
            let _ = bench.checker.check_some(1).await;
        }
        assert_eq!(bench.checker.store.checks_waiting().await.unwrap(), 0);
        let judged = bench.checker.store.answers(0).await.unwrap();
        assert_eq!(judged.values().map(Vec::len).sum::<usize>(), 2);
    }

    #[tokio::test]
    async fn a_wrong_address_or_an_outage_loses_no_answer() {
        let bench = bench(&["a", "b"]).await;
        for status in [404, 405, 408, 500, 503, 401, 429] {
            bench.script.status.store(status, Ordering::Relaxed);
            bench.checker.check_some(16).await.unwrap_err();
            assert_eq!(bench.checker.store.checks_waiting().await.unwrap(), 2, "after {status}");
        }
        bench.script.status.store(0, Ordering::Relaxed);
        assert_eq!(bench.checker.check_some(16).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn who_waits_for_the_queue_to_empty_hears_of_answers_that_are_given_up() {
        let bench = bench(&["bad"]).await;
        bench.script.status.store(413, Ordering::Relaxed);
        let judged = Arc::clone(&bench.checker.judged);
        let mut rung = std::pin::pin!(judged.notified());
        assert!(!rung.as_mut().enable());
        assert_eq!(bench.checker.check_some(16).await.unwrap(), 1);
        assert!(rung.enable());
    }

    #[test]
    fn those_spoken_of_are_not_remembered_without_end() {
        let mut spoken = SpokenOf::default();
        let task: common::TaskId = "chat-demo".parse().unwrap();
        let somebody = |name: u32| {
            let mut hotkey = [0; 32];
            hotkey[..4].copy_from_slice(&name.to_be_bytes());
            ContenderId { hotkey: common::Hotkey::from_bytes(hotkey), task: task.clone() }
        };
        for name in 0..10_000 {
            assert!(spoken.insert(somebody(name)));
            assert!(!spoken.insert(somebody(name)));
            assert!(spoken.0.len() <= SpokenOf::MOST);
        }
    }

    #[tokio::test]
    async fn only_the_answer_that_cannot_be_read_is_given_up() {
        let bench = bench(&["a", "bad", "c"]).await;
        bench.script.status.store(413, Ordering::Relaxed);
        assert_eq!(bench.checker.check_some(16).await.unwrap(), 3);
        assert_eq!(*bench.script.batches.lock().unwrap(), [3, 1, 1, 1]);
        let judged = bench.checker.store.answers(0).await.unwrap();
        assert_eq!(judged.values().map(Vec::len).sum::<usize>(), 2);
    }
}
