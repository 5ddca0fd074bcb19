//! Computes a weight from the numbers of an explanation alone, as a miner would with pen and paper.
//!
//! The formulas are written down here a second time on purpose: an explanation that leaves something out, or scoring that
//! does something else than it says, shows as a difference.

use std::collections::BTreeMap;

use chain::weights::{MAX_WEIGHT, encode_within};
use common::{Hotkey, Uid};
use serde::{Deserialize, Serialize};

use super::build::share_exponent;
use super::{Explanation, FieldMiner};
use crate::scoring::{Factors, Rules, Score, subnet19, touchstone};

/// Numbers are stored as decimal text, which may cost the last bit of each.
const TOLERANCE: f64 = 1e-12;

/// Whether the numbers shown come to the weight shown.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Reproduction {
    pub yes: bool,
    /// The first number that comes out differently.
    pub differs: Option<Difference>,
}

/// A number that does not follow from the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Which one.
    pub number: String,
    pub shown: f64,
    pub computed: f64,
}

/// Computes everything from the factors to the weight on chain and compares it with what is shown.
///
/// Where the weights on chain come from another scoring, only the weight by this scoring can be computed.
pub fn reproduce(shown: &Explanation) -> Reproduction {
    let differs = check(shown).err();
    Reproduction { yes: differs.is_none(), differs }
}

/// The weights on chain that the miners' shown weights come to, by uid: of those that have one.
pub fn weights(shown: &Explanation) -> Vec<(Uid, u16)> {
    let limit = shown.on_chain.as_ref().map_or(MAX_WEIGHT, |on_chain| on_chain.max_weights_limit);
    encoded(&shown.miners, limit).into_iter().map(|(uid, (_, weight))| (uid, weight)).collect()
}

fn check(shown: &Explanation) -> Result<(), Difference> {
    for task in &shown.tasks {
        let Some(score) = &task.score else { continue };
        let of_task = |number: &str| format!("{number} of {}", task.task);
        let volume = volume(&shown.scoring.rules, &score.factors, &of_task)?;
        same(of_task("the effective volume"), score.effective_volume, volume)?;
        let listed = shown.volumes.get(&task.task).and_then(|all| all.get(&shown.hotkey));
        same(of_task("the listed volume"), listed.copied().unwrap_or(0.0), volume)?;
    }
    let scores = scores(shown)?;
    let total: f64 = scores.values().sum();
    same("the sum of all scores", shown.all_scores, total)?;
    for miner in &shown.miners {
        let score = scores.get(&miner.hotkey).copied().unwrap_or(0.0);
        same(format!("the score of {}", miner.hotkey), miner.score, score)?;
        let weight = if total > 0.0 { score / total } else { 0.0 };
        same(format!("the weight of {}", miner.hotkey), miner.weight, weight)?;
        if miner.hotkey == shown.hotkey {
            same("the score", shown.score, score)?;
            same("the weight", shown.weight, weight)?;
        }
    }
    check_on_chain(shown)
}

fn check_on_chain(shown: &Explanation) -> Result<(), Difference> {
    let Some(on_chain) = shown.on_chain.as_ref().filter(|_| shown.weights_come_from_scoring) else {
        return Ok(());
    };
    let encoded = encoded(&shown.miners, on_chain.max_weights_limit);
    for miner in &shown.miners {
        let Some(uid) = miner.uid else { continue };
        let weight = encoded.get(&uid).map_or(0, |(_, weight)| *weight);
        same(format!("the weight on chain of uid {uid}"), miner.on_chain.into(), weight.into())?;
    }
    let own = encoded.values().find(|(hotkey, _)| *hotkey == shown.hotkey);
    same("the weight on chain", on_chain.weight.into(), own.map_or(0, |(_, weight)| *weight).into())
}

/// Everybody's score from everybody's volumes, and whether the miner's contributions are those.
fn scores(shown: &Explanation) -> Result<BTreeMap<Hotkey, f64>, Difference> {
    let exponent = share_exponent(&shown.scoring.rules);
    let mut scores: BTreeMap<Hotkey, f64> = BTreeMap::new();
    for (task, weighting) in &shown.scoring.weightings {
        let Some(volumes) = shown.volumes.get(task) else { continue };
        let weighting = amount(*weighting).min(1.0);
        let (_, powers) = powers(&volumes.values().copied().collect::<Vec<_>>(), exponent);
        let sum: f64 = powers.iter().sum();
        for (hotkey, power) in volumes.keys().zip(powers) {
            let share = if sum > 0.0 { power / sum } else { 0.0 };
            *scores.entry(*hotkey).or_default() += weighting * share;
            if *hotkey != shown.hotkey {
                continue;
            }
            let contribution = shown.contributions.get(task).copied().unwrap_or_default();
            same(format!("the share of {task}"), contribution.share, share)?;
            same(
                format!("the contribution of {task}"),
                contribution.contribution,
                weighting * share,
            )?;
        }
    }
    Ok(scores)
}

/// The largest volume, and each as a part of it to the power of `exponent`.
pub(super) fn powers(volumes: &[f64], exponent: f64) -> (f64, Vec<f64>) {
    let largest = volumes.iter().copied().fold(0.0, f64::max);
    let power = |volume: &f64| if largest > 0.0 { (volume / largest).powf(exponent) } else { 0.0 };
    (largest, volumes.iter().map(power).collect())
}

/// The effective volume that the factors come to, after each factor that can be computed was.
fn volume(
    rules: &Rules,
    factors: &Factors,
    of_task: &impl Fn(&str) -> String,
) -> Result<f64, Difference> {
    match (rules, factors) {
        (Rules::Touchstone(parameters), Factors::Touchstone(factors)) => {
            touchstone_volume(parameters, factors, of_task)
        }
        (Rules::Subnet19(parameters), Factors::Subnet19(factors)) => {
            subnet19_volume(parameters, factors, of_task)
        }
        // Factors of other rules than those in force.
        _ => Ok(0.0),
    }
}

fn touchstone_volume(
    parameters: &touchstone::Parameters,
    factors: &touchstone::Factors,
    of_task: &impl Fn(&str) -> String,
) -> Result<f64, Difference> {
    let summary = &factors.summary;
    let part = |of: f64, whole: f64| if whole > 0.0 { amount(of / whole) } else { 0.0 };
    let mean = Score::clamped(part(summary.quality_sum, summary.checked)).get();
    let quality = if summary.checked > 0.0 { mean.powf(parameters.quality_exponent) } else { 0.0 };
    same(of_task("the quality"), summary.quality.map_or(0.0, Score::get), quality)?;
    let presence = part(summary.seconds, summary.observed).min(1.0);
    same(of_task("the presence"), summary.presence.get(), presence)?;

    let asked = summary.served + summary.refusal_cost + parameters.failure_cost * summary.failed;
    let answered = if asked > 0.0 { Score::clamped(summary.served / asked).get() } else { 0.0 };
    let reliability = answered.powf(parameters.reliability_exponent);
    same(of_task("the reliability"), summary.reliability.get(), reliability)?;

    let certain = summary.shown - parameters.confidence * summary.error;
    let proven = summary.capacity.min(summary.usual).min(amount(certain).max(summary.used));
    // What is left of two large numbers is as uncertain as they are.
    let scale = summary.shown.abs().max(summary.error.abs());
    same_within(of_task("the proven volume"), summary.proven, proven, scale)?;

    let speed_factor = match (summary.speed, factors.typical_speed) {
        (Some(speed), Some(typical)) if speed / 2.0 + typical / 2.0 > 0.0 => {
            let relative = (speed / 2.0 - typical / 2.0) / (speed / 2.0 + typical / 2.0);
            1.0 + parameters.speed_bonus / 2.0 * relative
        }
        _ => 1.0,
    };
    same_within(of_task("the speed factor"), factors.speed_factor, speed_factor, 1.0)?;

    let quality = summary.quality.map_or(0.0, Score::get);
    let kept = quality * summary.reliability.get() * summary.presence.get();
    Ok(((kept * summary.proven).min(f64::MAX) * factors.speed_factor).min(f64::MAX))
}

fn subnet19_volume(
    parameters: &subnet19::Parameters,
    factors: &subnet19::Factors,
    of_task: &impl Fn(&str) -> String,
) -> Result<f64, Difference> {
    let subnet19::Factors { summary, speed_bonus, combined_quality } = factors;
    let combined = summary.quality.map_or(0.0, Score::get) * (1.0 + speed_bonus);
    same_within(of_task("the combined quality"), *combined_quality, combined, 1.0)?;

    let history = &summary.history;
    let full = history.scored_periods >= parameters.full_history_periods;
    let multiplier = if full { 1.0 } else { parameters.newcomer_multiplier };
    same(of_task("the newcomer's multiplier"), history.multiplier, multiplier)?;
    let score = history.mean.get() * history.multiplier;
    same(of_task("the history"), history.score.get(), score)?;

    Ok((combined_quality * history.score.get() * summary.capacity).min(f64::MAX))
}

/// What the chain stores of these weights, by uid. Miners without a weight there were not registered, or round to 0.
fn encoded(miners: &[FieldMiner], limit: u16) -> BTreeMap<Uid, (Hotkey, u16)> {
    let registered: Vec<(Uid, &FieldMiner)> =
        miners.iter().filter_map(|miner| Some((miner.uid?, miner))).collect();
    let encode = |nudged: Option<(Uid, f64)>| {
        let weight = |(uid, miner): &(Uid, &FieldMiner)| match nudged {
            Some((nudged, factor)) if nudged == *uid => (uid.0, miner.weight * factor),
            _ => (uid.0, miner.weight),
        };
        let weights: Vec<_> = registered.iter().map(weight).collect();
        let encoded = encode_within(&weights, limit).unwrap_or_default();
        encoded.into_iter().collect::<BTreeMap<_, _>>()
    };
    let plain = encode(None);
    registered
        .iter()
        .map(|(uid, miner)| {
            let weight = plain.get(uid).copied().unwrap_or(0);
            // A number that lies in the middle between two weights may have lost the bit that decides.
            let middle = weight.abs_diff(miner.on_chain) == 1
                && [1.0 - TOLERANCE, 1.0 + TOLERANCE].into_iter().any(|factor| {
                    encode(Some((*uid, factor))).get(uid).copied().unwrap_or(0) == miner.on_chain
                });
            (*uid, (miner.hotkey, if middle { miner.on_chain } else { weight }))
        })
        .collect()
}

/// The subnet's limit on a single weight, which is not stored: one with which the weights come out as the chain has them.
pub(super) fn limit_that_shows(miners: &[FieldMiner]) -> Option<u16> {
    let fits = |limit: &u16| {
        let encoded = encoded(miners, *limit);
        miners.iter().all(|miner| {
            miner.uid.and_then(|uid| encoded.get(&uid)).map_or(0, |(_, weight)| *weight)
                == miner.on_chain
        })
    };
    // Where it binds, the largest weight is the limit's part of all, but for the rounding of each.
    let sum: f64 = miners.iter().map(|miner| f64::from(miner.on_chain)).sum();
    let largest = miners.iter().map(|miner| miner.on_chain).max().unwrap_or(0);
    let limit = f64::from(largest) / sum * f64::from(MAX_WEIGHT);
    let rounding = (limit * miners.len() as f64 / sum).min(1_000.0) + 2.0;
    let near = (limit - rounding).max(1.0) as u16..=(limit + rounding) as u16;
    std::iter::once(MAX_WEIGHT).chain(near).find(fits)
}

fn same(number: impl Into<String>, shown: f64, computed: f64) -> Result<(), Difference> {
    same_within(number, shown, computed, 0.0)
}

/// `scale`: the size of the numbers that both were computed from, if that is larger than theirs.
fn same_within(
    number: impl Into<String>,
    shown: f64,
    computed: f64,
    scale: f64,
) -> Result<(), Difference> {
    let scale = shown.abs().max(computed.abs()).max(scale).max(f64::MIN_POSITIVE / TOLERANCE);
    // Halves, so that the largest numbers do not overflow.
    if (shown / 2.0 - computed / 2.0).abs() <= TOLERANCE / 2.0 * scale {
        Ok(())
    } else {
        Err(Difference { number: number.into(), shown, computed })
    }
}

fn amount(raw: f64) -> f64 {
    if raw.is_finite() { raw.max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests;
