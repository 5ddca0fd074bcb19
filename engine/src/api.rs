//! What every engine offers.

use std::fmt;
use std::sync::Arc;

use common::generation::{FinishReason, Generation};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// An engine shared by the handlers of a service.
pub type SharedEngine = Arc<dyn Engine>;

/// Something that continues text, and can say how likely given tokens are.
pub trait Engine: fmt::Debug + Send + Sync {
    /// The loaded model.
    fn model(&self) -> &ModelInfo;

    /// How many generations, or reference passes, make sense at once; more wait inside the engine.
    fn parallel(&self) -> usize;

    /// Starts generating. Dropping the stream cancels the generation.
    ///
    /// # Errors
    /// If the prompt cannot be rendered or does not fit, or the engine cannot be reached. What happens later comes
    /// through the stream.
    fn generate(&self, generation: Generation) -> BoxFuture<'_, Result<Generating, EngineError>>;

    /// Scores given tokens in one prefill over prompt and tokens.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] if this engine has no access to whole distributions.
    fn reference(&self, pass: ReferencePass) -> BoxFuture<'_, Result<Reference, EngineError>>;
}

/// Facts about a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    pub name: String,
    /// Number of token ids: every id is below it. 0 if a remote engine does not say.
    pub vocabulary: u32,
    /// The most tokens of prompt and answer together.
    pub context: u32,
    /// Tokens that end an answer. Empty if a remote engine does not say.
    pub end_tokens: Vec<u32>,
}

/// A generation under way.
pub struct Generating {
    /// Tokens of the rendered prompt. 0 if a remote engine does not say.
    pub prompt_tokens: u32,
    /// Zero or more [`Event::Piece`], then one [`Event::End`] or one error, then nothing.
    pub events: BoxStream<'static, Result<Event, EngineError>>,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub prompt_tokens: u32,
    pub text: String,
    pub tokens: Vec<Token>,
    pub finish_reason: FinishReason,
}

impl Answer {
    /// The tokens' ids.
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }
}

impl Generating {
    /// Waits for the end.
    ///
    /// # Errors
    /// What came instead of an end; [`EngineError::Failed`] if nothing did, or something came after it.
    pub async fn answer(mut self) -> Result<Answer, EngineError> {
        let (mut text, mut tokens) = (String::new(), Vec::new());
        while let Some(event) = self.events.try_next().await? {
            match event {
                Event::Piece(piece) => {
                    text.push_str(&piece.text);
                    tokens.extend(piece.tokens);
                }
                Event::End(finish_reason) => {
                    if self.events.try_next().await?.is_some() {
                        let problem = "something came after the end of an answer";
                        return Err(EngineError::Failed(problem.to_owned()));
                    }
                    let prompt_tokens = self.prompt_tokens;
                    return Ok(Answer { prompt_tokens, text, tokens, finish_reason });
                }
            }
        }
        Err(EngineError::Failed("the answer has no end".to_owned()))
    }
}

impl fmt::Debug for Generating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generating")
            .field("prompt_tokens", &self.prompt_tokens)
            .finish_non_exhaustive()
    }
}

/// What comes out of a generation.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Piece(Piece),
    End(FinishReason),
}

/// Some tokens and the text that became certain with them. Either may be empty: a character can take several tokens, and
/// text that may be the start of a stop text is held back.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Piece {
    pub text: String,
    pub tokens: Vec<Token>,
}

/// One drawn token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// [`Token::UNKNOWN_ID`] if a remote engine does not say.
    pub id: u32,
    /// Natural-log probability at temperature 1, before penalties, biases, grammars and noise.
    pub logprob: f32,
    /// The most likely alternatives, best first: id, text, natural-log probability.
    pub top: Vec<Alternative>,
    /// The token's own text; may be no whole character.
    pub text: String,
}

impl Token {
    /// Stands for the id of a token that a remote engine reports only by its text. No vocabulary has it.
    pub const UNKNOWN_ID: u32 = u32::MAX;
}

/// A token that could have been drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    pub id: u32,
    pub text: String,
    pub logprob: f32,
}

/// Tokens to score after a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferencePass {
    /// What was asked for: the prompt, and how the tokens are said to have been drawn.
    pub generation: Generation,
    pub tokens: Vec<u32>,
    /// How many of the most likely tokens to list at each position.
    pub top: usize,
    /// Whether to say how likely the tokens are at [`OTHER_TEMPERATURES`].
    pub likelihoods: bool,
}

impl ReferencePass {
    /// Without lists of the most likely tokens, and at the one temperature.
    pub fn new(generation: Generation, tokens: Vec<u32>) -> Self {
        Self { generation, tokens, top: 0, likelihoods: false }
    }
}

/// The model's own view of given tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    pub prompt_tokens: u32,
    /// One entry per given token.
    pub tokens: Vec<TokenScore>,
    /// The text the given tokens decode to, end tokens left out.
    pub text: String,
    /// The first token that the grammar of a constrained answer forbids. Those after it are scored without one.
    pub outside_grammar: Option<u32>,
}

/// How many of the best tokens after the drawn one a [`TokenScore`] names.
pub const RIVALS: usize = 4;

/// Other temperatures than the one asked for, as factors of it.
pub const OTHER_TEMPERATURES: [f64; 4] = [0.0, 0.8, 0.9, 1.1];

/// The model's own view of one given token. Probabilities are natural logarithms; *plain* ones are those of the model at
/// temperature 1, before penalties, biases and grammars, *tempered* ones those that are drawn from, but for `top_p`
/// (at temperature 0 as at 1).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenScore {
    /// Plain log-probability of the given token.
    pub logprob: f32,
    /// Logarithm of the sum of the exponentials of the model's logits.
    pub log_sum_exp: f32,
    /// How many tokens are more likely; 0 is the most likely one.
    pub rank: u32,
    /// Plain entropy.
    pub entropy: f32,
    /// Variance of the plain log-probability of a token drawn at temperature 1, in nats².
    pub variance: f32,
    /// Sum of the squared plain probabilities.
    pub collision: f32,
    /// The token that the seeded sampler draws here, with penalties, biases and the grammar.
    pub drawn: u32,
    /// Score of the drawn token minus score of the given one: 0 where they are the same.
    /// Infinite where the given token cannot be drawn at all.
    pub deficit: f32,
    /// The best tokens after the drawn one, best first: at most [`RIVALS`], fewer where no more can be drawn.
    pub rivals: Vec<Rival>,
    /// What is drawn with the same noise at each of [`OTHER_TEMPERATURES`].
    pub elsewhere: [u32; OTHER_TEMPERATURES.len()],
    /// Tempered log-probability of the given token.
    pub tempered: f32,
    /// The same at each of [`OTHER_TEMPERATURES`], if it was asked for; `-inf` where the token cannot come.
    pub otherwise: Option<[f32; OTHER_TEMPERATURES.len()]>,
    pub tempered_entropy: f32,
    /// As `variance`, of the tempered distribution.
    pub tempered_variance: f32,
    /// Tempered probability that the answer ends here.
    pub end: f32,
    /// The most likely tokens and their plain log-probabilities, best first; as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

impl TokenScore {
    /// Score of the best token minus score of the second best: how sure the draw is.
    pub fn gap(&self) -> f32 {
        self.rivals.first().map_or(f32::INFINITY, |rival| rival.deficit)
    }
}

/// A token that was nearly drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rival {
    pub token: u32,
    /// Score of the drawn token minus that of this one.
    pub deficit: f32,
}

/// Why an engine did not answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The caller's mistake.
    #[error(
        "the prompt has {tokens} tokens and the answer may have {max_tokens}, the model's context is {context}"
    )]
    TooLong { tokens: u32, max_tokens: u32, context: u32 },
    /// The caller's mistake.
    #[error("token {token} is outside the model's vocabulary of {vocabulary}")]
    OutsideVocabulary { token: u32, vocabulary: u32 },
    /// The caller's mistake: a parameter that this model cannot honour, by its name in OpenAI's API.
    #[error("{problem}")]
    BadParameter { name: &'static str, problem: String },
    /// The caller's mistake: for example a conversation that the model's chat template refuses.
    #[error("the prompt cannot be rendered: {0}")]
    BadPrompt(String),
    /// This engine cannot do that.
    #[error("{0}")]
    Unsupported(String),
    /// A model folder that cannot be loaded.
    #[error("the model folder {folder} cannot be loaded: {problem}")]
    Load { folder: std::path::PathBuf, problem: String },
    /// The engine died and could not be revived, or a remote server failed.
    #[error("the engine failed: {0}")]
    Failed(String),
}

impl EngineError {
    /// Whether the request itself is at fault.
    pub fn is_callers_mistake(&self) -> bool {
        match self {
            Self::TooLong { .. }
            | Self::OutsideVocabulary { .. }
            | Self::BadParameter { .. }
            | Self::BadPrompt(_) => true,
            Self::Unsupported(_) | Self::Load { .. } | Self::Failed(_) => false,
        }
    }
}
