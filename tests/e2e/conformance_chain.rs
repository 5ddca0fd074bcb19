//! `chain` against what the official Python SDK did: weights and wallet files.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use chain::wallet::{WalletPaths, load_hotkey};
use chain::weights::{clip_to_max_weight, encode, encode_within};
use common::{Hotkey, Keypair, Uid};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Vectors {
    weights: Vec<WeightCase>,
    hotkeys: Vec<HotkeyCase>,
}

/// Scores and the weights that the SDK made of them; with a limit, also what it made of the clipped scores.
#[derive(Deserialize)]
struct WeightCase {
    uids: Vec<u16>,
    weights: Vec<f64>,
    expected_uids: Vec<u16>,
    expected_values: Vec<u16>,
    #[serde(flatten)]
    clipped: Option<ClippedCase>,
}

#[derive(Deserialize)]
struct ClippedCase {
    max_weight_limit: u16,
    expected_clipped: Vec<f64>,
    expected_clipped_uids: Vec<u16>,
    expected_clipped_values: Vec<u16>,
}

#[derive(Deserialize)]
struct HotkeyCase {
    mnemonic: String,
    ss58: Hotkey,
    public_key_hex: String,
    keyfile: Map<String, Value>,
}

/// The golden vectors: other vectors of the same shape can be run instead of the repository's own.
fn vectors() -> Vectors {
    let folder = std::env::var_os("TOUCHSTONE_VECTORS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors"), PathBuf::from);
    let path = folder.join("bittensor_sdk.json");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn paired(uids: &[u16], values: &[u16]) -> Vec<(Uid, u16)> {
    uids.iter().copied().map(Uid).zip(values.iter().copied()).collect()
}

#[test]
fn conformance_weights() {
    let cases = vectors().weights;
    assert!(!cases.is_empty());
    for (number, case) in cases.into_iter().enumerate() {
        let scores: Vec<_> = case.uids.iter().copied().zip(case.weights.iter().copied()).collect();
        let expected = paired(&case.expected_uids, &case.expected_values);
        assert_eq!(encode(&scores), Ok(expected), "case {number}");

        let Some(clipped) = case.clipped else { continue };
        let limit = f64::from(clipped.max_weight_limit) / f64::from(u16::MAX);
        let shares = clip_to_max_weight(&case.weights, limit).unwrap();
        assert_eq!(shares.len(), clipped.expected_clipped.len(), "case {number}");
        for (share, expected) in shares.iter().zip(&clipped.expected_clipped) {
            assert!((share - expected).abs() <= 1e-12, "case {number}: {share} is not {expected}");
        }
        let expected = paired(&clipped.expected_clipped_uids, &clipped.expected_clipped_values);
        assert_eq!(
            encode_within(&scores, clipped.max_weight_limit),
            Ok(expected),
            "case {number}, clipped"
        );
    }
}

/// The key pair that is read from a wallet whose hotkey file has this text.
fn read_from_wallet(text: &str) -> Keypair {
    let wallets = tempfile::tempdir().unwrap();
    let folder = wallets.path().join("cold/hotkeys");
    fs::create_dir_all(&folder).unwrap();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join("hot"))
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let paths = WalletPaths { path: wallets.path().to_owned(), ..WalletPaths::new("cold", "hot") };
    load_hotkey(&paths).unwrap()
}

#[test]
fn conformance_hotkeys() {
    let cases = vectors().hotkeys;
    assert!(!cases.is_empty());
    for case in cases {
        let keyfile = Value::Object(case.keyfile.clone());
        let whole = read_from_wallet(&keyfile.to_string());
        assert_eq!(whole.hotkey(), case.ss58);
        let public: String =
            whole.hotkey().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(public, case.public_key_hex);
        assert!(case.ss58.verifies(b"message", &whole.sign(b"message")));

        assert_eq!(read_from_wallet(&case.mnemonic).hotkey(), case.ss58, "a bare mnemonic");
        for secret in ["secretPhrase", "secretSeed", "privateKey"] {
            // Some tools leave fields out, so each secret has to do by itself.
            let Some(value) = case.keyfile.get(secret).filter(|value| !value.is_null()) else {
                continue;
            };
            let alone = json!({ secret: value, "ss58Address": case.ss58 }).to_string();
            let keypair = read_from_wallet(&alone);
            assert_eq!(keypair.hotkey(), case.ss58, "{secret} alone");
            assert!(case.ss58.verifies(b"message", &keypair.sign(b"message")), "{secret} alone");
        }
    }
}
