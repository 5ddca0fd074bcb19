//! What a subnet owner and the owners of neurons do once: register, stake, set the rules.

use std::path::{Path, PathBuf};

use anyhow::Context;
use chain::wallet::{create_hotkey, load_hotkey};
use chain::{Chain, ChainError, WalletError, WalletPaths};
use common::{Hotkey, Keypair, Netuid};
use devnet::setup::{Client, SetupError};

/// The development account that owns the subnet and all neurons; it is rich on a new devnet.
pub(crate) const OWNER: &str = "Alice";
/// Blocks between two epochs. Short, so that permits and incentives appear while one watches.
const TEMPO: u64 = 20;
/// Blocks between two settings of weights.
const WEIGHTS_RATE_LIMIT: u64 = 4;
const STAKE_TAO: u64 = 10_000;
const RAO_PER_TAO: u64 = 1_000_000_000;
const WALLET: &str = "localnet";
/// What the chain answers to a second start.
const ALREADY_STARTED: &str = "FirstEmissionBlockNumberAlreadySet";

/// The keys of everybody on the local subnet.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) validator: Keypair,
    pub(crate) miners: Vec<Keypair>,
}

impl Keys {
    /// Reads the hotkeys of an earlier run from `folder`, and makes those that are missing.
    pub(crate) fn load_or_create(folder: &Path, miners: usize) -> Result<Self, WalletError> {
        let key = |hotkey: String| {
            let mut paths = WalletPaths::new(WALLET, hotkey);
            paths.path = PathBuf::from(folder);
            if paths.file()?.exists() { load_hotkey(&paths) } else { create_hotkey(&paths) }
        };
        let validator = key("validator".to_owned())?;
        let miners =
            (1..=miners).map(|number| key(format!("miner-{number}"))).collect::<Result<_, _>>()?;
        Ok(Self { validator, miners })
    }
}

/// Brings the chain into the state that the services expect. What an earlier run has done is left as it is.
pub(crate) async fn set_up(
    rpc: &str,
    chain: &Chain,
    keys: &Keys,
    commit_reveal: bool,
) -> anyhow::Result<Netuid> {
    let owner = Keypair::development(OWNER);
    let client = Client::connect(rpc).await.context("the chain cannot be reached")?;
    let netuid = Netuid(1);
    // Each step is taken or not by what it leaves behind, so an interrupted run is completed by the next one.
    let existing = match chain.metagraph(netuid).await {
        Ok(metagraph) => Some(metagraph),
        Err(ChainError::NoSubnet(_)) => None,
        Err(error) => return Err(error).context("the chain cannot be read"),
    };
    if existing.is_none() {
        let made = client
            .register_network(&owner, keys.validator.hotkey())
            .await
            .context("the subnet cannot be registered")?;
        anyhow::ensure!(made == netuid, "the chain made subnet {made}, expected {netuid}");
    }
    rules(&client, netuid, commit_reveal).await.context("the subnet's rules cannot be set")?;
    match client.start_call(&owner, netuid).await {
        Ok(()) => {}
        Err(SetupError::Failed { error, .. }) if error == ALREADY_STARTED => {}
        Err(error) => return Err(error).context("the subnet cannot be started"),
    }
    let neuron = |hotkey: &Hotkey| existing.as_ref().and_then(|metagraph| metagraph.neuron(hotkey));
    for key in keys.miners.iter().filter(|key| neuron(&key.hotkey()).is_none()) {
        client
            .burned_register(&owner, netuid, key.hotkey())
            .await
            .context("a miner cannot be registered")?;
    }
    if neuron(&keys.validator.hotkey()).is_none_or(|validator| validator.stake < STAKE_TAO as f64) {
        client
            .add_stake(&owner, keys.validator.hotkey(), netuid, STAKE_TAO * RAO_PER_TAO)
            .await
            .context("the validator cannot be staked")?;
    }
    Ok(netuid)
}

async fn rules(client: &Client, netuid: Netuid, commit_reveal: bool) -> Result<(), SetupError> {
    for (name, value) in [
        ("tempo", TEMPO),
        ("commit-reveal", commit_reveal.into()),
        ("weights-rate-limit", WEIGHTS_RATE_LIMIT),
        ("min-allowed-weights", 1),
        ("serving-rate-limit", 0),
    ] {
        client.sudo_set(name, Some(netuid), value).await?;
    }
    Ok(())
}
