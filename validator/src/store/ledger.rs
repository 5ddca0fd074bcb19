//! What requests cost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::money::Usd;
use futures::TryStreamExt;
use serde::Serialize;

use super::database::{Fields, Value, values};
use super::{Store, StoreError, failed, leases};
use crate::ledger::{Entry, Pico, Record};

/// What a key was charged since a moment.
pub(super) const CHARGED: &str =
    "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM ledger WHERE key_id = $1 AND at_ms >= $2";

/// What one key used of one task on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The day's first moment in UTC, Unix milliseconds.
    pub day_ms: i64,
    pub key: String,
    pub task: String,
    pub requests: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub cost_usd: Usd,
}

impl Store {
    /// Up to which byte a journal's file is imported.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn journal_position(&self, name: &str) -> Result<u64, StoreError> {
        let failed = failed("read how far a journal is imported");
        let row = self
            .database
            .first("SELECT position FROM ledger_journals WHERE journal = $1", values![name])
            .await
            .map_err(&failed)?;
        row.map_or(Ok(0), |row| row.fields().sum()).map_err(failed)
    }

    /// Takes records over, together with the position behind them.
    ///
    /// # Errors
    /// If the database fails; everything is as before then.
    pub async fn import_records(
        &self,
        node: &str,
        journal: &str,
        position: u64,
        records: &[Record],
    ) -> Result<(), StoreError> {
        let failed = failed("take over what requests cost");
        let (mut opened, mut closed, mut entries) =
            (BTreeMap::new(), BTreeSet::new(), Vec::<[Value; 11]>::new());
        let mut charged: BTreeMap<&str, Usd> = BTreeMap::new();
        for record in records {
            match record {
                Record::Opened { id, key } => _ = opened.insert(id.as_str(), &**key),
                Record::Released { id } => _ = closed.insert(id.as_str()),
                Record::Settled(entry) | Record::Whole(entry) => {
                    if matches!(record, Record::Settled(_)) {
                        closed.insert(&entry.id);
                    }
                    let sum = charged.entry(&entry.key).or_insert(Usd::ZERO);
                    *sum = sum.plus(Usd::from_pico(entry.amount.0));
                    entries.push(row(entry));
                }
            }
        }
        let both: Vec<_> = closed.iter().copied().filter(|id| opened.contains_key(id)).collect();
        for id in both {
            opened.remove(id);
            closed.remove(id);
        }
        let opened: Vec<_> = opened
            .into_iter()
            .map(|(id, key)| [Value::from(id), Value::from(node), Value::from(key)])
            .collect();
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        leases::imported(&mut transaction, node, &charged).await.map_err(&failed)?;
        transaction
            .insert(
                "INSERT INTO ledger (id, at_ms, key_id, task, prompt_tokens, completion_tokens, amount, uid, hotkey,
                     attempts, streamed)",
                &entries,
                "",
            )
            .await
            .map_err(&failed)?;
        transaction
            .insert("INSERT INTO ledger_open (id, node, key_id)", &opened, "")
            .await
            .map_err(&failed)?;
        for id in closed {
            transaction
                .execute("DELETE FROM ledger_open WHERE id = $1", values![id])
                .await
                .map_err(&failed)?;
        }
        transaction
            .execute(
                "INSERT INTO ledger_journals (journal, position) VALUES ($1, $2)
                 ON CONFLICT (journal) DO UPDATE SET position = excluded.position",
                values![journal, i64::try_from(position).unwrap_or(i64::MAX)],
            )
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// For a journal's file that is deleted.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget_journal(&self, name: &str) -> Result<(), StoreError> {
        self.database
            .execute("DELETE FROM ledger_journals WHERE journal = $1", values![name])
            .await
            .map_err(failed("forget an imported journal"))?;
        Ok(())
    }

    /// Counts the open requests of a process that has ended as cut off. Returns how many there are.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_cut_off(&self, node: &str) -> Result<u64, StoreError> {
        let failed = failed("count the requests that were cut off");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        transaction
            .execute(
                "INSERT INTO ledger_cut_off (key_id, requests)
                 SELECT key_id, COUNT(*) FROM ledger_open WHERE node = $1 GROUP BY key_id
                 ON CONFLICT (key_id) DO UPDATE SET requests = ledger_cut_off.requests + excluded.requests",
                values![node],
            )
            .await
            .map_err(&failed)?;
        let count = transaction
            .execute("DELETE FROM ledger_open WHERE node = $1", values![node])
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(count)
    }

    /// What a key was charged since a moment, in Unix milliseconds, as far as it is imported.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn charged(&self, key: &str, since_ms: i64) -> Result<Usd, StoreError> {
        let failed = failed("add up what a key spent");
        let row = self.database.first(CHARGED, values![key, since_ms]).await.map_err(&failed)?;
        row.map_or(Ok(0), |row| row.fields().int()).map(Usd::from_pico).map_err(failed)
    }

    /// By day, key and task, from a moment on and before another, in Unix milliseconds; of one key, or of all.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn usage(
        &self,
        key: Option<&str>,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Vec<Usage>, StoreError> {
        let mut usage = Vec::new();
        let mut rows = self.database.rows(
            "SELECT at_ms / 86400000 * 86400000 AS day, key_id, task, COUNT(*), CAST(SUM(prompt_tokens) AS BIGINT),
                 CAST(SUM(completion_tokens) AS BIGINT), CAST(SUM(amount) AS BIGINT)
             FROM ledger WHERE at_ms >= $1 AND at_ms < $2 AND ($3 = '' OR key_id = $3)
             GROUP BY at_ms / 86400000 * 86400000, key_id, task ORDER BY day, key_id, task",
            values![from_ms, to_ms, key.unwrap_or_default()],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("add up the usage"))? {
            let mut fields = row.fields();
            let read = (|| {
                Ok(Usage {
                    day_ms: fields.int()?,
                    key: fields.text()?.to_owned(),
                    task: fields.text()?.to_owned(),
                    requests: fields.sum()?,
                    prompt_tokens: fields.sum()?,
                    completion_tokens: fields.sum()?,
                    cost_usd: Usd::from_pico(fields.int()?),
                })
            })();
            usage.extend(self.readable("ledger", read));
        }
        Ok(usage)
    }

    /// Gives `each` every entry from a moment on and before another, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ledger(
        &self,
        from_ms: i64,
        to_ms: i64,
        mut each: impl FnMut(Entry) + Send,
    ) -> Result<(), StoreError> {
        let mut rows = self.database.rows(
            "SELECT id, at_ms, key_id, task, prompt_tokens, completion_tokens, amount, uid, hotkey, attempts, streamed
             FROM ledger WHERE at_ms >= $1 AND at_ms < $2 ORDER BY at_ms, id",
            values![from_ms, to_ms],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("read the ledger"))? {
            if let Some(entry) = self.readable("ledger", entry(&mut row.fields())) {
                each(entry);
            }
        }
        Ok(())
    }
}

fn row(entry: &Entry) -> [Value; 11] {
    let int = |number: u64| Value::from(i64::try_from(number).unwrap_or(i64::MAX));
    [
        entry.id.as_str().into(),
        entry.at_ms.into(),
        (&*entry.key).into(),
        entry.task.to_string().into(),
        int(entry.prompt_tokens),
        int(entry.completion_tokens),
        entry.amount.0.into(),
        entry.uid.map_or(-1, i64::from).into(),
        entry.hotkey.as_deref().unwrap_or_default().into(),
        entry.attempts.into(),
        entry.streamed.into(),
    ]
}

fn entry(fields: &mut Fields<'_>) -> Result<Entry, sqlx::Error> {
    Ok(Entry {
        id: fields.text()?.to_owned(),
        at_ms: fields.int()?,
        key: fields.text()?.into(),
        task: fields.parsed()?,
        prompt_tokens: fields.sum()?,
        completion_tokens: fields.sum()?,
        amount: Pico(fields.int()?),
        uid: u16::try_from(fields.int()?).ok(),
        hotkey: Some(fields.text()?).filter(|hotkey| !hotkey.is_empty()).map(Arc::from),
        attempts: fields.count()?,
        streamed: fields.flag()?,
    })
}
