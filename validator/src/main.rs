//! The validator's command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use service::{flags, run, telemetry};
use validator::scoring::Preset;
use validator::simulate;
use validator::status::{Shown, Status};
use validator::{App, Config};

/// A validator of an inference subnet: it queries miners, has their answers checked by your checking server, scores them,
/// sets weights on chain, and offers the subnet to the world as an OpenAI-compatible API.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the validator until Ctrl-C.
    Run(Settings),
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
}

impl Settings {
    fn load(&self) -> anyhow::Result<(Config, String)> {
        let mut flags = [self.chain.settings(), self.wallet.settings()].concat();
        flags.extend(self.listen.clone().map(|listen| ("api.listen".to_owned(), listen)));
        Config::load(self.common.config.as_deref(), service::settings::environment(), flags)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run::main(async {
        match cli.command {
            Command::Run(settings) => {
                let (config, _) = settings.load()?;
                telemetry::init(settings.common.log_format)?;
                App::build(config).await?.run_until(run::shutdown()).await
            }
            Command::CheckConfig(settings) => {
                show(&settings.load()?.1);
                Ok(())
            }
            Command::Status { settings, json } => {
                let status = fetch_status(&settings.load()?.0).await?;
                if json {
                    show(&serde_json::to_string_pretty(&status)?);
                } else {
                    show(&status.table(Shown::Running));
                }
                Ok(())
            }
            Command::Simulate(simulation) => simulation.run(),
            Command::NewHotkey(settings) => {
                let (config, _) = settings.load()?;
                let keypair = chain::wallet::create_hotkey(&config.wallet)?;
                // Standard output is the key alone, for scripts.
                eprintln!("the new hotkey is in {}", config.wallet.file()?.display());
                show(&keypair.hotkey().to_string());
                Ok(())
            }
        }
    })
}

impl Simulation {
    fn run(&self) -> anyhow::Result<()> {
        let Some(path) = &self.report else {
            let results = self.simulate(self.preset)?;
            show(&if self.json {
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
        let amount = simulate::Amount { periods: self.periods, seeds: self.seeds };
        let watched = std::io::stderr().is_terminal();
        let progress = |done: usize, all: usize| {
            if watched {
                let end = if done == all { "\n" } else { "" };
                eprint!("\r{preset}: {done} of {all} simulated subnets{end}");
            }
        };
        Ok(simulate::run(preset, amount, progress)?)
    }
}

async fn fetch_status(config: &Config) -> anyhow::Result<Status> {
    let mut address = config.listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
    let response =
        client.get(format!("http://{address}/v1/network/status")).send().await.with_context(
            || format!("no validator answers on {address}; is it running with this configuration?"),
        )?;
    Ok(response.error_for_status()?.json().await?)
}

#[expect(clippy::print_stdout, reason = "the result of a command belongs on standard output")]
fn show(text: &str) {
    println!("{}", text.trim_end());
}
