//! The service: built from settings, run until it is told to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use common::TaskId;
use common::format::NumericFormat;
use engine::{
    Embedded, EmbeddedConfig, EngineError, Native, NativeConfig, NumberFormat, Purpose,
    SharedEngine,
};
use service::http::{Limits, serve};
use tasks::{BadCatalogue, Catalogue, ModelSource, Task};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api;
use crate::calibration::Calibration;
use crate::checker::{self, Checker};
use crate::config::Config;
use crate::judge::Standard;
use crate::metrics::Metrics;
use crate::queue::{Bounds, Queue, Worker};

/// Why the checking server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Catalogue(#[from] BadCatalogue),
    /// One sentence for each task or model that cannot be checked.
    #[error("the checking server cannot start:\n  {}", .0.join("\n  "))]
    Tasks(Vec<String>),
    #[error("{address} cannot be listened on")]
    Listen { address: SocketAddr, source: std::io::Error },
}

/// Why the checking server ended before it was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} stopped by itself")]
pub struct StoppedEarly(&'static str);

/// A model that must be loaded, and the tasks that need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub folder: PathBuf,
    pub model: String,
    /// The most tokens of prompt and answer together that any of the tasks allows.
    pub context: u32,
    pub tasks: Vec<TaskId>,
}

/// Which models the settings and the catalogue ask for: one entry per folder.
///
/// # Errors
/// [`StartError::Tasks`] with everything that is wrong.
pub fn wanted(only: &[TaskId], catalogue: &Catalogue) -> Result<Vec<Wanted>, StartError> {
    let mut problems = Vec::new();
    for id in only {
        if !catalogue.enabled().any(|(task, _)| task.id == *id) {
            problems.push(format!("tasks.only: `{id}` is no enabled task of the catalogue"));
        }
    }
    let mut wanted: Vec<Wanted> = Vec::new();
    for (task, _) in
        catalogue.enabled().filter(|(task, _)| only.is_empty() || only.contains(&task.id))
    {
        if let Some(tokenizer) = &task.engine.tokenizer {
            problems.push(format!(
                "task `{}`: its tokenizer is {tokenizer}, but a model is only loaded with the tokenizer in its folder: put that \
                 one there and leave `engine.tokenizer` out of the catalogue",
                task.id
            ));
            continue;
        }
        let folder = match &task.engine.source {
            ModelSource::Folder(folder) if folder.is_dir() => folder,
            ModelSource::Folder(folder) => {
                problems.push(format!(
                    "task `{}`: there is no model folder {}",
                    task.id,
                    folder.display()
                ));
                continue;
            }
            ModelSource::Hub(repository) => {
                problems.push(format!(
                    "task `{}`: its model is the hub repository {repository}; download it and give the catalogue its \
                     `engine.folder`",
                    task.id
                ));
                continue;
            }
        };
        // The same folder by two names is still one model.
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        if let Some(known) = wanted.iter_mut().find(|known| known.folder == folder) {
            known.context = known.context.max(task.engine.context);
            known.tasks.push(task.id.clone());
        } else {
            let (model, context) = (task.model.clone(), task.engine.context);
            wanted.push(Wanted { folder, model, context, tasks: vec![task.id.clone()] });
        }
    }
    if problems.is_empty() { Ok(wanted) } else { Err(StartError::Tasks(problems)) }
}

/// A checking server that listens but does not answer yet.
#[derive(Debug)]
pub struct App {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    workers: Vec<Worker>,
}

impl App {
    /// Loads the models of the catalogue's tasks and listens.
    ///
    /// # Errors
    /// If the catalogue is bad, models cannot be loaded (all are named), or the address cannot be listened on.
    pub async fn build(config: Config) -> Result<Self, StartError> {
        let catalogue = Catalogue::load(&config.catalogue)?;
        let engines = load(wanted(&config.only, &catalogue)?, config.number_format).await?;
        Self::build_with(config, &catalogue, &engines).await
    }

    /// The same with engines that are already loaded, by task; tasks with the same engine share its queue. Checks exactly
    /// the tasks of `engines`.
    ///
    /// # Errors
    /// If one of the tasks is not in the catalogue, or the address cannot be listened on.
    pub async fn build_with(
        config: Config,
        catalogue: &Catalogue,
        engines: &BTreeMap<TaskId, SharedEngine>,
    ) -> Result<Self, StartError> {
        let mut registry = service::metrics::registry("checking-server", env!("CARGO_PKG_VERSION"));
        let metrics = Metrics::register(registry.sub_registry_with_prefix("checking"));
        let bounds = Bounds {
            places: config.places,
            deadline: config.deadline,
            second_looks: config.second_looks,
        };
        let (mut queues, mut workers, mut tasks) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut known: Vec<&SharedEngine> = Vec::new();
        let mut standards = Standards::new(config.number_format);
        for (id, engine) in engines {
            let Some(task) = catalogue.task(id) else {
                return Err(StartError::Tasks(vec![format!(
                    "task `{id}` is not in the catalogue"
                )]));
            };
            let queue =
                known.iter().position(|known| Arc::ptr_eq(known, engine)).unwrap_or_else(|| {
                    let (queue, worker) = Queue::new(Arc::clone(engine), bounds, metrics.clone());
                    known.push(engine);
                    queues.push(queue);
                    workers.push(worker);
                    known.len() - 1
                });
            let standard = standards.of(task);
            tasks.insert(
                id.clone(),
                checker::Task { kind: task.kind, limits: task.limits(), standard, queue },
            );
        }
        let listening = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let checker = Arc::new(Checker { tasks, queues, metrics, indices: Mutex::default() });
        let router = api::router(checker, config.access, config.max_body_bytes, registry);
        Ok(Self { listener, address, router, workers })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves. Then the checks in hand are finished, and those that wait are given back to be
    /// tried again; all of it within a few seconds.
    ///
    /// # Errors
    /// If a part of the server ended by itself.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), StoppedEarly> {
        let stop = CancellationToken::new();
        let mut workers = JoinSet::new();
        for worker in self.workers {
            workers.spawn(worker.run(stop.clone()));
        }
        let mut server = JoinSet::new();
        server.spawn(serve(self.listener, self.router, Limits::default(), stop.clone()));
        info!(address = %self.address, "the checking server listens on {}", self.address);
        let result = tokio::select! {
            () = shutdown => Ok(()),
            Some(_) = workers.join_next() => Err(StoppedEarly("a queue's worker")),
            Some(_) = server.join_next() => Err(StoppedEarly("the HTTP server")),
        };
        stop.cancel();
        while server.join_next().await.is_some() {}
        // Nobody waits for what they still do.
        workers.shutdown().await;
        result
    }
}

/// What tasks are judged by.
#[derive(Debug)]
pub(crate) struct Standards {
    /// In which references are computed: calibrations are made for f32.
    number_format: NumberFormat,
    /// By folder: reading one means reading all weights.
    calibrations: BTreeMap<PathBuf, Option<Calibration>>,
}

impl Standards {
    pub(crate) fn new(number_format: NumberFormat) -> Self {
        Self { number_format, calibrations: BTreeMap::new() }
    }

    pub(crate) fn of(&mut self, task: &Task) -> Standard {
        let standard = self.of_formats(task);
        if task.checking.seeded { standard } else { standard.without_seeds() }
    }

    fn of_formats(&mut self, task: &Task) -> Standard {
        let formats = &task.checking.formats;
        let ModelSource::Folder(folder) = &task.engine.source else {
            return Standard::assumed(formats);
        };
        if self.number_format != NumberFormat::F32 {
            warn!(
                task = %task.id,
                "calibrations are made for references in f32: answers to {} are judged with wide margins, and no miner is flagged \
                 for good; set `engine.number_format` to \"f32\"",
                task.id
            );
            return Standard::assumed(formats);
        }
        let calibration = self.calibrations.entry(folder.clone()).or_insert_with(|| {
            Calibration::read(folder).unwrap_or_else(|error| {
                warn!("{error:#}");
                None
            })
        });
        let measured = calibration.as_ref().and_then(|calibration| calibration.standard(formats));
        measured.unwrap_or_else(|| {
            let names: Vec<_> = formats.iter().map(|format| format.as_str()).collect();
            warn!(
                task = %task.id,
                "{} was not calibrated for {}: answers to {} are judged with wide margins, and no miner is flagged for good; run \
                 `checking-server calibrate --model {} --formats {}`",
                task.model,
                names.join(", "),
                task.id,
                folder.display(),
                names.join(",")
            );
            Standard::assumed(formats)
        })
    }
}

/// Loads one engine per model, and tells about all that fail.
async fn load(
    models: Vec<Wanted>,
    number_format: NumberFormat,
) -> Result<BTreeMap<TaskId, SharedEngine>, StartError> {
    let mut engines = BTreeMap::new();
    let mut problems = Vec::new();
    for wanted in models {
        match load_one(&wanted, number_format).await {
            Ok(engine) => {
                engines.extend(wanted.tasks.into_iter().map(|task| (task, Arc::clone(&engine))));
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    if problems.is_empty() { Ok(engines) } else { Err(StartError::Tasks(problems)) }
}

/// Models of the Llama family are computed by the engine crate itself, in pieces that fit into memory, others by mistral.rs.
pub(crate) async fn load_one(
    wanted: &Wanted,
    number_format: NumberFormat,
) -> Result<SharedEngine, EngineError> {
    let Wanted { folder, model, context, .. } = wanted;
    let native = NativeConfig {
        folder: folder.clone(),
        name: model.clone(),
        format: match number_format {
            NumberFormat::F32 => NumericFormat::F32,
            NumberFormat::F16 => NumericFormat::F16,
        },
        context: Some(*context),
    };
    let loaded = tokio::task::spawn_blocking(move || Native::load(&native)).await;
    let failed = |error: tokio::task::JoinError| EngineError::Failed(error.to_string());
    if let Some(native) = loaded.map_err(failed)?? {
        info!(model = %model, "{model}: ready");
        return Ok(Arc::new(native));
    }
    let config = EmbeddedConfig {
        number_format,
        context: Some(*context),
        ..EmbeddedConfig::new(folder, model.clone(), Purpose::Reference)
    };
    let engine = Embedded::load(config, |progress| info!(model = %model, "{model}: {progress}"));
    Ok(Arc::new(engine.await?))
}
