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
        budget: Money,
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
        budget: Money,
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
pub struct Money {
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

impl Money {
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
            store.close().await;
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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: KeysCommand,
    }

    struct Bed {
        at: Location,
        _folder: tempfile::TempDir,
    }

    impl Bed {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { at: Location::Sqlite(folder.path().join("x.sqlite")), _folder: folder }
        }

        async fn run(&self, line: &str, json: bool) -> Result<String, String> {
            let words = std::iter::once("keys").chain(line.split(' '));
            let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
            keys(&self.at, cli.command, json).await.map_err(|error| format!("{error:#}"))
        }

        async fn one(&self, line: &str) -> Value {
            let all: Value = serde_json::from_str(&self.run(line, true).await.unwrap()).unwrap();
            all[0].clone()
        }
    }

    #[tokio::test]
    async fn a_key_is_made_listed_limited_and_revoked() {
        let bed = Bed::new();
        let line = "create --name shop --models chat-demo,complete-demo --requests-per-minute 60 --budget 12.50 \
                    --budget-reset monthly --expires 2027-01-31 --metadata customer=42";
        let made: Value = serde_json::from_str(&bed.run(line, true).await.unwrap()).unwrap();
        let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
        assert!(secret.starts_with("ts-"), "{made}");

        let table = bed.run("list", false).await.unwrap();
        for said in [id, "shop", "until 2027-01-31", "60", "12.50", "monthly", "chat-demo"] {
            assert!(table.contains(said), "{said} is missing in\n{table}");
        }
        assert!(
            !table.contains(secret) && !table.contains(&hex::encode(super::super::hash(secret)))
        );

        // What is not named is removed.
        let limited = bed.one(&format!("limit {id} --parallel 4")).await;
        assert_eq!(
            (&limited["parallel"], limited["requests_per_minute"].is_null()),
            (&4.into(), true)
        );
        let budget = bed.one(&format!("budget {id} --budget 50 --budget-reset weekly")).await;
        assert_eq!(
            (&budget["budget"], &budget["budget_reset"]),
            (&"50.00".into(), &"weekly".into())
        );
        assert_eq!(
            (&budget["parallel"], &budget["metadata"]["customer"]),
            (&4.into(), &"42".into())
        );
        assert!(bed.one(&format!("revoke {id}")).await["revoked_ms"].is_i64());
        assert!(bed.run("list", false).await.unwrap().contains("revoked"));
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused_and_said() {
        let bed = Bed::new();
        for (line, said) in [
            ("create", "--name"),
            ("create --name x --budget=-1", "budget"),
            ("create --name x --requests-per-minute 0", "at least 1"),
            ("create --name x --requests-per-minute=-5", "invalid value"),
            ("create --name x --models Chat", "invalid value"),
            ("create --name x --expires soon", "invalid value"),
            ("create --name x --metadata plain", "has no `=`"),
            ("revoke key_000000000000", "key_000000000000"),
            ("limit key_000000000000 --parallel 1", "key_000000000000"),
        ] {
            let error = bed.run(line, false).await.unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
        assert_eq!(bed.run("list", true).await.unwrap(), "[]");
    }

    #[tokio::test]
    async fn the_ledger_is_exported_with_its_heading_even_if_it_is_empty() {
        let bed = Bed::new();
        bed.run("list", false).await.unwrap();
        let export = UsageCommand::Export { csv: true, from: None, to: None };
        let csv = usage(&bed.at, export).await.unwrap();
        assert!(csv.starts_with("id,time,key,task,"), "{csv}");
    }
}
