//! Keys of the organic API.

use futures::TryStreamExt;

use super::database::values;
use super::{Store, StoreError, failed};
use crate::keys::{Key, Spec};

/// A change is seen by running validators because it raises this, in its transaction.
const CHANGED: &str = "UPDATE api_keys_version SET version = version + 1 WHERE one = 1";

impl Store {
    /// Goes up with every change of a key.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn api_keys_version(&self) -> Result<i64, StoreError> {
        let failed = failed("read the version of the API keys");
        let row = self
            .database
            .first("SELECT version FROM api_keys_version WHERE one = 1", &[])
            .await
            .map_err(&failed)?;
        row.map_or(Ok(0), |row| row.fields().int()).map_err(failed)
    }

    /// All keys, revoked ones too, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn api_keys(&self) -> Result<Vec<Key>, StoreError> {
        let mut keys = Vec::new();
        let mut rows = self.database.rows(
            "SELECT id, hash, created_ms, revoked_ms, spec FROM api_keys ORDER BY created_ms, id",
            &[],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("read the API keys"))? {
            let mut fields = row.fields();
            let read = (|| {
                let (id, mut hash) = (fields.text()?.to_owned(), [0; 32]);
                hex::decode_to_slice(fields.text()?, &mut hash)
                    .map_err(|error| sqlx::Error::Decode(error.into()))?;
                Ok(Key {
                    id,
                    hash,
                    created_ms: fields.int()?,
                    revoked_ms: fields.maybe_int()?,
                    spec: fields.json::<Spec>()?,
                })
            })();
            keys.extend(self.readable("api_keys", read));
        }
        Ok(keys)
    }

    /// Adds a key.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_api_key(&self, key: &Key) -> Result<(), StoreError> {
        let failed = failed("add an API key");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        transaction
            .execute(
                "INSERT INTO api_keys (id, hash, created_ms, revoked_ms, spec) VALUES ($1, $2, $3, $4, $5)",
                values![
                    key.id.as_str(),
                    hex::encode(key.hash),
                    key.created_ms,
                    key.revoked_ms,
                    serde_json::to_string(&key.spec).unwrap_or_default(),
                ],
            )
            .await
            .map_err(&failed)?;
        transaction.execute(CHANGED, &[]).await.map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// Changes a key's limits. Returns it as it is now, or `None` if there is no such key.
    ///
    /// # Errors
    /// If the database fails, or with what `change` objects to.
    pub async fn change_api_key<E: From<StoreError>>(
        &self,
        id: &str,
        change: impl FnOnce(&mut Key) -> Result<(), E> + Send,
    ) -> Result<Option<Key>, E> {
        let failed = failed("change an API key");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        // Changes the row's version first: on PostgreSQL the others wait here, so that none is lost.
        transaction.execute(CHANGED, &[]).await.map_err(&failed)?;
        let Some(mut key) = self.api_keys().await?.into_iter().find(|key| key.id == id) else {
            return Ok(None);
        };
        change(&mut key)?;
        transaction
            .execute(
                "UPDATE api_keys SET revoked_ms = $2, spec = $3 WHERE id = $1",
                values![id, key.revoked_ms, serde_json::to_string(&key.spec).unwrap_or_default()],
            )
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(Some(key))
    }
}
