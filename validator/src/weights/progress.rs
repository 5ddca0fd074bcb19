//! How far each mechanism's weights have come, for everybody who wants to see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use chain::Stage;
use common::{BlockNumber, MechanismId};
use serde::{Deserialize, Serialize};

use crate::store::{KeptSubmission, WeightsOnChain};

/// All mechanisms that there are weights for.
pub type Progress = BTreeMap<MechanismId, MechanismProgress>;

/// One mechanism.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MechanismProgress {
    /// The newest weights that the chain has confirmed.
    pub in_force: Option<Arc<WeightsOnChain>>,
    /// The newest commit that waits for its reveal.
    pub committed: Option<Committed>,
    /// Why weights that were sent had no effect, until some have.
    pub trouble: Option<String>,
}

/// Weights that the chain holds sealed or as a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Since this block.
    pub block: BlockNumber,
    /// The first block in which they can be revealed, as foreseen when they were committed.
    pub revealed_from: BlockNumber,
    /// The last one.
    pub revealed_until: BlockNumber,
}

impl Committed {
    /// The newest of these that is a commit.
    pub fn newest<'a>(open: impl IntoIterator<Item = &'a KeptSubmission>) -> Option<Self> {
        let committed = |kept: &KeptSubmission| match kept.submission.stage {
            Stage::Committed { block, .. } => {
                let (revealed_from, revealed_until) = kept.submission.reveal_blocks()?;
                Some(Self { block, revealed_from, revealed_until })
            }
            _ => None,
        };
        open.into_iter().filter_map(committed).last()
    }
}
