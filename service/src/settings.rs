//! Layered settings: documented defaults, then a file, then environment variables, then flags.
//!
//! The defaults are a commented TOML document that is compiled in, and they are the schema as well: a key that is not
//! in them is unknown, and a value must be of the kind that stands there. Everything wrong is reported at once, each
//! with its full key. A wrong value is replaced by its default, so that the caller's own checks run on the rest.
//!
//! How the defaults say more than a value:
//! - `""` is a text that may be left out; the key's comment says what happens then. Optional numbers use 0 so.
//! - `[]` takes any list of plain values (in variables and flags: separated by commas), `{}` any keys.
//! - A list of tables describes its elements by its first one. A file replaces such a list as a whole; what one of its
//!   elements leaves out is taken from the first element of the defaults, save the keys in [`Sources::required`].

mod effective;
mod problems;
mod schema;

use std::path::{Path, PathBuf};

use config::{Config, ConfigError, File, FileFormat};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

pub use effective::effective;
pub use problems::{Problem, Problems};

/// More is no configuration file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where settings come from, weakest first.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// The documented defaults, TOML.
    pub defaults: &'a str,
    pub file: Option<&'a Path>,
    /// `MINER` makes `MINER__AXON__PORT` set `axon.port`.
    pub prefix: &'a str,
    /// All environment variables, see [`environment`]; those without the prefix are ignored.
    pub env: Vec<(String, String)>,
    /// Full keys and values, from the command line.
    pub flags: Vec<(String, String)>,
    /// Keys that each element of a list of tables must give itself, such as `tasks.id`.
    pub required: &'a [&'a str],
}

/// Settings, and what was wrong with them.
#[derive(Debug)]
pub struct Loaded<F> {
    /// Complete even if there are problems: wrong values are replaced by their defaults.
    pub file: F,
    /// Add the results of your own checks, then [`Problems::into_result`].
    pub problems: Problems,
    /// What `file` was read from, for [`effective`].
    pub table: Table,
}

/// Why there are no settings at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the configuration file {path} cannot be read")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {path} has {bytes} bytes, at most {MAX_FILE_BYTES} are read")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("the configuration file {path} is not valid TOML")]
    NotToml { path: PathBuf, source: ConfigError },
    /// A mistake of the program, not of the user.
    #[error("the built-in defaults do not fit the program: {0}")]
    Defaults(String),
}

impl Sources<'_> {
    /// Reads and merges all sources.
    ///
    /// # Errors
    /// If the file cannot be read at all. What is wrong inside of it is in [`Loaded::problems`].
    pub fn load<F: DeserializeOwned>(self) -> Result<Loaded<F>, LoadError> {
        let defaults: Table = self
            .defaults
            .parse()
            .map_err(|error: toml::de::Error| LoadError::Defaults(error.to_string()))?;
        let mut problems = Problems::default();
        let mut table = self.merge(&defaults, &mut problems)?;
        schema::check(&mut table, &defaults, self.required, &mut problems);
        let file = deserialize(&mut table, &defaults, &mut problems)?;
        Ok(Loaded { file, problems, table })
    }

    fn merge(&self, defaults: &Table, problems: &mut Problems) -> Result<Table, LoadError> {
        let broken = |error: ConfigError| LoadError::Defaults(error.to_string());
        let mut builder =
            Config::builder().add_source(File::from_str(self.defaults, FileFormat::Toml));
        if let Some(path) = self.file {
            let file = File::from_str(&read(path)?, FileFormat::Toml);
            // Parsed alone first, so that a mistake is reported with the file's name.
            Config::builder()
                .add_source(file.clone())
                .build()
                .map_err(|source| LoadError::NotToml { path: path.to_owned(), source })?;
            builder = builder.add_source(file);
        }
        let start = format!("{}__", self.prefix);
        let mut variables: Vec<_> = self
            .env
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(&start)?, name, value)))
            .collect();
        variables.sort();
        let variables = variables
            .into_iter()
            .map(|(rest, name, value)| (rest.to_lowercase().replace("__", "."), Some(name), value));
        let flags = self.flags.iter().map(|(key, value)| (key.clone(), None, value));
        for (key, variable, text) in variables.chain(flags) {
            match schema::read_text(&key, text, defaults) {
                Ok(value) => builder = builder.set_override(&key, value).map_err(broken)?,
                Err(problem) => problems.add(
                    &key,
                    match variable {
                        Some(name) => format!("{problem} (in the variable {name})"),
                        None => format!("{problem} (on the command line)"),
                    },
                ),
            }
        }
        builder.build().and_then(Config::try_deserialize).map_err(broken)
    }
}

/// The environment variables of this process, without those that are no text.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn read(path: &Path) -> Result<String, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(LoadError::TooLarge { path: path.to_owned(), bytes });
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// Each round replaces one value that `F` refuses by its default, so there are no more rounds than values.
fn deserialize<F: DeserializeOwned>(
    table: &mut Table,
    defaults: &Table,
    problems: &mut Problems,
) -> Result<F, LoadError> {
    loop {
        let error = match serde_path_to_error::deserialize(Value::Table(table.clone())) {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        let path: Vec<_> = error.path().iter().cloned().collect();
        let message = error.into_inner().message().trim().to_owned();
        let key = key_of(&path);
        if !replace_by_default(table, defaults, &path) {
            return Err(LoadError::Defaults(format!("{key}: {message}")));
        }
        problems.add(&key, message);
    }
}

fn key_of(path: &[Segment]) -> String {
    let mut key = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => key.push_str(&format!("[{index}]")),
            Segment::Map { key: name } | Segment::Enum { variant: name } => {
                if !key.is_empty() {
                    key.push('.');
                }
                key.push_str(name);
            }
            Segment::Unknown => {}
        }
    }
    key
}

/// Puts the default in the place of what is at `path`, or takes a list's element out. False if nothing changed.
fn replace_by_default(table: &mut Table, defaults: &Table, path: &[Segment]) -> bool {
    let Some((Segment::Map { key }, rest)) = path.split_first() else { return false };
    let default = defaults.get(key);
    if let Some(value) = table.get_mut(key)
        && !rest.is_empty()
        && replace_inside(value, default, rest)
    {
        return true;
    }
    match default {
        Some(default) if table.get(key) != Some(default) => {
            table.insert(key.clone(), default.clone());
            true
        }
        Some(_) => false,
        None => table.remove(key).is_some(),
    }
}

fn replace_inside(value: &mut Value, default: Option<&Value>, path: &[Segment]) -> bool {
    match (value, path) {
        (Value::Table(table), _) => {
            let empty = Table::new();
            let defaults = default.and_then(Value::as_table).unwrap_or(&empty);
            replace_by_default(table, defaults, path)
        }
        (Value::Array(list), [Segment::Seq { index }, rest @ ..]) if *index < list.len() => {
            let element = default.and_then(Value::as_array).and_then(|list| list.first());
            if rest.is_empty() || !replace_inside(&mut list[*index], element, rest) {
                list.remove(*index);
            }
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
