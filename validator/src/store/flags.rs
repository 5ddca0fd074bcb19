//! The evidence of many answers against a contender, and what is done when it is settled.

use common::bundle::Telling;
use common::checks::Verdict;
use common::evidence::{Flag, Process};
use common::{Hotkey, TaskId};
use futures::TryStreamExt;

use super::checks::PendingCheck;
use super::database::{Transaction, values};
use super::periods::contender;
use super::{Names, PeriodId, Store, StoreError, failed};
use crate::tally::ContenderId;

/// Answers that are kept of each contender.
const TELLING: u32 = 16;
/// Natural logarithm of the e-value from which an answer is worth keeping: ln 10.
const WORTH_KEEPING: f64 = std::f64::consts::LN_10;

/// A contender against whom the evidence was settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Flagged {
    pub id: ContenderId,
    /// In which its answers are worth nothing.
    pub period: PeriodId,
    pub at_ms: i64,
    /// Answers that were taken into account.
    pub answers: u32,
    /// Natural logarithm of the evidence.
    pub log_e: f64,
    /// What explains the answers best.
    pub hypothesis: String,
    /// The answers that said most.
    pub telling: Vec<Telling>,
}

/// What a verdict has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// By all answers so far.
    pub flag: Flag,
    /// Whether it settled the evidence just now.
    pub is_settled: bool,
}

impl Applied {
    pub(super) const NOTHING: Self = Self { flag: Flag::None, is_settled: false };
}

/// Adds a verdict to the evidence, and settles it if it is enough: the contender's answers of the period are then worth
/// nothing, and the evidence begins anew. Returns whether they are, and what this verdict has come to.
pub(super) async fn weigh(
    transaction: &mut Transaction,
    pending: &PendingCheck,
    verdict: &Verdict,
) -> Result<(bool, Applied), sqlx::Error> {
    let (hotkey, task) = (pending.check.miner.to_string(), pending.check.task.as_str());
    let of_period = values![pending.period.0, hotkey.as_str(), task];
    let flagged = "SELECT 1 FROM flags WHERE period = $1 AND hotkey = $2 AND task = $3";
    let was_settled = !transaction.all(flagged, of_period).await?.is_empty();
    // Without a calibration only a wrong form is evidence.
    let counts = verdict.evidence.calibrated || !verdict.evidence.findings.is_empty();
    if !counts || verdict.evidence.e_values.is_empty() {
        return Ok((was_settled, Applied::NOTHING));
    }
    let contender = values![hotkey.as_str(), task];
    let known = "SELECT process FROM suspicions WHERE hotkey = $1 AND task = $2";
    let known = transaction.all(known, contender).await?;
    // What cannot be read is begun anew: nobody is flagged by mistake.
    let mut process: Process =
        known.first().and_then(|row| row.fields().json().ok()).unwrap_or_default();
    process.push(&verdict.evidence.e_values);
    keep(transaction, pending, verdict).await?;
    let (flag, log_e) = (process.flag(), process.log_e());
    let settles = flag == Flag::Hard;
    if settles {
        settle(transaction, pending, &process).await?;
        process = Process::default();
    }
    let json = serde_json::to_string(&process).unwrap_or_default();
    transaction
        .execute(
            "INSERT INTO suspicions (hotkey, task, process, log_e) VALUES ($1, $2, $3, $4)
             ON CONFLICT (hotkey, task) DO UPDATE SET process = excluded.process, log_e = excluded.log_e",
            values![hotkey.as_str(), task, json, if settles { 0.0 } else { log_e }],
        )
        .await?;
    Ok((was_settled || settles, Applied { flag, is_settled: settles && !was_settled }))
}

/// Keeps the answers that say most.
async fn keep(
    transaction: &mut Transaction,
    pending: &PendingCheck,
    verdict: &Verdict,
) -> Result<(), sqlx::Error> {
    let strongest = verdict.evidence.e_values.iter().map(|e| e.log_e).fold(0.0, f64::max);
    if strongest < WORTH_KEEPING {
        return Ok(());
    }
    let telling = Telling { check: pending.check.clone(), verdict: verdict.clone() };
    let body = serde_json::to_string(&telling).unwrap_or_default();
    let (hotkey, task) = (pending.check.miner.to_string(), pending.check.task.as_str());
    transaction
        .execute(
            "INSERT INTO telling_answers (id, at_ms, hotkey, task, log_e, body) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (id) DO NOTHING",
            values![pending.check.id.as_str(), pending.at_ms, hotkey.as_str(), task, strongest, body],
        )
        .await?;
    transaction
        .execute(
            "DELETE FROM telling_answers WHERE hotkey = $1 AND task = $2 AND id NOT IN
                 (SELECT id FROM telling_answers WHERE hotkey = $1 AND task = $2 ORDER BY log_e DESC, id LIMIT $3)",
            values![hotkey.as_str(), task, TELLING],
        )
        .await?;
    Ok(())
}

async fn settle(
    transaction: &mut Transaction,
    pending: &PendingCheck,
    process: &Process,
) -> Result<(), sqlx::Error> {
    let (hotkey, task) = (pending.check.miner.to_string(), pending.check.task.as_str());
    let contender = values![hotkey.as_str(), task];
    let rows = transaction
        .all(
            "SELECT body FROM telling_answers WHERE hotkey = $1 AND task = $2 ORDER BY at_ms",
            contender,
        )
        .await?;
    let telling: Vec<Telling> = rows.iter().filter_map(|row| row.fields().json().ok()).collect();
    let evidence = serde_json::to_string(&telling).unwrap_or_default();
    transaction
        .execute(
            "INSERT INTO flags (period, hotkey, task, at_ms, answers, log_e, hypothesis, evidence)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (period, hotkey, task) DO NOTHING",
            values![
                pending.period.0,
                hotkey.as_str(),
                task,
                pending.at_ms,
                i64::try_from(process.answers()).unwrap_or(i64::MAX),
                process.log_e(),
                process.first().map_or("", |(name, _)| name),
                evidence,
            ],
        )
        .await?;
    transaction
        .execute("DELETE FROM telling_answers WHERE hotkey = $1 AND task = $2", contender)
        .await?;
    let of_period = values![pending.period.0, hotkey.as_str(), task];
    for worthless in [
        "UPDATE verdicts SET quality = 0 WHERE period = $1 AND hotkey = $2 AND task = $3",
        "UPDATE tallies SET quality = 0, organic_quality = 0 WHERE period = $1 AND hotkey = $2 AND task = $3",
    ] {
        transaction.execute(worthless, of_period).await?;
    }
    Ok(())
}

impl Store {
    /// The flags of everybody, or of whom is named, newest first, at most `limit`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn flags(
        &self,
        hotkey: Option<&Hotkey>,
        task: Option<&TaskId>,
        limit: u32,
    ) -> Result<Vec<Flagged>, StoreError> {
        let mut flags = Vec::new();
        let mut names = Names::default();
        let hotkey = hotkey.map(ToString::to_string).unwrap_or_default();
        let task = task.map_or("", |task| task.as_str());
        let mut rows = self.database.rows(
            "SELECT hotkey, task, period, at_ms, answers, log_e, hypothesis, evidence FROM flags
             WHERE ($1 = '' OR hotkey = $1) AND ($2 = '' OR task = $2) ORDER BY at_ms DESC LIMIT $3",
            values![hotkey, task, limit],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("read flags"))? {
            let mut fields = row.fields();
            let read = contender(&mut fields, &mut names).and_then(|id| {
                Ok(Flagged {
                    id,
                    period: PeriodId(fields.int()?),
                    at_ms: fields.int()?,
                    answers: fields.count()?,
                    log_e: fields.real()?,
                    hypothesis: fields.text()?.to_owned(),
                    telling: fields.json()?,
                })
            });
            flags.extend(self.readable("flags", read));
        }
        Ok(flags)
    }
}
