//! What a validator commits to: the bytes that are sealed, and the hash of the older way.

use blake2::Blake2b;
use blake2::digest::consts::U32;
use common::{Hotkey, Uid};
use parity_scale_codec::{Decode, Encode};
use rand::CryptoRng;
use sha2::Digest;

use crate::TimelockError;
use crate::beacon::Beacon;
use crate::cipher::OVERHEAD_BYTES;

/// How long a time-locked commit may be; the bound is part of the call's type.
pub const MAX_COMMIT_BYTES: usize = 5000;

/// How many weights fit into one. (Two vectors of 16-bit numbers, each with a length of two bytes up to 16,383 numbers.)
pub const MAX_COMMIT_WEIGHTS: usize =
    (MAX_COMMIT_BYTES - OVERHEAD_BYTES - (1 + 32) - 2 * 2 - 8) / (2 * 2);

/// Weights as they are sealed for commit-reveal version 4; the chain calls this `WeightsTlockPayload`.
///
/// SCALE-encoded. The chain drops it in silence unless `hotkey` is the one that committed it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct WeightsPayload {
    /// The 32 public bytes of the committing hotkey.
    pub hotkey: Vec<u8>,
    pub uids: Vec<u16>,
    /// One weight per uid.
    pub values: Vec<u16>,
    pub version_key: u64,
}

impl WeightsPayload {
    /// The payload of a hotkey's weights.
    pub fn new(hotkey: &Hotkey, weights: &[(Uid, u16)], version_key: u64) -> Self {
        let (uids, values) = columns(weights);
        Self { hotkey: hotkey.as_bytes().to_vec(), uids, values, version_key }
    }

    /// The commit that opens at `round`.
    ///
    /// # Errors
    /// [`TimelockError::CommitTooLong`] when the chain would not take it, which is so from 1,178 weights on.
    pub fn seal(
        &self,
        beacon: &Beacon,
        round: u64,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, TimelockError> {
        let payload = self.encode();
        let bytes = payload.len() + OVERHEAD_BYTES;
        if bytes > MAX_COMMIT_BYTES {
            return Err(TimelockError::CommitTooLong { bytes });
        }
        beacon.encrypt(&payload, round, rng)
    }
}

/// The hash that `commit_weights` takes and that `reveal_weights` must then give the origin of: Blake2b-256 of the
/// SCALE encoding of all that is revealed, and of who reveals it where.
///
/// `index` is the storage index of the mechanism, `mecid * 4096 + netuid`.
pub fn commit_hash(
    hotkey: &Hotkey,
    index: u16,
    weights: &[(Uid, u16)],
    salt: &[u16],
    version_key: u64,
) -> [u8; 32] {
    let (uids, values) = columns(weights);
    let revealed = (hotkey.as_bytes(), index, uids, values, salt, version_key).encode();
    Blake2b::<U32>::digest(revealed).into()
}

fn columns(weights: &[(Uid, u16)]) -> (Vec<u16>, Vec<u16>) {
    weights.iter().map(|&(Uid(uid), value)| (uid, value)).unzip()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::{BeaconKey, QUICKNET_PERIOD_S, decrypt};

    fn sealed(weights: u16) -> Result<Vec<u8>, TimelockError> {
        let weights: Vec<_> = (0..weights).map(|uid| (Uid(uid), u16::MAX)).collect();
        WeightsPayload::new(&Hotkey::from_bytes([1; 32]), &weights, 0).seal(
            &Beacon::quicknet(),
            1000,
            &mut StdRng::seed_from_u64(1),
        )
    }

    #[test]
    fn a_commit_the_chain_would_not_take_is_refused_with_its_length() {
        assert_eq!(MAX_COMMIT_WEIGHTS, 1177);
        assert_eq!(sealed(1176).map(|commit| commit.len()), Ok(4993));
        assert_eq!(sealed(1177).map(|commit| commit.len()), Ok(4997));
        assert_eq!(sealed(1178), Err(TimelockError::CommitTooLong { bytes: 5001 }));
    }

    #[test]
    fn the_hash_of_a_commit_is_that_of_its_parts_in_order() {
        // blake2b(32) of: 32 bytes 01 | 0110 | 08 0300 0900 | 08 ffff 0700 | 0c 0100 0200 0300 | 0500000000000000
        let hash = commit_hash(
            &Hotkey::from_bytes([1; 32]),
            0x1001,
            &[(Uid(3), 65_535), (Uid(9), 7)],
            &[1, 2, 3],
            5,
        );
        assert_eq!(
            hex::encode(hash),
            "3cc9b46bb446ca90d6a4fa81e33212cadd27dc8d4ce51219896b653dcba76a02"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn sealed_weights_open_as_they_were(
            hotkey: [u8; 32],
            weights in prop::collection::vec((any::<u16>(), any::<u16>()), 0..300),
            version_key: u64,
        ) {
            let weights: Vec<_> =
                weights.into_iter().map(|(uid, value)| (Uid(uid), value)).collect();
            let payload = WeightsPayload::new(&Hotkey::from_bytes(hotkey), &weights, version_key);
            let key = BeaconKey::from_seed(&hotkey);
            let beacon = key.beacon(0, QUICKNET_PERIOD_S).unwrap();
            let commit = payload.seal(&beacon, 5, &mut StdRng::seed_from_u64(version_key)).unwrap();
            let opened = decrypt(&commit, &key.sign(5).unwrap()).unwrap();
            prop_assert_eq!(WeightsPayload::decode(&mut &opened[..]), Ok(payload));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            if let Ok(payload) = WeightsPayload::decode(&mut &bytes[..]) {
                prop_assert!(bytes.starts_with(&payload.encode()));
            }
        }
    }
}
