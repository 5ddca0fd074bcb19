//! Weights that are committed in secret and revealed an epoch later, on both of the chain's runtimes.

use std::num::NonZeroU32;

use ::chain::{Chain, CommitReveal, Failure, Next, Stage, Submission, SubmitError, Way, settle};
use ::devnet::{Beacon, Config, Spec};
use common::{BlockNumber, Keypair, MechanismId, Uid};

use crate::chain::{Devnet, Subnet, uids, until};
use crate::submit::Wanted;

/// Blocks between two epochs: 2 s, in which the beacon has two rounds.
const TEMPO: u64 = 40;

async fn boot(spec: Spec) -> (Devnet, Subnet, Chain) {
    let beacon = Beacon::Own { period_s: NonZeroU32::MIN };
    let devnet = Devnet::boot_with(Config { spec, beacon, ..Config::default() }).await;
    let subnet = Subnet::set_up(&devnet).await;
    for (name, value) in [("tempo", TEMPO), ("commit_reveal", 1)] {
        subnet.people.sudo_set(name, Some(subnet.netuid), value).await.unwrap();
    }
    let chain = devnet.client().await;
    subnet.with_permit(&chain).await;
    (devnet, subnet, chain)
}

/// Looks after a submission until it has come to an end, as the validator does.
async fn until_over(chain: &Chain, key: &Keypair, mut submission: Submission) -> Submission {
    until(async || {
        let standing = match chain.weight_standing(&submission).await {
            Ok(standing) => standing,
            Err(SubmitError::Chain(error)) if error.is_retryable() => return None,
            Err(error) => panic!("{error}"),
        };
        match settle(&submission, &standing) {
            Next::Stage(stage) => submission.stage = stage,
            Next::Reveal => {
                submission.stage = chain.reveal_weights(&submission, key).await.unwrap()
            }
            Next::Wait(_) => {}
        }
        submission.is_over().then(|| submission.clone())
    })
    .await
}

fn in_force(submission: &Submission) -> BlockNumber {
    match &submission.stage {
        Stage::InForce { block } => *block,
        other => panic!("{other:?}"),
    }
}

/// Weights of their own for each turn.
async fn weights(chain: &Chain, subnet: &Subnet, turn: u16) -> Vec<(Uid, u16)> {
    let metagraph = chain.metagraph(subnet.netuid).await.unwrap();
    let [first, second] = uids(&metagraph, &subnet.miners)[..] else { panic!("two miners") };
    vec![(first, u16::MAX), (second, 1000 * (turn + 1))]
}

/// Commits in five epochs in a row, each revealed in the one after, and reads every one of them back.
async fn five_epochs(spec: Spec, preference: CommitReveal, way: Way) {
    let (devnet, subnet, chain) = boot(spec).await;
    let mut epochs = Vec::new();
    let mut pending: Vec<Submission> = Vec::new();
    let mut proven = Vec::new();
    for turn in 0..5 {
        let wanted = Wanted {
            preference,
            ..Wanted::new(subnet.netuid, &weights(&chain, &subnet, turn).await)
        };
        let submission = wanted.submit(&chain, &subnet.validator).await.unwrap();
        assert_eq!(submission.way(), way);
        let Stage::Committed { epoch, .. } = submission.stage else { panic!("{submission:?}") };
        epochs.push(epoch);
        pending.push(submission);
        // The next commit belongs into the next epoch; the one before is revealed meanwhile.
        if pending.len() > 1 {
            let over = until_over(&chain, &subnet.validator, pending.remove(0)).await;
            proven.push((in_force(&over), over));
        }
        until(async || {
            let facts =
                chain.weight_facts(subnet.netuid, MechanismId(0), subnet.validator.hotkey());
            (facts.await.unwrap().clock.epoch() > Some(epoch)).then_some(())
        })
        .await;
    }
    let last = until_over(&chain, &subnet.validator, pending.remove(0)).await;
    let own = last.uid;
    assert_eq!(chain.weights(subnet.netuid, MechanismId(0), own).await.unwrap(), last.weights);
    proven.push((in_force(&last), last));
    assert_eq!(proven.len(), 5);
    assert!(epochs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{epochs:?}");
    assert!(proven.windows(2).all(|pair| pair[0].0 < pair[1].0), "each came into force later");
    for (block, submission) in &proven {
        let reveal = submission.reveal().unwrap();
        assert!(*block >= reveal.first, "not before its epoch: {block}, {reveal:?}");
    }
    devnet.stop().await;
}

#[tokio::test]
async fn the_chain_reveals_five_epochs_in_a_row_with_epochs_by_number() {
    five_epochs(Spec::V365, CommitReveal::Auto, Way::Timelocked).await;
}

#[tokio::test]
async fn the_chain_reveals_five_epochs_in_a_row_with_epochs_by_schedule() {
    five_epochs(Spec::V425, CommitReveal::Auto, Way::Timelocked).await;
}

#[tokio::test]
async fn hashes_are_revealed_five_epochs_in_a_row_with_epochs_by_number() {
    five_epochs(Spec::V365, CommitReveal::Hashed, Way::Hashed).await;
}

#[tokio::test]
async fn hashes_are_revealed_five_epochs_in_a_row_with_epochs_by_schedule() {
    five_epochs(Spec::V425, CommitReveal::Hashed, Way::Hashed).await;
}

#[tokio::test]
async fn what_the_chain_drops_at_the_reveal_is_noticed_with_the_reason() {
    for spec in Spec::ALL {
        let (devnet, subnet, chain) = boot(spec).await;
        let wanted = Wanted::new(subnet.netuid, &weights(&chain, &subnet, 0).await);
        let committed = wanted.submit(&chain, &subnet.validator).await.unwrap();
        subnet.people.sudo_set("weights_version_key", Some(subnet.netuid), 7).await.unwrap();
        let over = until_over(&chain, &subnet.validator, committed).await;
        let Stage::Failed { why: Failure::Dropped { reason } } = &over.stage else {
            panic!("{over:?}")
        };
        assert!(reason.contains("the version key 0 is too old"), "{reason}");
        devnet.stop().await;
    }
}

#[tokio::test]
async fn a_second_mechanism_has_weights_of_its_own() {
    let (devnet, subnet, chain) = boot(Spec::V425).await;
    subnet.people.sudo_set("mechanism_count", Some(subnet.netuid), 2).await.unwrap();
    let mut submissions = Vec::new();
    for mechanism in [0, 1] {
        let weights = weights(&chain, &subnet, mechanism.into()).await;
        let wanted =
            Wanted { mechanism: MechanismId(mechanism), ..Wanted::new(subnet.netuid, &weights) };
        submissions.push(wanted.submit(&chain, &subnet.validator).await.unwrap());
    }
    for submission in submissions {
        let over = until_over(&chain, &subnet.validator, submission).await;
        let stored = chain.weights(subnet.netuid, over.mechanism, over.uid).await.unwrap();
        assert_eq!(stored, over.weights);
    }
    devnet.stop().await;
}
