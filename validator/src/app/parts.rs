//! The parts of a process: they run until it is told to stop or one of them ends by itself.

use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};

/// Beyond the time for open requests, for everything else.
const MARGIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Parts {
    parts: JoinSet<&'static str>,
    stop: CancellationToken,
    /// Those that store what the others leave behind.
    last: JoinSet<&'static str>,
    stop_last: CancellationToken,
    grace: Duration,
}

impl Parts {
    /// With so much time for open requests at the end.
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            parts: JoinSet::new(),
            stop: CancellationToken::new(),
            last: JoinSet::new(),
            stop_last: CancellationToken::new(),
            grace,
        }
    }

    pub(super) fn spawn<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.parts.spawn(named(name, part(self.stop.clone())));
    }

    /// A part that is stopped when all others have ended.
    pub(super) fn spawn_last<F>(
        &mut self,
        name: &'static str,
        part: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.last.spawn(named(name, part(self.stop_last.clone())));
    }

    /// Runs until `stop` resolves or a part ends by itself, then until all have ended.
    ///
    /// # Errors
    /// If a part ended by itself.
    pub(super) async fn run_until(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let died = tokio::select! {
            () = stop => None,
            ended = self.parts.join_next() => ended,
            ended = self.last.join_next() => ended,
        };
        self.stop.cancel();
        let drained = async { while self.parts.join_next().await.is_some() {} };
        if timeout(self.grace + MARGIN, drained).await.is_err() {
            warn!("{} parts did not end in time", self.parts.len());
            self.parts.shutdown().await;
        }
        self.stop_last.cancel();
        while self.last.join_next().await.is_some() {}
        died.map_or(Ok(()), |died| Err(why(died)))
    }
}

fn why(died: Result<&'static str, JoinError>) -> anyhow::Error {
    match died {
        Ok(name) => anyhow::anyhow!("the part `{name}` stopped by itself"),
        Err(panic) => anyhow::Error::from(panic).context("a part panicked"),
    }
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.instrument(info_span!("validator", part = name)).await;
    name
}
