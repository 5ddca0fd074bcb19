//! The answer as it grows, token by token: draws, writes text, and says when it ends.

use std::sync::Arc;

use common::generation::{FinishReason, Generation};

use crate::adjust::Adjuster;
use crate::api::{Alternative, EngineError, Piece, Token};
use crate::grammar::Grammar;
use crate::reader::Reader;
use crate::sampler::Distribution;
use crate::text::{Decoder, StopWatch, Watched};

/// What one token brought.
pub(crate) struct Step {
    pub(crate) piece: Piece,
    pub(crate) end: Option<FinishReason>,
}

/// An answer under way.
pub(crate) struct Drawing {
    reader: Arc<Reader>,
    generation: Generation,
    /// Tokens drawn so far. The context that mistral.rs passes is no substitute: it can be a part of the sequence.
    position: u32,
    adjuster: Adjuster,
    grammar: Option<Grammar>,
    decoder: Decoder,
    watch: StopWatch,
}

impl Drawing {
    /// `grammar` is at its beginning.
    pub(crate) fn new(
        reader: Arc<Reader>,
        generation: Generation,
        grammar: Option<Grammar>,
    ) -> Self {
        Self {
            position: 0,
            adjuster: Adjuster::new(generation.adjustment.clone()),
            grammar,
            decoder: Decoder::default(),
            watch: StopWatch::new(generation.stop.clone()),
            reader,
            generation,
        }
    }

    /// The next token, drawn from the model's logits.
    pub(crate) fn step(&mut self, logits: &[f32]) -> Result<Step, EngineError> {
        let Generation { sampling, max_tokens, top_logprobs, .. } = &self.generation;
        let failed = |error: tokenizers::Error| EngineError::Failed(error.to_string());
        let tokenizer = &self.reader.folder.tokenizer;
        let text_of = |id| tokenizer.decode(&[id], false).map_err(failed);

        let distribution =
            Distribution::new(logits).map_err(|error| EngineError::Failed(error.to_string()))?;
        let drawn = if self.adjuster.is_idle() && self.grammar.is_none() {
            distribution.draw(sampling, self.position)
        } else {
            let mut adjusted = logits.to_vec();
            self.adjuster.apply(&mut adjusted);
            if let Some(grammar) = &mut self.grammar {
                grammar.mask().map_err(EngineError::Failed)?.apply(&mut adjusted);
            }
            let adjusted = Distribution::new(&adjusted)
                .map_err(|error| EngineError::Failed(error.to_string()))?;
            adjusted.draw(sampling, self.position)
        };
        self.position += 1;
        self.adjuster.push(drawn);
        let ended = self.reader.folder.ends.all.contains(&drawn);
        if let Some(grammar) = self.grammar.as_mut().filter(|_| !ended) {
            grammar.push(drawn).map_err(EngineError::Failed)?;
        }
        let top = distribution.top(usize::from(*top_logprobs)).into_iter().map(|id| {
            Ok(Alternative { id, text: text_of(id)?, logprob: distribution.logprob(id) })
        });
        let token = Token {
            id: drawn,
            logprob: distribution.logprob(drawn),
            top: top.collect::<Result<_, EngineError>>()?,
            text: text_of(drawn)?,
        };

        let (mut text, mut end) = (String::new(), None);
        if ended {
            end = Some(FinishReason::Stop);
        } else {
            text = self.decoder.push(tokenizer, drawn).map_err(failed)?;
            if self.position >= *max_tokens {
                end = Some(FinishReason::Length);
            }
        }
        if end.is_some() {
            text.push_str(&self.decoder.finish(tokenizer).map_err(failed)?);
        }
        let mut text = match self.watch.push(text) {
            Watched::Text(text) => text,
            Watched::Stopped(text) => {
                end = Some(FinishReason::Stop);
                text
            }
        };
        if end.is_some() {
            text.push_str(&self.watch.finish());
        }
        Ok(Step { piece: Piece { text, tokens: vec![token] }, end })
    }
}
