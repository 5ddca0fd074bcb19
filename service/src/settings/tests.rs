use std::io::Write as _;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

const DEFAULTS: &str = r#"
[axon]
port = 8091
# Empty: none.
external_ip = ""
register = true

[access]
allow = []
min_stake = 1000.0
api_token = ""

[store]
url = "sqlite:data.db"

[[tasks]]
id = "chat-demo"
capacity = 1000.0
limits = { max_tokens = 256 }
"#;

#[derive(Debug, Deserialize)]
struct Everything {
    axon: Axon,
    access: Access,
    tasks: Vec<Task>,
}

#[derive(Debug, Deserialize)]
struct Axon {
    port: u16,
    external_ip: String,
    register: bool,
}

#[derive(Debug, Deserialize)]
struct Access {
    allow: Vec<common::Hotkey>,
    min_stake: f64,
}

#[derive(Debug, Deserialize)]
struct Task {
    id: common::TaskId,
    capacity: common::Volume,
    limits: Limits,
}

#[derive(Debug, Deserialize)]
struct Limits {
    max_tokens: u32,
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn load(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Loaded<Everything> {
    let mut at = tempfile::NamedTempFile::new().unwrap();
    at.write_all(file.as_bytes()).unwrap();
    Sources {
        defaults: DEFAULTS,
        file: Some(at.path()),
        prefix: "MINER",
        env: pairs(env),
        flags: pairs(flags),
        required: &["tasks.id"],
    }
    .load()
    .unwrap()
}

fn keys(loaded: &Loaded<Everything>) -> Vec<&str> {
    loaded.problems.iter().map(|problem| problem.key.as_str()).collect()
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let file = "[axon]\nport = 1\nexternal_ip = \"1.1.1.1\"\nregister = false";
    let env =
        [("MINER__AXON__PORT", "2"), ("MINER__AXON__EXTERNAL_IP", "2.2.2.2"), ("HOME", "/root")];
    let loaded = load(file, &env, &[("axon.port", "3")]);
    assert_eq!(loaded.problems, Problems::default());
    let Axon { port, external_ip, register } = loaded.file.axon;
    assert_eq!((port, external_ip.as_str(), register), (3, "2.2.2.2", false));
    assert_eq!(loaded.file.access.min_stake, 1000.0);
}

#[test]
fn every_problem_is_reported_at_once_with_its_full_key() {
    let file = r#"
        top = 1
        [axon]
        prot = 1
        port = 70000
        register = "perhaps"
        [access]
        min_stake = "many"
        allow = ["5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY", "5nobody"]
        [[tasks]]
        capacity = -1
        [[tasks]]
        id = "No Such"
        limits = { max_tokens = 1.5, more = 2 }
    "#;
    let loaded = load(file, &[("MINER__AXON__PORT__X", "1"), ("MINER__AXON__REGISTRE", "1")], &[]);
    let mut found = keys(&loaded);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "access.allow[1]",
            "access.min_stake",
            "axon.port",
            "axon.port.x",
            "axon.prot",
            "axon.register",
            "axon.registre",
            "tasks[0].capacity",
            "tasks[0].id",
            "tasks[1].id",
            "tasks[1].limits.max_tokens",
            "tasks[1].limits.more",
            "top",
        ]
    );
    let text = loaded.problems.to_string();
    assert!(text.contains("\n  axon.prot: unknown key, did you mean `port`?"), "{text}");
    assert!(
        text.contains("did you mean `register`? (in the variable MINER__AXON__REGISTRE)"),
        "{text}"
    );
    // Checks of the caller run on defaults in the place of what was wrong.
    assert_eq!(loaded.file.axon.port, 8091);
    assert_eq!(loaded.file.access.allow.len(), 1);
    assert_eq!(loaded.file.tasks[1].limits.max_tokens, 256);
}

#[test]
fn what_a_list_element_leaves_out_comes_from_the_first_default_element() {
    let loaded = load("[[tasks]]\nid = \"a\"\n[[tasks]]\nid = \"b\"\ncapacity = 7", &[], &[]);
    assert_eq!(loaded.problems, Problems::default());
    let [a, b] = &loaded.file.tasks[..] else { panic!("two tasks") };
    assert_eq!((a.id.as_str(), a.capacity.get(), a.limits.max_tokens), ("a", 1000.0, 256));
    assert_eq!((b.id.as_str(), b.capacity.get()), ("b", 7.0));
}

#[test]
fn variables_and_flags_are_read_as_the_kind_the_defaults_have() {
    let flags = [("axon.external_ip", "007"), ("access.allow", ""), ("access.min_stake", "5")];
    let loaded = load("", &[("MINER__AXON__REGISTER", "0")], &flags);
    assert_eq!(loaded.problems, Problems::default());
    assert_eq!(loaded.file.axon.external_ip, "007");
    assert_eq!(loaded.file.access.min_stake, 5.0);
    assert!(!loaded.file.axon.register);
    assert_eq!(
        keys(&load("", &[("MINER__TASKS", "x"), ("MINER__AXON", "1")], &[])),
        ["axon", "tasks"]
    );
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let load = |file: &Path| {
        let sources = Sources { defaults: DEFAULTS, file: Some(file), ..Sources::default() };
        sources.load::<Everything>().unwrap_err().to_string()
    };
    assert!(load(Path::new("/no/such/miner.toml")).contains("/no/such/miner.toml"));
    let mut at = tempfile::NamedTempFile::new().unwrap();
    at.write_all(b"[axon\nport = 1").unwrap();
    assert!(load(at.path()).contains("is not valid TOML"));
}

#[test]
fn secrets_are_hidden_and_limits_are_not() {
    let loaded = load(
        "[access]\napi_token = \"s3cret\"\n[store]\nurl = \"postgres://me:s3cret@host/db\"",
        &[],
        &[],
    );
    let text = effective(&loaded.table);
    assert!(!text.contains("s3cret"), "{text}");
    assert!(text.contains("api_token = \"(hidden)\""), "{text}");
    assert!(text.contains("max_tokens = 256"), "{text}");
}

proptest! {
    #[test]
    fn no_file_makes_the_loader_fail_without_a_reason(key in "[a-z]{1,8}", number: i64, text in "[ -~]{0,10}") {
        let quoted = Value::String(text).to_string();
        for value in [number.to_string(), quoted, "{}".to_owned(), "[[1], {}]".to_owned(), "nan".to_owned()] {
            for place in ["", "[axon]\n", "[access]\n", "[[tasks]]\n"] {
                for name in [key.as_str(), "port", "allow", "capacity", "limits", "id", "tasks", "min_stake"] {
                    let _ = load(&format!("{place}{name} = {value}"), &[], &[]);
                }
            }
        }
    }
}

#[test]
fn keys_of_providers_in_addresses_are_hidden() {
    let table: Table = r#"
        node = "wss://user:pass@node.example/v1/KEY?key=KEY"
        plain = "ws://127.0.0.1:9944"
        page = "http://127.0.0.1:8092/v1"
    "#
    .parse()
    .unwrap();
    let text = effective(&table);
    for secret in ["KEY", "pass@", "user"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(
        text.contains("ws://127.0.0.1:9944") && text.contains("http://127.0.0.1:8092/v1"),
        "{text}"
    );
}
