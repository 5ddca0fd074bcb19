//! Prints a subnet as this client reads it, as JSON; with the name of a hotkey's file and weights, sets them first.
//!
//! ```text
//! cargo run -p chain --example subnet -- ws://127.0.0.1:9944 1
//! cargo run -p chain --example subnet -- ws://127.0.0.1:9944 1 ~/.bittensor/wallets local validator 0=1 2=0.5
//! ```
//!
//! The second sends weights in the way that the subnet wants; commits are not waited for until they are revealed. The
//! interoperability test compares what is printed with what the official Python SDK reads.

use std::error::Error;
use std::path::PathBuf;

use chain::wallet::load_hotkey;
use chain::{Chain, ChainConfig, CommitReveal, WalletPaths, plan_weights, weights};
use common::{MechanismId, Netuid};
use serde_json::{Value, json};

/// The only mechanism of most subnets.
const MECHANISM: MechanismId = MechanismId(0);

const USAGE: &str =
    "usage: subnet URL NETUID [WALLETS NAME HOTKEY UID=WEIGHT ...]; see the example's source";

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "what is asked for")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, netuid, rest @ ..] = arguments.as_slice() else { return Err(USAGE.into()) };
    let netuid = Netuid(netuid.parse()?);
    let chain = Chain::connect(ChainConfig::new(url.parse()?)).await?;
    match rest {
        [] => {}
        [path, name, hotkey, scores @ ..] if !scores.is_empty() => {
            let wallet = WalletPaths {
                name: name.clone(),
                hotkey: hotkey.clone(),
                path: PathBuf::from(path),
            };
            set(&chain, netuid, &wallet, scores).await?;
        }
        _ => return Err(USAGE.into()),
    }
    println!("{}", read(&chain, netuid).await?);
    Ok(())
}

async fn set(
    chain: &Chain,
    netuid: Netuid,
    wallet: &WalletPaths,
    scores: &[String],
) -> Result<(), Box<dyn Error>> {
    let score = |text: &String| -> Result<(u16, f64), Box<dyn Error>> {
        let (uid, weight) = text.split_once('=').ok_or(USAGE)?;
        Ok((uid.parse()?, weight.parse()?))
    };
    let scores = scores.iter().map(score).collect::<Result<Vec<_>, _>>()?;
    let keypair = load_hotkey(wallet)?;
    let facts = chain.weight_facts(netuid, MECHANISM, keypair.hotkey()).await?;
    let plan = plan_weights(&facts, &weights::encode(&scores)?, 0, CommitReveal::Auto)?;
    chain.send_weights(&plan.prepare(&mut rand::rng())?, &keypair).await?;
    Ok(())
}

async fn read(chain: &Chain, netuid: Netuid) -> Result<Value, Box<dyn Error>> {
    let metagraph = chain.metagraph(netuid).await?;
    let mut neurons = Vec::new();
    for neuron in &metagraph.neurons {
        let weights: Vec<_> = chain.weights(netuid, MECHANISM, neuron.uid).await?;
        neurons.push(json!({
            "uid": neuron.uid.0,
            "hotkey": neuron.hotkey.to_string(),
            "coldkey": neuron.coldkey.map(|coldkey| coldkey.to_string()),
            "axon": neuron.axon.map(|axon| json!({ "ip": axon.ip.to_string(), "port": axon.port })),
            "stake": neuron.stake,
            "validator_permit": neuron.validator_permit,
            "active": neuron.active,
            "last_update": neuron.last_update.0,
            "weights": weights.iter().map(|(uid, weight)| (uid.0, *weight)).collect::<Vec<_>>(),
        }));
    }
    let params = &metagraph.params;
    Ok(json!({
        "block": metagraph.block.0,
        "neurons": neurons,
        "hyperparameters": {
            "tempo": params.tempo,
            "weights_rate_limit": params.weights_rate_limit,
            "weights_version": params.weights_version,
            "min_allowed_weights": params.min_allowed_weights,
            "max_weights_limit": params.max_weights_limit,
            "commit_reveal_weights_enabled": params.commit_reveal_enabled,
            "serving_rate_limit": params.serving_rate_limit,
            "immunity_period": params.immunity_period,
            "activity_cutoff": params.activity_cutoff,
        },
    }))
}
