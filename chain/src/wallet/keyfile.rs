//! What stands in a hotkey file, and the key pair in it.

use std::path::Path;

use bip39::{Language, Mnemonic};
use common::{Hotkey, Keypair};
use hmac::Hmac;
use serde::Deserialize;
use sha2::Sha512;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::WalletError;

/// The JSON of a key file. Several tools write it, each with its own optional fields.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase")]
struct KeyFile {
    account_id: Option<String>,
    public_key: Option<String>,
    private_key: Option<String>,
    secret_phrase: Option<String>,
    secret_seed: Option<String>,
    ss58_address: Option<String>,
    /// Old tools wrote the field's name with a leading space.
    #[serde(rename = " ss58Address")]
    old_ss58_address: Option<String>,
    crypto_type: Option<CryptoType>,
    /// Only in exports of polkadot.js.
    encoded: Option<String>,
    #[zeroize(skip)]
    encoding: Option<serde::de::IgnoredAny>,
}

/// 0 is ed25519, 1 is sr25519; some tools write the number as text.
#[derive(Deserialize, Zeroize)]
#[serde(untagged)]
enum CryptoType {
    Number(u64),
    Text(String),
}

impl CryptoType {
    fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
        }
    }
}

/// The key pair in the text of a key file: its JSON, a bare seed in hex, or a bare mnemonic.
pub(super) fn parse(path: &Path, text: &str) -> Result<Keypair, WalletError> {
    let text = text.trim();
    if let Some(how) = encryption(text) {
        return Err(WalletError::Encrypted { path: path.to_owned(), how });
    }
    if text.starts_with('{') {
        return parse_json(path, text);
    }
    let hex = text.strip_prefix("0x").unwrap_or(text);
    if !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return match hex.len() {
            64 => from_seed(path, "its seed", text),
            128 => from_private_key(path, text, None),
            _ => Err(malformed(path, "its seed must have 64 hexadecimal digits")),
        };
    }
    from_mnemonic(path, text)
}

fn encryption(text: &str) -> Option<&'static str> {
    [("$NACL", "NaCl"), ("$ANSIBLE_VAULT", "Ansible vault"), ("gAAAAA", "Fernet")]
        .into_iter()
        .find_map(|(prefix, how)| text.starts_with(prefix).then_some(how))
}

fn parse_json(path: &Path, text: &str) -> Result<Keypair, WalletError> {
    // The parser's message may quote what it read, so only the place is passed on.
    let file: KeyFile = serde_json::from_str(text).map_err(|error| {
        malformed(
            path,
            &format!("its JSON is wrong at line {} column {}", error.line(), error.column()),
        )
    })?;
    if file.encoded.is_some() || file.encoding.is_some() {
        return Err(WalletError::PolkadotJs(path.to_owned()));
    }
    match file.crypto_type.as_ref().map(CryptoType::number) {
        None | Some(Some(1)) => {}
        Some(Some(0)) => return Err(WalletError::Ed25519(path.to_owned())),
        Some(_) => return Err(malformed(path, "its cryptoType is neither 0 nor 1")),
    }
    let stored = file.ss58_address.as_deref().or(file.old_ss58_address.as_deref());
    let keypair = if let Some(phrase) = filled(&file.secret_phrase) {
        from_mnemonic(path, phrase)?
    } else if let Some(seed) = filled(&file.secret_seed) {
        from_seed(path, "its secretSeed", seed)?
    } else if let Some(key) = filled(&file.private_key) {
        from_private_key(path, key, stored)?
    } else if stored.is_some() || file.public_key.is_some() || file.account_id.is_some() {
        return Err(WalletError::PublicOnly(path.to_owned()));
    } else {
        return Err(malformed(path, "it has none of secretPhrase, secretSeed and privateKey"));
    };
    let derived = keypair.hotkey();
    if let Some(stored) = stored
        && stored.parse::<Hotkey>() != Ok(derived)
    {
        return Err(wrong_address(path, stored, derived));
    }
    for public in [&file.public_key, &file.account_id].into_iter().flatten() {
        if *bytes::<32>(path, "its public key", public)? != *derived.as_bytes() {
            return Err(wrong_address(path, public, derived));
        }
    }
    Ok(keypair)
}

fn filled(field: &Option<String>) -> Option<&str> {
    field.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

fn from_mnemonic(path: &Path, phrase: &str) -> Result<Keypair, WalletError> {
    let seed = seed_of(phrase).ok_or_else(|| {
        malformed(path, "its mnemonic has a wrong word, a wrong count of words or a typing mistake")
    })?;
    Keypair::from_seed(&seed).ok_or_else(|| malformed(path, "its mnemonic gives no key"))
}

/// The seed of a mnemonic as Substrate makes it: from the entropy, not from the words as BIP 39 itself would.
pub(super) fn seed_of(phrase: &str) -> Option<Zeroizing<[u8; 32]>> {
    let words = Zeroizing::new(phrase.split_whitespace().collect::<Vec<_>>().join(" "));
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words).ok()?;
    let entropy = Zeroizing::new(mnemonic.to_entropy());
    let mut long_seed = Zeroizing::new([0; 64]);
    pbkdf2::pbkdf2::<Hmac<Sha512>>(&entropy, b"mnemonic", 2048, long_seed.as_mut()).ok()?;
    let mut seed = Zeroizing::new([0; 32]);
    seed.copy_from_slice(&long_seed[..32]);
    Some(seed)
}

fn from_seed(path: &Path, field: &str, hex: &str) -> Result<Keypair, WalletError> {
    let seed = bytes::<32>(path, field, hex)?;
    Keypair::from_seed(&seed).ok_or_else(|| malformed(path, &format!("{field} gives no key")))
}

/// A 64-byte private key. Wallet files hold schnorrkel's own layout; files of other origin hold that of ed25519. The
/// stored address tells which.
fn from_private_key(path: &Path, hex: &str, stored: Option<&str>) -> Result<Keypair, WalletError> {
    let key = bytes::<64>(path, "its privateKey", hex)?;
    let own_layout = schnorrkel::SecretKey::from_bytes(key.as_ref())
        .ok()
        .and_then(|secret| Keypair::from_expanded(&Zeroizing::new(secret.to_ed25519_bytes())));
    let candidates = [own_layout, Keypair::from_expanded(&key)];
    let mut candidates = candidates.into_iter().flatten().peekable();
    let first = candidates.peek().cloned();
    let fitting = stored
        .and_then(|stored| stored.parse::<Hotkey>().ok())
        .and_then(|stored| candidates.find(|keypair| keypair.hotkey() == stored));
    fitting.or(first).ok_or_else(|| malformed(path, "its privateKey is no sr25519 key"))
}

fn bytes<const N: usize>(
    path: &Path,
    field: &str,
    text: &str,
) -> Result<Zeroizing<[u8; N]>, WalletError> {
    let text = text.trim();
    let mut bytes = Zeroizing::new([0; N]);
    hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), bytes.as_mut())
        .map_err(|_| malformed(path, &format!("{field} must have {} hexadecimal digits", 2 * N)))?;
    Ok(bytes)
}

fn malformed(path: &Path, why: &str) -> WalletError {
    WalletError::Malformed { path: path.to_owned(), why: why.to_owned() }
}

fn wrong_address(path: &Path, stored: &str, derived: Hotkey) -> WalletError {
    WalletError::WrongAddress {
        path: path.to_owned(),
        stored: stored.chars().take(80).collect(),
        derived,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ABANDON: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
    const ABANDON_ADDRESS: &str = "5EPCUjPxiHAcNooYipQFWr9NmmXJKpNG5RhcntXwbtUySrgH";
    const ALICE_SEED: &str = "e5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a";
    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    fn read(text: &str) -> Result<Keypair, WalletError> {
        parse(Path::new("hot"), text)
    }

    #[test]
    fn bare_mnemonics_and_seeds_are_read() {
        assert_eq!(read(&format!("  {ABANDON}\n")).unwrap().hotkey().to_string(), ABANDON_ADDRESS);
        assert_eq!(read(ALICE_SEED).unwrap().hotkey().to_string(), ALICE);
        assert_eq!(read(&format!("0x{ALICE_SEED}\n")).unwrap().hotkey().to_string(), ALICE);
    }

    #[test]
    fn the_mnemonic_goes_before_the_seed_and_the_seed_before_the_key() {
        let both = format!(r#"{{"secretSeed": "0x{ALICE_SEED}", "secretPhrase": "{ABANDON}"}}"#);
        assert_eq!(read(&both).unwrap().hotkey().to_string(), ABANDON_ADDRESS);
        let seed = format!(
            r#"{{"secretSeed": "0x{ALICE_SEED}", "secretPhrase": null, "privateKey": "0x00"}}"#
        );
        assert_eq!(read(&seed).unwrap().hotkey().to_string(), ALICE);
    }

    #[test]
    fn the_stored_address_must_be_that_of_the_key() {
        for field in ["ss58Address", " ss58Address"] {
            let right = format!(r#"{{"secretSeed": "0x{ALICE_SEED}", "{field}": "{ALICE}"}}"#);
            assert_eq!(read(&right).unwrap().hotkey().to_string(), ALICE);
            let wrong = right.replace(ALICE, ABANDON_ADDRESS);
            assert!(matches!(read(&wrong), Err(WalletError::WrongAddress { .. })));
        }
        let wrong = format!(r#"{{"secretSeed": "0x{ALICE_SEED}", "publicKey": "0x{ALICE_SEED}"}}"#);
        assert!(matches!(read(&wrong), Err(WalletError::WrongAddress { .. })));
    }

    #[test]
    fn a_private_key_is_read_in_either_layout() {
        let mini =
            schnorrkel::MiniSecretKey::from_bytes(&hex::decode(ALICE_SEED).unwrap()).unwrap();
        let secret = mini.expand(schnorrkel::ExpansionMode::Ed25519);
        for key in [secret.to_bytes(), secret.to_ed25519_bytes()] {
            let text =
                format!(r#"{{"privateKey": "0x{}", "ss58Address": "{ALICE}"}}"#, hex::encode(key));
            assert_eq!(read(&text).unwrap().hotkey().to_string(), ALICE);
        }
        assert_eq!(read(&hex::encode(secret.to_bytes())).unwrap().hotkey().to_string(), ALICE);
    }

    #[test]
    fn key_types_are_told_apart() {
        for sr25519 in ["1", "\"1\"", "null"] {
            let text = format!(r#"{{"secretSeed": "0x{ALICE_SEED}", "cryptoType": {sr25519}}}"#);
            assert!(read(&text).is_ok(), "{sr25519}");
        }
        for ed25519 in ["0", "\"0\""] {
            let text = format!(r#"{{"secretSeed": "0x{ALICE_SEED}", "cryptoType": {ed25519}}}"#);
            assert!(matches!(read(&text), Err(WalletError::Ed25519(_))), "{ed25519}");
        }
    }

    #[test]
    fn files_without_a_usable_secret_say_why() {
        let public = format!(r#"{{"ss58Address": "{ALICE}"}}"#);
        assert!(matches!(read(&public), Err(WalletError::PublicOnly(_))));
        for text in ["$NACL\u{1}\u{2}", "$ANSIBLE_VAULT;1.1;AES256", "gAAAAABkx"] {
            assert!(matches!(read(text), Err(WalletError::Encrypted { .. })), "{text}");
        }
        let polkadot_js =
            r#"{"encoded": "MFMC", "encoding": {"type": ["scrypt"]}, "address": "5G"}"#;
        assert!(matches!(read(polkadot_js), Err(WalletError::PolkadotJs(_))));
        for text in
            ["{}", "{\"secretSeed\": \"0x12\"}", "", "0x1234", "abandon abandon", "{\"a\": "]
        {
            assert!(matches!(read(text), Err(WalletError::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn errors_do_not_quote_the_secret() {
        let text = format!(r#"{{"secretSeed": "0x{ALICE_SEED}" "oops"}}"#);
        let error = format!("{0} {0:?}", read(&text).unwrap_err());
        assert!(!error.contains(&ALICE_SEED[..8]), "{error}");
        let error = format!("{0} {0:?}", read(&ABANDON.replace("about", "zebra")).unwrap_err());
        assert!(!error.contains("abandon"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in r#"(\{"(secretSeed|privateKey|cryptoType)": ?)?.{0,200}"#) {
            let _ = read(&text);
        }
    }
}
