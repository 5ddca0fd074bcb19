//! What the numbers say, token by token.
//!
//! # Tokens
//! With the request's seed the model draws one token at each position. An honest miner's numeric noise makes it draw
//! another one where two scores nearly tie, so its mismatches are rare and their *deficits* (best score minus the given
//! token's score) tiny; another model's are frequent and large. Two hypotheses about one token, `p0` = 1 −
//! `full_agreement` and `p1` = 1 − `zero_agreement`:
//!
//! - *honest*, on the least precise permitted stack: a mismatch has probability `p0` and a deficit of density
//!   `f0 = 0.95 Exp(0.05) + 0.05 Exp(0.5)`, means in nats;
//! - *something else*: a mismatch has probability `p1` and a deficit of density `λ f0 + (1 − λ) Exp(1.9)`, `λ = p0 / p1`.
//!
//! The log-likelihood ratio is `ln((1 − p1) / (1 − p0))` for a match, a little below 0, and
//! `ln(1 + (p1/p0 − 1) Exp(1.9)(d) / f0(d))` for a mismatch: at least 0, growing with `d`, cut at 6 so that no single
//! token decides. The token that ends an answer is not cut: whoever ends an answer early forges just that one, and an
//! answer `[end]` would cost nothing. `λ` is the smallest share for which a mismatch never speaks *for* the miner.
//!
//! The *deviation* is the largest sum of these over any stretch of the answer (so that honest tokens do not buy room for
//! others). A ratio has mean 1 under *honest* and less for every more precise stack, so by Ville's inequality and a union
//! over the starting points an honest answer of `n` tokens reaches a deviation `ln(n / α)` with probability at most `α`,
//! as long as the hypothesis *honest* holds for each token given the ones before. The quality is 1 up to `α` = 1e-3, 0
//! from `α` = 1e-5, and linear in the deviation between.
//!
//! # Log-probabilities
//! The mean absolute difference to the reference, each one cut at 10 nats. The mean of few values strays, so both of the
//! task's bounds are raised by `3 / √n` of the tolerance; the quality falls linearly between them.

use common::checks::Evidence;
use common::generation::Sampling;
use common::receipt::Generated;
use engine::{Reference, TokenScore};
use statrs::distribution::{Continuous, Exp};

use super::{BadReference, Standard};

/// Mean deficit of most honest mismatches, in nats. Measured: f16 0.002, Q8_0 0.005, emulated bf16 below this.
const HONEST_DEFICIT: f64 = 0.05;
/// Share of honest mismatches that are larger, and their mean: numeric noise has heavy tails.
const TAIL_SHARE: f64 = 0.05;
const TAIL_DEFICIT: f64 = 0.5;
/// Mean deficit of another model's mismatches; gives the measured median of 1.3 nats.
const OTHER_DEFICIT: f64 = 1.9;
/// The most that a token can say that does not end the answer, in nats: below what lowers the quality of an answer of
/// one token.
const TOKEN_LIMIT: f64 = 6.0;

/// Probability that an honest answer reaches a deviation at which its quality begins to fall, and is gone.
const SOFT_ALPHA: f64 = 1e-3;
const HARD_ALPHA: f64 = 1e-5;

/// Deficits and log-probability differences beyond these count as these: infinities have no mean.
const LARGEST_DEFICIT: f64 = 20.0;
const LARGEST_DIFFERENCE: f64 = 10.0;

/// The evidence and what it leaves of the quality.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    pub(super) evidence: Evidence,
    pub(super) mismatches: u32,
    /// Median deficit of the mismatches, in nats; 0 if there are none.
    pub(super) median_deficit: f64,
    /// The deficit, in nats, of an ending that says more against the answer than any other token may.
    pub(super) end_deficit: Option<f64>,
    pub(super) token_quality: f64,
    pub(super) logprob_quality: f64,
}

/// Weighs an answer of at least one token and as many log-probabilities. Its last `ending` tokens end it.
pub(super) fn measure(
    generated: &Generated,
    ending: usize,
    sampling: Sampling,
    reference: &Reference,
    standard: Standard,
) -> Result<Measured, BadReference> {
    let scores = &reference.tokens;
    if scores.len() != generated.tokens.len() || scores.is_empty() {
        return Err(BadReference::Length { expected: generated.tokens.len(), got: scores.len() });
    }
    if let Some(position) =
        scores.iter().position(|score| score.logprob.is_nan() || score.deficit.is_nan())
    {
        return Err(BadReference::NotANumber { position });
    }

    let hypotheses = Hypotheses::new(standard);
    let mut sum = 0.0_f64;
    let mut deviation = 0.0_f64;
    let mut deficits = Vec::new();
    let mut end_deficit = None;
    let first_of_ending = scores.len().saturating_sub(ending);
    for (position, (score, token)) in scores.iter().zip(&generated.tokens).enumerate() {
        let deficit = (score.drawn != *token).then(|| in_logits(score, sampling.temperature));
        let mut ratio = hypotheses.log_ratio(deficit);
        if position < first_of_ending {
            ratio = ratio.min(TOKEN_LIMIT);
        } else if ratio > TOKEN_LIMIT {
            end_deficit = deficit;
        }
        sum = (sum + ratio).max(0.0);
        deviation = deviation.max(sum);
        deficits.extend(deficit);
    }
    let count = scores.len() as f64;
    let distance = scores
        .iter()
        .zip(&generated.logprobs)
        .map(|(score, reported)| difference(score.logprob, *reported))
        .sum::<f64>()
        / count;
    let entropies =
        scores.iter().map(|score| f64::from(score.entropy)).filter(|entropy| entropy.is_finite());
    let slack = 3.0 / count.sqrt() * standard.logprob_tolerance;

    Ok(Measured {
        evidence: Evidence {
            tokens: scores.len() as u32,
            seeded_agreement: 1.0 - deficits.len() as f64 / count,
            // An empty sum is a negative zero.
            mean_deficit: deficits.iter().sum::<f64>() / count + 0.0,
            logprob_distance: distance,
            mean_entropy: entropies.sum::<f64>() / count,
            deviation,
            findings: Vec::new(),
        },
        mismatches: deficits.len() as u32,
        end_deficit,
        median_deficit: median(&mut deficits),
        token_quality: falling(deviation, (count / SOFT_ALPHA).ln(), (count / HARD_ALPHA).ln()),
        logprob_quality: falling(
            distance,
            standard.logprob_tolerance + slack,
            standard.logprob_limit + slack,
        ),
    })
}

/// The two hypotheses about one token.
#[derive(Debug, Clone, Copy)]
struct Hypotheses {
    /// `p1 / p0`, above 1.
    odds: f64,
    match_ratio: f64,
}

impl Hypotheses {
    fn new(standard: Standard) -> Self {
        // Bounds that no catalogue reaches; they keep the logarithms finite whatever the settings.
        let honest = (1.0 - standard.full_agreement).clamp(1e-6, 0.4);
        let other = (1.0 - standard.zero_agreement).clamp(1.5 * honest, 0.99);
        Self { odds: other / honest, match_ratio: ((1.0 - other) / (1.0 - honest)).ln() }
    }

    /// Log-likelihood ratio of a match (`None`) or of a mismatch with a deficit in nats.
    fn log_ratio(self, deficit: Option<f64>) -> f64 {
        let Some(deficit) = deficit else { return self.match_ratio };
        let honest = (1.0 - TAIL_SHARE) * density(HONEST_DEFICIT, deficit)
            + TAIL_SHARE * density(TAIL_DEFICIT, deficit);
        (1.0 + (self.odds - 1.0) * density(OTHER_DEFICIT, deficit) / honest).ln()
    }
}

/// Density of the exponential distribution with this mean.
fn density(mean: f64, at: f64) -> f64 {
    Exp::new(1.0 / mean).map_or(0.0, |exponential| exponential.pdf(at))
}

/// The deficit, bounded, in units of logits: a low temperature magnifies honest noise as much as anything else.
fn in_logits(score: &TokenScore, temperature: f64) -> f64 {
    let scale = if temperature > 0.0 { temperature.min(1.0) } else { 1.0 };
    (f64::from(score.deficit) * scale).clamp(0.0, LARGEST_DEFICIT)
}

fn difference(reference: f32, reported: f32) -> f64 {
    (f64::from(reference) - f64::from(reported)).abs().min(LARGEST_DIFFERENCE)
}

/// 1 up to `full`, 0 from `zero`, linear between.
fn falling(value: f64, full: f64, zero: f64) -> f64 {
    if value <= full {
        1.0
    } else if value >= zero {
        0.0
    } else {
        (zero - value) / (zero - full)
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STANDARD: Standard = Standard {
        full_agreement: 0.995,
        zero_agreement: 0.95,
        logprob_tolerance: 0.02,
        logprob_limit: 0.1,
    };

    #[test]
    fn a_ratio_of_hypotheses_has_mean_one_under_the_honest_one() {
        let hypotheses = Hypotheses::new(STANDARD);
        let honest = 1.0 - STANDARD.full_agreement;
        let mut mean = (1.0 - honest) * hypotheses.match_ratio.exp();
        let step = 0.001;
        for index in 0..20_000 {
            let deficit = (f64::from(index) + 0.5) * step;
            let density = (1.0 - TAIL_SHARE) * density(HONEST_DEFICIT, deficit)
                + TAIL_SHARE * density(TAIL_DEFICIT, deficit);
            mean += honest * density * step * hypotheses.log_ratio(Some(deficit)).exp();
        }
        // Cutting the ratio of single tokens makes it a little smaller.
        assert!((0.999..=1.0 + 1e-4).contains(&mean), "{mean}");
    }

    #[test]
    fn a_single_token_within_an_answer_never_lowers_the_quality() {
        assert!(TOKEN_LIMIT < (1.0 / SOFT_ALPHA).ln());
    }

    #[test]
    fn a_ratio_is_finite_up_to_the_largest_deficit() {
        assert!(Hypotheses::new(STANDARD).log_ratio(Some(LARGEST_DEFICIT)) < 50.0);
    }

    proptest! {
        #[test]
        fn a_larger_deficit_never_speaks_less_against_the_miner(
            a in 0.0..30.0_f64, b in 0.0..30.0_f64, full in 0.0..1.0_f64, zero in 0.0..1.0_f64,
        ) {
            let hypotheses = Hypotheses::new(Standard { full_agreement: full, zero_agreement: zero, ..STANDARD });
            let (small, large) = (a.min(b), a.max(b));
            prop_assert!(hypotheses.log_ratio(None) <= 0.0);
            prop_assert!(hypotheses.log_ratio(Some(small)) >= 0.0);
            prop_assert!(hypotheses.log_ratio(Some(small)) <= hypotheses.log_ratio(Some(large)));
        }
    }
}
