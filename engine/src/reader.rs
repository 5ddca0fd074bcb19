//! What engines that read a model's folder themselves have in common: what they refuse, and how they read a request.

use std::sync::{Arc, OnceLock};

use common::generation::{Generation, Message, Prompt};

use crate::api::{EngineError, ModelInfo};
use crate::folder::ModelFolder;
use crate::grammar::{self, Grammar, Grammars};
use crate::text;

/// A folder, and the model's facts made of it.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) info: ModelInfo,
    pub(crate) folder: ModelFolder,
    /// Made for the first answer that has to follow a grammar; an error if this tokenizer cannot.
    grammars: OnceLock<Result<Grammars, String>>,
}

impl Reader {
    pub(crate) fn new(info: ModelInfo, folder: ModelFolder) -> Arc<Self> {
        Arc::new(Self { info, folder, grammars: OnceLock::new() })
    }

    /// Refuses what this model cannot honour.
    pub(crate) fn check(&self, generation: &Generation) -> Result<(), EngineError> {
        let vocabulary = self.info.vocabulary;
        let outside = generation.adjustment.bias.iter().find(|(token, _)| *token >= vocabulary);
        if let Some((token, _)) = outside {
            return Err(EngineError::BadParameter {
                name: "logit_bias",
                problem: format!(
                    "`logit_bias` names token {token}, which is outside the model's vocabulary of {vocabulary}"
                ),
            });
        }
        if self.folder.shows_tools() {
            return Ok(());
        }
        let refused = |name, problem: &str| {
            Err(EngineError::BadParameter { name, problem: problem.to_owned() })
        };
        if generation.tools.as_ref().is_some_and(|tools| !tools.are_forced()) {
            return refused(
                "tools",
                "this model's chat template does not show tools: set `tool_choice` to \"required\", to a function, or to \"none\"",
            );
        }
        if let Prompt::Chat(messages) = &generation.prompt
            && messages.iter().any(Message::needs_tools)
        {
            return refused(
                "messages",
                "this model's chat template cannot show calls of tools and their results",
            );
        }
        Ok(())
    }

    /// The grammar that an answer has to follow, if any.
    pub(crate) async fn grammar(
        self: &Arc<Self>,
        generation: &Generation,
    ) -> Result<Option<Grammar>, EngineError> {
        if !generation.is_constrained() {
            return Ok(None);
        }
        let (reader, generation) = (Arc::clone(self), generation.clone());
        // Large schemas take a while, and so does the first one: the vocabulary is read for it.
        let compiled = tokio::task::spawn_blocking(move || reader.compile(&generation)).await;
        compiled.map_err(|error| EngineError::Failed(error.to_string()))?
    }

    /// The same, at once.
    pub(crate) fn compile(&self, generation: &Generation) -> Result<Option<Grammar>, EngineError> {
        if !generation.is_constrained() {
            return Ok(None);
        }
        let folder = &self.folder;
        let grammars = self
            .grammars
            .get_or_init(|| Grammars::new(&folder.tokenizer, folder.vocabulary, &folder.ends.all));
        match grammars {
            Ok(grammars) => grammars.compile(generation),
            Err(problem) => Err(grammar::refusal(generation, problem)),
        }
    }

    /// Refuses ids that the model does not have.
    pub(crate) fn check_tokens(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let vocabulary = self.info.vocabulary;
        match tokens.iter().find(|&&token| token >= vocabulary) {
            Some(&token) => Err(EngineError::OutsideVocabulary { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// The text of an answer's tokens, end tokens left out.
    pub(crate) fn text(&self, tokens: &[u32]) -> Result<String, EngineError> {
        let ends = &self.info.end_tokens;
        let words: Vec<u32> =
            tokens.iter().copied().filter(|token| !ends.contains(token)).collect();
        text::decode(&self.folder.tokenizer, &words)
            .map_err(|error| EngineError::Failed(error.to_string()))
    }

    /// The ids of a prompt by the model's own template, without mistral.rs.
    pub(crate) fn render(&self, generation: &Generation) -> Result<Vec<u32>, EngineError> {
        let refused = |problem: String| EngineError::BadPrompt(problem);
        let tools = generation.tools.as_ref().map_or(&[][..], |tools| &tools.list);
        let (text, special) = match &generation.prompt {
            Prompt::Text(text) => (text.clone(), true),
            Prompt::Chat(messages) => {
                let template = self.folder.template.as_ref();
                let template = template
                    .ok_or_else(|| refused(format!("{} has no chat template", self.info.name)))?;
                (template.render(messages, tools).map_err(refused)?, false)
            }
        };
        let encoding = self.folder.tokenizer.encode_fast(text, special);
        match encoding.map_err(|error| refused(error.to_string()))?.get_ids() {
            [] => Err(refused("it has no tokens".to_owned())),
            ids => Ok(ids.to_vec()),
        }
    }
}
