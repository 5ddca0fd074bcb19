//! Requests as validators make them up, and answers to them, for measurements.

use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::checks::Check;
use common::format::NumericFormat;
use common::generation::{Adjustment, FinishReason, Format, Generation, Sampling};
use common::openai::{Asked, parse};
use common::receipt::{Generated, Timings, request_digest};
use common::{Keypair, TaskId};
use engine::{Answer, Engine, EngineError, Native, NativeConfig};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tasks::wire::miner_body;
use tasks::{Catalogue, Task, synthetic};

/// Answers that an engine computes at once.
const AT_ONCE: usize = 24;
/// Tokens of the longest answer that is asked for.
const LONGEST: u32 = 160;
/// Tokens of prompt and answer together.
pub(crate) const CONTEXT: u32 = 1024;

/// A model folder and the task that is made up of it.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) task: Task,
    folder: std::path::PathBuf,
    miner: Keypair,
}

/// A request, and the same as miners get it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) body: String,
    pub(crate) asked: Asked,
}

/// What a miner gives for an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Given {
    pub(crate) prompt_tokens: u32,
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
    /// The most likely tokens at each position, as far as they were reported.
    pub(crate) top: Vec<Vec<(u32, f32)>>,
    pub(crate) finish_reason: FinishReason,
}

impl From<Answer> for Given {
    fn from(answer: Answer) -> Self {
        let tops = answer.tokens.iter().map(|token| {
            token.top.iter().map(|alternative| (alternative.id, alternative.logprob)).collect()
        });
        Self {
            prompt_tokens: answer.prompt_tokens,
            tokens: answer.tokens.iter().map(|token| token.id).collect(),
            logprobs: answer.tokens.iter().map(|token| token.logprob).collect(),
            top: tops.collect(),
            text: answer.text,
            finish_reason: answer.finish_reason,
        }
    }
}

impl Subject {
    /// # Errors
    /// A sentence that says why the folder cannot be measured.
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Self> {
        let name = folder.file_name().map_or("model".into(), |name| name.to_string_lossy());
        let has_template = folder.join("chat_template.jinja").exists()
            || std::fs::read_to_string(folder.join("tokenizer_config.json"))
                .is_ok_and(|settings| settings.contains("\"chat_template\""));
        let text = |value: &str| toml::Value::from(value).to_string();
        let kind = if has_template { "chat" } else { "completion" };
        let document = format!(
            r#"[[task]]
id = "measured"
kind = "{kind}"
model = {}
weight = 1.0
max_capacity = 1000
tokens_per_request = 60
limits = {{ max_tokens = {LONGEST}, max_prompt_bytes = 2048 }}
timeouts = {{ first_token_s = 5, total_s = 30 }}
engine = {{ folder = {}, context = {CONTEXT} }}
prompts = {{ words = {{ min = 5, max = 60 }} }}
"#,
            text(&name),
            text(&folder.display().to_string()),
        );
        let catalogue = Catalogue::parse(&document, "the measured model")?;
        let task = catalogue.tasks()[0].clone();
        let miner = Keypair::development("Miner");
        Ok(Self { task, folder: folder.to_owned(), miner })
    }

    /// The model in a format.
    ///
    /// # Errors
    /// If it cannot be loaded, or is of a kind that is not computed here.
    pub(crate) fn load(&self, format: NumericFormat) -> anyhow::Result<Native> {
        load(&self.folder, &self.task.model, format)
    }

    /// Plain requests: text alone, at a temperature.
    ///
    /// # Errors
    /// If such requests are none that the task takes.
    pub(crate) fn requests(
        &self,
        count: usize,
        temperature: f64,
        seed: u64,
    ) -> anyhow::Result<Vec<Request>> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut next = || {
            let made = synthetic::request(&self.task, &mut rng).generation;
            self.request(Generation {
                sampling: Sampling { temperature, top_p: 1.0, ..made.sampling },
                max_tokens: LONGEST,
                stop: Vec::new(),
                top_logprobs: 20,
                adjustment: Adjustment::default(),
                format: Format::Text,
                tools: None,
                ..made
            })
        };
        (0..count).map(|_| next()).collect()
    }

    /// # Errors
    /// If the task does not take it.
    pub(crate) fn request(&self, generation: Generation) -> anyhow::Result<Request> {
        let body = miner_body(&self.task.id, &generation);
        let asked = parse(self.task.kind, body.as_bytes(), self.task.limits())?;
        Ok(Request { body, asked })
    }

    /// The receipt of an answer, and what else a checking server gets.
    pub(crate) fn check(&self, request: &Request, given: &Given) -> Check {
        let task: TaskId = self.task.id.clone();
        let generated = Generated {
            task: task.clone(),
            request_digest: request_digest(request.body.as_bytes()),
            prompt_tokens: given.prompt_tokens,
            tokens: given.tokens.clone(),
            logprobs: given.logprobs.clone(),
            finish_reason: given.finish_reason,
            timings: Timings::default(),
        };
        Check {
            id: String::new(),
            task,
            miner: self.miner.hotkey(),
            request: request.body.clone(),
            text: given.text.clone(),
            receipt: generated.sign(&self.miner),
        }
    }
}

/// # Errors
/// If it cannot be loaded, or is of a kind that is not computed here.
pub(crate) fn load(folder: &Path, name: &str, format: NumericFormat) -> anyhow::Result<Native> {
    let config = NativeConfig {
        folder: folder.to_owned(),
        name: name.to_owned(),
        format,
        context: Some(CONTEXT),
    };
    Native::load(&config)?.ok_or_else(|| {
        anyhow::anyhow!(
            "{name} cannot be measured: only Llama, Mistral, Qwen2 and Qwen3 models are computed here"
        )
    })
}

/// What a model answers, if it is run as each request is changed.
///
/// # Errors
/// If the engine fails.
pub(crate) fn answers(
    model: &Native,
    requests: &[Request],
    run: impl Fn(Generation) -> Generation,
) -> Result<Vec<Given>, EngineError> {
    let generations: Vec<_> =
        requests.iter().map(|request| run(request.asked.generation.clone())).collect();
    let parts: Vec<_> =
        generations.chunks(generations.len().div_ceil(model.parallel()).max(1)).collect();
    let answered = each(&parts, model.parallel(), |part| model.answer(part, AT_ONCE))?;
    Ok(answered.into_iter().flatten().map(Given::from).collect())
}

/// Threads for what is not measured by its time.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Does something with each item, on several threads, and returns the results in order.
///
/// # Errors
/// The first error, by order.
pub(crate) fn each<T: Sync, R: Send, E: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let mut done: Vec<(usize, Result<R, E>)> = std::thread::scope(|scope| {
        let worker = || {
            let mut done = Vec::new();
            while let at = next.fetch_add(1, Ordering::Relaxed)
                && let Some(item) = items.get(at)
            {
                done.push((at, work(item)));
            }
            done
        };
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| match worker.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
