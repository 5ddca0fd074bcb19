//! Weights on their way to the chain: kept before they are sent, so that a restart finds out what became of them.

use std::time::Duration;

use chain::{Stage, Submission, Way};
use common::{BlockNumber, Hotkey, Uid};
use futures::TryStreamExt;

use super::database::{Record, Value, values};
use super::{ScoringId, Store, StoreError, WeightsOnChain, failed};

/// A submission by its number; later ones have larger numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubmissionId(pub i64);

/// Weights that may have been sent, with what people want to know about them.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptSubmission {
    pub id: SubmissionId,
    /// When it was made, and when it came to its stage.
    pub at_ms: i64,
    pub changed_ms: i64,
    pub submission: Submission,
    pub weights: Vec<(Uid, Hotkey, u16)>,
    /// What they were derived from, if it is known.
    pub scoring: Option<ScoringId>,
    /// Between two blocks, when it was made.
    pub block_time: Duration,
    /// The block since which the chain holds the commit, and the one since which it holds the weights.
    pub committed: Option<BlockNumber>,
    pub in_force: Option<BlockNumber>,
    /// The transaction's hash, where it is known.
    pub extrinsic: Option<String>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// The columns in the order in which they are read.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, at_ms, changed_ms, submission, weights, scoring, block_ms, commit_block, effect_block, extrinsic,
             error FROM weight_submissions ",
            $rest
        )
    };
}

impl KeptSubmission {
    /// A submission that is not kept yet; [`Store::keep_submission`] gives it its number.
    pub fn new(
        at_ms: i64,
        submission: Submission,
        weights: Vec<(Uid, Hotkey, u16)>,
        scoring: Option<ScoringId>,
        block_time: Duration,
    ) -> Self {
        Self {
            id: SubmissionId(0),
            at_ms,
            changed_ms: at_ms,
            submission,
            weights,
            scoring,
            block_time,
            committed: None,
            in_force: None,
            extrinsic: None,
            error: None,
        }
    }

    /// By which way.
    pub fn way(&self) -> Way {
        self.submission.way()
    }

    /// Takes note of its stage.
    pub fn come_to(&mut self, at_ms: i64, stage: Stage) {
        match &stage {
            Stage::Sent => {}
            Stage::Committed { block, .. } => self.committed = Some(*block),
            Stage::InForce { block } => (self.in_force, self.error) = (Some(*block), None),
            Stage::Failed { why } => self.error = Some(why.to_string()),
        }
        self.submission.stage = stage;
        self.changed_ms = at_ms;
    }

    /// The weights as they are on chain, once they are.
    pub fn on_chain(&self) -> Option<WeightsOnChain> {
        Some(WeightsOnChain {
            at_ms: self.changed_ms,
            mechanism: self.submission.mechanism,
            block: self.in_force?,
            weights: self.weights.clone(),
            scoring: self.scoring,
        })
    }
}

impl Store {
    /// Keeps a submission that is about to be sent. Once this has returned, it survives the end of the process.
    ///
    /// # Errors
    /// If the database fails: what is not kept must not be sent.
    pub async fn keep_submission(&self, new: &KeptSubmission) -> Result<SubmissionId, StoreError> {
        let failed = failed("keep weights that are to be sent");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        let rows = transaction
            .all(
                "INSERT INTO weight_submissions (at_ms, changed_ms, mechanism, way, stage, submission, weights, scoring,
                     block_ms, commit_block, effect_block, extrinsic, error)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, (SELECT id FROM scorings WHERE id = $8), $9, $10, $11, $12, $13)
                 RETURNING id",
                values![
                    new.at_ms,
                    new.changed_ms,
                    u32::from(new.submission.mechanism.0),
                    new.way().to_string(),
                    stage_name(&new.submission.stage),
                    serde_json::to_string(&new.submission).unwrap_or_default(),
                    serde_json::to_string(&new.weights).unwrap_or_default(),
                    new.scoring.map(|scoring| scoring.0),
                    i64::try_from(new.block_time.as_millis()).unwrap_or(i64::MAX),
                    new.committed.map(number),
                    new.in_force.map(number),
                    new.extrinsic.as_deref().unwrap_or_default(),
                    new.error.as_deref().unwrap_or_default(),
                ],
            )
            .await
            .map_err(&failed)?;
        let id = rows
            .first()
            .ok_or(sqlx::Error::RowNotFound)
            .and_then(|row| row.fields().int())
            .map_err(&failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(SubmissionId(id))
    }

    /// Keeps what became of a submission. Weights that came into force become those of their mechanism in the same
    /// transaction.
    ///
    /// # Errors
    /// If the database fails; everything is as before then.
    pub async fn update_submission(&self, kept: &KeptSubmission) -> Result<(), StoreError> {
        let failed = failed("keep what became of weights");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        let changed = transaction
            .execute(
                "UPDATE weight_submissions SET changed_ms = $2, stage = $3, submission = $4, commit_block = $5,
                     effect_block = $6, extrinsic = $7, error = $8
                 WHERE id = $1 AND stage IN ('sent', 'committed')",
                values![
                    kept.id.0,
                    kept.changed_ms,
                    stage_name(&kept.submission.stage),
                    serde_json::to_string(&kept.submission).unwrap_or_default(),
                    kept.committed.map(number),
                    kept.in_force.map(number),
                    kept.extrinsic.as_deref().unwrap_or_default(),
                    kept.error.as_deref().unwrap_or_default(),
                ],
            )
            .await
            .map_err(&failed)?;
        // What is over stays as it is, so weights are not told to be on chain twice.
        if changed > 0
            && matches!(kept.submission.stage, Stage::InForce { .. })
            && let Some(set) = kept.on_chain()
        {
            super::scorings::insert_weights(&mut transaction, &set).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// The submissions of which it is not known yet what becomes of them, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn open_submissions(&self) -> Result<Vec<KeptSubmission>, StoreError> {
        let open = select!("WHERE stage IN ('sent', 'committed') ORDER BY id");
        self.read_submissions(open, &[]).await
    }

    /// The newest submissions of all mechanisms, newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn newest_submissions(&self, most: u32) -> Result<Vec<KeptSubmission>, StoreError> {
        self.read_submissions(select!("ORDER BY id DESC LIMIT $1"), values![most]).await
    }

    async fn read_submissions(
        &self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Vec<KeptSubmission>, StoreError> {
        let mut kept = Vec::new();
        let mut rows = self.database.rows(sql, values);
        while let Some(row) = rows.try_next().await.map_err(failed("read submitted weights"))? {
            kept.extend(self.readable("weight_submissions", submission(&row)));
        }
        Ok(kept)
    }
}

fn submission(row: &Record) -> Result<KeptSubmission, sqlx::Error> {
    let mut fields = row.fields();
    Ok(KeptSubmission {
        id: SubmissionId(fields.int()?),
        at_ms: fields.int()?,
        changed_ms: fields.int()?,
        submission: fields.json()?,
        weights: fields.json()?,
        scoring: fields.maybe_int()?.map(ScoringId),
        block_time: Duration::from_millis(fields.sum()?),
        committed: fields.maybe_int()?.map(block),
        in_force: fields.maybe_int()?.map(block),
        extrinsic: some(fields.text()?),
        error: some(fields.text()?),
    })
}

fn stage_name(stage: &Stage) -> &'static str {
    match stage {
        Stage::Sent => "sent",
        Stage::Committed { .. } => "committed",
        Stage::InForce { .. } => "in_force",
        Stage::Failed { .. } => "failed",
    }
}

fn number(block: BlockNumber) -> i64 {
    i64::try_from(block.0).unwrap_or(i64::MAX)
}

fn block(number: i64) -> BlockNumber {
    BlockNumber(u64::try_from(number).unwrap_or(0))
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
