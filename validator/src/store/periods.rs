//! Scoring periods and what was counted in them.

use std::collections::BTreeMap;

use futures::TryStreamExt;

use super::database::{Fields, Transaction, Value, values};
use super::{Names, Store, StoreError, failed};
use crate::scoring::{Span, Stretch};
use crate::tally::{ContenderId, Failures, Tally};

/// A scoring period, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeriodId(pub i64);

/// The columns of a tally that are counted while a period runs, in the order of [`tally`].
const COUNTED: usize = 21;

impl Store {
    /// The periods that have no end, with their tallies: the one that was running when the validator last stopped, and
    /// any whose end could not be written.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn open_periods(
        &self,
    ) -> Result<BTreeMap<PeriodId, BTreeMap<ContenderId, Tally>>, StoreError> {
        let doing = "read the open periods";
        let mut open: BTreeMap<PeriodId, BTreeMap<ContenderId, Tally>> = BTreeMap::new();
        let mut rows = self.database.rows("SELECT id FROM periods WHERE ended_ms IS NULL", &[]);
        while let Some(row) = rows.try_next().await.map_err(failed(doing))? {
            if let Some(id) = self.readable("periods", row.fields().int()) {
                open.insert(PeriodId(id), BTreeMap::new());
            }
        }
        drop(rows);
        for (period, tallies) in &mut open {
            let mut names = Names::default();
            let mut rows = self.database.rows(
                "SELECT hotkey, task, declared, consumed, served, refused_within, refusal_cost, refused_beyond,
                     unreachable, bad_status, too_late, broken, unusable, void,
                     organic_served, organic_refusal_cost, organic_failed, exams, shown, shown_squared
                 FROM tallies WHERE period = $1",
                values![period.0],
            );
            while let Some(row) = rows.try_next().await.map_err(failed(doing))? {
                let mut fields = row.fields();
                let read =
                    contender(&mut fields, &mut names).and_then(|id| Ok((id, tally(&mut fields)?)));
                tallies.extend(self.readable("tallies", read));
            }
        }
        Ok(open)
    }

    /// When a period began, in Unix milliseconds; `None` if there is no such period.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn period_began(&self, period: PeriodId) -> Result<Option<i64>, StoreError> {
        let failed = failed("read when a period began");
        let query = "SELECT started_ms FROM periods WHERE id = $1";
        let row = self.database.first(query, values![period.0]).await.map_err(&failed)?;
        row.map(|row| row.fields().int()).transpose().map_err(failed)
    }

    /// Begins a period.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn begin_period(&self, now_ms: i64) -> Result<PeriodId, StoreError> {
        let failed = failed("begin a period");
        let row = self
            .database
            .first(
                "INSERT INTO periods (started_ms) VALUES ($1) RETURNING id",
                values![now_ms.max(0)],
            )
            .await
            .map_err(&failed)?
            .ok_or_else(|| failed(sqlx::Error::RowNotFound))?;
        row.fields().int().map(PeriodId).map_err(failed)
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
        let failed = failed("save running totals");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        // An update that changes nothing, but keeps everybody else from ending the period before the totals are written.
        let open = transaction
            .execute(
                "UPDATE periods SET ended_ms = NULL WHERE id = $1 AND ended_ms IS NULL",
                values![period.0],
            )
            .await
            .map_err(&failed)?;
        if open > 0 {
            write(&mut transaction, period, tallies).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// Ends a period with its final totals. Does nothing for one that has ended before.
    ///
    /// # Errors
    /// If the database fails; the period stays open then.
    pub async fn end_period(
        &self,
        period: PeriodId,
        now_ms: i64,
        tallies: &BTreeMap<ContenderId, Tally>,
    ) -> Result<(), StoreError> {
        let failed = failed("end a period");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        let ended = transaction
            .execute(
                "UPDATE periods SET ended_ms = $1, changed = 1 WHERE id = $2 AND ended_ms IS NULL",
                values![now_ms.max(0), period.0],
            )
            .await
            .map_err(&failed)?;
        if ended > 0 {
            write(&mut transaction, period, tallies).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// The finished periods since `since_ms`, newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn periods(&self, since_ms: i64) -> Result<Vec<Span>, StoreError> {
        let mut spans = Vec::new();
        let mut rows = self.database.rows(
            "SELECT started_ms, ended_ms FROM periods WHERE ended_ms >= $1 ORDER BY ended_ms DESC",
            values![since_ms],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("read past periods"))? {
            let mut fields = row.fields();
            spans.extend(self.readable("periods", span(&mut fields)));
        }
        Ok(spans)
    }

    /// The finished periods since `since_ms` of every contender, each as a stretch of its own without a speed, newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn past_periods(
        &self,
        since_ms: i64,
    ) -> Result<BTreeMap<ContenderId, Vec<Stretch>>, StoreError> {
        let mut past: BTreeMap<ContenderId, Vec<Stretch>> = BTreeMap::new();
        let mut names = Names::default();
        // A cross join: else SQLite goes through all tallies by their contenders.
        let mut rows = self.database.rows(
            "SELECT hotkey, task, started_ms, ended_ms,
                 declared, consumed, served, refused_within, refusal_cost, refused_beyond,
                 unreachable, bad_status, too_late, broken, unusable, void,
                 organic_served, organic_refusal_cost, organic_failed, exams, shown, shown_squared,
                 checked, quality, organic_checked, organic_quality
             FROM periods CROSS JOIN tallies
             WHERE tallies.period = periods.id AND ended_ms >= $1 ORDER BY ended_ms DESC, period DESC",
            values![since_ms],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("read past periods"))? {
            let mut fields = row.fields();
            let read = contender(&mut fields, &mut names)
                .and_then(|id| Ok((id, past_period(&mut fields)?)));
            if let Some((id, (stretch, _))) = self.readable("tallies", read) {
                past.entry(id).or_default().push(stretch);
            }
        }
        Ok(past)
    }

    /// The finished periods since `since_ms` of one contender, newest first, with its failures by kind and what came to
    /// nothing on our side.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn past_periods_of(
        &self,
        id: &ContenderId,
        since_ms: i64,
    ) -> Result<Vec<(PeriodId, Stretch, Failures, u32)>, StoreError> {
        let mut past = Vec::new();
        let mut rows = self.database.rows(
            "SELECT period, started_ms, ended_ms,
                 declared, consumed, served, refused_within, refusal_cost, refused_beyond,
                 unreachable, bad_status, too_late, broken, unusable, void,
                 organic_served, organic_refusal_cost, organic_failed, exams, shown, shown_squared,
                 checked, quality, organic_checked, organic_quality
             FROM tallies JOIN periods ON periods.id = tallies.period
             WHERE hotkey = $1 AND task = $2 AND ended_ms >= $3 ORDER BY ended_ms DESC, period DESC",
            values![id.hotkey.to_string(), id.task.as_str(), since_ms],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("read past periods"))? {
            let mut fields = row.fields();
            let read =
                fields.int().and_then(|period| Ok((PeriodId(period), past_period(&mut fields)?)));
            if let Some((period, (stretch, tally))) = self.readable("tallies", read) {
                past.push((period, stretch, tally.failed, tally.void));
            }
        }
        Ok(past)
    }
}

async fn write(
    transaction: &mut Transaction,
    period: PeriodId,
    tallies: &BTreeMap<ContenderId, Tally>,
) -> Result<(), sqlx::Error> {
    let rows: Vec<[Value; COUNTED]> = tallies
        .iter()
        .map(|(id, tally)| {
            [
                period.0.into(),
                id.hotkey.to_string().into(),
                id.task.as_str().into(),
                tally.declared.into(),
                tally.consumed.into(),
                tally.served.into(),
                tally.refused_within.into(),
                tally.refusal_cost.into(),
                tally.refused_beyond.into(),
                tally.failed.unreachable.into(),
                tally.failed.bad_status.into(),
                tally.failed.too_late.into(),
                tally.failed.broken.into(),
                tally.failed.unusable.into(),
                tally.void.into(),
                tally.organic_served.into(),
                tally.organic_refusal_cost.into(),
                tally.organic_failed.into(),
                tally.exams.into(),
                tally.shown.into(),
                tally.shown_squared.into(),
            ]
        })
        .collect();
    let head = "INSERT INTO tallies (period, hotkey, task, declared, consumed, served, refused_within, refusal_cost,
            refused_beyond, unreachable, bad_status, too_late, broken, unusable, void,
            organic_served, organic_refusal_cost, organic_failed, exams, shown, shown_squared)";
    // What checking has found out is added to the row by others.
    let tail = "ON CONFLICT (period, hotkey, task) DO UPDATE SET
            declared = excluded.declared, consumed = excluded.consumed, served = excluded.served,
            refused_within = excluded.refused_within, refusal_cost = excluded.refusal_cost,
            refused_beyond = excluded.refused_beyond, unreachable = excluded.unreachable,
            bad_status = excluded.bad_status, too_late = excluded.too_late, broken = excluded.broken,
            unusable = excluded.unusable, void = excluded.void, organic_served = excluded.organic_served,
            organic_refusal_cost = excluded.organic_refusal_cost, organic_failed = excluded.organic_failed,
            exams = excluded.exams, shown = excluded.shown, shown_squared = excluded.shown_squared";
    transaction.insert(head, &rows, tail).await
}

/// Reads `hotkey, task`.
pub(super) fn contender(
    fields: &mut Fields<'_>,
    names: &mut Names,
) -> Result<ContenderId, sqlx::Error> {
    let hotkey = fields.text()?;
    names.read(hotkey, fields.text()?)
}

/// Reads `unreachable, bad_status, too_late, broken, unusable`.
pub(super) fn failures(fields: &mut Fields<'_>) -> Result<Failures, sqlx::Error> {
    Ok(Failures {
        unreachable: fields.count()?,
        bad_status: fields.count()?,
        too_late: fields.count()?,
        broken: fields.count()?,
        unusable: fields.count()?,
    })
}

/// Reads what is counted while a period runs.
fn tally(fields: &mut Fields<'_>) -> Result<Tally, sqlx::Error> {
    Ok(Tally {
        declared: fields.real()?,
        consumed: fields.real()?,
        served: fields.count()?,
        refused_within: fields.count()?,
        refusal_cost: fields.real()?,
        refused_beyond: fields.count()?,
        failed: failures(fields)?,
        void: fields.count()?,
        organic_served: fields.count()?,
        organic_refusal_cost: fields.real()?,
        organic_failed: fields.count()?,
        exams: fields.count()?,
        shown: fields.real()?,
        shown_squared: fields.real()?,
    })
}

/// Reads `started_ms, ended_ms`. A period that ended before it began, because the clock was set back, lasted no time.
fn span(fields: &mut Fields<'_>) -> Result<Span, sqlx::Error> {
    let (started, ended) = (fields.int()?, fields.int()?);
    Ok(Span { at_ms: ended, seconds: (ended.saturating_sub(started).max(0)) as f64 / 1_000.0 })
}

/// Reads a span, a tally, and what checking found out.
fn past_period(fields: &mut Fields<'_>) -> Result<(Stretch, Tally), sqlx::Error> {
    let span = span(fields)?;
    let tally = tally(fields)?;
    let stretch = Stretch {
        checked: fields.sum()?,
        quality: fields.real()?,
        organic_checked: fields.sum()?,
        organic_quality: fields.real()?,
        ..tally.stretch(span.at_ms, span.seconds)
    };
    Ok((stretch, tally))
}
