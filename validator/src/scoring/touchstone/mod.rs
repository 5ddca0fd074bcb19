//! This project's formulas: volume that was shown, weighed by quality, reliability, presence and speed.
//!
//! Each factor is smooth: a little more or less evidence never moves a score by a step. `docs/scoring.md` gives the
//! reasons and `docs/incentives.md` what they come to against miners that try to earn more than they serve.

mod parameters;
mod speed;

use serde::{Deserialize, Serialize};

use super::{Evidence, Score, Span, Stretch, amount};

pub use parameters::Parameters;
use speed::{speed, speed_factor, typical_speed};

/// What the evidence about one contender comes to. Sums are weighed: evidence counts half after each half-life.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// The mean quality of the checked answers to the power of `quality_exponent`; absent without any. Without checked
    /// answers a miner earns nothing.
    pub quality: Option<Score>,
    /// Their number and the sum of their qualities, weighed; users' count `organic_weight` times.
    pub checked: f64,
    pub quality_sum: f64,
    /// The low percentile of the stretches' speeds, in units per second; absent without any.
    pub speed: Option<f64>,
    /// `(served / (served + refusal_cost + failure_cost * failed))^reliability_exponent`; 0 where nothing was asked.
    pub reliability: Score,
    /// What reliability was computed from, weighed; users' requests count `organic_weight` times.
    pub served: f64,
    pub refusal_cost: f64,
    pub failed: f64,
    /// The part of the validator's time in which the miner was there, `seconds / observed`.
    pub presence: Score,
    /// The time in which it was asked, and the time in which it could have been asked, weighed.
    pub seconds: f64,
    pub observed: f64,
    /// The volume per period that counts: `min(capacity, usual, max(shown - confidence * error, used))`.
    pub proven: f64,
    /// The declared volume per period now, in the task's unit.
    pub capacity: f64,
    /// The mean volume per period that it has declared, so that declaring much now and then does not count as much.
    pub usual: f64,
    /// The mean volume per period that bursts have shown, and its standard error.
    pub shown: f64,
    pub error: f64,
    /// Bursts, weighed.
    pub exams: f64,
    /// The volume per period that was served, whatever was asked.
    pub used: f64,
}

/// The numbers that make the effective volume, `quality * speed_factor * reliability * presence * proven`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Factors {
    pub summary: Summary,
    /// The speed that earns neither a bonus nor a malus: the task's median, each miner counting by its volume.
    pub typical_speed: Option<f64>,
    /// `1 + speed_bonus / 2 * (r - 1) / (r + 1)`, where r is the miner's speed relative to the typical one; 1 without a
    /// speed.
    pub speed_factor: f64,
}

/// What evidence of this time counts now, `0.0..=1.0`: half after each half-life. Evidence from the future, which a
/// clock that was set back leaves behind, counts as new.
fn weight(parameters: &Parameters, now_ms: i64, at_ms: i64) -> f64 {
    let age_hours = now_ms.saturating_sub(at_ms).max(0) as f64 / 3_600_000.0;
    (-age_hours / parameters.half_life_hours).exp2()
}

/// The seconds of all of the validator's periods, each weighed by its age: what a miner that was always there has.
pub fn observed(parameters: &Parameters, now_ms: i64, spans: &[Span]) -> f64 {
    spans
        .iter()
        .map(|span| weight(parameters, now_ms, span.at_ms) * amount(span.seconds))
        .sum::<f64>()
        .min(f64::MAX)
}

/// Sums up one contender. `observed` is that of [`observed`], `period_s` the length of a scoring period.
pub fn sum_up(
    parameters: &Parameters,
    now_ms: i64,
    observed: f64,
    period_s: f64,
    evidence: &Evidence,
) -> Summary {
    let mut sums = Sums::default();
    for stretch in &evidence.stretches {
        sums.add(parameters, weight(parameters, now_ms, stretch.at_ms), stretch);
    }
    let capacity = amount(evidence.capacity);
    let (shown, error) = sums.shown();
    let used = amount(ratio(sums.consumed, sums.seconds) * period_s);
    let usual = amount(ratio(sums.declared, sums.seconds + sums.idle_seconds) * period_s);
    let shown_at_least = amount(shown - parameters.confidence * error);
    let quality = (sums.checked > 0.0).then(|| {
        let mean = Score::clamped(ratio(sums.quality, sums.checked));
        Score::clamped(mean.get().powf(parameters.quality_exponent))
    });
    let askable = amount(observed - sums.idle_seconds);
    let asked = sums.served + sums.refusal_cost + parameters.failure_cost * sums.failed;
    let reliability = Score::clamped(ratio(sums.served, asked));
    Summary {
        quality,
        checked: sums.checked,
        quality_sum: sums.quality,
        speed: speed(parameters, now_ms, &evidence.stretches),
        reliability: Score::clamped(reliability.get().powf(parameters.reliability_exponent)),
        served: sums.served,
        refusal_cost: sums.refusal_cost,
        failed: sums.failed,
        presence: Score::clamped(ratio(sums.seconds, askable).min(1.0)),
        seconds: sums.seconds,
        observed: askable,
        proven: capacity.min(usual).min(shown_at_least.max(used)),
        capacity,
        usual,
        shown,
        error,
        exams: sums.exams,
        used,
    }
}

/// The effective volumes of a task's contenders, in their order.
pub fn volumes(parameters: &Parameters, contenders: &[Summary]) -> Vec<(Factors, f64)> {
    let plain = |summary: &Summary| {
        let quality = summary.quality.map_or(0.0, Score::get);
        let kept = quality * summary.reliability.get() * summary.presence.get();
        (kept * amount(summary.proven)).min(f64::MAX)
    };
    let measured = contenders.iter().filter_map(|summary| Some((summary.speed?, plain(summary))));
    let typical = typical_speed(measured.collect());
    contenders
        .iter()
        .map(|summary| {
            let speed_factor = speed_factor(parameters, summary.speed, typical);
            let factors = Factors { summary: *summary, typical_speed: typical, speed_factor };
            (factors, (plain(summary) * speed_factor).min(f64::MAX))
        })
        .collect()
}

/// A part of a whole; 0 of nothing.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { amount(part / whole) } else { 0.0 }
}

/// Weighed sums over stretches.
#[derive(Debug, Default)]
struct Sums {
    seconds: f64,
    idle_seconds: f64,
    declared: f64,
    consumed: f64,
    served: f64,
    refusal_cost: f64,
    failed: f64,
    checked: f64,
    quality: f64,
    exams: f64,
    exams_squared: f64,
    shown: f64,
    shown_squared: f64,
}

impl Sums {
    fn add(&mut self, parameters: &Parameters, weight: f64, stretch: &Stretch) {
        // Counts an organic part `organic_weight` times instead of once.
        let preferred = |all: f64, organic: f64| {
            let organic = amount(organic).min(amount(all));
            weight * (amount(all) - organic + parameters.organic_weight * organic)
        };
        self.seconds += weight * amount(stretch.seconds);
        self.idle_seconds += weight * amount(stretch.idle_seconds);
        self.declared += weight * amount(stretch.declared);
        self.consumed += weight * amount(stretch.consumed);
        self.served += preferred(stretch.served as f64, stretch.organic_served as f64);
        self.refusal_cost += preferred(stretch.refusal_cost, stretch.organic_refusal_cost);
        self.failed += preferred(stretch.failed as f64, stretch.organic_failed as f64);
        self.checked += preferred(stretch.checked as f64, stretch.organic_checked as f64);
        self.quality += preferred(stretch.quality, stretch.organic_quality);
        self.exams += weight * stretch.exams as f64;
        self.exams_squared += weight * weight * stretch.exams as f64;
        self.shown += weight * amount(stretch.shown);
        self.shown_squared += weight * amount(stretch.shown_squared);
    }

    /// The mean of the shown volumes and its standard error, by Kish's effective number for weighed samples.
    fn shown(&self) -> (f64, f64) {
        let mean = ratio(self.shown, self.exams);
        let variance = amount(ratio(self.shown_squared, self.exams) - mean * mean);
        // What is left when equal numbers are subtracted is rounding, no variation.
        let variance = if variance > mean * mean * 1e-9 { variance } else { 0.0 };
        // 1 / n_eff = sum of squared weights / squared sum of weights.
        let error = (variance * ratio(self.exams_squared, self.exams * self.exams)).sqrt();
        (mean, amount(error))
    }
}

#[cfg(test)]
mod tests;
