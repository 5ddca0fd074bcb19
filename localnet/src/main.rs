//! The command line of a whole local subnet.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use localnet::{Cheat, Localnet, Options, Report, Screen};
use service::{flags, run, telemetry};
use tokio::time::Instant;
use validator::status::Shown;

/// Run a whole subnet on this machine: a chain, miners that serve a real language model, a checking server, and a
/// validator that queries, checks and scores the miners and sets weights on the chain.
///
/// Everything listens on loopback ports that the system chooses. Ctrl-C stops all of it.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// How many miners to start.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    miners: u16,
    /// Length of a scoring period in seconds: after each, miners are scored and weights are set.
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0, value_parser = period)]
    period: f64,
    /// Where to keep the chain, the keys and the evidence, so that the next run goes on from there. Without it they are
    /// in a temporary folder that is removed at the end.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Make the last miner cheat: with `sibling` it serves a model of a third of the size while claiming the large one.
    #[arg(long, value_name = "HOW")]
    cheat: Option<Cheat>,
    /// Have the subnet ask for weights that are committed in secret first and revealed an epoch later, as subnets of the
    /// main network do by default.
    #[arg(long)]
    commit_reveal: bool,
    /// Which of the chain's runtimes: 365 places epochs by the block's number, 425 by a schedule. A chain that was kept
    /// with `--data` has the one it was made with.
    #[arg(long, default_value_t)]
    spec: devnet::Spec,
    /// Stop after the first weights are confirmed on the chain, and print them.
    #[arg(long)]
    until_weights: bool,
    /// At the end, print the result as JSON on standard output; everything else goes to standard error.
    #[arg(long)]
    json: bool,
    /// How log lines on standard error look. Which of them appear is set by RUST_LOG; by default only warnings.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: flags::LogFormat,
}

fn period(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (5.0..=86_400.0).contains(&seconds) => Ok(seconds),
        Ok(_) | Err(_) => Err("give a number of seconds from 5 to 86400".to_owned()),
    }
}

fn main() -> ExitCode {
    let started = Instant::now();
    let cli = Cli::parse();
    run::main(async move {
        telemetry::init_with(cli.log_format, "warn")?;
        // Removed when it is dropped, whatever happens in between.
        let temporary = match cli.data {
            Some(_) => None,
            None => Some(tempfile::tempdir().context("no temporary folder can be made")?),
        };
        let data = match (&cli.data, &temporary) {
            (Some(data), _) => data.clone(),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => anyhow::bail!("there is no data folder"),
        };
        if cli.cheat.is_some() && cli.miners < 2 {
            anyhow::bail!("--cheat needs at least 2 miners: one cheats, the others are honest");
        }
        let options = Options {
            miners: cli.miners.into(),
            period: Duration::from_secs_f64(cli.period),
            data,
            cheat: cli.cheat,
            checking: None,
            spec: cli.spec,
            commit_reveal: cli.commit_reveal,
        };
        let mut screen = Screen::new(cli.json);
        let stopped = run::shutdown();
        tokio::pin!(stopped);
        let Some(mut localnet) = Localnet::start(&options, &mut screen, &mut stopped).await? else {
            anyhow::ensure!(!cli.until_weights, "stopped before any weights were confirmed");
            return Ok(());
        };
        screen.line(&format!("the validator's API listens on http://{}/v1", localnet.api))?;
        screen.line(&format!("the chain's RPC listens on ws://{}", localnet.rpc))?;
        let validator = localnet.validator.clone();
        let ended = tokio::select! {
            () = &mut stopped => Ok(None),
            error = localnet.failed() => Err(error),
            shown = show(&mut screen, validator.clone(), cli.until_weights, started) => shown.map(Some),
        };
        let status = validator.status().await;
        let cheats = localnet.cheats.clone();
        localnet.stop().await;
        let seconds = ended?.flatten();
        let report = Report::new(&status?, &cheats, seconds);
        if cli.json {
            run::print(&serde_json::to_string_pretty(&report)?);
        } else if cli.until_weights {
            screen.line("")?;
            screen.line(report.table().trim_end())?;
        }
        if cli.until_weights && seconds.is_none() {
            anyhow::bail!("stopped before any weights were confirmed");
        }
        Ok(())
    })
}

/// Shows the table until weights are confirmed, if that is waited for, or for ever. Returns the seconds it took.
async fn show(
    screen: &mut Screen,
    validator: validator::Handle,
    until_weights: bool,
    started: Instant,
) -> anyhow::Result<Option<f64>> {
    let mut confirmed = validator.confirmed_weights();
    // Weights of an earlier run do not count.
    confirmed.mark_unchanged();
    let mut refresh = tokio::time::interval(Duration::from_secs(1));
    let mut first = None;
    loop {
        tokio::select! {
            _ = refresh.tick() => {
                screen.table(&validator.status().await?.table(Shown::Running))?;
            }
            changed = confirmed.changed() => {
                changed.context("the validator has ended")?;
                let block = confirmed.borrow_and_update().as_ref().map(|set| set.block);
                let seconds = *first.get_or_insert_with(|| started.elapsed().as_secs_f64());
                if let Some(block) = block {
                    let status = validator.status().await?;
                    screen.table(&status.table(Shown::Finished))?;
                    screen.line(&format!("weights confirmed on chain in block {block}"))?;
                }
                if until_weights {
                    screen.line(&format!("first weights after {seconds:.1} s"))?;
                    return Ok(Some(seconds));
                }
            }
        }
    }
}
