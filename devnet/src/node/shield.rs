//! What a block producer does with a shielded transaction: it opens the one that is sealed inside, and includes it behind
//! the carrier.
//!
//! Official tools seal registrations and stake so that nobody can trade ahead of them, and some refuse to send them in
//! the open. On the real chain the key is a new one in each block; here it is always the same and everybody knows it.

use std::sync::OnceLock;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, ML_KEM_768};
use parity_scale_codec::Decode;
use sp_core::H256;
use tokio::sync::mpsc;
use tracing::debug;

use super::chain::{Chain, Refused};
use super::pool::Status;
use crate::runtime::mev_shield::{PUBLIC_KEY_BYTES, SECRET_KEY};

/// Bytes of the hash of the key that a transaction was sealed to; there is only one key.
const KEY_HASH_BYTES: usize = 16;

/// Bytes of XChaCha20's nonce.
const NONCE_BYTES: usize = 24;

/// Submits a transaction; behind one that carries another, also that.
///
/// # Errors
/// If the pool does not take it. Of what is carried nothing is said: its sender looks for it in the blocks.
pub(crate) fn submit(
    chain: &Chain,
    bytes: &[u8],
    watcher: Option<mpsc::UnboundedSender<Status>>,
) -> Result<H256, Refused> {
    let hash = chain.submit(bytes, watcher)?;
    if let Some(carried) = carried(chain, bytes) {
        match open(&carried).map(|inner| chain.submit(&inner, None)) {
            Some(Ok(inner)) => debug!(carrier = ?hash, ?inner, "a shielded transaction was opened"),
            Some(Err(error)) => {
                debug!(carrier = ?hash, %error, "a shielded transaction is refused")
            }
            None => debug!(carrier = ?hash, "a shielded transaction cannot be opened"),
        }
    }
    Ok(hash)
}

/// What a transaction carries, if it is a carrier.
fn carried(chain: &Chain, bytes: &[u8]) -> Option<Vec<u8>> {
    // Sealing alone takes more than this, so that most transactions are passed by.
    if bytes.len() < PUBLIC_KEY_BYTES {
        return None;
    }
    let answer = chain.query(&chain.head(), "ShieldApi_carried", bytes).ok()?;
    Option::<Vec<u8>>::decode(&mut answer.as_slice()).ok()?
}

/// Opens `hash of the key | u16 length | ML-KEM-768 ciphertext | nonce | XChaCha20-Poly1305 ciphertext`.
fn open(sealed: &[u8]) -> Option<Vec<u8>> {
    let sealed = sealed.get(KEY_HASH_BYTES..)?;
    let (length, sealed) = sealed.split_first_chunk()?;
    let (exchange, sealed) = sealed.split_at_checked(u16::from_le_bytes(*length).into())?;
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    let secret = secret_key()?.decapsulate(Ciphertext::from(exchange)).ok()?;
    let (first, last) = nonce.split_first_chunk::<16>()?;
    let key = hchacha20(secret.as_ref().try_into().ok()?, first);
    let mut short = [0; 12];
    short[4..].copy_from_slice(last);
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).ok()?);
    let mut text = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(short);
    key.open_in_place(nonce, Aad::empty(), &mut text).ok().map(|text| text.to_vec())
}

fn secret_key() -> Option<&'static DecapsulationKey> {
    static KEY: OnceLock<Option<DecapsulationKey>> = OnceLock::new();
    KEY.get_or_init(|| DecapsulationKey::new(&ML_KEM_768, &SECRET_KEY).ok()).as_ref()
}

/// The key that XChaCha20 derives from its own key and the first 16 bytes of its nonce
/// (draft-irtf-cfrg-xchacha, section 2.2).
fn hchacha20(key: &[u8; 32], nonce: &[u8; 16]) -> [u8; 32] {
    let mut state = [0_u32; 16];
    state[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    for (word, bytes) in state[4..].iter_mut().zip(key.chunks_exact(4).chain(nonce.chunks_exact(4)))
    {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    for _ in 0..10 {
        for column in 0..4 {
            quarter(&mut state, [column, column + 4, column + 8, column + 12]);
        }
        for column in 0..4 {
            let next = |row: usize| 4 * row + (column + row) % 4;
            quarter(&mut state, [next(0), next(1), next(2), next(3)]);
        }
    }
    let mut derived = [0; 32];
    let words = state[..4].iter().chain(&state[12..]);
    for (bytes, word) in derived.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    derived
}

/// One quarter round of ChaCha.
fn quarter(state: &mut [u32; 16], [a, b, c, d]: [usize; 4]) {
    let mut add = |to: usize, from: usize, mixed: usize, by: u32| {
        state[to] = state[to].wrapping_add(state[from]);
        state[mixed] = (state[mixed] ^ state[to]).rotate_left(by);
    };
    add(a, b, d, 16);
    add(c, d, b, 12);
    add(a, b, d, 8);
    add(c, d, b, 7);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conformance_of_hchacha20_with_the_draft() {
        let key: [u8; 32] = std::array::from_fn(|at| at as u8);
        let nonce: [u8; 16] =
            hex::decode("000000090000004a0000000031415927").unwrap().try_into().unwrap();
        let derived = "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc";
        assert_eq!(hex::encode(hchacha20(&key, &nonce)), derived);
    }

    #[test]
    fn conformance_with_what_the_official_sdk_seals() {
        let sealed = hex::decode(include_str!("shield/sealed.hex").trim()).unwrap();
        assert_eq!(open(&sealed).as_deref(), Some(b"sealed by bittensor-core 0.1.5".as_slice()));
        for cut in [0, 10, 17, 500, sealed.len() - 1] {
            assert_eq!(open(&sealed[..cut]), None);
        }
        let mut changed = sealed;
        changed[1150] ^= 1;
        assert_eq!(open(&changed), None);
    }
}
