//! What can go wrong, as it is ordered.

use serde::{Deserialize, Serialize};

/// The deepest reorganisation, in blocks, and the most blocks that a node can lie about.
pub const DEEPEST: u32 = 64;

/// The longest time that a fault may name, in milliseconds: an hour.
pub const LONGEST_MS: u64 = 3_600_000;

/// The error codes of Substrate's pool that [`Fault::RejectTransactions`] knows, beside `0..=255`.
pub const POOL_CODES: [u16; 5] = [1010, 1012, 1013, 1014, 1016];

/// Something that goes wrong. As JSON an object whose `fault` is the name with dashes, for example
/// `{"fault": "reorg", "depth": 3}`. Times are milliseconds, from 1 to [`LONGEST_MS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// The newest blocks are replaced by others, and one more is made. Finality waits until so many are not final.
    Reorg {
        /// How many blocks: 1 to [`DEEPEST`].
        depth: u32,
        /// Whether the transactions in them vanish, instead of waiting for a block again.
        #[serde(default)]
        drop_transactions: bool,
    },
    /// No more blocks.
    Stall {
        /// For how many block times; until it is resumed without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocks: Option<u32>,
    },
    /// Blocks are made but do not become final.
    StallFinality,
    /// All connections are cut, once or again and again. Those to the path `/control` are spared.
    DropConnections {
        /// The time between two cuts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        every_ms: Option<u64>,
    },
    /// Every answer comes late.
    Slow {
        /// By how much.
        by_ms: u64,
    },
    /// Requests are taken and never answered.
    Silent,
    /// Requests are answered with error -32005, new connections with HTTP status 429.
    Refuse {
        /// For how long.
        for_ms: u64,
    },
    /// The node claims to be further than it is. It has headers for that, but no states.
    LieHeight {
        /// By how many blocks: 1 to [`DEEPEST`].
        by: u32,
    },
    /// Submitted transactions are taken, and the connection is cut before the answer.
    LoseAnswers,
    /// Submitted transactions are taken and forgotten: they come into no block. Those that wait are dropped.
    DropTransactions,
    /// Submitted transactions are refused.
    RejectTransactions {
        /// `0..=255` is the number of a custom error; else one of [`POOL_CODES`].
        code: u16,
    },
    /// The next block brings the next version of the runtime. This cannot be undone.
    UpgradeRuntime,
    /// Everything is as it should be again.
    Resume,
}

/// Why a fault makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFault {
    /// A depth that no reorganisation can have.
    #[error("a reorganisation replaces 1 to {DEEPEST} blocks, not {0}")]
    Depth(u32),
    /// A stall of no blocks.
    #[error("a stall lasts at least 1 block; leave the number out to stall until `resume`")]
    NoBlocks,
    /// A time that is none or too long.
    #[error("{0} ms is no time for a fault: use 1 ms to 3600 s")]
    Time(u64),
    /// A lie that is none or too big.
    #[error("a node can claim 1 to {DEEPEST} blocks too many, not {0}")]
    Lie(u32),
    /// An error that no pool has.
    #[error(
        "the pool has no error {0}: use the number of a custom error (0 to 255), 1010, 1012, 1013, 1014 or 1016"
    )]
    Code(u16),
}

impl Fault {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// Which part of it does not.
    pub fn check(&self) -> Result<(), BadFault> {
        let time = |ms: u64| match (1..=LONGEST_MS).contains(&ms) {
            true => Ok(()),
            false => Err(BadFault::Time(ms)),
        };
        match self {
            Self::Reorg { depth, .. } if !(1..=DEEPEST).contains(depth) => {
                Err(BadFault::Depth(*depth))
            }
            Self::Stall { blocks: Some(0) } => Err(BadFault::NoBlocks),
            Self::DropConnections { every_ms: Some(ms) }
            | Self::Slow { by_ms: ms }
            | Self::Refuse { for_ms: ms } => time(*ms),
            Self::LieHeight { by } if !(1..=DEEPEST).contains(by) => Err(BadFault::Lie(*by)),
            Self::RejectTransactions { code } if *code > 255 && !POOL_CODES.contains(code) => {
                Err(BadFault::Code(*code))
            }
            _ => Ok(()),
        }
    }

    /// Whether the other is of the same kind, so that it takes this one's place.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_documented() {
        let read = |text: &str| serde_json::from_str::<Fault>(text).ok();
        assert_eq!(
            read(r#"{"fault": "reorg", "depth": 3}"#),
            Some(Fault::Reorg { depth: 3, drop_transactions: false })
        );
        assert_eq!(read(r#"{"fault": "stall"}"#), Some(Fault::Stall { blocks: None }));
        assert_eq!(read(r#"{"fault": "slow", "by_ms": 5}"#), Some(Fault::Slow { by_ms: 5 }));
        assert_eq!(read(r#"{"fault": "resume"}"#), Some(Fault::Resume));
        assert_eq!(read(r#"{"fault": "reorg"}"#), None, "the depth is missing");
        assert_eq!(read(r#"{"fault": "reorg", "depth": 3, "dept": 1}"#), None);
        assert_eq!(read(r#"{"fault": "meteor"}"#), None);
    }
}
