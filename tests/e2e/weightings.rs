//! Task weightings that validators publish on a devnet and vote on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::chain::{Chain, Committed, Metagraph, Preflight, SubmitError};
use common::{Keypair, TaskId};
use tasks::Catalogue;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use validator::weightings::ballot::{decode, encode, tally_votes};
use validator::weightings::{Keeper, Origin, Weightings, WeightingsConfig};

use crate::chain::{Devnet, PATIENCE, Subnet, TAO, until};

const CATALOGUE: &str = include_str!("../../config/tasks.toml");

fn weights(chat: f64, complete: f64) -> BTreeMap<TaskId, f64> {
    let named = [("chat-demo", chat), ("complete-demo", complete)];
    BTreeMap::from(named.map(|(id, weight)| (id.parse().unwrap(), weight)))
}

fn is_near(found: &BTreeMap<TaskId, f64>, wanted: &BTreeMap<TaskId, f64>) -> bool {
    found.len() == wanted.len()
        && found.iter().all(|(task, weight)| (weight - wanted[task]).abs() < 1e-4)
}

/// The subnet's validator, `//Bob`, with 1,000 TAO, and a second one, `//Charlie`, with 3,000; both have a permit.
async fn two_validators(devnet: &Devnet, chain: &Chain) -> (Subnet, [Keypair; 2], Metagraph) {
    let subnet = Subnet::set_up(devnet).await;
    let validators = [subnet.validator.clone(), subnet.miners[0].clone()];
    let stake =
        subnet.people.add_stake(&subnet.coldkey, validators[1].hotkey(), subnet.netuid, 3000 * TAO);
    stake.await.unwrap();
    let metagraph = until(async || {
        let metagraph = chain.metagraph(subnet.netuid).await.unwrap();
        let permit = |key: &Keypair| metagraph.neuron(&key.hotkey()).unwrap().validator_permit;
        validators.iter().all(permit).then_some(metagraph.clone())
    })
    .await;
    (subnet, validators, metagraph)
}

#[tokio::test]
async fn commitments_are_published_read_back_and_weighed_by_stake() {
    let devnet = Devnet::boot().await;
    let chain = devnet.client().await;
    let (subnet, [bob, charlie], metagraph) = two_validators(&devnet, &chain).await;
    assert_eq!(chain.commitments(subnet.netuid).await.unwrap(), BTreeMap::new());

    let ballots = [weights(1.0, 0.0), weights(0.2, 0.8)].map(|weights| encode(&weights).unwrap());
    for (keypair, ballot) in [&bob, &charlie].into_iter().zip(&ballots) {
        let first = chain.commit(subnet.netuid, keypair, ballot).await.unwrap();
        assert!(matches!(first, Committed::Submitted { .. }));
        let again = chain.commit(subnet.netuid, keypair, ballot).await.unwrap();
        assert_eq!(again, Committed::Skipped);
    }
    let longest = [7; 128];
    chain.commit(subnet.netuid, &subnet.miners[1], &longest).await.unwrap();

    let found = chain.commitments(subnet.netuid).await.unwrap();
    let expected = BTreeMap::from([
        (bob.hotkey(), ballots[0].clone()),
        (charlie.hotkey(), ballots[1].clone()),
        (subnet.miners[1].hotkey(), longest.to_vec()),
    ]);
    assert_eq!(found, expected);

    let votes: Vec<_> = metagraph
        .neurons
        .iter()
        .filter_map(|neuron| Some((neuron.stake, decode(found.get(&neuron.hotkey)?)?)))
        .collect();
    let all_stake = votes.iter().map(|(stake, _)| stake).sum::<f64>();
    let tasks: Vec<TaskId> = weights(0.0, 0.0).into_keys().collect();
    let outcome = tally_votes(&tasks, &votes, all_stake, 1.0).unwrap();
    let part = votes[0].0 / all_stake;
    let mean = weights(part + 0.2 * (1.0 - part), 0.8 * (1.0 - part));
    assert!(is_near(&outcome.weights, &mean), "{outcome:?}");
    devnet.stop().await;
}

#[tokio::test]
async fn commitments_that_the_chain_would_refuse_are_refused_by_name() {
    let devnet = Devnet::boot().await;
    let subnet = Subnet::set_up(&devnet).await;
    let chain = devnet.client().await;
    let stranger = Keypair::development("Stranger");
    let refused = chain.commit(subnet.netuid, &stranger, b"me too").await.unwrap_err();
    assert!(
        matches!(&refused, SubmitError::Preflight(Preflight::NotRegistered { hotkey, .. })
            if *hotkey == stranger.hotkey()),
        "{refused}"
    );
    let refused = chain.commit(subnet.netuid, &subnet.validator, &[0; 129]).await.unwrap_err();
    assert!(
        matches!(refused, SubmitError::Preflight(Preflight::CommitmentTooLong(129))),
        "{refused}"
    );
    // More than a neuron may publish between two epochs, which lie far apart now.
    subnet.people.sudo_set("tempo", Some(subnet.netuid), 60_000).await.unwrap();
    let mut published = 0_u8;
    let refused = loop {
        match chain.commit(subnet.netuid, &subnet.validator, &[published]).await {
            Ok(_) => published += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&refused, SubmitError::Dispatch { error, .. }
            if error == "Commitments.SpaceLimitExceeded"),
        "{refused}"
    );
    assert_eq!(published, 31);
    devnet.stop().await;
}

/// A validator's weightings, kept up to date from a catalogue of its own.
struct Kept {
    weightings: Weightings,
    catalogue: PathBuf,
    stop: CancellationToken,
    running: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Kept {
    fn start(
        chain: &Chain,
        subnet: &Subnet,
        keypair: &Keypair,
        own: &BTreeMap<TaskId, f64>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = folder.path().join("tasks.toml");
        std::fs::write(&catalogue, CATALOGUE).unwrap();
        tasks::edit::set_weights(&catalogue, own).unwrap();
        let config = WeightingsConfig {
            catalogue: catalogue.clone(),
            vote: true,
            quorum: 0.6,
            period: Duration::from_millis(200),
        };
        let started = Arc::new(Catalogue::load(&catalogue).unwrap());
        let keeper = Keeper::new(config, started, chain.clone(), subnet.netuid, keypair.clone());
        let (weightings, stop) = (keeper.weightings(), CancellationToken::new());
        let running = tokio::spawn(keeper.run(stop.clone()));
        Self { weightings, catalogue, stop, running, _folder: folder }
    }

    async fn until(&self, wanted: &BTreeMap<TaskId, f64>, voted: f64) {
        until(async || {
            let Origin::Voted { stake } = self.weightings.origin() else { return None };
            let arrived = (stake - voted).abs() < 0.01;
            (arrived && is_near(&self.weightings.current(), wanted)).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.running).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn validators_agree_on_the_mean_and_follow_a_catalogue_that_changes() {
    let devnet = Devnet::boot().await;
    let chain = devnet.client().await;
    let (subnet, [bob, charlie], metagraph) = two_validators(&devnet, &chain).await;
    let stake = |key: &Keypair| metagraph.neuron(&key.hotkey()).unwrap().stake;
    let part = stake(&bob) / (stake(&bob) + stake(&charlie));

    // A quarter of the stake is no quorum: its own catalogue counts.
    let bobs = Kept::start(&chain, &subnet, &bob, &weights(1.0, 0.0));
    until(async || {
        let published = chain.commitments(subnet.netuid).await.unwrap();
        published.contains_key(&bob.hotkey()).then_some(())
    })
    .await;
    assert_eq!(bobs.weightings.origin(), Origin::Own);
    assert_eq!(bobs.weightings.current(), weights(1.0, 0.0));

    let charlies = Kept::start(&chain, &subnet, &charlie, &weights(2.0, 2.0));
    let mean = weights(part + 0.5 * (1.0 - part), 0.5 * (1.0 - part));
    bobs.until(&mean, 1.0).await;
    charlies.until(&mean, 1.0).await;

    tasks::edit::set_weights(&charlies.catalogue, &weights(0.0, 1.0)).unwrap();
    let mean = weights(part, 1.0 - part);
    bobs.until(&mean, 1.0).await;
    charlies.until(&mean, 1.0).await;

    // Without a chain the last vote stays in force, and what changes meanwhile is published later.
    devnet.controls.set_reachable(false);
    tasks::edit::set_weights(&bobs.catalogue, &weights(0.0, 1.0)).unwrap();
    until(async || chain.finalized_block().await.err()).await;
    assert!(is_near(&bobs.weightings.current(), &mean));
    devnet.controls.set_reachable(true);
    bobs.until(&weights(0.0, 1.0), 1.0).await;
    bobs.stop().await;
    charlies.stop().await;
    devnet.stop().await;
}
