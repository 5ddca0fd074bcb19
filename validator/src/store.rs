//! What must survive a restart, in one SQLite file.
//!
//! Only this module speaks SQL. It takes and returns domain types; ids and times are made by its callers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use common::checks::{Check, Verdict};
use common::{BlockNumber, Hotkey, TaskId, Uid};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::tally::{ContenderId, Tally};

/// The most rows that one statement writes: SQLite takes 32,766 parameters.
const ROWS_PER_STATEMENT: usize = 1_000;

/// More verdicts than this make a mean no better, and would not fit the memory of a long run.
pub const VERDICTS_PER_CONTENDER: u32 = 1_000;
/// How often an answer is sent for checking before it is given up.
const MAX_ATTEMPTS: u32 = 5;

/// The validator's database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
}

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the database {path}: check that its folder exists and can be written")]
    Open { path: String, source: sqlx::Error },
    #[error("the database {path} cannot be brought to this version")]
    Migrate { path: String, source: sqlx::migrate::MigrateError },
    #[error("the database failed to {doing}")]
    Query { doing: &'static str, source: sqlx::Error },
}

fn failed(doing: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { doing, source }
}

/// A scoring period, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeriodId(pub i64);

/// One finished period of one contender.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PastPeriod {
    /// `None` where nothing was asked.
    pub score: Option<f64>,
    pub consumed: f64,
}

/// An answer that waits to be checked.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingCheck {
    pub at_ms: i64,
    /// Tokens per second.
    pub speed: f64,
    pub tokens: u32,
    pub check: Check,
}

/// What checking said of one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    pub quality: f64,
    /// Tokens per second.
    pub speed: f64,
}

/// Weights that are on chain.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsOnChain {
    pub at_ms: i64,
    pub block: BlockNumber,
    pub weights: Vec<(Uid, Hotkey, u16)>,
}

impl Store {
    /// Opens or creates the file and brings it to this version.
    ///
    /// # Errors
    /// If the file cannot be opened, is no database, or comes from a newer version.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let shown = || path.display().to_string();
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // In WAL mode a power cut can lose the last commits, never the file.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(15))
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Open { path: shown(), source })?;
        sqlx::migrate!("./migrations")
            .run(&pool)
            .await
            .map_err(|source| StoreError::Migrate { path: shown(), source })?;
        Ok(Self { pool })
    }

    /// Writes what is buffered and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The periods that have no end, with their tallies: the one that was running when the validator last stopped, and
    /// any whose end could not be written.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn open_periods(
        &self,
    ) -> Result<BTreeMap<PeriodId, BTreeMap<ContenderId, Tally>>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, hotkey, task, declared, consumed, served, refused, failed
             FROM periods LEFT JOIN tallies ON tallies.period = periods.id WHERE ended_ms IS NULL",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read the open periods"))?;
        let mut open: BTreeMap<PeriodId, BTreeMap<ContenderId, Tally>> = BTreeMap::new();
        for row in &rows {
            let tallies = open.entry(PeriodId(row.get("id"))).or_default();
            // A period without any contender has one row of nothing.
            if row.get::<Option<&str>, _>("hotkey").is_none() {
                continue;
            }
            if let Some(id) = contender(row) {
                tallies.insert(id, tally(row));
            }
        }
        Ok(open)
    }

    /// Begins a period.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn begin_period(&self, now_ms: i64) -> Result<PeriodId, StoreError> {
        let done = sqlx::query("INSERT INTO periods (started_ms) VALUES (?)")
            .bind(now_ms)
            .execute(&self.pool)
            .await
            .map_err(failed("begin a period"))?;
        Ok(PeriodId(done.last_insert_rowid()))
    }

    /// Writes running totals, replacing what was known of these contenders in this period. Does nothing for a period that
    /// has ended meanwhile: its final totals are written already.
    ///
    /// # Errors
    /// If the database fails; nothing is written then.
    pub async fn save_tallies(
        &self,
        period: PeriodId,
        tallies: &BTreeMap<ContenderId, Tally>,
    ) -> Result<(), StoreError> {
        let doing = "save running totals";
        let scored = tallies.iter().map(|(id, tally)| (id, tally, None)).collect::<Vec<_>>();
        // Immediate: nobody may end the period between the question and the answer.
        let mut transaction =
            self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed(doing))?;
        let open: i64 =
            sqlx::query_scalar("SELECT count(*) FROM periods WHERE id = ? AND ended_ms IS NULL")
                .bind(period.0)
                .fetch_one(&mut *transaction)
                .await
                .map_err(failed(doing))?;
        if open > 0 {
            upsert(&mut transaction, period, &scored).await?;
        }
        transaction.commit().await.map_err(failed(doing))
    }

    /// Ends a period with its final totals and scores.
    ///
    /// # Errors
    /// If the database fails; the period stays open then.
    pub async fn end_period(
        &self,
        period: PeriodId,
        now_ms: i64,
        scored: &[(&ContenderId, &Tally, Option<f64>)],
    ) -> Result<(), StoreError> {
        let doing = "end a period";
        let mut transaction = self.pool.begin().await.map_err(failed(doing))?;
        upsert(&mut transaction, period, scored).await?;
        sqlx::query("UPDATE periods SET ended_ms = ? WHERE id = ?")
            .bind(now_ms)
            .bind(period.0)
            .execute(&mut *transaction)
            .await
            .map_err(failed(doing))?;
        transaction.commit().await.map_err(failed(doing))
    }

    /// Finished periods since `since_ms`, newest first, for every contender.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn past_periods(
        &self,
        since_ms: i64,
    ) -> Result<BTreeMap<ContenderId, Vec<PastPeriod>>, StoreError> {
        let rows = sqlx::query(
            "SELECT hotkey, task, score, consumed FROM tallies JOIN periods ON periods.id = tallies.period
             WHERE ended_ms >= ? ORDER BY hotkey, task, period DESC",
        )
        .bind(since_ms)
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read past periods"))?;
        let mut past: BTreeMap<ContenderId, Vec<PastPeriod>> = BTreeMap::new();
        for row in &rows {
            let Some(id) = contender(row) else { continue };
            past.entry(id)
                .or_default()
                .push(PastPeriod { score: row.get("score"), consumed: row.get("consumed") });
        }
        Ok(past)
    }

    /// Verdicts since `since_ms`, oldest first, for every contender: at most the newest [`VERDICTS_PER_CONTENDER`].
    ///
    /// # Errors
    /// If the database fails.
    pub async fn judged(
        &self,
        since_ms: i64,
    ) -> Result<BTreeMap<ContenderId, Vec<Judged>>, StoreError> {
        let rows = sqlx::query(
            "SELECT hotkey, task, quality, speed FROM (
                 SELECT *, row_number() OVER (PARTITION BY hotkey, task ORDER BY at_ms DESC) AS age
                 FROM verdicts WHERE at_ms >= ?
             ) WHERE age <= ? ORDER BY hotkey, task, at_ms",
        )
        .bind(since_ms)
        .bind(VERDICTS_PER_CONTENDER)
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read verdicts"))?;
        let mut judged: BTreeMap<ContenderId, Vec<Judged>> = BTreeMap::new();
        for row in &rows {
            let Some(id) = contender(row) else { continue };
            judged
                .entry(id)
                .or_default()
                .push(Judged { quality: row.get("quality"), speed: row.get("speed") });
        }
        Ok(judged)
    }

    /// Puts answers in the queue for checking, unless `limit` of them wait already. Returns how many were taken.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn queue_checks(
        &self,
        checks: &[PendingCheck],
        limit: u32,
    ) -> Result<usize, StoreError> {
        let doing = "queue answers for checking";
        let waiting = self.checks_waiting().await?;
        let free = usize::try_from(limit.saturating_sub(waiting)).unwrap_or(0);
        let mut transaction = self.pool.begin().await.map_err(failed(doing))?;
        let mut taken = 0;
        for pending in checks.iter().take(free) {
            // Strings and finite numbers always become JSON.
            let Ok(body) = serde_json::to_string(&pending.check) else { continue };
            sqlx::query(
                "INSERT OR IGNORE INTO pending_checks (id, at_ms, hotkey, task, speed, tokens, body)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(&pending.check.id)
            .bind(pending.at_ms)
            .bind(pending.check.miner.to_string())
            .bind(pending.check.task.as_str())
            .bind(pending.speed)
            .bind(pending.tokens)
            .bind(body)
            .execute(&mut *transaction)
            .await
            .map_err(failed(doing))?;
            taken += 1;
        }
        transaction.commit().await.map_err(failed(doing))?;
        Ok(taken)
    }

    /// How many answers wait for checking.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn checks_waiting(&self) -> Result<u32, StoreError> {
        sqlx::query_scalar("SELECT count(*) FROM pending_checks")
            .fetch_one(&self.pool)
            .await
            .map_err(failed("count waiting checks"))
    }

    /// The waiting answers to send next: the oldest of those that were tried least, so that answers which a checking server
    /// keeps giving back do not hold up the others.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn next_checks(&self, count: u32) -> Result<Vec<PendingCheck>, StoreError> {
        let doing = "read waiting checks";
        let rows = sqlx::query("SELECT id, at_ms, speed, tokens, body FROM pending_checks ORDER BY attempts, at_ms LIMIT ?")
            .bind(count)
            .fetch_all(&self.pool)
            .await
            .map_err(failed(doing))?;
        let mut pending = Vec::with_capacity(rows.len());
        for row in &rows {
            match serde_json::from_str(row.get("body")) {
                Ok(check) => pending.push(PendingCheck {
                    at_ms: row.get("at_ms"),
                    speed: row.get("speed"),
                    tokens: row.get("tokens"),
                    check,
                }),
                Err(error) => {
                    let id: String = row.get("id");
                    tracing::warn!(%id, "a waiting check of another version cannot be read and is left out: {error}");
                    self.drop_check(&id).await?;
                }
            }
        }
        Ok(pending)
    }

    /// Replaces a waiting answer by its verdict. Applied once, however often it is delivered.
    ///
    /// # Errors
    /// If the database fails; the answer goes on waiting then.
    pub async fn save_verdict(
        &self,
        pending: &PendingCheck,
        verdict: &Verdict,
    ) -> Result<(), StoreError> {
        let doing = "save a verdict";
        let json = serde_json::to_string(verdict).unwrap_or_default();
        let mut transaction = self.pool.begin().await.map_err(failed(doing))?;
        sqlx::query(
            "INSERT OR IGNORE INTO verdicts (id, at_ms, hotkey, task, quality, speed, tokens, verdict)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&pending.check.id)
        .bind(pending.at_ms)
        .bind(pending.check.miner.to_string())
        .bind(pending.check.task.as_str())
        .bind(verdict.quality)
        .bind(pending.speed)
        .bind(pending.tokens)
        .bind(json)
        .execute(&mut *transaction)
        .await
        .map_err(failed(doing))?;
        sqlx::query("DELETE FROM pending_checks WHERE id = ?")
            .bind(&pending.check.id)
            .execute(&mut *transaction)
            .await
            .map_err(failed(doing))?;
        transaction.commit().await.map_err(failed(doing))
    }

    /// Puts an answer that came back without a verdict behind the others. Returns whether it is given up instead, having
    /// been tried too often.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn postpone_check(&self, id: &str) -> Result<bool, StoreError> {
        let doing = "postpone a waiting check";
        sqlx::query("UPDATE pending_checks SET attempts = attempts + 1 WHERE id = ?")
            .bind(id)
            .execute(&self.pool)
            .await
            .map_err(failed(doing))?;
        let dropped = sqlx::query("DELETE FROM pending_checks WHERE id = ? AND attempts >= ?")
            .bind(id)
            .bind(MAX_ATTEMPTS)
            .execute(&self.pool)
            .await
            .map_err(failed(doing))?;
        Ok(dropped.rows_affected() > 0)
    }

    /// Gives up on a waiting answer.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn drop_check(&self, id: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM pending_checks WHERE id = ?")
            .bind(id)
            .execute(&self.pool)
            .await
            .map_err(failed("drop a waiting check"))?;
        Ok(())
    }

    /// Remembers weights that the chain has confirmed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn save_weights(&self, set: &WeightsOnChain) -> Result<(), StoreError> {
        let json = serde_json::to_string(&set.weights).unwrap_or_default();
        sqlx::query("INSERT INTO weights_set (at_ms, block, weights) VALUES (?, ?, ?)")
            .bind(set.at_ms)
            .bind(i64::try_from(set.block.0).unwrap_or(i64::MAX))
            .bind(json)
            .execute(&self.pool)
            .await
            .map_err(failed("save confirmed weights"))?;
        Ok(())
    }

    /// The weights that were confirmed last.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn last_weights(&self) -> Result<Option<WeightsOnChain>, StoreError> {
        let row =
            sqlx::query("SELECT at_ms, block, weights FROM weights_set ORDER BY id DESC LIMIT 1")
                .fetch_optional(&self.pool)
                .await
                .map_err(failed("read the last weights"))?;
        Ok(row.and_then(|row| {
            let block: i64 = row.get("block");
            Some(WeightsOnChain {
                at_ms: row.get("at_ms"),
                block: BlockNumber(u64::try_from(block).ok()?),
                weights: serde_json::from_str(row.get("weights")).ok()?,
            })
        }))
    }

    /// Deletes what is older than these times; the open period stays.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn prune(
        &self,
        periods_ms: i64,
        verdicts_ms: i64,
        waiting_ms: i64,
    ) -> Result<(), StoreError> {
        for (statement, before) in [
            ("DELETE FROM periods WHERE ended_ms < ?", periods_ms),
            ("DELETE FROM verdicts WHERE at_ms < ?", verdicts_ms),
            ("DELETE FROM weights_set WHERE at_ms < ?", verdicts_ms),
            ("DELETE FROM pending_checks WHERE at_ms < ?", waiting_ms),
        ] {
            sqlx::query(statement)
                .bind(before)
                .execute(&self.pool)
                .await
                .map_err(failed("delete old evidence"))?;
        }
        Ok(())
    }
}

async fn upsert(
    transaction: &mut sqlx::Transaction<'_, Sqlite>,
    period: PeriodId,
    rows: &[(&ContenderId, &Tally, Option<f64>)],
) -> Result<(), StoreError> {
    for rows in rows.chunks(ROWS_PER_STATEMENT) {
        let mut query = QueryBuilder::new(
            "INSERT INTO tallies (period, hotkey, task, declared, consumed, served, refused, failed, score) ",
        );
        query.push_values(rows, |mut row, (id, tally, score)| {
            row.push_bind(period.0)
                .push_bind(id.hotkey.to_string())
                .push_bind(id.task.to_string())
                .push_bind(tally.declared)
                .push_bind(tally.consumed)
                .push_bind(i64::from(tally.served))
                .push_bind(i64::from(tally.refused))
                .push_bind(i64::from(tally.failed))
                .push_bind(*score);
        });
        query.push(
            " ON CONFLICT DO UPDATE SET declared = excluded.declared, consumed = excluded.consumed,
              served = excluded.served, refused = excluded.refused, failed = excluded.failed, score = excluded.score",
        );
        query.build().execute(&mut **transaction).await.map_err(failed("save totals"))?;
    }
    Ok(())
}

/// `None` for a row that this version cannot read; it is no reason to stop.
fn contender(row: &sqlx::sqlite::SqliteRow) -> Option<ContenderId> {
    let hotkey: &str = row.get("hotkey");
    let task: &str = row.get("task");
    Some(ContenderId { hotkey: hotkey.parse().ok()?, task: task.parse::<TaskId>().ok()? })
}

fn tally(row: &sqlx::sqlite::SqliteRow) -> Tally {
    let count = |column: &str| u32::try_from(row.get::<i64, _>(column)).unwrap_or(0);
    Tally {
        declared: row.get("declared"),
        consumed: row.get("consumed"),
        served: count("served"),
        refused: count("refused"),
        failed: count("failed"),
    }
}

#[cfg(test)]
pub(crate) mod tests;
