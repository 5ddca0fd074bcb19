//! Submissions for people, in at most 120 columns.

use std::fmt::Write as _;

use chain::Stage;

use super::dry_run::{DryRun, OfMechanism, Outcome};
use super::{Foreseen, Submitted};
use crate::explain::utc;

/// Columns of the longest line.
const WIDTH: usize = 120;
/// Columns before a result.
const RESULT: usize = 47;
/// Weights that are listed of a submission.
const WEIGHTS: usize = 256;

/// The list, newest first, as it was read.
pub(super) fn list(submitted: &[Submitted]) -> String {
    if submitted.is_empty() {
        return "Nothing was submitted yet.\n".to_owned();
    }
    let mut text =
        format!("{:<20} {:>4}  {:<10} {:>8}  RESULT\n", "SUBMITTED (UTC)", "MECH", "WAY", "BLOCK");
    for one in submitted {
        let block = match one.result {
            Stage::InForce { block } => one.commit_block.or(Some(block)),
            _ => one.commit_block,
        };
        let head = format!(
            "{:<20} {:>4}  {:<10} {:>8}  ",
            utc(one.at_ms),
            one.mechanism.to_string(),
            one.way.to_string(),
            block.map_or_else(|| "-".to_owned(), |block| block.to_string()),
        );
        wrap(&mut text, &head, RESULT, &one.sentence());
    }
    text
}

impl Submitted {
    /// What became of it.
    fn sentence(&self) -> String {
        let weights = self.weights.len();
        match &self.result {
            Stage::Sent => {
                let why = self.error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                format!("what became of its {weights} weights is not known yet{why}")
            }
            Stage::Committed { .. } => {
                let when = self.reveal.as_ref().map(Foreseen::sentence).unwrap_or_default();
                let why = self.error.as_ref().map(|why| format!("; last trouble: {why}"));
                format!("{weights} weights committed; revealed {when}{}", why.unwrap_or_default())
            }
            Stage::InForce { block } if self.commit_block.is_some() => {
                format!("{weights} weights revealed; on chain since block {block}")
            }
            Stage::InForce { .. } => format!("{weights} weights on chain"),
            Stage::Failed { why } => format!("NO EFFECT: {why}"),
        }
    }
}

impl Foreseen {
    fn sentence(&self) -> String {
        let Self { epoch, first_block, last_block, about_ms, .. } = self;
        let about = utc(*about_ms);
        format!("in epoch {epoch}, from block {first_block} to {last_block}, about {about} UTC")
    }
}

impl DryRun {
    /// For a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let head = format!(
            "Weights of {} on subnet {} by scoring {} of {} UTC. Nothing is sent.",
            self.hotkey,
            self.netuid,
            self.scoring,
            utc(self.scored_ms)
        );
        wrap(&mut text, "", 0, &head);
        for mechanism in &self.mechanisms {
            let written = mechanism.write(&mut text);
            debug_assert!(written.is_ok(), "writing into a string does not fail");
        }
        text
    }

    /// As JSON, for programs.
    ///
    /// # Errors
    /// If a number in it has no place in JSON.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

impl OfMechanism {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nMECHANISM {}", self.mechanism)?;
        let tasks: Vec<_> = self.tasks.iter().map(ToString::to_string).collect();
        wrap(out, "  tasks: ", 9, &tasks.join(", "));
        match &self.outcome {
            Outcome::Waits { why, allowed_from, about_ms } => {
                wrap(out, "  would not be sent: ", 4, why);
                if let (Some(block), Some(ms)) = (allowed_from, about_ms) {
                    writeln!(out, "  again from block {block}, about {} UTC", utc(*ms))?;
                }
            }
            Outcome::Sends { at_block, way, call, version_key, reveal, weights } => {
                writeln!(
                    out,
                    "  would be sent now, after block {at_block}: {way}, by `{call}`, version key {version_key}"
                )?;
                if let Some(reveal) = reveal {
                    writeln!(out, "  revealed {}", reveal.sentence())?;
                    if let Some(round) = reveal.round {
                        writeln!(out, "  sealed to round {round} of the beacon")?;
                    }
                }
                writeln!(out, "  {:>5} {:<48} {:>6}", "uid", "hotkey", "weight")?;
                for one in weights.iter().take(WEIGHTS) {
                    let (uid, hotkey) = (one.uid.to_string(), one.hotkey.to_string());
                    writeln!(out, "  {uid:>5} {hotkey:<48} {:>6}", one.weight)?;
                }
                if weights.len() > WEIGHTS {
                    writeln!(out, "  and {} more, see --json", weights.len() - WEIGHTS)?;
                }
            }
        }
        Ok(())
    }
}

/// Writes words after what is in the first line already, and goes on below `indent` columns of nothing.
fn wrap(out: &mut String, first: &str, indent: usize, words: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in words.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        // It may quote what a node sent.
        line.extend(word.chars().filter(|letter| !letter.is_control()));
        empty = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use chain::{Failure, Way};
    use common::{BlockNumber, Hotkey, MechanismId, Uid};

    use super::*;
    use crate::submitted::NamedWeight;

    fn submitted(way: Way, result: Stage) -> Submitted {
        let reveal = Foreseen {
            epoch: 34,
            first_block: BlockNumber(5_123_456),
            last_block: BlockNumber(5_123_815),
            about_ms: 1_795_212_604_000,
            round: None,
        };
        Submitted {
            id: 1,
            at_ms: 1_795_210_000_000,
            mechanism: MechanismId(0),
            way,
            version_key: 0,
            result,
            commit_block: (way != Way::Plain).then_some(BlockNumber(5_123_100)),
            reveal: (way != Way::Plain).then_some(reveal),
            extrinsic: None,
            error: None,
            scoring: Some(3),
            weights: vec![NamedWeight {
                uid: Uid(3),
                hotkey: Hotkey::from_bytes([7; 32]),
                weight: u16::MAX,
            }],
        }
    }

    #[test]
    fn each_submission_says_what_became_of_it_within_the_columns() {
        let committed = Stage::Committed { block: BlockNumber(5_123_100), epoch: 33 };
        let reason = "at that time: the hotkey has no validator permit: it is given to the neurons with the most stake";
        let dropped = Stage::Failed { why: Failure::Dropped { reason: reason.to_owned() } };
        let in_force = Stage::InForce { block: BlockNumber(5_123_460) };
        let text = list(&[
            submitted(Way::Timelocked, committed),
            submitted(Way::Hashed, dropped),
            submitted(Way::Timelocked, in_force.clone()),
            submitted(Way::Plain, in_force),
            submitted(Way::Plain, Stage::Sent),
        ]);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
        }
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "in epoch 34, from block 5123456 to 5123815, about 2026-11-20 22:10:04 UTC",
            "NO EFFECT: the chain took the commit but dropped it at the reveal",
            "no validator permit",
            "5123100 1 weights revealed; on chain since block 5123460",
            "plain 5123460 1 weights on chain",
            "is not known yet",
        ] {
            assert!(flat.contains(part), "{part} is missing in\n{text}");
        }
        assert_eq!(list(&[]), "Nothing was submitted yet.\n");
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let committed = Stage::Committed { block: BlockNumber(1), epoch: 33 };
        let one = submitted(Way::Timelocked, committed);
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Submitted>(&json).unwrap(), one);
    }

    #[test]
    fn a_dry_run_fits_the_columns() {
        let hotkey = Hotkey::from_bytes([7; 32]);
        let weight = NamedWeight { uid: Uid(3), hotkey, weight: 9 };
        let of = |mechanism, outcome| OfMechanism {
            mechanism: MechanismId(mechanism),
            tasks: std::iter::once("chat-demo".parse().unwrap()).collect(),
            outcome,
        };
        let run = DryRun {
            netuid: common::Netuid(19),
            hotkey,
            scoring: 12_345,
            scored_ms: 1_795_210_000_000,
            mechanisms: vec![
                of(
                    0,
                    Outcome::Sends {
                        at_block: BlockNumber(5_123_100),
                        way: Way::Timelocked,
                        call: "commit_timelocked_mechanism_weights".to_owned(),
                        version_key: 1_000,
                        reveal: submitted(Way::Timelocked, Stage::Sent).reveal,
                        weights: vec![weight; 300],
                    },
                ),
                of(
                    1,
                    Outcome::Waits {
                        why: "weights were set or committed in block 5123000".to_owned(),
                        allowed_from: Some(BlockNumber(5_123_200)),
                        about_ms: Some(1_795_212_604_000),
                    },
                ),
            ],
        };
        let text = run.text();
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        for part in ["and 44 more", "MECHANISM 1", "again from block 5123200, about 2026"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let read: DryRun = serde_json::from_str(&run.json().unwrap()).unwrap();
        assert_eq!(read, run);
    }
}
