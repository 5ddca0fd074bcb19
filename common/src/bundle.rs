//! Evidence against a miner that anybody with the model can re-compute.

use serde::{Deserialize, Serialize};

use crate::checks::{Check, Verdict};
use crate::{Hotkey, TaskId};

/// The newest form of a [`Bundle`].
pub const VERSION: u32 = 2;

/// Why a miner was flagged for good.
///
/// Each answer holds the request's exact body with its seed, and the miner's signature over that body's digest: nobody can
/// choose another seed afterwards, or attribute an answer to somebody else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// [`VERSION`]
    pub version: u32,
    pub miner: Hotkey,
    pub task: TaskId,
    /// When the evidence was settled, Unix milliseconds.
    pub at_ms: i64,
    /// Checked answers that were taken into account.
    pub answers: u64,
    /// Natural logarithm of the evidence of all of them.
    pub log_e: f64,
    /// What explains the answers best.
    pub hypothesis: String,
    /// The answers that said most.
    pub telling: Vec<Telling>,
}

/// An answer and what was said of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Telling {
    pub check: Check,
    pub verdict: Verdict,
}
