//! A drand beacon of the scheme `bls-unchained-g1-rfc9380`: its public key, its clock, the signatures it makes.

use std::num::NonZeroU64;
use std::time::Duration;

use ark_bls12_381::{Bls12_381, Fq2, G1Affine, G1Projective, G2Affine, g1};
use ark_ec::hashing::HashToCurve;
use ark_ec::hashing::curve_maps::wb::WBMap;
use ark_ec::hashing::map_to_curve_hasher::MapToCurveBasedHasher;
use ark_ec::pairing::Pairing;
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::field_hashers::DefaultFieldHasher;
use ark_ff::{MontFp, Zero};
use ark_serialize::CanonicalDeserialize;
use sha2::{Digest, Sha256};

use crate::TimelockError;

/// The public key of drand quicknet: a point of G2, compressed.
pub const QUICKNET_PUBLIC_KEY: [u8; 96] = [
    0x83, 0xcf, 0x0f, 0x28, 0x96, 0xad, 0xee, 0x7e, 0xb8, 0xb5, 0xf0, 0x1f, 0xca, 0xd3, 0x91, 0x22,
    0x12, 0xc4, 0x37, 0xe0, 0x07, 0x3e, 0x91, 0x1f, 0xb9, 0x00, 0x22, 0xd3, 0xe7, 0x60, 0x18, 0x3c,
    0x8c, 0x4b, 0x45, 0x0b, 0x6a, 0x0a, 0x6c, 0x3a, 0xc6, 0xa5, 0x77, 0x6a, 0x2d, 0x10, 0x64, 0x51,
    0x0d, 0x1f, 0xec, 0x75, 0x8c, 0x92, 0x1c, 0xc2, 0x2b, 0x0e, 0x17, 0xe6, 0x3a, 0xaf, 0x4b, 0xcb,
    0x5e, 0xd6, 0x63, 0x04, 0xde, 0x9c, 0xf8, 0x09, 0xbd, 0x27, 0x4c, 0xa7, 0x3b, 0xab, 0x4a, 0xf5,
    0xa6, 0xe9, 0xc7, 0x6a, 0x4b, 0xc0, 0x9e, 0x76, 0xea, 0xe8, 0x99, 0x1e, 0xf5, 0xec, 0xe4, 0x5a,
];
/// When quicknet published round 1, in Unix seconds.
pub const QUICKNET_GENESIS_S: u64 = 1_692_803_367;
/// Seconds between two rounds of quicknet: 3.
pub const QUICKNET_PERIOD_S: NonZeroU64 = NonZeroU64::MIN.saturating_add(2);

/// [`QUICKNET_PUBLIC_KEY`] as a point, so that using it can neither fail nor cost a square root.
const QUICKNET_POINT: G2Affine = G2Affine::new_unchecked(
    Fq2::new(
        MontFp!(
            "2020076495541918814736776030432697997716141464538799718886374996015782362070437455929656164150586936230283253179482"
        ),
        MontFp!(
            "586231829158603972936263795113906716025771067144631327612230935308837823978471744132589153452744931590357767971921"
        ),
    ),
    Fq2::new(
        MontFp!(
            "2211131032793566610140590394248723125180008851249985816060296934936346156689749396593077297304404280871596812489331"
        ),
        MontFp!(
            "254368178680493348045912140930876774076610928954039097415743904368045981295538168002596692724553813124605269104267"
        ),
    ),
);

/// The domain separation tag of the hash to G1.
const DOMAIN: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";

type RoundHasher =
    MapToCurveBasedHasher<G1Projective, DefaultFieldHasher<Sha256, 128>, WBMap<g1::Config>>;

/// A beacon that publishes a signature of each round's number, one round per period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    public_key: [u8; 96],
    pub(super) point: G2Affine,
    genesis_s: u64,
    period_s: NonZeroU64,
}

impl Beacon {
    /// drand quicknet, the beacon that Bittensor's main and test networks follow.
    pub const fn quicknet() -> Self {
        Self {
            public_key: QUICKNET_PUBLIC_KEY,
            point: QUICKNET_POINT,
            genesis_s: QUICKNET_GENESIS_S,
            period_s: QUICKNET_PERIOD_S,
        }
    }

    /// Another beacon, such as a local chain's: its compressed public key, when it published round 1 (Unix seconds),
    /// and its period.
    ///
    /// # Errors
    /// When the key is no point of G2's subgroup, or the neutral one, under which everybody could open everything.
    pub fn new(
        public_key: [u8; 96],
        genesis_s: u64,
        period_s: NonZeroU64,
    ) -> Result<Self, TimelockError> {
        let point = G2Affine::deserialize_compressed(&public_key[..])
            .ok()
            .filter(|point| !point.is_zero())
            .ok_or(TimelockError::BadPublicKey)?;
        Ok(Self { public_key, point, genesis_s, period_s })
    }

    /// The public key: a point of G2, compressed.
    pub const fn public_key(&self) -> &[u8; 96] {
        &self.public_key
    }

    /// When `round` is published, as time since the Unix epoch. Round 0 does not exist and counts as 1.
    pub fn published_at(&self, round: u64) -> Duration {
        let since_first = round.saturating_sub(1).saturating_mul(self.period_s.get());
        Duration::from_secs(self.genesis_s.saturating_add(since_first))
    }

    /// The newest round that at `time` (since the Unix epoch) has been out for at least one period; 1 if there is none.
    ///
    /// The official packages round in this way: `max(1, floor((time - genesis) / period))`.
    pub fn round_known_at(&self, time: Duration) -> u64 {
        (time.as_secs().saturating_sub(self.genesis_s) / self.period_s).max(1)
    }

    /// Checks that `signature` is this beacon's for `round`.
    ///
    /// # Errors
    /// [`TimelockError::BadSignature`] when it is no signature at all, [`TimelockError::WrongSignature`] when it is
    /// another beacon's or of another round.
    pub fn verify(&self, round: u64, signature: &[u8]) -> Result<(), TimelockError> {
        let signature = signature_point(signature)?;
        let message = round_point(round)?;
        // e(signature, generator) = e(H(round), key), as one product of pairings.
        let product = Bls12_381::multi_pairing(
            [signature, (-message.into_group()).into_affine()],
            [G2Affine::generator(), self.point],
        );
        if product.is_zero() { Ok(()) } else { Err(TimelockError::WrongSignature(round)) }
    }
}

/// The point of G1 that a beacon multiplies by its secret key to sign `round`, and that a ciphertext is locked to.
pub(super) fn round_point(round: u64) -> Result<G1Affine, TimelockError> {
    if round == 0 {
        return Err(TimelockError::NoSuchRound);
    }
    RoundHasher::new(DOMAIN)
        .and_then(|hasher| hasher.hash(&Sha256::digest(round.to_be_bytes())))
        .map_err(|error| TimelockError::Curve(error.to_string()))
}

/// Reads a signature: 48 bytes, a point of G1's subgroup, and not the neutral one.
pub(super) fn signature_point(bytes: &[u8]) -> Result<G1Affine, TimelockError> {
    if bytes.len() != 48 {
        return Err(TimelockError::BadSignature);
    }
    G1Affine::deserialize_compressed(bytes)
        .ok()
        .filter(|point| !point.is_zero())
        .ok_or(TimelockError::BadSignature)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::BeaconKey;

    const ROUND_1000: &str = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39";

    #[test]
    fn quicknets_key_is_the_same_as_bytes_and_as_a_point() {
        let read = Beacon::new(QUICKNET_PUBLIC_KEY, QUICKNET_GENESIS_S, QUICKNET_PERIOD_S).unwrap();
        assert_eq!(read, Beacon::quicknet());
        assert_eq!(
            hex::encode(Beacon::quicknet().public_key()),
            "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a"
        );
    }

    #[test]
    fn quicknets_signature_of_a_round_holds_for_that_round_alone() {
        let quicknet = Beacon::quicknet();
        let signature = hex::decode(ROUND_1000).unwrap();
        assert_eq!(quicknet.verify(1000, &signature), Ok(()));
        assert_eq!(quicknet.verify(1001, &signature), Err(TimelockError::WrongSignature(1001)));
        assert_eq!(quicknet.verify(0, &signature), Err(TimelockError::NoSuchRound));
        let other = BeaconKey::from_seed(b"other").beacon(0, QUICKNET_PERIOD_S).unwrap();
        assert_eq!(other.verify(1000, &signature), Err(TimelockError::WrongSignature(1000)));
    }

    #[test]
    fn what_is_no_signature_is_told_apart_from_a_wrong_one() {
        let mut neutral = [0; 48];
        neutral[0] = 0xc0;
        let mut changed = hex::decode(ROUND_1000).unwrap();
        changed[47] ^= 1;
        // A point of the curve outside the subgroup: x = 0, y = 2.
        let mut outside = [0; 48];
        outside[0] = 0x80;
        for bytes in [&[][..], &[0; 48], &[0xff; 48], &neutral, &changed[..47], &outside] {
            let refused = Beacon::quicknet().verify(1000, bytes);
            assert_eq!(refused, Err(TimelockError::BadSignature), "{bytes:02x?}");
        }
        assert!(Beacon::quicknet().verify(1000, &changed).is_err());
    }

    #[test]
    fn a_key_that_locks_nothing_is_refused() {
        let mut neutral = [0; 96];
        neutral[0] = 0xc0;
        for key in [neutral, [0; 96], [0xff; 96]] {
            let refused = Beacon::new(key, 0, QUICKNET_PERIOD_S);
            assert_eq!(refused, Err(TimelockError::BadPublicKey));
        }
    }

    #[test]
    fn rounds_before_the_first_count_as_the_first() {
        let quicknet = Beacon::quicknet();
        assert_eq!(quicknet.round_known_at(Duration::ZERO), 1);
        assert_eq!(quicknet.round_known_at(Duration::from_secs(QUICKNET_GENESIS_S)), 1);
        assert_eq!(quicknet.published_at(1), Duration::from_secs(QUICKNET_GENESIS_S));
        assert_eq!(quicknet.published_at(1000), Duration::from_secs(QUICKNET_GENESIS_S + 2997));
        assert_eq!(quicknet.published_at(u64::MAX), Duration::from_secs(u64::MAX));
    }

    proptest! {
        #[test]
        fn a_known_round_has_been_out_for_one_to_two_periods(
            time_ms in QUICKNET_GENESIS_S * 1000 + 3000..4_000_000_000_000,
        ) {
            let quicknet = Beacon::quicknet();
            let time = Duration::from_millis(time_ms);
            let age = time - quicknet.published_at(quicknet.round_known_at(time));
            prop_assert!((Duration::from_secs(3)..Duration::from_secs(6)).contains(&age), "{age:?}");
        }

        #[test]
        fn arbitrary_bytes_are_no_signature(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(Beacon::quicknet().verify(7, &bytes).is_err());
        }
    }
}
