//! Time-lock encryption to a drand beacon: what is sealed to a round can be opened by everyone once the beacon has
//! published its signature of that round, and by nobody before.
//!
//! Pure: rounds, signatures and randomness are arguments. The bytes are those of the official packages and of the
//! chain's runtime, which opens them by itself.

mod beacon;
mod cipher;
mod local;
mod payload;

pub use beacon::{Beacon, QUICKNET_GENESIS_S, QUICKNET_PERIOD_S, QUICKNET_PUBLIC_KEY};
pub use cipher::{OVERHEAD_BYTES, decrypt, decrypt_as_the_chain};
pub use local::BeaconKey;
pub use payload::{MAX_COMMIT_BYTES, MAX_COMMIT_WEIGHTS, WeightsPayload, commit_hash};

/// Why something cannot be sealed, opened or verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimelockError {
    #[error("this is no time-locked ciphertext: {0}")]
    BadCiphertext(&'static str),
    #[error("this is no signature of a beacon: it must be a point of G1 in 48 bytes")]
    BadSignature,
    #[error("this is no public key of a beacon: it must be a point of G2 in 96 bytes")]
    BadPublicKey,
    #[error("the signature is not the beacon's for round {0}: ask another source for this round")]
    WrongSignature(u64),
    #[error(
        "the signature does not open this ciphertext: it is of another round or beacon, or the ciphertext was changed"
    )]
    WrongKey,
    #[error("rounds count from 1: nothing can be sealed to round 0")]
    NoSuchRound,
    #[error(
        "the commit would have {bytes} bytes, the chain takes at most {MAX_COMMIT_BYTES}: set weights for fewer neurons"
    )]
    CommitTooLong { bytes: usize },
    #[error("a payload of {0} bytes is too long for AES-GCM")]
    PayloadTooLong(usize),
    /// The curve library refused what it cannot refuse; never seen.
    #[error("arithmetic on the curve failed: {0}")]
    Curve(String),
}
