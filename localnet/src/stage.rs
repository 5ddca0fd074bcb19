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

use crate::models::Model;
use crate::screen::Screen;
use crate::setup::{Keys, set_up};

/// The catalogue of the repository; its model folder is relative to it, so the data folder is laid out alike.
const CATALOGUE: &str = include_str!("../../config/tasks.toml");
/// The system chooses the port.
const LOOPBACK: &str = "127.0.0.1:0";
/// The longest that scores wait for checks.
const MAX_PATIENCE: Duration = Duration::from_secs(30);
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
    /// Where the validator looks for the checking server, if something stands in between; otherwise at its own address.
    pub checking: Option<SocketAddr>,
    /// Which of the chain's runtimes.
    pub spec: devnet::Spec,
    /// Whether weights are committed in secret first.
    pub commit_reveal: bool,
}

impl Options {
    /// Two honest miners, periods of 20 s, weights in the open, and everything below this folder.
    pub fn in_folder(data: PathBuf) -> Self {
        Self {
            miners: 2,
            period: Duration::from_secs(20),
            data,
            cheat: None,
            checking: None,
            spec: devnet::Spec::default(),
            commit_reveal: false,
        }
    }
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
    /// Where the checking server listens.
    pub checking: SocketAddr,
    pub netuid: Netuid,
    /// Who the validator is.
    pub validator_hotkey: Hotkey,
    /// Those of the miners that do not serve what they claim.
    pub cheats: BTreeSet<Hotkey>,
    /// Make the chain fail on purpose.
    pub chain: devnet::Controls,
    services: Services,
}

/// Running services by name, in the order in which they were started.
#[derive(Debug, Default)]
struct Services {
    running: Vec<(CancellationToken, JoinSet<Ended>)>,
}

/// Which service ended, and how.
type Ended = (String, anyhow::Result<()>);

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
    /// Starts everything, saying each step on the screen. `None` if `stop` resolves first.
    ///
    /// # Errors
    /// If a part cannot be started. In this case, and if it is stopped, what had been started is stopped again.
    pub async fn start(
        options: &Options,
        screen: &mut Screen,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<Option<Self>> {
        let mut services = Services::default();
        let raised = tokio::select! {
            () = stop => None,
            raised = Self::raise(options, screen, &mut services) => Some(raised),
        };
        match raised {
            Some(Ok(raised)) => Ok(Some(Self { services, ..raised })),
            Some(Err(error)) => {
                services.stop().await;
                Err(error)
            }
            None => {
                services.stop().await;
                Ok(None)
            }
        }
    }

    async fn raise(
        options: &Options,
        screen: &mut Screen,
        services: &mut Services,
    ) -> anyhow::Result<Self> {
        let data = &options.data;
        std::fs::create_dir_all(data)
            .with_context(|| format!("the folder {} cannot be made", data.display()))?;
        let catalogue_file = write_catalogue(data)?;
        let catalogue = Catalogue::load(&catalogue_file)?;
        let keys = Keys::load_or_create(&data.join("wallets"), options.miners)?;

        screen.line("starting the chain")?;
        let devnet = devnet::App::build(devnet::Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            block_time: BLOCK_TIME,
            data: Some(data.join("chain")),
            spec: options.spec,
            ..devnet::Config::default()
        })
        .await?;
        let (rpc, controls) = (devnet.local_addr(), devnet.controls());
        services.start("chain".to_owned(), |stop| async move {
            Ok(devnet.run_until(stop.cancelled_owned()).await?)
        });

        screen.line("registering the subnet, its validator and its miners; loading the models")?;
        let endpoint = format!("ws://{rpc}");
        let network = Network::Endpoint(endpoint.parse().context("the chain's address")?);
        let chain = Chain::connect(ChainConfig::new(network)).await?;
        let (netuid, engines) = tokio::try_join!(
            set_up(&endpoint, &chain, &keys, options.commit_reveal),
            load_engines(options, &catalogue)
        )?;

        screen.line("starting the checking server, the miners and the validator")?;
        let subnet = Subnet {
            options,
            catalogue: &catalogue,
            catalogue_file: &catalogue_file,
            netuid,
            endpoint,
        };
        let checking = subnet.start_checking(&engines.checking, services).await?;
        for ((number, keypair), engine) in (1..).zip(&keys.miners).zip(&engines.miners) {
            subnet.start_miner(number, keypair, engine, services).await?;
        }
        let looked_for = options.checking.unwrap_or(checking);
        let (validator, api) =
            subnet.start_validator(&keys.validator, looked_for, services).await?;
        let cheats =
            options.cheat.iter().filter_map(|_| keys.miners.last().map(Keypair::hotkey)).collect();
        Ok(Self {
            validator,
            api,
            rpc,
            checking,
            netuid,
            validator_hotkey: keys.validator.hotkey(),
            cheats,
            chain: controls,
            services: Services::default(),
        })
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
            context: Some(context),
            number_format: NumberFormat::F32,
            ..EmbeddedConfig::new(folder, Model::Base.name(), purpose)
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

/// What the services are told about the subnet.
struct Subnet<'a> {
    options: &'a Options,
    catalogue: &'a Catalogue,
    catalogue_file: &'a Path,
    netuid: Netuid,
    endpoint: String,
}

impl Subnet<'_> {
    fn engines(&self, engine: &SharedEngine) -> BTreeMap<TaskId, SharedEngine> {
        self.catalogue.enabled().map(|(task, _)| (task.id.clone(), Arc::clone(engine))).collect()
    }

    async fn start_checking(
        &self,
        engine: &SharedEngine,
        services: &mut Services,
    ) -> anyhow::Result<SocketAddr> {
        let variables = flags([
            ("CHECKING_SERVER__SERVER__LISTEN", LOOPBACK.to_owned()),
            ("CHECKING_SERVER__TASKS__CATALOGUE", self.catalogue_file.display().to_string()),
        ]);
        let config = checking_server::Settings::read(None, variables)?.config?;
        let app =
            checking_server::App::build_with(config, self.catalogue, &self.engines(engine)).await?;
        let address = app.local_addr();
        services.start("checking server".to_owned(), |stop| async move {
            Ok(app.run_until(stop.cancelled_owned()).await?)
        });
        Ok(address)
    }

    async fn start_miner(
        &self,
        number: usize,
        keypair: &Keypair,
        engine: &SharedEngine,
        services: &mut Services,
    ) -> anyhow::Result<()> {
        let flags = flags([
            ("chain.netuid", self.netuid.to_string()),
            ("chain.endpoint", self.endpoint.clone()),
            ("axon.ip", "127.0.0.1".to_owned()),
            ("axon.port", "0".to_owned()),
            // The validator gets its permit with the first epoch, seconds after the miners have started.
            ("access.refresh_s", "1".to_owned()),
            ("capacity.period_s", self.options.period.as_secs_f64().to_string()),
        ]);
        let sources = Sources {
            defaults: miner::DEFAULTS,
            prefix: miner::PREFIX,
            flags,
            ..Sources::default()
        };
        let (config, _) = miner::Config::load(sources)?;
        let parts = miner::Parts {
            engines: self.engines(engine),
            keypair: Some(keypair.clone()),
            ..miner::Parts::default()
        };
        let app = miner::App::build_with(config, parts).await?;
        services.start(format!("miner {number}"), |stop| app.run_until(stop.cancelled_owned()));
        Ok(())
    }

    async fn start_validator(
        &self,
        keypair: &Keypair,
        checking: SocketAddr,
        services: &mut Services,
    ) -> anyhow::Result<(validator::Handle, SocketAddr)> {
        let patience = (self.options.period / 2).min(MAX_PATIENCE);
        let flags = flags([
            ("chain.netuid", self.netuid.to_string()),
            ("chain.endpoint", self.endpoint.clone()),
            ("tasks.catalogue", self.catalogue_file.display().to_string()),
            ("store.at", self.options.data.join("validator.sqlite").display().to_string()),
            ("scoring.period_s", self.options.period.as_secs_f64().to_string()),
            ("scoring.patience_s", patience.as_secs_f64().to_string()),
            ("miners.allow_local", "true".to_owned()),
            ("checking.url", format!("http://{checking}")),
            ("api.listen", LOOPBACK.to_owned()),
            ("api.open", "true".to_owned()),
        ]);
        let (config, _) = validator::Config::load(None, Vec::new(), flags)?;
        let app = validator::App::build_with(config, keypair.clone()).await?;
        let (handle, address) = (app.handle(), app.local_addr());
        services.start("validator".to_owned(), |stop| app.run_until(stop.cancelled_owned()));
        Ok((handle, address))
    }
}

fn flags<const N: usize>(flags: [(&str, String); N]) -> Vec<(String, String)> {
    flags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
