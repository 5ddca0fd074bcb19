//! What the pallet stores, with its real layouts.

use frame_support::pallet_prelude::*;
use sha2::{Digest, Sha256};
use timelock::{Beacon, QUICKNET_GENESIS_S, QUICKNET_PERIOD_S};

/// Up to 32 bytes.
pub type Hash = BoundedVec<u8, ConstU32<32>>;

/// How both beacons sign.
const SCHEME: &[u8] = b"bls-unchained-g1-rfc9380";

/// The hash of quicknet's chain, and of the group that runs it.
const QUICKNET_HASHES: [[u8; 32]; 2] = [
    [
        0x52, 0xdb, 0x9b, 0xa7, 0x0e, 0x0c, 0xc0, 0xf6, 0xea, 0xf7, 0x80, 0x3d, 0xd0, 0x74, 0x47,
        0xa1, 0xf5, 0x47, 0x77, 0x35, 0xfd, 0x3f, 0x66, 0x17, 0x92, 0xba, 0x94, 0x60, 0x0c, 0x84,
        0xe9, 0x71,
    ],
    [
        0xf4, 0x77, 0xd5, 0xc8, 0x9f, 0x21, 0xa1, 0x7c, 0x86, 0x3a, 0x7f, 0x93, 0x7c, 0x6a, 0x6d,
        0x15, 0x85, 0x94, 0x14, 0xd2, 0xbe, 0x09, 0xcd, 0x44, 0x8d, 0x42, 0x79, 0xaf, 0x33, 0x1c,
        0x5d, 0x3e,
    ],
];

/// A round's signature.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, MaxEncodedLen, TypeInfo)]
pub struct Pulse {
    /// The round, counted from 1.
    pub round: u64,
    /// SHA-256 of the signature.
    pub randomness: BoundedVec<u8, ConstU32<32>>,
    /// A point of G1, compressed.
    pub signature: BoundedVec<u8, ConstU32<144>>,
}

impl Pulse {
    /// A signature as it is stored, unless it is too long.
    pub fn new(round: u64, signature: &[u8]) -> Option<Self> {
        let randomness = BoundedVec::truncate_from(Sha256::digest(signature).to_vec());
        Some(Self { round, randomness, signature: signature.to_vec().try_into().ok()? })
    }
}

/// Which beacon it is.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, MaxEncodedLen, TypeInfo)]
pub struct BeaconConfiguration {
    /// A point of G2, compressed.
    pub public_key: BoundedVec<u8, ConstU32<96>>,
    /// Seconds between two rounds.
    pub period: u32,
    /// The time of round 1, in Unix seconds.
    pub genesis_time: u32,
    /// The hash of the beacon's chain.
    pub hash: Hash,
    /// The hash of the group that runs it.
    pub group_hash: Hash,
    /// How it signs.
    pub scheme_id: Hash,
    /// More about it.
    pub metadata: Metadata,
}

/// More about a beacon.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, MaxEncodedLen, TypeInfo)]
pub struct Metadata {
    /// Its name.
    pub beacon_id: Hash,
}

impl BeaconConfiguration {
    fn of(beacon: &Beacon, period: u32, [hash, group_hash]: [[u8; 32]; 2], name: &[u8]) -> Self {
        Self {
            public_key: BoundedVec::truncate_from(beacon.public_key().to_vec()),
            period,
            // In 2023.
            genesis_time: QUICKNET_GENESIS_S as u32,
            hash: bounded(&hash),
            group_hash: bounded(&group_hash),
            scheme_id: bounded(SCHEME),
            metadata: Metadata { beacon_id: bounded(name) },
        }
    }

    /// A chain's own beacon. Its rounds count from the time of quicknet's first.
    pub fn own(period_s: std::num::NonZeroU32) -> Option<Self> {
        let beacon = super::beacon_key().beacon(QUICKNET_GENESIS_S, period_s.into()).ok()?;
        let hash = Sha256::digest(beacon.public_key()).into();
        Some(Self::of(&beacon, period_s.get(), [hash, hash], b"devnet"))
    }

    /// The newest round that is out at `now_s`, in Unix seconds.
    pub fn newest_round(&self, now_s: u64) -> Option<u64> {
        let since = now_s.checked_sub(self.genesis_time.into())?;
        Some(since.checked_div(self.period.into())?.saturating_add(1))
    }
}

/// The real beacon.
pub fn quicknet() -> BeaconConfiguration {
    let period = QUICKNET_PERIOD_S.get() as u32;
    BeaconConfiguration::of(&Beacon::quicknet(), period, QUICKNET_HASHES, b"quicknet")
}

fn bounded(bytes: &[u8]) -> Hash {
    BoundedVec::truncate_from(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_count_from_one_at_the_genesis() {
        let quicknet = quicknet();
        let genesis = QUICKNET_GENESIS_S;
        let rounds = [-1_i64, 0, 2, 3, 2997].map(|after| {
            quicknet.newest_round(genesis.checked_add_signed(after).unwrap_or_default())
        });
        assert_eq!(rounds, [None, Some(1), Some(1), Some(2), Some(1000)]);
        assert_eq!(Beacon::quicknet().published_at(1000).as_secs(), genesis + 2997);
    }

    #[test]
    fn an_own_beacon_has_its_own_key() {
        let own = BeaconConfiguration::own(std::num::NonZeroU32::MIN).unwrap();
        assert_ne!(own.public_key, quicknet().public_key);
        assert_eq!(own.newest_round(QUICKNET_GENESIS_S + 9), Some(10));
    }
}
