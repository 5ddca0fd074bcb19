//! Evidence summed up over buckets of time: made by the database itself, a bucket at a time, and read as a stream.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::database::{Fields, Transaction, values};
use super::{Names, ROW_BUFFER, Store, StoreError, failed};
use crate::scoring::Stretch;
use crate::tally::ContenderId;

/// The database reads in a thread of its own. Who takes each row as it comes wakes and sleeps for each row, which takes
/// longer than reading it.
const GATHER: Duration = Duration::from_millis(1);

/// How `stretches` was made.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Made {
    bucket_ms: i64,
    speed_percentile: f64,
    /// Buckets that began before this miss some of their rows: they stay as they are.
    whole_since_ms: i64,
}

/// A bucket's tallies and verdicts, by the ends of their periods. `$1` is its begin, `$2` its end, `$3` the percentile.
///
/// The percentile of n speeds is the one at place `floor(percentile * n)`, counted from 0. Neither database has `floor` in
/// every build, and they round differently.
const SUM_UP: &str = "
    INSERT INTO stretches (task, hotkey, bucket, at_ms, seconds, idle_seconds, declared, consumed, served,
        refused_within, refusal_cost, refused_beyond, failed,
        organic_served, organic_refusal_cost, organic_failed, exams, shown, shown_squared,
        checked, quality, organic_checked, organic_quality, speed)
    SELECT sums.*, speeds.speed FROM (
        SELECT task, hotkey, $1, CAST(SUM(ended_ms) AS BIGINT) / COUNT(*) AS at_ms,
            SUM(CASE WHEN asked > 0 AND declared > 0.0 THEN seconds ELSE 0.0 END) AS seconds,
            SUM(CASE WHEN asked > 0 OR declared <= 0.0 THEN 0.0 ELSE seconds END) AS idle_seconds,
            SUM(declared) AS declared, SUM(consumed) AS consumed, CAST(SUM(served) AS BIGINT) AS served,
            CAST(SUM(refused_within) AS BIGINT) AS refused_within, SUM(refusal_cost) AS refusal_cost,
            CAST(SUM(refused_beyond) AS BIGINT) AS refused_beyond, CAST(SUM(failed) AS BIGINT) AS failed,
            CAST(SUM(organic_served) AS BIGINT) AS organic_served, SUM(organic_refusal_cost) AS organic_refusal_cost,
            CAST(SUM(organic_failed) AS BIGINT) AS organic_failed, CAST(SUM(exams) AS BIGINT) AS exams,
            SUM(shown) AS shown, SUM(shown_squared) AS shown_squared,
            CAST(SUM(checked) AS BIGINT) AS checked, SUM(quality) AS quality,
            CAST(SUM(organic_checked) AS BIGINT) AS organic_checked, SUM(organic_quality) AS organic_quality
        FROM (
            SELECT tallies.*, ended_ms,
                CASE WHEN ended_ms > started_ms
                    THEN CAST(ended_ms - started_ms AS DOUBLE PRECISION) / 1000.0 ELSE 0.0 END AS seconds,
                unreachable + bad_status + too_late + broken + unusable AS failed,
                served + refused_within + refused_beyond
                    + unreachable + bad_status + too_late + broken + unusable AS asked
            FROM periods JOIN tallies ON tallies.period = periods.id
            WHERE ended_ms >= $1 AND ended_ms < $2
        ) AS counted
        GROUP BY task, hotkey
    ) AS sums LEFT JOIN (
        SELECT task, hotkey, speed FROM (
            SELECT task, hotkey, speed * quality AS speed,
                ROW_NUMBER() OVER (PARTITION BY task, hotkey ORDER BY speed * quality) AS place,
                COUNT(*) OVER (PARTITION BY task, hotkey) AS speeds
            FROM periods JOIN verdicts ON verdicts.period = periods.id
            WHERE ended_ms >= $1 AND ended_ms < $2
        ) AS placed
        WHERE place - 1 <= $3 * speeds AND $3 * speeds < place
    ) AS speeds ON speeds.task = sums.task AND speeds.hotkey = sums.hotkey";

impl Store {
    /// Brings what [`Self::stretches`] reads up to date with the periods and verdicts since the last time. Only buckets in
    /// which something has happened are made anew; all of them if their length or the percentile is another than before.
    ///
    /// `speed_percentile` is in `0.0..1.0`. A bucket is at least a millisecond long.
    ///
    /// # Errors
    /// If the database fails; the rest is done the next time.
    pub async fn refresh(&self, bucket_ms: i64, speed_percentile: f64) -> Result<(), StoreError> {
        let failed = failed("sum up the evidence");
        let bucket_ms = bucket_ms.max(1);
        let speed_percentile = Some(speed_percentile).filter(|p| p.is_finite()).unwrap_or(0.0);
        let speed_percentile = speed_percentile.clamp(0.0, 0.999_999);
        let made = self.made_by(bucket_ms, speed_percentile).await.map_err(&failed)?;
        let mut begins = Vec::new();
        let mut rows = self.database.rows(
            "SELECT DISTINCT ended_ms / $1 * $1 FROM periods WHERE changed = 1 AND ended_ms IS NOT NULL",
            values![bucket_ms],
        );
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            begins.push(row.fields().int().map_err(&failed)?);
        }
        drop(rows);
        for begin in begins {
            self.sum_up(begin, &made).await.map_err(&failed)?;
        }
        Ok(())
    }

    /// Returns how `stretches` is made from now on. Where that is another way than before, what can be made anew is marked.
    async fn made_by(&self, bucket_ms: i64, speed_percentile: f64) -> Result<Made, sqlx::Error> {
        let mut transaction = self.database.begin().await?;
        let before = made(&mut transaction).await?;
        if (before.bucket_ms, before.speed_percentile) != (bucket_ms, speed_percentile) {
            // Old buckets that reach into new ones would count twice: those at the far end of the evidence are given up.
            let begun = before.whole_since_ms.saturating_add(bucket_ms - 1);
            let whole = begun / bucket_ms * bucket_ms;
            transaction
                .execute(
                    "DELETE FROM stretches WHERE bucket > $1 - $2",
                    values![whole, before.bucket_ms],
                )
                .await?;
            transaction
                .execute("UPDATE periods SET changed = 1 WHERE ended_ms >= $1", values![whole])
                .await?;
            transaction
                .execute(
                    "UPDATE stretches_made SET bucket_ms = $1, speed_percentile = $2 WHERE one = 1",
                    values![bucket_ms, speed_percentile],
                )
                .await?;
        }
        transaction.commit().await?;
        Ok(Made { bucket_ms, speed_percentile, ..before })
    }

    /// A transaction of its own per bucket, so that nobody waits for all of them.
    async fn sum_up(&self, begin: i64, made: &Made) -> Result<(), sqlx::Error> {
        let end = begin.saturating_add(made.bucket_ms);
        let mut transaction = self.database.begin().await?;
        // First, as whoever changes the period after this waits and marks it again.
        transaction
            .execute(
                "UPDATE periods SET changed = 0
                 WHERE changed = 1 AND ended_ms >= $1 AND ended_ms < $2",
                values![begin, end],
            )
            .await?;
        if begin >= made.whole_since_ms {
            transaction.execute("DELETE FROM stretches WHERE bucket = $1", values![begin]).await?;
            transaction.execute(SUM_UP, values![begin, end, made.speed_percentile]).await?;
        }
        transaction.commit().await
    }

    /// Hands over the evidence since `since_ms` about one contender after the other, in the order of their tasks and hotkeys,
    /// each newest first. Memory holds one of them at a time.
    ///
    /// # Errors
    /// If the database fails, maybe half-way.
    pub async fn stretches(
        &self,
        since_ms: i64,
        mut each: impl FnMut(ContenderId, Vec<Stretch>),
    ) -> Result<(), StoreError> {
        let mut names = Names::default();
        let mut current: Option<(ContenderId, Vec<Stretch>)> = None;
        let mut hand_over = |(id, mut stretches): (ContenderId, Vec<Stretch>)| {
            stretches.reverse();
            each(id, stretches);
        };
        let rows = self.database.rows(
            "SELECT task, hotkey, at_ms, seconds, idle_seconds, declared, consumed, served,
                 refused_within, refusal_cost, refused_beyond, failed,
                 organic_served, organic_refusal_cost, organic_failed, exams, shown, shown_squared,
                 checked, quality, organic_checked, organic_quality, speed
             FROM stretches WHERE at_ms >= $1 ORDER BY task, hotkey, bucket",
            values![since_ms],
        );
        let mut rows = rows.ready_chunks(ROW_BUFFER);
        while let Some(some) = rows.next().await {
            for row in some {
                let row = row.map_err(failed("read the evidence"))?;
                let mut fields = row.fields();
                let read = fields.text().and_then(|task| {
                    let hotkey = fields.text()?;
                    Ok((names.read(hotkey, task)?, stretch(&mut fields)?))
                });
                let Some((id, stretch)) = self.readable("stretches", read) else { continue };
                match &mut current {
                    Some((of, stretches)) if *of == id => stretches.push(stretch),
                    _ => {
                        if let Some(complete) = current.replace((id, vec![stretch])) {
                            hand_over(complete);
                        }
                    }
                }
            }
            tokio::time::sleep(GATHER).await;
        }
        if let Some(complete) = current {
            hand_over(complete);
        }
        Ok(())
    }
}

async fn made(transaction: &mut Transaction) -> Result<Made, sqlx::Error> {
    let rows = transaction
        .all("SELECT bucket_ms, speed_percentile, whole_since_ms FROM stretches_made", &[])
        .await?;
    let mut fields = rows.first().ok_or(sqlx::Error::RowNotFound)?.fields();
    Ok(Made {
        bucket_ms: fields.int()?,
        speed_percentile: fields.real()?,
        whole_since_ms: fields.int()?,
    })
}

fn stretch(fields: &mut Fields<'_>) -> Result<Stretch, sqlx::Error> {
    Ok(Stretch {
        at_ms: fields.int()?,
        seconds: fields.real()?,
        idle_seconds: fields.real()?,
        declared: fields.real()?,
        consumed: fields.real()?,
        served: fields.sum()?,
        refused_within: fields.sum()?,
        refusal_cost: fields.real()?,
        refused_beyond: fields.sum()?,
        failed: fields.sum()?,
        organic_served: fields.sum()?,
        organic_refusal_cost: fields.real()?,
        organic_failed: fields.sum()?,
        exams: fields.sum()?,
        shown: fields.real()?,
        shown_squared: fields.real()?,
        checked: fields.sum()?,
        quality: fields.real()?,
        organic_checked: fields.sum()?,
        organic_quality: fields.real()?,
        speed: fields.maybe_real()?,
    })
}
