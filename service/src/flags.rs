//! Command-line flags by the names that the ecosystem knows. They win over variables and the file.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Which configuration is read, and how logs look. Flatten it into each command.
#[derive(Debug, Clone, Default, Args)]
pub struct Common {
    /// Configuration file (TOML). Without it the built-in, documented defaults apply.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How log lines on standard error look. Which of them appear is set by RUST_LOG, such as `RUST_LOG=debug`.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// The chain and the subnet.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Chain")]
pub struct Chain {
    /// Number of the subnet.
    #[arg(long, value_name = "NUMBER")]
    pub netuid: Option<u16>,
    /// Which network: finney (the main network), test, or local (a node or `devnet` on this machine).
    #[arg(long = "subtensor.network", alias = "subtensor-network", value_name = "NAME")]
    pub network: Option<String>,
    /// Address of a node's RPC, such as ws://127.0.0.1:9944. Wins over the network's usual address.
    #[arg(
        long = "subtensor.chain_endpoint",
        alias = "subtensor-chain-endpoint",
        value_name = "URL"
    )]
    pub endpoint: Option<String>,
    /// Further nodes of the same network, separated by commas: used while the first one is away or behind.
    #[arg(
        long = "subtensor.fallback_endpoints",
        alias = "subtensor-fallback-endpoints",
        value_name = "URL,..."
    )]
    pub fallbacks: Option<String>,
}

impl Chain {
    /// Full settings keys and values of the flags that were given.
    pub fn settings(&self) -> Vec<(String, String)> {
        given([
            ("chain.netuid", self.netuid.map(|netuid| netuid.to_string())),
            ("chain.network", self.network.clone()),
            ("chain.endpoint", self.endpoint.clone()),
            ("chain.fallback_endpoints", self.fallbacks.clone()),
        ])
    }
}

/// The hotkey's file. A service never reads a coldkey.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Wallet")]
pub struct Wallet {
    /// Name of the wallet, that is of its coldkey's folder.
    #[arg(long = "wallet.name", alias = "wallet-name", value_name = "NAME")]
    pub name: Option<String>,
    /// Name of the hotkey in the wallet.
    #[arg(long = "wallet.hotkey", alias = "wallet-hotkey", value_name = "NAME")]
    pub hotkey: Option<String>,
    /// Folder of the wallets, usually ~/.bittensor/wallets.
    #[arg(long = "wallet.path", alias = "wallet-path", value_name = "FOLDER")]
    pub path: Option<String>,
}

impl Wallet {
    /// Full settings keys and values of the flags that were given.
    pub fn settings(&self) -> Vec<(String, String)> {
        given([
            ("wallet.name", self.name.clone()),
            ("wallet.hotkey", self.hotkey.clone()),
            ("wallet.path", self.path.clone()),
        ])
    }
}

/// Where a neuron is reached.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Axon (where others reach this server)")]
pub struct Axon {
    /// Port to listen on, and to publish on the chain.
    #[arg(long = "axon.port", alias = "axon-port", value_name = "PORT")]
    pub port: Option<u16>,
    /// Public IP address of this server, as it is published on the chain.
    #[arg(long = "axon.external_ip", alias = "axon-external-ip", value_name = "IP")]
    pub external_ip: Option<String>,
}

impl Axon {
    /// Full settings keys and values of the flags that were given.
    pub fn settings(&self) -> Vec<(String, String)> {
        given([
            ("axon.port", self.port.map(|port| port.to_string())),
            ("axon.external_ip", self.external_ip.clone()),
        ])
    }
}

fn given<const N: usize>(flags: [(&str, Option<String>); N]) -> Vec<(String, String)> {
    flags.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct All {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        chain: Chain,
        #[command(flatten)]
        wallet: Wallet,
        #[command(flatten)]
        axon: Axon,
    }

    #[test]
    fn the_ecosystems_names_become_settings() {
        let line = "miner --netuid 7 --wallet.name owner --wallet.hotkey hot --wallet.path /w --subtensor.network \
                    finney --subtensor.chain_endpoint ws://h:1 --subtensor.fallback_endpoints ws://h:2,ws://h:3 --axon.port 9 --axon.external_ip 1.2.3.4 --config c.toml \
                    --log-format json";
        let all = All::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!(all.common.config, Some("c.toml".into()));
        assert_eq!(all.common.log_format, LogFormat::Json);
        let settings = [all.chain.settings(), all.wallet.settings(), all.axon.settings()].concat();
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(
            settings,
            [
                ("chain.netuid", "7"),
                ("chain.network", "finney"),
                ("chain.endpoint", "ws://h:1"),
                ("chain.fallback_endpoints", "ws://h:2,ws://h:3"),
                ("wallet.name", "owner"),
                ("wallet.hotkey", "hot"),
                ("wallet.path", "/w"),
                ("axon.port", "9"),
                ("axon.external_ip", "1.2.3.4"),
            ]
        );
        assert_eq!(All::try_parse_from(["miner"]).unwrap().axon.settings(), []);
    }
}
