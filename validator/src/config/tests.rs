//! What is checked, and that every problem is named.

use super::*;

fn load(flags: &[(&str, &str)]) -> anyhow::Result<(Config, String)> {
    load_with(None, flags)
}

fn load_with(file: Option<&Path>, flags: &[(&str, &str)]) -> anyhow::Result<(Config, String)> {
    let catalogue = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/tasks.toml");
    let mut all = vec![("tasks.catalogue".to_owned(), catalogue.to_owned())];
    all.extend(flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Config::load(file, Vec::new(), all)
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let (config, _) = load(&[]).unwrap();
    assert_eq!(config.rules, Rules::default());
    assert_eq!(config.probing, Probing::default());
    assert_eq!(config.period, Duration::from_secs(1800));
}

#[test]
fn the_other_preset_is_chosen_by_name_with_its_own_constants() {
    let flags = [("scoring.preset", "subnet19"), ("scoring.subnet19.speed_bonus", "0.1")];
    let Rules::Subnet19(parameters) = load(&flags).unwrap().0.rules else {
        panic!("another preset")
    };
    let defaults = subnet19::Parameters::default();
    assert_eq!(parameters, subnet19::Parameters { speed_bonus: 0.1, ..defaults });
    let error = load(&[("scoring.preset", "ours")]).unwrap_err().to_string();
    assert!(error.contains("scoring.preset: there is no preset `ours`"), "{error}");
}

#[test]
fn every_problem_is_named_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[probing]\nshares = [0.5, 2]\n[chain]\nnet_uid = 3\n").unwrap();
    let flags = [
        ("scoring.period_s", "0"),
        ("scoring.subnet19.period_decay", "7"),
        ("api.listen", "here"),
        ("checking.url", "ftp://x"),
        ("weightings.quorum", "1.5"),
        ("chain.network", "http://x"),
        ("weights.commit_reveal", "sealed"),
        ("tasks.catalogue", "/no/such/file.toml"),
    ];
    let error = load_with(Some(file.path()), &flags).unwrap_err().to_string();
    for key in [
        "chain.net_uid",
        "scoring.period_s",
        "scoring.subnet19.period_decay",
        "api.listen",
        "checking.url",
        "probing.shares",
        "probing.likelihoods",
        "chain.network",
        "tasks.catalogue",
        "weightings.quorum",
        "weights.commit_reveal",
    ] {
        assert!(error.contains(&format!("\n  {key}: ")), "{key} is missing in {error}");
    }
}

#[test]
fn every_wrong_address_of_a_node_is_named() {
    let nodes = "wss://a.example,finney,ws://far.example,ws://127.0.0.1:9945,nonsense";
    let error = load(&[("chain.fallback_endpoints", nodes)]).unwrap_err().to_string();
    for (index, said) in [(1, "name of a network"), (2, "not encrypted"), (4, "no network")] {
        let line = format!("chain.fallback_endpoints[{index}]: ");
        let line = error.lines().find(|found| found.contains(&line)).unwrap_or_default();
        assert!(line.contains(said), "{said}: {error}");
    }
    assert_eq!(error.matches("chain.fallback_endpoints[").count(), 3, "{error}");
    let nodes = "wss://a.example/,ws://127.0.0.1:9945/";
    let (config, _) = load(&[("chain.fallback_endpoints", nodes)]).unwrap();
    let found: Vec<_> = config.chain.fallbacks.iter().map(Url::as_str).collect();
    assert_eq!(found.join(","), nodes);
    assert_eq!(config.weights.commit_reveal, CommitReveal::Auto);
}

#[test]
fn a_process_that_serves_the_api_alone_has_a_journal_of_its_own() {
    let of = |flags: &[(&str, &str)]| load(flags).unwrap().0;
    let whole = of(&[("store.at", "x/y.sqlite")]);
    assert_eq!(whole.roles, Roles { validator: true, api: true });
    assert_eq!(whole.journal, Path::new("x/y.sqlite-ledger"));
    let alone = [("store.at", "x/y.sqlite"), ("run.roles", "api"), ("api.listen", "[::1]:81")];
    assert_eq!(of(&alone).journal, Path::new("x/y.sqlite-ledger-api-81"));
    for (roles, said) in [("", "at least one of"), ("api,miner", "`miner` is no role")] {
        let error = load(&[("run.roles", roles)]).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn callers_without_a_key_have_limits_only_where_they_may_call() {
    let limits = [("api.anonymous.parallel", "3"), ("api.anonymous.budget", "1.5")];
    assert_eq!(load(&limits).unwrap().0.api.anonymous, None);
    let open = [limits[0], limits[1], ("api.open", "true")];
    let anonymous = load(&open).unwrap().0.api.anonymous.unwrap();
    assert_eq!((anonymous.parallel, anonymous.requests_per_minute), (Some(3), None));
    assert_eq!(anonymous.budget, Some("1.5".parse().unwrap()));
    for (key, value) in [("budget", "much"), ("budget", "-1"), ("budget_reset", "hourly")] {
        let error = load(&[(&*format!("api.anonymous.{key}"), value)]).unwrap_err().to_string();
        assert!(error.contains("api.anonymous"), "{error}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let (config, shown) =
        load(&[("checking.token", "sesame-open-now"), ("api.api_keys", "0123456789abcdefXYZ")])
            .unwrap();
    for text in [shown, format!("{config:?}")] {
        assert!(!text.contains("sesame") && !text.contains("0123456789"), "{text}");
    }
}
