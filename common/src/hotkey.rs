//! Account ids and their ss58 text.

use std::fmt;
use std::str::FromStr;

use blake2::{Blake2b512, Digest};
use serde::{Deserialize, Serialize};

/// The address type of every Substrate chain without a registered one, Bittensor among them.
const PREFIX: u8 = 42;
const CHECKSUM_LEN: usize = 2;

/// The public key of a neuron (or of any account), shown as ss58 with prefix 42.
///
/// Any 32 bytes are accepted: whether a key is on its curve is found out when it verifies a signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hotkey([u8; 32]);

/// Why a text is no ss58 address of this network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHotkey {
    #[error("`{0}` is not an ss58 address: it is not base58")]
    NotBase58(String),
    #[error("`{0}` is not an ss58 address of an account: its length is wrong")]
    WrongLength(String),
    #[error("`{0}` is an address of another network: its type is {1}, expected 42")]
    OtherNetwork(String, u8),
    #[error("`{0}` has a typing mistake: its checksum does not match")]
    WrongChecksum(String),
}

impl Hotkey {
    /// The key of these public bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The public bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = Blake2b512::new().chain_update(b"SS58PRE").chain_update(payload).finalize();
    [hash[0], hash[1]]
}

impl FromStr for Hotkey {
    type Err = BadHotkey;

    fn from_str(text: &str) -> Result<Self, BadHotkey> {
        // It may come from a stranger and end up in a log.
        let shown = || text.chars().take(64).flat_map(char::escape_debug).collect::<String>();
        // Bounded before it is decoded: base58 costs the square of the length.
        if text.len() > 64 {
            return Err(BadHotkey::WrongLength(shown()));
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| BadHotkey::NotBase58(shown()))?;
        let bytes: [u8; 35] = bytes.try_into().map_err(|_| BadHotkey::WrongLength(shown()))?;
        let (payload, sum) = bytes.split_at(33);
        if payload[0] != PREFIX {
            return Err(BadHotkey::OtherNetwork(shown(), payload[0]));
        }
        if checksum(payload) != sum {
            return Err(BadHotkey::WrongChecksum(shown()));
        }
        let mut key = [0; 32];
        key.copy_from_slice(&payload[1..]);
        Ok(Self(key))
    }
}

impl fmt::Display for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut payload = Vec::with_capacity(35);
        payload.push(PREFIX);
        payload.extend_from_slice(&self.0);
        let sum = checksum(&payload);
        payload.extend_from_slice(&sum);
        f.pad(&bs58::encode(payload).into_string())
    }
}

impl fmt::Debug for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hotkey({self})")
    }
}

impl TryFrom<String> for Hotkey {
    type Error = BadHotkey;

    fn try_from(text: String) -> Result<Self, BadHotkey> {
        text.parse()
    }
}

impl From<Hotkey> for String {
    fn from(hotkey: Hotkey) -> Self {
        hotkey.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[test]
    fn alice_reads_and_shows_as_everyone_knows_her() {
        let alice: Hotkey = ALICE.parse().unwrap();
        assert_eq!(alice.as_bytes()[..4], [0xd4, 0x35, 0x93, 0xc7]);
        assert_eq!(alice.to_string(), ALICE);
    }

    #[test]
    fn what_is_shown_of_a_bad_address_holds_no_control_characters() {
        let error = "5Grw\n\u{1b}[31m".parse::<Hotkey>().unwrap_err().to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
    }

    #[test]
    fn a_typing_mistake_is_told_apart_from_another_network() {
        let mistyped = ALICE.replace("5Grw", "5Grx");
        assert!(matches!(mistyped.parse::<Hotkey>(), Err(BadHotkey::WrongChecksum(_))));
        let polkadot = "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5";
        assert!(matches!(polkadot.parse::<Hotkey>(), Err(BadHotkey::OtherNetwork(_, 0))));
        assert!(matches!("0OIl".parse::<Hotkey>(), Err(BadHotkey::NotBase58(_))));
        assert!(matches!("".parse::<Hotkey>(), Err(BadHotkey::WrongLength(_))));
    }

    proptest! {
        #[test]
        fn every_key_survives_its_text(bytes: [u8; 32]) {
            let key = Hotkey::from_bytes(bytes);
            prop_assert_eq!(key.to_string().parse::<Hotkey>(), Ok(key));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,80}") {
            let _ = text.parse::<Hotkey>();
        }
    }
}
