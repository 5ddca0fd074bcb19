//! Starts everything in the right order, and stops it in the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chain::{Chain, ChainConfig, Network};
use clap::ValueEnum;
use common::{Hotkey, Keypair, Netuid, TaskId};
use engine::{Embedded, EmbeddedConfig, NumberFormat, Purpose, SharedEngine};
use service::settings::Sources;
use tasks::Catalogue;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};
use url::Url;

use crate::models::Model;
use crate::screen::Screen;
use crate::setup::{Keys, set_up};

/// The catalogue of the repository; its model folder is relative to it, so the data folder is laid out alike.
const CATALOGUE: &str = include_str!("../../config/tasks.toml");
/// Between two blocks.
const BLOCK_TIME: Duration = Duration::from_millis(250);

/// What kind of subnet to run.
#[derive(Debug, Clone)]
pub struct Options {
    pub miners: usize,
    /// Length of a scoring period.
    pub period: Duration,
    /// Everything that is written goes below this folder.
    pub data: PathBuf,
    pub cheat: Option<Cheat>,
}

/// How one of the miners cheats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cheat {
    /// It serves a model of a third of the size while claiming the large one.
    Sibling,
}

/// A subnet that runs.
#[derive(Debug)]
pub struct Localnet {
    pub validator: validator::Handle,
    /// Where the organic API listens.
    pub api: SocketAddr,
    /// Where the chain's RPC listens.
    pub rpc: SocketAddr,
    pub cheats: BTreeSet<Hotkey>,
    pub hotkeys: Vec<Hotkey>,
    services: Services,
}

/// Running services by name, in the order in which they were started.
#[derive(Debug, Default)]
struct Services {
    running: Vec<(CancellationToken, JoinSet<(String, anyhow::Result<()>)>)>,
}

impl Services {
    fn start<F, Fut>(&mut self, name: String, run: F)
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let service = run(stop.clone()).instrument(info_span!("service", name));
        let mut set = JoinSet::new();
        set.spawn(async move { (name, service.await) });
        self.running.push((stop, set));
    }

    /// Resolves when a service ends by itself, which none should.
    async fn first_to_end(&mut self) -> anyhow::Error {
        let ends = self.running.iter_mut().map(|(_, set)| Box::pin(set.join_next()));
        let (ended, ..) = futures::future::select_all(ends).await;
        match ended {
            Some(Ok((name, Ok(())))) => anyhow::anyhow!("{name} stopped by itself"),
            Some(Ok((name, Err(error)))) => error.context(format!("{name} failed")),
            Some(Err(panic)) => anyhow::Error::from(panic).context("a service panicked"),
            None => anyhow::anyhow!("a service ended twice"),
        }
    }

    /// Stops all at once: each drains on its own, and the chain last, because the others may wait for a block.
    async fn stop(mut self) {
        let chain = (!self.running.is_empty()).then(|| self.running.remove(0));
        for (stop, _) in &self.running {
            stop.cancel();
        }
        for (_, set) in &mut self.running {
            while set.join_next().await.is_some() {}
        }
        if let Some((stop, mut set)) = chain {
            stop.cancel();
            while set.join_next().await.is_some() {}
        }
    }
}

impl Localnet {
    /// Starts everything, saying each step on the screen.
    ///
    /// # Errors
    /// If a part cannot be started; the others are stopped then.
    pub async fn start(options: &Options, screen: &mut Screen) -> anyhow::Result<Self> {
        let mut services = Services::default();
        match Self::raise(options, screen, &mut services).await {
            Ok(raised) => Ok(Self { services, ..raised }),
            Err(error) => {
                services.stop().await;
                Err(error)
            }
        }
    }

    async fn raise(options: &Options, screen: &mut Screen, services: &mut Services) -> anyhow::Result<Self> {
        let data = &options.data;
        std::fs::create_dir_all(data).with_context(|| format!("the folder {} cannot be made", data.display()))?;
        let catalogue_file = write_catalogue(data)?;
        let catalogue = Catalogue::load(&catalogue_file)?;
        let keys = Keys::load_or_create(&data.join("wallets"), options.miners)?;

        screen.line("starting the chain")?;
        let devnet = devnet::App::build(devnet::Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            block_time: BLOCK_TIME,
            data: Some(data.join("chain")),
        })
        .await?;
        let rpc = devnet.local_addr();
        services.start("chain".to_owned(), |stop| devnet.run_until(stop.cancelled_owned()));

        screen.line("registering the subnet, its validator and its miners; loading the models")?;
        let endpoint = format!("ws://{rpc}");
        let network = Network::Endpoint(endpoint.parse().context("the chain's address")?);
        let chain = Chain::connect(ChainConfig::new(network)).await?;
        let (netuid, engines) =
            tokio::try_join!(set_up(&endpoint, &chain, &keys), load_engines(options, &catalogue))?;

        let Engines { checking, miners: miner_engines } = engines;
        let check_url = start_checking(&catalogue_file, &catalogue, checking, services).await?;
        for ((number, keypair), engine) in (1..).zip(&keys.miners).zip(miner_engines) {
            start_miner(number, keypair, &engine, &catalogue, netuid, &endpoint, options, services).await?;
        }
        let (validator, api) =
            start_validator(&keys.validator, &catalogue_file, netuid, &endpoint, &check_url, options, services)
                .await?;
        let hotkeys: Vec<_> = keys.miners.iter().map(Keypair::hotkey).collect();
        let cheats = options.cheat.iter().filter_map(|_| hotkeys.last().copied()).collect();
        Ok(Self { validator, api, rpc, cheats, hotkeys, services: Services::default() })
    }

    /// Resolves when a part fails.
    pub async fn failed(&mut self) -> anyhow::Error {
        self.services.first_to_end().await
    }

    /// Stops everything; nothing runs on after it has returned.
    pub async fn stop(self) {
        self.services.stop().await;
    }
}

fn write_catalogue(data: &Path) -> anyhow::Result<PathBuf> {
    let folder = data.join("config");
    let file = folder.join("tasks.toml");
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&file, CATALOGUE))
        .with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(file)
}

struct Engines {
    checking: SharedEngine,
    miners: Vec<SharedEngine>,
}

/// One engine for the checking server and one for each miner, as on as many machines.
async fn load_engines(options: &Options, catalogue: &Catalogue) -> anyhow::Result<Engines> {
    let context = catalogue.enabled().map(|(task, _)| task.engine.context).max().unwrap_or(1024);
    let parent = options.data.join("demo-model");
    let base = Model::Base.unpack(&parent).context("the demo model cannot be unpacked")?;
    let load = |folder: &Path, purpose| {
        let config = EmbeddedConfig {
            purpose,
            context: Some(context),
            number_format: NumberFormat::F32,
            ..EmbeddedConfig::new(folder)
        };
        async move { anyhow::Ok(Arc::new(Embedded::load(config, |_| ()).await?) as SharedEngine) }
    };
    let checking = load(&base, Purpose::Reference).await?;
    let mut miners = Vec::new();
    for number in 1..=options.miners {
        let cheats = options.cheat == Some(Cheat::Sibling) && number == options.miners;
        let folder = if cheats { Model::Sibling.unpack(&parent)? } else { base.clone() };
        miners.push(load(&folder, Purpose::Generation).await?);
    }
    Ok(Engines { checking, miners })
}
