//! What can go wrong between a service and the chain.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use common::Netuid;

use crate::network::BadNetwork;
use crate::rpc::is_too_much;

/// Any error, when only its text matters.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The hash of a block or of an extrinsic, shown as `0x` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(pub [u8; 32]);

/// The text is no [`BlockHash`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a block hash is `0x` and 64 hexadecimal digits")]
pub struct BadBlockHash;

impl FromStr for BlockHash {
    type Err = BadBlockHash;

    fn from_str(text: &str) -> Result<Self, BadBlockHash> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut bytes)
            .map_err(|_| BadBlockHash)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<subxt::utils::H256> for BlockHash {
    fn from(hash: subxt::utils::H256) -> Self {
        Self(hash.0)
    }
}

impl From<BlockHash> for subxt::utils::H256 {
    fn from(hash: BlockHash) -> Self {
        Self(hash.0)
    }
}

/// Why the chain could not be read. Endpoints are shown without user names, paths and queries, which may hold secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    #[error(transparent)]
    Network(#[from] BadNetwork),
    #[error("cannot connect to the chain at {endpoint}")]
    Unreachable { endpoint: String, source: Cause },
    #[error("the chain at {endpoint} is not connected; the next attempt is in {:.1} s", .retry_in.as_secs_f64())]
    Waiting { endpoint: String, retry_in: Duration },
    #[error("the connection to the chain was lost while {doing}")]
    Lost { doing: &'static str, source: Cause },
    #[error("the chain did not answer in time while {doing}")]
    TimedOut { doing: &'static str },
    #[error(
        "{endpoint} serves another chain: its genesis block is {found}, expected {expected}. Check \
         --subtensor.network and --subtensor.chain_endpoint"
    )]
    WrongChain { endpoint: String, expected: BlockHash, found: BlockHash },
    #[error("the chain's node refused {doing}: {message} (code {code})")]
    Refused { doing: &'static str, code: i32, message: String },
    #[error("the chain's answer could not be understood while {doing}")]
    Unexpected { doing: &'static str, source: Cause },
    #[error("there is no subnet {0} on this chain")]
    NoSubnet(Netuid),
}

impl ChainError {
    /// Whether the same request may succeed later with nothing changed on this side.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Waiting { .. }
            | Self::Lost { .. }
            | Self::TimedOut { .. } => true,
            // -32601: the node has no such method, and will not get it.
            Self::Refused { code, .. } => *code != -32601,
            Self::Network(_)
            | Self::WrongChain { .. }
            | Self::Unexpected { .. }
            | Self::NoSubnet(_) => false,
        }
    }

    /// How long to wait before asking again, when the error itself says so.
    pub fn retry_in(&self) -> Option<Duration> {
        match self {
            Self::Waiting { retry_in, .. } => Some(*retry_in),
            // Public endpoints refuse callers that ask too much; asking on makes it worse.
            Self::Refused { code, .. } if is_too_much(*code) => Some(Duration::from_secs(60)),
            _ => None,
        }
    }

    pub(crate) fn unexpected(doing: &'static str, why: impl Into<Cause>) -> Self {
        Self::Unexpected { doing, source: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_its_text() {
        let hash = BlockHash(std::array::from_fn(|i| i as u8));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!("0x12".parse::<BlockHash>(), Err(BadBlockHash));
    }

    #[test]
    fn only_what_may_pass_is_retryable() {
        let refused = |code| ChainError::Refused { doing: "reading", code, message: String::new() };
        assert!(ChainError::TimedOut { doing: "reading" }.is_retryable());
        assert!(refused(-32000).is_retryable());
        assert!(!refused(-32601).is_retryable());
        assert!(!ChainError::NoSubnet(Netuid(19)).is_retryable());
    }
}
