//! The command `miner`.

use std::process::ExitCode;

use chain::registration::{Role, how_to_register};
use chain::wallet::create_hotkey;
use clap::{Args, Parser, Subcommand};
use miner::{App, Config};
use service::settings::{Sources, environment};
use service::{flags, run, telemetry};

/// Serves language models to the validators of a Bittensor subnet.
///
/// Start with `miner check-config`, which shows all settings and everything that is wrong with them.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the models, publish this miner's address on the chain, and serve until Ctrl-C.
    Run(Flags),
    /// Show the settings that result from defaults, file, variables and flags, with secrets hidden.
    CheckConfig(Flags),
    /// Make a new hotkey, in a file that only you can read. Registering it on the subnet needs your coldkey, elsewhere.
    NewHotkey(Flags),
    /// Print the btcli commands that register this miner's hotkey on its subnet. They need the wallet's coldkey, which a
    /// miner never reads: run them on the machine that has it.
    HowToRegister(Flags),
}

#[derive(Debug, Args)]
struct Flags {
    #[command(flatten)]
    common: flags::Common,
    #[command(flatten)]
    chain: flags::Chain,
    #[command(flatten)]
    wallet: flags::Wallet,
    #[command(flatten)]
    axon: flags::Axon,
}

impl Flags {
    fn load(&self) -> anyhow::Result<(Config, String)> {
        Config::load(Sources {
            file: self.common.config.as_deref(),
            env: environment(),
            flags: [self.chain.settings(), self.wallet.settings(), self.axon.settings()].concat(),
            ..Config::sources()
        })
    }
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    run::main(async move {
        match command {
            Command::Run(flags) => {
                telemetry::init(flags.common.log_format)?;
                let (config, _) = flags.load()?;
                App::build(config).await?.run_until(run::shutdown()).await
            }
            Command::CheckConfig(flags) => {
                run::print(&flags.load()?.1);
                Ok(())
            }
            Command::HowToRegister(flags) => {
                let (config, _) = flags.load()?;
                let commands =
                    how_to_register(&config.chain, config.netuid, &config.wallet, Role::Miner)?;
                run::print(&commands);
                Ok(())
            }
            Command::NewHotkey(flags) => {
                let (config, _) = flags.load()?;
                let hotkey = create_hotkey(&config.wallet)?.hotkey();
                // Standard output is the key alone, for scripts.
                eprintln!("the new hotkey is in {}", config.wallet.file()?.display());
                run::print(&hotkey.to_string());
                Ok(())
            }
        }
    })
}
