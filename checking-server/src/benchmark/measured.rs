//! Cases, and the rows of figures that are made of them.

use std::collections::BTreeMap;

use common::checks::Verdict;
use common::evidence::{Flag, Process, SOFT_FLAG};
use common::format::NumericFormat;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;

use super::LONG;
use super::baselines::Baselines;
use super::figures::{auc, groups, interval, median, share_above, threshold};

/// Numbers of answers after which a miner is looked at.
const AFTER: [usize; 4] = [1, 4, 16, 64];
/// Groups of answers that stand for miners, honest and others.
const HONEST_MINERS: usize = 4_000;
const MINERS: usize = 1_000;
/// Runs over which the tokens until a flag are the median of.
const RUNS: usize = 201;
/// Answers after which a run without a flag is given up.
const PATIENCE: usize = 400;
const RATE: f64 = 1e-3;
/// The hypothesis about reported log-probabilities.
const LOGPROBS: &str = "logprobs";

/// One honest stack, or one attack.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: String,
    /// Of an honest stack.
    pub(super) format: Option<NumericFormat>,
    pub(super) held_out: bool,
    pub(super) answers: Vec<Weighed>,
}

/// One answer.
#[derive(Debug, Clone)]
pub(super) struct Weighed {
    /// Under each policy.
    pub(super) verdicts: Vec<Verdict>,
    pub(super) tokens: usize,
    /// Of those whose form is right.
    pub(super) baselines: Option<Baselines>,
}

/// An attack, as one method sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct AttackRow {
    pub(super) name: String,
    pub(super) auc: f64,
    #[serde(rename = "tpr_at_1e-3")]
    pub(super) tpr: BTreeMap<usize, f64>,
    pub(super) tokens_to_flag_median: Option<f64>,
    /// After one answer of at least 64 tokens, and how many such answers there were.
    pub(super) tpr_long: Option<f64>,
    pub(super) long: usize,
    /// Tokens of an answer on average.
    pub(super) tokens: f64,
    /// What is left of the reward on average, if the method says.
    pub(super) quality: Option<f64>,
}

/// An honest stack.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct HonestRow {
    pub(super) stack: String,
    /// Whether the policy permits its format.
    pub(super) permitted: bool,
    pub(super) held_out: bool,
    pub(super) answers: usize,
    /// Answers whose quality falls.
    pub(super) flagged: usize,
    pub(super) false_positive_rate: f64,
    pub(super) ci95: [f64; 2],
    /// Miners of a hundred answers each that were flagged at any time.
    pub(super) miners: usize,
    pub(super) soft_flags: usize,
    pub(super) hard_flags: usize,
}

/// A method's statistic of a group of answers: larger is more suspicious.
type Statistic<'a> = &'a dyn Fn(&[&Weighed]) -> f64;

/// Ours, under a policy, with or without the evidence of log-probabilities.
pub(super) fn evidence(policy: usize, logprobs: bool) -> impl Fn(&[&Weighed]) -> f64 {
    move |answers| {
        let mut process = Process::default();
        for answer in answers {
            push(&mut process, answer, policy, logprobs);
        }
        process.log_e()
    }
}

fn push(process: &mut Process, answer: &Weighed, policy: usize, logprobs: bool) {
    let all = &answer.verdicts[policy].evidence.e_values;
    match logprobs {
        true => process.push(all),
        false => {
            let others = all.iter().filter(|e| e.hypothesis != LOGPROBS).cloned();
            process.push(&others.collect::<Vec<_>>());
        }
    }
}

/// A baseline: a mean over tokens, or over answers.
pub(super) fn mean_of(sum: fn(&Baselines) -> (f64, f64)) -> impl Fn(&[&Weighed]) -> f64 {
    move |answers| {
        let parts = answers.iter().filter_map(|answer| answer.baselines.as_ref().map(sum));
        let (sums, counts) = parts.fold((0.0, 0.0), |all, part| (all.0 + part.0, all.1 + part.1));
        sums / counts.max(1.0)
    }
}

/// The rows of all attacks by one statistic.
pub(super) fn attack_rows(
    honest: &[&Weighed],
    attacks: &[Case],
    statistic: Statistic<'_>,
    quality: impl Fn(&Weighed) -> Option<f64>,
    flags: Option<(usize, bool)>,
) -> Vec<AttackRow> {
    if attacks.is_empty() {
        return Vec::new();
    }
    let mut rng = StdRng::seed_from_u64(7);
    let mut values = |answers: &[&Weighed], size: usize, miners: usize| -> Vec<f64> {
        groups(answers.len(), size, miners, &mut rng)
            .into_iter()
            .map(|group| {
                let answers: Vec<_> = group.into_iter().map(|index| answers[index]).collect();
                statistic(&answers)
            })
            .collect()
    };
    let of_honest = AFTER.map(|size| values(honest, size, HONEST_MINERS));
    let limits = of_honest.each_ref().map(|honest| threshold(honest, RATE));
    let mut rows = Vec::new();
    // Where nothing could be tried, there is nothing to say.
    for case in attacks.iter().filter(|case| !case.answers.is_empty()) {
        let answers: Vec<_> = case.answers.iter().collect();
        let of_attack = AFTER.map(|size| values(&answers, size, MINERS));
        let rates = of_attack.iter().zip(limits).map(|(values, limit)| share_above(values, limit));
        let count = answers.len().max(1) as f64;
        let is_long = |answer: &&&Weighed| answer.tokens >= LONG;
        let long: Vec<_> =
            answers.iter().filter(is_long).map(|answer| statistic(&[answer])).collect();
        rows.push(AttackRow {
            tpr_long: (!long.is_empty()).then(|| share_above(&long, limits[0])),
            long: long.len(),
            name: case.name.clone(),
            auc: auc(&of_honest[0], &of_attack[0]),
            tpr: AFTER.into_iter().zip(rates).collect(),
            tokens_to_flag_median: flags
                .and_then(|(policy, logprobs)| to_flag(&answers, policy, logprobs)),
            tokens: answers.iter().map(|answer| answer.tokens as f64).sum::<f64>() / count,
            quality: answers
                .iter()
                .map(|answer| quality(answer))
                .sum::<Option<f64>>()
                .map(|sum| sum / count),
        });
    }
    rows
}

/// Median of the tokens that it takes until the soft flag.
fn to_flag(answers: &[&Weighed], policy: usize, logprobs: bool) -> Option<f64> {
    let mut rng = StdRng::seed_from_u64(8);
    let runs = groups(answers.len(), PATIENCE, RUNS, &mut rng).into_iter().map(|order| {
        let (mut process, mut tokens) = (Process::default(), 0);
        for index in order {
            push(&mut process, answers[index], policy, logprobs);
            tokens += answers[index].tokens;
            if process.log_e() >= SOFT_FLAG {
                return tokens as f64;
            }
        }
        f64::INFINITY
    });
    median(runs.collect()).filter(|tokens| tokens.is_finite())
}

/// The row of an honest stack under a policy.
pub(super) fn honest_row(case: &Case, policy: usize, permitted: bool) -> HonestRow {
    const A_MINER: usize = 100;
    let count = case.answers.len();
    let flagged =
        case.answers.iter().filter(|answer| answer.verdicts[policy].quality < 1.0).count();
    let miners: Vec<Flag> = case
        .answers
        .chunks(A_MINER)
        .map(|answers| {
            let mut process = Process::default();
            let worst = answers.iter().map(|answer| {
                push(&mut process, answer, policy, true);
                process.flag()
            });
            worst.max().unwrap_or(Flag::None)
        })
        .collect();
    HonestRow {
        stack: case.name.clone(),
        permitted,
        held_out: case.held_out,
        answers: count,
        flagged,
        false_positive_rate: flagged as f64 / count.max(1) as f64,
        ci95: interval(flagged, count),
        miners: miners.len(),
        soft_flags: miners.iter().filter(|flag| **flag >= Flag::Soft).count(),
        hard_flags: miners.iter().filter(|flag| **flag >= Flag::Hard).count(),
    }
}
