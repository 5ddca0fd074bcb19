//! The validator's configuration: an unchecked file, then a checked value. Every problem is reported at once.

mod api;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chain::{ChainConfig, CommitReveal, Network, WalletPaths, node_address};
use common::Netuid;
use common::checks::MAX_BATCH;
use serde::Deserialize;
use service::settings::{Loaded, Problems, Sources};
use tasks::Catalogue;
use url::Url;

use self::api::{ApiFile, CheckedApi};
use crate::api::Origins;
use crate::checking::CheckingConfig;
use crate::evidence::{Retention, bucket_ms};
use crate::keys::GateConfig;
use crate::plan::Probing;
use crate::scoring::{Preset, Rules, subnet19, touchstone};
use crate::store::Location;
use crate::weightings::WeightingsConfig;
use crate::weights::WeightsConfig;

/// Documented in this file, which is also where the defaults come from.
pub const DEFAULTS: &str = include_str!("../../../config/validator.toml");

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub roles: Roles,
    pub chain: ChainConfig,
    pub netuid: Netuid,
    pub wallet: WalletPaths,
    pub catalogue: Arc<Catalogue>,
    pub weightings: WeightingsConfig,
    pub store: Location,
    pub period: Duration,
    pub patience: Duration,
    pub retention: Retention,
    pub rules: Rules,
    pub probing: Probing,
    pub allow_local_miners: bool,
    pub checking: CheckingConfig,
    pub weights: WeightsConfig,
    pub listen: SocketAddr,
    pub external_ip: Option<IpAddr>,
    pub api: GateConfig,
    /// SHA-256 of the token of the admin API; `None`: there is none.
    pub admin_token: Option<[u8; 32]>,
    /// The folder of the ledger's journals.
    pub journal: PathBuf,
    pub grace: Duration,
    /// Certificate and key, as PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub cors: Origins,
}

/// What one process does of what a validator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// It asks, has checked, scores and sets weights: one process on a database.
    pub validator: bool,
    /// It serves the organic API: any number of processes on a database.
    pub api: bool,
}

#[derive(Deserialize)]
struct File {
    chain: ChainFile,
    wallet: WalletFile,
    tasks: TasksFile,
    store: StoreFile,
    scoring: ScoringFile,
    probing: ProbingFile,
    miners: MinersFile,
    checking: CheckingFile,
    weights: WeightsFile,
    weightings: WeightingsFile,
    api: ApiFile,
    run: RunFile,
}

#[derive(Deserialize)]
struct ChainFile {
    netuid: u16,
    network: String,
    endpoint: String,
    fallback_endpoints: Vec<String>,
}

#[derive(Deserialize)]
struct WalletFile {
    name: String,
    hotkey: String,
    path: PathBuf,
}

#[derive(Deserialize)]
struct TasksFile {
    catalogue: PathBuf,
}

#[derive(Deserialize)]
struct StoreFile {
    at: String,
}

#[derive(Deserialize)]
struct ScoringFile {
    preset: String,
    period_s: f64,
    evidence_hours: f64,
    period_hours: f64,
    verdict_hours: f64,
    waiting_check_hours: f64,
    patience_s: f64,
    touchstone: touchstone::Parameters,
    subnet19: subnet19::Parameters,
}

#[derive(Deserialize)]
struct ProbingFile {
    shares: Vec<f64>,
    likelihoods: Vec<f64>,
    min_queries: u32,
    max_queries: u32,
    burst_share: f64,
}

#[derive(Deserialize)]
struct MinersFile {
    allow_local: bool,
}

#[derive(Deserialize)]
struct CheckingFile {
    url: String,
    token: String,
    batch: u32,
    queue: u32,
}

#[derive(Deserialize)]
struct WeightingsFile {
    vote: bool,
    quorum: f64,
}

#[derive(Deserialize)]
struct WeightsFile {
    version_key: u64,
    commit_reveal: String,
}

#[derive(Deserialize)]
struct RunFile {
    roles: Vec<String>,
}

impl Config {
    /// Reads and checks all sources. Returns the effective settings as text too, secrets hidden.
    ///
    /// # Errors
    /// If a file cannot be read, or with all [`Problems`].
    pub fn load(
        file: Option<&Path>,
        env: Vec<(String, String)>,
        flags: Vec<(String, String)>,
    ) -> anyhow::Result<(Self, String)> {
        let sources =
            Sources { defaults: DEFAULTS, file, prefix: "VALIDATOR", env, flags, required: &[] };
        let Loaded { file, mut problems, table } = sources.load::<File>()?;
        let config = file.check(&mut problems);
        problems.into_result()?;
        let config = config
            .ok_or_else(|| anyhow::anyhow!("the configuration has a problem that was not named"))?;
        Ok((config, service::settings::effective(&table)))
    }
}

impl File {
    fn check(self, problems: &mut Problems) -> Option<Config> {
        let catalogue = Catalogue::load(&self.tasks.catalogue)
            .map_err(|bad| {
                for problem in bad.problems() {
                    let file = self.tasks.catalogue.display();
                    problems.add("tasks.catalogue", format!("{file}: {problem}"));
                }
            })
            .ok();
        let chain = self.chain.check(problems);
        let roles = self.run.check(problems);
        let api = self.api.check(problems);
        let checking = self.checking.check(problems);
        let weights = self.weights.check(problems);
        let probing = self.probing.check(problems);
        let rules = self.scoring.rules(problems);
        let store = self
            .store
            .at
            .parse::<Location>()
            .map_err(|bad| problems.add("store.at", bad.to_string()))
            .ok();
        let period = seconds(self.scoring.period_s, 1.0, "scoring.period_s", problems);
        let weightings = WeightingsConfig {
            catalogue: self.tasks.catalogue,
            vote: self.weightings.vote,
            quorum: self.weightings.quorum,
            period,
        };
        problems.require(
            (0.0..=1.0).contains(&weightings.quorum),
            "weightings.quorum",
            "must be between 0 and 1",
        );
        let patience = seconds(self.scoring.patience_s, 0.0, "scoring.patience_s", problems);
        let mut hours = |hours: f64, key: &str| seconds(hours * 3600.0, 60.0, key, problems);
        let retention = Retention {
            evidence: hours(self.scoring.evidence_hours, "scoring.evidence_hours"),
            periods: hours(self.scoring.period_hours, "scoring.period_hours"),
            verdicts: hours(self.scoring.verdict_hours, "scoring.verdict_hours"),
            waiting_checks: hours(self.scoring.waiting_check_hours, "scoring.waiting_check_hours"),
        };
        // What is deleted before its stretch of time is over, or before its last verdict is in, would never be added up.
        let least =
            Duration::from_millis(bucket_ms(period).unsigned_abs()) + retention.waiting_checks;
        for (key, kept) in [
            ("scoring.period_hours", retention.periods),
            ("scoring.verdict_hours", retention.verdicts),
        ] {
            problems.require(
                kept >= least,
                key,
                format!(
                    "must come to at least {:.1} hours: periods are added up over four hours, or one period if that is \
                     longer, and answers may wait for `scoring.waiting_check_hours`",
                    least.as_secs_f64() / 3600.0
                ),
            );
        }
        let wallet = WalletPaths {
            name: self.wallet.name,
            hotkey: self.wallet.hotkey,
            path: self.wallet.path,
        };
        let (roles, api) = (roles?, api?);
        Some(Config {
            roles,
            chain: chain?,
            netuid: Netuid(self.chain.netuid),
            wallet,
            catalogue: Arc::new(catalogue?),
            weightings,
            journal: journal(store.as_ref()?, &api, roles),
            store: store?,
            period,
            patience,
            retention,
            rules: rules?,
            probing,
            allow_local_miners: self.miners.allow_local,
            checking: checking?,
            weights: weights?,
            listen: api.listen,
            external_ip: api.external_ip,
            api: api.api,
            admin_token: api.admin_token,
            grace: api.grace,
            tls: api.tls,
            cors: api.cors,
        })
    }
}

/// Where this process notes charges. One that serves the API beside another has a folder of its own.
fn journal(store: &Location, api: &CheckedApi, roles: Roles) -> PathBuf {
    let suffix = match roles {
        Roles { validator: false, .. } => format!("-api-{}", api.listen.port()),
        Roles { .. } => String::new(),
    };
    crate::ledger::folder(store, api.journal.as_deref(), &suffix)
}

impl RunFile {
    fn check(&self, problems: &mut Problems) -> Option<Roles> {
        let mut roles = Roles { validator: false, api: false };
        for role in &self.roles {
            match role.as_str() {
                "validator" => roles.validator = true,
                "api" => roles.api = true,
                other => {
                    let problem =
                        format!("`{other}` is no role; choose `validator`, `api` or both");
                    problems.add("run.roles", problem);
                    return None;
                }
            }
        }
        problems.require(
            roles.validator || roles.api,
            "run.roles",
            "must have at least one of `validator` and `api`",
        );
        Some(roles)
    }
}

impl ChainFile {
    fn check(&self, problems: &mut Problems) -> Option<ChainConfig> {
        let network = self
            .network
            .parse::<Network>()
            .map_err(|bad| problems.add("chain.network", bad.to_string()));
        let mut config = ChainConfig::new(network.ok()?);
        if !self.endpoint.is_empty() {
            match self.endpoint.parse() {
                Ok(url) => config.endpoint = Some(url),
                Err(error) => problems
                    .add("chain.endpoint", format!("`{}` is no address: {error}", self.endpoint)),
            }
        }
        for (index, text) in self.fallback_endpoints.iter().enumerate() {
            match node_address(text) {
                Ok(url) => config.fallbacks.push(url),
                Err(bad) => {
                    problems.add(format!("chain.fallback_endpoints[{index}]"), bad.to_string());
                }
            }
        }
        match config.urls() {
            Ok(_) => Some(config),
            Err(bad) => {
                problems.add("chain.endpoint", bad.to_string());
                None
            }
        }
    }
}

impl WeightsFile {
    fn check(&self, problems: &mut Problems) -> Option<WeightsConfig> {
        let commit_reveal = match self.commit_reveal.as_str() {
            "auto" => CommitReveal::Auto,
            "timelocked" => CommitReveal::Timelocked,
            "hashed" => CommitReveal::Hashed,
            other => {
                problems.add(
                    "weights.commit_reveal",
                    format!(
                        "`{other}` is no way to commit; choose `auto`, `timelocked` or `hashed`"
                    ),
                );
                return None;
            }
        };
        Some(WeightsConfig { version_key: self.version_key, commit_reveal })
    }
}

impl ScoringFile {
    /// The chosen rules. Constants of the others are checked too: they may be chosen tomorrow.
    fn rules(&self, problems: &mut Problems) -> Option<Rules> {
        let presets = [Rules::Touchstone(self.touchstone), Rules::Subnet19(self.subnet19)];
        for rules in &presets {
            for (key, problem) in rules.problems() {
                problems.add(format!("scoring.{}.{key}", rules.preset()), problem);
            }
        }
        match self.preset.parse::<Preset>() {
            Ok(preset) => presets.into_iter().find(|rules| rules.preset() == preset),
            Err(unknown) => {
                problems.add("scoring.preset", unknown.to_string());
                None
            }
        }
    }
}

impl CheckingFile {
    fn check(self, problems: &mut Problems) -> Option<CheckingConfig> {
        let range = 1..=MAX_BATCH as u32;
        problems.require(
            range.contains(&self.batch),
            "checking.batch",
            format!("must be 1 to {MAX_BATCH}"),
        );
        problems.require(self.queue > 0, "checking.queue", "must be at least 1");
        match self.url.parse::<Url>() {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Some(CheckingConfig {
                url,
                token: self.token,
                batch: self.batch,
                queue: self.queue,
            }),
            Ok(_) | Err(_) => {
                problems.add(
                    "checking.url",
                    format!("`{}` is no http:// or https:// address", self.url),
                );
                None
            }
        }
    }
}

impl ProbingFile {
    fn check(self, problems: &mut Problems) -> Probing {
        problems.require(
            self.shares.len() == self.likelihoods.len() && !self.shares.is_empty(),
            "probing.likelihoods",
            format!(
                "must have as many entries as `probing.shares`, {}, and at least one",
                self.shares.len()
            ),
        );
        problems.require(
            self.shares.iter().all(|share| (0.0..=1.0).contains(share)),
            "probing.shares",
            "each must be between 0 and 1",
        );
        problems.require(
            self.likelihoods.iter().all(|likelihood| likelihood.is_finite() && *likelihood >= 0.0)
                && self.likelihoods.iter().sum::<f64>() > 0.0,
            "probing.likelihoods",
            "must be finite, not negative, and not all 0",
        );
        problems.require(
            self.min_queries <= self.max_queries && self.max_queries > 0,
            "probing.max_queries",
            "must be at least 1 and at least `probing.min_queries`",
        );
        problems.require(
            (0.0..=1.0).contains(&self.burst_share),
            "probing.burst_share",
            "must be between 0 and 1",
        );
        Probing {
            shares: self.shares.into_iter().zip(self.likelihoods).collect(),
            min_queries: self.min_queries,
            max_queries: self.max_queries,
            burst_share: self.burst_share,
        }
    }
}

/// A span between `least` seconds and ten years.
fn seconds(value: f64, least: f64, key: &str, problems: &mut Problems) -> Duration {
    if (least..=315e6).contains(&value) {
        Duration::from_secs_f64(value)
    } else {
        problems.add(key, format!("must come to at least {least} seconds and at most ten years"));
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests;
