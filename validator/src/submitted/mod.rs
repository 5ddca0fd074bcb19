//! `validator weights`: what was submitted and what became of it, and what would be submitted now.

mod dry_run;
mod text;

use chain::{Stage, Way};
use common::{BlockNumber, Hotkey, MechanismId, Uid};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::explain::{ExplainError, open};
use crate::store::KeptSubmission;

pub use dry_run::{DryRun, Outcome, dry_run};

/// Weights that were submitted. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submitted {
    pub id: i64,
    pub at_ms: i64,
    pub mechanism: MechanismId,
    pub way: Way,
    pub version_key: u64,
    /// Since when the chain holds them, or that it does not.
    pub result: Stage,
    /// The block since which the chain holds the commit, where there was one.
    pub commit_block: Option<BlockNumber>,
    /// When a commit is revealed, as foreseen when it was made.
    pub reveal: Option<Foreseen>,
    /// The transaction's hash, where it is known.
    pub extrinsic: Option<String>,
    /// Why they have no effect, or what went wrong last.
    pub error: Option<String>,
    /// What they were derived from, as `explain` numbers it.
    pub scoring: Option<i64>,
    pub weights: Vec<NamedWeight>,
}

/// When a commit is revealed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Foreseen {
    pub epoch: u64,
    pub first_block: BlockNumber,
    pub last_block: BlockNumber,
    /// When the first block will be, roughly.
    pub about_ms: i64,
    /// The beacon's round to which the commit is sealed.
    pub round: Option<u64>,
}

/// One miner's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedWeight {
    pub uid: Uid,
    pub hotkey: Hotkey,
    pub weight: u16,
}

/// The newest submissions of the configured store, newest first. A validator may be using it at the same time.
///
/// # Errors
/// If there is no store, or it cannot be read.
pub async fn submitted(config: &Config, most: u32) -> Result<Vec<Submitted>, ExplainError> {
    let store = open(&config.store).await?;
    let newest = store.newest_submissions(most).await;
    store.close().await;
    Ok(newest?.into_iter().map(Submitted::from).collect())
}

impl From<KeptSubmission> for Submitted {
    fn from(kept: KeptSubmission) -> Self {
        let blocks = kept.submission.reveal().zip(kept.submission.reveal_blocks());
        let reveal = blocks.map(|(reveal, (first, last))| Foreseen {
            epoch: kept
                .submission
                .reveal_epoch(reveal.epoch.saturating_sub(reveal.commit_epoch))
                .unwrap_or(reveal.epoch),
            first_block: first,
            last_block: last,
            about_ms: about(kept.at_ms, kept.submission.made_at, first, kept.block_time),
            round: match &kept.submission.kind {
                chain::Kind::Timelocked { round, .. } => Some(*round),
                chain::Kind::Plain | chain::Kind::Hashed { .. } => None,
            },
        });
        Self {
            id: kept.id.0,
            at_ms: kept.at_ms,
            mechanism: kept.submission.mechanism,
            way: kept.way(),
            version_key: kept.submission.version_key,
            commit_block: kept.committed,
            reveal,
            extrinsic: kept.extrinsic,
            error: kept.error,
            scoring: kept.scoring.map(|scoring| scoring.0),
            weights: named(&kept.weights),
            result: kept.submission.stage,
        }
    }
}

fn named(weights: &[(Uid, Hotkey, u16)]) -> Vec<NamedWeight> {
    let one = |(uid, hotkey, weight): &(Uid, Hotkey, u16)| NamedWeight {
        uid: *uid,
        hotkey: *hotkey,
        weight: *weight,
    };
    weights.iter().map(one).collect()
}

/// When a block will be, roughly, counted from another one.
fn about(
    from_ms: i64,
    from: BlockNumber,
    block: BlockNumber,
    block_time: std::time::Duration,
) -> i64 {
    let blocks = i64::try_from(block.0.saturating_sub(from.0)).unwrap_or(i64::MAX);
    let block_ms = i64::try_from(block_time.as_millis()).unwrap_or(i64::MAX);
    from_ms.saturating_add(blocks.saturating_mul(block_ms))
}

/// The list for a terminal.
pub fn text(submitted: &[Submitted]) -> String {
    text::list(submitted)
}
