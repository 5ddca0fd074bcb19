//! The miner's settings: `config/miner.toml` documents them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use chain::{Axon, ChainConfig, Network, WalletPaths, node_address};
use common::openai::{Kind, Limits as TaskLimits};
use common::receipt::MAX_TOKENS;
use common::{Hotkey, Netuid, TaskId, Volume};
use engine::{ApiKey, NumberFormat, Quantisation};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as Unreadable, StrDeserializer};
use service::settings::{LoadError, Problems, Sources};
use url::Url;

/// The documented defaults.
pub const DEFAULTS: &str = include_str!("../../config/miner.toml");
/// Environment variables start with this and `__`.
pub const PREFIX: &str = "MINER";

/// Checked settings.
#[derive(Debug, Clone)]
pub struct Config {
    pub chain: ChainConfig,
    pub netuid: Netuid,
    pub wallet: WalletPaths,
    pub axon: AxonConfig,
    pub access: AccessConfig,
    /// The scoring period that capacities are for.
    pub period: Duration,
    pub limits: Limits,
    /// At least one; ids differ.
    pub tasks: Vec<TaskConfig>,
}

/// Where the miner listens, and where it says that it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AxonConfig {
    pub listen: SocketAddr,
    /// `None` on a local chain: this machine.
    pub external_ip: Option<IpAddr>,
    /// `None`: the port it listens on.
    pub external_port: Option<u16>,
    /// Whether to publish it.
    pub register: bool,
}

impl AxonConfig {
    /// What to publish for a miner that listens on `port`.
    pub fn published(&self, port: u16) -> Axon {
        let port = self.external_port.unwrap_or(port);
        match self.external_ip {
            Some(ip) => Axon::at(SocketAddr::new(ip, port)),
            None => Axon::local(port),
        }
    }
}

/// Who may send requests.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessConfig {
    /// In TAO; finite and at least 0.
    pub min_stake: f64,
    pub require_permit: bool,
    /// Always, whatever the metagraph says.
    pub allow: Vec<Hotkey>,
    /// Between two readings of the metagraph.
    pub refresh: Duration,
}

/// What protects the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub body_bytes: usize,
    /// Requests per task that may wait for a place.
    pub waiting: usize,
    pub wait: Duration,
    /// Without any progress.
    pub stall: Duration,
    /// For a whole answer.
    pub total: Duration,
}

/// One task that is served.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskConfig {
    pub id: TaskId,
    pub kind: Kind,
    /// Tokens written per period, over all validators.
    pub capacity: Volume,
    pub engine: EngineConfig,
    pub limits: TaskLimits,
    /// `None`: as many as the engine runs at once.
    pub concurrency: Option<usize>,
}

/// What runs a task's model. Equal ones are loaded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineConfig {
    Embedded {
        folder: PathBuf,
        number_format: NumberFormat,
        quantisation: Option<Quantisation>,
        context: Option<u32>,
    },
    Remote {
        base_url: Url,
        model: String,
        context: Option<u32>,
        api_key: Option<ApiKey>,
    },
}

impl Config {
    /// Where settings are read from, but for file, variables and flags.
    pub fn sources<'a>() -> Sources<'a> {
        Sources {
            defaults: DEFAULTS,
            prefix: PREFIX,
            required: &["tasks.id", "tasks.kind", "tasks.capacity"],
            ..Sources::default()
        }
    }

    /// Reads and checks settings. Gives the effective ones as TOML beside them, with secrets hidden.
    ///
    /// # Errors
    /// [`LoadError`] if the file cannot be read, [`Problems`] with everything that is wrong in the settings.
    pub fn load(sources: Sources<'_>) -> anyhow::Result<(Self, String)> {
        let loaded = sources.load::<File>()?;
        let mut problems = loaded.problems;
        let config = loaded.file.check(&mut problems);
        problems.into_result()?;
        match config {
            Some(config) => Ok((config, service::settings::effective(&loaded.table))),
            None => Err(LoadError::Defaults("a check failed without saying why".to_owned()).into()),
        }
    }
}

#[derive(Deserialize)]
struct File {
    chain: ChainFile,
    wallet: WalletFile,
    axon: AxonFile,
    access: AccessFile,
    capacity: CapacityFile,
    limits: LimitsFile,
    tasks: Vec<TaskFile>,
}

#[derive(Deserialize)]
struct ChainFile {
    network: Network,
    endpoint: String,
    fallback_endpoints: Vec<String>,
    netuid: Netuid,
}

#[derive(Deserialize)]
struct WalletFile {
    name: String,
    hotkey: String,
    path: String,
}

#[derive(Deserialize)]
struct AxonFile {
    ip: IpAddr,
    port: u16,
    external_ip: String,
    external_port: u16,
    register: bool,
}

#[derive(Deserialize)]
struct AccessFile {
    min_stake: f64,
    require_permit: bool,
    allow: Vec<Hotkey>,
    refresh_s: f64,
}

#[derive(Deserialize)]
struct CapacityFile {
    period_s: f64,
}

#[derive(Deserialize)]
struct LimitsFile {
    body_bytes: usize,
    waiting: usize,
    wait_s: f64,
    stall_s: f64,
    total_s: f64,
}

#[derive(Deserialize)]
struct TaskFile {
    id: TaskId,
    kind: Kind,
    capacity: Volume,
    concurrency: usize,
    engine: EngineFile,
    limits: TaskLimitsFile,
}

#[derive(Deserialize)]
struct EngineFile {
    r#type: EngineType,
    folder: PathBuf,
    dtype: NumberFormat,
    isq: String,
    context: u32,
    base_url: String,
    model: String,
    api_key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum EngineType {
    Embedded,
    Remote,
}

#[derive(Deserialize)]
struct TaskLimitsFile {
    max_tokens: u32,
    max_prompt_bytes: usize,
}

impl File {
    /// `None` only with a problem added.
    fn check(self, problems: &mut Problems) -> Option<Config> {
        let chain = self.chain.check(problems);
        let access = self.access.check(problems);
        let axon = self.axon.check(&chain, problems);
        let limits = self.limits.check(problems);
        let period = duration("capacity.period_s", self.capacity.period_s, problems);
        let mut wallet = WalletPaths::new(self.wallet.name, self.wallet.hotkey);
        if !self.wallet.path.is_empty() {
            wallet.path = self.wallet.path.into();
        }
        problems.require(!self.tasks.is_empty(), "tasks", "at least one task must be served");
        let mut tasks: Vec<TaskConfig> = Vec::new();
        for (number, task) in self.tasks.into_iter().enumerate() {
            let key = format!("tasks[{number}]");
            let twice = tasks.iter().any(|other| other.id == task.id);
            problems.require(
                !twice,
                format!("{key}.id"),
                format!("`{}` stands here twice", task.id),
            );
            tasks.extend(task.check(&key, problems));
        }
        Some(Config {
            chain,
            netuid: self.chain.netuid,
            wallet,
            axon: axon?,
            access: access?,
            period: period?,
            limits: limits?,
            tasks,
        })
    }
}

impl ChainFile {
    fn check(&self, problems: &mut Problems) -> ChainConfig {
        let mut chain = ChainConfig::new(self.network.clone());
        chain.endpoint = optional_url("chain.endpoint", &self.endpoint, problems);
        if let Err(error) = chain.urls() {
            let key = if self.endpoint.is_empty() { "chain.network" } else { "chain.endpoint" };
            problems.add(key, error.to_string());
        }
        for (index, text) in self.fallback_endpoints.iter().enumerate() {
            match node_address(text) {
                Ok(url) => chain.fallbacks.push(url),
                Err(bad) => {
                    problems.add(format!("chain.fallback_endpoints[{index}]"), bad.to_string());
                }
            }
        }
        chain
    }
}

impl AxonFile {
    fn check(self, chain: &ChainConfig, problems: &mut Problems) -> Option<AxonConfig> {
        let external_ip = match self.external_ip.as_str() {
            "" => None,
            text => match text.parse::<IpAddr>() {
                Ok(ip) if !ip.is_unspecified() => Some(ip),
                Ok(_) => {
                    problems
                        .add("axon.external_ip", "must be the address that validators connect to");
                    return None;
                }
                Err(_) => {
                    problems.add("axon.external_ip", format!("`{text}` is not an IP address"));
                    return None;
                }
            },
        };
        if external_ip.is_none() && self.register && !is_local(chain) {
            problems.add(
                "axon.external_ip",
                "is needed to publish where this miner is reached; set it, or `axon.register = false`",
            );
        }
        Some(AxonConfig {
            listen: SocketAddr::new(self.ip, self.port),
            external_ip,
            external_port: (self.external_port != 0).then_some(self.external_port),
            register: self.register,
        })
    }
}

/// Whether the chain's node runs on this machine, and so all of its neurons.
fn is_local(chain: &ChainConfig) -> bool {
    let this_machine = |url: &Url| match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    chain.network != Network::Finney
        && chain.urls().is_ok_and(|urls| urls.first().is_some_and(this_machine))
}

impl AccessFile {
    fn check(self, problems: &mut Problems) -> Option<AccessConfig> {
        let stake = self.min_stake;
        if !(stake.is_finite() && stake >= 0.0) {
            problems.add("access.min_stake", format!("must be at least 0, got {stake}"));
        }
        Some(AccessConfig {
            min_stake: stake,
            require_permit: self.require_permit,
            allow: self.allow,
            refresh: duration("access.refresh_s", self.refresh_s, problems)?,
        })
    }
}

impl LimitsFile {
    fn check(self, problems: &mut Problems) -> Option<Limits> {
        let body = (1024..=64 << 20).contains(&self.body_bytes);
        problems.require(body, "limits.body_bytes", "must be between 1024 and 67108864");
        problems.require(self.waiting <= 10_000, "limits.waiting", "must be at most 10000");
        let wait = duration("limits.wait_s", self.wait_s, problems);
        let stall = duration("limits.stall_s", self.stall_s, problems);
        let total = duration("limits.total_s", self.total_s, problems);
        Some(Limits {
            body_bytes: self.body_bytes,
            waiting: self.waiting,
            wait: wait?,
            stall: stall?,
            total: total?,
        })
    }
}

impl TaskFile {
    fn check(self, key: &str, problems: &mut Problems) -> Option<TaskConfig> {
        let TaskLimitsFile { max_tokens, max_prompt_bytes } = self.limits;
        problems.require(
            (1..=MAX_TOKENS).contains(&(max_tokens as usize)),
            format!("{key}.limits.max_tokens"),
            format!("must be between 1 and {MAX_TOKENS}, the most that a receipt holds"),
        );
        let bytes = max_prompt_bytes > 0;
        problems.require(bytes, format!("{key}.limits.max_prompt_bytes"), "must be at least 1");
        problems.require(
            self.concurrency <= 10_000,
            format!("{key}.concurrency"),
            "must be at most 10000",
        );
        Some(TaskConfig {
            id: self.id,
            kind: self.kind,
            capacity: self.capacity,
            engine: self.engine.check(&format!("{key}.engine"), problems)?,
            // What its model cannot do, the engine refuses.
            limits: TaskLimits::new(max_tokens, max_prompt_bytes),
            concurrency: (self.concurrency > 0).then_some(self.concurrency),
        })
    }
}

impl EngineFile {
    fn check(self, key: &str, problems: &mut Problems) -> Option<EngineConfig> {
        match self.r#type {
            EngineType::Embedded => {
                if self.folder.as_os_str().is_empty() {
                    problems.add(format!("{key}.folder"), "names no folder with a model");
                }
                let quantisation = match self.isq.as_str() {
                    "" => None,
                    text => {
                        let text: StrDeserializer<'_, Unreadable> = text.into_deserializer();
                        match Quantisation::deserialize(text) {
                            Ok(quantisation) => Some(quantisation),
                            Err(error) => {
                                problems.add(format!("{key}.isq"), error.to_string());
                                return None;
                            }
                        }
                    }
                };
                Some(EngineConfig::Embedded {
                    folder: self.folder,
                    number_format: self.dtype,
                    quantisation,
                    context: (self.context > 0).then_some(self.context),
                })
            }
            EngineType::Remote => {
                let base_url = optional_url(&format!("{key}.base_url"), &self.base_url, problems);
                if self.base_url.is_empty() {
                    problems.add(format!("{key}.base_url"), "is needed for a remote engine");
                }
                if self.model.is_empty() {
                    problems.add(format!("{key}.model"), "is needed for a remote engine");
                }
                Some(EngineConfig::Remote {
                    base_url: base_url?,
                    model: self.model,
                    context: (self.context > 0).then_some(self.context),
                    api_key: (!self.api_key.is_empty()).then(|| ApiKey::new(self.api_key)),
                })
            }
        }
    }
}

fn optional_url(key: &str, text: &str, problems: &mut Problems) -> Option<Url> {
    if text.is_empty() {
        return None;
    }
    text.parse().map_err(|error| problems.add(key, format!("`{text}` is not a URL: {error}"))).ok()
}

/// Between a millisecond and a week.
fn duration(key: &str, seconds: f64, problems: &mut Problems) -> Option<Duration> {
    if (0.001..=604_800.0).contains(&seconds) {
        Some(Duration::from_secs_f64(seconds))
    } else {
        problems.add(key, format!("must be between 0.001 and 604800 seconds, got {seconds}"));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &[(&str, &str)]) -> anyhow::Result<Config> {
        let flags =
            flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Ok(Config::load(Sources { flags, ..Config::sources() })?.0)
    }

    #[test]
    fn the_defaults_are_sound_and_both_demo_tasks_share_one_model() {
        let config = load(&[]).unwrap();
        assert_eq!(config.tasks.len(), 2);
        assert_eq!(config.tasks[0].engine, config.tasks[1].engine);
        assert_eq!(config.axon.published(8091), Axon::local(8091));
    }

    #[test]
    fn a_public_network_needs_to_know_where_the_miner_is_reached() {
        let error = load(&[("chain.network", "finney")]).unwrap_err().to_string();
        assert!(error.contains("axon.external_ip: is needed"), "{error}");
        let config = load(&[("chain.network", "finney"), ("axon.external_ip", "8.8.8.8")]).unwrap();
        assert_eq!(config.axon.published(1), Axon::at("8.8.8.8:1".parse().unwrap()));
        assert!(load(&[("chain.network", "finney"), ("axon.register", "false")]).is_ok());
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let error = load(&[
            ("access.min_stake", "-1"),
            ("capacity.period_s", "0"),
            ("chain.endpoint", "http//x"),
            ("chain.fallback_endpoints", "wss://a.example,wss//b"),
            ("axon.external_ip", "here"),
            ("limits.body_bytes", "1"),
        ])
        .unwrap_err()
        .to_string();
        for key in [
            "min_stake",
            "period_s",
            "chain.endpoint",
            "chain.fallback_endpoints[1]",
            "external_ip",
            "body_bytes",
        ] {
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
