//! Has answers judged by the checking server.
//!
//! Answers wait in the store, so neither a checking server that is away nor a restart loses them. A verdict is applied
//! once: it replaces the waiting answer in one transaction.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use common::checks::{CheckBatch, CheckResults, MAX_BATCH, Outcome};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use crate::metrics::Metrics;
use crate::store::{PendingCheck, Store, StoreError};

/// The largest answer of a checking server that is read.
const MAX_RESPONSE_BYTES: usize = 16 << 20;
/// How long a batch may take: checking servers queue.
const BATCH_DEADLINE: Duration = Duration::from_secs(120);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

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
        f.debug_struct("CheckingConfig").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// The loop that empties the queue.
#[derive(Debug)]
pub struct Checker {
    http: reqwest::Client,
    config: CheckingConfig,
    store: Store,
    metrics: Arc<Metrics>,
    /// Rung when answers were queued.
    queued: Arc<Notify>,
    /// Rung when verdicts were written.
    judged: Arc<Notify>,
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
    #[error("the checking server answered with status {0}")]
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
        queued: Arc<Notify>,
        judged: Arc<Notify>,
    ) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(5))
            .timeout(BATCH_DEADLINE)
            .no_proxy()
            .build()?;
        Ok(Self { http, config, store, metrics, queued, judged })
    }

    /// Works until it is told to stop. What is not judged by then waits in the store.
    pub async fn run(self, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut troubled = false;
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.check_some() => outcome,
            };
            let wait = match outcome {
                Ok(0) => {
                    pause = FIRST_PAUSE;
                    // The timer is for the case that somebody else filled the queue, or an answer waits for its retry.
                    Duration::from_secs(5)
                }
                Ok(_) => {
                    if std::mem::take(&mut troubled) {
                        info!("the checking server answers again");
                    }
                    pause = FIRST_PAUSE;
                    continue;
                }
                Err(error) => {
                    // Said once, not at every try: an outage would fill the log.
                    if !std::mem::replace(&mut troubled, true) && !matches!(error, NotChecked::Busy) {
                        let error = anyhow::Error::from(error);
                        warn!("answers wait for checking: {error:#}");
                    }
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(wait) => continue,
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.queued.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Returns how many answers left the queue.
    async fn check_some(&self) -> Result<usize, NotChecked> {
        let size = self.config.batch.clamp(1, MAX_BATCH as u32);
        let waiting = self.store.next_checks(size).await?;
        if waiting.is_empty() {
            return Ok(0);
        }
        match self.send(&waiting).await {
            // One answer that the server will not read must not hold up the others for ever.
            Err(NotChecked::Status(status @ 400..500)) => self.one_by_one(&waiting, status).await,
            Err(error) => Err(error),
            Ok(results) => self.apply(&waiting, &results).await,
        }
    }

    /// Sends the answers of a refused batch alone, and gives up on those that are refused again.
    async fn one_by_one(&self, waiting: &[PendingCheck], status: u16) -> Result<usize, NotChecked> {
        let mut done = 0;
        for pending in waiting {
            let alone = std::slice::from_ref(pending);
            let sent = if waiting.len() > 1 { self.send(alone).await } else { Err(NotChecked::Status(status)) };
            match sent {
                Err(NotChecked::Status(status @ 400..500)) => {
                    let task = &pending.check.task;
                    warn!(%task, "the checking server refuses an answer with status {status}; it counts for nothing");
                    self.store.drop_check(&pending.check.id).await?;
                    self.metrics.checked(task, "unchecked");
                    done += 1;
                }
                Err(error) => return Err(error),
                Ok(results) => done += self.apply(alone, &results).await.or_else(busy_is_nothing)?,
            }
        }
        Ok(done)
    }

    async fn apply(&self, waiting: &[PendingCheck], results: &CheckResults) -> Result<usize, NotChecked> {
        let mut done = 0;
        for pending in waiting {
            let Some(result) = results.results.iter().find(|result| result.id == pending.check.id) else {
                continue;
            };
            match &result.outcome {
                Outcome::Verdict(verdict) if (0.0..=1.0).contains(&verdict.quality) => {
                    self.store.save_verdict(pending, verdict).await?;
                    self.metrics.checked(&pending.check.task, "verdict");
                    done += 1;
                }
                Outcome::Verdict(_) => return Err(NotChecked::Garbage),
                Outcome::Unchecked { retry: true, .. } => self.metrics.checked(&pending.check.task, "retry"),
                Outcome::Unchecked { reason, retry: false } => {
                    info!(task = %pending.check.task, "an answer cannot be checked and counts for nothing: {reason}");
                    self.store.drop_check(&pending.check.id).await?;
                    self.metrics.checked(&pending.check.task, "unchecked");
                    done += 1;
                }
            }
        }
        self.judged.notify_waiters();
        // A batch of which nothing could be judged must not be sent again at once.
        if done == 0 { Err(NotChecked::Busy) } else { Ok(done) }
    }

    async fn send(&self, waiting: &[PendingCheck]) -> Result<CheckResults, NotChecked> {
        let batch = CheckBatch { checks: waiting.iter().map(|pending| pending.check.clone()).collect() };
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

/// An answer that is to be tried again later is no reason to leave the others of its batch.
fn busy_is_nothing(error: NotChecked) -> Result<usize, NotChecked> {
    match error {
        NotChecked::Busy => Ok(0),
        other => Err(other),
    }
}
