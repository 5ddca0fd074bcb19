//! Model folders: the files that inference engines load, and reading them back.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::json;
use tokenizers::Tokenizer;

use crate::model::{Config, Model};
use crate::tokenizer::{CHAT_TEMPLATE, END_OF_TEXT, TURN_END, TURN_START, boxed};

/// Writes `config.json`, `generation_config.json`, `tokenizer.json`, `tokenizer_config.json` and `model.safetensors`
/// (half precision). Every file appears whole or not at all.
///
/// # Errors
/// Names the file that cannot be written.
pub fn write(
    folder: &Path,
    config: &Config,
    tokenizer: &Tokenizer,
    weights: &BTreeMap<String, Tensor>,
) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    put(folder, "config.json", pretty(config)?.as_bytes())?;
    let generation = json!({
        "bos_token_id": END_OF_TEXT.0,
        "eos_token_id": [TURN_END.0, END_OF_TEXT.0],
    });
    put(folder, "generation_config.json", pretty(&generation)?.as_bytes())?;
    put(folder, "tokenizer.json", tokenizer.to_string(false).map_err(boxed)?.as_bytes())?;
    let special = |(_, text): (u32, &str)| {
        json!({"content": text, "lstrip": false, "normalized": false, "rstrip": false,
               "single_word": false, "special": true})
    };
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {
            "0": special(TURN_START), "1": special(TURN_END), "2": special(END_OF_TEXT),
        },
        "add_bos_token": false,
        "bos_token": END_OF_TEXT.1,
        "eos_token": TURN_END.1,
        "pad_token": END_OF_TEXT.1,
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.max_position_embeddings,
        "chat_template": CHAT_TEMPLATE,
    });
    put(folder, "tokenizer_config.json", pretty(&tokenizer_config)?.as_bytes())?;
    let halves = (weights.iter())
        .map(|(name, tensor)| Ok((name.clone(), tensor.detach().to_dtype(DType::F16)?)))
        .collect::<candle_core::Result<BTreeMap<_, _>>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    put(folder, "model.safetensors", &safetensors::serialize(&halves, Some(metadata))?)
}

fn pretty(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn put(folder: &Path, name: &str, content: &[u8]) -> Result<()> {
    let (path, unfinished) = (folder.join(name), folder.join(format!(".{name}.unfinished")));
    fs::write(&unfinished, content)
        .and_then(|()| fs::rename(&unfinished, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a model and its tokenizer; weights are widened to f32.
///
/// # Errors
/// Names the file that is missing or broken, or the tensor that does not fit `config.json`.
pub fn read(folder: &Path) -> Result<(Model, Tokenizer)> {
    let path = folder.join("config.json");
    let config = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let config: Config = serde_json::from_slice(&config)
        .with_context(|| format!("{} is not a model's configuration", path.display()))?;
    let path = folder.join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&path).map_err(boxed);
    let tokenizer = tokenizer.with_context(|| format!("cannot read {}", path.display()))?;
    let path = folder.join("model.safetensors");
    let weights = candle_core::safetensors::load(&path, &Device::Cpu)
        .with_context(|| format!("cannot read {}", path.display()))?
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F32)?)))
        .collect::<candle_core::Result<BTreeMap<_, _>>>()?;
    let model = Model::new(&config, &weights)
        .with_context(|| format!("{} does not fit its configuration", path.display()))?;
    Ok((model, tokenizer))
}
