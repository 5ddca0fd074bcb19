//! The results as a page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::figures::interval;
use super::measured::{AttackRow, HonestRow};
use super::report::{Policy, Report};

const READING: &str = "\
- **Honest stacks** compute the claimed model in another format or by other code than the reference, which is f32. Half of \
the answers of a calibration make the bounds, the other half tell what is left after them; what is measured here is neither. \
*Held out* stacks took no part in the calibration.
- **False flags** are answers whose quality falls: e-value 1,000 or more. *Miners* are runs of 100 answers each; they are \
flagged softly at 1,000 (checked more often) and for good at 1,000,000 (worth nothing), at any time of the run.
- **Found after n answers**: the share of dishonest miners whose evidence exceeds what all but one in a thousand honest miners \
have after as many answers, over all permitted stacks. Groups of answers stand for miners.
- **Second looks**: half of the answers to requests with a system message are computed once more without it.
- **Tokens until flagged**: the median of the tokens until the soft flag.
- **Reward left**: the mean quality of the answers, before any flag.
- *Forged log-probabilities* are those of the claimed model on the given tokens, as one prefill shows them. Where nothing is \
said, log-probabilities are those of what the miner ran.
";

impl Report {
    /// The page.
    pub fn markdown(&self) -> String {
        let mut page = format!(
            "# How well answers are verified\n\nWritten by `{}` on {}, for {} at temperature {}, from answers to synthetic \
             requests.\n\n{READING}\n",
            self.command, self.made_at, self.model, self.temperature,
        );
        let _ = writeln!(
            page,
            "One check takes one prefill. Checks of answers of 100 tokens: {:.1} per second, {:.1} without seeds, {} at once, second \
             looks left out, the best of five rounds.\n",
            self.checks_per_second, self.checks_per_second_without_seeds, self.at_once
        );
        page.push_str("## Numeric noise of honest stacks\n\n");
        page.push_str("| format | answers | tokens | same token as the reference, % | log-probabilities apart, nats | pairs compared |\n| --- | --: | --: | --: | --: | --: |\n");
        for stack in &self.stacks {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {:.3} | {:.6} | {} |",
                stack.format,
                stack.answers,
                stack.tokens,
                100.0 * stack.agreement,
                stack.logprob_distance,
                stack.pairs
            );
        }
        page.push_str("\n## Honest miners\n");
        for policy in &self.policies {
            let _ = writeln!(page, "\nPermitted: {}.\n", policy.formats.join(", "));
            honest(&mut page, &policy.honest);
        }
        let first =
            self.policies.first().map(|policy| policy.formats.join(", ")).unwrap_or_default();
        if !self.attacks.is_empty() {
            self.dishonest(&mut page, &first);
        }
        let _ = writeln!(
            page,
            "\n## Without seeds, permitted {first}\n\nThe same answers, judged without a look at what the seed draws: all that is \
             known of a token is how likely it was, as of miners whose engines draw in their own way (`checking.seeded = false`). A \
             wrong seed is no cheat then.\n"
        );
        honest(&mut page, &self.without_seeds.honest);
        if !self.attacks.is_empty() {
            page.push('\n');
            attacks(&mut page, &self.without_seeds.attacks);
            self.others(&mut page);
        }
        page
    }

    fn dishonest(&self, page: &mut String, permitted: &str) {
        let _ = writeln!(page, "\n## Dishonest miners, permitted {permitted}\n");
        attacks(page, &self.attacks);
        page.push_str(
            "\n### By the tokens alone\n\nAs far as log-probabilities are not looked at.\n\n",
        );
        attacks(page, &self.attacks_by_tokens);
        page.push_str(
            "\n## What each policy can tell apart\n\nFound after 1 and after 16 answers, and tokens until flagged. What is \
             permitted cannot be told from what is as coarse.\n\n",
        );
        policies(page, &self.policies);
    }

    fn others(&self, page: &mut String) {
        page.push_str(
            "\n## Other systems on the same answers\n\nRe-implemented from their descriptions, with thresholds set on the same \
             honest answers as above: found after 1 and after 16 answers. Subnet 19's text checker compares probabilities at five \
             tokens; Token-DiFR averages how far seeded scores miss the best one, cut at 0.5; Gonka's distance compares the \
             reported log-probabilities of the 20 likeliest tokens. The last column is what subnet 19's own thresholds leave of \
             the reward. No other system looks at the form of an answer.\n\n",
        );
        baselines(page, &self.attacks, &self.baselines);
    }
}

fn honest(page: &mut String, rows: &[HonestRow]) {
    page.push_str("| stack | | answers | false flags per 1,000 | 95 % interval | miners | flagged softly | for good |\n| --- | --- | --: | --: | --: | --: | --: | --: |\n");
    for row in rows {
        let kind = match (row.permitted, row.held_out) {
            (false, _) => "not permitted",
            (true, true) => "held out",
            (true, false) => "",
        };
        let [low, high] = row.ci95.map(|rate| 1e3 * rate);
        let _ = writeln!(
            page,
            "| {} | {kind} | {} | {:.2} | {low:.2}–{high:.2} | {} | {} | {} |",
            row.stack,
            row.answers,
            1e3 * row.false_positive_rate,
            row.miners,
            row.soft_flags,
            row.hard_flags
        );
    }
    let counted = |row: &&HonestRow| row.permitted && row.held_out;
    let sum = |of: fn(&HonestRow) -> usize| -> usize { rows.iter().filter(counted).map(of).sum() };
    let (answers, flagged) = (sum(|row| row.answers), sum(|row| row.flagged));
    if answers > 0 {
        let [low, high] = interval(flagged, answers).map(|rate| 1e3 * rate);
        let _ = writeln!(
            page,
            "\nHeld out, permitted, together: {flagged} of {answers} answers falsely flagged ({low:.2}–{high:.2} per 1,000 at 95 %); of \
             {} miners {} softly, {} for good.",
            sum(|row| row.miners),
            sum(|row| row.soft_flags),
            sum(|row| row.hard_flags)
        );
    }
}

fn attacks(page: &mut String, rows: &[AttackRow]) {
    page.push_str("| attack | tokens per answer | AUC | found after 1 of ≥ 64 tokens (of so many) | 1 | 4 | 16 | 64 | tokens until flagged | reward left |\n| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n");
    for row in rows {
        let rates: Vec<_> = row.tpr.values().map(|rate| format!("{rate:.3}")).collect();
        let long =
            row.tpr_long.map_or("–".to_owned(), |rate| format!("{rate:.3} ({})", row.long));
        let _ = writeln!(
            page,
            "| {} | {:.0} | {:.4} | {long} | {} | {} | {:.2} |",
            row.name,
            row.tokens,
            row.auc,
            rates.join(" | "),
            tokens(row),
            row.quality.unwrap_or(1.0)
        );
    }
}

fn tokens(row: &AttackRow) -> String {
    row.tokens_to_flag_median.map_or("–".to_owned(), |tokens| format!("{tokens:.0}"))
}

/// Found after 1 and after 16 answers.
fn found(row: &AttackRow) -> String {
    let rate = |after| row.tpr.get(&after).copied().unwrap_or(0.0);
    format!("{:.3} / {:.3}", rate(1), rate(16))
}

fn policies(page: &mut String, policies: &[Policy]) {
    let names: Vec<_> = policies.iter().map(|policy| policy.formats.join(", ")).collect();
    let _ = writeln!(
        page,
        "| attack | {} |\n| --- |{}",
        names.join(" | "),
        " --: |".repeat(names.len())
    );
    let rows = policies.first().map_or(0, |policy| policy.attacks.len());
    for at in 0..rows {
        let cells: Vec<_> = policies
            .iter()
            .filter_map(|policy| policy.attacks.get(at))
            .map(|row| format!("{}; {}", found(row), tokens(row)))
            .collect();
        let name = policies[0].attacks.get(at).map_or("", |row| &row.name);
        let _ = writeln!(page, "| {name} | {} |", cells.join(" | "));
    }
}

fn baselines(
    page: &mut String,
    ours: &[AttackRow],
    others: &BTreeMap<&'static str, Vec<AttackRow>>,
) {
    let names: Vec<_> = others.keys().copied().collect();
    let _ = writeln!(
        page,
        "| attack | Touchstone | {} | reward left by subnet 19 |\n| --- | --: |{} --: |",
        names.join(" | "),
        " --: |".repeat(names.len())
    );
    for (at, row) in ours.iter().enumerate() {
        let cells: Vec<_> = others.values().filter_map(|rows| rows.get(at)).map(found).collect();
        let left = others.values().filter_map(|rows| rows.get(at)?.quality).next();
        let left = left.map_or("–".to_owned(), |left| format!("{left:.2}"));
        let _ =
            writeln!(page, "| {} | {} | {} | {left} |", row.name, found(row), cells.join(" | "));
    }
}
