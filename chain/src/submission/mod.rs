//! Weights on their way: what is sent, what must be kept to find out what became of it, and the stages in between.
//!
//! `weight_facts` → [`plan_weights`] (pure) → [`WeightsPlan::prepare`] → keep the [`Submission`] → `send_weights`; from
//! then on `weight_standing` → [`settle`] (pure), until it has come to an end.

pub(crate) mod calls;
mod send;
mod settle;

use std::fmt;

use common::{BlockNumber, Hotkey, MechanismId, Netuid, Uid};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use timelock::{Beacon, TimelockError, WeightsPayload, commit_hash};

use crate::epochs::Reveal;
use crate::preflight::{
    CommitReveal, Preflight, Way, WeightFacts, call_name, check_weights, choose_way,
};
use crate::signed::Call;
use crate::storage::storage_index;

pub use send::Turn;
pub use settle::{Next, Standing, settle};

/// Epochs after the foreseen one in which a commit is looked for: a transaction may come into a block late.
const LATE_EPOCHS: u64 = 3;

/// How many numbers salt the hash of a commit, as in the official packages.
const SALT_NUMBERS: usize = 8;

/// What would be sent: the outcome of a decision, with everything by which it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsPlan {
    pub netuid: Netuid,
    pub mechanism: MechanismId,
    pub hotkey: Hotkey,
    pub uid: Uid,
    /// By uid, the largest 65535, as [`encode`](crate::weights::encode) makes them.
    pub weights: Vec<(Uid, u16)>,
    pub version_key: u64,
    /// The block by whose facts it was decided.
    pub made_at: BlockNumber,
    pub kind: PlannedKind,
    /// The call that is sent.
    pub call: &'static str,
}

/// The way of a plan, and what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub enum PlannedKind {
    Plain,
    Timelocked { reveal: Reveal, round: u64, beacon: Box<Beacon>, version: u16 },
    Hashed { reveal: Reveal },
}

/// Weights that may have been sent, as they must be known to find out what became of them, even after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    pub netuid: Netuid,
    pub mechanism: MechanismId,
    pub hotkey: Hotkey,
    pub uid: Uid,
    pub weights: Vec<(Uid, u16)>,
    pub version_key: u64,
    /// The newest block when it was made.
    pub made_at: BlockNumber,
    /// The last block that can contain the transaction, once that is known.
    pub open_until: Option<BlockNumber>,
    pub kind: Kind,
    pub stage: Stage,
}

/// The way of a submission, and what must be kept for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "way", rename_all = "snake_case")]
pub enum Kind {
    Plain,
    /// `digest` is Blake2b-256 of the ciphertext.
    Timelocked {
        reveal: Reveal,
        round: u64,
        digest: Digest,
    },
    /// `digest` is what was committed, [`commit_hash`] with `salt`: losing the salt is losing the commit.
    Hashed {
        reveal: Reveal,
        digest: Digest,
        salt: Vec<u16>,
    },
}

/// A Blake2b-256 hash, written as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

/// How far a submission has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// It was about to be sent or was sent; no block is known to hold it.
    Sent,
    /// The chain holds the commit since this finalized block, filed under this epoch.
    Committed { block: BlockNumber, epoch: u64 },
    /// The chain holds the weights; seen in this finalized block.
    InForce { block: BlockNumber },
    /// It will have no effect.
    Failed { why: Failure },
}

/// Why a submission has had no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Failure {
    /// No block contains it, and none can any more.
    NeverIncluded,
    /// The node or the runtime refused it, with this reason.
    Refused { reason: String },
    /// The chain took the commit and dropped it when it was to be revealed.
    Dropped { reason: String },
    /// The validator did not reveal in the only epoch in which it could.
    Missed { epoch: u64 },
    /// Nobody looked while its weights would have been in force; other weights of the hotkey have followed since.
    Unproven,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverIncluded => f.write_str("no block contains the transaction, and none can any more"),
            Self::Refused { reason } => write!(f, "refused: {reason}"),
            Self::Dropped { reason } => {
                write!(f, "the chain took the commit but dropped it at the reveal, most likely because {reason}")
            }
            Self::Missed { epoch } => write!(
                f,
                "it could only be revealed in epoch {epoch}, and the validator was not running or had no chain then"
            ),
            Self::Unproven => f.write_str(
                "nobody looked while it would have been in force, and other weights have followed since",
            ),
        }
    }
}

/// A submission with the call that is to be sent. Keep [`Prepared::submission`] first, then send it.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub(crate) submission: Submission,
    pub(crate) call: Call,
}

impl Prepared {
    pub fn submission(&self) -> &Submission {
        &self.submission
    }
}

/// Decides by which way weights are sent now, and whether they may be.
///
/// # Errors
/// With the first reason against it.
pub fn plan_weights(
    facts: &WeightFacts,
    weights: &[(Uid, u16)],
    version_key: u64,
    preference: CommitReveal,
) -> Result<WeightsPlan, Preflight> {
    let way = choose_way(facts, preference)?;
    check_weights(facts, way, weights, version_key)?;
    // The check is passed only with a uid.
    let Some(uid) = facts.uid else {
        return Err(Preflight::NotRegistered { netuid: facts.netuid, hotkey: facts.hotkey });
    };
    let kind = match way {
        Way::Plain => PlannedKind::Plain,
        Way::Timelocked => {
            let (reveal, round, beacon) = facts.sealing()?;
            let (beacon, version) = (Box::new(beacon.clone()), facts.commit_version);
            PlannedKind::Timelocked { reveal, round, beacon, version }
        }
        Way::Hashed => PlannedKind::Hashed { reveal: facts.clock.reveal(facts.reveal_period)? },
    };
    Ok(WeightsPlan {
        netuid: facts.netuid,
        mechanism: facts.mechanism,
        hotkey: facts.hotkey,
        uid,
        weights: weights.to_vec(),
        version_key,
        made_at: facts.head,
        kind,
        call: call_name(way, facts.mechanism, &facts.calls)?,
    })
}

impl WeightsPlan {
    /// By which way.
    pub fn way(&self) -> Way {
        match self.kind {
            PlannedKind::Plain => Way::Plain,
            PlannedKind::Timelocked { .. } => Way::Timelocked,
            PlannedKind::Hashed { .. } => Way::Hashed,
        }
    }

    /// When a commit is revealed; `None` for plain weights.
    pub fn reveal(&self) -> Option<&Reveal> {
        match &self.kind {
            PlannedKind::Plain => None,
            PlannedKind::Timelocked { reveal, .. } | PlannedKind::Hashed { reveal } => Some(reveal),
        }
    }

    /// Seals or salts the weights, and makes the call.
    ///
    /// # Errors
    /// If the beacon's key or the length of the weights does not allow to seal them.
    pub fn prepare(&self, rng: &mut impl CryptoRng) -> Result<Prepared, TimelockError> {
        let (kind, call) = match &self.kind {
            PlannedKind::Plain => (Kind::Plain, calls::plain(self)),
            PlannedKind::Timelocked { reveal, round, beacon, version } => {
                let payload = WeightsPayload::new(&self.hotkey, &self.weights, self.version_key);
                let commit = payload.seal(beacon, *round, rng)?;
                let digest = Digest::of(&commit);
                let call = calls::timelocked(self, &commit, *round, *version);
                (Kind::Timelocked { reveal: *reveal, round: *round, digest }, call)
            }
            PlannedKind::Hashed { reveal } => {
                let mut salt = [0_u8; SALT_NUMBERS * 2];
                rng.fill_bytes(&mut salt);
                let salt: Vec<u16> = salt
                    .chunks_exact(2)
                    .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
                    .collect();
                // A plan exists only for mechanisms that a subnet can have.
                let index = storage_index(self.netuid, self.mechanism).unwrap_or(self.netuid.0);
                let digest =
                    commit_hash(&self.hotkey, index, &self.weights, &salt, self.version_key);
                let call = calls::hashed(self, &digest);
                (Kind::Hashed { reveal: *reveal, digest: Digest(digest), salt }, call)
            }
        };
        let submission = Submission {
            netuid: self.netuid,
            mechanism: self.mechanism,
            hotkey: self.hotkey,
            uid: self.uid,
            weights: self.weights.clone(),
            version_key: self.version_key,
            made_at: self.made_at,
            open_until: None,
            kind,
            stage: Stage::Sent,
        };
        Ok(Prepared { submission, call })
    }
}

impl Submission {
    /// By which way.
    pub fn way(&self) -> Way {
        match self.kind {
            Kind::Plain => Way::Plain,
            Kind::Timelocked { .. } => Way::Timelocked,
            Kind::Hashed { .. } => Way::Hashed,
        }
    }

    /// When the commit is revealed, as foreseen when it was made; `None` for plain weights.
    pub fn reveal(&self) -> Option<&Reveal> {
        match &self.kind {
            Kind::Plain => None,
            Kind::Timelocked { reveal, .. } | Kind::Hashed { reveal, .. } => Some(reveal),
        }
    }

    /// Whether it has come to an end.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::InForce { .. } | Stage::Failed { .. })
    }

    /// The epoch in which the commit is revealed, so many epochs after the one that it is filed under: what counts is the
    /// subnet's `RevealPeriodEpochs` when it is revealed. `None` for plain weights.
    pub fn reveal_epoch(&self, reveal_period: u64) -> Option<u64> {
        let filed = match self.stage {
            Stage::Committed { epoch, .. } => epoch,
            _ => self.reveal()?.commit_epoch,
        };
        self.reveal().map(|_| filed.saturating_add(reveal_period))
    }

    /// The first and the last block in which the commit can be revealed, as foreseen when it was made, moved by as many
    /// epochs as it came later. `None` for plain weights.
    pub fn reveal_blocks(&self) -> Option<(BlockNumber, BlockNumber)> {
        let reveal = self.reveal()?;
        let late = match self.stage {
            Stage::Committed { epoch, .. } => epoch.saturating_sub(reveal.commit_epoch),
            _ => 0,
        };
        let epoch = reveal.last.0.saturating_sub(reveal.first.0).saturating_add(1);
        let moved =
            |block: BlockNumber| BlockNumber(block.0.saturating_add(late.saturating_mul(epoch)));
        Some((moved(reveal.first), moved(reveal.last)))
    }
}

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        use blake2::digest::consts::U32;
        use blake2::{Blake2b, Digest as _};
        Self(Blake2b::<U32>::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = crate::error::BadBlockHash;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Ok(Self(text.parse::<crate::BlockHash>()?.0))
    }
}
