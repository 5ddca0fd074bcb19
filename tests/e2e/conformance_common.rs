//! `common` against what the official Python SDK did.

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::Hotkey;
use common::btauth::{Request, Verifier, Windows};
use serde::Deserialize;

/// One signed request and what the SDK's verifier said to it.
#[derive(Deserialize)]
struct SignedRequest {
    mutation: String,
    headers: BTreeMap<String, String>,
    method: String,
    path: String,
    body_hex: String,
    self_hotkey: Hotkey,
    now_ns: u64,
    expected: String,
}

/// Where the golden vectors are: other vectors of the same shape can be run instead of the repository's own.
fn vectors() -> PathBuf {
    std::env::var_os("TOUCHSTONE_VECTORS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors"), PathBuf::from)
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn conformance_btauth() {
    #[derive(Deserialize)]
    struct File {
        btauth: Vec<SignedRequest>,
    }
    let path = vectors().join("bittensor_sdk.json");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let File { btauth } = serde_json::from_str(&text).unwrap();
    assert!(!btauth.is_empty(), "no cases in {}", path.display());

    for (number, case) in btauth.iter().enumerate() {
        let headers: BTreeMap<_, _> = case
            .headers
            .iter()
            .map(|(name, value)| (name.to_lowercase(), value.as_str()))
            .collect();
        let header = |name: &str| headers.get(name).copied();
        let body = bytes(&case.body_hex);
        let request = Request { method: &case.method, target: &case.path, body: &body };
        let verifier = Verifier::new(case.self_hotkey, Windows::default());

        let verdict =
            || verifier.verify(&request, header, case.now_ns).map_or_else(|no| no.name(), |_| "ok");
        assert_eq!(verdict(), case.expected, "case {number}, mutation {}", case.mutation);
        if case.expected == "ok" {
            assert_eq!(verdict(), "ReplayedRequest", "case {number}, sent again");
        }
    }
}
