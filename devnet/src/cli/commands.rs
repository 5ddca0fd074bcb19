//! The commands that work on a running devnet. What they print is for a person or a script to read.

use std::fmt;
use std::io::{self, Write};

use anyhow::{Context, bail, ensure};
use common::{Hotkey, Keypair, Netuid};
use devnet::setup::{Client, Control, Hyperparameter};
use devnet::{Beacon, Config};

use super::Register;
use super::fault::in_force;

/// Answers on standard output. Whoever reads it may have seen enough and gone: that is no failure.
pub(super) fn say(answer: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{answer}");
}

/// Rao per TAO.
const TAO: f64 = 1e9;

pub(super) fn check_config(config: &Config) {
    say(format_args!("listen = \"{}\"", config.listen));
    say(format_args!("block_time_ms = {}", config.block_time.as_millis()));
    say(format_args!("finality = {}", config.finality));
    say(format_args!("spec = {}", config.spec));
    say(format_args!("fees = \"{}\"", config.fees));
    match &config.beacon {
        Beacon::Own { period_s } => {
            say(format_args!("beacon = \"local\"\nbeacon_period_s = {period_s}"));
        }
        Beacon::Recorded(file) => say(format_args!("beacon = \"quicknet:{}\"", file.display())),
    }
    match &config.data {
        Some(folder) => say(format_args!("data = \"{}\"", folder.display())),
        None => say(format_args!("# no data folder: the chain lives in memory")),
    }
}

pub(super) async fn status(endpoint: &str) -> anyhow::Result<()> {
    // First of all: a fault may be why nothing else is answered.
    let state = Control::connect(endpoint).await?.state().await?;
    say(format_args!("block {}, final {}", state.best, state.finalized));
    say(format_args!("{}", in_force(&state.faults)));
    let client = Client::connect(&Control::url(endpoint)).await?;
    for subnet in client.subnets().await? {
        say(format_args!(
            "subnet {}: {} neurons, tempo {}, commit-reveal {}, {}",
            subnet.netuid,
            subnet.neurons,
            subnet.tempo,
            if subnet.commit_reveal { "on" } else { "off" },
            if subnet.started { "started" } else { "not started" },
        ));
    }
    Ok(())
}

pub(super) async fn faucet(endpoint: &str, to: &str, tao: f64) -> anyhow::Result<()> {
    let (to, rao) = (account(to)?, rao(tao)?);
    Client::connect(endpoint).await?.faucet(to, rao).await?;
    say(format_args!("{to} got {tao} TAO"));
    Ok(())
}

pub(super) async fn register_network(
    endpoint: &str,
    coldkey: &str,
    hotkey: Option<&str>,
) -> anyhow::Result<()> {
    let coldkey = development_key(coldkey)?;
    let hotkey = hotkey.map_or(Ok(coldkey.hotkey()), account)?;
    let netuid = Client::connect(endpoint).await?.register_network(&coldkey, hotkey).await?;
    say(format_args!("{netuid}"));
    Ok(())
}

pub(super) async fn start(endpoint: &str, netuid: u16, coldkey: &str) -> anyhow::Result<()> {
    let coldkey = development_key(coldkey)?;
    Client::connect(endpoint).await?.start_call(&coldkey, Netuid(netuid)).await?;
    say(format_args!("subnet {netuid} is started"));
    Ok(())
}

pub(super) async fn register(register: &Register) -> anyhow::Result<()> {
    let (coldkey, hotkey) = (development_key(&register.coldkey)?, account(&register.hotkey)?);
    let client = Client::connect(&register.chain.endpoint).await?;
    say(format_args!(
        "{}",
        client.burned_register(&coldkey, Netuid(register.netuid), hotkey).await?
    ));
    Ok(())
}

pub(super) async fn stake(register: &Register, tao: f64) -> anyhow::Result<()> {
    let (coldkey, hotkey) = (development_key(&register.coldkey)?, account(&register.hotkey)?);
    let rao = rao(tao)?;
    let client = Client::connect(&register.chain.endpoint).await?;
    client.add_stake(&coldkey, hotkey, Netuid(register.netuid), rao).await?;
    say(format_args!("{tao} TAO are staked on {hotkey} in subnet {}", register.netuid));
    Ok(())
}

pub(super) async fn sudo_set(
    endpoint: &str,
    name: &str,
    netuid: Option<u16>,
    value: u64,
) -> anyhow::Result<()> {
    Client::connect(endpoint).await?.sudo_set(name, netuid.map(Netuid), value).await?;
    say(format_args!("{name} = {value}"));
    Ok(())
}

pub(super) fn list(all: &[Hyperparameter]) {
    for known in all {
        let name = known.name.replace('_', "-");
        let netuid = if known.of_subnet { " --netuid N" } else { "" };
        say(format_args!("sudo-set-{name}{netuid} --value 0..{}", known.largest));
    }
}

/// An account as SS58 text, or that of a development key.
fn account(text: &str) -> anyhow::Result<Hotkey> {
    if text.starts_with("//") {
        return Ok(development_key(text)?.hotkey());
    }
    text.parse().with_context(|| {
        format!("`{text}` is neither an account nor a development key such as //Bob")
    })
}

fn development_key(text: &str) -> anyhow::Result<Keypair> {
    match text.strip_prefix("//") {
        Some(name) if !name.is_empty() && name.len() < 32 && !name.contains('/') => {
            Ok(Keypair::development(name))
        }
        _ => bail!(
            "`{text}` is no development key: use one such as //Alice. Real keys do not belong here."
        ),
    }
}

fn rao(tao: f64) -> anyhow::Result<u64> {
    let rao = (tao * TAO).round();
    ensure!((1.0..=1e16).contains(&rao), "{tao} TAO is no amount: use 0.000000001 to 10000000");
    Ok(rao as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_development_keys_are_taken() {
        assert!(development_key("//Alice").is_ok());
        for wrong in ["Alice", "//", "//Alice//stash", "bottom drive obey lake"] {
            assert!(development_key(wrong).is_err(), "{wrong}");
        }
        assert_eq!(account("//Bob").unwrap(), Keypair::development("Bob").hotkey());
        assert_eq!(
            account("5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty").unwrap(),
            account("//Bob").unwrap()
        );
    }

    #[test]
    fn amounts_must_make_sense() {
        assert_eq!(rao(1.5).unwrap(), 1_500_000_000);
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert!(rao(wrong).is_err(), "{wrong}");
        }
    }
}
