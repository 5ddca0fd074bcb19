//! What a subnet owner and the owners of neurons do once: register, stake, set the rules.

use std::path::{Path, PathBuf};

use anyhow::Context;
use chain::wallet::{create_hotkey, load_hotkey};
use chain::{Chain, WalletError, WalletPaths};
use common::{Hotkey, Keypair, Netuid};
use devnet::setup::Client;

/// The development account that owns the subnet and all neurons; it is rich on a new devnet.
pub(crate) const OWNER: &str = "Alice";
/// Blocks between two epochs. Short, so that permits and incentives appear while one watches.
const TEMPO: u64 = 20;
/// Blocks between two settings of weights.
const WEIGHTS_RATE_LIMIT: u64 = 4;
const STAKE_TAO: u64 = 10_000;
const RAO_PER_TAO: u64 = 1_000_000_000;
const WALLET: &str = "localnet";

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
        let miners = (1..=miners).map(|number| key(format!("miner-{number}"))).collect::<Result<_, _>>()?;
        Ok(Self { validator, miners })
    }
}

/// Brings the chain into the state that the services expect. What an earlier run has done is left as it is.
pub(crate) async fn set_up(rpc: &str, chain: &Chain, keys: &Keys) -> anyhow::Result<Netuid> {
    let owner = Keypair::development(OWNER);
    let client = Client::connect(rpc).await.context("the chain cannot be reached")?;
    let netuid = Netuid(1);
    let existing = chain.metagraph(netuid).await;
    let registered = |hotkey: &Hotkey| {
        existing.as_ref().is_ok_and(|metagraph| metagraph.neuron(hotkey).is_some())
    };
    if existing.is_err() {
        let made = client
            .register_network(&owner, keys.validator.hotkey())
            .await
            .context("the subnet cannot be registered")?;
        anyhow::ensure!(made == netuid, "the chain made subnet {made}, expected {netuid}");
        rules(&client, netuid).await.context("the subnet's rules cannot be set")?;
        client.start_call(&owner, netuid).await.context("the subnet cannot be started")?;
    }
    for key in keys.miners.iter().filter(|key| !registered(&key.hotkey())) {
        client
            .burned_register(&owner, netuid, key.hotkey())
            .await
            .context("a miner cannot be registered")?;
    }
    if existing.is_err() {
        client
            .add_stake(&owner, keys.validator.hotkey(), netuid, STAKE_TAO * RAO_PER_TAO)
            .await
            .context("the validator cannot be staked")?;
    }
    Ok(netuid)
}

async fn rules(client: &Client, netuid: Netuid) -> Result<(), devnet::setup::SetupError> {
    for (name, value) in [
        ("tempo", TEMPO),
        ("commit-reveal", 0),
        ("weights-rate-limit", WEIGHTS_RATE_LIMIT),
        ("min-allowed-weights", 1),
        ("serving-rate-limit", 0),
    ] {
        client.sudo_set(name, Some(netuid), value).await?;
    }
    Ok(())
}
