//! Results of scoring, and the weights that were set by them.

use std::collections::BTreeMap;

use common::{BlockNumber, Hotkey, TaskId, Uid};
use futures::TryStreamExt;

use super::database::{Record, Value, values};
use super::{Store, StoreError, failed};
use crate::scoring::{MinerScore, Rules, Scores};

/// One scoring, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScoringId(pub i64);

/// Everything that went into one scoring besides the evidence, and what came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Scoring {
    pub id: ScoringId,
    pub at_ms: i64,
    pub rules: Rules,
    /// The tasks' weightings.
    pub tasks: BTreeMap<TaskId, f64>,
    pub scores: BTreeMap<Hotkey, MinerScore>,
}

/// Weights that are on chain.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsOnChain {
    pub at_ms: i64,
    pub block: BlockNumber,
    pub weights: Vec<(Uid, Hotkey, u16)>,
    /// What they were derived from, if it is known.
    pub scoring: Option<ScoringId>,
}

impl Store {
    /// Keeps the result of a scoring.
    ///
    /// # Errors
    /// If the database fails; nothing is kept then.
    pub async fn save_scoring(
        &self,
        at_ms: i64,
        rules: &Rules,
        tasks: &BTreeMap<TaskId, f64>,
        scores: &Scores<Hotkey>,
    ) -> Result<ScoringId, StoreError> {
        let failed = failed("save scores");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        let rows = transaction
            .all(
                "INSERT INTO scorings (at_ms, rules, tasks) VALUES ($1, $2, $3) RETURNING id",
                values![
                    at_ms,
                    serde_json::to_string(rules).unwrap_or_default(),
                    serde_json::to_string(tasks).unwrap_or_default(),
                ],
            )
            .await
            .map_err(&failed)?;
        let id = rows
            .first()
            .ok_or(sqlx::Error::RowNotFound)
            .and_then(|row| row.fields().int())
            .map_err(&failed)?;
        // In parts: the JSON of all miners together may be large.
        let miners: Vec<_> = scores.miners.iter().collect();
        for miners in miners.chunks(1_000) {
            let rows: Vec<[Value; 3]> = miners
                .iter()
                .map(|(hotkey, score)| {
                    let score = serde_json::to_string(score).unwrap_or_default();
                    [id.into(), hotkey.to_string().into(), score.into()]
                })
                .collect();
            transaction
                .insert("INSERT INTO scores (scoring, hotkey, score)", &rows, "")
                .await
                .map_err(&failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(ScoringId(id))
    }

    /// A scoring that is kept still. `None` too if it was made by a version with other rules.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn scoring(&self, id: ScoringId) -> Result<Option<Scoring>, StoreError> {
        let row = self
            .database
            .first("SELECT id, at_ms, rules, tasks FROM scorings WHERE id = $1", values![id.0])
            .await
            .map_err(failed("read scores"))?;
        self.with_scores(row).await
    }

    /// The newest scoring.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn last_scoring(&self) -> Result<Option<Scoring>, StoreError> {
        let row = self
            .database
            .first("SELECT id, at_ms, rules, tasks FROM scorings ORDER BY id DESC LIMIT 1", &[])
            .await
            .map_err(failed("read scores"))?;
        self.with_scores(row).await
    }

    async fn with_scores(&self, row: Option<Record>) -> Result<Option<Scoring>, StoreError> {
        let Some(mut scoring) = row.and_then(|row| self.readable("scorings", scoring(&row))) else {
            return Ok(None);
        };
        let mut rows = self.database.rows(
            "SELECT hotkey, score FROM scores WHERE scoring = $1 ORDER BY hotkey",
            values![scoring.id.0],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("read scores"))? {
            let mut fields = row.fields();
            let read = fields.parsed().and_then(|hotkey| Ok((hotkey, fields.json()?)));
            scoring.scores.extend(self.readable("scores", read));
        }
        Ok(Some(scoring))
    }

    /// Remembers weights that the chain has confirmed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn save_weights(&self, set: &WeightsOnChain) -> Result<(), StoreError> {
        self.database
            .execute(
                "INSERT INTO weights_set (at_ms, block, weights, scoring)
                 VALUES ($1, $2, $3, (SELECT id FROM scorings WHERE id = $4))",
                values![
                    set.at_ms,
                    i64::try_from(set.block.0).unwrap_or(i64::MAX),
                    serde_json::to_string(&set.weights).unwrap_or_default(),
                    set.scoring.map(|scoring| scoring.0),
                ],
            )
            .await
            .map_err(failed("save confirmed weights"))?;
        Ok(())
    }

    /// The weights that were confirmed last.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn last_weights(&self) -> Result<Option<WeightsOnChain>, StoreError> {
        let row = self
            .database
            .first(
                "SELECT at_ms, block, weights, scoring FROM weights_set ORDER BY id DESC LIMIT 1",
                &[],
            )
            .await
            .map_err(failed("read the last weights"))?;
        Ok(row.and_then(|row| self.readable("weights_set", weights(&row))))
    }
}

fn scoring(row: &Record) -> Result<Scoring, sqlx::Error> {
    let mut fields = row.fields();
    Ok(Scoring {
        id: ScoringId(fields.int()?),
        at_ms: fields.int()?,
        rules: fields.json()?,
        tasks: fields.json()?,
        scores: BTreeMap::new(),
    })
}

fn weights(row: &Record) -> Result<WeightsOnChain, sqlx::Error> {
    let mut fields = row.fields();
    Ok(WeightsOnChain {
        at_ms: fields.int()?,
        block: BlockNumber(fields.sum()?),
        weights: fields.json()?,
        scoring: fields.maybe_int()?.map(ScoringId),
    })
}
