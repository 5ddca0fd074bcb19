//! `validator explain` and `validator tune` beside a validator that is running: what they say is what the chain has.

use std::path::Path;
use std::time::Duration;

use ::localnet::{Localnet, Options};
use common::{Hotkey, MechanismId, TaskId, Uid};
use serde_json::Value;
use validator::Config;
use validator::explain::{Explanation, Question, explain, weights};
use validator::scoring::{Preset, Rules};
use validator::tune::{self, Changes, tune};

use crate::support::{bounded, eventually, look_at_chain, start};

const PERIOD: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explanations_agree_with_the_chain_to_the_last_unit_and_other_rules_can_be_tried() {
    bounded(async {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("subnet");
        let options = Options { miners: 3, period: PERIOD, ..Options::in_folder(data.clone()) };
        let localnet = start(&options).await;
        let config = config(&data);

        let explained = everybody_is_explained(&localnet, &config).await;
        says_what_is_not_known(&config, &explained[0]).await;
        other_rules_and_weightings_can_be_tried(&config).await;
        localnet.stop().await;

        // A copy says what the store says.
        let copy = folder.path().join("copy.sqlite");
        std::fs::copy(data.join("validator.sqlite"), &copy).unwrap();
        let hotkey = explained[0].hotkey;
        let from_store = explain(&config, &all_of(hotkey)).await.unwrap();
        let from_copy = explain(&config_at(&data, &copy), &all_of(hotkey)).await.unwrap();
        assert_eq!(from_copy, from_store);
        weightings_are_written(&data, &config);
    })
    .await;
}

fn all_of(hotkey: Hotkey) -> Question {
    Question { hotkey, task: None, answers: 5, mechanism: None }
}

fn config(data: &Path) -> Config {
    config_at(data, &data.join("validator.sqlite"))
}

fn config_at(data: &Path, store: &Path) -> Config {
    let flags = [
        ("store.at", store.display().to_string()),
        ("tasks.catalogue", data.join("config/tasks.toml").display().to_string()),
        ("scoring.period_s", PERIOD.as_secs_f64().to_string()),
    ];
    let flags = flags.map(|(key, value)| (key.to_owned(), value)).to_vec();
    Config::load(None, Vec::new(), flags).unwrap().0
}

/// Waits until every miner has weight, and compares each explanation with the chain.
async fn everybody_is_explained(localnet: &Localnet, config: &Config) -> Vec<Explanation> {
    let chain = look_at_chain(localnet.rpc).await;
    eventually("every miner has weight", async || {
        let block = localnet.validator.confirmed_weights().borrow().as_ref()?.block;
        let metagraph = chain.metagraph(localnet.netuid).await.unwrap();
        let own = metagraph.neuron(&localnet.validator_hotkey).unwrap().uid;
        let on_chain = chain.weights(localnet.netuid, MechanismId(0), own).await.unwrap();
        let weight_of = |uid: Uid| {
            on_chain.iter().find(|(neuron, _)| *neuron == uid).map_or(0, |(_, weight)| *weight)
        };
        let mut explained = Vec::new();
        for neuron in &metagraph.neurons {
            if neuron.axon.is_none() || neuron.hotkey == localnet.validator_hotkey {
                continue;
            }
            let shown = explain(config, &all_of(neuron.hotkey)).await.unwrap();
            let set = shown.on_chain.as_ref()?;
            // Newer weights may have come in between; then this is no comparison.
            if set.block != block || !shown.weights_come_from_scoring || set.weight == 0 {
                return None;
            }
            assert_eq!(set.weight, weight_of(neuron.uid), "{}", shown.text());
            assert_eq!(set.uid, Some(neuron.uid));
            let mut computed = weights(&shown);
            computed.sort_unstable();
            assert_eq!(computed, on_chain, "{}", shown.text());
            says_the_same_in_text_and_json(&shown);
            explained.push(shown);
        }
        (explained.len() == 3).then_some(explained)
    })
    .await
}

fn says_the_same_in_text_and_json(shown: &Explanation) {
    let text = shown.text();
    let json: Value = serde_json::from_str(&shown.json().unwrap()).unwrap();
    assert!(shown.reproduced.yes && text.contains("reproduced: yes"), "{text}");
    assert_eq!(json["reproduced"]["yes"], true);
    let set = shown.on_chain.as_ref().unwrap();
    assert_eq!(json["on_chain"]["weight"], set.weight);
    assert!(text.contains(&format!("{} of {} together", set.weight, set.all_weights)), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 92), "{text}");
    let sum: f64 = shown.contributions.values().map(|part| part.contribution).sum();
    assert!((sum - shown.score).abs() < 1e-12, "{text}");
    for task in &shown.tasks {
        assert!(!task.periods.is_empty(), "{text}");
        assert!(task.answers.len() <= 5, "{text}");
        assert!(task.periods.is_sorted_by(|a, b| a.ended_ms >= b.ended_ms), "{text}");
    }
    assert!(shown.tasks.iter().any(|task| !task.answers.is_empty()), "{text}");
}

async fn says_what_is_not_known(config: &Config, known: &Explanation) {
    let error = async |config: &Config, question: Question| {
        explain(config, &question).await.unwrap_err().to_string()
    };
    let stranger = Hotkey::from_bytes([9; 32]);
    let said = error(config, all_of(stranger)).await;
    assert!(said.contains(&format!("nothing is known of {stranger}")), "{said}");

    let of_task = |task: &str| Question { task: task.parse().ok(), ..all_of(known.hotkey) };
    let said = error(config, of_task("no-such-task")).await;
    assert!(
        said.contains("no task `no-such-task`; known are `chat-demo`, `complete-demo`"),
        "{said}"
    );
    let one = explain(config, &of_task("chat-demo")).await.unwrap();
    assert_eq!(one.tasks.len(), 1);
    assert!(one.reproduced.yes && one.contributions.len() == 2, "{}", one.text());

    let nowhere = config_at(
        config.weightings.catalogue.parent().and_then(Path::parent).unwrap(),
        Path::new("/no/such/store.sqlite"),
    );
    let said = error(&nowhere, all_of(known.hotkey)).await;
    assert!(said.contains("no database at /no/such/store.sqlite"), "{said}");
}

async fn other_rules_and_weightings_can_be_tried(config: &Config) {
    let same = tune(config, &Changes::default()).await.unwrap();
    assert_eq!(same.miners.len(), 3, "{}", same.text());
    assert!(same.miners.iter().all(|miner| miner.change == 0.0), "{}", same.text());
    assert!((same.miners.iter().map(|miner| miner.old).sum::<f64>() - 1.0).abs() < 1e-9);

    let task = |name: &str| name.parse::<TaskId>().unwrap();
    let changes = Changes {
        weights: vec![(task("chat-demo"), 3.0), (task("complete-demo"), 1.0)],
        rules: Some(Rules::of(Preset::Subnet19)),
        constants: vec![("share_exponent".to_owned(), 2.0)],
        mechanism: None,
    };
    let tuning = tune(config, &changes).await.unwrap();
    assert_eq!(tuning.weights_sum, 4.0);
    assert_eq!(tuning.tasks[0].weighting, (0.6, 0.75));
    assert!((tuning.miners.iter().map(|miner| miner.new).sum::<f64>() - 1.0).abs() < 1e-9);
    assert!(tuning.configuration().contains("preset = \"subnet19\""));
    assert!(tuning.text().contains("preset `touchstone` -> `subnet19`"), "{}", tuning.text());

    let refused = async |changes: Changes| tune(config, &changes).await.unwrap_err().to_string();
    let set = |name, weight| Changes { weights: vec![(task(name), weight)], ..Changes::default() };
    let said = refused(set("no-such-task", 1.0)).await;
    assert!(said.contains("it has `chat-demo`, `complete-demo`"), "{said}");
    let said = refused(set("chat-demo", -1.0)).await;
    assert!(said.contains("must be between 0 and 10^9, is -1"), "{said}");
    let constants = vec![("speed".to_owned(), 1.0)];
    let said = refused(Changes { constants, ..Changes::default() }).await;
    assert!(said.contains("no constant `speed`; it has"), "{said}");
}

fn weightings_are_written(data: &Path, config: &Config) {
    let file = data.join("config/tasks.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let nothing = tune::write(config, &Changes::default()).unwrap_err().to_string();
    assert!(nothing.contains("--set"), "{nothing}");
    let changes =
        Changes { weights: vec![("chat-demo".parse().unwrap(), 0.8)], ..Changes::default() };
    assert_eq!(tune::write(config, &changes).unwrap(), file);
    let after = std::fs::read_to_string(&file).unwrap();
    let comments = |text: &str| text.lines().filter(|line| line.starts_with('#')).count();
    assert_eq!(comments(&before), comments(&after));
    let catalogue = tasks::Catalogue::load(&file).unwrap();
    assert_eq!(catalogue.task(&"chat-demo".parse().unwrap()).unwrap().weight, 0.8);
}
