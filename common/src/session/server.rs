//! The side that accepts sessions and serves requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use x25519_dalek::{PublicKey, StaticSecret};

use super::{
    Accepted, Agreement, BadSession, HEADER_COUNTER, HEADER_SESSION, HEADER_TAG, Opening,
    Rejection, SessionKey, VERSION, read_key,
};
use crate::btauth::Request;
use crate::{Hotkey, Keypair};

/// How far behind the highest counter one may still arrive: requests overtake each other on different connections.
const WINDOW: u64 = 4096;
const WORDS: usize = WINDOW as usize / 64;

/// The bounds of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub lifetime: Duration,
    pub max_requests: u64,
    /// Sessions of one hotkey; the oldest is closed for one more. More than one, because a hotkey may be used by several
    /// processes.
    pub per_hotkey: usize,
}

impl Default for Terms {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(3600), max_requests: 1 << 20, per_hotkey: 16 }
    }
}

/// The sessions that are open. Their number is bounded by [`Terms::per_hotkey`] for each hotkey that may open one, and who
/// may is decided before [`Sessions::accept`].
#[derive(Debug)]
pub struct Sessions {
    terms: Terms,
    open: Mutex<HashMap<[u8; 16], Arc<Server>>>,
}

/// One open session.
#[derive(Debug)]
struct Server {
    hotkey: Hotkey,
    key: SessionKey,
    max_requests: u64,
    opened: Instant,
    expires: Instant,
    seen: Mutex<Seen>,
}

/// What a request says about its session, not proved yet.
#[derive(Debug)]
pub struct Claim {
    session: Arc<Server>,
    counter: u64,
    tag: blake3::Hash,
}

impl Sessions {
    /// Without any.
    pub fn new(terms: Terms) -> Self {
        Self { terms, open: Mutex::default() }
    }

    /// Opens a session for `opener`, who has signed the opening. `secret` and `id` are random bytes.
    ///
    /// # Errors
    /// If the opening is malformed.
    pub fn accept(
        &self,
        opener: &Hotkey,
        opening: &Opening,
        keypair: &Keypair,
        secret: [u8; 32],
        id: [u8; 16],
        now: Instant,
    ) -> Result<Accepted, BadSession> {
        if opening.version != VERSION {
            return Err(BadSession::Version);
        }
        let opener_key = read_key(&opening.key)?;
        let secret = StaticSecret::from(secret);
        let receiver_key = PublicKey::from(&secret);
        let Terms { lifetime, max_requests, per_hotkey } = self.terms;
        let agreement = Agreement {
            opener,
            receiver: &keypair.hotkey(),
            opener_key: &opener_key,
            receiver_key: &receiver_key,
            id: &id,
            expires_in_s: lifetime.as_secs(),
            max_requests,
        };
        let session = Server {
            hotkey: *opener,
            key: agreement.key(&secret, &opener_key)?,
            max_requests,
            opened: now,
            expires: now + lifetime,
            seen: Mutex::default(),
        };
        let accepted = Accepted {
            session: hex::encode(id),
            key: hex::encode(receiver_key.as_bytes()),
            expires_in_s: lifetime.as_secs(),
            max_requests,
            signature: agreement.sign(keypair),
        };
        let mut open = self.lock();
        open.retain(|_, session| session.expires > now);
        let of_opener = || open.iter().filter(|(_, session)| session.hotkey == *opener);
        if of_opener().count() >= per_hotkey
            && let Some(oldest) = of_opener().min_by_key(|(_, session)| session.opened)
        {
            let oldest = *oldest.0;
            open.remove(&oldest);
        }
        open.insert(id, Arc::new(session));
        Ok(accepted)
    }

    /// Which session a request says that it is part of, before its body is read; `None` if it names none. [`Claim::check`]
    /// must follow.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] and [`Rejection::Unknown`].
    pub fn claimed<'h>(
        &self,
        header: impl Fn(&str) -> Option<&'h str>,
        now: Instant,
    ) -> Result<Option<Claim>, Rejection> {
        use Rejection::Malformed;
        let Some(id) = header(HEADER_SESSION) else { return Ok(None) };
        let mut bytes = [0; 16];
        hex::decode_to_slice(id, &mut bytes)
            .map_err(|_| Malformed("X-Touchstone-Session is not 32 hexadecimal digits"))?;
        let counter = header(HEADER_COUNTER)
            .and_then(|counter| counter.parse().ok())
            .ok_or(Malformed("X-Touchstone-Counter is missing or not a decimal number"))?;
        let tag = header(HEADER_TAG)
            .and_then(|tag| blake3::Hash::from_hex(tag).ok())
            .ok_or(Malformed("X-Touchstone-Tag is missing or not 64 hexadecimal digits"))?;
        let session = self.lock().get(&bytes).filter(|session| session.expires > now).cloned();
        Ok(Some(Claim { session: session.ok_or(Rejection::Unknown)?, counter, tag }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 16], Arc<Server>>> {
        // A panic while it was held left whole entries only.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Who has opened the session.
    pub fn hotkey(&self) -> Hotkey {
        self.session.hotkey
    }

    /// Proves that the request is part of the session and was not seen before.
    ///
    /// # Errors
    /// [`Rejection::BadTag`] and [`Rejection::Replayed`].
    pub fn check(&self, request: &Request<'_>) -> Result<(), Rejection> {
        if self.session.key.tag(request, self.counter) != self.tag {
            return Err(Rejection::BadTag);
        }
        let mut seen = self.session.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if self.counter < self.session.max_requests && seen.insert(self.counter) {
            Ok(())
        } else {
            Err(Rejection::Replayed)
        }
    }

    /// The tag of the receipt that answers this request, 64 hexadecimal digits.
    pub fn receipt_tag(&self, digest: &[u8; 32]) -> String {
        self.session.key.receipt_tag(self.counter, digest).to_hex().to_string()
    }
}

/// Which of the last counters were used: a ring of bits, as RFC 6479 has it.
#[derive(Debug)]
struct Seen {
    /// One more than the highest counter.
    end: u64,
    bits: [u64; WORDS],
}

impl Default for Seen {
    fn default() -> Self {
        Self { end: 0, bits: [0; WORDS] }
    }
}

impl Seen {
    /// Returns whether the counter is new and not too far behind.
    fn insert(&mut self, counter: u64) -> bool {
        // One word less than there are: the word of the newest counters is reused as a whole.
        if counter.saturating_add(WINDOW - 64) < self.end {
            return false;
        }
        let word = counter / 64;
        let untouched = self.end.div_ceil(64).max(word.saturating_sub(WORDS as u64 - 1));
        for fresh in untouched..=word {
            self.bits[fresh as usize % WORDS] = 0;
        }
        self.end = self.end.max(counter.saturating_add(1));
        let (place, bit) = (word as usize % WORDS, 1 << (counter % 64));
        let is_new = self.bits[place] & bit == 0;
        self.bits[place] |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_counter_passes_twice_and_a_late_one_passes_once(
            steps in prop::collection::vec((0..3_u64, 0..6000_u64), 1..400),
        ) {
            let (mut seen, mut accepted, mut highest) = (Seen::default(), BTreeSet::new(), 0_u64);
            for (kind, distance) in steps {
                let counter = match kind {
                    0 => highest + 1 + distance % 5,
                    1 => highest + distance,
                    _ => highest.saturating_sub(distance),
                };
                let is_new = seen.insert(counter);
                if accepted.contains(&counter) {
                    prop_assert!(!is_new, "{} passed twice", counter);
                } else if counter + (WINDOW - 64) > highest {
                    prop_assert!(is_new, "{} is new, highest {}", counter, highest);
                }
                if is_new {
                    accepted.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }
    }
}
