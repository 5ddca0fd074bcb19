//! Verdicts in words that a miner can act on.

use common::checks::Finding;
use common::openai::Asked;
use engine::ModelInfo;

use super::Standard;
use super::evidence::Measured;

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

pub(super) fn of_end(deficit: f64, model: &ModelInfo) -> String {
    format!(
        "the answer ends where {} does not end it: the end token, or the stop text, misses the best score by {deficit:.2} \
         nats",
        model.name,
    )
}

pub(super) fn of_tokens(measured: &Measured, asked: &Asked, model: &ModelInfo) -> String {
    let how = if asked.generation.sampling.temperature > 0.0 {
        "draws with this seed"
    } else {
        "finds most likely"
    };
    format!(
        "{} of {} tokens are not what {} {how} (they miss the best score by {:.2} nats in the median): you may be serving \
         another model, a stronger quantisation than permitted, another chat template, or another temperature, top_p, \
         penalty, bias or seed than asked for",
        measured.mismatches, measured.evidence.tokens, model.name, measured.median_deficit,
    )
}

pub(super) fn of_logprobs(measured: &Measured, model: &ModelInfo, standard: Standard) -> String {
    format!(
        "the reported log-probabilities differ from those of {} by {:.3} nats on average, about {} is permitted: report \
         natural logarithms at temperature 1, before noise and penalties, from the model that drew the tokens",
        model.name, measured.evidence.logprob_distance, standard.logprob_tolerance,
    )
}

pub(super) fn of_prompt(theirs: u32, ours: u32, model: &ModelInfo) -> String {
    format!(
        "the receipt counts {theirs} tokens of prompt where {} reads {ours}: check the chat template, and that no message \
         is left out",
        model.name,
    )
}
