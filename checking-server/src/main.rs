//! The `checking-server` program.

use std::process::ExitCode;

use checking_server::{App, Settings, wanted};
use clap::{Parser, Subcommand};
use service::flags::Common;
use service::{run, telemetry};
use tasks::Catalogue;

/// Re-computes the answers of miners with its own copy of each model and says how good they are.
///
/// A validator sends it answers over HTTP (POST /v1/checks) and gets verdicts back. Settings come from documented
/// defaults, then the file given by --config, then variables such as CHECKING_SERVER__SERVER__LISTEN.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the models and answer checks until Ctrl-C.
    Run {
        #[command(flatten)]
        common: Common,
    },
    /// Print the effective configuration, secrets hidden, and everything that is wrong with it.
    CheckConfig {
        #[command(flatten)]
        common: Common,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run::main(async {
        match cli.command {
            Command::Run { common } => serve(&common).await,
            Command::CheckConfig { common } => check(&common),
        }
    })
}

async fn serve(common: &Common) -> anyhow::Result<()> {
    telemetry::init(common.log_format)?;
    let config = read(common)?.config?;
    // Loading takes a while: a stop in the middle of it ends the program, too.
    let shutdown = run::shutdown();
    let mut shutdown = std::pin::pin!(shutdown);
    let app = tokio::select! {
        app = App::build(config) => app?,
        () = shutdown.as_mut() => return Ok(()),
    };
    app.run_until(shutdown).await?;
    Ok(())
}

fn check(common: &Common) -> anyhow::Result<()> {
    let settings = read(common)?;
    run::print(&settings.shown);
    let config = settings.config?;
    wanted(&config.only, &Catalogue::load(&config.catalogue)?)?;
    Ok(())
}

fn read(common: &Common) -> anyhow::Result<Settings> {
    Ok(Settings::read(common.config.as_deref(), service::settings::environment())?)
}
