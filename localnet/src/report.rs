//! The result of a run, miner by miner.

use std::collections::{BTreeMap, BTreeSet};

use common::{Hotkey, Uid};
use serde::Serialize;
use validator::status::Status;

/// What `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub miners: Vec<MinerReport>,
    /// From the start of the program to the first confirmed weights; `None` if there were none.
    pub seconds_to_weights: Option<f64>,
}

/// One miner over all its tasks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MinerReport {
    pub hotkey: Hotkey,
    pub uid: Uid,
    /// Whether it serves what it claims.
    pub honest: bool,
    /// Mean over its tasks; `None` if nothing was checked.
    pub quality: Option<f64>,
    /// Tokens per second, mean over its tasks.
    pub speed: Option<f64>,
    /// Over all miners these sum to 1.
    pub score: f64,
    /// Share of the weights on chain; over all miners these sum to 1.
    pub weight: f64,
}

impl Report {
    /// Sums up the validator's view.
    pub fn new(
        status: &Status,
        cheats: &BTreeSet<Hotkey>,
        seconds_to_weights: Option<f64>,
    ) -> Self {
        let mut rows: BTreeMap<(Uid, Hotkey), Vec<_>> = BTreeMap::new();
        for row in &status.rows {
            rows.entry((row.uid, row.hotkey)).or_default().push(row);
        }
        let miners = rows
            .into_iter()
            .map(|((uid, hotkey), tasks)| MinerReport {
                hotkey,
                uid,
                honest: !cheats.contains(&hotkey),
                quality: mean(tasks.iter().filter_map(|task| task.quality)),
                speed: mean(tasks.iter().filter_map(|task| task.speed)),
                score: tasks.iter().filter_map(|task| task.score).sum(),
                // The same in each of its rows: weights are per miner.
                weight: tasks.iter().find_map(|task| task.weight).unwrap_or(0.0),
            })
            .collect();
        Self { miners, seconds_to_weights }
    }

    /// One line per miner under a heading.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:>4}  {:<50} {:<8} {:>8} {:>9} {:>8} {:>8}\n",
            "uid", "hotkey", "", "quality", "tokens/s", "score", "weight"
        );
        for miner in &self.miners {
            let shown = |value: Option<f64>, decimals: usize| {
                value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
            };
            table.push_str(&format!(
                "{:>4}  {:<50} {:<8} {:>8} {:>9} {:>8.4} {:>8.4}\n",
                miner.uid,
                miner.hotkey.to_string(),
                if miner.honest { "honest" } else { "cheats" },
                shown(miner.quality, 3),
                shown(miner.speed, 1),
                miner.score,
                miner.weight,
            ));
        }
        table
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::MechanismId;
    use validator::status::{Counts, StatusRow};

    #[test]
    fn a_miners_tasks_become_one_line_and_its_weight_counts_once() {
        let row = |task: &str, quality, score| StatusRow {
            uid: Uid(2),
            hotkey: Hotkey::from_bytes([1; 32]),
            task: task.parse().unwrap(),
            mechanism: MechanismId(0),
            running: Counts::default(),
            finished: None,
            quality,
            speed: None,
            score: Some(score),
            weight: Some(0.75),
        };
        let status = Status {
            block: None,
            period_ends_in_s: None,
            checks_waiting: 0,
            weights_block: None,
            weights: Vec::new(),
            rows: vec![row("a", Some(1.0), 0.5), row("b", Some(0.5), 0.25)],
        };
        let report =
            Report::new(&status, &BTreeSet::from([Hotkey::from_bytes([1; 32])]), Some(1.5));
        let expected = MinerReport {
            hotkey: Hotkey::from_bytes([1; 32]),
            uid: Uid(2),
            honest: false,
            quality: Some(0.75),
            speed: None,
            score: 0.75,
            weight: 0.75,
        };
        assert_eq!(report.miners, [expected]);
    }
}
