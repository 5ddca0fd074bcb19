//! `validator keys …` and `validator usage …`.

use clap::{Args, Subcommand};
use common::TaskId;
use common::money::Usd;

use super::edit::{change, create, revoke};
use super::{Key, Pair, Reset, Spec, parse_day};
use crate::explain::utc;
use crate::ledger::csv;
use crate::store::{Location, Store};

/// What is done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key. It is shown once.
    Create {
        /// For people.
        #[arg(long)]
        name: String,
        /// Tasks that it may use, separated by commas; otherwise all.
        #[arg(long, value_name = "TASKS", value_delimiter = ',')]
        models: Vec<TaskId>,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        budget: Budget,
        /// The day, in UTC, from which on it is refused, such as 2027-01-31.
        #[arg(long, value_name = "DAY", value_parser = parse_day)]
        expires: Option<i64>,
        /// Anything to remember with it.
        #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
        metadata: Vec<Pair>,
    },
    /// List all keys, without their secrets.
    List,
    /// Refuse a key from now on, for good.
    Revoke {
        /// Such as key_0123456789ab.
        id: String,
    },
    /// Set a key's limits; those that are not named are removed.
    Limit {
        /// Such as key_0123456789ab.
        id: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Set a key's budget, or remove it.
    Budget {
        /// Such as key_0123456789ab.
        id: String,
        #[command(flatten)]
        budget: Budget,
    },
}

/// How much at once.
#[derive(Debug, Clone, Copy, Args)]
pub struct Limits {
    #[arg(long, value_name = "NUMBER")]
    requests_per_minute: Option<u32>,
    /// Of prompts and answers together.
    #[arg(long, value_name = "NUMBER")]
    tokens_per_minute: Option<u32>,
    /// Requests under way at once.
    #[arg(long, value_name = "NUMBER")]
    parallel: Option<u32>,
}

/// How much money.
#[derive(Debug, Clone, Copy, Args)]
pub struct Budget {
    /// In USD, such as 12.50.
    #[arg(long, value_name = "USD")]
    budget: Option<Usd>,
    /// When it begins anew, at midnight UTC.
    #[arg(long, value_name = "WHEN", default_value = "never")]
    budget_reset: Reset,
}

impl Limits {
    fn put_into(self, spec: &mut Spec) {
        spec.requests_per_minute = self.requests_per_minute;
        spec.tokens_per_minute = self.tokens_per_minute;
        spec.parallel = self.parallel;
    }
}

impl Budget {
    fn put_into(self, spec: &mut Spec) {
        (spec.budget, spec.budget_reset) = (self.budget, self.budget_reset);
    }
}

/// What is done with the ledger.
#[derive(Debug, Subcommand)]
pub enum UsageCommand {
    /// Print every settled request.
    Export {
        /// As comma-separated values, which is the only format there is.
        #[arg(long, required = true)]
        csv: bool,
        /// The first day, in UTC, such as 2027-01-31.
        #[arg(long, value_name = "DAY", value_parser = parse_day)]
        from: Option<i64>,
        /// The first day that is left out.
        #[arg(long, value_name = "DAY", value_parser = parse_day)]
        to: Option<i64>,
    },
}

/// Does it and returns what is to be printed.
///
/// # Errors
/// If the database fails, or with what is wrong.
pub async fn keys(at: &Location, command: KeysCommand, json: bool) -> anyhow::Result<String> {
    let store = Store::open(at).await?;
    let keys = match command {
        KeysCommand::Create { name, models, limits, budget, expires, metadata } => {
            let mut spec = Spec {
                name,
                models: models.into_iter().collect(),
                expires_ms: expires,
                metadata: metadata.into_iter().map(|Pair(key, value)| (key, value)).collect(),
                ..Spec::default()
            };
            limits.put_into(&mut spec);
            budget.put_into(&mut spec);
            let made = create(&store, spec).await?;
            return Ok(if json {
                serde_json::to_string_pretty(&made)?
            } else {
                format!(
                    "{}\n\nThis is the key `{}`. It is not shown again: only its hash is stored.",
                    made.secret, made.key.id
                )
            });
        }
        KeysCommand::List => store.api_keys().await?,
        KeysCommand::Revoke { id } => vec![revoke(&store, &id).await?],
        KeysCommand::Limit { id, limits } => {
            vec![change(&store, &id, |spec| limits.put_into(spec)).await?]
        }
        KeysCommand::Budget { id, budget } => {
            vec![change(&store, &id, |spec| budget.put_into(spec)).await?]
        }
    };
    store.close().await;
    Ok(if json { serde_json::to_string_pretty(&keys)? } else { table(&keys) })
}

/// Does it and returns what is to be printed.
///
/// # Errors
/// If the database fails.
pub async fn usage(at: &Location, command: UsageCommand) -> anyhow::Result<String> {
    let UsageCommand::Export { from, to, .. } = command;
    let store = Store::open_to_read(at).await?;
    Ok(csv(&store, from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX)).await?)
}

fn table(keys: &[Key]) -> String {
    let number =
        |limit: Option<u32>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
    let mut lines = vec![format!(
        "{:<17} {:<20} {:<19} {:>8} {:>10} {:>8} {:>12} {:<8} models",
        "id", "name", "state", "req/min", "tokens/min", "parallel", "budget", "reset"
    )];
    for key in keys {
        let spec = &key.spec;
        let state = match (key.revoked_ms, spec.expires_ms) {
            (Some(_), _) => "revoked".to_owned(),
            (None, Some(expires)) => format!("until {}", utc(expires).get(..10).unwrap_or("?")),
            (None, None) => "valid".to_owned(),
        };
        let models: Vec<_> = spec.models.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "{:<17} {:<20} {state:<19} {:>8} {:>10} {:>8} {:>12} {:<8} {}",
            key.id,
            spec.name,
            number(spec.requests_per_minute),
            number(spec.tokens_per_minute),
            number(spec.parallel),
            spec.budget.map_or_else(|| "-".to_owned(), |budget| budget.to_string()),
            format!("{:?}", spec.budget_reset).to_lowercase(),
            if models.is_empty() { "all".to_owned() } else { models.join(",") },
        ));
    }
    lines.join("\n")
}
