//! The factors of an effective volume, each with what it was computed from.

use std::fmt::Write as _;

use super::{number, wrap};
use crate::scoring::{Factors, Rules, Score, TaskScore, subnet19, touchstone};

/// Where it says how a value came about.
const INDENT: usize = 27;

const UNCHECKED: &str = "no answer was checked yet; without one a miner earns nothing";
const UNMEASURED: &str = "without a measured speed neither bonus nor malus";

pub(super) fn write(
    out: &mut String,
    rules: &Rules,
    mean_quality: Option<f64>,
    score: &TaskScore,
) -> std::fmt::Result {
    match (rules, &score.factors) {
        (Rules::Touchstone(parameters), Factors::Touchstone(factors)) => {
            touchstone(out, parameters, factors, mean_quality)?;
            line(
                out,
                "effective",
                score.effective_volume,
                "quality * reliability * presence * proven * speed factor",
            )
        }
        (Rules::Subnet19(parameters), Factors::Subnet19(factors)) => {
            subnet19(out, parameters, factors)?;
            line(out, "effective", score.effective_volume, "combined * history * capacity")
        }
        _ => writeln!(out, "  Its factors are those of other rules than the scoring's."),
    }
}

fn touchstone(
    out: &mut String,
    parameters: &touchstone::Parameters,
    factors: &touchstone::Factors,
    mean_quality: Option<f64>,
) -> std::fmt::Result {
    let summary = &factors.summary;
    let quality = summary.quality.map_or(0.0, Score::get);
    match mean_quality {
        None => {
            line(out, "quality", quality, UNCHECKED)?;
        }
        Some(mean) => {
            let how = format!("{}^{}", number(mean), number(parameters.quality_exponent));
            line(out, "quality", quality, &how)?;
            let checked = number(summary.checked);
            more(out, &format!("(mean quality)^quality_exponent; {checked} checked answers"))?;
        }
    }
    let how = format!(
        "({served} / ({served} + {} + {} * {}))^{}",
        number(summary.refusal_cost),
        number(parameters.failure_cost),
        number(summary.failed),
        number(parameters.reliability_exponent),
        served = number(summary.served),
    );
    line(out, "reliability", summary.reliability.get(), &how)?;
    more(
        out,
        "(answers / (answers + cost of refusals + failure_cost * failures)) ^reliability_exponent",
    )?;
    let how = format!("{} / {}", number(summary.seconds), number(summary.observed));
    line(out, "presence", summary.presence.get(), &how)?;
    more(out, "seconds in which it was there to be asked / of this validator's time")?;
    let how = format!(
        "min({}, {}, max({} - {} * {}, {}))",
        number(summary.capacity),
        number(summary.usual),
        number(summary.shown),
        number(parameters.confidence),
        number(summary.error),
        number(summary.used),
    );
    line(out, "proven", summary.proven, &how)?;
    let how = format!(
        "min(declared now, on average, max(shown - confidence * error, used)) per period; {} bursts",
        number(summary.exams)
    );
    more(out, &how)?;
    match (summary.speed, factors.typical_speed) {
        (Some(speed), Some(typical)) => {
            let relative = if typical > 0.0 { number(speed / typical) } else { "r".to_owned() };
            let how = format!(
                "1 + {} / 2 * ({relative} - 1) / ({relative} + 1)",
                number(parameters.speed_bonus)
            );
            line(out, "speed factor", factors.speed_factor, &how)?;
            let how = format!(
                "1 + speed_bonus / 2 * (r - 1) / (r + 1), r = {} / {}, its speed / the task's typical speed",
                number(speed),
                number(typical)
            );
            more(out, &how)?;
        }
        _ => line(out, "speed factor", factors.speed_factor, UNMEASURED)?,
    }
    let how = format!(
        "all sums are weighed: evidence counts half after {} hours",
        number(parameters.half_life_hours)
    );
    more(out, &how)
}

fn subnet19(
    out: &mut String,
    parameters: &subnet19::Parameters,
    factors: &subnet19::Factors,
) -> std::fmt::Result {
    let subnet19::Factors { summary, speed_bonus, combined_quality } = factors;
    let how = if summary.quality.is_some() {
        format!(
            "mean of quality^{}; a mean up to {} to the power of {}",
            number(parameters.quality_exponent),
            number(parameters.low_quality),
            number(parameters.low_quality_exponent)
        )
    } else {
        UNCHECKED.to_owned()
    };
    line(out, "quality", summary.quality.map_or(0.0, Score::get), &how)?;
    let how = summary.speed.map_or_else(
        || UNMEASURED.to_owned(),
        |speed| {
            format!(
                "by rank, {} to -{}; its speed is {} per second",
                number(parameters.speed_bonus / 2.0),
                number(parameters.speed_bonus / 2.0),
                number(speed)
            )
        },
    );
    line(out, "speed bonus", *speed_bonus, &how)?;
    line(out, "combined", *combined_quality, "quality * (1 + speed bonus)")?;
    let history = &summary.history;
    let how = format!(
        "mean {} of {} scored periods * {}",
        number(history.mean.get()),
        history.scored_periods,
        number(history.multiplier)
    );
    line(out, "history", history.score.get(), &how)?;
    more(
        out,
        &format!(
            "each period counts by its volume, and {} of the next newer one; * {} below {} periods",
            number(parameters.period_decay),
            number(parameters.newcomer_multiplier),
            parameters.full_history_periods
        ),
    )?;
    line(out, "capacity", summary.capacity, "declared for the period")
}

pub(super) fn line(out: &mut String, name: &str, value: f64, how: &str) -> std::fmt::Result {
    wrap(out, &format!("  {name:<12} {:>10}  ", number(value)), INDENT, how)
}

/// What else there is to say of the line before.
pub(super) fn more(out: &mut String, how: &str) -> std::fmt::Result {
    wrap(out, &" ".repeat(INDENT), INDENT, how)
}
