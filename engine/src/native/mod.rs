//! Models of the Llama family, computed here with candle.
//!
//! For what mistral.rs does not offer: a reference pass in pieces, so that the logits of a long answer never lie in memory
//! together; and many answers at once on the CPU, where mistral.rs spoils concurrent ones. The draw, the text and the
//! scores are made by the same code as there.

mod config;
mod transformer;

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use common::format::NumericFormat;
use common::generation::{FinishReason, Generation};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::api::{
    Answer, Engine, EngineError, Generating, ModelInfo, Reference, ReferencePass, Token,
};
use crate::drawing::Drawing;
use crate::folder;
use crate::reader::Reader;
use crate::scoring::{Rule, Scored};
use config::Shape;
use transformer::{Arithmetic, Cache, Part, Transformer};

/// Positions that are computed together.
const CHUNK: usize = 256;
/// Logits that lie in memory together, at most about; 64 MB.
const MOST_LOGITS: usize = 16 << 20;

/// What to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeConfig {
    /// A local folder with `config.json`, `tokenizer.json`, `tokenizer_config.json` and `*.safetensors`.
    pub folder: PathBuf,
    /// The model's name for callers.
    pub name: String,
    pub format: NumericFormat,
    /// Lowers the model's own limit of prompt and answer together, in tokens.
    pub context: Option<u32>,
}

/// A model computed here.
#[derive(Clone)]
pub struct Native {
    reader: Arc<Reader>,
    transformer: Arc<Transformer>,
}

impl fmt::Debug for Native {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Native").field("model", &self.reader.info).finish_non_exhaustive()
    }
}

impl Native {
    /// Loads a model. `None` if it is of a kind that only mistral.rs computes.
    ///
    /// # Errors
    /// [`EngineError::Load`], naming the file at fault where one is.
    pub fn load(config: &NativeConfig) -> Result<Option<Self>, EngineError> {
        let folder = folder::inspect(&config.folder)?;
        let Some(shape) = Shape::read(&folder.path) else { return Ok(None) };
        if folder.chat_template && folder.template.is_none() {
            return Ok(None);
        }
        let failed = |error: candle_core::Error| EngineError::Load {
            folder: config.folder.clone(),
            problem: error.to_string(),
        };
        let context = config.context.map_or(folder.context, |limit| limit.min(folder.context));
        let device = device().map_err(failed)?;
        let arithmetic = Arithmetic::new(config.format, &device);
        let (path, files) = (&folder.path, &folder.files);
        let transformer =
            Transformer::load(shape, path, files, context as usize, arithmetic, device);
        let info = ModelInfo {
            name: config.name.clone(),
            vocabulary: folder.vocabulary,
            context,
            end_tokens: folder.ends.all.clone(),
        };
        let transformer = Arc::new(transformer.map_err(failed)?);
        Ok(Some(Self { reader: Reader::new(info, folder), transformer }))
    }

    /// The model's own view of given tokens, in one pass. Blocks.
    ///
    /// # Errors
    /// As [`Engine::reference`].
    pub fn score(&self, pass: ReferencePass) -> Result<Reference, EngineError> {
        let reader = &self.reader;
        reader.check_tokens(&pass.tokens)?;
        reader.check(&pass.generation)?;
        let mut ids = reader.render(&pass.generation)?;
        let prompt = ids.len();
        let prompt_tokens = self.fitting(prompt, pass.tokens.len())?;
        ids.extend(&pass.tokens);
        let grammar = reader.compile(&pass.generation)?;
        let rule = Rule::new(&pass, reader.info.end_tokens.clone(), grammar);
        let (tokens, outside_grammar) = match pass.tokens.is_empty() {
            true => (Vec::new(), None),
            false => self.score_ids(&ids, prompt, rule).map_err(EngineError::Failed)?,
        };
        let text = reader.text(&pass.tokens)?;
        Ok(Reference { prompt_tokens, tokens, text, outside_grammar })
    }

    /// Smaller tokens that spell the same text as a token; empty if there are none.
    pub fn pieces(&self, token: u32) -> Vec<u32> {
        let tokenizer = &self.reader.folder.tokenizer;
        let name = tokenizer.id_to_token(token).unwrap_or_default();
        let ids: Option<Vec<u32>> =
            name.chars().map(|letter| tokenizer.token_to_id(&letter.to_string())).collect();
        ids.filter(|ids| ids.len() > 1).unwrap_or_default()
    }

    fn score_ids(&self, ids: &[u32], prompt: usize, mut rule: Rule) -> Result<Scored, String> {
        let text = |error: candle_core::Error| error.to_string();
        let rows = (MOST_LOGITS / self.reader.info.vocabulary.max(1) as usize).clamp(1, CHUNK);
        let mut cache = self.transformer.cache();
        let mut scores = Vec::with_capacity(ids.len() - prompt);
        // Nothing follows the last token.
        for (chunk, start) in ids[..ids.len() - 1].chunks(CHUNK).zip((0..).step_by(CHUNK)) {
            let part = Part { ids: chunk, cache: &mut cache };
            let hidden = self.transformer.hidden(&mut [part]).map_err(text)?;
            let mut row = (prompt - 1).saturating_sub(start);
            while row < chunk.len() {
                let count = rows.min(chunk.len() - row);
                let wanted = hidden.narrow(0, row, count).map_err(text)?;
                let logits = self.transformer.logits(&wanted).map_err(text)?;
                for (logits, next) in logits.to_vec2().map_err(text)?.iter().zip(start + row + 1..)
                {
                    scores.push(rule.score(logits, ids[next], (next - prompt) as u32)?);
                }
                row += count;
            }
        }
        Ok((scores, rule.outside))
    }

    /// Answers all requests, some of them at once, in order. Blocks.
    ///
    /// # Errors
    /// If one of them cannot be answered.
    pub fn answer(
        &self,
        generations: &[Generation],
        at_once: usize,
    ) -> Result<Vec<Answer>, EngineError> {
        let mut answers: Vec<Option<Answer>> = vec![None; generations.len()];
        let mut waiting: VecDeque<_> = generations.iter().enumerate().collect();
        let mut running: Vec<Running> = Vec::new();
        loop {
            while running.len() < at_once.max(1)
                && let Some((index, generation)) = waiting.pop_front()
            {
                running.push(self.start(index, generation)?);
            }
            if running.is_empty() {
                break;
            }
            let logits =
                self.step(&mut running).map_err(|error| EngineError::Failed(error.to_string()))?;
            for (run, logits) in running.iter_mut().zip(&logits) {
                run.take(logits)?;
            }
            for run in running.extract_if(.., |run| run.end.is_some()) {
                let finish_reason = run.end.unwrap_or(FinishReason::Stop);
                answers[run.index] = Some(Answer {
                    prompt_tokens: run.prompt_tokens,
                    text: run.text,
                    tokens: run.tokens,
                    finish_reason,
                });
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn start(&self, index: usize, generation: &Generation) -> Result<Running, EngineError> {
        self.reader.check(generation)?;
        let next = self.reader.render(generation)?;
        let prompt_tokens = self.fitting(next.len(), generation.max_tokens as usize)?;
        let grammar = self.reader.compile(generation)?;
        Ok(Running {
            index,
            prompt_tokens,
            drawing: Drawing::new(Arc::clone(&self.reader), generation.clone(), grammar),
            cache: self.transformer.cache(),
            next,
            text: String::new(),
            tokens: Vec::new(),
            end: None,
        })
    }

    /// The logits after the newest token of each answer.
    fn step(&self, running: &mut [Running]) -> candle_core::Result<Vec<Vec<f32>>> {
        let ends = running.iter().scan(0, |end, run| {
            *end += run.next.len() as u32;
            Some(*end - 1)
        });
        let ends: Vec<u32> = ends.collect();
        let mut parts: Vec<_> =
            running.iter_mut().map(|run| Part { ids: &run.next, cache: &mut run.cache }).collect();
        let hidden = self.transformer.hidden(&mut parts)?;
        let count = ends.len();
        let ends = candle_core::Tensor::from_vec(ends, count, hidden.device())?;
        self.transformer.logits(&hidden.index_select(&ends, 0)?)?.to_vec2()
    }

    /// The number of tokens of a prompt, if an answer to it fits into the context.
    fn fitting(&self, prompt: usize, answer: usize) -> Result<u32, EngineError> {
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let (tokens, max_tokens, context) =
            (count(prompt), count(answer), self.reader.info.context);
        match tokens.saturating_add(max_tokens) > context {
            true => Err(EngineError::TooLong { tokens, max_tokens, context }),
            false => Ok(tokens),
        }
    }
}

/// An answer under way.
struct Running {
    index: usize,
    prompt_tokens: u32,
    drawing: Drawing,
    cache: Cache,
    /// What has not been computed yet: the prompt, then the newest token.
    next: Vec<u32>,
    text: String,
    tokens: Vec<Token>,
    end: Option<FinishReason>,
}

impl Running {
    fn take(&mut self, logits: &[f32]) -> Result<(), EngineError> {
        let step = self.drawing.step(logits)?;
        self.text.push_str(&step.piece.text);
        self.next.clear();
        self.next.extend(step.piece.tokens.iter().map(|token| token.id));
        self.tokens.extend(step.piece.tokens);
        self.end = step.end;
        Ok(())
    }
}

impl Engine for Native {
    fn model(&self) -> &ModelInfo {
        &self.reader.info
    }

    /// Two: while one pass has its products of matrices computed by all cores, another one looks at its logits.
    fn parallel(&self) -> usize {
        2
    }

    fn generate(&self, _generation: Generation) -> BoxFuture<'_, Result<Generating, EngineError>> {
        let problem = format!("this engine of {} was loaded for checks", self.reader.info.name);
        std::future::ready(Err(EngineError::Unsupported(problem))).boxed()
    }

    fn reference(&self, pass: ReferencePass) -> BoxFuture<'_, Result<Reference, EngineError>> {
        let native = self.clone();
        let scored = tokio::task::spawn_blocking(move || native.score(pass));
        async { scored.await.map_err(|error| EngineError::Failed(error.to_string()))? }.boxed()
    }
}

fn device() -> candle_core::Result<Device> {
    #[cfg(feature = "cuda")]
    return Device::new_cuda(0);
    #[cfg(feature = "metal")]
    return Device::new_metal(0);
    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    Ok(Device::Cpu)
}

#[cfg(test)]
mod tests;
