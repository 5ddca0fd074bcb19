//! The results, and how they are made of cases.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Plan;
use super::baselines::Baselines;
use super::measured::{
    AttackRow, Case, HonestRow, Weighed, attack_rows, evidence, honest_row, mean_of,
};
use crate::calibration::{Calibration, Stack};

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What measures it again.
    pub(super) command: String,
    pub(super) model: String,
    pub(super) made_at: String,
    pub(super) temperature: f64,
    pub(super) sizes: Sizes,
    /// Under the first policy, with all evidence.
    pub(super) attacks: Vec<AttackRow>,
    /// Under the first policy, by the tokens alone.
    pub(super) attacks_by_tokens: Vec<AttackRow>,
    honest: Vec<HonestRow>,
    pub(super) policies: Vec<Policy>,
    /// Where miners draw with seeds of their own, under the first policy.
    pub(super) without_seeds: Policy,
    pub(super) baselines: BTreeMap<&'static str, Vec<AttackRow>>,
    pub(super) stacks: Vec<Stack>,
    /// Checks that were done at once.
    pub(super) at_once: usize,
    pub(super) checks_per_second: f64,
    /// Of answers of miners that draw with seeds of their own.
    pub(super) checks_per_second_without_seeds: f64,
}

/// Checks per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speed {
    pub(super) at_once: usize,
    pub(super) seeded: f64,
    pub(super) without_seeds: f64,
}

/// Answers of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Sizes {
    pub(super) calibration: usize,
    pub(super) honest: usize,
    pub(super) held_out: usize,
    pub(super) remote: usize,
    pub(super) attacked: usize,
}

/// What one policy can tell apart.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Policy {
    pub(super) formats: Vec<String>,
    pub(super) honest: Vec<HonestRow>,
    pub(super) attacks: Vec<AttackRow>,
}

/// What was weighed.
#[derive(Debug)]
pub(super) struct Cases {
    pub(super) honest: Vec<Case>,
    /// Honest as well, but drawn with other seeds than asked for.
    pub(super) unseeded: Vec<Case>,
    pub(super) attacks: Vec<Case>,
}

impl Report {
    pub(super) fn new(plan: &Plan, calibration: &Calibration, cases: Cases, speed: Speed) -> Self {
        let Cases { honest, unseeded, attacks } = cases;
        let permitted = |policy: usize| {
            let formats = &calibration.nulls[policy].formats;
            honest
                .iter()
                .filter(move |case| case.format.is_some_and(|format| formats.contains(&format)))
        };
        let answers = |policy: usize| -> Vec<&Weighed> {
            permitted(policy).flat_map(|case| &case.answers).collect()
        };
        // The verdicts without seeds come after those of the policies, and follow the first of these.
        let at_unseeded = calibration.nulls.len();
        let quality = |at: usize| move |answer: &Weighed| Some(answer.verdicts[at].quality);
        let ours = |policy: usize, at: usize, logprobs: bool| {
            let statistic = evidence(at, logprobs);
            let flags = Some((at, logprobs));
            attack_rows(&answers(policy), &attacks, &statistic, quality(at), flags)
        };
        let policy = |policy: usize, at: usize, others: &[Case]| {
            let formats = &calibration.nulls[policy].formats;
            let row = |case: &Case| {
                let permitted = case.format.is_some_and(|format| formats.contains(&format));
                honest_row(case, at, permitted)
            };
            Policy {
                formats: formats.iter().map(ToString::to_string).collect(),
                honest: honest.iter().chain(others).map(row).collect(),
                attacks: ours(policy, at, true),
            }
        };
        let baseline = |sum: fn(&Baselines) -> (f64, f64),
                        quality: fn(&Baselines) -> Option<f64>| {
            let quality = |answer: &Weighed| answer.baselines.as_ref().map_or(Some(0.0), quality);
            attack_rows(&answers(0), &attacks, &mean_of(sum), quality, None)
        };
        let none = |_: &Baselines| None;
        Self {
            command: plan.command(),
            sizes: Sizes {
                calibration: plan.calibration,
                honest: plan.honest,
                held_out: plan.held_out,
                remote: plan.remote,
                attacked: plan.attacked,
            },
            model: calibration.model.clone(),
            made_at: calibration.made_at.clone(),
            temperature: plan.temperature,
            attacks: ours(0, 0, true),
            attacks_by_tokens: ours(0, 0, false),
            honest: permitted(0).map(|case| honest_row(case, 0, true)).collect(),
            policies: (0..at_unseeded).map(|at| policy(at, at, &[])).collect(),
            without_seeds: policy(0, at_unseeded, &unseeded),
            baselines: BTreeMap::from([
                ("subnet 19", baseline(|b| (b.probabilities, 1.0), |b| Some(b.subnet19_score()))),
                ("Token-DiFR", baseline(|b| (b.margins, b.tokens), none)),
                ("Gonka", baseline(|b| (b.relative, b.tokens), none)),
            ]),
            stacks: calibration.stacks.clone(),
            at_once: speed.at_once,
            checks_per_second: speed.seeded,
            checks_per_second_without_seeds: speed.without_seeds,
        }
    }
}
