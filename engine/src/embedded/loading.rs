//! Loading a folder into mistral.rs.

use mistralrs::{IsqType, Model, ModelDType, Request, TextModelBuilder};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinError;

use super::{EmbeddedConfig, NumberFormat, Quantisation};
use crate::api::EngineError;
use crate::folder::ModelFolder;

/// A running engine thread. It ends when this is dropped.
pub(super) struct Live {
    /// Closed when the engine has died.
    pub(super) requests: mpsc::Sender<Request>,
    /// Positions the engine has room for.
    pub(super) context: u32,
    /// Ends the engine when dropped. Not to be asked for a sender again: it would start the dead engine on its old state.
    _model: Model,
}

pub(super) async fn load(
    config: &EmbeddedConfig,
    folder: &ModelFolder,
) -> Result<Live, EngineError> {
    let mut builder = TextModelBuilder::new(folder.path.display())
        .with_dtype(match config.number_format {
            NumberFormat::F32 => ModelDType::F32,
            NumberFormat::F16 => ModelDType::F16,
        })
        // It never evicts on the CPU, and a raw request that hits it answers too few rows.
        .with_prefix_cache_n(None)
        .with_max_num_seqs(32);
    if !cfg!(any(feature = "cuda", feature = "metal")) {
        builder = builder.with_force_cpu();
    }
    if let Some(quantisation) = config.quantisation {
        builder = builder.with_isq(match quantisation {
            Quantisation::Q8_0 => IsqType::Q8_0,
            Quantisation::Q4_0 => IsqType::Q4_0,
            Quantisation::Q4K => IsqType::Q4K,
            Quantisation::Q5K => IsqType::Q5K,
            Quantisation::Q6K => IsqType::Q6K,
        });
    }
    // Loading blocks, and errors in model files surface as panics in places.
    let runtime = Handle::current();
    let model = tokio::task::spawn_blocking(move || runtime.block_on(builder.build()))
        .await
        .map_err(|error| failed(config, panic_text(error)))?
        .map_err(|error| failed(config, format!("{error:#}")))?;
    let requests =
        model.inner().get_sender(None).map_err(|error| failed(config, error.to_string()))?;
    let context = match model.max_sequence_length() {
        Ok(Some(length)) => u32::try_from(length).unwrap_or(u32::MAX),
        Ok(None) => folder.context,
        Err(error) => return Err(failed(config, error.to_string())),
    };
    Ok(Live { requests, context, _model: model })
}

pub(super) fn failed(config: &EmbeddedConfig, problem: String) -> EngineError {
    EngineError::Load { folder: config.folder.clone(), problem }
}

pub(super) fn panic_text(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "loading was cancelled".to_owned() };
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    format!("loading panicked: {text}")
}
