//! What the weights would be with other task weightings or other constants, by the evidence that is stored.

mod compare;
mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use common::{Hotkey, MechanismId, TaskId, Uid};
use tasks::Catalogue;

use crate::config::Config;
use crate::evidence::{Moment, summaries};
use crate::explain::{ExplainError, open};
use crate::scoring::{Rules, Scores, WrongSetting};
use crate::store::{Store, StoreError};

pub use compare::{ConstantChange, MinerChange, TaskChange, Totals, Tuning};
use compare::{Proposal, compare};

/// The largest weight that a catalogue may have.
const MAX_WEIGHT: f64 = 1e9;

/// What is to be different.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// Weights as the catalogue has them, of any sum. Tasks that are not named keep theirs.
    pub weights: Vec<(TaskId, f64)>,
    /// Other rules than the configured ones.
    pub rules: Option<Rules>,
    /// Constants of the rules by name.
    pub constants: Vec<(String, f64)>,
    /// The mechanism whose weights are compared; otherwise that of the first task whose weight changes, or the first one.
    pub mechanism: Option<MechanismId>,
}

/// Why there is nothing to compare, or it cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    #[error(transparent)]
    NoStore(#[from] ExplainError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no evidence yet: no scoring period has ended; come back after the first")]
    NoEvidence,
    #[error("the catalogue has no task `{task}`; it has {}", listed(.known))]
    UnknownTask { task: TaskId, known: Vec<TaskId> },
    #[error(
        "the task `{0}` is not enabled in the catalogue, so its weight is of no effect; enable it there first"
    )]
    Disabled(TaskId),
    #[error("the weight of `{task}` must be between 0 and 10^9, is {weight}")]
    BadWeight { task: TaskId, weight: f64 },
    #[error("no enabled task of the catalogue counts for mechanism {0}")]
    UnknownMechanism(MechanismId),
    #[error("the weights of all enabled tasks would be 0: there would be nothing to score")]
    AllZero,
    #[error(transparent)]
    Constant(#[from] WrongSetting),
    #[error("nothing to write: `--write` stores the weights that `--set` gives")]
    NothingToWrite,
    #[error("the weights were not written")]
    Edit(#[from] tasks::edit::EditError),
}

fn listed(tasks: &[TaskId]) -> String {
    let names: Vec<_> = tasks.iter().map(|task| format!("`{task}`")).collect();
    names.join(", ")
}

impl Changes {
    /// The rules with the changes.
    ///
    /// # Errors
    /// If there is no such constant, or it cannot have this value.
    fn rules(&self, config: &Config) -> Result<Rules, WrongSetting> {
        let rules = self.rules.unwrap_or(config.rules);
        self.constants.iter().try_fold(rules, |rules, (key, value)| rules.with(key, *value))
    }

    /// The mechanism whose weights are compared.
    fn mechanism(&self, catalogue: &Catalogue) -> Result<MechanismId, TuneError> {
        let known = catalogue.mechanisms();
        let of_change = self.weights.iter().find_map(|(task, _)| catalogue.task(task));
        let first = || known.keys().next().copied().unwrap_or_default();
        let mechanism =
            self.mechanism.or(of_change.map(|task| task.mechanism)).unwrap_or_else(first);
        if known.contains_key(&mechanism) {
            Ok(mechanism)
        } else {
            Err(TuneError::UnknownMechanism(mechanism))
        }
    }

    /// The weights of all enabled tasks as a catalogue has them, with the changes.
    fn raw_weights(&self, catalogue: &Catalogue) -> Result<BTreeMap<TaskId, f64>, TuneError> {
        let mut weights: BTreeMap<TaskId, f64> =
            catalogue.enabled().map(|(task, _)| (task.id.clone(), task.weight)).collect();
        for (task, weight) in &self.weights {
            if catalogue.task(task).is_none() {
                let known = catalogue.tasks().iter().map(|task| task.id.clone()).collect();
                return Err(TuneError::UnknownTask { task: task.clone(), known });
            }
            if !(0.0..=MAX_WEIGHT).contains(weight) {
                return Err(TuneError::BadWeight { task: task.clone(), weight: *weight });
            }
            match weights.get_mut(task) {
                Some(old) => *old = *weight,
                None => return Err(TuneError::Disabled(task.clone())),
            }
        }
        if weights.values().sum::<f64>() > 0.0 { Ok(weights) } else { Err(TuneError::AllZero) }
    }
}

/// Compares the weights by the configured rules and weightings with those that the changes make, both computed from the
/// evidence that the configured store has. A validator may be using it at the same time.
///
/// # Errors
/// If a change names something that does not exist or cannot be, or there is no evidence.
pub async fn tune(config: &Config, changes: &Changes) -> Result<Tuning, TuneError> {
    let rules = changes.rules(config)?;
    let raw = changes.raw_weights(&config.catalogue)?;
    let mechanism = changes.mechanism(&config.catalogue)?;
    let store = open(&config.store).await?;
    let tuned = from_store(&store, config, rules, raw, mechanism).await;
    store.close().await;
    tuned
}

async fn from_store(
    store: &Store,
    config: &Config,
    rules: Rules,
    raw: BTreeMap<TaskId, f64>,
    mechanism: MechanismId,
) -> Result<Tuning, TuneError> {
    // As if the newest period had just ended, so that evidence does not fade while the validator stands still.
    let newest = store.periods(0).await?.into_iter().max_by_key(|span| span.at_ms);
    let newest = newest.ok_or(TuneError::NoEvidence)?;
    let now_ms = newest.at_ms;
    let declared = store.newest_declared().await?;
    if declared.is_empty() {
        return Err(TuneError::NoEvidence);
    }
    let period = period_of(config.period, newest.seconds);
    let moment = Moment { now_ms, period, retention: config.retention };
    let mut scored: Vec<Scores<Hotkey>> = Vec::new();
    let sum: f64 = raw.values().sum();
    let proposed: BTreeMap<TaskId, f64> =
        raw.iter().map(|(task, weight)| (task.clone(), weight / sum)).collect();
    for (rules, tasks) in [(&config.rules, config.catalogue.weights()), (&rules, &proposed)] {
        let (scorer, summaries) = summaries(store, rules, &moment, &declared).await?;
        let scores = scorer.weights(tasks, &summaries);
        let counts = |task: &TaskId| {
            config.catalogue.task(task).is_some_and(|task| task.mechanism == mechanism)
        };
        scored.push(scores.of_tasks(counts));
    }
    let in_force = store.last_scoring().await?.map(|scoring| scoring.tasks);
    let uids: BTreeMap<Hotkey, Uid> = store
        .last_weights_of(mechanism)
        .await?
        .map(|set| set.weights.into_iter().map(|(uid, hotkey, _)| (hotkey, uid)).collect())
        .unwrap_or_default();
    let [old, new] = scored.as_slice() else { return Err(TuneError::NoEvidence) };
    let proposal = Proposal { config, mechanism, rules, raw, weightings: proposed, in_force };
    Ok(compare(now_ms, &proposal, old, new, &uids))
}

/// The length of the periods that the evidence is of: the configured one, unless the store is another validator's.
fn period_of(configured: Duration, newest_s: f64) -> Duration {
    let off = newest_s / configured.as_secs_f64() - 1.0;
    // Periods end when they can, not to the millisecond.
    if off.abs() < 0.05 {
        configured
    } else {
        Duration::try_from_secs_f64(newest_s).unwrap_or(configured)
    }
}

/// Stores the weights that were set into the catalogue's file. Returns which file.
///
/// # Errors
/// If none were set, or the file cannot be changed; it is as before then.
pub fn write(config: &Config, changes: &Changes) -> Result<PathBuf, TuneError> {
    if changes.weights.is_empty() {
        return Err(TuneError::NothingToWrite);
    }
    let path = &config.weightings.catalogue;
    tasks::edit::set_weights(path, &changes.weights.iter().cloned().collect())?;
    Ok(path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_of_other_periods_than_the_configured_ones_is_taken_for_what_it_is() {
        let half_an_hour = Duration::from_secs(1_800);
        assert_eq!(period_of(half_an_hour, 1_800.2), half_an_hour);
        assert_eq!(period_of(half_an_hour, 20.0), Duration::from_secs(20));
        assert_eq!(period_of(half_an_hour, f64::NAN), half_an_hour);
    }
}
