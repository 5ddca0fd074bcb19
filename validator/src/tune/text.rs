//! The difference for people, in at most 96 columns.

use std::fmt::Write as _;

use super::{MinerChange, Tuning};
use crate::explain::{number, utc};

impl Tuning {
    /// For a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let shown = self.write(&mut text);
        debug_assert!(shown.is_ok(), "writing into a string does not fail");
        text
    }

    /// As JSON, for programs.
    ///
    /// # Errors
    /// If a number in it has no place in JSON.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// The lines of the configuration that have the new constants; empty if there are none.
    pub fn configuration(&self) -> String {
        let (old, new) = self.preset;
        let mut lines = String::new();
        if old != new {
            lines.push_str(&format!("[scoring]\npreset = \"{new}\"\n"));
        }
        let mut changed = self.constants.iter().filter_map(|change| {
            let value = change.new?;
            Some(format!("{} = {value}\n", change.key))
        });
        if let Some(first) = changed.next() {
            lines.push_str(&format!("[scoring.{new}]\n{first}"));
            lines.extend(changed);
        }
        lines
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "Evidence until {} UTC; {} miners.",
            utc(self.evidence_until_ms),
            self.miners.len()
        )?;
        if self.mechanisms.iter().any(|mechanism| mechanism.0 > 0) {
            let all: Vec<_> = self.mechanisms.iter().map(ToString::to_string).collect();
            writeln!(
                out,
                "Mechanism {} of {}; each has weights of its own, see --mechanism.",
                self.mechanism,
                all.join(", ")
            )?;
        }
        self.write_tasks(out)?;
        self.write_constants(out)?;
        self.write_miners(out)?;
        self.write_totals(out)?;
        self.notes.iter().try_for_each(|note| writeln!(out, "Note: {note}"))
    }

    fn write_tasks(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nTASK WEIGHTINGS")?;
        writeln!(
            out,
            "  {:<34} {:>10} {:>10}   {:>9} {:>9}",
            "task", "weight old", "new", "part old", "new"
        )?;
        for task in &self.tasks {
            let mark = if task.weight.0 == task.weight.1 { " " } else { "*" };
            writeln!(
                out,
                "{mark} {:<34} {:>10} {:>10}   {:>7.2} % {:>7.2} %",
                task.task.as_str(),
                number(task.weight.0),
                number(task.weight.1),
                task.weighting.0 * 100.0,
                task.weighting.1 * 100.0,
            )?;
        }
        if (self.weights_sum - 1.0).abs() > 1e-9 {
            writeln!(
                out,
                "  The new weights sum to {}; as parts they are normalised to 100 %.",
                number(self.weights_sum)
            )?;
        }
        Ok(())
    }

    fn write_constants(&self, out: &mut String) -> std::fmt::Result {
        let (old, new) = self.preset;
        if old == new {
            writeln!(out, "\nCONSTANTS of the preset `{old}`")?;
        } else {
            writeln!(out, "\nCONSTANTS: preset `{old}` -> `{new}`")?;
        }
        if self.constants.is_empty() {
            writeln!(out, "  unchanged")?;
        }
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
        for change in &self.constants {
            writeln!(
                out,
                "  {:<22} {:>10} -> {}",
                change.key,
                shown(change.old),
                shown(change.new)
            )?;
        }
        Ok(())
    }

    fn write_miners(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nWEIGHTS, in per cent of all")?;
        writeln!(
            out,
            "  {:>4} {:<48} {:>8} {:>8} {:>8} {:>9}",
            "uid", "hotkey", "old", "new", "change", "relative"
        )?;
        for miner in &self.miners {
            let MinerChange { uid, hotkey, old, new, change, relative } = miner;
            writeln!(
                out,
                "  {:>4} {:<48} {:>8.3} {:>8.3} {:>8} {:>9}",
                uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
                hotkey.to_string(),
                old * 100.0,
                new * 100.0,
                signed(change * 100.0, 3),
                match relative {
                    Some(relative) => format!("{} %", signed(relative * 100.0, 1)),
                    None if *new > 0.0 => "new".to_owned(),
                    None => "-".to_owned(),
                }
            )?;
        }
        let sum =
            |weight: fn(&MinerChange) -> f64| self.miners.iter().map(weight).sum::<f64>() * 100.0;
        writeln!(
            out,
            "  {:>4} {:<48} {:>8.3} {:>8.3}",
            "",
            "sum",
            sum(|miner| miner.old),
            sum(|miner| miner.new)
        )
    }

    fn write_totals(&self, out: &mut String) -> std::fmt::Result {
        let totals = &self.totals;
        writeln!(
            out,
            "\n{} gain, {} lose, {} stay; {:.2} % of all weight changes hands.",
            totals.gaining,
            totals.losing,
            totals.unchanged,
            totals.moved * 100.0
        )?;
        for (who, what) in [(totals.loses_most, "Loses"), (totals.gains_most, "Gains")] {
            let found = self.miners.iter().find(|miner| Some(miner.hotkey) == who);
            if let Some(miner) = found {
                let uid = miner.uid.map(|uid| format!("uid {uid}, ")).unwrap_or_default();
                writeln!(
                    out,
                    "{what} most: {uid}{}, by {:.3} points.",
                    miner.hotkey,
                    miner.change.abs() * 100.0
                )?;
            }
        }
        Ok(())
    }
}

/// With its sign, and without one where it rounds to nothing.
fn signed(value: f64, decimals: usize) -> String {
    let shown = format!("{value:+.decimals$}");
    if shown.chars().any(|letter| ('1'..='9').contains(&letter)) {
        shown
    } else {
        format!("{:.decimals$}", 0.0)
    }
}

#[cfg(test)]
mod tests {
    use common::{Hotkey, MechanismId, Uid};

    use super::*;
    use crate::scoring::Preset;
    use crate::tune::{ConstantChange, TaskChange, Totals};

    fn tuning() -> Tuning {
        let hotkey = Hotkey::from_bytes([3; 32]);
        Tuning {
            mechanism: MechanismId(0),
            mechanisms: vec![MechanismId(0)],
            evidence_until_ms: 1_795_212_604_000,
            catalogue: "tasks.toml".into(),
            weights_sum: 1.3,
            tasks: vec![TaskChange {
                task: "chat-llama-3-1-8b-with-a-long-name".parse().unwrap(),
                weight: (0.6, 0.9),
                weighting: (0.6, 0.9 / 1.3),
            }],
            preset: (Preset::Touchstone, Preset::Touchstone),
            constants: vec![ConstantChange {
                key: "speed_bonus".to_owned(),
                old: Some(0.5),
                new: Some(0.2),
            }],
            miners: vec![MinerChange {
                uid: Some(Uid(255)),
                hotkey,
                old: 0.4,
                new: 0.3,
                change: -0.1,
                relative: Some(-0.25),
            }],
            totals: Totals {
                gaining: 0,
                losing: 1,
                unchanged: 0,
                moved: 0.1,
                loses_most: Some(hotkey),
                gains_most: None,
            },
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_table_fits_a_terminal_and_names_every_change() {
        let text = tuning().text();
        for line in text.lines() {
            assert!(line.chars().count() <= 96, "{} columns: {line}", line.chars().count());
        }
        for part in
            ["sum to 1.3", "69.23 %", "0.5 -> 0.2", "-10.000", "-25.0 %", "Loses most: uid 255"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn changed_constants_become_lines_of_the_configuration() {
        assert_eq!(tuning().configuration(), "[scoring.touchstone]\nspeed_bonus = 0.2\n");
        let other = Tuning { preset: (Preset::Touchstone, Preset::Subnet19), ..tuning() };
        let lines = other.configuration();
        assert!(
            lines.starts_with("[scoring]\npreset = \"subnet19\"\n[scoring.subnet19]"),
            "{lines}"
        );
    }
}
