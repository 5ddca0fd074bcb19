//! Evidence against a miner over many answers, at any time.
//!
//! An answer's e-value `e` has an expectation of at most 1 if the miner is honest. Betting a part `b` of a stake on each
//! answer multiplies it by `1 + b (min(e, 1000) − 1)`, whose expectation is at most 1 too: no single answer decides, and
//! answers that say nothing cost little. The stake that begins at answer `n` is `1 / (n (n + 1))`, so all stakes together
//! are 1, and a miner that turns bad late is found as well. The sum over hypotheses, parts and beginnings is a
//! nonnegative supermartingale that starts at 1: the probability that it ever reaches `1/α` is at most `α` (Ville's
//! inequality), however long one looks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checks::EValue;

/// Logarithm of the most that one answer counts: ln 1000.
const MOST: f64 = 6.907_755_278_982_137;
/// Parts of the stake that are bet on each answer: the first for who always cheats, the second for who seldom does.
const PARTS: [f64; 2] = [0.9, 0.1];

/// Logarithm of the evidence from which a miner is looked at more closely: ln 1e3.
pub const SOFT_FLAG: f64 = 6.907_755_278_982_137;
/// Logarithm of the evidence that settles it: ln 1e6.
pub const HARD_FLAG: f64 = 13.815_510_557_964_274;

/// What the evidence amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    None,
    /// Such evidence comes up for one in a thousand honest miners at most.
    Soft,
    /// For one in a million at most.
    Hard,
}

/// The evidence so far.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Process {
    answers: u64,
    strands: BTreeMap<String, Strand>,
}

/// One hypothesis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Strand {
    share: f64,
    /// Logarithm of the stakes that have begun, for each of [`PARTS`]. `None` stands for nothing: JSON has no infinities.
    log_stakes: [Option<f64>; PARTS.len()],
}

impl Process {
    /// Takes one more answer into account.
    pub fn push(&mut self, e_values: &[EValue]) {
        self.answers = self.answers.saturating_add(1);
        let begins = begins(self.answers).ln();
        for EValue { hypothesis, share, log_e } in e_values {
            let strand = self
                .strands
                .entry(hypothesis.clone())
                .or_insert(Strand { share: 0.0, log_stakes: [None; PARTS.len()] });
            strand.share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
            let e = if log_e.is_nan() { 1.0 } else { log_e.min(MOST).exp() };
            for (stake, part) in strand.log_stakes.iter_mut().zip(PARTS) {
                let before = stake.map_or(begins, |stake| log_add(stake, begins));
                *stake = Some(before + (1.0 + part * (e - 1.0)).ln());
            }
        }
    }

    /// Answers taken into account.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// Natural logarithm of the evidence; 0 before the first answer.
    pub fn log_e(&self) -> f64 {
        if self.strands.is_empty() {
            return 0.0;
        }
        let resting = (1.0 / (self.answers as f64 + 1.0)).ln();
        let shares: f64 = self.strands.values().map(|strand| strand.share).sum();
        let all = self.strands.values().flat_map(|strand| {
            let share = (strand.share / shares.max(1.0) / PARTS.len() as f64).ln();
            strand
                .log_stakes
                .iter()
                .map(move |stake| share + stake.map_or(resting, |stake| log_add(stake, resting)))
        });
        // What other hypotheses might have said rests as well.
        let missing = (1.0 - shares).max(0.0).ln();
        all.fold(missing, log_add)
    }

    /// The hypothesis with the most evidence, and its logarithm.
    pub fn first(&self) -> Option<(&str, f64)> {
        let strength = |strand: &Strand| {
            strand.log_stakes.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max)
        };
        self.strands
            .iter()
            .map(|(name, strand)| (name.as_str(), strength(strand)))
            .max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// What it amounts to.
    pub fn flag(&self) -> Flag {
        match self.log_e() {
            log_e if log_e >= HARD_FLAG => Flag::Hard,
            log_e if log_e >= SOFT_FLAG => Flag::Soft,
            _ => Flag::None,
        }
    }
}

/// The stake that begins at an answer, counted from 1.
fn begins(answer: u64) -> f64 {
    let answer = answer as f64;
    1.0 / (answer * (answer + 1.0))
}

/// `ln(e^a + e^b)`.
fn log_add(a: f64, b: f64) -> f64 {
    let (large, small) = if a > b { (a, b) } else { (b, a) };
    if small == f64::NEG_INFINITY { large } else { large + (small - large).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn e(log_e: f64) -> Vec<EValue> {
        vec![EValue { hypothesis: "only".to_owned(), share: 1.0, log_e }]
    }

    fn after(log_es: &[f64]) -> Process {
        let mut process = Process::default();
        for log_e in log_es {
            process.push(&e(*log_e));
        }
        process
    }

    #[test]
    fn nothing_is_said_of_nobody() {
        assert_eq!((Process::default().log_e(), Process::default().flag()), (0.0, Flag::None));
    }

    #[test]
    fn neutral_answers_change_nothing() {
        assert!(after(&[0.0; 500]).log_e().abs() < 1e-9);
    }

    #[test]
    fn no_single_answer_settles_it_and_a_few_do() {
        assert!(after(&[1e4]).flag() < Flag::Hard);
        assert_eq!(after(&[1e4; 4]).flag(), Flag::Hard);
    }

    #[test]
    fn who_turns_bad_late_is_found() {
        let mut answers = vec![-3.0; 2_000];
        answers.extend([1e3; 6]);
        assert_eq!(after(&answers).flag(), Flag::Hard);
    }

    #[test]
    fn who_cheats_seldom_is_found() {
        let answers: Vec<f64> =
            (0..80).map(|index| if index % 10 == 9 { 7.0 } else { -5.0 }).collect();
        assert_eq!(after(&answers).flag(), Flag::Hard);
    }

    proptest! {
        /// With e-values of two points and mean 1, the evidence is a martingale.
        #[test]
        fn the_mean_of_what_comes_next_is_what_is(
            history in prop::collection::vec(-8.0..4.0_f64, 0..40), chance in 0.02..0.98_f64, high in 1.1..20.0_f64,
        ) {
            let high = high.min(0.99 / chance).max(1.0);
            let low = (1.0 - chance * high) / (1.0 - chance);
            let process = after(&history);
            let next = |value: f64| {
                let mut process = process.clone();
                process.push(&e(value.ln()));
                process.log_e().exp()
            };
            let mean = chance * next(high) + (1.0 - chance) * next(low);
            let now = process.log_e().exp();
            prop_assert!((mean - now).abs() <= 1e-9 * now.max(1.0), "{} {}", mean, now);
        }

        #[test]
        fn it_is_a_number_whatever_comes(log_es in prop::collection::vec(any::<f64>(), 0..30)) {
            let process = after(&log_es);
            prop_assert!(!process.log_e().is_nan());
            let json = serde_json::to_string(&process).unwrap();
            prop_assert_eq!(serde_json::from_str::<Process>(&json).unwrap().answers(), log_es.len() as u64);
        }
    }
}
