//! The settings, read and checked. `config/checking-server.toml` documents them and holds the defaults.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::TaskId;
use common::checks::MAX_BATCH;
use engine::NumberFormat;
use serde::Deserialize;
use service::settings::{LoadError, Problems, Sources, effective};

const DEFAULTS: &str = include_str!("../../config/checking-server.toml");
const PREFIX: &str = "CHECKING_SERVER";

const SHORTEST_TOKEN: usize = 16;
const LONGEST_TOKEN: usize = 1024;

/// Checked settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub listen: SocketAddr,
    /// Largest request in bytes.
    pub max_body_bytes: usize,
    pub access: Access,
    /// The task catalogue's file.
    pub catalogue: PathBuf,
    /// The tasks to check; all enabled ones if empty.
    pub only: Vec<TaskId>,
    pub number_format: NumberFormat,
    /// Checks that may wait or run per model, at least [`MAX_BATCH`].
    pub places: usize,
    /// The longest that one check may take.
    pub deadline: Duration,
    /// Tokens of prefills that are spent on second looks, as a share of all others: `0.0..=1.0`.
    pub second_looks: f64,
}

/// Who may use the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everyone who can reach it: for loopback addresses.
    Open,
    /// Whoever sends this.
    Token(AccessToken),
}

/// A secret shared with validators. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(String);

impl AccessToken {
    /// 16 to 1024 visible ASCII characters.
    ///
    /// # Errors
    /// A sentence that says what is wrong, without the token.
    pub fn new(token: &str) -> Result<Self, String> {
        if !(SHORTEST_TOKEN..=LONGEST_TOKEN).contains(&token.len()) {
            return Err(format!(
                "must have {SHORTEST_TOKEN} to {LONGEST_TOKEN} characters, got {}",
                token.len()
            ));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("must consist of visible ASCII characters".to_owned());
        }
        Ok(Self(token.to_owned()))
    }

    /// Whether this is the token. Takes the same time wherever a wrong one differs.
    pub fn is(&self, given: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let differing = own
            .iter()
            .zip(given)
            .fold(0, |differing, (a, b)| std::hint::black_box(differing | (a ^ b)));
        own.len() == given.len() && differing == 0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(hidden)")
    }
}

/// Settings as they were read: checked, or with everything that is wrong.
#[derive(Debug)]
pub struct Settings {
    pub config: Result<Config, Problems>,
    /// The effective settings as TOML, secrets hidden.
    pub shown: String,
}

impl Settings {
    /// Merges the defaults, the file and the variables.
    ///
    /// # Errors
    /// If the file cannot be read or is no TOML.
    pub fn read(file: Option<&Path>, env: Vec<(String, String)>) -> Result<Self, LoadError> {
        let sources =
            Sources { defaults: DEFAULTS, file, prefix: PREFIX, env, ..Sources::default() };
        let loaded = sources.load::<File>()?;
        let mut problems = loaded.problems;
        let config = loaded.file.check(&mut problems);
        let config = match (problems.into_result(), config) {
            (Ok(()), Some(config)) => Ok(config),
            (Err(problems), _) => Err(problems),
            // Unreachable while every missing part notes a problem; never a silent success.
            (Ok(()), None) => Err(Problems::default()),
        };
        Ok(Self { config, shown: effective(&loaded.table) })
    }
}

/// The file's layout, unchecked.
#[derive(Debug, Deserialize)]
struct File {
    server: Server,
    access: AccessFile,
    tasks: Tasks,
    engine: Engine,
    queue: Queue,
}

#[derive(Debug, Deserialize)]
struct Server {
    listen: String,
    max_body_bytes: i64,
}

#[derive(Debug, Deserialize)]
struct AccessFile {
    token: String,
    token_file: String,
    open: bool,
}

#[derive(Debug, Deserialize)]
struct Tasks {
    catalogue: PathBuf,
    only: Vec<TaskId>,
}

#[derive(Debug, Deserialize)]
struct Engine {
    number_format: NumberFormat,
}

#[derive(Debug, Deserialize)]
struct Queue {
    places: i64,
    deadline_s: f64,
    second_looks: f64,
}

impl File {
    fn check(self, problems: &mut Problems) -> Option<Config> {
        let listen = self.server.listen.parse::<SocketAddr>();
        if listen.is_err() {
            problems.add(
                "server.listen",
                format!(
                    "must be an address and port such as 127.0.0.1:8092, got `{}`",
                    self.server.listen
                ),
            );
        }
        let max_body_bytes =
            whole("server.max_body_bytes", self.server.max_body_bytes, 1024..=1 << 30, problems);
        let loopback = listen.as_ref().is_ok_and(|listen| listen.ip().is_loopback());
        let access = self.access.check(loopback, problems);
        problems.require(
            !self.tasks.catalogue.as_os_str().is_empty(),
            "tasks.catalogue",
            "must name the task catalogue's file",
        );
        let places = whole("queue.places", self.queue.places, MAX_BATCH..=1_000_000, problems);
        let seconds = self.queue.deadline_s;
        let fits = (0.1..=3600.0).contains(&seconds);
        problems.require(
            fits,
            "queue.deadline_s",
            format!("must be between 0.1 and 3600, got {seconds}"),
        );
        let second_looks = self.queue.second_looks;
        let is_share = (0.0..=1.0).contains(&second_looks);
        problems.require(
            is_share,
            "queue.second_looks",
            format!("must be between 0 and 1, got {second_looks}"),
        );
        Some(Config {
            listen: listen.ok()?,
            max_body_bytes: max_body_bytes?,
            access: access?,
            catalogue: self.tasks.catalogue,
            only: self.tasks.only,
            number_format: self.engine.number_format,
            places: places?,
            deadline: fits.then(|| Duration::from_secs_f64(seconds))?,
            second_looks: is_share.then_some(second_looks)?,
        })
    }
}

impl AccessFile {
    fn check(self, loopback: bool, problems: &mut Problems) -> Option<Access> {
        let (key, token) = match (self.token.as_str(), self.token_file.as_str()) {
            ("", "") if self.open && loopback => return Some(Access::Open),
            ("", "") => {
                problems.add(
                    "access.token",
                    "is needed, or `access.token_file`; a server without one must listen on a loopback address and have \
                     `access.open = true`",
                );
                return None;
            }
            (token, "") => ("access.token", token.to_owned()),
            ("", file) => match std::fs::read_to_string(file) {
                Ok(token) => ("access.token_file", token.trim().to_owned()),
                Err(error) => {
                    problems.add("access.token_file", format!("`{file}` cannot be read: {error}"));
                    return None;
                }
            },
            _ => {
                problems.add(
                    "access.token_file",
                    "give `access.token` or `access.token_file`, not both",
                );
                return None;
            }
        };
        AccessToken::new(&token).map(Access::Token).map_err(|what| problems.add(key, what)).ok()
    }
}

fn whole(
    key: &str,
    number: i64,
    range: std::ops::RangeInclusive<usize>,
    problems: &mut Problems,
) -> Option<usize> {
    let fitting = usize::try_from(number).ok().filter(|number| range.contains(number));
    if fitting.is_none() {
        problems.add(
            key,
            format!("must be between {} and {}, got {number}", range.start(), range.end()),
        );
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, env: &[(&str, &str)]) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("checking.toml");
        std::fs::write(&file, text).unwrap();
        let env =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::read(Some(&file), env).unwrap()
    }

    #[test]
    fn the_documented_defaults_are_valid() {
        let config = Settings::read(None, Vec::new()).unwrap().config.unwrap();
        assert_eq!((config.access, config.places), (Access::Open, 256));
        assert_eq!(config.catalogue, Path::new("config/tasks.toml"));
    }

    #[test]
    fn a_server_that_others_can_reach_needs_a_token() {
        for text in ["[server]\nlisten = \"0.0.0.0:1\"", "[access]\nopen = false"] {
            let problems = read(text, &[]).config.unwrap_err().to_string();
            assert!(problems.contains("access.token: is needed"), "{problems}");
        }
    }

    #[test]
    fn a_token_is_taken_from_a_variable_or_a_file_and_never_shown() {
        let token = Access::Token(AccessToken::new("secret-of-sixteen").unwrap());
        let variable = read("", &[("CHECKING_SERVER__ACCESS__TOKEN", "secret-of-sixteen")]);
        assert!(!variable.shown.contains("secret-of"), "{}", variable.shown);
        let config = variable.config.unwrap();
        assert!(!format!("{config:?}").contains("secret-of"));
        assert_eq!(config.access, token);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "secret-of-sixteen\n").unwrap();
        let file = read(&format!("[access]\ntoken_file = {path:?}"), &[]).config.unwrap();
        assert_eq!(file.access, token);
    }

    #[test]
    fn everything_wrong_is_told_at_once_by_its_key() {
        let text = "[server]\nlisten = \"here\"\nmax_body_bytes = -1\n[access]\ntoken = \"short\"\n[tasks]\nonly = [\"No\"]\n\
                    [engine]\nnumber_format = \"int1\"\n[queue]\nplaces = 3\ndeadline_s = 0\nsecond_looks = 2\nsize = 1\n";
        let problems = read(text, &[]).config.unwrap_err().to_string();
        for key in [
            "server.listen:",
            "server.max_body_bytes:",
            "access.token:",
            "tasks.only",
            "engine.number_format:",
            "queue.places:",
            "queue.deadline_s:",
            "queue.second_looks:",
            "queue.size:",
        ] {
            assert!(problems.contains(key), "{key} is missing in {problems}");
        }
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        let token = AccessToken::new("0123456789abcdef").unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for wrong in ["", "0123456789abcde", "0123456789abcdeg", "0123456789abcdef0"] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
    }
}
