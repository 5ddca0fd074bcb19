//! Sessions: requests between two hotkeys without a signature for each.
//!
//! A request signed by btauth/1 opens one: both sides send an X25519 key, the receiver signs the whole agreement with its
//! hotkey, and both derive the same secret key. Requests in the session carry three headers: which session, a counter that
//! never repeats, and a tag, the keyed BLAKE3 hash of the eight lines that btauth/1 would sign, with `touchstone/1` for the
//! protocol, `blake3` for the scheme and the counter for the nonce. Making or checking a tag takes about a microsecond, a
//! signature tens of them. Sessions are bounded in time and in requests, and whoever does not offer them is sent btauth/1.

mod client;
mod server;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::btauth::Request;
use crate::{Hotkey, Keypair, Signature};

pub use client::{Client, Opener};
pub use server::{Claim, Sessions, Terms};

/// Where a session is opened: `POST` of an [`Opening`], signed by btauth/1.
pub const PATH: &str = "/session";

pub const HEADER_SESSION: &str = "x-touchstone-session";
pub const HEADER_COUNTER: &str = "x-touchstone-counter";
pub const HEADER_TAG: &str = "x-touchstone-tag";

const VERSION: u8 = 1;
const PROTOCOL: &[u8] = b"touchstone/1\nblake3\n";
/// Separates the receiver's signature from every other use of its hotkey.
const DOMAIN: &[u8] = b"touchstone/session/1";
/// Separates this key from every other one that could be derived from the same secret.
const KEY_CONTEXT: &str = "touchstone 2026-11-26 session/1 request and receipt tags";
const RECEIPT: &[u8] = b"touchstone/receipt-tag/1";

/// The request for a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// 1.
    pub version: u8,
    /// X25519 public key, 64 hexadecimal digits.
    pub key: String,
}

/// The answer to an [`Opening`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Names the session, 32 hexadecimal digits.
    pub session: String,
    /// X25519 public key, 64 hexadecimal digits.
    pub key: String,
    /// Seconds from now on that it is valid.
    pub expires_in_s: u64,
    /// Counters are below this.
    pub max_requests: u64,
    /// sr25519 by the receiver's hotkey over the agreement, `0x` and hexadecimal digits.
    pub signature: String,
}

/// An [`Opening`] or [`Accepted`] that makes no session. The text is safe to show to the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSession {
    #[error("this version of sessions is not known here; version {VERSION} is")]
    Version,
    #[error("the key is not a usable X25519 public key in 64 hexadecimal digits")]
    Key,
    #[error("the name of the session is not 32 hexadecimal digits")]
    Name,
    #[error("the signature is not the receiver's, over this agreement")]
    Signature,
}

/// Why a request is not accepted as part of a session. The text is safe to show to the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("{0}")]
    Malformed(&'static str),
    /// It has ended, was never opened, or was forgotten with a restart.
    #[error("this session is not known: open another one")]
    Unknown,
    #[error("the tag does not belong to this request and session")]
    BadTag,
    #[error("this counter was used before, or is out of the session's range: count on")]
    Replayed,
}

impl Rejection {
    /// One word for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed(_) => "MalformedSession",
            Self::Unknown => "UnknownSession",
            Self::BadTag => "BadTag",
            Self::Replayed => "ReplayedRequest",
        }
    }
}

/// What both sides agree on.
struct Agreement<'a> {
    opener: &'a Hotkey,
    receiver: &'a Hotkey,
    opener_key: &'a PublicKey,
    receiver_key: &'a PublicKey,
    id: &'a [u8; 16],
    expires_in_s: u64,
    max_requests: u64,
}

impl Agreement<'_> {
    /// SHA-256 over parts of fixed length.
    fn digest(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(DOMAIN)
            .chain_update(self.opener.as_bytes())
            .chain_update(self.receiver.as_bytes())
            .chain_update(self.opener_key.as_bytes())
            .chain_update(self.receiver_key.as_bytes())
            .chain_update(self.id)
            .chain_update(self.expires_in_s.to_le_bytes())
            .chain_update(self.max_requests.to_le_bytes())
            .finalize()
            .into()
    }

    fn sign(&self, keypair: &Keypair) -> String {
        format!("0x{}", hex::encode(keypair.sign(&self.digest())))
    }

    fn is_signed(&self, signature: &str) -> bool {
        let mut bytes: Signature = [0; 64];
        let digits = signature.strip_prefix("0x").unwrap_or(signature);
        hex::decode_to_slice(digits, &mut bytes).is_ok()
            && self.receiver.verifies(&self.digest(), &bytes)
    }

    fn key(&self, own: &StaticSecret, other: &PublicKey) -> Result<SessionKey, BadSession> {
        let shared = own.diffie_hellman(other);
        if !shared.was_contributory() {
            return Err(BadSession::Key);
        }
        let mut hash = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        hash.update(shared.as_bytes()).update(&self.digest());
        let names = format!("{}\n{}", self.opener, self.receiver);
        Ok(SessionKey { key: hash.finalize().into(), names })
    }
}

/// The secret that both sides hold.
struct SessionKey {
    key: [u8; 32],
    /// The last two of the eight lines, made once: ss58 addresses are slow to write.
    names: String,
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionKey").field("names", &self.names).finish_non_exhaustive()
    }
}

impl SessionKey {
    fn tag(&self, request: &Request<'_>, counter: u64) -> blake3::Hash {
        let mut digest = [0; 64];
        // 32 bytes are 64 digits.
        let _ = hex::encode_to_slice(Sha256::digest(request.body), &mut digest);
        let mut hash = blake3::Hasher::new_keyed(&self.key);
        hash.update(PROTOCOL)
            .update(request.method.to_ascii_uppercase().as_bytes())
            .update(b"\n")
            .update(request.target.as_bytes())
            .update(b"\n")
            .update(&digest)
            .update(b"\n")
            .update(counter.to_string().as_bytes())
            .update(b"\n")
            .update(self.names.as_bytes());
        hash.finalize()
    }

    /// Binds a receipt to the request with this counter.
    fn receipt_tag(&self, counter: u64, digest: &[u8; 32]) -> blake3::Hash {
        let mut hash = blake3::Hasher::new_keyed(&self.key);
        hash.update(RECEIPT).update(&counter.to_le_bytes()).update(digest);
        hash.finalize()
    }
}

fn read_key(digits: &str) -> Result<PublicKey, BadSession> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| BadSession::Key)?;
    Ok(PublicKey::from(bytes))
}

#[cfg(test)]
mod tests;
