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
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::generation::Generation;
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
use crate::folder;
use crate::reader::Reader;
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
            .field("model", &self.inner.reader.info)
            .field("parallel", &self.inner.parallel)
            .finish_non_exhaustive()
    }
}

struct Inner {
    config: EmbeddedConfig,
    reader: Arc<Reader>,
    slot: Mutex<Slot>,
    /// One for each sequence that may be in the engine.
    permits: Arc<Semaphore>,
    parallel: usize,
    next_id: AtomicUsize,
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
            reader: Reader::new(info, folder),
            slot: Mutex::new(Slot { live: Some(Arc::new(live)), loading: JoinSet::new() }),
            permits: Arc::new(Semaphore::new(1)),
            parallel: 1,
            next_id: AtomicUsize::new(1),
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
        &self.inner.reader.info
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
            self.reader.info.name
        )))
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
            tracing::warn!(model = %self.reader.info.name, "the engine of {} died and is loaded again", self.reader.info.name);
            // First, so that the weights are never in memory twice.
            slot.live = None;
            let (config, reader) = (self.config.clone(), Arc::clone(&self.reader));
            slot.loading.spawn(async move { loading::load(&config, &reader.folder).await });
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
