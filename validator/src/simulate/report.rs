//! Results for people: on a terminal, and as tables in a document.

use std::fmt::Write;

use super::{Outcome, Results, Tried};

const BEGIN: &str = "<!-- What follows is written by `validator simulate --report`. -->";
const END: &str = "<!-- End of what is written by `validator simulate --report`. -->";

/// A document has no place for the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no place for the tables: it needs the line `{BEGIN}` and, after it, `{END}`")]
pub struct NoPlace;

impl Results {
    /// A table for a terminal.
    pub fn table(&self) -> String {
        let mut text = format!(
            "Income relative to the same hardware run honestly, preset {}, {} seeds of {} periods.\n\n\
             {:<44} {:>6}  95 % interval\n",
            self.preset, self.seeds, self.periods, "Strategy", "Income",
        );
        for outcome in &self.strategies {
            let Outcome { name, income_vs_honest, ci95: [low, high], .. } = outcome;
            // Writing into a string cannot fail.
            let _ = writeln!(text, "{name:<44} {income_vs_honest:>6.3}  {low:.3} to {high:.3}");
            let _ = writeln!(text, "  {}", outcome.best());
        }
        text
    }
}

/// The tables of a document about several presets, which must have been tried with the same strategies.
pub fn tables(all: &[Results]) -> String {
    let mut text = String::new();
    let presets: Vec<_> = all.iter().map(|results| results.preset.to_string()).collect();
    let rule = "| ---: ".repeat(all.len());
    for results in all {
        let _ = writeln!(
            text,
            "- `{}`: {} seeds, each with {} periods after a day of warming up",
            results.preset, results.seeds, results.periods
        );
    }
    let _ = writeln!(
        text,
        "\n| Strategy | What the miner does | {} |\n| --- | --- {rule}|",
        presets.join(" | ")
    );
    each(all, |outcomes| {
        let Some(Outcome { name, does, .. }) = outcomes.first() else { return };
        let cells = outcomes.iter().map(|own| cell(own.income_vs_honest, own.ci95));
        let _ = writeln!(text, "| {name} | {does} | {} |", row(cells));
    });
    let _ = writeln!(
        text,
        "\nEverything that was tried:\n\n| Strategy | Parameter | {} |\n| --- | --- {rule}|",
        presets.join(" | ")
    );
    each(all, |outcomes| {
        let tried: Vec<_> = outcomes.iter().map(|outcome| outcome.tried.as_slice()).collect();
        let name = outcomes.first().map_or("", |outcome| outcome.name);
        rows(&mut text, &format!("| {name} "), &tried);
    });
    let _ = writeln!(
        text,
        "\nHonest miners, for comparison:\n\n| Way | {} |\n| --- {rule}|",
        presets.join(" | ")
    );
    let compared: Vec<_> = all.iter().map(|results| results.comparisons.as_slice()).collect();
    rows(&mut text, "", &compared);
    text
}

/// The document with its tables replaced by these.
///
/// # Errors
/// If the document does not say where they are.
pub fn put_into(document: &str, tables: &str) -> Result<String, NoPlace> {
    let (before, rest) = document.split_once(BEGIN).ok_or(NoPlace)?;
    let (_, after) = rest.split_once(END).ok_or(NoPlace)?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", tables.trim()))
}

/// Walks through the strategies, each by all presets.
fn each(all: &[Results], mut show: impl FnMut(&[&Outcome])) {
    for at in 0..all.first().map_or(0, |results| results.strategies.len()) {
        let same: Vec<_> = all.iter().filter_map(|results| results.strategies.get(at)).collect();
        show(&same);
    }
}

fn rows(text: &mut String, first: &str, tried: &[&[Tried]]) {
    let Some(leading) = tried.first() else { return };
    for (at, Tried { with, .. }) in leading.iter().enumerate() {
        let cells = tried.iter().filter_map(|own| own.get(at));
        let cells = row(cells.map(|own| cell(own.income_vs_honest, own.ci95)));
        let _ = writeln!(text, "{first}| {with} | {cells} |");
    }
}

fn row(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(" | ")
}

fn cell(income: f64, [low, high]: [f64; 2]) -> String {
    format!("{income:.3} ({low:.3}–{high:.3})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::Preset;

    fn results(preset: Preset, income: f64) -> Results {
        let tried = |with: &str, income_vs_honest: f64| Tried {
            with: with.to_owned(),
            income_vs_honest,
            ci95: [income_vs_honest - 0.1, income_vs_honest + 0.1],
        };
        let outcome = Outcome {
            name: "sleeping",
            income_vs_honest: income,
            ci95: [income - 0.1, income + 0.1],
            does: "sleeps",
            tried: vec![tried("at night", income / 2.0), tried("by day", income)],
        };
        let comparisons = vec![tried("twice the size", 2.0)];
        Results { preset, seeds: 5, periods: 9, strategies: vec![outcome], comparisons }
    }

    #[test]
    fn tables_name_the_best_parameter_and_show_presets_side_by_side() {
        let all = [results(Preset::Touchstone, 0.8), results(Preset::Subnet19, 3.0)];
        let tables = tables(&all);
        for line in [
            "| sleeping | sleeps | 0.800 (0.700–0.900) | 3.000 (2.900–3.100) |",
            "| sleeping | at night | 0.400 (0.300–0.500) | 1.500 (1.400–1.600) |",
            "| twice the size | 2.000 (1.900–2.100) | 2.000 (1.900–2.100) |",
            "- `subnet19`: 5 seeds, each with 9 periods after a day of warming up",
        ] {
            assert!(tables.lines().any(|own| own == line), "{line}\n{tables}");
        }
        assert!(all[0].table().contains("\n  by day\n"));
    }

    #[test]
    fn tables_replace_those_of_the_last_time_and_nothing_else() {
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = put_into(&document, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert_eq!(put_into(&new, "new\n").unwrap(), new);
        assert_eq!(put_into("nothing", "new"), Err(NoPlace));
    }

    #[test]
    fn json_has_the_strategies_and_what_was_simulated() {
        let json = serde_json::to_value(results(Preset::Touchstone, 0.5)).unwrap();
        let expected = serde_json::json!({
            "preset": "touchstone", "seeds": 5, "periods": 9,
            "strategies": [{ "name": "sleeping", "income_vs_honest": 0.5, "ci95": [0.4, 0.6] }],
        });
        assert_eq!(json, expected);
    }
}
