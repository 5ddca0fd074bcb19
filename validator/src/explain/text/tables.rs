//! The periods and the answers behind the factors.

use std::fmt::Write as _;

use super::{number, wrap};
use crate::explain::{AnswerRow, Failed, PeriodRow, utc};

pub(super) fn periods(out: &mut String, periods: &[PeriodRow], scored_ms: i64) -> std::fmt::Result {
    if periods.is_empty() {
        return writeln!(out, "\n  No finished period with it is stored.");
    }
    writeln!(out, "\n  Periods, newest first; refused: within/beyond the declared capacity")?;
    writeln!(
        out,
        "  {:<15} {:>8} {:>8} {:>5} {:>7} {:>6} {:>4} {:>6} {:>8} {:>7} {:>5}",
        "ended (UTC)",
        "declared",
        "used",
        "answ.",
        "refused",
        "failed",
        "void",
        "bursts",
        "shown",
        "checked",
        "qual."
    )?;
    for period in periods {
        let after = if period.ended_ms > scored_ms { "+" } else { " " };
        let ended = utc(period.ended_ms);
        writeln!(
            out,
            "  {:<14}{after} {:>8.0} {:>8.0} {:>5} {:>7} {:>6} {:>4} {:>6} {:>8} {:>7} {:>5}",
            ended.get(5..).unwrap_or(&ended),
            period.declared,
            period.used,
            period.answered,
            format!("{}/{}", period.refused_within, period.refused_beyond),
            period.failed.kinds().iter().map(|(_, count)| u64::from(*count)).sum::<u64>(),
            period.void,
            period.bursts,
            period.shown.map_or_else(dash, |shown| format!("{shown:.0}")),
            period.checked,
            period.quality.map_or_else(dash, |quality| format!("{quality:.3}")),
        )?;
        notes(out, period)?;
    }
    if periods.iter().any(|period| period.ended_ms > scored_ms) {
        writeln!(out, "  + after the scoring; it counts from the next one on")?;
    }
    Ok(())
}

/// What does not fit into the line.
fn notes(out: &mut String, period: &PeriodRow) -> std::fmt::Result {
    let mut notes = Vec::new();
    let failed = kinds(&period.failed);
    if !failed.is_empty() {
        notes.push(format!("failed: {failed}"));
    }
    if period.refused_within > 0 {
        notes.push(format!("refusals cost {}", number(period.refusal_cost)));
    }
    let users = period.organic_answered + period.organic_failed;
    if users > 0 {
        notes.push(format!("{} answered for users", period.organic_answered));
    }
    if notes.is_empty() { Ok(()) } else { writeln!(out, "      {}", notes.join("; ")) }
}

fn kinds(failed: &Failed) -> String {
    let kinds = failed.kinds().into_iter().filter(|(_, count)| *count > 0);
    let kinds: Vec<_> = kinds.map(|(kind, count)| format!("{count} {kind}")).collect();
    kinds.join(", ")
}

pub(super) fn answers(out: &mut String, answers: &[AnswerRow]) -> std::fmt::Result {
    if answers.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n  Checked answers, newest first")?;
    writeln!(
        out,
        "  {:<15} {:<9} {:>7} {:>10} {:>11} {:>7}",
        "asked (UTC)", "by", "quality", "speed /s", "1st token s", "tokens"
    )?;
    for answer in answers {
        let asked = utc(answer.at_ms);
        writeln!(
            out,
            "  {:<15} {:<9} {:>7.3} {:>10} {:>11.3} {:>7}",
            asked.get(5..).unwrap_or(&asked),
            if answer.organic { "user" } else { "validator" },
            answer.quality,
            number(answer.speed),
            answer.ttft_s,
            answer.tokens,
        )?;
        for reason in &answer.reasons {
            wrap(out, "      ", 6, reason)?;
        }
    }
    Ok(())
}

fn dash() -> String {
    "-".to_owned()
}
