//! A validator on a subnet with commit-reveal: commits, has them revealed, proves it, and tells about it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ::chain::{Stage, Way};
use ::devnet::Spec;
use ::devnet::setup::Client;
use ::localnet::{Localnet, Options};
use common::MechanismId;
use validator::Config;
use validator::explain::{Question, explain};
use validator::submitted::{Outcome, Submitted, dry_run, submitted, text};

use crate::support::{bounded, eventually, look_at_chain, start, until_status};

const PERIOD: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_weights_come_into_force_are_proven_and_can_be_explained() {
    bounded(async {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("subnet");
        let options =
            Options { period: PERIOD, commit_reveal: true, ..Options::in_folder(data.clone()) };
        let localnet = start(&options).await;
        let config = config(&data, &localnet);

        until_status(&localnet.validator, "weights are committed", |status| {
            let weights = status.weights.iter().find(|one| one.committed.is_some())?;
            let commit = weights.committed?;
            assert!(commit.revealed_from > commit.block, "{commit:?}");
            Some(())
        })
        .await;
        is_explained_by_the_scoring_of_the_commit(&localnet, &config).await;

        let list = submitted(&config, 20).await.unwrap();
        assert!(list.iter().all(|one| one.way == Way::Timelocked), "{}", text(&list));
        assert!(
            list.iter().all(|one| !matches!(one.result, Stage::Failed { .. })),
            "{}",
            text(&list)
        );
        let mut commits: Vec<_> = list.iter().filter_map(|one| one.commit_block).collect();
        commits.sort_unstable();
        let count = commits.len();
        commits.dedup();
        assert_eq!(commits.len(), count, "each is in a block of its own\n{}", text(&list));

        let run = dry_run(&config).await.unwrap();
        assert_eq!(run.hotkey, localnet.validator_hotkey);
        match &run.mechanisms[..] {
            [only] => match &only.outcome {
                Outcome::Sends { way, reveal, .. } => {
                    assert_eq!(*way, Way::Timelocked);
                    assert!(reveal.is_some_and(|reveal| reveal.round.is_some()), "{}", run.text());
                }
                Outcome::Waits { allowed_from, .. } => {
                    assert!(allowed_from.is_some(), "{}", run.text());
                }
            },
            other => panic!("one mechanism, not {other:?}"),
        }
        localnet.stop().await;
    })
    .await;
}

/// Blocks between two epochs in which a whole subnet commits: 7 s, longer than a scoring period.
const TEMPO: u64 = 28;

/// A subnet whose weights are committed and revealed, epoch after epoch.
async fn five_epochs_in_a_row(spec: Spec) {
    bounded(async {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("subnet");
        let options = Options {
            period: Duration::from_secs(5),
            commit_reveal: true,
            spec,
            ..Options::in_folder(data.clone())
        };
        let localnet = start(&options).await;
        let people = Client::connect(&format!("ws://{}", localnet.rpc)).await.unwrap();
        people.sudo_set("tempo", Some(localnet.netuid), TEMPO).await.unwrap();
        let config = config(&data, &localnet);
        // A change of the tempo moves epochs, so what was committed before, and one that is just being made, do not count.
        let newest = submitted(&config, 1).await.unwrap();
        let before = newest.first().map_or(0, |one| one.id) + 1;
        let chain = look_at_chain(localnet.rpc).await;
        let metagraph = chain.metagraph(localnet.netuid).await.unwrap();
        let own = metagraph.neuron(&localnet.validator_hotkey).unwrap().uid;

        // What the chain holds is read here as well, by a client of its own.
        let mut read: BTreeSet<i64> = BTreeSet::new();
        eventually("five epochs in a row were committed, revealed and read", async || {
            let stored = chain.weights(localnet.netuid, MechanismId(0), own).await.unwrap();
            let mut list = submitted(&config, 100).await.unwrap();
            list.retain(|one| one.id > before);
            let failed = |one: &&Submitted| matches!(one.result, Stage::Failed { .. });
            assert_eq!(list.iter().find(failed), None, "{}", text(&list));
            let in_force = |one: &&Submitted| matches!(one.result, Stage::InForce { .. });
            let mut epochs: Vec<u64> = Vec::new();
            for one in list.iter().filter(in_force) {
                let weights: Vec<_> = one.weights.iter().map(|w| (w.uid, w.weight)).collect();
                if weights == stored {
                    read.insert(one.id);
                }
                epochs.extend(one.reveal.map(|reveal| reveal.epoch));
            }
            epochs.sort_unstable();
            let row = epochs.windows(5).any(|five| five[4] == five[0] + 4);
            (row && read.len() >= 5).then_some(())
        })
        .await;
        localnet.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subnet_commits_and_reveals_five_epochs_in_a_row_with_epochs_by_number() {
    five_epochs_in_a_row(Spec::V365).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subnet_commits_and_reveals_five_epochs_in_a_row_with_epochs_by_schedule() {
    five_epochs_in_a_row(Spec::V425).await;
}

/// Waits until weights were revealed and their explanation comes to what the chain holds.
async fn is_explained_by_the_scoring_of_the_commit(localnet: &Localnet, config: &Config) {
    let chain = look_at_chain(localnet.rpc).await;
    eventually("revealed weights are explained", async || {
        let set = localnet.validator.confirmed_weights().borrow().clone()?;
        let metagraph = chain.metagraph(localnet.netuid).await.unwrap();
        let own = metagraph.neuron(&localnet.validator_hotkey).unwrap().uid;
        let stored = chain.weights(localnet.netuid, MechanismId(0), own).await.unwrap();
        let sent: Vec<_> = set.weights.iter().map(|(uid, _, weight)| (*uid, *weight)).collect();
        let hotkey = set.weights.first()?.1;
        let question = Question { hotkey, task: None, answers: 1, mechanism: None };
        let shown = explain(config, &question).await.unwrap();
        // The next ones may have come into force in between; then this is no comparison.
        let same = shown.on_chain.as_ref().is_some_and(|shown| shown.block == set.block);
        if stored != sent || !same {
            return None;
        }
        assert!(shown.weights_come_from_scoring && shown.reproduced.yes, "{}", shown.text());
        Some(())
    })
    .await;
}

fn config(data: &Path, localnet: &Localnet) -> Config {
    let flags = [
        ("store.at", data.join("validator.sqlite").display().to_string()),
        ("tasks.catalogue", data.join("config/tasks.toml").display().to_string()),
        ("scoring.period_s", PERIOD.as_secs_f64().to_string()),
        ("chain.endpoint", format!("ws://{}", localnet.rpc)),
        ("chain.netuid", localnet.netuid.to_string()),
        ("wallet.path", data.join("wallets").display().to_string()),
        ("wallet.name", "localnet".to_owned()),
        ("wallet.hotkey", "validator".to_owned()),
    ];
    let flags = flags.map(|(key, value)| (key.to_owned(), value)).to_vec();
    Config::load(None, Vec::new(), flags).unwrap().0
}
