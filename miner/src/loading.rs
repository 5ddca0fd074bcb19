//! Loads the models that the tasks need, each once.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::TaskId;
use engine::{Embedded, EmbeddedConfig, EngineError, Purpose, Remote, RemoteConfig, SharedEngine};
use tracing::info;

use crate::app::BuildError;
use crate::config::{EngineConfig, TaskConfig};

/// For a remote server whose own limit is to apply: more than any model has.
const ANY_CONTEXT: u32 = 1 << 24;

/// An engine for every task: those that are `ready`, and loaded ones.
pub(crate) async fn engines(
    tasks: &[TaskConfig],
    mut ready: BTreeMap<TaskId, SharedEngine>,
) -> Result<BTreeMap<TaskId, SharedEngine>, BuildError> {
    let mut loaded: Vec<(&EngineConfig, SharedEngine)> = Vec::new();
    for task in tasks {
        if ready.contains_key(&task.id) {
            continue;
        }
        let known = loaded.iter().find(|(config, _)| **config == task.engine);
        let engine = match known {
            Some((_, engine)) => Arc::clone(engine),
            None => {
                let engine = load(&task.engine)
                    .await
                    .map_err(|source| BuildError::Engine { task: task.id.clone(), source })?;
                loaded.push((&task.engine, Arc::clone(&engine)));
                engine
            }
        };
        ready.insert(task.id.clone(), engine);
    }
    Ok(ready)
}

async fn load(config: &EngineConfig) -> Result<SharedEngine, EngineError> {
    match config {
        EngineConfig::Embedded { folder, number_format, quantisation, context } => {
            let name =
                folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
            let mut config = EmbeddedConfig::new(folder, &name, Purpose::Generation);
            config.number_format = *number_format;
            config.quantisation = *quantisation;
            config.context = *context;
            let engine =
                Embedded::load(config, |progress| info!(model = name, "{name}: {progress}"))
                    .await?;
            Ok(Arc::new(engine))
        }
        EngineConfig::Remote { base_url, model, context, api_key } => {
            let context = context.unwrap_or(ANY_CONTEXT);
            let mut config = RemoteConfig::new(base_url.clone(), model.clone(), context);
            config.api_key = api_key.clone();
            Ok(Arc::new(Remote::connect(config).await?))
        }
    }
}
