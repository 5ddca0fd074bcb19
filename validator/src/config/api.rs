//! The settings of the organic API.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use service::settings::Problems;

use super::seconds;
use crate::api::Origins;
use crate::keys::{ANONYMOUS, GateConfig, Reset, Spec};

#[derive(Deserialize)]
pub(super) struct ApiFile {
    listen: String,
    api_keys: Vec<String>,
    open: bool,
    concurrency: usize,
    external_ip: String,
    admin_token: String,
    journal: String,
    grace_s: f64,
    tls_certificate: PathBuf,
    tls_key: PathBuf,
    cors_origins: Vec<String>,
    anonymous: AnonymousFile,
}

/// 0 and an empty budget: not limited.
#[derive(Deserialize)]
pub(super) struct AnonymousFile {
    requests_per_minute: u32,
    tokens_per_minute: u32,
    parallel: u32,
    budget: String,
    budget_reset: String,
}

/// What was found to be in order.
pub(super) struct CheckedApi {
    pub(super) api: GateConfig,
    pub(super) listen: SocketAddr,
    pub(super) external_ip: Option<IpAddr>,
    pub(super) admin_token: Option<[u8; 32]>,
    pub(super) journal: Option<PathBuf>,
    pub(super) grace: Duration,
    pub(super) tls: Option<(PathBuf, PathBuf)>,
    pub(super) cors: Origins,
}

impl ApiFile {
    pub(super) fn check(&self, problems: &mut Problems) -> Option<CheckedApi> {
        let cors =
            Origins::read(&self.cors_origins).map_err(|why| problems.add("api.cors_origins", why));
        let listen = self.listen.parse().map_err(|_| {
            problems.add("api.listen", format!("`{}` is no address with a port", self.listen));
        });
        let external_ip = match self.external_ip.parse() {
            Ok(address) => Some(address),
            Err(_) if self.external_ip.is_empty() => None,
            Err(_) => {
                let problem = format!("`{}` is no IP address", self.external_ip);
                problems.add("api.external_ip", problem);
                None
            }
        };
        problems.require(self.concurrency > 0, "api.concurrency", "must be at least 1");
        let api = GateConfig {
            anonymous: self.anonymous.check(problems).filter(|_| self.open),
            keys: self.keys(problems),
            concurrency: self.concurrency,
        };
        let (admin_token, tls) = (self.admin(problems), self.tls(problems));
        let grace = seconds(self.grace_s, 0.0, "api.grace_s", problems);
        let journal = (!self.journal.is_empty()).then(|| self.journal.clone().into());
        Some(CheckedApi {
            api,
            listen: listen.ok()?,
            external_ip,
            admin_token,
            journal,
            grace,
            tls,
            cors: cors.ok()?,
        })
    }

    fn keys(&self, problems: &mut Problems) -> BTreeSet<[u8; 32]> {
        for (index, key) in self.api_keys.iter().enumerate() {
            // Short keys can be guessed.
            problems.require(
                key.len() >= 16,
                format!("api.api_keys[{index}]"),
                "must have at least 16 characters",
            );
        }
        self.api_keys.iter().map(|key| crate::keys::hash(key)).collect()
    }

    fn admin(&self, problems: &mut Problems) -> Option<[u8; 32]> {
        problems.require(
            self.admin_token.is_empty() || self.admin_token.len() >= 16,
            "api.admin_token",
            "must have at least 16 characters",
        );
        (!self.admin_token.is_empty()).then(|| crate::keys::hash(&self.admin_token))
    }

    fn tls(&self, problems: &mut Problems) -> Option<(PathBuf, PathBuf)> {
        let [certificate, key] = [&self.tls_certificate, &self.tls_key];
        let none = |path: &Path| path.as_os_str().is_empty();
        match (none(certificate), none(key)) {
            (true, true) => None,
            (false, false) => Some((certificate.clone(), key.clone())),
            (true, false) | (false, true) => {
                problems.add(
                    "api.tls_certificate",
                    "HTTPS needs both `api.tls_certificate` and `api.tls_key`",
                );
                None
            }
        }
    }
}

impl AnonymousFile {
    fn check(&self, problems: &mut Problems) -> Option<Spec> {
        let limit = |limit: u32| (limit > 0).then_some(limit);
        let mut wrong = |key: &str, text: &str, what: &str| {
            problems.add(format!("api.anonymous.{key}"), format!("`{text}` is no {what}"));
        };
        let budget = match self.budget.parse() {
            Ok(budget) => Some(budget),
            Err(_) if self.budget.is_empty() => None,
            Err(_) => {
                wrong("budget", &self.budget, "amount in USD, such as 12.50");
                return None;
            }
        };
        let Ok(budget_reset) = Reset::from_str(&self.budget_reset, false) else {
            wrong("budget_reset", &self.budget_reset, "one of never, daily, weekly and monthly");
            return None;
        };
        let spec = Spec {
            name: ANONYMOUS.to_owned(),
            requests_per_minute: limit(self.requests_per_minute),
            tokens_per_minute: limit(self.tokens_per_minute),
            parallel: limit(self.parallel),
            budget,
            budget_reset,
            ..Spec::default()
        };
        spec.check().map_err(|why| problems.add("api.anonymous", why)).ok()?;
        Some(spec)
    }
}
