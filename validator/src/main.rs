//! The validator's command line.

use std::fmt::Display;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use chain::registration::{Role, how_to_register};
use clap::{Args, Parser, Subcommand};
use common::{Hotkey, MechanismId, TaskId};
use service::{flags, run, telemetry};
use validator::explain::{self, Question};
use validator::keys::cli::{self, KeysCommand, UsageCommand};
use validator::scoring::Preset;
use validator::status::{Shown, Status};
use validator::tune::{self, Changes};
use validator::{ApiApp, App, Config};
use validator::{flagged, simulate, submitted};

/// A validator of an inference subnet: it queries miners, has their answers checked by your checking server, scores them,
/// sets weights on chain, and offers the subnet to the world as an OpenAI-compatible API.
/// Most of what the API does is small allocations: this allocator takes a third of its time off.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the validator until Ctrl-C.
    Run {
        #[command(flatten)]
        settings: Settings,
        /// What this process does: validator, api, or both. One process validates; any number may serve the organic API beside
        /// it, each with its own --listen, with the same wallet and database. docs/api.md explains it.
        #[arg(long, value_name = "ROLE,...")]
        roles: Option<String>,
    },
    /// Check the configuration and print what is in force, secrets hidden.
    CheckConfig(Settings),
    /// Print the table of all miners of a validator that is running.
    Status {
        #[command(flatten)]
        settings: Settings,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Show how a miner's weight came about: from the weight on chain down to single answers, with every number that it
    /// can be computed from again.
    ///
    /// Reads the validator's store; the validator may be running, and a copy of the store will do as well. What is shown is
    /// the scoring that the newest weights on chain come from, then the scoring periods and the checked answers as they are
    /// now.
    Explain {
        #[command(flatten)]
        settings: Settings,
        /// The miner, by the ss58 address of its hotkey.
        // The wallet's hotkey has the name already.
        #[arg(id = "miner", long = "hotkey", value_name = "SS58")]
        hotkey: Hotkey,
        /// Only this task.
        #[arg(long, value_name = "TASK")]
        task: Option<TaskId>,
        /// Explain the weight in this mechanism of the subnet. Otherwise it is the one of --task, or the first that has tasks.
        #[arg(long, value_name = "NUMBER", value_parser = mechanism)]
        mechanism: Option<MechanismId>,
        /// How many checked answers are listed for each task.
        #[arg(long, value_name = "NUMBER", default_value_t = 10)]
        answers: u32,
        /// Print JSON, with all digits and with the volumes and scores of all miners.
        #[arg(long)]
        json: bool,
    },
    /// Show what the weights would be with other task weightings or other constants, beside what they are now.
    ///
    /// Both are computed from the evidence in the validator's store, by the rules and weightings of this configuration and by
    /// the changed ones. Nothing is changed without --write. The validator may be running.
    #[command(after_help = TUNE_EXAMPLES)]
    Tune {
        #[command(flatten)]
        settings: Settings,
        /// The weight of a task, as the catalogue has it: weights have any sum and are normalised. Tasks that are not named
        /// keep theirs.
        #[arg(long = "set", value_name = "TASK=WEIGHT", value_parser = assignment::<TaskId>)]
        weights: Vec<(TaskId, f64)>,
        /// A constant of the scoring rules, see docs/scoring.md.
        #[arg(long, value_name = "KEY=VALUE", value_parser = assignment::<String>)]
        scoring: Vec<(String, f64)>,
        /// Other rules, with the constants that the configuration has for them: touchstone or subnet19.
        #[arg(long, value_name = "NAME")]
        preset: Option<Preset>,
        /// Compare the weights of this mechanism of the subnet. Otherwise it is the one of the first --set, or the first that
        /// has tasks.
        #[arg(long, value_name = "NUMBER", value_parser = mechanism)]
        mechanism: Option<MechanismId>,
        /// Write the weights that --set gives into the catalogue's file, after the difference was shown.
        #[arg(long)]
        write: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show which miners were flagged for good, and why: their answers are worth nothing in the period in which it was settled.
    ///
    /// Reads the validator's store; the validator may be running. A file written with --write holds the answers that said
    /// most, and `checking-server verify` re-computes them.
    Evidence {
        #[command(flatten)]
        settings: Settings,
        /// Only this miner, by the ss58 address of its hotkey.
        #[arg(id = "miner", long = "hotkey", value_name = "SS58")]
        hotkey: Option<Hotkey>,
        /// Only this task.
        #[arg(long, value_name = "TASK")]
        task: Option<TaskId>,
        /// How many are listed.
        #[arg(long, value_name = "NUMBER", default_value_t = 20)]
        number: u32,
        /// Write the evidence of the newest one to this file.
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// Show which weights were submitted to the chain, by which way, and what became of them, newest first.
    ///
    /// Reads the validator's store; the validator may be running. docs/weights.md explains the ways and the stages.
    Weights {
        #[command(flatten)]
        settings: Settings,
        /// How many.
        #[arg(short = 'n', long = "number", value_name = "NUMBER", default_value_t = 20)]
        number: u32,
        /// Instead, ask the chain and show what would be sent now by the newest scoring, or what is in the way. Sends nothing.
        #[arg(long, conflicts_with = "number")]
        dry_run: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make, list, limit and revoke API keys. A running validator notices within two seconds. docs/api.md explains them.
    Keys {
        #[command(flatten)]
        settings: Settings,
        #[command(subcommand)]
        command: KeysCommand,
        /// Print JSON.
        #[arg(long, global = true)]
        json: bool,
    },
    /// Print what users' requests cost.
    Usage {
        #[command(flatten)]
        settings: Settings,
        #[command(subcommand)]
        command: UsageCommand,
    },
    /// Print the btcli commands that register this validator's hotkey on its subnet and add stake to it.
    ///
    /// They need the wallet's coldkey, which a validator never reads: run them on the machine that has it.
    HowToRegister(Settings),
    /// Show what strategies would earn that try to earn more than they serve, relative to the same hardware run honestly.
    ///
    /// The validator's own scheduling, accounting and scoring, with their default constants, over simulated miners and
    /// simulated time. docs/incentives.md has the results and says what is simulated.
    Simulate(Simulation),
    /// Make a hotkey file for local development. An existing one is never overwritten.
    NewHotkey(Settings),
}

#[derive(Debug, Args)]
struct Simulation {
    /// The scoring rules: touchstone or subnet19.
    #[arg(long, value_name = "NAME", default_value = "touchstone")]
    preset: Preset,
    /// Scoring periods of half an hour for which income counts, in each simulated subnet.
    #[arg(long, value_name = "NUMBER", default_value_t = 96, value_parser = clap::value_parser!(u64).range(3..=100_000))]
    periods: u64,
    /// Simulated subnets for each way to run hardware.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u64).range(4..=1_000))]
    seeds: u64,
    /// What users ask for, as a part of what all hardware can do.
    #[arg(long, value_name = "PART", default_value_t = 0.08, value_parser = part)]
    users: f64,
    /// Print JSON instead of a table.
    #[arg(long, conflicts_with = "report")]
    json: bool,
    /// Simulate both presets and write all results into this document, in place of the tables that it has.
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    report: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Settings {
    #[command(flatten)]
    common: flags::Common,
    #[command(flatten)]
    chain: flags::Chain,
    #[command(flatten)]
    wallet: flags::Wallet,
    /// Where the organic API listens, such as 0.0.0.0:8090.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The database with all evidence: a file's path, or postgres://user:password@host/name.
    #[arg(long, value_name = "PATH")]
    store: Option<String>,
}

const TUNE_EXAMPLES: &str = "\
Examples:
  validator tune --set chat-llama=0.5 --set flux=0.5
  validator tune --scoring speed_bonus=0.2
  validator tune --set chat-llama=0.7 --write";

fn part(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(part) if (0.0..=1.0).contains(&part) => Ok(part),
        Ok(_) | Err(_) => Err("give a number from 0 to 1".to_owned()),
    }
}

/// The chain has room for 16 mechanisms in a subnet.
fn mechanism(text: &str) -> Result<MechanismId, String> {
    match text.parse() {
        Ok(number @ 0..=15) => Ok(MechanismId(number)),
        Ok(_) | Err(_) => Err("give a number from 0 to 15".to_owned()),
    }
}

/// `NAME=NUMBER`.
fn assignment<T>(text: &str) -> Result<(T, f64), String>
where
    T: FromStr,
    T::Err: Display,
{
    let (name, number) =
        text.split_once('=').ok_or_else(|| format!("`{text}` has no `=`; write NAME=NUMBER"))?;
    let name = name.trim().parse().map_err(|error: T::Err| error.to_string())?;
    match number.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((name, number)),
        Ok(_) | Err(_) => Err(format!("`{number}` is no number")),
    }
}

impl Settings {
    fn load(&self) -> anyhow::Result<(Config, String)> {
        self.load_with(&[])
    }

    /// With these settings above all others.
    fn load_with(&self, more: &[(&str, String)]) -> anyhow::Result<(Config, String)> {
        let mut flags = [self.chain.settings(), self.wallet.settings()].concat();
        flags.extend(self.listen.clone().map(|listen| ("api.listen".to_owned(), listen)));
        flags.extend(self.store.clone().map(|store| ("store.at".to_owned(), store)));
        flags.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Config::load(self.common.config.as_deref(), service::settings::environment(), flags)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run::main(async {
        match cli.command {
            Command::Run { settings, roles } => {
                let more = roles.map(|roles| ("run.roles", roles));
                let (config, _) = settings.load_with(more.as_slice())?;
                telemetry::init(settings.common.log_format)?;
                if config.roles.validator {
                    App::build(config).await?.run_until(run::shutdown()).await
                } else {
                    ApiApp::build(config).await?.run_until(run::shutdown()).await
                }
            }
            Command::CheckConfig(settings) => {
                run::print(&settings.load()?.1);
                Ok(())
            }
            Command::Status { settings, json } => {
                let status = fetch_status(&settings.load()?.0).await?;
                if json {
                    run::print(&serde_json::to_string_pretty(&status)?);
                } else {
                    run::print(&status.table(Shown::Running));
                }
                Ok(())
            }
            Command::Explain { settings, hotkey, task, mechanism, answers, json } => {
                // What cannot be read is left out, and said.
                telemetry::init_with(settings.common.log_format, "warn")?;
                let question = Question { hotkey, task, answers, mechanism };
                let explained = explain::explain(&settings.load()?.0, &question).await?;
                run::print(&if json { explained.json()? } else { explained.text() });
                Ok(())
            }
            Command::Tune { settings, weights, scoring, preset, mechanism, write, json } => {
                telemetry::init_with(settings.common.log_format, "warn")?;
                let rules = match preset {
                    Some(preset) => {
                        let preset = [("scoring.preset", preset.to_string())];
                        Some(settings.load_with(&preset)?.0.rules)
                    }
                    None => None,
                };
                let changes = Changes { weights, rules, constants: scoring, mechanism };
                tune_and_write(&settings.load()?.0, &changes, write, json).await
            }
            Command::Evidence { settings, hotkey, task, number, write } => {
                telemetry::init_with(settings.common.log_format, "warn")?;
                let wanted = flagged::Wanted { hotkey, task, most: number };
                let flags = flagged::flagged(&settings.load()?.0, &wanted).await?;
                run::print(&flagged::text(&flags));
                if let (Some(path), Some(newest)) = (write, flags.into_iter().next()) {
                    let bundle = serde_json::to_string_pretty(&flagged::bundle(newest))?;
                    std::fs::write(&path, bundle)
                        .with_context(|| format!("{} cannot be written", path.display()))?;
                    run::print(&format!("the newest one's evidence is in {}\n", path.display()));
                }
                Ok(())
            }
            Command::Weights { settings, number, dry_run, json } => {
                telemetry::init_with(settings.common.log_format, "warn")?;
                let config = settings.load()?.0;
                if dry_run {
                    let run = submitted::dry_run(&config).await?;
                    run::print(&if json { run.json()? } else { run.text() });
                } else {
                    let list = submitted::submitted(&config, number).await?;
                    let json = json.then(|| serde_json::to_string_pretty(&list)).transpose()?;
                    run::print(&json.unwrap_or_else(|| submitted::text(&list)));
                }
                Ok(())
            }
            Command::Keys { settings, command, json } => {
                telemetry::init_with(settings.common.log_format, "warn")?;
                run::print(&cli::keys(&settings.load()?.0.store, command, json).await?);
                Ok(())
            }
            Command::Usage { settings, command } => {
                telemetry::init_with(settings.common.log_format, "warn")?;
                run::print(&cli::usage(&settings.load()?.0.store, command).await?);
                Ok(())
            }
            Command::HowToRegister(settings) => {
                let config = settings.load()?.0;
                run::print(&how_to_register(
                    &config.chain,
                    config.netuid,
                    &config.wallet,
                    Role::Validator,
                )?);
                Ok(())
            }
            Command::Simulate(simulation) => simulation.run(),
            Command::NewHotkey(settings) => {
                let (config, _) = settings.load()?;
                let keypair = chain::wallet::create_hotkey(&config.wallet)?;
                // Standard output is the key alone, for scripts.
                eprintln!("the new hotkey is in {}", config.wallet.file()?.display());
                run::print(&keypair.hotkey().to_string());
                Ok(())
            }
        }
    })
}

/// Standard output has the difference alone; what became of it is said on standard error.
async fn tune_and_write(
    config: &Config,
    changes: &Changes,
    write: bool,
    json: bool,
) -> anyhow::Result<()> {
    let tuning = tune::tune(config, changes).await?;
    run::print(&if json { tuning.json()? } else { tuning.text() });
    if !write {
        return Ok(());
    }
    let lines = tuning.configuration();
    if !lines.is_empty() {
        eprintln!("constants are not written; put these lines into the configuration:\n{lines}");
        if changes.weights.is_empty() {
            return Ok(());
        }
    }
    let file = tune::write(config, changes)?;
    eprintln!(
        "the weights are written to {}; a running validator takes them up with its next scoring",
        file.display()
    );
    Ok(())
}

impl Simulation {
    fn run(&self) -> anyhow::Result<()> {
        let Some(path) = &self.report else {
            let results = self.simulate(self.preset)?;
            run::print(&if self.json {
                serde_json::to_string_pretty(&results)?
            } else {
                results.table()
            });
            return Ok(());
        };
        let unusable = || format!("cannot use {} as the report", path.display());
        // Before minutes of work: a document that has no place for the tables.
        simulate::put_into(&std::fs::read_to_string(path).with_context(unusable)?, "")
            .with_context(unusable)?;
        let results = [self.simulate(Preset::Touchstone)?, self.simulate(Preset::Subnet19)?];
        let document = std::fs::read_to_string(path).with_context(unusable)?;
        let document = simulate::put_into(&document, &simulate::tables(&results));
        std::fs::write(path, document.with_context(unusable)?).with_context(unusable)
    }

    fn simulate(&self, preset: Preset) -> anyhow::Result<simulate::Results> {
        let Self { periods, seeds, users, .. } = *self;
        let amount = simulate::Amount { periods, seeds, users };
        let watched = std::io::stderr().is_terminal();
        let progress = |done: usize, all: usize| {
            if watched {
                let end = if done == all { "\n" } else { "" };
                eprint!("\r{preset}: {done} of {all} simulated subnets{end}");
            }
        };
        simulate::run(preset, amount, progress)
    }
}

async fn fetch_status(config: &Config) -> anyhow::Result<Status> {
    let mut address = config.listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .no_proxy()
        // The certificate is for the public name, this is our own address, and what is read is public.
        .tls_danger_accept_invalid_certs(true)
        .build()?;
    let asked = client.get(format!("{scheme}://{address}/v1/network/status")).send().await;
    let response = asked.with_context(|| {
        format!("no validator answers on {address}; is it running with this configuration?")
    })?;
    Ok(response.error_for_status()?.json().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        let arguments = std::iter::once("validator").chain(line.split_whitespace());
        Cli::try_parse_from(arguments).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_commands_and_their_flags_do_not_contradict_each_other() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn roles_are_taken_as_settings() {
        let Ok(Command::Run { roles, .. }) = parse("run --roles api --listen 127.0.0.1:0") else {
            panic!("it is a command")
        };
        assert_eq!(roles.as_deref(), Some("api"));
    }

    #[test]
    fn changes_are_named_one_by_one() {
        let line = "tune --set chat=0.5 --set flux=1.5 --scoring speed_bonus=0.2 --preset subnet19";
        let Ok(Command::Tune { weights, scoring, preset, write, .. }) = parse(line) else {
            panic!("it is a command")
        };
        assert_eq!(weights, [("chat".parse().unwrap(), 0.5), ("flux".parse().unwrap(), 1.5)]);
        assert_eq!(scoring, [("speed_bonus".to_owned(), 0.2)]);
        assert_eq!((preset, write), (Some(Preset::Subnet19), false));
    }

    #[test]
    fn what_was_mistyped_is_said() {
        for (line, said) in [
            ("tune --set chat", "has no `=`"),
            ("tune --set chat=many", "`many` is no number"),
            ("tune --set Chat=1", "is not a task id"),
            ("tune --scoring speed_bonus=NaN", "is no number"),
            ("tune --preset other", "choose `touchstone` or `subnet19`"),
            ("weights --dry-run -n 3", "cannot be used with"),
            ("tune --mechanism 16", "a number from 0 to 15"),
            ("explain --hotkey 5abc", "is not an ss58 address"),
            ("explain", "--hotkey"),
        ] {
            let error = parse(line).err().unwrap_or_default();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
