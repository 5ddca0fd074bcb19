//! Judges one answer. Pure: no clock, no engine, no logging; everything a verdict depends on is an argument.
//!
//! An answer is judged in two steps:
//!
//! 1. **Form** ([`Finding`]): signature, request, counts, ids, text, end. Any finding makes the quality 0. Most need no
//!    model and are found by [`examine`] before the prefill is paid for.
//! 2. **Tokens and log-probabilities** ([`Evidence::log_e`]): does something else than honest work explain them better?
//!    Everything that is [tested for](hypotheses) gives an e-value against a [null](Null) that says what honest stacks do.
//!
//! Short answers are not judged by rates: a single mismatch among ten tokens is weak evidence and costs nothing, while
//! the same share of mismatches in a hundred tokens is overwhelming. The exception is what ends the answer: to forge an
//! early end takes no other token.

mod evidence;
mod form;
pub mod hypotheses;
pub mod logprobs;
mod null;
pub mod survival;
mod words;

use std::sync::Arc;

use common::checks::{Check, EValue, Evidence, Finding, Repeated, Verdict};
use common::format::NumericFormat;
use common::generation::{Generation, Prompt, Role};
use common::openai::Asked;
use engine::{ModelInfo, Reference, ReferencePass};

pub use form::examine;

pub use null::Null;

/// What a task permits, and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Standard {
    pub null: Arc<Null>,
    /// Whether the null was measured on this model.
    pub calibrated: bool,
    /// Whether miners draw with the request's seed.
    pub seeded: bool,
}

impl Standard {
    /// Of a model without a calibration.
    pub fn assumed(formats: &[NumericFormat]) -> Self {
        Self { null: Arc::new(Null::assumed(formats)), calibrated: false, seeded: true }
    }

    /// For miners whose engines draw with a seed of their own.
    pub fn without_seeds(self) -> Self {
        Self { seeded: false, ..self }
    }

    /// Whether the tokens of an answer at this temperature say anything: those drawn with other seeds do not where the
    /// temperature is too low for their likelihoods to be known.
    pub fn sees_tokens(&self, temperature: f64) -> bool {
        self.seeded || temperature == 0.0 || temperature >= self.null.least_temperature()
    }
}

/// What is known of an answer besides what the miner sent.
#[derive(Debug, Clone)]
pub struct Known<'a> {
    /// The model's view of the answer.
    pub reference: &'a Reference,
    /// The same after the prompt without its system messages, if [that](second_look) was computed.
    pub without_system: Option<&'a Reference>,
    pub repeated: Option<Repeated>,
}

impl<'a> Known<'a> {
    /// By one prefill alone.
    pub fn of(reference: &'a Reference) -> Self {
        Self { reference, without_system: None, repeated: None }
    }
}

/// The request as it is without its system messages; `None` if it has none, or nothing else.
pub fn without_system(asked: &Generation) -> Option<Generation> {
    let Prompt::Chat(messages) = &asked.prompt else { return None };
    let others: Vec<_> =
        messages.iter().filter(|message| message.role != Role::System).cloned().collect();
    (!others.is_empty() && others.len() < messages.len())
        .then(|| Generation { prompt: Prompt::Chat(others), ..asked.clone() })
}

/// What is computed for a second look: the answer after the prompt [without its system messages](without_system).
pub fn second_look(asked: &Generation, tokens: &[u32]) -> Option<ReferencePass> {
    without_system(asked).map(|asked| ReferencePass::new(asked, tokens.to_vec()))
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
    let evidence = Evidence { findings, e_values: settled(), ..Evidence::default() };
    Verdict { quality: 0.0, evidence, reasons }
}

/// A wrong form needs no weighing: it counts as much as one answer can.
fn settled() -> Vec<EValue> {
    vec![EValue { hypothesis: "form".to_owned(), share: 1.0, log_e: evidence::HARD }]
}

/// The verdict on an answer in which [`examine`] found nothing.
///
/// # Errors
/// If the reference does not fit the answer or holds no numbers.
pub fn judge(
    check: &Check,
    asked: &Asked,
    model: &ModelInfo,
    known: Known<'_>,
    standard: &Standard,
) -> Result<Verdict, BadReference> {
    let generated = &check.receipt.generated;
    let reference = known.reference;
    let ending = form::ending(generated, asked, model, reference);
    let sampling = asked.generation.sampling;
    let measured = evidence::measure(generated, ending, sampling, model, known, standard)?;
    let findings = form::compare(check, asked, model, reference);

    let mut reasons: Vec<_> = findings.iter().map(words::of_finding).collect();
    if measured.quality < 1.0 {
        reasons.push(words::of_suspect(&measured, asked, model));
    }
    if !reasons.is_empty() && generated.prompt_tokens != reference.prompt_tokens {
        reasons.push(words::of_prompt(generated.prompt_tokens, reference.prompt_tokens, model));
    }
    if findings.is_empty() {
        return Ok(Verdict { quality: measured.quality, evidence: measured.evidence, reasons });
    }
    let evidence = Evidence { findings, e_values: settled(), ..measured.evidence };
    Ok(Verdict { quality: 0.0, evidence, reasons })
}

#[cfg(test)]
mod tests;
