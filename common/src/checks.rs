//! What a validator asks a checking server, and what it answers.

use serde::{Deserialize, Serialize};

use crate::receipt::Receipt;
use crate::{Hotkey, TaskId};

/// The most checks one request to `POST /v1/checks` may hold.
pub const MAX_BATCH: usize = 64;

/// `POST /v1/checks`: answers to judge, in one batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckBatch {
    pub checks: Vec<Check>,
}

/// One answer to judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Chosen by the validator, returned with the verdict.
    pub id: String,
    pub task: TaskId,
    /// Who must have signed the receipt.
    pub miner: Hotkey,
    /// The exact body that was sent to the miner; the receipt is bound to its digest.
    pub request: String,
    /// The text that the miner sent.
    pub text: String,
    pub receipt: Receipt,
}

/// The answer to a [`CheckBatch`], in the same order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckResults {
    pub results: Vec<CheckResult>,
}

/// What became of one [`Check`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    pub id: String,
    pub outcome: Outcome,
}

/// A verdict, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Verdict(Verdict),
    /// The checking server could not judge; this is never held against the miner.
    Unchecked {
        reason: String,
        /// Whether the same check may succeed later.
        retry: bool,
    },
}

/// How good an answer is, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// In `0.0..=1.0`; 1 is what an honest miner gets.
    pub quality: f64,
    pub evidence: Evidence,
    /// Sentences a miner can act on. Empty if nothing is wrong.
    pub reasons: Vec<String>,
}

/// The numbers behind a [`Verdict`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// Tokens of the answer that were re-computed.
    pub tokens: u32,
    /// Share of the tokens that are the argmax of the reference plus the seeded noise, `0.0..=1.0`.
    pub seeded_agreement: f64,
    /// Mean of best score minus the chosen token's score (log-probability / temperature + noise), in nats.
    pub mean_deficit: f64,
    /// Mean absolute difference between the reported and the reference log-probabilities, in nats.
    pub logprob_distance: f64,
    /// Mean entropy of the reference distribution, in nats.
    pub mean_entropy: f64,
    /// Natural logarithm of the answer's e-value: how many times better something else than honest work explains it, on
    /// average over everything that is tested for. Honest answers reach `ln(1/α)` with probability at most `α`.
    #[serde(default)]
    pub log_e: f64,
    /// The same for each hypothesis by itself.
    #[serde(default)]
    pub e_values: Vec<EValue>,
    /// Whether the e-values rest on a calibration of this model, and may count over answers.
    #[serde(default)]
    pub calibrated: bool,
    /// What was given before, where that is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeated: Option<Repeated>,
    /// What is wrong with the answer's form. Any finding makes the quality 0.
    pub findings: Vec<Finding>,
}

/// What an answer has in common with earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeated {
    /// Positions of tokens that were given before: the first, and that after the last; ascending.
    pub spans: Vec<(u32, u32)>,
    /// Runs of tokens that each position was compared with.
    pub kept: u64,
}

/// How much better one hypothesis explains an answer than honest work does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EValue {
    pub hypothesis: String,
    /// Of the average over all hypotheses; those of a verdict add up to 1.
    pub share: f64,
    /// Natural logarithm. The expectation of the e-value is at most 1 for every honest miner.
    pub log_e: f64,
}

/// Something wrong with an answer's form, found without the model's judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "detail")]
pub enum Finding {
    /// The receipt was not signed by the miner, or was changed after it was signed.
    BadSignature,
    /// The receipt belongs to another request.
    ForeignRequest,
    /// No token at all.
    Empty,
    /// Token ids and log-probabilities differ in number.
    LengthMismatch,
    /// A token id that the model does not have.
    OutsideVocabulary { position: u32, token: u32 },
    /// A log-probability that is positive or not a number.
    ImpossibleLogprob { position: u32 },
    /// More tokens than were asked for.
    TooManyTokens { limit: u32, got: u32 },
    /// The token ids do not decode to the text that was sent.
    TextMismatch,
    /// Ended without reaching the limit, an end token or a stop text.
    StoppedEarly,
    /// Tokens follow an end token, or more text than one token holds follows a stop text.
    PastTheEnd,
    /// A token that the request's `response_format`, or the tools that it makes certain, do not permit there.
    OutsideGrammar { position: u32 },
}
