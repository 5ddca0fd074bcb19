//! The side that opens sessions and sends requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use x25519_dalek::{PublicKey, StaticSecret};

use super::{
    Accepted, Agreement, BadSession, HEADER_COUNTER, HEADER_SESSION, HEADER_TAG, Opening,
    SessionKey, VERSION, read_key,
};
use crate::Hotkey;
use crate::btauth::Request;

/// A session that was asked for.
pub struct Opener {
    secret: StaticSecret,
    public: PublicKey,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

impl Opener {
    /// `secret` are 32 random bytes for this one session.
    pub fn new(secret: [u8; 32]) -> Self {
        let secret = StaticSecret::from(secret);
        Self { public: PublicKey::from(&secret), secret }
    }

    /// What is sent.
    pub fn opening(&self) -> Opening {
        Opening { version: VERSION, key: hex::encode(self.public.as_bytes()) }
    }

    /// Makes the session from the answer.
    ///
    /// # Errors
    /// If the answer is malformed or is not signed by `receiver`.
    pub fn complete(
        self,
        own: &Hotkey,
        receiver: &Hotkey,
        accepted: &Accepted,
    ) -> Result<Client, BadSession> {
        let mut id = [0; 16];
        hex::decode_to_slice(&accepted.session, &mut id).map_err(|_| BadSession::Name)?;
        let receiver_key = read_key(&accepted.key)?;
        let agreement = Agreement {
            opener: own,
            receiver,
            opener_key: &self.public,
            receiver_key: &receiver_key,
            id: &id,
            expires_in_s: accepted.expires_in_s,
            max_requests: accepted.max_requests,
        };
        if !agreement.is_signed(&accepted.signature) {
            return Err(BadSession::Signature);
        }
        Ok(Client {
            id: hex::encode(id),
            key: agreement.key(&self.secret, &receiver_key)?,
            next: AtomicU64::new(0),
            max_requests: accepted.max_requests,
            lifetime: Duration::from_secs(accepted.expires_in_s),
        })
    }
}

/// An open session.
#[derive(Debug)]
pub struct Client {
    id: String,
    key: SessionKey,
    next: AtomicU64,
    max_requests: u64,
    lifetime: Duration,
}

impl Client {
    /// The other side's hotkey as text: making one of the other is slow.
    pub fn receiver(&self) -> &str {
        self.key.names.split('\n').next_back().unwrap_or_default()
    }

    /// How long it is valid from when it was opened.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The part of its requests that is used up, `0.0..=1.0`.
    pub fn used(&self) -> f64 {
        let used = self.next.load(Ordering::Relaxed).min(self.max_requests);
        used as f64 / self.max_requests.max(1) as f64
    }

    /// A counter for one request, never the same twice; `None` when all are used up.
    pub fn count(&self) -> Option<u64> {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        (counter < self.max_requests).then_some(counter)
    }

    /// The headers of a request with a counter from [`Client::count`].
    pub fn headers(&self, request: &Request<'_>, counter: u64) -> [(&'static str, String); 3] {
        let tag = self.key.tag(request, counter);
        [
            (HEADER_SESSION, self.id.clone()),
            (HEADER_COUNTER, counter.to_string()),
            (HEADER_TAG, tag.to_hex().to_string()),
        ]
    }

    /// Whether the receiver has made this tag for the receipt with this digest, in answer to the request with this
    /// counter. Takes the same time whatever the tag.
    pub fn is_receipt_tag(&self, counter: u64, digest: &[u8; 32], tag: &str) -> bool {
        blake3::Hash::from_hex(tag).is_ok_and(|tag| self.key.receipt_tag(counter, digest) == tag)
    }
}
