//! What the validating process and the processes that serve the API alone hand to each other.

use std::collections::BTreeMap;

use common::{Uid, Volume};
use futures::TryStreamExt;

use super::database::{Fields, Value, values};
use super::periods::{contender, failures};
use super::{Names, PeriodId, Store, StoreError, failed};
use crate::network::Contender;
use crate::routing::Candidate;
use crate::tally::{ContenderId, Report};

/// Reports that are taken at once; the rest is taken the next time.
const REPORTS: u32 = 10_000;

/// The miners that may be asked, as the validating process said last.
#[derive(Debug, Clone)]
pub struct Published {
    /// Goes up with every change.
    pub version: i64,
    /// The period that was begun last.
    pub period: PeriodId,
    pub candidates: Vec<Candidate>,
}

impl Store {
    /// Replaces the miners that other processes may ask.
    ///
    /// # Errors
    /// If the database fails; those before stay then.
    pub async fn publish(&self, candidates: &[Candidate]) -> Result<(), StoreError> {
        let failed = failed("tell other processes who may be asked");
        let rows: Vec<[Value; 7]> = candidates.iter().map(row).collect();
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        // First, so that two writers wait for each other here.
        transaction
            .execute("UPDATE contenders_version SET version = version + 1 WHERE one = 1", &[])
            .await
            .map_err(&failed)?;
        transaction.execute("DELETE FROM contenders", &[]).await.map_err(&failed)?;
        transaction
            .insert(
                "INSERT INTO contenders (hotkey, task, uid, url, declared, score, quality)",
                &rows,
                "",
            )
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// The miners that may be asked, if they have changed since `known`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn published(&self, known: Option<i64>) -> Result<Option<Published>, StoreError> {
        let doing = "read who may be asked";
        let version = self.number("SELECT version FROM contenders_version WHERE one = 1").await?;
        if known == Some(version) {
            return Ok(None);
        }
        // What is published meanwhile has a higher version, so it is read again.
        let period = self.number("SELECT COALESCE(MAX(id), 0) FROM periods").await?;
        let mut candidates = Vec::new();
        let mut names = Names::default();
        let mut rows = self
            .database
            .rows("SELECT hotkey, task, uid, url, declared, score, quality FROM contenders", &[]);
        while let Some(row) = rows.try_next().await.map_err(failed(doing))? {
            let read = candidate(&mut row.fields(), &mut names);
            candidates.extend(self.readable("contenders", read));
        }
        Ok(Some(Published { version, period: PeriodId(period), candidates }))
    }

    async fn number(&self, query: &'static str) -> Result<i64, StoreError> {
        let failed = failed("read who may be asked");
        let row = self.database.first(query, &[]).await.map_err(&failed)?;
        row.map_or(Ok(0), |row| row.fields().int()).map_err(failed)
    }

    /// Leaves what became of users' requests for the validating process.
    ///
    /// # Errors
    /// If the database fails; nothing is left then.
    pub async fn leave_reports(
        &self,
        reports: &BTreeMap<ContenderId, Report>,
    ) -> Result<(), StoreError> {
        let failed = failed("leave what became of requests");
        let rows: Vec<[Value; 13]> = reports
            .iter()
            .map(|(id, report)| {
                let Report { from_ms, to_ms, served, tokens, refused, failed, void } = *report;
                [
                    from_ms.into(),
                    to_ms.into(),
                    id.hotkey.to_string().into(),
                    id.task.as_str().into(),
                    served.into(),
                    i64::try_from(tokens).unwrap_or(i64::MAX).into(),
                    refused.into(),
                    failed.unreachable.into(),
                    failed.bad_status.into(),
                    failed.too_late.into(),
                    failed.broken.into(),
                    failed.unusable.into(),
                    void.into(),
                ]
            })
            .collect();
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        transaction
            .insert(
                "INSERT INTO outcomes (from_ms, to_ms, hotkey, task, served, tokens, refused, unreachable, bad_status,
                     too_late, broken, unusable, void)",
                &rows,
                "",
            )
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// Whether other processes have left anything.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn has_reports(&self) -> Result<bool, StoreError> {
        let failed = failed("look for what became of requests elsewhere");
        let row = self.database.first("SELECT id FROM outcomes LIMIT 1", &[]).await;
        Ok(row.map_err(failed)?.is_some())
    }

    /// Takes what other processes have left, each report once.
    ///
    /// # Errors
    /// If the database fails; everything stays then.
    pub async fn take_reports(&self) -> Result<Vec<(ContenderId, Report)>, StoreError> {
        let failed = failed("take what became of requests elsewhere");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        let rows = transaction
            .all(
                "DELETE FROM outcomes WHERE id IN (SELECT id FROM outcomes ORDER BY id LIMIT $1)
                 RETURNING hotkey, task, from_ms, to_ms, served, tokens, refused, unreachable, bad_status, too_late,
                     broken, unusable, void",
                values![REPORTS],
            )
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(failed)?;
        let (mut names, mut reports) = (Names::default(), Vec::new());
        for row in &rows {
            let mut fields = row.fields();
            let read = contender(&mut fields, &mut names)
                .and_then(|contender| Ok((contender, report(&mut fields)?)));
            reports.extend(self.readable("outcomes", read));
        }
        Ok(reports)
    }
}

fn row(candidate: &Candidate) -> [Value; 7] {
    let Candidate { id, contender, score, quality } = candidate;
    [
        id.hotkey.to_string().into(),
        id.task.as_str().into(),
        u32::from(contender.uid.0).into(),
        contender.url.as_str().into(),
        contender.declared.get().into(),
        (*score).into(),
        quality.unwrap_or(-1.0).into(),
    ]
}

fn candidate(fields: &mut Fields<'_>, names: &mut Names) -> Result<Candidate, sqlx::Error> {
    let id = contender(fields, names)?;
    let uid = u16::try_from(fields.int()?).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let url = fields.parsed()?;
    let declared = Volume::try_from(fields.real()?).unwrap_or(Volume::ZERO);
    let (score, quality) = (fields.real()?, fields.real()?);
    let contender = Contender { uid: Uid(uid), url, declared };
    Ok(Candidate { id, contender, score, quality: Some(quality).filter(|known| *known >= 0.0) })
}

fn report(fields: &mut Fields<'_>) -> Result<Report, sqlx::Error> {
    Ok(Report {
        from_ms: fields.int()?,
        to_ms: fields.int()?,
        served: fields.count()?,
        tokens: fields.sum()?,
        refused: fields.count()?,
        failed: failures(fields)?,
        void: fields.count()?,
    })
}
