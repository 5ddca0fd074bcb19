//! Drawing tokens with a seed. Pure functions of logits.
//!
//! Gumbel-max sampling: the drawn token is the one with the largest score, `(logit − largest logit) / T + noise`, in
//! binary64 and in this order of operations; equal scores go to the lower id. At temperature 0 the score is the logit
//! alone. `top_p` first leaves only the most likely tokens (equal ones by lower id) up to and including the one with which
//! their tempered probability reaches `top_p`.

use common::generation::Sampling;

use crate::noise::{self, Noise};

/// Logits that define no distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model computed logits that are empty, not a number or infinite")]
pub struct BadLogits;

/// The model's prediction of one token.
#[derive(Debug, Clone, Copy)]
pub struct Distribution<'a> {
    logits: &'a [f32],
    /// The most likely token, of equal ones the lowest.
    mode: u32,
    max: f64,
    /// Logarithm of the sum of `exp(logit - max)`.
    log_sum: f64,
}

/// The least likely token that `top_p` leaves in.
pub(crate) struct Edge {
    logit: f32,
    token: u32,
}

impl Edge {
    pub(crate) fn admits(&self, token: u32, logit: f32) -> bool {
        logit > self.logit || (logit == self.logit && token <= self.token)
    }
}

impl<'a> Distribution<'a> {
    /// `logits` has one entry per token id. `-inf` stands for a token that cannot come.
    ///
    /// # Errors
    /// If an entry is not a number or `+inf`, or all are `-inf`.
    pub fn new(logits: &'a [f32]) -> Result<Self, BadLogits> {
        let (mut mode, mut max) = (0, f32::NEG_INFINITY);
        for (token, &logit) in (0..).zip(logits) {
            if logit > max {
                (mode, max) = (token, logit);
            } else if logit.is_nan() {
                return Err(BadLogits);
            }
        }
        if !max.is_finite() {
            return Err(BadLogits);
        }
        let sum: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
        Ok(Self { logits, mode, max: f64::from(max), log_sum: sum.ln() })
    }

    /// Natural-log probability at temperature 1. `-inf` for ids outside the vocabulary.
    pub fn logprob(&self, token: u32) -> f32 {
        (self.relative(token) - self.log_sum) as f32
    }

    /// The `count` most likely tokens that can come at all, best first, equal ones by lower id.
    pub fn top(&self, count: usize) -> Vec<u32> {
        let mut top: Vec<u32> = Vec::with_capacity(count + 1);
        if count == 0 {
            return top;
        }
        let mut least = f32::NEG_INFINITY;
        for (token, &logit) in (0..).zip(self.logits) {
            if logit == f32::NEG_INFINITY || (top.len() == count && logit <= least) {
                continue;
            }
            let place = top.partition_point(|&other| self.logits[other as usize] >= logit);
            top.insert(place, token);
            top.truncate(count);
            least = top.last().map_or(least, |&last| self.logits[last as usize]);
        }
        top
    }

    /// Draws the token at a position: how many tokens of the answer come before.
    pub fn draw(&self, sampling: &Sampling, position: u32) -> u32 {
        if sampling.temperature > 0.0 {
            let edge = self.edge(sampling);
            let noise = Noise::at(sampling.seed, position);
            let leaders = self.leaders(sampling.temperature, edge.as_ref(), noise, 1);
            leaders.first().map_or(self.mode, |&(token, _)| token)
        } else {
            self.mode
        }
    }

    /// Logarithm of the sum of the exponentials of the logits.
    pub(crate) fn log_sum_exp(&self) -> f64 {
        self.max + self.log_sum
    }

    /// The most likely token, of equal ones the lowest.
    pub(crate) fn mode(&self) -> u32 {
        self.mode
    }

    pub(crate) fn logits(&self) -> &'a [f32] {
        self.logits
    }

    pub(crate) fn logit(&self, token: u32) -> f32 {
        self.logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY)
    }

    /// The logit minus the largest one.
    pub(crate) fn relative(&self, token: u32) -> f64 {
        f64::from(self.logit(token)) - self.max
    }

    /// The `count` best scores among the admitted tokens, best first, equal ones by lower id.
    pub(crate) fn leaders(
        &self,
        temperature: f64,
        edge: Option<&Edge>,
        noise: Noise,
        count: usize,
    ) -> Vec<(u32, f64)> {
        // The most likely token is always admitted, and a good start lets most others be skipped.
        let mut leaders = Vec::with_capacity(count + 1);
        leaders.push((self.mode, noise.of(self.mode)));
        for (token, &logit) in (0..).zip(self.logits) {
            let bar = match leaders.last() {
                Some(&(_, last)) if leaders.len() >= count => last,
                _ => f64::NEG_INFINITY,
            };
            let base = (f64::from(logit) - self.max) / temperature;
            // Most tokens are too unlikely for any noise, most others for theirs: no logarithm is needed to see that.
            if base + noise::LARGEST < bar || token == self.mode || logit == f32::NEG_INFINITY {
                continue;
            }
            let draw = noise.draw(token);
            if base + draw.bound() < bar || edge.is_some_and(|edge| !edge.admits(token, logit)) {
                continue;
            }
            let score = base + draw.value();
            let place = leaders
                .partition_point(|&(other, best)| best > score || (best == score && other < token));
            leaders.insert(place, (token, score));
            leaders.truncate(count);
        }
        leaders
    }

    /// Where `top_p` cuts; `None` if it leaves everything.
    pub(crate) fn edge(&self, sampling: &Sampling) -> Option<Edge> {
        if sampling.top_p >= 1.0 {
            return None;
        }
        let weights: Vec<f64> =
            self.logits.iter().map(|&logit| self.weight(logit, sampling.temperature)).collect();
        let total: f64 = weights.iter().sum();
        // Tokens below this share cannot be needed: together they weigh less than what `top_p` leaves out. The half is
        // for rounding.
        let negligible = 0.5 * (1.0 - sampling.top_p) * total / weights.len() as f64;
        let mut candidates: Vec<(u32, f32, f64)> = (0..)
            .zip(self.logits)
            .zip(&weights)
            .filter(|(_, weight)| **weight >= negligible)
            .map(|((token, &logit), &weight)| (token, logit, weight))
            .collect();
        candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut mass = 0.0;
        for (token, logit, weight) in candidates {
            mass += weight;
            if mass >= sampling.top_p * total {
                return Some(Edge { logit, token });
            }
        }
        None
    }

    /// Tempered probability of all tokens that `top_p` would admit before this one.
    pub(crate) fn mass_before(&self, given: u32, temperature: f64) -> f64 {
        let edge = Edge { logit: self.logit(given), token: given };
        let (mut before, mut total) = (0.0, 0.0);
        for (token, &logit) in (0..).zip(self.logits) {
            let weight = self.weight(logit, temperature);
            total += weight;
            if token != given && edge.admits(token, logit) {
                before += weight;
            }
        }
        before / total
    }

    fn weight(&self, logit: f32, temperature: f64) -> f64 {
        ((f64::from(logit) - self.max) / temperature).exp()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn sampling(seed: u64, temperature: f64, top_p: f64) -> Sampling {
        Sampling { seed, temperature, top_p }
    }

    /// The definition, without any shortcut: scores of all tokens that `top_p` admits.
    pub(crate) fn plain_scores(
        logits: &[f32],
        sampling: &Sampling,
        position: u32,
    ) -> Vec<(u32, f64)> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let tempered = |token: u32| {
            (f64::from(logits[token as usize]) - f64::from(max)) / sampling.temperature
        };
        let total: f64 = (0..logits.len() as u32).map(|token| tempered(token).exp()).sum();
        let (mut mass, mut scores) = (0.0, Vec::new());
        for token in order {
            if mass < sampling.top_p * total || sampling.top_p >= 1.0 {
                scores
                    .push((token, tempered(token) + Noise::at(sampling.seed, position).of(token)));
            }
            mass += tempered(token).exp();
        }
        scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        scores
    }

    pub(crate) fn any_logits() -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![
            4 => -20.0..20.0_f32,
            1 => (-4..4_i8).prop_map(f32::from),
            1 => Just(f32::NEG_INFINITY)
        ];
        proptest::collection::vec(logit, 2..200)
            .prop_filter("one is finite", |logits| logits.iter().any(|logit| logit.is_finite()))
    }

    pub(crate) fn any_sampling() -> impl Strategy<Value = Sampling> {
        let top_p = prop_oneof![Just(1.0), 0.01..1.0_f64];
        (any::<u64>(), 0.01..2.0_f64, top_p)
            .prop_map(|(seed, temperature, top_p)| sampling(seed, temperature, top_p))
    }

    proptest! {
        #[test]
        fn shortcuts_draw_the_same_token_as_the_definition(
            logits in any_logits(), sampling in any_sampling(), position in any::<u32>(),
        ) {
            let drawn = Distribution::new(&logits).unwrap().draw(&sampling, position);
            prop_assert_eq!(drawn, plain_scores(&logits, &sampling, position)[0].0);
        }

        #[test]
        fn the_top_list_is_sorted_and_complete(logits in any_logits(), count in 0..30_usize) {
            let distribution = Distribution::new(&logits).unwrap();
            let mut order: Vec<u32> =
                (0..logits.len() as u32).filter(|&token| logits[token as usize].is_finite()).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            order.truncate(count);
            prop_assert_eq!(distribution.top(count), order);
        }

        #[test]
        fn probabilities_sum_to_one(logits in any_logits()) {
            let distribution = Distribution::new(&logits).unwrap();
            let sum: f64 = (0..logits.len() as u32).map(|t| f64::from(distribution.logprob(t)).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-4, "{}", sum);
        }
    }

    /// Chi-square of draws over many seeds against expected probabilities.
    fn chi_square(logits: &[f32], expected: &[f64], temperature: f64, top_p: f64) -> f64 {
        let distribution = Distribution::new(logits).unwrap();
        let n = 40_000;
        let mut counts = vec![0_u32; logits.len()];
        for seed in 0..n {
            let token = distribution.draw(&sampling(seed, temperature, top_p), (seed % 50) as u32);
            counts[token as usize] += 1;
        }
        let n = n as f64;
        std::iter::zip(counts, expected)
            .filter(|(count, p)| **p > 0.0 || *count > 0)
            .map(|(count, p)| (f64::from(count) - n * p).powi(2) / (n * p))
            .sum()
    }

    #[test]
    fn seeded_draws_follow_the_tempered_softmax() {
        let logits: Vec<f32> = (0..10).map(|i| (i as f32 * 0.7).sin() * 2.0).collect();
        for temperature in [0.5, 1.0, 1.7] {
            let weights: Vec<f64> =
                logits.iter().map(|l| (f64::from(*l) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let expected: Vec<f64> = weights.iter().map(|w| w / total).collect();
            let chi = chi_square(&logits, &expected, temperature, 1.0);
            // 9 degrees of freedom; 27.9 is the 99.9 % point.
            assert!(chi < 28.0, "chi-square {chi} at temperature {temperature}");
        }
    }

    #[test]
    fn top_p_draws_only_from_the_most_likely_tokens_in_their_proportions() {
        let p = [0.4_f64, 0.3, 0.2, 0.06, 0.04];
        let logits: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        let expected = [0.4 / 0.9, 0.3 / 0.9, 0.2 / 0.9, 0.0, 0.0];
        let chi = chi_square(&logits, &expected, 1.0, 0.85);
        // 2 degrees of freedom; a single draw outside would make it infinite.
        assert!(chi < 14.0, "chi-square {chi}");
    }

    #[test]
    fn logits_without_a_distribution_are_refused() {
        for logits in
            [vec![], vec![1.0, f32::NAN], vec![f32::INFINITY, 0.0], vec![f32::NEG_INFINITY; 3]]
        {
            assert!(Distribution::new(&logits).is_err(), "{logits:?}");
        }
    }
}
