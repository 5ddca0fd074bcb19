//! What the command line and the admin API do with keys, in the same words.

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use serde::Serialize;

use super::{Key, Spec};
use crate::clock;
use crate::store::{Store, StoreError};

/// Why a key was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("{0}")]
    Wrong(String),
    #[error("there is no API key with the id `{0}`; list them to see their ids")]
    NoSuchKey(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A key that was just made.
#[derive(Debug, Clone, Serialize)]
pub struct Made {
    /// Shown this once.
    pub secret: String,
    #[serde(flatten)]
    pub key: Key,
}

/// Makes a key.
///
/// # Errors
/// If the specification makes no sense, or the database fails.
pub async fn create(store: &Store, spec: Spec) -> Result<Made, EditError> {
    spec.check().map_err(EditError::Wrong)?;
    let (key, secret) = Key::draw(spec, clock::unix_ms(), &mut ChaCha12Rng::from_os_rng());
    store.add_api_key(&key).await?;
    Ok(Made { secret: secret.reveal().to_owned(), key })
}

/// Changes what a key may do.
///
/// # Errors
/// If there is no such key, the result makes no sense, or the database fails.
pub async fn change(
    store: &Store,
    id: &str,
    change: impl FnOnce(&mut Spec) + Send,
) -> Result<Key, EditError> {
    let changed = store.change_api_key(id, |key| {
        change(&mut key.spec);
        key.spec.check().map_err(EditError::Wrong)
    });
    changed.await?.ok_or_else(|| EditError::NoSuchKey(id.to_owned()))
}

/// Revokes a key for good. One that is revoked stays as it is.
///
/// # Errors
/// If there is no such key, or the database fails.
pub async fn revoke(store: &Store, id: &str) -> Result<Key, EditError> {
    let revoked = store.change_api_key(id, |key| {
        key.revoked_ms.get_or_insert_with(clock::unix_ms);
        Ok::<_, EditError>(())
    });
    revoked.await?.ok_or_else(|| EditError::NoSuchKey(id.to_owned()))
}
