//! How far reported log-probabilities stray from the reference's, and how far those of honest stacks do.
//!
//! Noise in logits moves the log-probability of a token by more where the model is unsure. With independent noise of
//! variance `s²` in every logit, that of the token is `s² (1 − 2p + Σ p²)`. The *stray* of an answer is the estimate of
//! `s` from all its tokens, `√(Σ r² / Σ (1 − 2p + Σ p²))`, in nats; it is compared by its logarithm, which is nearly
//! normal over answers. The distribution is fitted with Student's t of few degrees of freedom, whose tails are heavier
//! than any that were measured.

use engine::TokenScore;
use serde::{Deserialize, Serialize};
use statrs::distribution::{Continuous, StudentsT};

/// Differences count at most so much, in nats: infinities have no mean.
const LARGEST: f64 = 5.0;
/// Added to the sums, so that an answer without doubt does not turn rounding into evidence: in nats².
const ROUNDING: f64 = 1e-12;
const LEAST_DOUBT: f64 = 0.05;
/// Degrees of freedom of the fitted tails.
const FREEDOM: f64 = 12.0;
/// Fitted spreads are widened by this.
const MARGIN: f64 = 1.2;
/// Spreads to which honest values reach.
const REACH: f64 = 4.0;
/// The alternative: a stray larger by a factor of up to e^12, those up to about e likelier.
const WIDEST: f64 = 12.0;
const NEAR_SHARE: f64 = 0.5;
/// What one answer leaves of the evidence in any case.
const LEFT: f64 = 0.05;
/// Answers that a length must have for its fit.
const LEAST_ANSWERS: usize = 40;

/// Logarithm of an answer's stray.
pub fn log_stray<'a>(tokens: impl IntoIterator<Item = (&'a TokenScore, f32)>) -> f64 {
    let (mut squares, mut doubt) = (ROUNDING, LEAST_DOUBT);
    for (score, reported) in tokens {
        let difference = f64::from(score.logprob) - f64::from(reported);
        squares += difference.abs().min(LARGEST).powi(2);
        let p = f64::from(score.logprob).exp().min(1.0);
        doubt += (1.0 - 2.0 * p + f64::from(score.collision).clamp(0.0, 1.0)).max(0.0);
    }
    0.5 * (squares / doubt).ln()
}

/// How the logarithms of honest answers' strays are distributed, by length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Strays {
    lengths: Vec<Length>,
}

/// Answers of at least so many tokens, judged by their first so many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Length {
    tokens: usize,
    /// The median.
    middle: f64,
    /// Standard deviation of what lies above it, with a margin.
    spread: f64,
}

impl Strays {
    /// From the differences and scores of honest answers: of each, its tokens in order.
    pub fn measured(answers: &[Vec<(TokenScore, f32)>]) -> Self {
        let mut lengths = Vec::new();
        for tokens in (0..).map(|power| 1_usize << power) {
            let long = answers.iter().filter(|answer| answer.len() >= tokens);
            let mut values: Vec<f64> = long
                .map(|answer| log_stray(answer[..tokens].iter().map(|(score, lp)| (score, *lp))))
                .collect();
            if values.len() < LEAST_ANSWERS {
                break;
            }
            values.sort_by(f64::total_cmp);
            let middle = values[values.len() / 2];
            // Only what lies above matters, and a stray can come out far too small by chance.
            let above = &values[values.len() / 2..];
            let squares: f64 = above.iter().map(|value| (value - middle).powi(2)).sum();
            let spread = (squares / above.len() as f64).sqrt();
            lengths.push(Length { tokens, middle, spread: MARGIN * spread.max(0.02) });
        }
        Self { lengths }
    }

    /// For a stack that was not measured: a typical stray in nats, known to a factor of about 1.5.
    pub fn assumed(stray: f64) -> Self {
        Self { lengths: vec![Length { tokens: 1, middle: stray.ln(), spread: 0.4 }] }
    }

    /// The wider of two at each length that both were measured at.
    pub fn or(&self, other: &Self) -> Self {
        let wider = |own: &Length| {
            let other = other.at(own.tokens)?;
            let (wide, narrow) =
                if own.middle >= other.middle { (*own, other) } else { (other, *own) };
            // What reaches beyond the wider one from below widens it.
            let reach = (narrow.middle + REACH * narrow.spread - wide.middle) / REACH;
            Some(Length { tokens: own.tokens, middle: wide.middle, spread: wide.spread.max(reach) })
        };
        Self { lengths: self.lengths.iter().filter_map(wider).collect() }
    }

    fn at(&self, tokens: usize) -> Option<Length> {
        let after = self.lengths.partition_point(|length| length.tokens <= tokens);
        after.checked_sub(1).and_then(|at| self.lengths.get(at)).copied()
    }

    /// Logarithm of the e-value of an answer of so many tokens.
    pub fn log_e(&self, log_stray: f64, tokens: usize) -> f64 {
        let Some(Length { middle, spread, .. }) = self.at(tokens) else { return 0.0 };
        let beyond = log_stray - middle;
        if beyond <= 0.0 {
            return LEFT.ln();
        }
        let Ok(honest) = StudentsT::new(0.0, spread, FREEDOM) else { return 0.0 };
        let wide = if beyond < WIDEST { 1.0 / WIDEST } else { 0.0 };
        let other = NEAR_SHARE * (-beyond).exp() + (1.0 - NEAR_SHARE) * wide;
        ((1.0 - LEFT) * other / honest.pdf(beyond) + LEFT).ln()
    }

    /// The typical stray of an honest answer of so many tokens, in nats.
    pub fn typical(&self, tokens: usize) -> f64 {
        self.at(tokens).map_or(0.0, |length| length.middle.exp())
    }

    /// Whether it can be a distribution at all: what a file says is not trusted.
    pub fn is_sound(&self) -> bool {
        self.lengths.first().is_some_and(|first| first.tokens == 1)
            && self.lengths.is_sorted_by(|a, b| a.tokens < b.tokens)
            && self
                .lengths
                .iter()
                .all(|length| length.middle.is_finite() && (1e-3..=10.0).contains(&length.spread))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn score(logprob: f32) -> TokenScore {
        TokenScore {
            logprob,
            log_sum_exp: 0.0,
            rank: 0,
            entropy: 1.0,
            variance: 1.0,
            collision: 0.3,
            drawn: 0,
            deficit: 0.0,
            rivals: Vec::new(),
            elsewhere: [0; 4],
            tempered: logprob,
            otherwise: None,
            tempered_entropy: 1.0,
            tempered_variance: 1.0,
            end: 0.0,
            top: Vec::new(),
        }
    }

    /// Answers whose logits stray by `scale`, each a little differently.
    fn answers(count: usize, tokens: usize, scale: f32) -> Vec<Vec<(TokenScore, f32)>> {
        let wave = |index: usize| (index as f32 * 12.9898).sin();
        (0..count)
            .map(|answer| {
                let own = scale * (1.0 + 0.2 * wave(answer));
                let token = |at: usize| (score(-1.0), -1.0 + own * 1.2 * wave(7 * answer + at));
                (0..tokens).map(token).collect()
            })
            .collect()
    }

    #[test]
    fn a_stray_is_found_again() {
        let answers = answers(100, 64, 0.01);
        let strays = Strays::measured(&answers);
        assert!((strays.typical(64) / 0.01 - 1.0).abs() < 0.2, "{}", strays.typical(64));
        // Between lengths, the shorter one counts.
        assert_eq!(strays.typical(63), strays.typical(32));
        assert!(strays.is_sound());
    }

    #[test]
    fn a_coarser_stack_is_told_from_an_honest_one() {
        let strays = Strays::measured(&answers(200, 64, 0.001));
        let log_e = |scale: f32| {
            let answer = &answers(1, 64, scale)[0];
            strays.log_e(log_stray(answer.iter().map(|(score, lp)| (score, *lp))), 64)
        };
        assert!(log_e(0.001) < 1.0 && log_e(0.0001) < 0.0);
        assert!(log_e(0.003) > 2.0 && log_e(0.02) > 7.0 && log_e(10.0) > 7.0);
    }

    #[test]
    fn without_a_doubt_rounding_is_no_evidence() {
        let sure = TokenScore { collision: 1.0, ..score(0.0) };
        let stray = log_stray([(&sure, -1e-6)]);
        assert!(stray < (1e-5_f64).ln());
        assert!(log_stray([(&sure, f32::NEG_INFINITY)]).is_finite());
    }

    #[test]
    fn of_two_stacks_the_wider_one_counts() {
        let [exact, coarse] = [1e-6, 0.01].map(|scale| Strays::measured(&answers(100, 32, scale)));
        let both = exact.or(&coarse);
        assert_eq!(both.typical(32), coarse.typical(32));
        assert_eq!(both, coarse.or(&exact));
    }

    proptest! {
        /// The e-value of an honest value has a mean of at most 1.
        #[test]
        fn the_mean_e_value_of_the_fitted_distribution_is_one(middle in -9.0..0.0_f64, spread in 0.05..1.5_f64) {
            let strays = Strays { lengths: vec![Length { tokens: 1, middle, spread }] };
            let honest = StudentsT::new(middle, spread, FREEDOM).unwrap();
            let step = spread / 50.0;
            let sum: f64 = (-20_000..20_000)
                .map(|index| {
                    let value = middle + f64::from(index) * step;
                    honest.pdf(value) * strays.log_e(value, 1).exp() * step
                })
                .sum();
            prop_assert!(sum <= 1.01, "{}", sum);
        }
    }
}
