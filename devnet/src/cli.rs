//! The command line.

mod bench;
mod commands;
mod fault;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use devnet::setup::hyperparameters;
use devnet::{App, Beacon, Config, Fees, Spec};
use service::flags::LogFormat;

/// Where a devnet is looked for unless `--endpoint` says otherwise.
const ENDPOINT: &str = "ws://127.0.0.1:9944";

/// A local Bittensor chain for development and tests.
///
/// Start it with `devnet run`; the other commands then set a subnet up on it. Everything is signed with well-known
/// development keys such as //Alice: they hold play money, and nothing of value belongs here.
#[derive(Debug, Parser)]
#[command(name = "devnet", version, after_help = EXAMPLE)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

const EXAMPLE: &str = "\
A subnet in six steps:
  devnet run &
  devnet register-network --coldkey //Alice
  devnet start --netuid 1 --coldkey //Alice
  devnet register --netuid 1 --hotkey <SS58> --coldkey //Alice
  devnet stake --netuid 1 --hotkey <SS58> --amount 1000 --coldkey //Alice
  devnet sudo-set-commit-reveal --netuid 1 --value 0

Weights are committed under time-lock unless that is switched off, as above; `devnet run --beacon` says where the
signatures come from that open them. `devnet run --spec 425` is the newer of the two runtimes.

Faults, for tests of what runs against it:
  devnet fault reorg --depth 3
  devnet fault slow 2s
  devnet fault resume

`devnet sudo-set-NAME` sets any hyperparameter that AdminUtils knows; `devnet hyperparameters` lists them.";

#[derive(Debug, Subcommand)]
enum Action {
    /// Run the chain until Ctrl-C
    Run(Run),
    /// Print the settings that `run` would use with the same flags
    CheckConfig(Run),
    /// Say what a running devnet is doing
    Status(Endpoint),
    /// Let a running devnet go wrong on purpose, so that others can be tested against it
    Fault(fault::Order),
    /// Send an account TAO from //Alice
    Faucet(Faucet),
    /// Create a subnet; prints its number
    RegisterNetwork(RegisterNetwork),
    /// Start a subnet: from then on it takes stake and pays emission (waits until the chain allows it)
    Start(Start),
    /// Register a hotkey in a subnet; prints its uid
    Register(Register),
    /// Stake TAO on a hotkey
    Stake(Stake),
    /// Set a hyperparameter with the sudo key //Alice; `devnet sudo-set-NAME` is the same as `devnet sudo-set NAME`
    SudoSet(SudoSet),
    /// List the hyperparameters that `sudo-set-NAME` sets
    Hyperparameters,
    /// Measure how many transactions per second go through the RPC of a devnet that is started for it
    Bench(Bench),
}

#[derive(Debug, Args)]
struct Run {
    /// The port of the RPC (WebSocket and HTTP), /health and /metrics; 0 lets the system choose
    #[arg(long, default_value_t = 9944)]
    port: u16,
    /// The address to listen on; 0.0.0.0 lets other machines in
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    listen: IpAddr,
    /// Time between two blocks, such as 250ms, 1s or 12s
    #[arg(long, default_value = "250ms", value_name = "TIME", value_parser = duration)]
    block_time: Duration,
    /// Which of Bittensor's runtimes to imitate: 365 (December 2025) or 425 (June 2026, epochs by a schedule)
    #[arg(long, default_value_t)]
    spec: Spec,
    /// Where the signatures that open time-locked weights come from: `local`, a beacon of the chain's own, or
    /// `quicknet:FILE`, recorded pulses of drand quicknet as JSON lines with `round` and `signature`
    #[arg(long, default_value = "local", value_name = "BEACON", value_parser = beacon)]
    beacon: Beacon,
    /// Seconds between two rounds of the local beacon
    #[arg(long, default_value_t = NonZeroU32::MIN, value_name = "SECONDS")]
    beacon_period: NonZeroU32,
    /// Who pays for what hotkeys call: `free`, or the `owner`, as in the newest runtimes
    #[arg(long, default_value_t)]
    fees: Fees,
    /// Folder that the chain is kept in, so that it goes on after a restart; without it, it lives in memory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How many blocks finality is behind the newest block, at most 1024; 0 makes every block final at once
    #[arg(long, default_value_t = 0, value_name = "BLOCKS")]
    finality: u32,
    /// How log lines on standard error look; which of them appear is set by RUST_LOG, such as `RUST_LOG=debug`
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

impl Run {
    fn config(&self) -> Config {
        Config {
            listen: SocketAddr::new(self.listen, self.port),
            block_time: self.block_time,
            data: self.data.clone(),
            finality: self.finality,
            spec: self.spec,
            beacon: match &self.beacon {
                Beacon::Own { .. } => Beacon::Own { period_s: self.beacon_period },
                Beacon::Recorded(file) => Beacon::Recorded(file.clone()),
            },
            fees: self.fees,
        }
    }
}

#[derive(Debug, Args)]
struct Endpoint {
    /// The RPC of the running devnet
    #[arg(long, default_value = ENDPOINT, value_name = "URL")]
    endpoint: String,
}

#[derive(Debug, Args)]
struct Faucet {
    #[command(flatten)]
    chain: Endpoint,
    /// The account (SS58, or a development key such as //Bob)
    #[arg(long, value_name = "ACCOUNT")]
    to: String,
    /// How many TAO
    #[arg(long)]
    amount: f64,
}

#[derive(Debug, Args)]
struct RegisterNetwork {
    #[command(flatten)]
    chain: Endpoint,
    /// The development key that owns the subnet and pays
    #[arg(long, default_value = "//Alice", value_name = "DEVELOPMENT KEY")]
    coldkey: String,
    /// The owner's hotkey, which gets uid 0; the coldkey's own account unless given
    #[arg(long, value_name = "ACCOUNT")]
    hotkey: Option<String>,
}

#[derive(Debug, Args)]
struct Start {
    #[command(flatten)]
    chain: Endpoint,
    /// The subnet
    #[arg(long)]
    netuid: u16,
    /// The development key that owns the subnet
    #[arg(long, default_value = "//Alice", value_name = "DEVELOPMENT KEY")]
    coldkey: String,
}

#[derive(Debug, Args)]
struct Register {
    #[command(flatten)]
    chain: Endpoint,
    /// The subnet
    #[arg(long)]
    netuid: u16,
    /// The hotkey (SS58, or a development key such as //Bob)
    #[arg(long, value_name = "ACCOUNT")]
    hotkey: String,
    /// The development key that owns the hotkey and pays
    #[arg(long, default_value = "//Alice", value_name = "DEVELOPMENT KEY")]
    coldkey: String,
}

#[derive(Debug, Args)]
struct Stake {
    #[command(flatten)]
    register: Register,
    /// How many TAO
    #[arg(long)]
    amount: f64,
}

#[derive(Debug, Args)]
struct Bench {
    /// How many transactions to send
    #[arg(long, default_value_t = 10_000)]
    transactions: usize,
    /// Weights per transaction, at most 256
    #[arg(long, default_value_t = 256)]
    weights: u16,
    /// Transactions on their way at a time
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
}

#[derive(Debug, Args)]
struct SudoSet {
    #[command(flatten)]
    chain: Endpoint,
    /// Which hyperparameter; `devnet hyperparameters` lists them
    name: String,
    /// The subnet, for those that each subnet has
    #[arg(long)]
    netuid: Option<u16>,
    /// The new value; 0 or 1 for a switch
    #[arg(long)]
    value: u64,
}

pub(crate) async fn run() -> anyhow::Result<()> {
    match Cli::parse_from(separated(std::env::args_os())).command {
        Action::Run(run) => {
            service::telemetry::init(run.log_format)?;
            let app = App::build(run.config()).await?;
            Ok(app.run_until(service::run::shutdown()).await?)
        }
        Action::CheckConfig(run) => {
            commands::check_config(&run.config());
            Ok(())
        }
        Action::Status(chain) => commands::status(&chain.endpoint).await,
        Action::Fault(order) => fault::run(&order).await,
        Action::Faucet(faucet) => {
            commands::faucet(&faucet.chain.endpoint, &faucet.to, faucet.amount).await
        }
        Action::RegisterNetwork(network) => {
            let hotkey = network.hotkey.as_deref();
            commands::register_network(&network.chain.endpoint, &network.coldkey, hotkey).await
        }
        Action::Start(start) => {
            commands::start(&start.chain.endpoint, start.netuid, &start.coldkey).await
        }
        Action::Register(register) => commands::register(&register).await,
        Action::Stake(stake) => commands::stake(&stake.register, stake.amount).await,
        Action::SudoSet(set) => {
            commands::sudo_set(&set.chain.endpoint, &set.name, set.netuid, set.value).await
        }
        Action::Hyperparameters => {
            commands::list(&hyperparameters());
            Ok(())
        }
        Action::Bench(bench) => bench::run(&bench).await,
    }
}

/// Makes `sudo-set-NAME` the command `sudo-set NAME`.
fn separated(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.get(1).and_then(|command| command.to_str()?.strip_prefix("sudo-set-"));
    if let Some(name) = name.map(OsString::from) {
        arguments.splice(1..2, ["sudo-set".into(), name]);
    }
    arguments
}

/// Reads `local` and `quicknet:FILE`.
fn beacon(text: &str) -> Result<Beacon, String> {
    match text.strip_prefix("quicknet:") {
        _ if text == "local" => Ok(Beacon::default()),
        Some(file) if !file.is_empty() => Ok(Beacon::Recorded(file.into())),
        _ => Err("use `local`, or `quicknet:FILE` with a file of recorded pulses".to_owned()),
    }
}

/// Reads `250ms`, `1s`, `1.5s`; a bare number is milliseconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => match text.strip_suffix('s') {
            Some(number) => (number, 1.0),
            None => (text, 0.001),
        },
    };
    let seconds = number.trim().parse::<f64>().map(|number| number * unit);
    let seconds = seconds.ok().filter(|seconds| (0.001..=3600.0).contains(seconds));
    let seconds =
        seconds.ok_or_else(|| "use a time from 1ms to 3600s, such as 250ms or 1s".to_owned())?;
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_knows_every_hyperparameter() {
        <Cli as clap::CommandFactory>::command().debug_assert();
        let typed = ["devnet", "sudo-set-tempo", "--netuid", "1", "--value", "10"];
        let cli = Cli::try_parse_from(separated(typed.map(OsString::from))).unwrap();
        let Action::SudoSet(set) = cli.command else { panic!("{cli:?}") };
        assert_eq!((set.name.as_str(), set.netuid, set.value), ("tempo", Some(1), 10));
    }

    #[test]
    fn the_kind_of_chain_is_read_from_flags() {
        let run = |flags: &str| {
            let typed = ["devnet", "run"].into_iter().chain(flags.split_whitespace());
            let cli = Cli::try_parse_from(typed).map_err(|error| error.to_string())?;
            let Action::Run(run) = cli.command else { panic!("{cli:?}") };
            Ok::<_, String>(run.config())
        };
        let usual = run("").unwrap();
        assert_eq!((usual.spec, usual.fees, usual.beacon), Default::default());
        let other = run("--spec 425 --fees owner --beacon-period 3").unwrap();
        assert_eq!((other.spec, other.fees), (Spec::V425, Fees::Owner));
        assert_eq!(other.beacon, Beacon::Own { period_s: NonZeroU32::new(3).unwrap() });
        let recorded = run("--beacon quicknet:pulses.jsonl").unwrap();
        assert_eq!(recorded.beacon, Beacon::Recorded("pulses.jsonl".into()));
        for (wrong, why) in [
            ("--spec 400", "365 and 425"),
            ("--fees me", "`free`"),
            ("--beacon quicknet:", "quicknet:FILE"),
            ("--beacon-period 0", "zero"),
        ] {
            let said = run(wrong).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn block_times_are_read_with_and_without_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("100"), Ok(Duration::from_millis(100)));
        for wrong in ["0", "", "s", "-1s", "NaN", "2h", "1e9s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
