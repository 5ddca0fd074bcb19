//! An explanation for people, in at most 92 columns.

mod factors;
mod tables;

use std::fmt::Write as _;

use super::{Explanation, OnChain, TaskExplanation, utc};
use crate::scoring::TaskScore;

/// Columns of the longest line.
const WIDTH: usize = 92;

impl Explanation {
    /// For a terminal. Numbers have six digits here; [`json`](Self::json) has all of them.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let shown = self.write(&mut text);
        debug_assert!(shown.is_ok(), "writing into a string does not fail");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let uid = self.on_chain.as_ref().and_then(|on_chain| on_chain.uid);
        let uid = uid.map(|uid| format!(", uid {uid}")).unwrap_or_default();
        writeln!(out, "Miner {}{uid}", self.hotkey)?;
        if self.mechanisms.iter().any(|mechanism| mechanism.0 > 0) {
            let all: Vec<_> = self.mechanisms.iter().map(ToString::to_string).collect();
            writeln!(
                out,
                "Mechanism {} of {}; each has weights of its own, see --mechanism",
                self.mechanism,
                all.join(", ")
            )?;
        }
        self.write_weight(out)?;
        self.write_score(out)?;
        self.tasks.iter().try_for_each(|task| self.write_task(out, task))
    }

    fn write_weight(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nWEIGHT ON CHAIN")?;
        match &self.on_chain {
            None => writeln!(out, "  None: this validator has not set weights yet.")?,
            Some(on_chain) => {
                let OnChain { weight, share, all_weights, block, at_ms, .. } = on_chain;
                writeln!(
                    out,
                    "  {weight} of {all_weights} together, {:.4} %, in block {block}, {} UTC",
                    share * 100.0,
                    utc(*at_ms)
                )?;
                if on_chain.uid.is_none() && self.weights_come_from_scoring {
                    writeln!(out, "  {}", self.why_absent())?;
                }
            }
        }
        let scoring = &self.scoring;
        let which = match (&self.on_chain, self.weights_come_from_scoring) {
            (Some(_), true) => "These weights come from the",
            (Some(_), false) => {
                "They come from a scoring that is not kept or did not have this miner. Below is the newest"
            }
            (None, _) => "Below is the newest",
        };
        let how = format!(
            "{which} scoring of {} UTC, by the rules `{}`, of {} miners.",
            utc(scoring.at_ms),
            scoring.rules.preset(),
            self.miners.len()
        );
        wrap(out, "  ", 2, &how)?;
        if let Some((at_ms, weight)) = scoring.newer {
            writeln!(
                out,
                "  By the newest scoring, of {} UTC, it will be {:.4} %.",
                utc(at_ms),
                weight * 100.0
            )?;
        }
        Ok(())
    }

    fn why_absent(&self) -> &'static str {
        if self.weight > 0.0 {
            "It was not registered on the subnet then, or its weight is too small for the chain."
        } else {
            "It has earned nothing, as shown below."
        }
    }

    fn write_score(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nSCORE: the sum over tasks of weighting * share")?;
        for (task, contribution) in &self.contributions {
            writeln!(
                out,
                "  {:<34} {:>10} * {:>10} = {:>10}",
                task.as_str(),
                number(contribution.weighting),
                number(contribution.share),
                number(contribution.contribution)
            )?;
        }
        writeln!(out, "  {:<34} {:>36}", "sum", number(self.score))?;
        writeln!(
            out,
            "  weight: {} of the {} that all miners have = {:.4} %",
            number(self.score),
            number(self.all_scores),
            self.weight * 100.0
        )?;
        self.write_encoding(out)?;
        match &self.reproduced.differs {
            None => writeln!(
                out,
                "  reproduced: yes; computed again from these numbers, everything comes out the same"
            ),
            Some(differs) => {
                let how = format!(
                    "{} is {}, but comes out as {}",
                    differs.number, differs.shown, differs.computed
                );
                wrap(out, "  reproduced: no; ", 4, &how)
            }
        }
    }

    /// How the weight becomes a number of 16 bits.
    fn write_encoding(&self, out: &mut String) -> std::fmt::Result {
        let Some(on_chain) = self.on_chain.as_ref().filter(|_| self.weights_come_from_scoring)
        else {
            return Ok(());
        };
        let registered = self.miners.iter().filter(|miner| miner.uid.is_some());
        let largest = registered.map(|miner| miner.weight).fold(0.0, f64::max);
        if on_chain.max_weights_limit == u16::MAX && on_chain.uid.is_some() {
            writeln!(
                out,
                "  on chain: weight {} / largest weight {} * 65535 = {}, rounded",
                number(self.weight),
                number(largest),
                on_chain.weight
            )?;
        } else if on_chain.max_weights_limit != u16::MAX {
            let how = format!(
                "the subnet lets nobody have more than {}/65535 of all weights; what is above is cut off, the rest scaled \
                 up, and the largest becomes 65535: {}",
                on_chain.max_weights_limit, on_chain.weight
            );
            wrap(out, "  on chain: ", 12, &how)?;
        }
        Ok(())
    }

    fn write_task(&self, out: &mut String, task: &TaskExplanation) -> std::fmt::Result {
        writeln!(out, "\nTASK {}", task.task)?;
        match &task.score {
            None if !self.scoring.weightings.contains_key(&task.task) => {
                writeln!(out, "  Not scored: it is no task of the scoring.")?;
            }
            None => writeln!(out, "  Not scored: the miner declared no capacity for it.")?,
            Some(score) => {
                factors::write(out, &self.scoring.rules, task.mean_quality, score)?;
                write_share(out, task, score)?;
            }
        }
        tables::periods(out, &task.periods, self.scoring.at_ms)?;
        tables::answers(out, &task.answers)
    }
}

fn write_share(out: &mut String, task: &TaskExplanation, score: &TaskScore) -> std::fmt::Result {
    let field = &task.field;
    if field.largest_volume == 0.0 {
        return factors::line(out, "share", 0.0, "nobody has an effective volume");
    }
    let how = format!(
        "({} / {})^{} / {}",
        number(score.effective_volume),
        number(field.largest_volume),
        number(field.share_exponent),
        number(field.sum_of_powers)
    );
    factors::line(out, "share", score.share.get(), &how)?;
    let how = format!(
        "(effective / the largest of all)^share_exponent / the sum of these over the task's {} miners",
        field.miners
    );
    factors::more(out, &how)
}

/// Writes words after what is in the first line already, and goes on below `indent` columns of nothing.
fn wrap(out: &mut String, first: &str, indent: usize, words: &str) -> std::fmt::Result {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in words.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(out, "{line}")?;
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        // It may quote what a miner sent.
        line.extend(word.chars().filter(|letter| !letter.is_control()));
        empty = false;
    }
    writeln!(out, "{line}")
}

/// Six digits, or all that are before the point, in groups of three.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-6..1e15).contains(&size) {
        return format!("{value:.5e}");
    }
    let before = if size >= 1.0 { size.log10().floor() as usize + 1 } else { 0 };
    let decimals = 6_usize.saturating_sub(before);
    let plain = format!("{value:.decimals$}");
    let (whole, rest) = plain.split_once('.').unwrap_or((plain.as_str(), ""));
    let rest = rest.trim_end_matches('0');
    let mut grouped = String::new();
    let digits = whole.trim_start_matches('-');
    if whole.starts_with('-') {
        grouped.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if !rest.is_empty() {
        grouped.push('.');
        grouped.push_str(rest);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_six_digits_and_no_idle_zeros() {
        for (value, shown) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.25, "0.25"),
            (1.0 / 3.0, "0.333333"),
            (18_500.25, "18,500.2"),
            (1_234_567.8, "1,234,568"),
            (-2_000.5, "-2,000.5"),
            (1e-9, "1.00000e-9"),
            (1e300, "1.00000e300"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(value), shown);
        }
    }
}
