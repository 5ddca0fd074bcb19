//! Judges one answer. Pure: no clock, no engine, no logging; everything a verdict depends on is an argument.
//!
//! An answer is judged in three steps, and its quality is the smallest that any of them leaves:
//!
//! 1. **Form** ([`Finding`]): signature, request, counts, ids, text, end. Any finding makes the quality 0. Most need no
//!    model and are found by [`examine`] before the prefill is paid for.
//! 2. **Tokens** ([`Evidence::deviation`]): are they what the model draws with the request's seed? Each token weighs by
//!    its likelihood ratio between a permitted stack and something else, see the module `evidence`.
//! 3. **Log-probabilities** ([`Evidence::logprob_distance`]): are the reported ones those of the model?
//!
//! Short answers are not judged by rates: a single mismatch among ten tokens is weak evidence and costs nothing, while
//! the same share of mismatches in a hundred tokens is overwhelming. The exception is the token that ends the answer: to
//! forge an early end takes no other one.

mod evidence;
mod form;
mod words;

use common::checks::{Check, Evidence, Finding, Verdict};
use common::openai::Asked;
use engine::{ModelInfo, Reference};

pub use form::examine;

/// What a task permits. Differences inside these bounds are those of honest numeric formats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standard {
    /// Share of tokens, `0.0..1.0`, in which the least precise permitted stack still agrees with the reference.
    pub full_agreement: f64,
    /// Share of tokens, below `full_agreement`, in which something else agrees with it.
    pub zero_agreement: f64,
    /// Mean distance of the log-probabilities, in nats, up to which they count as the model's own.
    pub logprob_tolerance: f64,
    /// Mean distance, in nats, from which they count as something else's. Above `logprob_tolerance`.
    pub logprob_limit: f64,
}

/// A reference that cannot be judged by: the engine is at fault, not the miner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    #[error("the engine scored {got} tokens instead of {expected}")]
    Length { expected: usize, got: usize },
    #[error("the engine's score of token {position} is not a number")]
    NotANumber { position: usize },
}

/// The verdict on an answer whose form is wrong, by the findings of [`examine`].
pub fn refuse(findings: Vec<Finding>) -> Verdict {
    let reasons = findings.iter().map(words::of_finding).collect();
    Verdict { quality: 0.0, evidence: Evidence { findings, ..Evidence::default() }, reasons }
}

/// The verdict on an answer in which [`examine`] found nothing.
///
/// # Errors
/// If the reference does not fit the answer or holds no numbers.
pub fn judge(
    check: &Check,
    asked: &Asked,
    model: &ModelInfo,
    reference: &Reference,
    standard: Standard,
) -> Result<Verdict, BadReference> {
    let generated = &check.receipt.generated;
    let ending = form::ending(generated, asked, model, reference);
    let measured =
        evidence::measure(generated, ending, asked.generation.sampling, reference, standard)?;
    let findings = form::compare(check, asked, model, reference);

    let mut reasons: Vec<_> = findings.iter().map(words::of_finding).collect();
    if measured.token_quality < 1.0 {
        reasons.extend(measured.end_deficit.map(|deficit| words::of_end(deficit, model)));
        if measured.end_deficit.is_none() || measured.mismatches > 1 {
            reasons.push(words::of_tokens(&measured, asked, model));
        }
    }
    if measured.logprob_quality < 1.0 {
        reasons.push(words::of_logprobs(&measured, model, standard));
    }
    if !reasons.is_empty() && generated.prompt_tokens != reference.prompt_tokens {
        reasons.push(words::of_prompt(generated.prompt_tokens, reference.prompt_tokens, model));
    }
    let quality = if findings.is_empty() {
        measured.token_quality.min(measured.logprob_quality)
    } else {
        0.0
    };
    Ok(Verdict { quality, evidence: Evidence { findings, ..measured.evidence }, reasons })
}

#[cfg(test)]
mod tests;
