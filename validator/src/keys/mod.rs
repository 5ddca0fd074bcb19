//! Keys of the organic API: who may call, for which tasks, how much, and for how much money.

mod admission;
pub mod bucket;
mod budgets;
mod calendar;
pub mod cli;
mod denied;
pub mod edit;
mod gate;
mod headers;
mod live;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use common::TaskId;
use common::money::Usd;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use admission::{Admission, Reservation, Used};
pub use calendar::{day_ms, parse_day, window_start};
pub use denied::Denied;
pub use gate::{Gate, GateConfig, Owner, bearer, now_ms};
pub use headers::{Headers, Levels};

/// Who calls without a key, in the ledger.
pub(crate) const ANONYMOUS: &str = "anonymous";
/// What a key that is made here begins with.
const PREFIX: &str = "ts-";

/// When a budget begins anew, at midnight UTC; weeks begin on Monday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Reset {
    #[default]
    Never,
    Daily,
    Weekly,
    Monthly,
}

/// How much a key may do. What is absent is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// For people.
    pub name: String,
    /// Empty: all.
    pub models: BTreeSet<TaskId>,
    pub requests_per_minute: Option<u32>,
    /// Of prompts and answers together.
    pub tokens_per_minute: Option<u32>,
    /// Requests under way at once.
    pub parallel: Option<u32>,
    pub budget: Option<Usd>,
    pub budget_reset: Reset,
    /// Unix milliseconds from which on the key is refused.
    pub expires_ms: Option<i64>,
    pub metadata: BTreeMap<String, String>,
}

impl Spec {
    /// What makes no sense.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.name.trim().is_empty() || self.name.len() > 200 {
            return Err("`name` must have 1 to 200 bytes".to_owned());
        }
        for (what, limit) in [
            ("requests_per_minute", self.requests_per_minute),
            ("tokens_per_minute", self.tokens_per_minute),
            ("parallel", self.parallel),
        ] {
            if limit == Some(0) {
                return Err(format!("`{what}` must be at least 1; revoke a key to stop it"));
            }
        }
        match self.budget {
            Some(budget) if budget < Usd::ZERO => Err("`budget` must not be negative".to_owned()),
            Some(_) | None => Ok(()),
        }
    }
}

/// A key as it is stored: of the secret there is only its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Such as `key_0123456789ab`; says nothing about the secret.
    pub id: String,
    #[serde(skip)]
    pub hash: [u8; 32],
    pub created_ms: i64,
    pub revoked_ms: Option<i64>,
    #[serde(flatten)]
    pub spec: Spec,
}

/// A key's secret, to be shown once.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text that its owner sends as `Authorization: Bearer …`.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Key {
    /// Draws a new key.
    pub fn draw(spec: Spec, now_ms: i64, rng: &mut impl CryptoRng) -> (Self, Secret) {
        let (mut id, mut secret) = ([0; 6], [0; 32]);
        rng.fill_bytes(&mut id);
        rng.fill_bytes(&mut secret);
        let secret = Secret(format!("{PREFIX}{}", hex::encode(secret)));
        let id = format!("key_{}", hex::encode(id));
        let key =
            Self { id, hash: hash(secret.reveal()), created_ms: now_ms, revoked_ms: None, spec };
        (key, secret)
    }
}

/// The form in which a key is kept. Looked up by it, so that the time it takes says nothing about the keys that exist.
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// `k=v`.
#[derive(Debug, Clone)]
pub struct Pair(pub String, pub String);

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or_else(|| format!("`{text}` has no `=`; write KEY=VALUE"))?;
        Ok(Self(key.trim().to_owned(), value.trim().to_owned()))
    }
}
