//! Reasons for which the chain would refuse a transaction, found before it is sent.
//!
//! Everything here is pure: the facts of one block go in, a reason comes out. The checks and their order are those of the
//! runtime.

mod serving;
mod weights;

use std::net::IpAddr;

use common::{BlockNumber, Hotkey, MechanismId, Netuid, Uid};

use crate::commitments::MAX_COMMITMENT_BYTES;
use crate::epochs::NoReveal;

#[cfg(test)]
pub(crate) use weights::tests as examples;

pub use serving::{CommitFacts, ServeFacts, check_commit, check_serve};
pub use weights::{
    CommitReveal, MAX_UNREVEALED, Way, WeightFacts, check_weights, choose_way, why_dropped,
};
pub(crate) use weights::{REVEAL_CALLS, WEIGHT_CALLS, call_name, reveal_call_name};

/// Why a transaction is not worth sending.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Preflight {
    #[error("weights are not set on the root network in this way")]
    RootNetwork,
    #[error("there is no subnet {0} on this chain")]
    NoSubnet(Netuid),
    #[error(
        "subnet {netuid} has {count} mechanism(s), numbered from 0, so there is no mechanism {mechanism}: give its tasks \
         another one in the catalogue, or have the subnet's owner add it"
    )]
    NoMechanism { netuid: Netuid, mechanism: MechanismId, count: u8 },
    #[error(
        "the chain's runtime has no call `{0}`, which this subnet's rules ask for. Is an update of this program due?"
    )]
    MissingCall(&'static str),
    #[error(
        "the chain wants time-locked commits of version {0}, this program makes version 4: update it, or set \
         weights.commit_reveal = \"hashed\" for the older way"
    )]
    UnknownCommitVersion(u16),
    #[error("the chain does not say to which random beacon commits are to be sealed")]
    NoBeacon,
    #[error(
        "hotkey {hotkey} is not registered on subnet {netuid}: register it with its coldkey first, `validator \
         how-to-register` prints the command"
    )]
    NotRegistered { netuid: Netuid, hotkey: Hotkey },
    #[error(
        "the hotkey's stake weight is {:.3} TAO; setting weights needs {:.3}: add stake to it with a coldkey",
        tao(*.rao), tao(*.needed_rao)
    )]
    TooLittleStake { rao: u64, needed_rao: u64 },
    #[error(
        "the version key {given} is too old: the subnet asks for {required} or newer. Update this program, then set \
         weights.version_key"
    )]
    OldVersion { given: u64, required: u64 },
    #[error(
        "weights were set or committed in block {last}; the subnet allows it again from block {allowed_from}"
    )]
    TooFast { last: BlockNumber, allowed_from: BlockNumber },
    #[error(
        "{count} commits of this hotkey wait for their reveal, and the chain keeps no more than {MAX_UNREVEALED}{}",
        .allowed_from.map(|block| format!("; some of them leave in block {block}")).unwrap_or_default()
    )]
    TooManyCommits { count: usize, allowed_from: Option<BlockNumber> },
    #[error(transparent)]
    NoReveal(#[from] NoReveal),
    #[error(
        "the beacon's round {round}, to which weights would be sealed, is out already (the newest is {newest}): the chain's \
         clock is behind. It is tried again with the next blocks"
    )]
    RoundIsPast { round: u64, newest: u64, allowed_from: BlockNumber },
    #[error(
        "the hotkey has no validator permit: it is given to the neurons with the most stake{}",
        .next_epoch.map(|block| format!(", next in block {block}")).unwrap_or_default()
    )]
    NoPermit { next_epoch: Option<BlockNumber> },
    #[error("there is no weight to set")]
    NoWeights,
    #[error("uid {0} appears twice")]
    DuplicateUid(Uid),
    #[error("uid {uid} does not exist: the subnet has {neurons} neurons")]
    UnknownUid { uid: Uid, neurons: u16 },
    #[error("{given} weights are too few: the subnet asks for at least {needed}")]
    TooFewWeights { given: usize, needed: u16 },
    #[error(
        "{given} weights do not fit into a time-locked commit: it takes at most {most}. Set weights.commit_reveal = \
         \"hashed\" for the older way"
    )]
    CommitTooLong { given: usize, most: usize },
    #[error("uid {uid} has {share} 65535ths of all weight; the subnet allows at most {limit}")]
    WeightTooLarge { uid: Uid, share: u64, limit: u16 },
    #[error(
        "the chain stores no axon at {0}. On a local chain announce 0.0.0.1, which stands for this machine"
    )]
    BadAddress(IpAddr),
    #[error("a commitment has at most {MAX_COMMITMENT_BYTES} bytes, this one has {0}")]
    CommitmentTooLong(usize),
    #[error("an axon needs a port that is not 0")]
    NoPort,
    #[error(
        "an axon was announced in block {last}; the subnet allows it again from block {allowed_from}"
    )]
    ServedTooRecently { last: BlockNumber, allowed_from: BlockNumber },
}

impl Preflight {
    /// The block from which the same transaction may be allowed, where only time stands in the way.
    pub fn allowed_from(&self) -> Option<BlockNumber> {
        match self {
            Self::TooFast { allowed_from, .. }
            | Self::RoundIsPast { allowed_from, .. }
            | Self::ServedTooRecently { allowed_from, .. } => Some(*allowed_from),
            Self::TooManyCommits { allowed_from, .. } => *allowed_from,
            Self::NoPermit { next_epoch } => *next_epoch,
            _ => None,
        }
    }
}

/// The block from which something done in block `last` may be done again, if that is after `next`.
fn blocked_until(last: BlockNumber, limit: u64, next: BlockNumber) -> Option<BlockNumber> {
    let allowed_from = BlockNumber(last.0.saturating_add(limit));
    (last.0 > 0 && allowed_from > next).then_some(allowed_from)
}

fn tao(rao: u64) -> f64 {
    rao as f64 / 1e9
}
