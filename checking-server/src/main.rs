//! The `checking-server` program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context;
use checking_server::benchmark::{self, Plan, RemoteStack};
use checking_server::calibration::{self, Calibration};
use checking_server::{App, Settings, verify, wanted};
use clap::{Args, Parser, Subcommand};
use common::format::NumericFormat;
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
    /// Measure what honest engines do on a model, and write it beside the model: without it nobody is flagged for good.
    Calibrate(Calibrate),
    /// Measure how well honest and dishonest answers are told apart, on a model at hand.
    Benchmark(Benchmark),
    /// Compute evidence against a miner again, as `validator evidence --write` gives it. Fails if it is not as claimed.
    Verify {
        #[command(flatten)]
        common: Common,
        /// The file with the evidence.
        bundle: PathBuf,
    },
    /// Print the effective configuration, secrets hidden, and everything that is wrong with it.
    CheckConfig {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Calibrate {
    /// The model's folder; `calibration.json` is written into it.
    #[arg(long)]
    model: PathBuf,
    /// Formats that a task permits, separated by commas: f32, f16, bf16, q8_0. Once for each policy.
    #[arg(long = "formats", default_values = ["f32,f16", "f32,f16,bf16", "f32,f16,bf16,q8_0"])]
    policies: Vec<Policy>,
    /// Answers per format.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(100..))]
    answers: u32,
    /// Temperature of the answers.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
}

#[derive(Debug, Args)]
struct Benchmark {
    /// The claimed model's folder.
    #[arg(long, default_value = "demo-model/touchstone-demo-4m")]
    model: PathBuf,
    /// The folder of a smaller model with the same tokenizer.
    #[arg(long, default_value = "demo-model/touchstone-demo-1m")]
    sibling: PathBuf,
    /// Temperature of the answers.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Answers per attack. With 0 only honest stacks are measured.
    #[arg(long, default_value_t = 300)]
    answers: u32,
    /// Honest answers per stack, and per format of the calibration.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..))]
    honest: u32,
    /// Honest answers per stack that is held out of the calibration. With 0 none of them is measured.
    #[arg(long, default_value_t = 500)]
    held_out: u32,
    /// An OpenAI-compatible server of the claimed model that reports token ids, whose answers are judged as honest ones: the
    /// model's name there, the number format it computes in (f32, f16, bf16 or q8_0; f32 where nothing is said), `seeded` if it
    /// draws as docs/seeded-sampling.md says, and the address up to /v1. May be given several times.
    #[arg(long = "remote", value_name = "NAME[,FORMAT][,seeded]=URL")]
    remotes: Vec<RemoteStack>,
    /// Answers of each such server; as many as --held-out where nothing is said.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    remote_answers: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write the page to this file as well.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// The formats of one policy.
#[derive(Debug, Clone)]
struct Policy(Vec<NumericFormat>);

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let find = |name: &str| {
            calibration::FORMATS
                .into_iter()
                .find(|format| format.as_str() == name.trim())
                .ok_or_else(|| format!("`{name}` is none of f32, f16, bf16 and q8_0"))
        };
        let formats: BTreeSet<_> = text.split(',').map(find).collect::<Result<_, _>>()?;
        Ok(Self(formats.into_iter().collect()))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run::main(async {
        match cli.command {
            Command::Run { common } => serve(&common).await,
            Command::Verify { common, bundle } => verify_bundle(&common, &bundle).await,
            Command::Calibrate(wanted) => calibrate(wanted).await,
            Command::Benchmark(wanted) => benchmark(wanted).await,
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

async fn verify_bundle(common: &Common, path: &Path) -> anyhow::Result<()> {
    let config = read(common)?.config?;
    let bundle = verify::read(path)?;
    let catalogue = Catalogue::load(&config.catalogue)?;
    let verified = verify::verify(&bundle, &catalogue, config.number_format).await?;
    run::print(&verified.text);
    anyhow::ensure!(verified.is_confirmed(), "the evidence is not as claimed");
    Ok(())
}

async fn calibrate(wanted: Calibrate) -> anyhow::Result<()> {
    let Calibrate { model, policies, answers, temperature } = wanted;
    let policies: Vec<_> = policies.into_iter().map(|Policy(formats)| formats).collect();
    let made_at = now();
    let measure = move || -> anyhow::Result<_> {
        let answers = answers as usize;
        let calibration = Calibration::of(&model, &policies, answers, temperature, made_at, say)?;
        calibration.write(&model)?;
        Ok((calibration, model))
    };
    let (calibration, model) = tokio::task::spawn_blocking(measure).await??;
    run::print(&calibration.summary());
    run::print(&format!("written to {}\n", model.join(calibration::FILE).display()));
    Ok(())
}

async fn benchmark(wanted: Benchmark) -> anyhow::Result<()> {
    let remote = wanted.remote_answers.unwrap_or(wanted.held_out);
    anyhow::ensure!(
        wanted.remotes.is_empty() || remote > 0,
        "with --held-out 0, --remote-answers has to say how many answers each server gives"
    );
    let plan = Plan {
        model: wanted.model,
        sibling: wanted.sibling,
        temperature: wanted.temperature,
        calibration: wanted.honest as usize,
        honest: wanted.honest as usize,
        held_out: wanted.held_out as usize,
        remote: remote as usize,
        attacked: wanted.answers as usize,
        remotes: wanted.remotes,
    };
    let report = benchmark::run(&plan, now(), say).await?;
    if let Some(page) = &wanted.write {
        std::fs::write(page, report.markdown())
            .with_context(|| format!("{} cannot be written", page.display()))?;
    }
    if wanted.json {
        run::print(&format!("{}\n", serde_json::to_string_pretty(&report)?));
    } else {
        run::print(&report.markdown());
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "progress for whoever waits")]
fn say(what: &str) {
    eprintln!("{what}");
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
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
