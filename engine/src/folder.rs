//! A model folder, checked before anything large is loaded: what is wrong with it is said by file name.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::api::EngineError;
use crate::template::ChatTemplate;

/// Larger JSON files are no configuration. Real tokenizers reach 35 MB.
const MOST_JSON: u64 = 256 << 20;
/// Header limit of the safetensors format.
const MOST_HEADER: u64 = 100_000_000;

/// Where mistral.rs ends an answer as well, if the vocabulary and the chat template have them.
const ALTERNATE_ENDS: [&str; 8] = [
    "<|im_end|>",
    "<end_of_turn>",
    "<|end_of_text|>",
    "<|end|>",
    "<|eot_id|>",
    "<|message|>",
    "<|start|>",
    "<|channel|>",
];

/// What the engine needs to know of a folder.
#[derive(Debug)]
pub(crate) struct ModelFolder {
    pub(crate) path: PathBuf,
    pub(crate) tokenizer: Tokenizer,
    /// Entries of the model's output.
    pub(crate) vocabulary: u32,
    /// Positions the model was made for.
    pub(crate) context: u32,
    pub(crate) ends: EndTokens,
    pub(crate) chat_template: bool,
    /// The chat template, if it is text that can be read here.
    pub(crate) template: Option<ChatTemplate>,
    /// The files of weights.
    pub(crate) files: Vec<String>,
    /// Total size of the weights.
    pub(crate) bytes: u64,
}

/// Tokens that end an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndTokens {
    /// All, ascending.
    pub(crate) all: Vec<u32>,
    /// One at which mistral.rs too ends a sequence.
    pub(crate) engine: u32,
}

impl ModelFolder {
    /// Whether the chat template has a place for tools.
    pub(crate) fn shows_tools(&self) -> bool {
        self.template.as_ref().is_some_and(ChatTemplate::shows_tools)
    }
}

#[derive(Deserialize)]
struct Config {
    vocab_size: Option<u32>,
    max_position_embeddings: Option<u32>,
    #[serde(default)]
    eos_token_id: Ids,
}

#[derive(Deserialize, Default)]
struct GenerationConfig {
    #[serde(default)]
    eos_token_id: Ids,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
    #[default]
    None,
}

impl Ids {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
            Self::None => &[],
        }
    }
}

#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Value>,
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenName {
    Text(String),
    Added { content: String },
}

impl TokenName {
    fn as_str(&self) -> &str {
        match self {
            Self::Text(name) | Self::Added { content: name } => name,
        }
    }
}

/// Reads everything but the weights, and of those the headers.
///
/// # Errors
/// [`EngineError::Load`] with the name of the file at fault.
pub(crate) fn inspect(path: &Path) -> Result<ModelFolder, EngineError> {
    read(path).map_err(|problem| EngineError::Load { folder: path.to_owned(), problem })
}

fn read(path: &Path) -> Result<ModelFolder, String> {
    // Anything that is no local folder would be looked up on the hub.
    let path = path.canonicalize().map_err(|error| format!("it cannot be opened: {error}"))?;
    if !path.is_dir() {
        return Err("it is not a folder".to_owned());
    }
    let config: Config = json(&path, "config.json")?;
    let vocabulary = config.vocab_size.filter(|&n| n > 0).ok_or("config.json has no vocab_size")?;
    let context = config
        .max_position_embeddings
        .filter(|&n| n > 0)
        .ok_or("config.json has no max_position_embeddings")?;
    let tokenizer = Tokenizer::from_bytes(bytes(&path, "tokenizer.json")?)
        .map_err(|error| format!("tokenizer.json is not a tokenizer: {error}"))?;
    if tokenizer.get_vocab_size(true) > vocabulary as usize {
        return Err(format!(
            "tokenizer.json has {} tokens, but config.json says vocab_size {vocabulary}",
            tokenizer.get_vocab_size(true)
        ));
    }
    let tokenizer_config: TokenizerConfig = json(&path, "tokenizer_config.json")?;
    let generation: GenerationConfig = match path.join("generation_config.json").exists() {
        true => json(&path, "generation_config.json")?,
        false => GenerationConfig::default(),
    };
    let rendered = template_of(&path, &tokenizer_config)?;
    // Only searched for the names of end tokens, so JSON's escapes do not matter.
    let mut template = tokenizer_config.chat_template.as_ref().map(|template| template.to_string());
    for name in ["chat_template.jinja", "chat_template.json"] {
        if path.join(name).exists() {
            let text = String::from_utf8(bytes(&path, name)?)
                .map_err(|_| format!("{name} is not text"))?;
            template.get_or_insert_default().push_str(&text);
        }
    }

    let named = match &tokenizer_config.eos_token {
        Some(name) => {
            let name = name.as_str();
            let missing = || {
                format!(
                    "tokenizer_config.json names the end token {name:?}, which tokenizer.json lacks"
                )
            };
            Some(tokenizer.token_to_id(name).ok_or_else(missing)?)
        }
        None => None,
    };
    let engine = named.or_else(|| generation.eos_token_id.as_slice().first().copied());
    let engine = engine
        .filter(|&id| id < vocabulary)
        .ok_or("neither tokenizer_config.json nor generation_config.json names an end token")?;
    let listed = [config.eos_token_id.as_slice(), generation.eos_token_id.as_slice()].concat();
    let alternates = ALTERNATE_ENDS
        .into_iter()
        .filter(|name| template.as_ref().is_some_and(|template| template.contains(name)))
        .filter_map(|name| tokenizer.token_to_id(name));
    let all = std::iter::once(engine).chain(listed).chain(alternates);
    let all: BTreeSet<u32> = all.filter(|&id| id < vocabulary).collect();
    let files = weight_files(&path)?;
    let bytes = files.iter().map(|name| whole_safetensors(&path, name)).sum::<Result<_, _>>()?;
    let ends = EndTokens { all: all.into_iter().collect(), engine };
    let chat_template = template.is_some();
    Ok(ModelFolder {
        path,
        tokenizer,
        vocabulary,
        context,
        ends,
        chat_template,
        template: rendered,
        files,
        bytes,
    })
}

/// The template for conversations with tools: a file of its own before the tokenizer's settings, and of several templates
/// the one for tools.
fn template_of(folder: &Path, config: &TokenizerConfig) -> Result<Option<ChatTemplate>, String> {
    #[derive(Deserialize)]
    struct File {
        chat_template: Value,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
        template: String,
    }
    const JINJA: &str = "chat_template.jinja";
    const JSON: &str = "chat_template.json";
    let template = if folder.join(JINJA).exists() {
        let text = String::from_utf8(bytes(folder, JINJA)?);
        Some(Value::String(text.map_err(|_| format!("{JINJA} is not text"))?))
    } else if folder.join(JSON).exists() {
        Some(json::<File>(folder, JSON)?.chat_template)
    } else {
        config.chat_template.clone()
    };
    let source = match template {
        Some(Value::String(source)) => source,
        Some(several) => {
            let several = Vec::<Named>::deserialize(several).unwrap_or_default();
            let find = |name: &str| several.iter().find(|other| other.name == name);
            match find("tool_use").or_else(|| find("default")) {
                Some(named) => named.template.clone(),
                None => return Ok(None),
            }
        }
        None => return Ok(None),
    };
    let name = |token: &Option<TokenName>| token.as_ref().map(|name| name.as_str().to_owned());
    Ok(Some(ChatTemplate::new(&source, name(&config.bos_token), name(&config.eos_token))))
}

/// The names of the weight files.
fn weight_files(folder: &Path) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    const INDEX: &str = "model.safetensors.index.json";
    let mut names = BTreeSet::new();
    if folder.join(INDEX).exists() {
        let index: Index = json(folder, INDEX)?;
        for name in index.weight_map.into_values() {
            if name.contains(['/', '\\']) {
                return Err(format!("{INDEX} names a file outside the folder: {name}"));
            }
            names.insert(name);
        }
    }
    let entries = folder.read_dir().map_err(|error| format!("it cannot be listed: {error}"))?;
    for entry in entries.flatten() {
        if let Ok(name) = entry.file_name().into_string()
            && name.ends_with(".safetensors")
        {
            names.insert(name);
        }
    }
    if names.is_empty() {
        return Err("it has no *.safetensors file".to_owned());
    }
    Ok(names.into_iter().collect())
}

/// A safetensors file begins with the length of a JSON header that says where each tensor ends.
fn whole_safetensors(folder: &Path, name: &str) -> Result<u64, String> {
    #[derive(Deserialize)]
    struct Tensor {
        data_offsets: [u64; 2],
    }
    let (mut file, size) = open(folder, name)?;
    let truncated = |wanted: u64| format!("{name} is truncated: it has {size} of {wanted} bytes");
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| truncated(8))?;
    let length = u64::from_le_bytes(length);
    if length > MOST_HEADER {
        return Err(format!("{name} is not a safetensors file"));
    }
    let mut header = Vec::new();
    file.take(length)
        .read_to_end(&mut header)
        .map_err(|error| format!("{name} cannot be read: {error}"))?;
    if (header.len() as u64) < length {
        return Err(truncated(8 + length));
    }
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&header)
        .map_err(|error| format!("{name} is not a safetensors file: {error}"))?;
    let mut end = 0;
    for (tensor, entry) in header.into_iter().filter(|(key, _)| key != "__metadata__") {
        let entry: Tensor = serde_json::from_value(entry)
            .map_err(|error| format!("{name} is not a safetensors file: {tensor}: {error}"))?;
        end = end.max(entry.data_offsets[1]);
    }
    let wanted =
        end.checked_add(8 + length).ok_or_else(|| format!("{name} is not a safetensors file"))?;
    if size < wanted { Err(truncated(wanted)) } else { Ok(size) }
}

pub(crate) fn json<T: for<'de> Deserialize<'de>>(folder: &Path, name: &str) -> Result<T, String> {
    serde_json::from_slice(&bytes(folder, name)?)
        .map_err(|error| format!("{name} cannot be understood: {error}"))
}

fn bytes(folder: &Path, name: &str) -> Result<Vec<u8>, String> {
    let (mut file, size) = open(folder, name)?;
    if size > MOST_JSON {
        return Err(format!("{name} is too large: {size} bytes"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| format!("{name} cannot be read: {error}"))?;
    Ok(bytes)
}

fn open(folder: &Path, name: &str) -> Result<(File, u64), String> {
    let open = || {
        let file = File::open(folder.join(name))?;
        let size = file.metadata()?.len();
        Ok((file, size))
    };
    open().map_err(|error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{name} is missing"),
        _ => format!("{name} cannot be read: {error}"),
    })
}
