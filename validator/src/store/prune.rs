//! Deletes what is too old to be of use.

use super::database::{Value, values};
use super::{Store, StoreError, failed};

/// Times in Unix milliseconds; what is older is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retain {
    /// Tallies of periods, by the periods' ends.
    pub periods_ms: i64,
    /// Verdicts, flags and their evidence, which weights were set, and what became of those that were submitted.
    pub verdicts_ms: i64,
    /// Answers that wait for checking: given up.
    pub waiting_ms: i64,
    /// Sums of evidence, by the begin of their bucket.
    pub stretches_ms: i64,
}

const WAITING: &str = "DELETE FROM pending_checks WHERE id IN
    (SELECT id FROM pending_checks WHERE at_ms < $1 LIMIT 1000)";
const STRETCHES: &str = "DELETE FROM stretches WHERE bucket =
    (SELECT MIN(bucket) FROM stretches WHERE bucket < $1)";
const WEIGHTS: &str = "DELETE FROM weights_set WHERE at_ms < $1
     AND id < (SELECT MAX(newer.id) FROM weights_set AS newer WHERE newer.mechanism = weights_set.mechanism)";
const SUBMISSIONS: &str =
    "DELETE FROM weight_submissions WHERE at_ms < $1 AND stage NOT IN ('sent', 'committed')
     AND id < (SELECT MAX(newer.id) FROM weight_submissions AS newer
               WHERE newer.mechanism = weight_submissions.mechanism)";
const SCORINGS: &str = "DELETE FROM scorings WHERE id IN
    (SELECT id FROM scorings
     WHERE NOT EXISTS (
         SELECT 1 FROM (SELECT scoring FROM weights_set ORDER BY id DESC LIMIT 10) AS newest
         WHERE newest.scoring = scorings.id)
     AND NOT EXISTS (
         SELECT 1 FROM weights_set AS kept WHERE kept.scoring = scorings.id
         AND kept.id = (SELECT MAX(id) FROM weights_set AS newer WHERE newer.mechanism = kept.mechanism))
     AND NOT EXISTS (
         SELECT 1 FROM weight_submissions AS open
         WHERE open.scoring = scorings.id AND open.stage IN ('sent', 'committed'))
     ORDER BY id DESC LIMIT 1 OFFSET 3)";
const FLAGS: &str = "DELETE FROM flags WHERE at_ms < $1";
const TELLING: &str = "DELETE FROM telling_answers WHERE at_ms < $1";
const PERIODS: &str = "DELETE FROM periods WHERE id IN
    (SELECT id FROM periods WHERE ended_ms < $1 AND id < (SELECT MAX(id) FROM periods)
     ORDER BY ended_ms LIMIT 100)";
const TALLIES: &str = "DELETE FROM tallies WHERE period =
    (SELECT id FROM periods WHERE ended_ms < $1
     AND EXISTS (SELECT 1 FROM tallies AS kept WHERE kept.period = periods.id)
     ORDER BY ended_ms LIMIT 1)
    RETURNING (SELECT ended_ms FROM periods WHERE periods.id = tallies.period)";
const VERDICTS: &str = "DELETE FROM verdicts WHERE id IN
    (SELECT id FROM verdicts WHERE at_ms < $1 ORDER BY at_ms LIMIT 1000)
    RETURNING COALESCE((SELECT ended_ms FROM periods WHERE periods.id = verdicts.period), 0)";

impl Store {
    /// Deletes what is older than these times. To be called after [`Store::refresh`], which does not sum up what is gone.
    ///
    /// The open period stays, the newest period, so that its number is not used again, and the newest weights of each
    /// mechanism. Submissions stay until it is known what became of them. Of the results of scoring those stay that the
    /// newest ten weights, the newest of each mechanism, and open submissions were derived from, and the newest three
    /// others.
    ///
    /// # Errors
    /// If the database fails; the rest is done the next time.
    pub async fn prune(&self, retain: Retain) -> Result<(), StoreError> {
        let failed = failed("delete old evidence");
        // In parts, each a transaction of its own: nobody waits for long.
        let bounded: [(_, &[Value]); 7] = [
            (WAITING, values![retain.waiting_ms]),
            (STRETCHES, values![retain.stretches_ms]),
            (WEIGHTS, values![retain.verdicts_ms]),
            (SUBMISSIONS, values![retain.verdicts_ms]),
            (SCORINGS, &[]),
            (FLAGS, values![retain.verdicts_ms]),
            (TELLING, values![retain.verdicts_ms]),
        ];
        for (statement, values) in bounded {
            while self.database.execute(statement, values).await.map_err(&failed)? > 0 {}
        }
        for (statement, before_ms) in [(TALLIES, retain.periods_ms), (VERDICTS, retain.verdicts_ms)]
        {
            while self.delete_sources(statement, before_ms).await.map_err(&failed)? {}
        }
        // As long as sums of their tallies are kept: presence is measured by the validator's own time.
        let before_ms = retain.periods_ms.min(retain.stretches_ms);
        while self.database.execute(PERIODS, values![before_ms]).await.map_err(&failed)? > 0 {}
        Ok(())
    }

    /// Deletes rows that sums were made of; the statement returns the ends of their periods. Returns whether it found any.
    async fn delete_sources(
        &self,
        statement: &'static str,
        before_ms: i64,
    ) -> Result<bool, sqlx::Error> {
        let mut transaction = self.database.begin().await?;
        let deleted = transaction.all(statement, values![before_ms]).await?;
        // By what is deleted and not by the clock: one that was wrong for a while would spoil the evidence of years.
        let mut ended_ms = 0;
        for row in &deleted {
            ended_ms = row.fields().int()?.max(ended_ms);
        }
        if !deleted.is_empty() {
            transaction
                .execute(
                    "UPDATE stretches_made SET whole_since_ms = $1 WHERE whole_since_ms < $1",
                    values![ended_ms.saturating_add(1)],
                )
                .await?;
        }
        transaction.commit().await?;
        Ok(!deleted.is_empty())
    }
}
