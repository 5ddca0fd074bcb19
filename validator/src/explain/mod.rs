//! How a miner's weight came about: from the weight on chain down to single answers, so that it can be computed again.
//!
//! [`explain`] looks into the store and puts together what it finds, [`reproduce()`] computes the weight from nothing but the
//! numbers that are shown, and [`Explanation::text`] writes them out for people.

mod build;
mod date;
mod model;
mod reproduce;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use common::{Hotkey, MechanismId, TaskId};

use crate::config::Config;
use crate::store::{Location, Scoring, Store, StoreError};
use crate::tally::ContenderId;
use build::{Found, build};

pub(crate) use date::{civil, utc};
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
    /// The mechanism whose weight is explained; otherwise that of the task, or the first one that has tasks.
    pub mechanism: Option<MechanismId>,
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
    #[error("the task `{task}` counts for mechanism {of}, not for mechanism {mechanism}")]
    OtherMechanism { task: TaskId, of: MechanismId, mechanism: MechanismId },
    #[error("no task of the last scoring counts for mechanism {mechanism}, only for {}", numbers(.known))]
    UnknownMechanism { mechanism: MechanismId, known: BTreeSet<MechanismId> },
}

fn listed(tasks: &[TaskId]) -> String {
    let names: Vec<_> = tasks.iter().map(|task| format!("`{task}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn numbers(mechanisms: &BTreeSet<MechanismId>) -> String {
    let numbers: Vec<_> = mechanisms.iter().map(MechanismId::to_string).collect();
    numbers.join(", ")
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
    let newest = store.last_scoring().await?.ok_or(ExplainError::NothingScored)?;
    let mechanisms = newest.mechanisms();
    let mechanism = which(question, &newest, &mechanisms)?;
    let newest = newest.of_mechanism(mechanism);
    let set = store.last_weights_of(mechanism).await?;
    let behind = match set.as_ref().and_then(|set| set.scoring) {
        Some(id) if id == newest.id => Some(newest.clone()),
        Some(id) => store.scoring(id).await?.map(|scoring| scoring.of_mechanism(mechanism)),
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
    let hotkey = question.hotkey;
    Ok(build(Found { hotkey, mechanism, mechanisms, set, behind, newest, tasks }))
}

/// The mechanism that is asked about.
fn which(
    question: &Question,
    newest: &Scoring,
    known: &BTreeSet<MechanismId>,
) -> Result<MechanismId, ExplainError> {
    let of_task = question.task.as_ref().filter(|task| newest.tasks.contains_key(*task));
    let of_task = of_task.map(|task| (task, newest.mechanism_of(task)));
    match (question.mechanism, of_task) {
        (Some(mechanism), Some((task, of))) if mechanism != of => {
            Err(ExplainError::OtherMechanism { task: task.clone(), of, mechanism })
        }
        (Some(mechanism), _) if !known.contains(&mechanism) => {
            Err(ExplainError::UnknownMechanism { mechanism, known: known.clone() })
        }
        (Some(mechanism), _) | (None, Some((_, mechanism))) => Ok(mechanism),
        (None, None) => Ok(known.first().copied().unwrap_or_default()),
    }
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
