//! Two scorings of the same evidence, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use common::{Hotkey, MechanismId, TaskId, Uid};
use serde::Serialize;
use serde_json::Value;

use crate::config::Config;
use crate::scoring::{Preset, Rules, Scores};

/// The difference that changes make. Times are Unix milliseconds; weights are parts of 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tuning {
    /// The mechanism whose weights are compared, and all that have enabled tasks.
    pub mechanism: MechanismId,
    pub mechanisms: Vec<MechanismId>,
    /// The end of the newest period of the evidence.
    pub evidence_until_ms: i64,
    /// Where the weightings are written.
    pub catalogue: PathBuf,
    /// What the new weights of the mechanism's tasks sum up to before they are normalised.
    pub weights_sum: f64,
    pub tasks: Vec<TaskChange>,
    pub preset: (Preset, Preset),
    pub constants: Vec<ConstantChange>,
    /// The largest new weight first.
    pub miners: Vec<MinerChange>,
    pub totals: Totals,
    /// What to know about these numbers.
    pub notes: Vec<String>,
}

/// One enabled task of the mechanism.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskChange {
    pub task: TaskId,
    /// As in the catalogue.
    pub weight: (f64, f64),
    /// Normalised: over the mechanism's tasks these sum to 1.
    pub weighting: (f64, f64),
}

/// One constant whose value changes, or that only one of the two sets of rules has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConstantChange {
    pub key: String,
    pub old: Option<f64>,
    pub new: Option<f64>,
}

/// One miner.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MinerChange {
    /// Absent for those without a weight on chain.
    pub uid: Option<Uid>,
    pub hotkey: Hotkey,
    pub old: f64,
    pub new: f64,
    /// `new - old`.
    pub change: f64,
    /// `change / old`; absent if the old weight is 0.
    pub relative: Option<f64>,
}

/// All miners together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Totals {
    pub gaining: usize,
    pub losing: usize,
    pub unchanged: usize,
    /// The part of all weight that changes hands.
    pub moved: f64,
    pub loses_most: Option<Hotkey>,
    pub gains_most: Option<Hotkey>,
}

/// What is compared with what the configuration has.
#[derive(Debug)]
pub(super) struct Proposal<'a> {
    pub config: &'a Config,
    pub mechanism: MechanismId,
    pub rules: Rules,
    /// As the catalogue would have them.
    pub raw: BTreeMap<TaskId, f64>,
    /// Normalised.
    pub weightings: BTreeMap<TaskId, f64>,
    /// Those of the newest scoring.
    pub in_force: Option<BTreeMap<TaskId, f64>>,
}

/// Less than this is rounding.
const NOTHING: f64 = 1e-12;

pub(super) fn compare(
    evidence_until_ms: i64,
    proposal: &Proposal<'_>,
    old: &Scores<Hotkey>,
    new: &Scores<Hotkey>,
    uids: &BTreeMap<Hotkey, Uid>,
) -> Tuning {
    let Proposal { config, mechanism, rules, raw, weightings, .. } = proposal;
    let miners = miners(old, new, uids);
    let own = || config.catalogue.enabled().filter(|(task, _)| task.mechanism == *mechanism);
    let new_weighting = |task: &TaskId| weightings.get(task).copied().unwrap_or(0.0);
    let all: (f64, f64) = own().fold((0.0, 0.0), |(old, new), (task, weighting)| {
        (old + weighting, new + new_weighting(&task.id))
    });
    let part = |of: f64, all: f64| if all > 0.0 { of / all } else { 0.0 };
    let tasks = own().map(|(task, weighting)| TaskChange {
        task: task.id.clone(),
        weight: (task.weight, raw.get(&task.id).copied().unwrap_or(task.weight)),
        weighting: (part(weighting, all.0), part(new_weighting(&task.id), all.1)),
    });
    let tasks: Vec<_> = tasks.collect();
    Tuning {
        mechanism: *mechanism,
        mechanisms: config.catalogue.mechanisms().into_keys().collect(),
        evidence_until_ms,
        catalogue: config.weightings.catalogue.clone(),
        weights_sum: tasks.iter().map(|task| task.weight.1).sum(),
        tasks,
        preset: (config.rules.preset(), rules.preset()),
        constants: constants(&config.rules, rules),
        totals: totals(&miners),
        miners,
        notes: notes(proposal),
    }
}

fn miners(
    old: &Scores<Hotkey>,
    new: &Scores<Hotkey>,
    uids: &BTreeMap<Hotkey, Uid>,
) -> Vec<MinerChange> {
    let weight = |scores: &Scores<Hotkey>, hotkey: &Hotkey| {
        scores.miners.get(hotkey).map_or(0.0, |miner| miner.weight.get())
    };
    let hotkeys: BTreeSet<Hotkey> = old.miners.keys().chain(new.miners.keys()).copied().collect();
    let mut miners: Vec<_> = hotkeys
        .into_iter()
        .map(|hotkey| {
            let (old, new) = (weight(old, &hotkey), weight(new, &hotkey));
            let change = new - old;
            let relative = (old > 0.0).then(|| change / old);
            MinerChange { uid: uids.get(&hotkey).copied(), hotkey, old, new, change, relative }
        })
        .collect();
    miners.sort_by(|a, b| b.new.total_cmp(&a.new).then(b.old.total_cmp(&a.old)));
    miners
}

fn totals(miners: &[MinerChange]) -> Totals {
    let gaining = || miners.iter().filter(|miner| miner.change > NOTHING);
    let losing = || miners.iter().filter(|miner| miner.change < -NOTHING);
    let most = |a: &&MinerChange, b: &&MinerChange| a.change.abs().total_cmp(&b.change.abs());
    Totals {
        gaining: gaining().count(),
        losing: losing().count(),
        unchanged: miners.len() - gaining().count() - losing().count(),
        moved: gaining().map(|miner| miner.change).sum(),
        loses_most: losing().max_by(most).map(|miner| miner.hotkey),
        gains_most: gaining().max_by(most).map(|miner| miner.hotkey),
    }
}

fn constants(old: &Rules, new: &Rules) -> Vec<ConstantChange> {
    let (old, new) = (by_name(old), by_name(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changes = keys.into_iter().map(|key| ConstantChange {
        key: key.clone(),
        old: old.get(key).copied(),
        new: new.get(key).copied(),
    });
    changes.filter(|change| change.old != change.new).collect()
}

fn by_name(rules: &Rules) -> BTreeMap<String, f64> {
    let json = match rules {
        Rules::Touchstone(parameters) => serde_json::to_value(parameters),
        Rules::Subnet19(parameters) => serde_json::to_value(parameters),
    };
    let Ok(Value::Object(constants)) = json else { return BTreeMap::new() };
    constants.into_iter().filter_map(|(key, value)| Some((key, value.as_f64()?))).collect()
}

fn notes(proposal: &Proposal<'_>) -> Vec<String> {
    let Proposal { config, rules, in_force, .. } = proposal;
    let mut notes = Vec::new();
    if config.weightings.vote {
        notes.push(
            "Weightings are voted by stake: those of the catalogue are this validator's vote, and the mean of all votes is \
             used. The old ones here are this validator's own."
                .to_owned(),
        );
    } else if in_force.as_ref().is_some_and(|tasks| tasks != config.catalogue.weights()) {
        notes.push(
            "The catalogue's weightings are not those of the newest scoring; the old ones here are the catalogue's."
                .to_owned(),
        );
    }
    let speed_percentile = rules.speed_percentile() != config.rules.speed_percentile();
    if rules.preset() == Preset::Touchstone && speed_percentile {
        notes.push(
            "`speed_percentile` counts here only between stretches of time; within each, speeds are kept by the old one."
                .to_owned(),
        );
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::{MinerScore, Score};

    fn key(name: u8) -> Hotkey {
        Hotkey::from_bytes([name; 32])
    }

    fn scores(weights: &[(u8, f64)]) -> Scores<Hotkey> {
        let miner = |&(name, weight): &(u8, f64)| {
            (key(name), MinerScore { weight: Score::clamped(weight), ..MinerScore::default() })
        };
        Scores { miners: weights.iter().map(miner).collect() }
    }

    #[test]
    fn the_largest_new_weight_is_first_and_who_loses_most_is_named() {
        let old = scores(&[(1, 0.5), (2, 0.3), (3, 0.2), (4, 0.0)]);
        let new = scores(&[(1, 0.2), (2, 0.5), (3, 0.2), (4, 0.1)]);
        let miners = miners(&old, &new, &BTreeMap::from([(key(2), Uid(7))]));
        let order: Vec<_> = miners.iter().map(|miner| miner.hotkey.as_bytes()[0]).collect();
        assert_eq!(order, [2, 1, 3, 4]);
        assert_eq!((miners[0].uid, miners[1].uid), (Some(Uid(7)), None));
        assert!((miners[1].relative.unwrap() + 0.6).abs() < 1e-12);
        assert_eq!(miners[3].relative, None);
        let totals = totals(&miners);
        assert_eq!((totals.gaining, totals.losing, totals.unchanged), (2, 1, 1));
        assert!((totals.moved - 0.3).abs() < 1e-12);
        assert_eq!((totals.loses_most, totals.gains_most), (Some(key(1)), Some(key(2))));
    }

    #[test]
    fn only_constants_that_change_are_listed() {
        let rules = Rules::default();
        assert_eq!(constants(&rules, &rules), Vec::new());
        let changes = constants(&rules, &rules.with("speed_bonus", 0.2).unwrap());
        let change =
            ConstantChange { key: "speed_bonus".to_owned(), old: Some(0.5), new: Some(0.2) };
        assert_eq!(changes, [change]);
        let other = constants(&rules, &Rules::of(Preset::Subnet19));
        let added = other.iter().find(|change| change.key == "period_decay").unwrap();
        assert_eq!((added.old, added.new), (None, Some(0.5)));
    }
}
