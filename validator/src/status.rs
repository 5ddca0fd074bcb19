//! What the validator knows of every miner, as a table for people and as JSON for programs.

use common::{BlockNumber, Hotkey, MechanismId, TaskId, Uid};
use serde::{Deserialize, Serialize};

use crate::weights::Committed;

/// The answer to `GET /v1/network/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Newest finalized block that the validator has seen.
    pub block: Option<BlockNumber>,
    /// Seconds until the running scoring period ends.
    pub period_ends_in_s: Option<f64>,
    /// Answers that wait for a checking server.
    pub checks_waiting: u32,
    /// Block of the weights that the chain confirmed last.
    pub weights_block: Option<BlockNumber>,
    /// How far the weights of each mechanism have come.
    pub weights: Vec<WeightsStatus>,
    pub rows: Vec<StatusRow>,
}

/// The weights of one mechanism.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightsStatus {
    pub mechanism: MechanismId,
    /// Block of the newest weights that the chain is known to hold.
    pub in_force_since: Option<BlockNumber>,
    /// The newest commit that waits for its reveal.
    pub committed: Option<Committed>,
    /// Why the last weights had no effect, until some have.
    pub trouble: Option<String>,
}

/// One miner and one of its tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusRow {
    pub uid: Uid,
    pub hotkey: Hotkey,
    pub task: TaskId,
    /// The mechanism whose weights the task counts for.
    pub mechanism: MechanismId,
    /// The running period.
    pub running: Counts,
    /// The period that the scores were computed from, if one is over.
    pub finished: Option<Counts>,
    /// Mean quality of the checked answers, `0.0..=1.0`.
    pub quality: Option<f64>,
    /// Tokens per second, quality counted in.
    pub speed: Option<f64>,
    /// This task's part of the miner's score; over all miners and tasks these sum to 1.
    pub score: Option<f64>,
    /// The miner's share of the weights that this validator has on chain for the mechanism.
    pub weight: Option<f64>,
}

/// What was asked and what came of it, in one period.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Work declared for the period, in the task's unit.
    pub declared: f64,
    /// Work done.
    pub used: f64,
    pub answered: u32,
    pub refused: u32,
    pub failed: u32,
}

/// Which period a table shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Running,
    Finished,
}

impl Status {
    /// One line per miner and task under a heading, for terminals of 80 columns.
    pub fn table(&self, shown: Shown) -> String {
        let mut table = line(
            ["uid", "hotkey", "task", "used/declared", "ans/ref/fail"].map(str::to_owned),
            ["quality", "tok/s", "score", "weight"].map(str::to_owned),
        );
        for row in &self.rows {
            let counts = match shown {
                Shown::Running => row.running,
                Shown::Finished => row.finished.unwrap_or(row.running),
            };
            let hotkey: String = row.hotkey.to_string().chars().take(5).collect();
            table.push_str(&line(
                [
                    row.uid.to_string(),
                    format!("{hotkey}…"),
                    row.task.to_string(),
                    format!("{:.0}/{:.0}", counts.used, counts.declared),
                    format!("{}/{}/{}", counts.answered, counts.refused, counts.failed),
                ],
                [
                    number(row.quality, 3),
                    number(row.speed, 0),
                    number(row.score, 4),
                    number(row.weight, 4),
                ],
            ));
        }
        for weights in &self.weights {
            table.push_str(&weights.line());
        }
        table
    }
}

impl WeightsStatus {
    /// A sentence on a line of its own; the mechanism is named where it is not the only one that a subnet must have.
    fn line(&self) -> String {
        let of = match self.mechanism {
            MechanismId(0) => String::new(),
            mechanism => format!(" of mechanism {mechanism}"),
        };
        let mut parts = Vec::new();
        parts.extend(self.in_force_since.map(|block| format!("on chain since block {block}")));
        parts.extend(self.committed.map(|commit| {
            format!(
                "committed in block {}, revealed from block {}",
                commit.block, commit.revealed_from
            )
        }));
        if parts.is_empty() {
            parts.push("not set yet".to_owned());
        }
        let trouble = self.trouble.iter().map(|why| format!("weights{of}, trouble: {why}\n"));
        format!("weights{of}: {}\n", parts.join("; ")) + &trouble.collect::<String>()
    }
}

fn line(who: [String; 5], how: [String; 4]) -> String {
    let [uid, hotkey, task, volume, counts] = who;
    let [quality, speed, score, weight] = how;
    format!(
        "{uid:>3} {hotkey:<6} {task:<13} {volume:>13} {counts:>12} {quality:>7} {speed:>6} {score:>6} {weight:>6}\n"
    )
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_what_is_unknown_is_a_dash() {
        let counts = Counts { declared: 20_000.0, used: 512.0, answered: 9, refused: 1, failed: 0 };
        let row = StatusRow {
            uid: Uid(3),
            hotkey: Hotkey::from_bytes([7; 32]),
            task: "chat-demo".parse().unwrap(),
            mechanism: MechanismId(0),
            running: Counts::default(),
            finished: Some(counts),
            quality: Some(0.98765),
            speed: None,
            score: Some(0.25),
            weight: None,
        };
        let status = Status {
            block: None,
            period_ends_in_s: None,
            checks_waiting: 0,
            weights_block: None,
            weights: Vec::new(),
            rows: vec![row],
        };
        let table = status.table(Shown::Finished);
        let widths: Vec<_> = table.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths[0], widths[1], "{table}");
        assert!(widths[0] <= 80, "{table}");
        for cell in ["512/20000", "9/1/0", "0.988", "0.2500", "–"] {
            assert!(table.contains(cell), "{cell} is missing in\n{table}");
        }
        assert!(!status.table(Shown::Running).contains("20000"));
    }

    #[test]
    fn committed_weights_are_told_with_the_block_of_their_reveal() {
        let weights = WeightsStatus {
            mechanism: MechanismId(0),
            in_force_since: Some(BlockNumber(7)),
            committed: Some(Committed {
                block: BlockNumber(9),
                revealed_from: BlockNumber(12),
                revealed_until: BlockNumber(15),
            }),
            trouble: None,
        };
        let line =
            "weights: on chain since block 7; committed in block 9, revealed from block 12\n";
        assert_eq!(weights.line(), line);
        let trouble = Some("the chain dropped them".to_owned());
        let mechanism = MechanismId(1);
        let none = WeightsStatus { mechanism, in_force_since: None, committed: None, trouble };
        assert_eq!(
            none.line(),
            "weights of mechanism 1: not set yet\nweights of mechanism 1, trouble: the chain dropped them\n"
        );
    }
}
