//! Which chain to talk to.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::error::BlockHash;

const FINNEY_URL: &str = "wss://entrypoint-finney.opentensor.ai:443";
const TEST_URL: &str = "wss://test.finney.opentensor.ai:443";
const LOCAL_URL: &str = "ws://127.0.0.1:9944";

const FINNEY_GENESIS: BlockHash = BlockHash([
    0x2f, 0x05, 0x55, 0xcc, 0x76, 0xfc, 0x28, 0x40, 0xa2, 0x5a, 0x6e, 0xa3, 0xb9, 0x63, 0x71, 0x46,
    0x80, 0x6f, 0x1f, 0x44, 0xb0, 0x90, 0xc1, 0x75, 0xff, 0xde, 0x2a, 0x7e, 0x5a, 0xb3, 0x6c, 0x03,
]);

/// A Bittensor chain by the name that `--subtensor.network` knows, or by the address of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Network {
    /// The main network.
    Finney,
    /// The public test network.
    Test,
    /// A node on this machine, `ws://127.0.0.1:9944`.
    Local,
    /// Any chain, at this WebSocket address.
    Endpoint(Url),
}

/// Why a text names no chain that may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    #[error(
        "`{0}` is no network: use finney, test, local, or the ws:// or wss:// address of a node"
    )]
    Unknown(String),
    #[error(
        "{0} is not encrypted: use wss://, or a tunnel to this machine. ws:// is for nodes on this machine only"
    )]
    Insecure(String),
}

/// How to reach a chain.
#[derive(Debug, Clone)]
pub struct ChainConfig {
    pub network: Network,
    /// The node to ask instead of the network's public one. The network's genesis block is still expected.
    pub endpoint: Option<Url>,
    /// Further nodes of the same network, in the order of preference: for when the first is away or behind.
    pub fallbacks: Vec<Url>,
    /// How long one request may take.
    pub deadline: Duration,
    /// The longest pause between two attempts to connect again; four times as long after a node has said that it is asked
    /// too much.
    pub longest_pause: Duration,
    /// How often the nodes are looked at when there are several.
    pub look_every: Duration,
}

impl Network {
    /// The public node of the network.
    pub fn url(&self) -> Result<Url, BadNetwork> {
        let parse = |text: &str| Url::parse(text).map_err(|_| BadNetwork::Unknown(text.to_owned()));
        match self {
            Self::Finney => parse(FINNEY_URL),
            Self::Test => parse(TEST_URL),
            Self::Local => parse(LOCAL_URL),
            Self::Endpoint(url) => Ok(url.clone()),
        }
    }

    /// The hash of the network's first block, where it is known: a node of another chain is refused.
    pub fn genesis(&self) -> Option<BlockHash> {
        matches!(self, Self::Finney).then_some(FINNEY_GENESIS)
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        match text {
            "finney" => Ok(Self::Finney),
            "test" => Ok(Self::Test),
            "local" => Ok(Self::Local),
            _ => {
                let url = Url::parse(text)
                    .map_err(|_| BadNetwork::Unknown(text.chars().take(80).collect()))?;
                check_url(&url)?;
                Ok(Self::Endpoint(url))
            }
        }
    }
}

impl TryFrom<String> for Network {
    type Error = BadNetwork;

    fn try_from(text: String) -> Result<Self, BadNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        match network {
            Network::Endpoint(url) => url.into(),
            named => named.to_string(),
        }
    }
}

/// Shows an endpoint without what may be secret in it.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finney => f.write_str("finney"),
            Self::Test => f.write_str("test"),
            Self::Local => f.write_str("local"),
            Self::Endpoint(url) => f.write_str(&shown(url)),
        }
    }
}

impl ChainConfig {
    /// The network's public node, 15 s for each request, pauses of at most 15 s, a look every 15 s.
    pub fn new(network: Network) -> Self {
        let span = Duration::from_secs(15);
        Self {
            network,
            endpoint: None,
            fallbacks: Vec::new(),
            deadline: span,
            longest_pause: span,
            look_every: span,
        }
    }

    /// The nodes to connect to, the first one preferred, checked; none twice.
    pub fn urls(&self) -> Result<Vec<Url>, BadNetwork> {
        let first = self.endpoint.clone().map_or_else(|| self.network.url(), Ok)?;
        let mut urls = Vec::with_capacity(1 + self.fallbacks.len());
        for url in std::iter::once(first).chain(self.fallbacks.iter().cloned()) {
            check_url(&url)?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        Ok(urls)
    }
}

/// What is sent in the clear can be changed by anyone in between, axons and weights too.
fn check_url(url: &Url) -> Result<(), BadNetwork> {
    match url.scheme() {
        "wss" => Ok(()),
        "ws" if is_this_machine(url) => Ok(()),
        "ws" => Err(BadNetwork::Insecure(shown(url))),
        _ => Err(BadNetwork::Unknown(shown(url))),
    }
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Scheme, host and port: keys of paid endpoints stand in the path, the query or the user name.
pub(crate) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_read() {
        assert_eq!("finney".parse(), Ok(Network::Finney));
        assert_eq!("test".parse(), Ok(Network::Test));
        assert_eq!("local".parse(), Ok(Network::Local));
        for address in [
            "ws://127.0.0.1:9944",
            "ws://localhost:1",
            "ws://[::1]:9944",
            "wss://node.example:443/key",
        ] {
            assert!(matches!(address.parse(), Ok(Network::Endpoint(_))), "{address}");
        }
        for wrong in ["", "mainnet", "http://127.0.0.1:9944", "127.0.0.1:9944"] {
            assert!(matches!(wrong.parse::<Network>(), Err(BadNetwork::Unknown(_))), "{wrong}");
        }
    }

    #[test]
    fn an_unencrypted_connection_leaves_this_machine_under_no_name() {
        for address in [
            "ws://10.0.0.1:9944",
            "ws://node.example",
            "ws://localhost.example",
            "ws://0.0.0.0:9944",
        ] {
            assert!(
                matches!(address.parse::<Network>(), Err(BadNetwork::Insecure(_))),
                "{address}"
            );
            let config =
                ChainConfig { endpoint: address.parse().ok(), ..ChainConfig::new(Network::Finney) };
            assert!(matches!(config.urls(), Err(BadNetwork::Insecure(_))), "{address}");
            let config = ChainConfig {
                fallbacks: address.parse().into_iter().collect(),
                ..ChainConfig::new(Network::Finney)
            };
            assert!(matches!(config.urls(), Err(BadNetwork::Insecure(_))), "{address}");
        }
    }

    #[test]
    fn a_node_that_is_named_twice_is_one() {
        let fallbacks = ["wss://a.example", "wss://b.example", "wss://a.example"];
        let fallbacks = fallbacks.map(|url| url.parse().unwrap()).to_vec();
        let config = ChainConfig { fallbacks, ..ChainConfig::new(Network::Finney) };
        let urls: Vec<_> = config.urls().unwrap().iter().map(shown).collect();
        assert_eq!(urls[1..], ["wss://a.example", "wss://b.example"]);
    }

    #[test]
    fn keys_in_an_address_are_not_shown() {
        let network: Network =
            "wss://user:password@node.example:8443/v1/key?token=secret".parse().unwrap();
        assert_eq!(network.to_string(), "wss://node.example:8443");
    }
}
