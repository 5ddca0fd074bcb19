//! How a miner's weight came about: from the weight on chain down to single answers, so that it can be computed again.
//!
//! [`explain`] looks into the store and puts together what it finds, [`reproduce()`] computes the weight from nothing but the
//! numbers that are shown, and [`Explanation::text`] writes them out for people.

mod build;
mod date;
mod model;
mod reproduce;
mod text;

use std::collections::BTreeMap;

use common::{Hotkey, TaskId};

use crate::config::Config;
use crate::store::{Location, Scoring, Store, StoreError};
use crate::tally::ContenderId;
use build::{Found, build};

pub(crate) use date::utc;
pub use model::{
    AnswerRow, Contribution, Explanation, Failed, FieldMiner, OnChain, PeriodRow, ScoringFacts,
    TaskExplanation, TaskField,
};
pub use reproduce::{Difference, Reproduction, reproduce, weights};
pub(crate) use text::number;

/// The most periods that are listed for a task.
const PERIODS: usize = 24;

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub hotkey: Hotkey,
    /// Only this task; otherwise all.
    pub task: Option<TaskId>,
    /// How many answers are listed for each task, newest first.
    pub answers: u32,
}

/// Why there is nothing to explain.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("there is no database at {0}; is `store.at` the one of the validator?")]
    NoStore(Location),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "nothing was scored yet: scores come at the end of the first scoring period; if this is another version's \
         database, after the next one"
    )]
    NothingScored,
    #[error(
        "nothing is known of {hotkey}: it is not among the {miners} miners of the last scoring, and no evidence about it is \
         stored"
    )]
    UnknownHotkey { hotkey: Hotkey, miners: usize },
    #[error("there is no task `{task}`; known are {}", listed(.known))]
    UnknownTask { task: TaskId, known: Vec<TaskId> },
}

fn listed(tasks: &[TaskId]) -> String {
    let names: Vec<_> = tasks.iter().map(|task| format!("`{task}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Explains one miner's weight from the configured store, which a validator may be using at the same time.
///
/// # Errors
/// If there is no store, it cannot be read, or it has nothing on the question.
pub async fn explain(config: &Config, question: &Question) -> Result<Explanation, ExplainError> {
    let store = open(&config.store).await?;
    let explained = read(&store, question).await;
    store.close().await;
    explained
}

/// Opens a store that must be there already.
pub(crate) async fn open(at: &Location) -> Result<Store, ExplainError> {
    if let Location::Sqlite(path) = at
        && !path.exists()
    {
        return Err(ExplainError::NoStore(at.clone()));
    }
    Ok(Store::open_to_read(at).await?)
}

async fn read(store: &Store, question: &Question) -> Result<Explanation, ExplainError> {
    let set = store.last_weights().await?;
    let newest = store.last_scoring().await?.ok_or(ExplainError::NothingScored)?;
    let behind = match set.as_ref().and_then(|set| set.scoring) {
        Some(id) if id == newest.id => Some(newest.clone()),
        Some(id) => store.scoring(id).await?,
        None => None,
    };
    let tasks = evidence(store, question, &newest, behind.as_ref()).await?;
    let scored = |scoring: &Scoring| scoring.scores.contains_key(&question.hotkey);
    let anything =
        tasks.values().any(|(periods, answers)| !periods.is_empty() || !answers.is_empty());
    if !anything && !scored(&newest) && !behind.as_ref().is_some_and(scored) {
        return Err(ExplainError::UnknownHotkey {
            hotkey: question.hotkey,
            miners: newest.scores.len(),
        });
    }
    Ok(build(Found { hotkey: question.hotkey, set, behind, newest, tasks }))
}

/// The periods and answers of each task that is asked about.
async fn evidence(
    store: &Store,
    question: &Question,
    newest: &Scoring,
    behind: Option<&Scoring>,
) -> Result<BTreeMap<TaskId, (Vec<PeriodRow>, Vec<AnswerRow>)>, ExplainError> {
    let mut known: Vec<TaskId> = newest.tasks.keys().cloned().collect();
    known.extend(behind.iter().flat_map(|scoring| scoring.tasks.keys().cloned()));
    known.sort();
    known.dedup();
    let asked = match &question.task {
        None => known.clone(),
        // It may have left the catalogue, with evidence still here.
        Some(task) => vec![task.clone()],
    };
    let mut tasks = BTreeMap::new();
    for task in asked {
        let id = ContenderId { hotkey: question.hotkey, task: task.clone() };
        let past = store.past_periods_of(&id, 0).await?;
        let periods: Vec<_> = past.iter().take(PERIODS).map(PeriodRow::from).collect();
        let answers = store.answers_of(&id, 0, question.answers).await?;
        let answers: Vec<_> = answers.into_iter().map(AnswerRow::from).collect();
        if periods.is_empty() && answers.is_empty() && !known.contains(&task) {
            return Err(ExplainError::UnknownTask { task, known });
        }
        tasks.insert(task, (periods, answers));
    }
    Ok(tasks)
}
