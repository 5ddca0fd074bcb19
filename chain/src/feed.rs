//! The feed of finalized blocks.

use std::time::Duration;

use common::BlockNumber;
use subxt::config::Header as _;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::client::{Chain, Head, block_time, head};
use crate::error::ChainError;
use crate::rpc::header_hash;

/// A chain that is silent for this many block times is asked whether it still lives.
const PATIENCE_BLOCKS: u32 = 10;
/// Between two attempts after an error that names no pause of its own.
const SHORT_PAUSE: Duration = Duration::from_millis(200);

impl Chain {
    /// Keeps [`Chain::blocks`] up to date until cancelled, through any loss of the connection. Run it once, as a task.
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
        let _ = cancel.run_until_cancelled(feed).await;
    }

    /// Follows one subscription until it ends; `Ok` when another should take its place at once.
    async fn follow_connection(&self) -> Result<(), ChainError> {
        const DOING: &str = "following the finalized blocks";
        let connection = self.connection().await?;
        let subscription = connection.rpc().chain_subscribe_finalized_heads().await;
        let mut headers = subscription.map_err(|error| connection.rpc_error(DOING, error))?;
        let at = connection.finalized().await?;
        let patience = (block_time(&at) * PATIENCE_BLOCKS).max(self.deadline());
        let mut last = head(&at);
        self.publish(last);
        loop {
            match tokio::time::timeout(patience, headers.next()).await {
                Ok(Some(Ok(header))) => {
                    last = Head {
                        number: BlockNumber(header.number()),
                        hash: header_hash(&at, &header),
                    };
                    self.publish(last);
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
