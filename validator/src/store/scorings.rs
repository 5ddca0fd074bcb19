//! Results of scoring, and the weights that were set by them.

use std::collections::{BTreeMap, BTreeSet};

use common::{BlockNumber, Hotkey, MechanismId, TaskId, Uid};
use futures::TryStreamExt;

use super::database::{Record, Transaction, Value, values};
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
    /// The tasks' weightings, and the mechanisms for which they count; of mechanism 0 where none is named.
    pub tasks: BTreeMap<TaskId, f64>,
    pub mechanisms: BTreeMap<TaskId, MechanismId>,
    pub scores: BTreeMap<Hotkey, MinerScore>,
}

/// Weights that are on chain.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsOnChain {
    pub at_ms: i64,
    pub mechanism: MechanismId,
    pub block: BlockNumber,
    pub weights: Vec<(Uid, Hotkey, u16)>,
    /// What they were derived from, if it is known.
    pub scoring: Option<ScoringId>,
}

impl Scoring {
    /// The mechanism for which a task counts.
    pub fn mechanism_of(&self, task: &TaskId) -> MechanismId {
        self.mechanisms.get(task).copied().unwrap_or_default()
    }

    /// The mechanisms that have tasks in it.
    pub fn mechanisms(&self) -> BTreeSet<MechanismId> {
        self.tasks.keys().map(|task| self.mechanism_of(task)).collect()
    }

    /// The part of it that one mechanism's weights come from: its tasks, with the weightings that they have among all.
    #[must_use]
    pub fn of_mechanism(mut self, mechanism: MechanismId) -> Self {
        let counts =
            |task: &TaskId| self.mechanisms.get(task).copied().unwrap_or_default() == mechanism;
        let all = Scores { miners: std::mem::take(&mut self.scores) };
        self.scores = all.of_tasks(counts).miners;
        let mechanisms = &self.mechanisms;
        self.tasks.retain(|task, _| mechanisms.get(task).copied().unwrap_or_default() == mechanism);
        self
    }
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
        mechanisms: &BTreeMap<TaskId, MechanismId>,
        scores: &Scores<Hotkey>,
    ) -> Result<ScoringId, StoreError> {
        let failed = failed("save scores");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        let rows = transaction
            .all(
                "INSERT INTO scorings (at_ms, rules, tasks, mechanisms) VALUES ($1, $2, $3, $4) RETURNING id",
                values![
                    at_ms,
                    serde_json::to_string(rules).unwrap_or_default(),
                    serde_json::to_string(tasks).unwrap_or_default(),
                    serde_json::to_string(mechanisms).unwrap_or_default(),
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
            .first(
                "SELECT id, at_ms, rules, tasks, mechanisms FROM scorings WHERE id = $1",
                values![id.0],
            )
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
            .first(
                "SELECT id, at_ms, rules, tasks, mechanisms FROM scorings ORDER BY id DESC LIMIT 1",
                &[],
            )
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
        let failed = failed("save confirmed weights");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        insert_weights(&mut transaction, set).await.map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// The weights that were confirmed last, of whichever mechanism.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn last_weights(&self) -> Result<Option<WeightsOnChain>, StoreError> {
        let row = self
            .database
            .first(
                "SELECT at_ms, mechanism, block, weights, scoring FROM weights_set ORDER BY id DESC LIMIT 1",
                &[],
            )
            .await
            .map_err(failed("read the last weights"))?;
        Ok(row.and_then(|row| self.readable("weights_set", weights(&row))))
    }

    /// The weights of a mechanism that were confirmed last.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn last_weights_of(
        &self,
        mechanism: MechanismId,
    ) -> Result<Option<WeightsOnChain>, StoreError> {
        let row = self
            .database
            .first(
                "SELECT at_ms, mechanism, block, weights, scoring FROM weights_set WHERE mechanism = $1
                 ORDER BY id DESC LIMIT 1",
                values![u32::from(mechanism.0)],
            )
            .await
            .map_err(failed("read the last weights"))?;
        Ok(row.and_then(|row| self.readable("weights_set", weights(&row))))
    }
}

pub(super) async fn insert_weights(
    transaction: &mut Transaction,
    set: &WeightsOnChain,
) -> Result<u64, sqlx::Error> {
    transaction
        .execute(
            "INSERT INTO weights_set (at_ms, mechanism, block, weights, scoring)
             VALUES ($1, $2, $3, $4, (SELECT id FROM scorings WHERE id = $5))",
            values![
                set.at_ms,
                u32::from(set.mechanism.0),
                i64::try_from(set.block.0).unwrap_or(i64::MAX),
                serde_json::to_string(&set.weights).unwrap_or_default(),
                set.scoring.map(|scoring| scoring.0),
            ],
        )
        .await
}

fn scoring(row: &Record) -> Result<Scoring, sqlx::Error> {
    let mut fields = row.fields();
    Ok(Scoring {
        id: ScoringId(fields.int()?),
        at_ms: fields.int()?,
        rules: fields.json()?,
        tasks: fields.json()?,
        mechanisms: fields.json()?,
        scores: BTreeMap::new(),
    })
}

fn weights(row: &Record) -> Result<WeightsOnChain, sqlx::Error> {
    let mut fields = row.fields();
    Ok(WeightsOnChain {
        at_ms: fields.int()?,
        mechanism: MechanismId(fields.small()?),
        block: BlockNumber(fields.sum()?),
        weights: fields.json()?,
        scoring: fields.maybe_int()?.map(ScoringId),
    })
}
