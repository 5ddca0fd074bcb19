//! A model run by mistral.rs in this process.
//!
//! What mistral.rs 0.8.1 gets wrong is kept from callers here: concurrent sequences spoil one another on the CPU (so a
//! self-test at load decides whether they may run together), an answer whose receiver is gone can kill the engine (so
//! receivers stay until their sequence has left it), and a dead engine is loaded again.

mod generating;
mod loading;
mod rendering;
mod scoring;
mod self_test;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use common::generation::{Generation, Message, Prompt};
use futures::FutureExt;
use futures::future::BoxFuture;
use mistralrs::{
    Constraint, CustomLogitsProcessor, NormalRequest, Request, RequestMessage, Response,
    SamplingParams,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::api::{Engine, EngineError, Generating, ModelInfo, Reference, ReferencePass};
use crate::folder::{self, ModelFolder};
use crate::grammar::{self, Grammar, Grammars};
use loading::Live;
use rendering::Parked;

/// How often a request is tried again on a freshly loaded engine.
const REVIVALS: usize = 2;

/// What to load, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// A local folder with `config.json`, `tokenizer.json`, `tokenizer_config.json` and `*.safetensors`.
    pub folder: PathBuf,
    /// The model's name for callers.
    pub name: String,
    pub number_format: NumberFormat,
    /// Quantises the weights while loading.
    pub quantisation: Option<Quantisation>,
    /// Lowers the model's own limit of prompt and answer together, in tokens.
    pub context: Option<u32>,
    pub purpose: Purpose,
}

impl EmbeddedConfig {
    /// Full precision, and the model's own context.
    pub fn new(folder: impl Into<PathBuf>, name: impl Into<String>, purpose: Purpose) -> Self {
        Self {
            folder: folder.into(),
            name: name.into(),
            number_format: NumberFormat::default(),
            quantisation: None,
            context: None,
            purpose,
        }
    }
}

/// An engine does one or the other: both at once on the same one would kill it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// [`Engine::generate`]
    Generation,
    /// [`Engine::reference`]
    Reference,
}

/// Format of weights and activations. The CPU has no matrix products in bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NumberFormat {
    #[default]
    F32,
    F16,
}

/// Formats of quantised weights. Those with `K` need dimensions divisible by 256, the others by 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quantisation {
    #[serde(rename = "q8_0")]
    Q8_0,
    #[serde(rename = "q4_0")]
    Q4_0,
    #[serde(rename = "q4k")]
    Q4K,
    #[serde(rename = "q5k")]
    Q5K,
    #[serde(rename = "q6k")]
    Q6K,
}

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Reading the small files and the headers of the large ones.
    Checking,
    /// Reading that many bytes of weights.
    Loading {
        bytes: u64,
    },
    /// Finding out whether requests may run together.
    Testing,
    Ready {
        parallel: usize,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checking => f.write_str("checking the model folder"),
            Self::Loading { bytes } => {
                write!(f, "loading {:.1} MB of weights", *bytes as f64 / 1e6)
            }
            Self::Testing => f.write_str("testing whether requests may run together"),
            Self::Ready { parallel: 1 } => f.write_str("ready, one request at a time"),
            Self::Ready { parallel } => write!(f, "ready, {parallel} requests at once"),
        }
    }
}

/// A model loaded by mistral.rs.
pub struct Embedded {
    inner: Arc<Inner>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("config", &self.inner.config)
            .field("model", &self.inner.info)
            .field("parallel", &self.inner.parallel)
            .finish_non_exhaustive()
    }
}

struct Inner {
    config: EmbeddedConfig,
    info: ModelInfo,
    folder: Arc<ModelFolder>,
    slot: Mutex<Slot>,
    /// One for each sequence that may be in the engine.
    permits: Arc<Semaphore>,
    parallel: usize,
    next_id: AtomicUsize,
    /// Made for the first answer that has to follow a grammar; an error if this tokenizer cannot.
    grammars: OnceLock<Result<Grammars, String>>,
    parked: Parked,
}

/// The engine, or the loading of another in its place.
struct Slot {
    /// Empty from the start of a reload until somebody has seen its end.
    live: Option<Arc<Live>>,
    /// At most one. A task of its own, so that callers who go away do not throw its result away.
    loading: JoinSet<Result<Live, EngineError>>,
}

impl Embedded {
    /// Loads a model and tests it. Tells `progress` before each step.
    ///
    /// # Errors
    /// [`EngineError::Load`], naming the file at fault where one is.
    pub async fn load(
        config: EmbeddedConfig,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Self, EngineError> {
        progress(Progress::Checking);
        let path = config.folder.clone();
        let folder = tokio::task::spawn_blocking(move || folder::inspect(&path))
            .await
            .map_err(|error| loading::failed(&config, loading::panic_text(error)))??;
        progress(Progress::Loading { bytes: folder.bytes });
        let live = loading::load(&config, &folder).await?;
        let context = live.context.min(folder.context);
        let info = ModelInfo {
            name: config.name.clone(),
            vocabulary: folder.vocabulary,
            context: config.context.map_or(context, |limit| limit.min(context)),
            end_tokens: folder.ends.all.clone(),
        };
        let purpose = config.purpose;
        let mut inner = Inner {
            config,
            info,
            folder: Arc::new(folder),
            slot: Mutex::new(Slot { live: Some(Arc::new(live)), loading: JoinSet::new() }),
            permits: Arc::new(Semaphore::new(1)),
            parallel: 1,
            next_id: AtomicUsize::new(1),
            grammars: OnceLock::new(),
            parked: Parked::default(),
        };
        if purpose == Purpose::Generation {
            progress(Progress::Testing);
            inner.parallel = self_test::run(&inner).await?;
            inner.permits = Arc::new(Semaphore::new(inner.parallel));
        }
        progress(Progress::Ready { parallel: inner.parallel });
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Engine for Embedded {
    fn model(&self) -> &ModelInfo {
        &self.inner.info
    }

    fn parallel(&self) -> usize {
        self.inner.parallel
    }

    fn generate(&self, generation: Generation) -> BoxFuture<'_, Result<Generating, EngineError>> {
        generating::generate(Arc::clone(&self.inner), generation).boxed()
    }

    fn reference(&self, pass: ReferencePass) -> BoxFuture<'_, Result<Reference, EngineError>> {
        scoring::reference(&self.inner, pass).boxed()
    }
}

impl Inner {
    fn unless(&self, purpose: Purpose, what: &str) -> Result<(), EngineError> {
        if self.config.purpose == purpose {
            return Ok(());
        }
        Err(EngineError::Unsupported(format!(
            "this engine of {} was loaded for another purpose than {what}",
            self.info.name
        )))
    }

    /// Refuses what this model cannot honour.
    fn check(&self, generation: &Generation) -> Result<(), EngineError> {
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
        if self.folder.tool_template.is_some() {
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
    async fn grammar(
        self: &Arc<Self>,
        generation: &Generation,
    ) -> Result<Option<Grammar>, EngineError> {
        if !generation.is_constrained() {
            return Ok(None);
        }
        let (inner, generation) = (Arc::clone(self), generation.clone());
        // Large schemas take a while, and so does the first one: the vocabulary is read for it.
        let compile = move || {
            let folder = &inner.folder;
            let grammars = inner.grammars.get_or_init(|| {
                Grammars::new(&folder.tokenizer, folder.vocabulary, &folder.ends.all)
            });
            match grammars {
                Ok(grammars) => grammars.compile(&generation),
                Err(problem) => Err(grammar::refusal(&generation, problem)),
            }
        };
        let compiled = tokio::task::spawn_blocking(compile).await;
        compiled.map_err(|error| EngineError::Failed(error.to_string()))?
    }

    /// The engine, loaded again if it has died.
    async fn live(&self) -> Result<Arc<Live>, EngineError> {
        let mut slot = self.slot.lock().await;
        match &slot.live {
            Some(live) if !live.requests.is_closed() => Ok(Arc::clone(live)),
            _ => self.reload(&mut slot).await,
        }
    }

    /// Replaces an engine that lost a request, unless somebody else has done so.
    async fn revive(&self, dead: &Arc<Live>) -> Result<(), EngineError> {
        let mut slot = self.slot.lock().await;
        if slot.live.as_ref().is_none_or(|live| Arc::ptr_eq(live, dead)) {
            self.reload(&mut slot).await?;
        }
        Ok(())
    }

    /// Waits for the reload under way, or starts one. Callers may go away at any time.
    async fn reload(&self, slot: &mut Slot) -> Result<Arc<Live>, EngineError> {
        let loaded = loop {
            if let Some(loaded) = slot.loading.join_next().await {
                break loaded;
            }
            tracing::warn!(model = %self.info.name, "the engine of {} died and is loaded again", self.info.name);
            // First, so that the weights are never in memory twice.
            slot.live = None;
            let (config, folder) = (self.config.clone(), Arc::clone(&self.folder));
            slot.loading.spawn(async move { loading::load(&config, &folder).await });
        };
        let loaded =
            loaded.map_err(|error| loading::failed(&self.config, loading::panic_text(error)))?;
        let live = Arc::new(loaded?);
        slot.live = Some(Arc::clone(&live));
        Ok(live)
    }

    /// A request for tokens after the given ones, which mistral.rs samples greedily from what `processor` returns.
    fn request(
        &self,
        ids: Vec<u32>,
        max_tokens: usize,
        raw: bool,
        processor: Arc<dyn CustomLogitsProcessor>,
        responses: mpsc::Sender<Response>,
    ) -> Request {
        Request::Normal(Box::new(NormalRequest {
            messages: RequestMessage::CompletionTokens(ids),
            // Temperature 0 is a plain argmax; `deterministic()` means a softmax, a sort and a draw.
            sampling_params: SamplingParams {
                temperature: Some(0.0),
                max_len: Some(max_tokens),
                ..SamplingParams::neutral()
            },
            response: responses,
            return_logprobs: false,
            is_streaming: false,
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            constraint: Constraint::None,
            suffix: None,
            tools: None,
            tool_choice: None,
            logits_processors: Some(vec![processor]),
            return_raw_logits: raw,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        }))
    }
}

#[cfg(test)]
mod tests;
