//! The ciphertext: an AES key under identity-based encryption (Boneh and Franklin's `FullIdent`, where a round's
//! signature is the identity's secret key), and the payload under that AES key.

use aes_gcm::aead::Aead;
use aes_gcm::{Aes256Gcm, KeyInit};
use ark_bls12_381::{Bls12_381, Fr, G1Affine, G2Affine};
use ark_ec::pairing::Pairing;
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::PrimeField;
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
use rand::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::TimelockError;
use crate::beacon::{Beacon, round_point, signature_point};

/// How many bytes a ciphertext is longer than its payload.
pub const OVERHEAD_BYTES: usize = 244;

const SUITE: &[u8] = b"AES_GCM_";
const POINT_BYTES: usize = 96;
const TAG_BYTES: usize = 16;

type Secret = Zeroizing<[u8; 32]>;

impl Beacon {
    /// Seals `payload` so that the signature of `round` opens it. The result has [`OVERHEAD_BYTES`] bytes more.
    ///
    /// # Errors
    /// For round 0, and for payloads of 64 GiB or more.
    pub fn encrypt(
        &self,
        payload: &[u8],
        round: u64,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, TimelockError> {
        let (mut key, mut sigma, mut nonce) = (Secret::default(), Secret::default(), [0; 12]);
        rng.fill_bytes(&mut *key);
        rng.fill_bytes(&mut *sigma);
        rng.fill_bytes(&mut nonce);

        let r = exponent(&sigma, &key);
        let locked = (round_point(round)? * *r).into_affine();
        let body = Aes256Gcm::new((&*key).into())
            .encrypt(&nonce.into(), payload)
            .map_err(|_| TimelockError::PayloadTooLong(payload.len()))?;
        let parts = Parts {
            u: (G2Affine::generator() * *r).into_affine(),
            v: *xor(&sigma, &mask(locked, self.point)?),
            w: *xor(&key, &hash(&sigma[..])),
            body: &body,
            nonce,
        };
        parts.write()
    }
}

/// Opens what was sealed to the round that `signature` is of.
///
/// The scheme checks itself, so the signature need not be verified before. Takes only what [`Beacon::encrypt`] makes,
/// while the chain also takes ciphertexts with bytes after their end or with another name for the cipher.
///
/// # Errors
/// [`TimelockError::BadCiphertext`] and [`TimelockError::BadSignature`] when the bytes are none,
/// [`TimelockError::WrongKey`] when the one does not open the other.
pub fn decrypt(ciphertext: &[u8], signature: &[u8]) -> Result<Vec<u8>, TimelockError> {
    Parts::read(ciphertext)?.open(signature)
}

/// Opens what the chain opens: as [`decrypt`], but bytes after the end of a ciphertext and the name of its cipher do not
/// matter.
///
/// # Errors
/// As [`decrypt`].
pub fn decrypt_as_the_chain(ciphertext: &[u8], signature: &[u8]) -> Result<Vec<u8>, TimelockError> {
    Parts::read_beginning(ciphertext)?.0.open(signature)
}

/// A ciphertext, taken apart.
struct Parts<'a> {
    u: G2Affine,
    v: [u8; 32],
    w: [u8; 32],
    /// The encrypted payload with its tag.
    body: &'a [u8],
    nonce: [u8; 12],
}

impl<'a> Parts<'a> {
    /// The layout of `ark-serialize`: U, then vectors of bytes with their lengths, of which the third holds two more.
    fn write(&self) -> Result<Vec<u8>, TimelockError> {
        let mut out = Vec::with_capacity(OVERHEAD_BYTES + self.body.len());
        self.u.serialize_compressed(&mut out).map_err(curve)?;
        put(&mut out, &self.v);
        put(&mut out, &self.w);
        put_length(&mut out, 8 + self.body.len() + 8 + self.nonce.len());
        put(&mut out, self.body);
        put(&mut out, &self.nonce);
        put(&mut out, SUITE);
        Ok(out)
    }

    fn open(self, signature: &[u8]) -> Result<Vec<u8>, TimelockError> {
        let sigma = xor(&self.v, &mask(signature_point(signature)?, self.u)?);
        let key = xor(&self.w, &hash(&sigma[..]));
        if (G2Affine::generator() * *exponent(&sigma, &key)).into_affine() != self.u {
            return Err(TimelockError::WrongKey);
        }
        Aes256Gcm::new((&*key).into())
            .decrypt(&self.nonce.into(), self.body)
            .map_err(|_| TimelockError::WrongKey)
    }

    fn read(bytes: &'a [u8]) -> Result<Self, TimelockError> {
        let (parts, suite, rest) = Self::read_beginning(bytes)?;
        if rest > 0 {
            return Err(TimelockError::BadCiphertext("there are bytes after its end"));
        }
        if suite != SUITE {
            return Err(TimelockError::BadCiphertext("its cipher is not AES_GCM_"));
        }
        Ok(parts)
    }

    /// Also returns the name of the cipher, and how many bytes there are that do not belong to it.
    fn read_beginning(bytes: &'a [u8]) -> Result<(Self, &'a [u8], usize), TimelockError> {
        use TimelockError::BadCiphertext as Bad;
        const ENDS: TimelockError = Bad("it ends too early");

        let mut rest = Reader(bytes);
        let u = rest.take(POINT_BYTES).ok_or(ENDS)?;
        let v = rest.vector().ok_or(ENDS)?;
        let w = rest.vector().ok_or(ENDS)?;
        let mut inner = Reader(rest.vector().ok_or(ENDS)?);
        let suite = rest.vector().ok_or(ENDS)?;
        let body = inner.vector().ok_or(ENDS)?;
        let nonce = inner.vector().ok_or(ENDS)?;
        if body.len() < TAG_BYTES {
            return Err(Bad("its body is shorter than a tag"));
        }
        let v = v.try_into().map_err(|_| Bad("its part V has not 32 bytes"))?;
        let w = w.try_into().map_err(|_| Bad("its part W has not 32 bytes"))?;
        let nonce = nonce.try_into().map_err(|_| Bad("its nonce has not 12 bytes"))?;
        // The costly check comes last.
        let u =
            G2Affine::deserialize_compressed(u).map_err(|_| Bad("its part U is no point of G2"))?;
        let after = rest.0.len() + inner.0.len();
        Ok((Self { u, v, w, body, nonce }, suite, after))
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// A length as 8 bytes, little-endian, and as many bytes.
    fn vector(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        self.take(usize::try_from(u64::from_le_bytes(*length)).ok()?)
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&(length as u64).to_le_bytes());
}

fn put(out: &mut Vec<u8>, vector: &[u8]) {
    put_length(out, vector.len());
    out.extend_from_slice(vector);
}

/// H2: a pairing's value as 32 bytes.
fn mask(left: G1Affine, right: G2Affine) -> Result<Secret, TimelockError> {
    let shared = Zeroizing::new(Bls12_381::pairing(left, right));
    let mut bytes = Zeroizing::new(Vec::with_capacity(shared.compressed_size()));
    shared.serialize_compressed(&mut *bytes).map_err(curve)?;
    Ok(hash(&bytes))
}

/// H3: the exponent that ties the key to the randomness it was sealed with.
fn exponent(sigma: &Secret, key: &Secret) -> Zeroizing<Fr> {
    let digest = Sha256::new().chain_update(&sigma[..]).chain_update(&key[..]).finalize();
    Zeroizing::new(Fr::from_be_bytes_mod_order(&digest))
}

/// H4, and the last step of H2.
fn hash(bytes: &[u8]) -> Secret {
    Zeroizing::new(Sha256::digest(bytes).into())
}

fn xor(left: &[u8; 32], right: &Secret) -> Secret {
    let mut out = Zeroizing::new(*left);
    out.iter_mut().zip(right.iter()).for_each(|(byte, other)| *byte ^= other);
    out
}

fn curve(error: ark_serialize::SerializationError) -> TimelockError {
    TimelockError::Curve(error.to_string())
}

#[cfg(test)]
mod tests {
    use parity_scale_codec::{Decode, Encode};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use serde_json::Value;

    use super::*;
    use crate::{BeaconKey, QUICKNET_PERIOD_S, WeightsPayload};

    fn vectors(name: &str) -> Value {
        let folder = std::env::var("TOUCHSTONE_VECTORS")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors").into());
        let path = std::path::Path::new(&folder).join(name);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap()
    }

    fn bytes(of: &Value) -> Vec<u8> {
        hex::decode(of.as_str().unwrap()).unwrap()
    }

    fn rng() -> StdRng {
        StdRng::seed_from_u64(19)
    }

    /// Opens an official ciphertext and one of ours, alone and in the envelope that names the round.
    fn check_against(official: &Value, envelope: &Value, payload: &[u8], round: u64, sig: &[u8]) {
        let official = bytes(official);
        assert_eq!(decrypt(&official, sig).as_deref(), Ok(payload));
        let (enveloped, named) = <(Vec<u8>, u64)>::decode(&mut &bytes(envelope)[..]).unwrap();
        assert_eq!(named, round);
        assert_eq!(decrypt(&enveloped, sig).as_deref(), Ok(payload));

        let ours = Beacon::quicknet().encrypt(payload, round, &mut rng()).unwrap();
        assert_eq!(ours.len(), official.len());
        assert_eq!(decrypt(&ours, sig).as_deref(), Ok(payload));
    }

    #[test]
    fn official_ciphertexts_open_and_ours_open_with_the_same_signature() {
        let vector = vectors("timelock_basic.json");
        let round = vector["round"].as_u64().unwrap();
        let signature = bytes(&vector["signature"]);
        assert_eq!(Beacon::quicknet().verify(round, &signature), Ok(()));
        let payload = bytes(&vector["plaintext"]);
        let (inner, envelope) = (&vector["inner_ciphertext"], &vector["userdata_envelope"]);
        check_against(inner, envelope, &payload, round, &signature);
    }

    #[test]
    fn official_weights_open_and_are_encoded_in_the_same_bytes() {
        let vector = vectors("timelock_weights.json");
        let round = vector["round"].as_u64().unwrap();
        let signature = bytes(&vector["signature_hex"]);
        let of = &vector["weights_payload"];
        let numbers = |name: &str| serde_json::from_value(of[name].clone()).unwrap();
        let payload = WeightsPayload {
            hotkey: bytes(&of["hotkey"]),
            uids: numbers("uids"),
            values: numbers("values"),
            version_key: of["version_key"].as_u64().unwrap(),
        };
        assert_eq!(payload.encode(), bytes(&of["scale"]));
        check_against(
            &of["inner_ciphertext"],
            &of["envelope"],
            &payload.encode(),
            round,
            &signature,
        );
    }

    #[test]
    fn every_byte_that_is_changed_or_lost_is_noticed() {
        let vector = vectors("timelock_basic.json");
        let signature = bytes(&vector["signature"]);
        let official = bytes(&vector["inner_ciphertext"]);
        for at in 0..official.len() {
            let mut changed = official.clone();
            changed[at] ^= 0x10;
            assert!(decrypt(&changed, &signature).is_err(), "byte {at}");
            let refused = decrypt(&official[..at], &signature);
            assert_eq!(refused, Err(TimelockError::BadCiphertext("it ends too early")));
        }
        let longer = [&official[..], &[0]].concat();
        let refused = decrypt(&longer, &signature);
        assert_eq!(refused, Err(TimelockError::BadCiphertext("there are bytes after its end")));
    }

    #[test]
    fn another_rounds_or_beacons_signature_opens_nothing() {
        let key = BeaconKey::from_seed(b"one");
        let beacon = key.beacon(0, QUICKNET_PERIOD_S).unwrap();
        let sealed = beacon.encrypt(b"weights", 7, &mut rng()).unwrap();
        assert_eq!(decrypt(&sealed, &key.sign(7).unwrap()).as_deref(), Ok(&b"weights"[..]));
        let foreign = BeaconKey::from_seed(b"two").sign(7).unwrap();
        for signature in [key.sign(8).unwrap(), foreign] {
            assert_eq!(decrypt(&sealed, &signature), Err(TimelockError::WrongKey));
        }
        let refused = beacon.encrypt(b"weights", 0, &mut rng());
        assert_eq!(refused, Err(TimelockError::NoSuchRound));
    }

    #[test]
    fn a_vector_longer_than_memory_is_refused_at_once() {
        let vector = vectors("timelock_basic.json");
        let mut official = bytes(&vector["inner_ciphertext"]);
        official[POINT_BYTES..POINT_BYTES + 8].fill(0xff);
        let refused = decrypt(&official, &bytes(&vector["signature"]));
        assert_eq!(refused, Err(TimelockError::BadCiphertext("it ends too early")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn whatever_is_sealed_to_a_round_opens_with_its_signature(
            payload in prop::collection::vec(any::<u8>(), 0..600),
            round in 1..u64::MAX,
            seed: u64,
        ) {
            let key = BeaconKey::from_seed(&seed.to_be_bytes());
            let beacon = key.beacon(0, QUICKNET_PERIOD_S).unwrap();
            let mut rng = StdRng::seed_from_u64(seed);
            let sealed = beacon.encrypt(&payload, round, &mut rng).unwrap();
            prop_assert_eq!(sealed.len(), payload.len() + OVERHEAD_BYTES);
            prop_assert_ne!(&sealed, &beacon.encrypt(&payload, round, &mut rng).unwrap());
            prop_assert_eq!(decrypt(&sealed, &key.sign(round).unwrap()), Ok(payload));
        }

        #[test]
        fn changed_ciphertexts_and_signatures_are_errors(
            at in 0..OVERHEAD_BYTES,
            with in 1..=u8::MAX,
            signature_at in 0..48_usize,
        ) {
            let key = BeaconKey::from_seed(b"changed");
            let beacon = key.beacon(0, QUICKNET_PERIOD_S).unwrap();
            let sealed = beacon.encrypt(b"", 3, &mut rng()).unwrap();
            let signature = key.sign(3).unwrap();
            let mut changed = sealed.clone();
            changed[at] ^= with;
            prop_assert!(decrypt(&changed, &signature).is_err());
            let mut forged = signature;
            forged[signature_at] ^= with;
            prop_assert!(decrypt(&sealed, &forged).is_err());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(
            ciphertext in prop::collection::vec(any::<u8>(), 0..400),
            signature in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            prop_assert!(decrypt(&ciphertext, &signature).is_err());
        }

        #[test]
        fn arbitrary_bytes_in_a_well_formed_layout_are_refused_without_a_panic(
            u in prop::array::uniform32(any::<[u8; 3]>()),
            lengths in prop::array::uniform5(0..40_usize),
        ) {
            let [v, w, body, nonce, suite] = lengths.map(|length| vec![7; length]);
            let mut inner = Vec::new();
            put(&mut inner, &body);
            put(&mut inner, &nonce);
            let mut ciphertext = u.concat();
            for part in [&v, &w, &inner, &suite] {
                put(&mut ciphertext, part);
            }
            let signature = BeaconKey::from_seed(b"layout").sign(1).unwrap();
            prop_assert!(decrypt(&ciphertext, &signature).is_err());
        }
    }
}
