//! btauth/1: signed HTTP requests between neurons, as the official Python SDK makes and checks them.
//!
//! A few headers prove "sent by hotkey X, to hotkey Y, with exactly this body, just now". What is signed are eight lines
//! joined by `\n`: `btauth/1`, scheme, METHOD, request target, SHA-256 of the body (hex), nonce, sender, receiver or `-`.

mod replay;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::{Hotkey, Keypair, Signature};
use replay::Replays;

const PROTOCOL: &str = "btauth/1";
const VERSION: &str = "1";
/// Stands for the receiver in a request that is bound to none.
const NO_RECEIVER: &str = "-";

pub const HEADER_VERSION: &str = "x-bittensor-version";
pub const HEADER_HOTKEY: &str = "x-bittensor-hotkey";
pub const HEADER_RECEIVER: &str = "x-bittensor-receiver";
pub const HEADER_NONCE: &str = "x-bittensor-nonce";
pub const HEADER_CRYPTO: &str = "x-bittensor-crypto";
pub const HEADER_SIGNATURE: &str = "x-bittensor-signature";

/// The parts of an HTTP request that a signature covers.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// In any case; signed in upper case.
    pub method: &'a str,
    /// Path and `?query`, percent-encoded exactly as it is sent.
    pub target: &'a str,
    /// The raw body as it is sent.
    pub body: &'a [u8],
}

/// The signature scheme of a hotkey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Sr25519,
    Ed25519,
}

impl Scheme {
    /// The name in the header and in the signed bytes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sr25519 => "sr25519",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The SDK takes the wallet files' numbers as well as the names.
    fn read(name: Option<&str>) -> Option<Self> {
        match name.map(|name| name.trim().to_ascii_lowercase()).as_deref() {
            None | Some("sr25519" | "1") => Some(Self::Sr25519),
            Some("ed25519" | "0") => Some(Self::Ed25519),
            Some(_) => None,
        }
    }

    /// Wallet tools wrap what they sign in `<Bytes>`, so the official SDK accepts both forms, and so does this.
    fn verifies(self, hotkey: &Hotkey, payload: &[u8], signature: &Signature) -> bool {
        let plainly = |message: &[u8]| match self {
            Self::Sr25519 => hotkey.verifies(message, signature),
            Self::Ed25519 => {
                ed25519_dalek::VerifyingKey::from_bytes(hotkey.as_bytes()).is_ok_and(|key| {
                    key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature))
                        .is_ok()
                })
            }
        };
        plainly(payload) || plainly(&[b"<Bytes>", payload, b"</Bytes>"].concat())
    }
}

/// The exact bytes that are signed.
fn payload(
    scheme: Scheme,
    request: &Request<'_>,
    nonce_ns: u64,
    sender: &Hotkey,
    receiver: Option<&Hotkey>,
) -> String {
    let mut text = format!(
        "{PROTOCOL}\n{}\n{}\n{}\n{}\n{nonce_ns}\n{sender}\n",
        scheme.as_str(),
        request.method.to_uppercase(),
        request.target,
        hex::encode(Sha256::digest(request.body)),
    );
    // Writing to a string cannot fail.
    let _ = match receiver {
        Some(receiver) => write!(text, "{receiver}"),
        None => write!(text, "{NO_RECEIVER}"),
    };
    text
}

/// The headers of a signed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers(Vec<(&'static str, String)>);

impl Headers {
    /// Names (lower case) and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The value of the header `name`, in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(own, value)| (own == name).then_some(value))
    }
}

impl IntoIterator for Headers {
    type Item = (&'static str, String);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Signs a request with an sr25519 hotkey.
///
/// `nonce_ns` is the time in Unix nanoseconds and must be new for every try, repeated ones included: see [`Nonces`].
/// Verifiers refuse a request without `receiver` unless they are told otherwise.
pub fn sign(
    request: &Request<'_>,
    keypair: &Keypair,
    receiver: Option<&Hotkey>,
    nonce_ns: u64,
) -> Headers {
    let sender = keypair.hotkey();
    let signed = payload(Scheme::Sr25519, request, nonce_ns, &sender, receiver);
    let mut headers = vec![
        (HEADER_VERSION, VERSION.to_owned()),
        (HEADER_HOTKEY, sender.to_string()),
        (HEADER_NONCE, nonce_ns.to_string()),
        (HEADER_SIGNATURE, format!("0x{}", hex::encode(keypair.sign(signed.as_bytes())))),
    ];
    if let Some(receiver) = receiver {
        headers.push((HEADER_RECEIVER, receiver.to_string()));
    }
    Headers(headers)
}

/// Makes nonces that never repeat in one process, even where the clock is coarse or steps back a little.
#[derive(Debug, Default)]
pub struct Nonces(AtomicU64);

impl Nonces {
    /// The time given, or the nanosecond after the last nonce if that is later.
    pub fn next(&self, now_ns: u64) -> u64 {
        let mut last = self.0.load(Ordering::Relaxed);
        loop {
            let next = now_ns.max(last.saturating_add(1));
            match self.0.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return next,
                Err(current) => last = current,
            }
        }
    }
}

/// Why a request is not authenticated. The text is safe to show to the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A header is missing or cannot be read.
    #[error("{0}")]
    MalformedAuth(&'static str),
    #[error(
        "the request was signed for another receiver, or for none: sign it for this server's hotkey"
    )]
    WrongReceiver,
    /// Too old, or too far ahead.
    #[error(
        "the nonce is outside of the accepted time: check your clock and sign every request anew"
    )]
    StaleRequest,
    #[error("the signature does not belong to this request and hotkey")]
    BadSignature,
    #[error("this nonce was used before: sign every request anew")]
    ReplayedRequest,
    /// No memory is left to recognise a replay of this request with, so that it is refused.
    #[error("too many signed requests at once: slow down")]
    Overloaded,
}

impl Rejection {
    /// The name that the official SDK gives to it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MalformedAuth(_) => "MalformedAuth",
            Self::WrongReceiver => "WrongReceiver",
            Self::StaleRequest => "StaleRequest",
            Self::BadSignature => "BadSignature",
            Self::ReplayedRequest => "ReplayedRequest",
            Self::Overloaded => "Overloaded",
        }
    }
}

/// Which requests a [`Verifier`] accepts, and how much it remembers of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// How old a nonce may be.
    pub max_age: Duration,
    /// How far ahead of this clock a nonce may be.
    pub allowed_skew: Duration,
    /// How long nonces are remembered; at least `max_age` is. What is longer protects against a clock that steps back.
    pub retention: Duration,
    /// The most nonces remembered, over all senders. Each takes about 20 bytes.
    pub capacity: usize,
    /// The most nonces remembered of one sender, so that none can use up the memory of the others.
    pub per_sender: usize,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(10),
            allowed_skew: Duration::from_secs(2),
            retention: Duration::from_secs(60),
            capacity: 262_144,
            per_sender: 32_768,
        }
    }
}

/// Who sent an authenticated request. Whether they may is another question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    pub hotkey: Hotkey,
    pub nonce_ns: u64,
    pub scheme: Scheme,
}

/// What the headers of a request say, not proved yet.
struct Claim<'v> {
    sender: Sender,
    receiver: Option<&'v Hotkey>,
    signature: Signature,
}

/// Authenticates requests to one hotkey.
///
/// # Replays
/// A nonce is remembered only after its signature was found valid. The memory is bounded and fails safe: when a sender's
/// part or the whole is used up by nonces that are still fresh, further requests are refused as
/// [`Rejection::Overloaded`]; a nonce that could still be replayed is never forgotten. Stale ones are forgotten early if
/// room is needed. Servers that know who may call them use [`claimed`](Self::claimed) before they read a body, then
/// [`check`](Self::check), decide, then [`remember`](Self::remember): then strangers, who can make as many keys as they
/// like, cannot fill the memory. A server that is started anew remembers nothing: see [`since`](Self::since).
#[derive(Debug)]
pub struct Verifier {
    own: Hotkey,
    windows: Windows,
    since_ns: u64,
    require_receiver: bool,
    replays: Replays,
}

impl Verifier {
    /// A verifier of requests to `own`, with nothing remembered.
    pub fn new(own: Hotkey, windows: Windows) -> Self {
        let replays = Replays::new(&windows);
        Self { own, windows, since_ns: 0, require_receiver: true, replays }
    }

    /// Takes nonces before this moment, in Unix nanoseconds, as stale. With the time of the start, nothing that was sent
    /// to a server before it was restarted can be replayed after, but for what was signed by a clock that is ahead.
    #[must_use]
    pub fn since(self, since_ns: u64) -> Self {
        Self { since_ns, ..self }
    }

    /// Also accepts requests that are signed for no receiver in particular. Another server can replay them here.
    #[must_use]
    pub fn accept_unbound(self) -> Self {
        Self { require_receiver: false, ..self }
    }

    /// Authenticates one request and remembers its nonce: [`check`](Self::check), then [`remember`](Self::remember).
    ///
    /// # Errors
    /// The first [`Rejection`] in the order of the protocol: shape, receiver, freshness, signature, replay.
    pub fn verify<'h>(
        &self,
        request: &Request<'_>,
        header: impl Fn(&str) -> Option<&'h str>,
        now_ns: u64,
    ) -> Result<Sender, Rejection> {
        let sender = self.check(request, header, now_ns)?;
        self.remember(&sender, now_ns)?;
        Ok(sender)
    }

    /// Authenticates a request but for replays. `header` is asked for names in lower case, `now_ns` is Unix time.
    ///
    /// # Errors
    /// Every [`Rejection`] but [`Rejection::ReplayedRequest`] and [`Rejection::Overloaded`].
    pub fn check<'h>(
        &self,
        request: &Request<'_>,
        header: impl Fn(&str) -> Option<&'h str>,
        now_ns: u64,
    ) -> Result<Sender, Rejection> {
        let Claim { sender, receiver, signature } = self.read(header, now_ns)?;
        let Sender { hotkey, nonce_ns, scheme } = sender;
        let signed = payload(scheme, request, nonce_ns, &hotkey, receiver);
        if !scheme.verifies(&hotkey, signed.as_bytes(), &signature) {
            return Err(Rejection::BadSignature);
        }
        Ok(sender)
    }

    /// Who the headers say that they are of. Anybody can write them: this only saves reading the bodies of requests that
    /// would be refused anyway, and [`check`](Self::check) must follow.
    ///
    /// # Errors
    /// [`Rejection::MalformedAuth`], [`Rejection::WrongReceiver`] and [`Rejection::StaleRequest`].
    pub fn claimed<'h>(
        &self,
        header: impl Fn(&str) -> Option<&'h str>,
        now_ns: u64,
    ) -> Result<Hotkey, Rejection> {
        self.read(header, now_ns).map(|claim| claim.sender.hotkey)
    }

    /// Everything of a request but what needs its body.
    fn read<'h>(
        &self,
        header: impl Fn(&str) -> Option<&'h str>,
        now_ns: u64,
    ) -> Result<Claim<'_>, Rejection> {
        use Rejection::MalformedAuth;
        if header(HEADER_VERSION) != Some(VERSION) {
            return Err(MalformedAuth(
                "X-Bittensor-Version is missing or not 1: sign requests by btauth/1",
            ));
        }
        let hotkey = header(HEADER_HOTKEY).ok_or(MalformedAuth("X-Bittensor-Hotkey is missing"))?;
        let nonce = header(HEADER_NONCE).ok_or(MalformedAuth("X-Bittensor-Nonce is missing"))?;
        let nonce_ns =
            read_nonce(nonce).ok_or(MalformedAuth("X-Bittensor-Nonce is not a decimal number"))?;
        let scheme = Scheme::read(header(HEADER_CRYPTO))
            .ok_or(MalformedAuth("X-Bittensor-Crypto is neither sr25519 nor ed25519"))?;
        let signature =
            header(HEADER_SIGNATURE).ok_or(MalformedAuth("X-Bittensor-Signature is missing"))?;
        let hotkey: Hotkey = hotkey
            .parse()
            .map_err(|_| MalformedAuth("X-Bittensor-Hotkey is not an ss58 address"))?;
        let signature = read_signature(signature)
            .ok_or(MalformedAuth("X-Bittensor-Signature is not 64 bytes in hexadecimal digits"))?;

        let receiver = match header(HEADER_RECEIVER) {
            None if self.require_receiver => return Err(Rejection::WrongReceiver),
            None => None,
            Some(receiver) if receiver.parse() == Ok(self.own) => Some(&self.own),
            Some(_) => return Err(Rejection::WrongReceiver),
        };
        if !self.is_fresh(nonce_ns, now_ns) {
            return Err(Rejection::StaleRequest);
        }
        Ok(Claim { sender: Sender { hotkey, nonce_ns, scheme }, receiver, signature })
    }

    /// Remembers the nonce of a request that [`check`](Self::check) accepted.
    ///
    /// # Errors
    /// [`Rejection::ReplayedRequest`] or [`Rejection::Overloaded`]: the request must not be served.
    pub fn remember(&self, sender: &Sender, now_ns: u64) -> Result<(), Rejection> {
        self.replays.insert(&sender.hotkey, sender.nonce_ns, now_ns)
    }

    fn is_fresh(&self, nonce_ns: u64, now_ns: u64) -> bool {
        let (age, ahead) = (now_ns.saturating_sub(nonce_ns), nonce_ns.saturating_sub(now_ns));
        nonce_ns >= self.since_ns
            && u128::from(age) <= self.windows.max_age.as_nanos()
            && u128::from(ahead) <= self.windows.allowed_skew.as_nanos()
    }
}

/// A number that is too large is a time far ahead, not a malformed one. Only the one canonical text of a number is taken,
/// because the signature covers the text.
fn read_nonce(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().unwrap_or(u64::MAX))
}

fn read_signature(text: &str) -> Option<Signature> {
    let mut signature = [0; 64];
    hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut signature).ok()?;
    Some(signature)
}

#[cfg(test)]
mod tests;
