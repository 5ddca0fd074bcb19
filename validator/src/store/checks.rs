//! Answers that wait for a checking server, and what it said of them.

use std::collections::BTreeMap;

use common::checks::{Check, Verdict};
use futures::TryStreamExt;

use super::database::{Value, values};
use super::flags::{Applied, weigh};
use super::periods::contender;
use super::{Names, PeriodId, Record, Store, StoreError, failed};
use crate::scoring::Answer;
use crate::tally::ContenderId;

/// More answers than this make a mean no better, and would not fit the memory of a long run.
pub const ANSWERS_PER_CONTENDER: u32 = 1_000;
/// Answers of a contender by which suspicion starts after a restart.
const RECENT: u32 = 50;
/// How often an answer is sent for checking before it is given up.
const MAX_ATTEMPTS: i64 = 5;

/// An answer that waits to be checked.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingCheck {
    /// The period in which the answer counted.
    pub period: PeriodId,
    pub at_ms: i64,
    /// Whether a user asked.
    pub organic: bool,
    /// Units per second, see [`crate::scoring::Stretch::speed`].
    pub speed: f64,
    /// Seconds until the first token came.
    pub ttft_s: f64,
    pub tokens: u32,
    pub check: Check,
}

/// An answer that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedAnswer {
    pub id: String,
    /// 0 if it is not known.
    pub period: PeriodId,
    pub at_ms: i64,
    pub organic: bool,
    pub quality: f64,
    /// See [`PendingCheck::speed`].
    pub speed: f64,
    /// 0 if it was not measured.
    pub ttft_s: f64,
    pub tokens: u32,
    pub verdict: Verdict,
}

/// What came of an answer that was to be checked.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckStanding {
    Waiting,
    Judged(Verdict),
}

impl Store {
    /// Puts answers in the queue for checking, unless `limit` of them wait already. Returns how many were taken.
    ///
    /// # Errors
    /// If the database fails; none is taken then.
    pub async fn queue_checks(
        &self,
        checks: &[PendingCheck],
        limit: u32,
    ) -> Result<usize, StoreError> {
        let failed = failed("queue answers for checking");
        let waiting = self.checks_waiting().await?;
        let free = usize::try_from(limit.saturating_sub(waiting)).unwrap_or(0);
        let taken = checks.get(..free).unwrap_or(checks);
        let rows: Vec<[Value; 10]> = taken
            .iter()
            .filter_map(|pending| {
                // Strings and finite numbers always become JSON.
                let body = serde_json::to_string(&pending.check).ok()?;
                Some([
                    pending.check.id.as_str().into(),
                    pending.period.0.into(),
                    pending.at_ms.into(),
                    pending.check.miner.to_string().into(),
                    pending.check.task.as_str().into(),
                    pending.organic.into(),
                    pending.speed.into(),
                    pending.ttft_s.into(),
                    pending.tokens.into(),
                    body.into(),
                ])
            })
            .collect();
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        transaction
            .insert(
                "INSERT INTO pending_checks
                     (id, period, at_ms, hotkey, task, organic, speed, ttft_s, tokens, body)",
                &rows,
                "ON CONFLICT (id) DO NOTHING",
            )
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(taken.len())
    }

    /// How many answers wait for checking.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn checks_waiting(&self) -> Result<u32, StoreError> {
        let failed = failed("count waiting checks");
        let row = self
            .database
            .first("SELECT COUNT(*) FROM pending_checks", &[])
            .await
            .map_err(&failed)?
            .ok_or_else(|| failed(sqlx::Error::RowNotFound))?;
        row.fields().count().map_err(failed)
    }

    /// How many answers of each contender wait for checking; those without are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn checks_waiting_of_each(&self) -> Result<BTreeMap<ContenderId, u32>, StoreError> {
        let mut of_each = BTreeMap::new();
        let mut names = Names::default();
        let mut rows = self.database.rows(
            "SELECT hotkey, task, COUNT(*) FROM pending_checks GROUP BY hotkey, task",
            values![],
        );
        while let Some(row) =
            rows.try_next().await.map_err(failed("count each contender's waiting checks"))?
        {
            let mut fields = row.fields();
            let read = contender(&mut fields, &mut names).and_then(|id| Ok((id, fields.count()?)));
            of_each.extend(self.readable("pending_checks", read));
        }
        Ok(of_each)
    }

    /// The waiting answers to send next: the oldest of those that were tried least, so that answers which a checking server
    /// keeps giving back do not hold up the others.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn next_checks(&self, count: u32) -> Result<Vec<PendingCheck>, StoreError> {
        let mut pending = Vec::new();
        let mut unreadable = Vec::new();
        let mut rows = self.database.rows(
            "SELECT id, period, at_ms, organic, speed, ttft_s, tokens, body
             FROM pending_checks ORDER BY attempts, at_ms LIMIT $1",
            values![count],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("read waiting checks"))? {
            match self.readable("pending_checks", waiting(&row)) {
                Some(check) => pending.push(check),
                None => unreadable.extend(row.fields().text().map(str::to_owned)),
            }
        }
        drop(rows);
        // They would stand first in the queue for ever.
        for id in unreadable {
            self.drop_check(&id).await?;
        }
        Ok(pending)
    }

    /// Replaces a waiting answer by its verdict and adds it to what is known of its period and of its miner. Applied once,
    /// however often it is delivered. In a period in which the evidence against the miner was settled, answers are worth
    /// nothing.
    ///
    /// # Errors
    /// If the database fails; the answer goes on waiting then.
    pub async fn save_verdict(
        &self,
        pending: &PendingCheck,
        verdict: &Verdict,
    ) -> Result<Applied, StoreError> {
        let failed = failed("save a verdict");
        let json = serde_json::to_string(verdict).unwrap_or_default();
        let (hotkey, task) = (pending.check.miner.to_string(), pending.check.task.as_str());
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        let new = transaction
            .execute(
                "INSERT INTO verdicts
                     (id, period, at_ms, hotkey, task, organic, quality, speed, ttft_s, tokens, verdict)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO NOTHING",
                values![
                    pending.check.id.as_str(),
                    pending.period.0,
                    pending.at_ms,
                    hotkey.as_str(),
                    task,
                    pending.organic,
                    verdict.quality,
                    pending.speed,
                    pending.ttft_s,
                    pending.tokens,
                    json,
                ],
            )
            .await
            .map_err(&failed)?;
        let mut applied = Applied::NOTHING;
        if new > 0 {
            let (is_worthless, weighed) =
                weigh(&mut transaction, pending, verdict).await.map_err(&failed)?;
            applied = weighed;
            let quality = if is_worthless { 0.0 } else { verdict.quality };
            if is_worthless {
                transaction
                    .execute(
                        "UPDATE verdicts SET quality = 0 WHERE id = $1",
                        values![pending.check.id.as_str()],
                    )
                    .await
                    .map_err(&failed)?;
            }
            let known = transaction
                .execute("UPDATE periods SET changed = 1 WHERE id = $1", values![pending.period.0])
                .await
                .map_err(&failed)?;
            // The sums of a period that is deleted are of no use.
            if known > 0 {
                let organic = if pending.organic { quality } else { 0.0 };
                transaction
                    .execute(
                        "INSERT INTO tallies
                             (period, hotkey, task, checked, quality, organic_checked, organic_quality)
                         VALUES ($1, $2, $3, 1, $4, $5, $6)
                         ON CONFLICT (period, hotkey, task) DO UPDATE SET
                             checked = tallies.checked + 1,
                             quality = tallies.quality + excluded.quality,
                             organic_checked = tallies.organic_checked + excluded.organic_checked,
                             organic_quality = tallies.organic_quality + excluded.organic_quality",
                        values![
                            pending.period.0,
                            hotkey,
                            task,
                            quality,
                            pending.organic,
                            organic
                        ],
                    )
                    .await
                    .map_err(&failed)?;
            }
        }
        transaction
            .execute("DELETE FROM pending_checks WHERE id = $1", values![pending.check.id.as_str()])
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(applied)
    }

    /// What came of an answer that was to be checked; `None` if it never was, or too long ago.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn check_standing(&self, id: &str) -> Result<Option<CheckStanding>, StoreError> {
        let failed = failed("look up a check");
        let read = async |sql| self.database.first(sql, values![id]).await;
        // A verdict comes in the transaction that ends the waiting, so this order finds one of the two.
        let waits = read("SELECT id FROM pending_checks WHERE id = $1").await.map_err(&failed)?;
        let judged = read("SELECT verdict FROM verdicts WHERE id = $1").await.map_err(&failed)?;
        if let Some(row) = judged {
            let verdict = row.fields().json().map_err(failed)?;
            return Ok(Some(CheckStanding::Judged(verdict)));
        }
        Ok(waits.map(|_| CheckStanding::Waiting))
    }

    /// Puts an answer that came back without a verdict behind the others. Returns whether it is given up instead, having
    /// been tried too often.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn postpone_check(&self, id: &str) -> Result<bool, StoreError> {
        let failed = failed("postpone a waiting check");
        self.database
            .execute("UPDATE pending_checks SET attempts = attempts + 1 WHERE id = $1", values![id])
            .await
            .map_err(&failed)?;
        let dropped = self
            .database
            .execute(
                "DELETE FROM pending_checks WHERE id = $1 AND attempts >= $2",
                values![id, MAX_ATTEMPTS],
            )
            .await
            .map_err(failed)?;
        Ok(dropped > 0)
    }

    /// Gives up on a waiting answer.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn drop_check(&self, id: &str) -> Result<(), StoreError> {
        self.database
            .execute("DELETE FROM pending_checks WHERE id = $1", values![id])
            .await
            .map_err(failed("drop a waiting check"))?;
        Ok(())
    }

    /// The checked answers since `since_ms` of every contender, newest first: at most the newest
    /// [`ANSWERS_PER_CONTENDER`].
    ///
    /// # Errors
    /// If the database fails.
    pub async fn answers(
        &self,
        since_ms: i64,
    ) -> Result<BTreeMap<ContenderId, Vec<Answer>>, StoreError> {
        self.newest(since_ms, ANSWERS_PER_CONTENDER).await
    }

    /// The qualities of the newest checked answers of every contender, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn recent_quality(&self) -> Result<BTreeMap<ContenderId, Vec<f64>>, StoreError> {
        let newest = self.newest(0, RECENT).await?;
        let oldest_first = |answers: Vec<Answer>| answers.iter().rev().map(|a| a.quality).collect();
        Ok(newest.into_iter().map(|(id, answers)| (id, oldest_first(answers))).collect())
    }

    async fn newest(
        &self,
        since_ms: i64,
        most: u32,
    ) -> Result<BTreeMap<ContenderId, Vec<Answer>>, StoreError> {
        let mut answers: BTreeMap<ContenderId, Vec<Answer>> = BTreeMap::new();
        let mut names = Names::default();
        let mut rows = self.database.rows(
            "SELECT hotkey, task, quality, speed FROM (
                 SELECT hotkey, task, quality, speed,
                     ROW_NUMBER() OVER (PARTITION BY hotkey, task ORDER BY at_ms DESC) AS age
                 FROM verdicts WHERE at_ms >= $1
             ) AS aged WHERE age <= $2 ORDER BY hotkey, task, age",
            values![since_ms, most],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("read verdicts"))? {
            let mut fields = row.fields();
            let read = contender(&mut fields, &mut names)
                .and_then(|id| Ok((id, Answer { quality: fields.real()?, speed: fields.real()? })));
            if let Some((id, answer)) = self.readable("verdicts", read) {
                answers.entry(id).or_default().push(answer);
            }
        }
        Ok(answers)
    }

    /// The checked answers since `since_ms` of one contender with their verdicts, newest first, at most `limit`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn answers_of(
        &self,
        id: &ContenderId,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<CheckedAnswer>, StoreError> {
        let mut answers = Vec::new();
        let mut rows = self.database.rows(
            "SELECT id, period, at_ms, organic, quality, speed, ttft_s, tokens, verdict FROM verdicts
             WHERE hotkey = $1 AND task = $2 AND at_ms >= $3 ORDER BY at_ms DESC LIMIT $4",
            values![id.hotkey.to_string(), id.task.as_str(), since_ms, limit],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("read verdicts"))? {
            answers.extend(self.readable("verdicts", checked(&row)));
        }
        Ok(answers)
    }
}

fn waiting(row: &Record) -> Result<PendingCheck, sqlx::Error> {
    let mut fields = row.fields();
    fields.text()?;
    Ok(PendingCheck {
        period: PeriodId(fields.int()?),
        at_ms: fields.int()?,
        organic: fields.flag()?,
        speed: fields.real()?,
        ttft_s: fields.real()?,
        tokens: fields.count()?,
        check: fields.json()?,
    })
}

fn checked(row: &Record) -> Result<CheckedAnswer, sqlx::Error> {
    let mut fields = row.fields();
    Ok(CheckedAnswer {
        id: fields.text()?.to_owned(),
        period: PeriodId(fields.int()?),
        at_ms: fields.int()?,
        organic: fields.flag()?,
        quality: fields.real()?,
        speed: fields.real()?,
        ttft_s: fields.real()?,
        tokens: fields.count()?,
        verdict: fields.json()?,
    })
}
