//! Verdicts in words that a miner can act on.

use common::checks::Finding;
use common::openai::Asked;
use engine::{ModelInfo, OTHER_TEMPERATURES};

use super::evidence::Measured;
use super::hypotheses::Hypothesis;

pub(super) fn of_finding(finding: &Finding) -> String {
    match finding {
        Finding::BadSignature => {
            "the receipt is not signed by your hotkey, or was changed after it was signed".to_owned()
        }
        Finding::ForeignRequest => {
            "the receipt belongs to another request: its task or request digest is not that of the body you were sent"
                .to_owned()
        }
        Finding::Empty => "the receipt holds no token".to_owned(),
        Finding::LengthMismatch => "the receipt does not hold one log-probability per token".to_owned(),
        Finding::OutsideVocabulary { position, token } => {
            format!("token {position} of the answer is {token}, an id that the task's model does not have")
        }
        Finding::ImpossibleLogprob { position } => {
            format!("the log-probability of token {position} is positive or no finite number")
        }
        Finding::TooManyTokens { limit, got } => {
            format!("the answer has {got} tokens where at most {limit} were asked for")
        }
        Finding::TextMismatch => {
            "the token ids in the receipt do not decode to the text you sent: report the ids exactly as they were drawn"
                .to_owned()
        }
        Finding::StoppedEarly => {
            "the answer ends without an end token, a stop text or the token limit: the answer was cut".to_owned()
        }
        Finding::PastTheEnd => {
            "the answer goes on after an end token or a stop text: nothing may be generated after it".to_owned()
        }
        Finding::OutsideGrammar { position } => format!(
            "token {position} of the answer may not come there: the request's response_format or tool_choice constrains \
             the answer by a grammar, and tokens that it forbids must be masked before the draw"
        ),
    }
}

/// What the suspect that explains an answer best means for the miner.
pub(super) fn of_suspect(measured: &Measured, asked: &Asked, model: &ModelInfo) -> String {
    let name = &model.name;
    match measured.first {
        Hypothesis::EarlyEnd => {
            format!("the answer ends where {name} goes on: do not cut answers short")
        }
        Hypothesis::LateEnd => {
            format!("the answer goes on where {name} ends it: end it where an end token is drawn")
        }
        Hypothesis::Copied => {
            "the answer, or a part of it, was given before, to another request or by another miner: answer each request anew"
                .to_owned()
        }
        Hypothesis::Logprobs => {
            let (stray, typical) = measured.stray;
            format!(
                "the reported log-probabilities stray from those of {name} by {stray:.4} nats where permitted formats stray by \
                 {typical:.4}: report natural logarithms at temperature 1, before noise and penalties, from the model that drew \
                 the tokens, in a permitted format",
            )
        }
        hypothesis => {
            let how = if asked.generation.sampling.temperature > 0.0 {
                "draws with this seed"
            } else {
                "finds most likely"
            };
            let because = match hypothesis {
                Hypothesis::Coarser(_) => {
                    "as a coarser number format than the task permits, or another build of the model, would".to_owned()
                }
                Hypothesis::Temperature(index) => match OTHER_TEMPERATURES.get(index) {
                    Some(0.0) | None => "as always taking the most likely token would".to_owned(),
                    Some(factor) => format!("as {factor} times the temperature asked for would"),
                },
                Hypothesis::WithoutSystem => {
                    "as the same request without its system message would: pass every message to the model".to_owned()
                }
                Hypothesis::Seed => {
                    "the tokens are likely but not those of the request's seed: draw as docs/seeded-sampling.md says, and answer \
                     each request anew"
                        .to_owned()
                }
                _ => "as another model, chat template or prompt than asked for would".to_owned(),
            };
            if !measured.is_seeded {
                return format!(
                    "the tokens are not what {name} writes: something else explains them e^{:.1} times better: {because}",
                    measured.evidence.log_e
                );
            }
            format!(
                "{} of {} tokens are not what {name} {how}; they miss the best score by {:.3} nats in the median: {because}",
                measured.mismatches, measured.evidence.tokens, measured.median_deficit,
            )
        }
    }
}

pub(super) fn of_prompt(theirs: u32, ours: u32, model: &ModelInfo) -> String {
    format!(
        "the receipt counts {theirs} tokens of prompt where {} reads {ours}: check the chat template, and that no message \
         is left out",
        model.name,
    )
}
