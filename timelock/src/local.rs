//! A beacon whose secret key is known: for local chains and tests, where no round is worth waiting for.

use std::fmt;
use std::num::NonZeroU64;

use ark_bls12_381::{Fr, G2Affine};
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::PrimeField;
use ark_serialize::CanonicalSerialize;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::TimelockError;
use crate::beacon::{Beacon, round_point};

/// The secret key of a beacon of one's own. It signs any round at any time, so it protects nothing.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct BeaconKey(Fr);

impl BeaconKey {
    /// The key that belongs to a seed of any length.
    pub fn from_seed(seed: &[u8]) -> Self {
        Self(Fr::from_be_bytes_mod_order(&Sha256::digest(seed)))
    }

    /// What others know of the beacon, with its clock: when round 1 is published (Unix seconds), and the period.
    ///
    /// # Errors
    /// For no seed that anybody can find: a secret key of zero has no beacon.
    pub fn beacon(&self, genesis_s: u64, period_s: NonZeroU64) -> Result<Beacon, TimelockError> {
        let point = (G2Affine::generator() * self.0).into_affine();
        Beacon::new(compressed(&point)?, genesis_s, period_s)
    }

    /// The signature of `round`, which opens what is sealed to it.
    ///
    /// # Errors
    /// [`TimelockError::NoSuchRound`] for round 0.
    pub fn sign(&self, round: u64) -> Result<[u8; 48], TimelockError> {
        compressed(&(round_point(round)? * self.0).into_affine())
    }
}

impl fmt::Debug for BeaconKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeaconKey(secret)")
    }
}

fn compressed<const N: usize>(point: &impl CanonicalSerialize) -> Result<[u8; N], TimelockError> {
    let mut bytes = [0; N];
    point
        .serialize_compressed(&mut bytes[..])
        .map_err(|error| TimelockError::Curve(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::QUICKNET_PERIOD_S;

    #[test]
    fn a_beacon_accepts_what_its_key_signs() {
        let key = BeaconKey::from_seed(b"devnet");
        let beacon = key.beacon(0, QUICKNET_PERIOD_S).unwrap();
        for round in [1, 1000, u64::MAX] {
            assert_eq!(beacon.verify(round, &key.sign(round).unwrap()), Ok(()));
        }
        assert_eq!(key.sign(0), Err(TimelockError::NoSuchRound));
    }

    #[test]
    fn a_key_does_not_show_itself() {
        assert_eq!(format!("{:?}", BeaconKey::from_seed(b"devnet")), "BeaconKey(secret)");
    }
}
