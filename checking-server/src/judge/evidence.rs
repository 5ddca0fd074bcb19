//! What the numbers say about one answer.
//!
//! Each [suspect](super::hypotheses) gets an e-value: the product of its tokens' ratios, or that of the log-probabilities.
//! Its expectation is at most 1 for every honest miner, so an honest answer reaches `1 / α` with probability at most `α`
//! (Markov's inequality), and so does the average of all by their shares. The quality is 1 up to an average of 1e3, 0
//! from 1e5, and linear in its logarithm between.

use common::checks::{EValue, Evidence, Repeated};
use common::generation::Sampling;
use common::receipt::Generated;
use engine::{ModelInfo, TokenScore};

use super::hypotheses::{Hypothesis, SUSPECTS, Seen, Suspect};
use super::logprobs::log_stray;
use super::{BadReference, Known, Standard};

/// Logarithms of the e-values at which an answer's quality begins to fall, and is gone: ln 1e3 and ln 1e5.
const SOFT: f64 = 6.907_755_278_982_137;
pub(super) const HARD: f64 = 11.512_925_464_970_229;

/// Deficits and log-probability differences beyond these count as these: infinities have no mean.
const LARGEST_DEFICIT: f64 = 20.0;
const LARGEST_DIFFERENCE: f64 = 10.0;
/// What an answer without a copied part leaves of the evidence of copying.
const LEFT: f64 = 0.5;
const LARGEST_COPIED: f64 = 500.0;
/// Logarithms of e-values are kept within this: JSON has no infinities.
const LARGEST_LOG_E: f64 = 1e4;

/// The evidence and what it leaves of the quality.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    pub(super) evidence: Evidence,
    /// Whether the draw could be seen: with the request's seed, or without chance.
    pub(super) is_seeded: bool,
    pub(super) mismatches: u32,
    /// Median deficit of the mismatches, in nats of logits; 0 if there are none.
    pub(super) median_deficit: f64,
    /// What explains the answer best.
    pub(super) first: Hypothesis,
    /// How far the log-probabilities stray, and how far they typically do, in nats.
    pub(super) stray: (f64, f64),
    pub(super) quality: f64,
}

/// Weighs an answer of at least one token and as many log-probabilities. Its last `ending` tokens end it.
pub(super) fn measure(
    generated: &Generated,
    ending: usize,
    sampling: Sampling,
    model: &ModelInfo,
    known: Known<'_>,
    standard: &Standard,
) -> Result<Measured, BadReference> {
    let Known { reference, without_system, repeated } = known;
    let scores = &reference.tokens;
    let others = without_system.map(|other| &other.tokens);
    for scores in [scores].into_iter().chain(others) {
        if scores.len() != generated.tokens.len() || scores.is_empty() {
            let (expected, got) = (generated.tokens.len(), scores.len());
            return Err(BadReference::Length { expected, got });
        }
    }
    let is_number = |score: &TokenScore| {
        let numbers = [score.logprob, score.deficit, score.tempered, score.collision];
        let rivals = score.rivals.iter().map(|rival| &rival.deficit);
        score.entropy.is_finite() && !numbers.iter().chain(rivals).any(|number| number.is_nan())
    };
    let all = scores.iter().enumerate().chain(others.into_iter().flatten().enumerate());
    if let Some((position, _)) = all.into_iter().find(|(_, score)| !is_number(score)) {
        return Err(BadReference::NotANumber { position });
    }

    let random = sampling.temperature > 0.0;
    let is_clear = standard.sees_tokens(sampling.temperature);
    let first_of_ending = scores.len().saturating_sub(ending);
    let seen = || {
        scores.iter().zip(&generated.tokens).enumerate().map(|(position, (score, &given))| Seen {
            score,
            without_system: others.and_then(|others| others.get(position)),
            given,
            scale: if random { sampling.temperature } else { 1.0 },
            random,
            seeded: standard.seeded,
            is_clear,
            top_p: sampling.top_p,
            vocabulary: f64::from(model.vocabulary.max(1)),
            ends: &model.end_tokens,
            is_ending: position >= first_of_ending,
        })
    };
    let mut deficits: Vec<f64> = seen()
        .filter(|seen| !seen.is_drawn())
        .map(|seen| seen.deficit().clamp(0.0, LARGEST_DEFICIT))
        .collect();
    let null = &standard.null;
    let reported = || scores.iter().zip(generated.logprobs.iter().copied());
    let log_stray = log_stray(reported());
    let log_e = |suspect: &Suspect| {
        let log_e: f64 = match suspect.hypothesis {
            Hypothesis::Logprobs => null.strays.log_e(log_stray, scores.len()),
            // With seeds, whoever repeats what the seed draws is honest.
            Hypothesis::Copied if random && is_clear && !standard.seeded => {
                let surprises: Vec<f64> =
                    seen().map(|seen| -seen.bound(&null.survival).ln()).collect();
                copied(&surprises, repeated.as_ref())
            }
            Hypothesis::Copied => 0.0,
            // Nothing was looked at, so nothing is left over of it either.
            Hypothesis::WithoutSystem if others.is_none() => return 0.0,
            hypothesis => seen().map(|seen| seen.log_ratio(hypothesis, &null.survival)).sum(),
        };
        (log_e - null.log_drift(suspect.name, standard.seeded)).clamp(-LARGEST_LOG_E, LARGEST_LOG_E)
    };
    let e_values = SUSPECTS.map(|suspect| (suspect, log_e(&suspect)));
    let average = average(&e_values);
    // More than half of all evidence.
    let most = e_values.iter().find(|(suspect, log_e)| {
        matches!(suspect.hypothesis, Hypothesis::Logprobs | Hypothesis::Copied)
            && suspect.share.ln() + log_e > average - std::f64::consts::LN_2
    });
    let first = most.map_or_else(|| explanation(seen), |(suspect, _)| suspect.hypothesis);

    let count = scores.len() as f64;
    let distance = reported()
        .map(|(score, reported)| {
            (f64::from(score.logprob) - f64::from(reported)).abs().min(LARGEST_DIFFERENCE)
        })
        .sum::<f64>();
    let entropies = scores.iter().map(|score| f64::from(score.entropy));
    Ok(Measured {
        evidence: Evidence {
            tokens: scores.len() as u32,
            seeded_agreement: 1.0 - deficits.len() as f64 / count,
            // An empty sum is a negative zero.
            mean_deficit: deficits.iter().sum::<f64>() / count + 0.0,
            logprob_distance: distance / count,
            mean_entropy: entropies.sum::<f64>() / count,
            log_e: average,
            e_values: e_values
                .iter()
                .map(|&(Suspect { name, share, .. }, log_e)| EValue {
                    hypothesis: name.to_owned(),
                    share,
                    log_e,
                })
                .collect(),
            calibrated: standard.calibrated,
            repeated,
            findings: Vec::new(),
        },
        is_seeded: standard.seeded || !random,
        mismatches: deficits.len() as u32,
        median_deficit: median(&mut deficits),
        first,
        stray: (log_stray.exp(), null.strays.typical(scores.len())),
        quality: falling(average, SOFT, HARD),
    })
}

/// Logarithm of the e-value of what was given before: each span that is found again counts by how unlikely it was, less the
/// number of runs that it might have been, at as many positions and of as many lengths.
fn copied(surprises: &[f64], repeated: Option<&Repeated>) -> f64 {
    // Most answers have nothing in common with others, which says little for them.
    let Some(Repeated { spans, kept }) = repeated else { return LEFT.ln() };
    let length = surprises.len().max(1) as f64;
    let chances = ((*kept).max(1) as f64 * length * length).ln();
    let of_span = |&(start, end): &(u32, u32)| -> f64 {
        let span = surprises.get(start as usize..end as usize).unwrap_or_default();
        span.iter().sum::<f64>() - chances
    };
    let log_e: f64 = spans.iter().map(of_span).sum();
    ((1.0 - LEFT) * log_e.min(LARGEST_COPIED).exp() + LEFT).ln()
}

/// What explains the tokens best.
fn explanation<'a, I: Iterator<Item = Seen<'a>>>(seen: impl Fn() -> I) -> Hypothesis {
    let mut misses = seen().filter(|seen| !seen.is_drawn());
    let only = misses.next().filter(|_| misses.next().is_none());
    match only {
        // One token and no other: what it does to the end says more than what may have drawn it.
        Some(only) if only.seeded && only.is_ending => return Hypothesis::EarlyEnd,
        Some(only) if only.seeded && only.ends.contains(&only.score.drawn) => {
            return Hypothesis::LateEnd;
        }
        _ => {}
    }
    let likelihood = |suspect: &Suspect| -> Option<f64> {
        let tokens = seen().map(|seen| seen.likelihood(suspect.hypothesis).map(f64::ln));
        Some(tokens.sum::<Option<f64>>()? + suspect.share.ln())
    };
    SUSPECTS
        .iter()
        .filter_map(|suspect| Some((suspect.hypothesis, likelihood(suspect)?)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(Hypothesis::Seed, |(hypothesis, _)| hypothesis)
}

/// Logarithm of the average of e-values by their shares.
fn average(e_values: &[(Suspect, f64)]) -> f64 {
    let largest = e_values.iter().map(|(_, log_e)| *log_e).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 =
        e_values.iter().map(|(suspect, log_e)| suspect.share * (log_e - largest).exp()).sum();
    largest + sum.ln()
}

/// 1 up to `full`, 0 from `zero`, linear between.
fn falling(value: f64, full: f64, zero: f64) -> f64 {
    ((zero - value) / (zero - full)).clamp(0.0, 1.0)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
