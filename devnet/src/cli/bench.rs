//! How many weight-setting transactions per second go through the RPC, beside block building alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use common::{Hotkey, Keypair, Netuid};
use devnet::node::chain::Chain;
use devnet::runtime::{RuntimeCall, subtensor};
use devnet::setup::{Client, signed, sudo_key};
use devnet::{App, Config};
use futures::StreamExt;
use tokio::sync::oneshot;

use super::Bench;
use super::commands::say;

/// The subnet is filled with so many neurons, half of which set weights.
const NEURONS: u16 = 256;

/// Stake of each, in rao.
const STAKE: u64 = 10_000_000_000;

pub(super) async fn run(bench: &Bench) -> anyhow::Result<()> {
    ensure!((1..=NEURONS).contains(&bench.weights), "use 1 to {NEURONS} weights");
    ensure!(bench.transactions > 0 && bench.in_flight > 0, "use at least one transaction");
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        block_time: Duration::from_millis(250),
        ..Config::default()
    };
    let app = App::build(config).await?;
    let (url, chain, controls) = (app.url(), app.chain(), app.controls());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(app.run_until(async {
        let _ = stopped.await;
    }));
    let client = Client::connect(&url).await?;
    let owner = prepare(&client).await?;
    let version = client.version().await?;

    // One signer with rising nonces: what a full block of one subnet costs, without thousands of keys.
    let make = |nonces: std::ops::Range<u32>| -> Vec<Vec<u8>> {
        let uids: Vec<u16> = (0..bench.weights).collect();
        let set = |nonce| {
            let call = subtensor::Call::set_weights {
                netuid: 1,
                weights: uids.iter().map(|uid| uid + 1).collect(),
                dests: uids.clone(),
                version_key: 0,
            };
            signed(&owner, nonce, chain.genesis(), version, RuntimeCall::SubtensorModule(call))
        };
        nonces.map(set).collect()
    };
    let count = u32::try_from(bench.transactions).context("that many transactions")?;
    let first = chain.next_nonce(*owner.hotkey().as_bytes())?;
    let through_rpc = make(first..first + count);
    let alone = make(first + count..first + 2 * count);

    let started = Instant::now();
    send(&client, through_rpc, bench.in_flight).await?;
    wait_until_empty(&chain).await;
    let rpc = rate(bench.transactions, started.elapsed());

    controls.pause_blocks();
    let building = build_alone(Arc::clone(&chain), alone).await?;
    let _ = stop.send(());
    running.await??;
    say(format_args!("{} transactions of {} weights", bench.transactions, bench.weights));
    say(format_args!("through the RPC, until all are in final blocks: {rpc:.0} per second"));
    say(format_args!("block building alone, signatures included:      {building:.0} per second"));
    say(format_args!("ratio: {:.2}", rpc / building));
    Ok(())
}

/// A started subnet full of neurons, whose owner may set weights as often as it likes.
async fn prepare(client: &Client) -> anyhow::Result<Keypair> {
    let coldkey = sudo_key();
    let owner = Keypair::generate();
    let netuid = client.register_network(&coldkey, owner.hotkey()).await?;
    ensure!(netuid == Netuid(1), "a fresh devnet's first subnet is number 1");
    for (name, value) in [("commit_reveal", 0), ("weights_set_rate_limit", 0), ("tempo", 0)] {
        client.sudo_set(name, Some(netuid), value).await?;
    }
    client.start_call(&coldkey, netuid).await?;
    client.add_stake(&coldkey, owner.hotkey(), netuid, STAKE).await?;
    // All at once: one by one they would take a block each.
    let registrations = (1..NEURONS).map(|n| {
        let mut key = [7; 32];
        key[..2].copy_from_slice(&n.to_le_bytes());
        client.burned_register(&coldkey, netuid, Hotkey::from_bytes(key))
    });
    let done = futures::stream::iter(registrations).buffer_unordered(64).collect::<Vec<_>>().await;
    done.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(owner)
}

async fn send(client: &Client, transactions: Vec<Vec<u8>>, in_flight: usize) -> anyhow::Result<()> {
    let sent = futures::stream::iter(transactions.iter().map(|bytes| client.send_only(bytes)));
    let results = sent.buffer_unordered(in_flight).collect::<Vec<_>>().await;
    results.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(())
}

async fn wait_until_empty(chain: &Chain) {
    let mut blocks = chain.subscribe();
    while chain.pending_len() > 0 {
        let _ = blocks.recv().await;
    }
}

/// Transactions per second in block building, once they are in the pool.
async fn build_alone(chain: Arc<Chain>, transactions: Vec<Vec<u8>>) -> anyhow::Result<f64> {
    tokio::task::spawn_blocking(move || {
        let mut spent = Duration::ZERO;
        for batch in transactions.chunks(2000) {
            for bytes in batch {
                chain.submit(bytes, None)?;
            }
            let started = Instant::now();
            while chain.pending_len() > 0 {
                chain.produce()?;
            }
            spent += started.elapsed();
        }
        Ok(rate(transactions.len(), spent))
    })
    .await?
}

fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
