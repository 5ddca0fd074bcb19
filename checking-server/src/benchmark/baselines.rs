//! What other systems would say of the same answers, re-implemented from their published descriptions.

use engine::TokenScore;
use rand::rngs::StdRng;
use rand::seq::index::sample;

use crate::traffic::Given;

/// Tokens that subnet 19's checker looks at: the first, the last, and three between.
const LOOKS: usize = 5;
/// Mean difference of probabilities up to which its score is whole, and from which it is 0.
const BOTTOM: f64 = 0.125;
const TOP: f64 = 0.25;
/// Alternatives that it reads at each token.
const READ: usize = 20;
/// Token-DiFR cuts the margin of a token here, in nats.
const MARGIN: f64 = 0.5;

/// The statistics of one answer: larger is more suspicious.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Baselines {
    /// Mean difference of probabilities at up to five tokens, as subnet 19's text checker has it.
    pub(super) probabilities: f64,
    /// Sum over tokens of how far the given one's seeded score misses the best one's, cut (Token-DiFR).
    pub(super) margins: f64,
    /// Sum over tokens of the relative distance of the likeliest tokens' log-probabilities (Gonka).
    pub(super) relative: f64,
    pub(super) tokens: f64,
}

impl Baselines {
    pub(super) fn of(
        given: &Given,
        scores: &[TokenScore],
        temperature: f64,
        rng: &mut StdRng,
    ) -> Self {
        Self {
            probabilities: probabilities(given, scores, rng),
            margins: scores.iter().map(|score| margin(score, temperature)).sum(),
            relative: given
                .top
                .iter()
                .zip(scores)
                .map(|(top, score)| relative(top, &score.top))
                .sum(),
            tokens: scores.len() as f64,
        }
    }

    /// The share of the reward that subnet 19's checker leaves.
    pub(super) fn subnet19_score(&self) -> f64 {
        ((TOP - self.probabilities) / (TOP - BOTTOM)).clamp(0.0, 2.0).min(1.0)
    }
}

fn probabilities(given: &Given, scores: &[TokenScore], rng: &mut StdRng) -> f64 {
    let count = scores.len().min(given.logprobs.len());
    if count == 0 {
        return 1.0;
    }
    let inner = count.saturating_sub(2);
    let mut looked: Vec<usize> =
        sample(rng, inner, inner.min(LOOKS - 2)).into_iter().map(|at| at + 1).collect();
    looked.push(0);
    if count > 1 {
        looked.push(count - 1);
    }
    let difference = |&at: &usize| {
        let (score, reported) = (&scores[at], f64::from(given.logprobs[at]));
        match (score.rank as usize) < READ {
            true => (f64::from(score.logprob).exp() - reported.exp()).abs().min(1.0),
            false => 1.0,
        }
    };
    looked.iter().map(difference).sum::<f64>() / looked.len() as f64
}

fn margin(score: &TokenScore, temperature: f64) -> f64 {
    let scale = if temperature > 0.0 { temperature } else { 1.0 };
    (f64::from(score.deficit) * scale).min(MARGIN)
}

/// Gonka's distance of one position: over the reported tokens, the difference of the log-probabilities relative to their
/// size; a token that is missing here counts as the least likely one of ours, less the step to it.
fn relative(reported: &[(u32, f32)], ours: &[(u32, f32)]) -> f64 {
    let [.., before, last] = ours else { return 0.0 };
    let beyond = f64::from(last.1) - (f64::from(before.1) - f64::from(last.1));
    let count = reported.len().max(1) as f64;
    let distance = |&(token, theirs): &(u32, f32)| {
        let theirs = f64::from(theirs);
        let own = ours
            .iter()
            .find(|(other, _)| *other == token)
            .map_or(beyond, |(_, own)| f64::from(*own));
        (theirs - own).abs() / (1e-6 + theirs.abs() + own.abs()) / 2.0
    };
    reported.iter().map(distance).sum::<f64>() / count
}
