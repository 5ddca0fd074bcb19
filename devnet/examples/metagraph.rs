//! How long it takes to read whole subnets of growing size, and how that grows.

use std::time::Duration;

use anyhow::ensure;
use chain::{Chain, ChainConfig};
use common::{Hotkey, Netuid};
use devnet::setup::{Client, sudo_key};
use devnet::{App, Config, Spec};
use futures::StreamExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Neurons of the subnets that are read, one after the other.
const SIZES: [u16; 3] = [256, 1024, 4096];
const TURNS: usize = 5;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "a benchmark prints")]
async fn main() -> anyhow::Result<()> {
    for spec in Spec::ALL {
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            block_time: Duration::from_millis(100),
            spec,
            ..Config::default()
        };
        let app = App::build(config).await?;
        let url = app.url();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(app.run_until(async {
            let _ = stopped.await;
        }));
        let client = Client::connect(&url).await?;
        let chain = Chain::connect(ChainConfig::new(url.parse()?)).await?;
        let mut last = None;
        for (netuid, size) in (1..).map(Netuid).zip(SIZES) {
            fill(&client, netuid, size).await?;
            // The first reading fetches the runtime's metadata too.
            let _ = chain.metagraph(netuid).await?;
            let mut times = Vec::new();
            for _ in 0..TURNS {
                let began = Instant::now();
                let metagraph = chain.metagraph(netuid).await?;
                times.push(began.elapsed().as_secs_f64());
                ensure!(metagraph.neurons.len() == usize::from(size), "not all neurons were read");
            }
            times.sort_unstable_by(f64::total_cmp);
            let median = times[TURNS / 2];
            let growth =
                last.map_or(String::new(), |last| format!(", {:.1} times the last", median / last));
            println!("spec {spec}, {size:>4} neurons: {:>6.1} ms{growth}", median * 1e3);
            last = Some(median);
        }
        let _ = stop.send(());
        running.await??;
    }
    Ok(())
}

/// Makes a subnet and registers hotkeys until it has so many neurons.
async fn fill(client: &Client, netuid: Netuid, size: u16) -> anyhow::Result<()> {
    let coldkey = sudo_key();
    let key = |number: u16| {
        let mut key = [7; 32];
        key[..2].copy_from_slice(&number.to_le_bytes());
        key[2..4].copy_from_slice(&netuid.0.to_le_bytes());
        Hotkey::from_bytes(key)
    };
    let made = client.register_network(&coldkey, key(0)).await?;
    ensure!(made == netuid, "the chain made subnet {made}, expected {netuid}");
    for (name, value) in [
        ("tempo", 0),
        ("max_allowed_uids", size.into()),
        ("target_registrations_per_interval", size.into()),
    ] {
        client.sudo_set(name, Some(netuid), value).await?;
    }
    let registrations =
        (1..size).map(|number| client.burned_register(&coldkey, netuid, key(number)));
    let done = futures::stream::iter(registrations).buffer_unordered(64).collect::<Vec<_>>().await;
    done.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(())
}
