//! How a person registers a hotkey: as the lines to type, because it takes a coldkey, which no service ever reads.

use std::fmt::Write as _;
use std::path::Path;

use common::{Hotkey, Netuid};
use url::{Host, Url};

use crate::network::{BadNetwork, ChainConfig, Network};
use crate::wallet::{DEFAULT_PATH, WalletError, WalletPaths, load_hotkey};

/// What a hotkey is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Miner,
    /// Needs stake too.
    Validator,
}

/// Why the lines cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error(transparent)]
    Wallet(#[from] WalletError),
    #[error(transparent)]
    Network(#[from] BadNetwork),
}

/// The lines that make the wallet's hotkey, if there is none yet, and register it, for btcli 11.3. For a node on this machine
/// those of `devnet` stand beside them, which play with money of no worth.
///
/// # Errors
/// If the names of the wallet or the addresses of the chain cannot be used, or the hotkey's file is there but cannot be read.
pub fn how_to_register(
    chain: &ChainConfig,
    netuid: Netuid,
    wallet: &WalletPaths,
    role: Role,
) -> Result<String, RegistrationError> {
    let hotkey = match load_hotkey(wallet) {
        Ok(keypair) => Some(keypair.hotkey()),
        Err(WalletError::Missing(_)) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(lines(chain, netuid, wallet, role, hotkey)?)
}

/// Pure but for the addresses, which are checked.
fn lines(
    chain: &ChainConfig,
    netuid: Netuid,
    wallet: &WalletPaths,
    role: Role,
    hotkey: Option<Hotkey>,
) -> Result<String, BadNetwork> {
    let urls = chain.urls()?;
    let network = network(chain, &urls);
    let keys = keys(wallet);
    let program = match role {
        Role::Miner => "miner",
        Role::Validator => "validator",
    };
    let mut text = String::new();
    let mut step = |comment: &str, line: &str| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "# {comment}\n{line}\n");
    };
    match hotkey {
        Some(hotkey) => step(
            "The hotkey is there already. If the wallet is on another machine, bring its public address there:",
            &format!("#   {hotkey}"),
        ),
        None => step(
            &format!(
                "Make the hotkey on the machine that has the wallet, then copy its file (never the coldkey) to this machine; \
                 or\n# make it here with `{program} new-hotkey`, and register it by its address with `--hotkey ADDRESS`."
            ),
            &format!("btcli wallet new-hotkey {keys}"),
        ),
    }
    // By its address: the file may be on this machine only.
    let by_address = hotkey.map(|hotkey| format!(" --hotkey {hotkey}")).unwrap_or_default();
    step(
        "Register it, with the wallet's coldkey. It costs what this shows first:",
        &format!(
            "btcli subnets burn-cost {netuid} {network}\n\
             btcli subnets register --netuid {netuid}{by_address} {network} {keys}"
        ),
    );
    if role == Role::Validator {
        step(
            "Add stake: weights are taken from those with enough of it, and permits go to those with most. AMOUNT is in TAO.",
            &format!(
                "btcli stake add --netuid {netuid} --amount-tao AMOUNT{by_address} {network} {keys}"
            ),
        );
    }
    if let Some(local) = urls.first().filter(|url| is_this_machine(url)) {
        let hotkey =
            hotkey.map_or_else(|| "HOTKEY_ADDRESS".to_owned(), |hotkey| hotkey.to_string());
        let local = shown(local);
        let mut devnet = format!(
            "devnet register --endpoint {local} --netuid {netuid} --hotkey {hotkey} --coldkey //Alice"
        );
        if role == Role::Validator {
            let _ = write!(
                devnet,
                "\ndevnet stake --endpoint {local} --netuid {netuid} --hotkey {hotkey} --coldkey //Alice --amount 1000"
            );
        }
        step("Or, if the node on this machine is a `devnet`:", &devnet);
    }
    Ok(text)
}

/// As btcli takes it: a name, or a node's address, and which others it may ask.
fn network(chain: &ChainConfig, urls: &[Url]) -> String {
    let first = match (&chain.endpoint, &chain.network) {
        (None, named @ (Network::Finney | Network::Test | Network::Local)) => named.to_string(),
        _ => urls.first().map(|url| word(&shown(url))).unwrap_or_default(),
    };
    let others: Vec<_> = urls.iter().skip(1).map(shown).collect();
    match others.as_slice() {
        [] => format!("--network {first}"),
        others => format!("--network {first} --fallback-endpoints {}", word(&others.join(","))),
    }
}

/// A node's address without the slash that a parsed one has at its end.
fn shown(url: &Url) -> String {
    let text = url.as_str();
    let bare = url.path() == "/" && url.query().is_none();
    if bare { text.trim_end_matches('/').to_owned() } else { text.to_owned() }
}

fn keys(wallet: &WalletPaths) -> String {
    let mut keys =
        format!("--wallet {} --wallet-hotkey {}", word(&wallet.name), word(&wallet.hotkey));
    if wallet.path != Path::new(DEFAULT_PATH) {
        let path = wallet.path.display().to_string();
        // The shell takes a `~` for the home folder where it stands bare.
        let path = match path.strip_prefix("~/") {
            Some(rest) => format!("~/{}", word(rest)),
            None => word(&path),
        };
        let _ = write!(keys, " --wallet-path {path}");
    }
    keys
}

/// One word for a shell, whatever is in it.
fn word(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@,+".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    }

    #[test]
    fn a_validator_without_a_hotkey_makes_it_registers_it_and_adds_stake() {
        let wallet = WalletPaths::new("owner", "validator");
        let chain = ChainConfig::new(Network::Finney);
        let text = lines(&chain, Netuid(19), &wallet, Role::Validator, None).unwrap();
        assert_eq!(
            commands(&text),
            [
                "btcli wallet new-hotkey --wallet owner --wallet-hotkey validator",
                "btcli subnets burn-cost 19 --network finney",
                "btcli subnets register --netuid 19 --network finney --wallet owner --wallet-hotkey validator",
                "btcli stake add --netuid 19 --amount-tao AMOUNT --network finney --wallet owner --wallet-hotkey validator",
            ]
        );
    }

    #[test]
    fn a_miner_with_a_hotkey_registers_its_address_and_adds_no_stake() {
        let wallet =
            WalletPaths { path: "~/my wallets".into(), ..WalletPaths::new("it's mine", "hot") };
        let chain = ChainConfig {
            endpoint: "wss://node.example:443/key".parse().ok(),
            fallbacks: ["wss://a.example", "wss://b.example"]
                .map(|url| url.parse().unwrap())
                .to_vec(),
            ..ChainConfig::new(Network::Test)
        };
        let hotkey = Hotkey::from_bytes([7; 32]);
        let text = lines(&chain, Netuid(3), &wallet, Role::Miner, Some(hotkey)).unwrap();
        let network =
            "--network wss://node.example/key --fallback-endpoints wss://a.example,wss://b.example";
        let keys = r"--wallet 'it'\''s mine' --wallet-hotkey hot --wallet-path ~/'my wallets'";
        assert_eq!(
            commands(&text),
            [
                format!("btcli subnets burn-cost 3 {network}"),
                format!("btcli subnets register --netuid 3 --hotkey {hotkey} {network} {keys}"),
            ]
        );
        assert!(text.contains("The hotkey is there already"), "{text}");
    }

    #[test]
    fn beside_a_local_node_stand_the_lines_for_a_devnet() {
        let wallet = WalletPaths::new("default", "default");
        let hotkey = Hotkey::from_bytes([7; 32]);
        for network in [Network::Local, "ws://127.0.0.1:9944".parse().unwrap()] {
            let chain = ChainConfig::new(network);
            let text = lines(&chain, Netuid(1), &wallet, Role::Validator, Some(hotkey)).unwrap();
            let at = "--endpoint ws://127.0.0.1:9944 --netuid 1";
            for part in [
                format!("devnet register {at} --hotkey {hotkey} --coldkey //Alice\n"),
                format!("devnet stake {at} --hotkey {hotkey} --coldkey //Alice --amount 1000\n"),
            ] {
                assert!(text.contains(&part), "{part} is missing in\n{text}");
            }
        }
        let chain = ChainConfig::new(Network::Finney);
        let text = lines(&chain, Netuid(1), &wallet, Role::Validator, Some(hotkey)).unwrap();
        assert!(!text.contains("devnet"), "{text}");
    }

    #[test]
    fn a_hotkey_that_is_not_there_is_no_error_but_a_broken_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let wallet = WalletPaths { path: folder.path().into(), ..WalletPaths::new("a", "b") };
        let chain = ChainConfig::new(Network::Finney);
        let text = how_to_register(&chain, Netuid(1), &wallet, Role::Miner).unwrap();
        assert!(text.contains("btcli wallet new-hotkey"), "{text}");
        let bad = WalletPaths { hotkey: "../b".to_owned(), ..wallet };
        assert!(how_to_register(&chain, Netuid(1), &bad, Role::Miner).is_err());
    }
}
