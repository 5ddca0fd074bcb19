//! The feed of finalized blocks, and the watch over the nodes it may come from.

use std::sync::Arc;
use std::time::Duration;

use common::BlockNumber;
use subxt::config::Header as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::client::{Chain, Head, block_time, head, was_turned_away};
use crate::error::{BlockHash, ChainError};
use crate::nodes::{Look, NodeState, believed_height, better};
use crate::rpc::{Connection, header_hash};

/// A chain that is silent for this many block times is asked whether it still lives.
const PATIENCE_BLOCKS: u32 = 10;
/// Between two attempts after an error that names no pause of its own.
const SHORT_PAUSE: Duration = Duration::from_millis(200);

/// A node that is looked at.
#[derive(Default)]
struct Watched {
    /// Kept from look to look, for a node that is not in use.
    connection: Option<Arc<Connection>>,
    steady: u32,
    /// Looks in a row that have shown nothing good.
    failures: u32,
    /// It is left alone until then, and what was seen last.
    rests: Option<(Instant, String)>,
}

impl Chain {
    /// Keeps [`Chain::blocks`] up to date until cancelled, through any loss of the connection, and sees to it that the
    /// best of the configured nodes is used. Run it once, as a task.
    pub async fn follow(&self, cancel: CancellationToken) {
        let feed = async {
            loop {
                let error = match self.follow_connection().await {
                    Ok(()) => continue,
                    Err(error) => error,
                };
                debug!(%error, "the feed of blocks is interrupted");
                tokio::time::sleep(error.retry_in().unwrap_or(SHORT_PAUSE)).await;
            }
        };
        let both = async { tokio::join!(feed, self.watch_nodes()) };
        let _: Option<((), ())> = cancel.run_until_cancelled(both).await;
    }

    /// Looks at all nodes again and again, and leaves the one in use for a better one.
    async fn watch_nodes(&self) {
        if self.count() < 2 {
            return;
        }
        let mut watched: Vec<Watched> = (0..self.count()).map(|_| Watched::default()).collect();
        loop {
            tokio::time::sleep(self.look_every()).await;
            let current = self.current();
            let genesis = self.expected_genesis().await;
            let looks = watched
                .iter_mut()
                .enumerate()
                .map(|(node, watched)| self.look_at(node, current, watched, genesis));
            let looks = futures::future::join_all(looks).await;
            let seen: Vec<Option<Look>> =
                looks.iter().map(|look| look.as_ref().ok().copied()).collect();
            let height = believed_height(&seen).unwrap_or(0);
            let states = looks.into_iter().map(|look| match look {
                Ok(look) => NodeState::Well { look, lag: height.saturating_sub(look.finalized) },
                Err(why) => NodeState::Unusable(why),
            });
            self.set_health(states.collect());
            // Meanwhile the connection may have been lost and opened elsewhere.
            if current == self.current()
                && let Some(node) = better(current, &seen)
            {
                let (from, to) = (self.endpoint_of(current), self.endpoint_of(node));
                info!(
                    "the node {from} is behind, unusable, or not the preferred one; changing to {to}"
                );
                self.change_to(node).await;
            }
        }
    }

    async fn look_at(
        &self,
        node: usize,
        current: usize,
        watched: &mut Watched,
        genesis: Option<BlockHash>,
    ) -> Result<Look, String> {
        let began = Instant::now();
        if let Some((until, why)) = watched.rests.clone().filter(|(until, _)| *until > began) {
            debug!(node, rests_for = ?(until - began), "a node is left alone");
            return Err(why);
        }
        let in_use = (node == current).then(|| self.living_connection()).flatten();
        let own = watched.connection.take().filter(|connection| connection.is_alive());
        let connection = match in_use.or(own) {
            Some(connection) => Ok(connection),
            None => self.open(node, genesis).await.map(Arc::new),
        };
        let height = match connection {
            Ok(connection) => {
                let height = connection.served_height().await;
                if node != current {
                    watched.connection = Some(connection);
                }
                height
            }
            Err(error) => Err(error),
        };
        match height {
            Ok(finalized) => {
                watched.steady = watched.steady.saturating_add(1);
                (watched.failures, watched.rests) = (0, None);
                Ok(Look { finalized, took: began.elapsed(), steady: watched.steady })
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                let why = format!("{error}{}", cause.unwrap_or_default());
                let pause = self.pause(watched.failures, was_turned_away(&error));
                *watched = Watched {
                    failures: watched.failures.saturating_add(1),
                    rests: Some((Instant::now() + pause, why.clone())),
                    ..Watched::default()
                };
                Err(why)
            }
        }
    }

    /// Follows one subscription until it ends; `Ok` when another should take its place at once.
    async fn follow_connection(&self) -> Result<(), ChainError> {
        const DOING: &str = "following the finalized blocks";
        let connection = self.connection().await?;
        let node = self.current();
        let subscription = connection.rpc().chain_subscribe_finalized_heads().await;
        let mut headers = subscription.map_err(|error| connection.rpc_error(DOING, error))?;
        let at = connection.finalized().await?;
        let patience = (block_time(&at) * PATIENCE_BLOCKS).max(self.deadline());
        let mut last = head(&at);
        self.publish(last, node);
        loop {
            // The connection may be left for a better node while it still tells of blocks.
            let next = tokio::select! {
                () = self.replaced(&connection) => return Ok(()),
                next = tokio::time::timeout(patience, headers.next()) => next,
            };
            match next {
                Ok(Some(Ok(header))) => {
                    last = Head {
                        number: BlockNumber(header.number()),
                        hash: header_hash(&at, &header),
                    };
                    self.publish(last, node);
                }
                Ok(Some(Err(error))) => return Err(connection.rpc_error(DOING, error)),
                Ok(None) => {
                    connection.give_up();
                    return Err(connection.error(DOING, "the node ended the subscription"));
                }
                // Either no block was finalized, or the subscription is dead on a connection that is not.
                Err(_) => {
                    if head(&connection.finalized().await?) != last {
                        return Ok(());
                    }
                }
            }
        }
    }
}
