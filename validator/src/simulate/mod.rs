//! What strategies earn: the validator's own scheduling, accounting and scoring over simulated miners and simulated time.

mod backend;
mod ledger;
mod report;
mod statistics;
mod strategy;
mod world;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::TaskId;
use serde::Serialize;
use url::Url;

use crate::scoring::{Preset, Rules};
use statistics::ratio_of_means;
use strategy::{Strategy, Trial, Variant, comparisons, strategies};

pub use report::{NoPlace, put_into, tables};

/// Weights are set once in so many periods: about a tempo of 360 blocks.
const PERIODS_PER_WEIGHTS: u64 = 3;

/// What is simulated.
#[derive(Debug, Clone, PartialEq)]
struct Setting {
    task: TaskId,
    /// The address of all simulated miners. Nobody calls it.
    nowhere: Url,
    /// Units that an answer has on average.
    tokens_per_request: f64,
    /// The most that a miner may declare for a period.
    max_capacity: f64,
    /// Seconds until an answer has to be whole.
    total_s: f64,
    /// The part of answers that is checked at least.
    checking_share: f64,
    /// What users ask for, as a part of what all hardware can do.
    organic: f64,
    /// Honest miners beside the one that is looked at.
    field: usize,
    period: Duration,
    /// All periods, and those among them that come before income counts.
    periods: u64,
    warm_up: u64,
}

/// How much is simulated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Amount {
    /// Scoring periods of half an hour for which income counts. A day more is simulated before.
    pub periods: u64,
    /// Simulated subnets for each way to run hardware, each with hardware and chance of its own. With fewer than four,
    /// intervals are endless.
    pub seeds: u64,
    /// What users ask for, as a part of what all hardware can do, `0.0..=1.0`.
    pub users: f64,
}

/// What strategies earn by one preset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Results {
    pub preset: Preset,
    pub seeds: u64,
    pub periods: u64,
    pub strategies: Vec<Outcome>,
    /// Honest ways that are no strategies.
    #[serde(skip)]
    pub comparisons: Vec<Tried>,
}

/// What a strategy earns with the parameter that pays best of those tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    pub name: &'static str,
    /// What the hardware earns, where it earns 1 if it is run honestly.
    pub income_vs_honest: f64,
    /// The interval that holds it with 95 % confidence.
    pub ci95: [f64; 2],
    /// What it does, as the rest of a sentence.
    #[serde(skip)]
    pub does: &'static str,
    /// All parameters.
    #[serde(skip)]
    pub tried: Vec<Tried>,
}

/// What a strategy earns with one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Tried {
    /// The parameter in words.
    pub with: String,
    /// See [`Outcome`].
    pub income_vs_honest: f64,
    pub ci95: [f64; 2],
}

impl Outcome {
    fn of(Strategy { name, does, .. }: &Strategy, tried: Vec<Tried>) -> Self {
        let best = tried.iter().max_by(|a, b| a.income_vs_honest.total_cmp(&b.income_vs_honest));
        let (income_vs_honest, ci95) =
            best.map_or((0.0, [0.0; 2]), |best| (best.income_vs_honest, best.ci95));
        Self { name, income_vs_honest, ci95, does, tried }
    }

    /// The parameter that pays best, in words.
    pub fn best(&self) -> &str {
        let best = |tried: &&Tried| tried.income_vs_honest == self.income_vs_honest;
        self.tried.iter().find(best).map_or("", |tried| &tried.with)
    }
}

impl Setting {
    /// # Errors
    /// Never, as the task's name and the address are good ones.
    fn new(amount: Amount) -> anyhow::Result<Self> {
        let warm_up = 48;
        Ok(Self {
            task: "simulated".parse()?,
            nowhere: "http://0.0.0.0".parse()?,
            tokens_per_request: 300.0,
            max_capacity: 1_200_000.0,
            total_s: 60.0,
            checking_share: 0.25,
            organic: amount.users,
            field: 12,
            period: Duration::from_secs(1_800),
            periods: warm_up + amount.periods,
            warm_up,
        })
    }
}

/// Simulates all strategies. `progress` is called with the numbers of simulated subnets that are done and that there are.
///
/// # Errors
/// Never, as the simulated task has a good name and the miners a good address.
pub fn run(
    preset: Preset,
    amount: Amount,
    progress: impl Fn(usize, usize) + Sync,
) -> anyhow::Result<Results> {
    let Amount { seeds, periods, .. } = amount;
    let (strategies, comparisons) = (strategies(), comparisons());
    let trials: Vec<&Trial> =
        strategies.iter().flat_map(|strategy| &strategy.trials).chain(&comparisons).collect();
    let tried = try_out(&Setting::new(amount)?, &Rules::of(preset), &trials, seeds, progress);
    let mut tried = tried.into_iter();
    let strategies = strategies
        .iter()
        .map(|strategy| Outcome::of(strategy, tried.by_ref().take(strategy.trials.len()).collect()))
        .collect();
    Ok(Results { preset, seeds, periods, strategies, comparisons: tried.collect() })
}

/// What the trials earn, in their order.
fn try_out(
    setting: &Setting,
    rules: &Rules,
    trials: &[&Trial],
    seeds: u64,
    progress: impl Fn(usize, usize) + Sync,
) -> Vec<Tried> {
    let mut variants: Vec<&Variant> = Vec::new();
    for variant in trials.iter().flat_map(|trial| [&trial.honest, &trial.variant]) {
        if !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    let incomes = incomes(setting, rules, &variants, seeds, progress);
    let of = |variant: &Variant| {
        let at = variants.iter().position(|own| *own == variant);
        at.and_then(|at| incomes.get(at)).map_or(&[][..], Vec::as_slice)
    };
    trials
        .iter()
        .map(|Trial { with, variant, honest }| {
            let pairs: Vec<_> =
                of(variant).iter().copied().zip(of(honest).iter().copied()).collect();
            let (income_vs_honest, ci95) = ratio_of_means(&pairs);
            Tried { with: with.clone(), income_vs_honest, ci95 }
        })
        .collect()
}

/// The incomes of all variants, by seed.
fn incomes(
    setting: &Setting,
    rules: &Rules,
    variants: &[&Variant],
    seeds: u64,
    progress: impl Fn(usize, usize) + Sync,
) -> Vec<Vec<f64>> {
    let jobs: Vec<_> = variants
        .iter()
        .enumerate()
        .flat_map(|(at, variant)| (0..seeds).map(move |seed| (at, *variant, seed)))
        .collect();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let incomes = Mutex::new(vec![vec![0.0; seeds as usize]; variants.len()]);
    let work = || {
        while let Some((at, variant, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let income = world::income(setting, rules, variant, *seed);
            let mut incomes = incomes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = incomes.get_mut(*at).and_then(|own| own.get_mut(*seed as usize)) {
                *place = income;
            }
            drop(incomes);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    incomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
