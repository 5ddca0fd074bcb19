use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chain::epochs::{EpochClock, EpochRule, Schedule};
use chain::{
    BlockHash, CommitReveal, Digest, Failure, Hyperparameters, Kind, Metagraph, Neuron, Preflight,
    Stage, Submission, WeightFacts,
};
use common::{BlockNumber, Hotkey, MechanismId, Netuid, TaskId, Uid};
use proptest::prelude::*;

use super::plan::Reason;
use super::*;
use crate::scoring::{Factors, MinerScore, Score, Scores, TaskScore, touchstone};
use crate::store::KeptSubmission;

fn key(name: u8) -> Hotkey {
    Hotkey::from_bytes([name; 32])
}

fn task(name: &str) -> TaskId {
    name.parse().unwrap()
}

/// Neurons by uid and the name of their hotkey.
pub(crate) fn metagraph(neurons: &[(u16, u8)]) -> Metagraph {
    let neuron = |&(uid, name): &(u16, u8)| Neuron {
        uid: Uid(uid),
        hotkey: key(name),
        coldkey: None,
        axon: None,
        stake: 0.0,
        validator_permit: false,
        active: true,
        last_update: BlockNumber(0),
        registered_at: BlockNumber(0),
        incentive: 0.0,
        consensus: 0.0,
        dividends: 0.0,
    };
    Metagraph {
        block: BlockNumber(1),
        block_hash: BlockHash([0; 32]),
        netuid: Netuid(1),
        neurons: neurons.iter().map(neuron).collect(),
        params: Hyperparameters {
            tempo: 360,
            weights_rate_limit: 100,
            weights_version: 0,
            min_allowed_weights: 1,
            max_weights_limit: u16::MAX,
            commit_reveal_enabled: false,
            serving_rate_limit: 50,
            immunity_period: 4096,
            activity_cutoff: 5000,
            stake_threshold: 0.0,
        },
        next_epoch: None,
        owner: None,
    }
}

/// Commit-reveal, by hashes; epochs every 100 blocks, number 7 beginning with block 900.
pub(crate) fn facts(head: u64) -> WeightFacts {
    let schedule = Schedule {
        last_epoch: BlockNumber(head / 100 * 100),
        pending_at: BlockNumber(0),
        index: head / 100 - 2,
        idle_blocks: head % 100,
    };
    let (head, netuid) = (BlockNumber(head), Netuid(1));
    WeightFacts {
        netuid,
        mechanism: MechanismId(0),
        hotkey: key(9),
        head,
        now: Duration::from_secs(1_700_000_000),
        block_time: Duration::from_secs(12),
        uid: Some(Uid(0)),
        neurons: 8,
        mechanisms: 1,
        calls: [
            "set_mechanism_weights",
            "commit_timelocked_mechanism_weights",
            "commit_mechanism_weights",
            "reveal_mechanism_weights",
        ]
        .into(),
        commit_reveal_enabled: true,
        commit_version: 4,
        reveal_period: 1,
        clock: EpochClock { netuid, tempo: 100, head, rule: EpochRule::Scheduler(schedule) },
        beacon: None,
        newest_round: None,
        unrevealed: 0,
        weights_rate_limit: 0,
        last_update: BlockNumber(0),
        weights_version: 0,
        min_allowed_weights: 1,
        max_weights_limit: u16::MAX,
        validator_permit: true,
        is_owner: false,
        stake_rao: Some(5_000_000_000_000),
        stake_threshold_rao: 1_000_000_000_000,
    }
}

pub(crate) fn named_weights() -> NamedWeights {
    vec![(Uid(1), key(1), u16::MAX), (Uid(2), key(2), 20_000)]
}

/// Hashed weights that were made in block `head`.
pub(crate) fn hashed(head: u64, stage: Stage) -> Submission {
    let facts = facts(head);
    Submission {
        netuid: facts.netuid,
        mechanism: facts.mechanism,
        hotkey: facts.hotkey,
        uid: Uid(0),
        weights: named_weights().iter().map(|(uid, _, weight)| (*uid, *weight)).collect(),
        version_key: 0,
        made_at: facts.head,
        open_until: None,
        kind: Kind::Hashed {
            reveal: facts.clock.reveal(1).unwrap(),
            digest: Digest([1; 32]),
            salt: vec![1, 2, 3],
        },
        stage,
    }
}

fn scores(scores: &[(u8, &str, f64)]) -> Scores<Hotkey> {
    let mut miners: BTreeMap<Hotkey, MinerScore> = BTreeMap::new();
    for (name, of, contribution) in scores {
        let miner = miners.entry(key(*name)).or_default();
        miner.score += contribution;
        let score = TaskScore {
            factors: Factors::Touchstone(touchstone::Factors {
                summary: touchstone::Summary::default(),
                typical_speed: None,
                speed_factor: 1.0,
            }),
            effective_volume: 1.0,
            share: Score::clamped(*contribution),
            task_weight: 1.0,
            contribution: *contribution,
        };
        miner.tasks.insert(task(of), score);
    }
    Scores { miners }
}

fn tasks(names: &[&str]) -> BTreeSet<TaskId> {
    names.iter().map(|name| task(name)).collect()
}

fn chat(all: &[(u8, f64)], neurons: &[(u16, u8)]) -> Result<Vec<(u16, u16)>, String> {
    let all: Vec<_> = all.iter().map(|(name, score)| (*name, "chat", *score)).collect();
    let weights = weights_of(&scores(&all), &tasks(&["chat"]), &metagraph(neurons))?;
    Ok(weights.iter().map(|(uid, _, weight)| (uid.0, *weight)).collect())
}

#[test]
fn weights_follow_the_hotkey_to_its_new_uid_and_leave_with_it() {
    // Miner 1 has moved to slot 7, miner 2 has left, and a stranger sits in its slot.
    assert_eq!(chat(&[(1, 0.5), (2, 0.5)], &[(7, 1), (2, 9)]), Ok(vec![(7, u16::MAX)]));
}

#[test]
fn nothing_is_set_while_nobody_registered_has_earned_anything() {
    for all in [&[][..], &[(1, 0.0)], &[(2, 1.0)]] {
        let why = chat(all, &[(1, 1)]).unwrap_err();
        assert!(why.contains("no registered miner"), "{all:?}: {why}");
    }
}

#[test]
fn the_best_gets_the_whole_scale() {
    let all = [(1, 0.2), (2, 0.8)];
    assert_eq!(chat(&all, &[(1, 1), (2, 2)]), Ok(vec![(1, 16_384), (2, u16::MAX)]));
}

#[test]
fn a_mechanism_counts_its_own_tasks_only() {
    let all = scores(&[(1, "chat", 0.3), (1, "image", 0.1), (2, "image", 0.2), (2, "chat", 0.0)]);
    let neurons = metagraph(&[(1, 1), (2, 2)]);
    let of = |names| weights_of(&all, &tasks(names), &neurons).unwrap();
    assert_eq!(of(&["chat"]), [(Uid(1), key(1), u16::MAX)]);
    let images = of(&["image"]);
    assert_eq!(images, [(Uid(1), key(1), 32_768), (Uid(2), key(2), u16::MAX)]);
    assert!(weights_of(&all, &tasks(&["video"]), &neurons).is_err());
}

fn planned(facts: &WeightFacts, open: &[Submission]) -> Plan {
    plan(facts, open, &named_weights(), 0, CommitReveal::Auto)
}

fn waits(facts: &WeightFacts, open: &[Submission]) -> Reason {
    match planned(facts, open) {
        Plan::Wait(reason) => reason,
        Plan::Send(plan) => panic!("{plan:?}"),
    }
}

fn sends(facts: &WeightFacts, open: &[Submission]) -> bool {
    matches!(planned(facts, open), Plan::Send(_))
}

/// Made in block 950 and filed under epoch 7.
const COMMITTED: Stage = Stage::Committed { block: BlockNumber(951), epoch: 7 };

#[test]
fn nothing_is_sent_while_the_fate_of_something_is_not_known() {
    let sent = Submission { open_until: Some(BlockNumber(1014)), ..hashed(950, Stage::Sent) };
    let reason = waits(&facts(960), std::slice::from_ref(&sent));
    assert_eq!(reason.until(), Some(BlockNumber(1014)));
    assert!(reason.passes() && reason.to_string().contains("until block 1014"), "{reason}");
    // Even long after: only what the chain shows ends it.
    assert!(matches!(waits(&facts(5_000), &[sent]), Reason::Open { .. }));
}

#[test]
fn an_epoch_has_one_commit() {
    let open = [hashed(950, COMMITTED)];
    let reason = waits(&facts(990), &open);
    assert_eq!(reason.until(), Some(BlockNumber(1000)));
    assert!(reason.to_string().contains("block 951 for epoch 7"), "{reason}");
    // A commit made after block 999 belongs to the next one, whether or not the last is revealed by then.
    assert!(!sends(&facts(998), &open) && sends(&facts(999), &open) && sends(&facts(1000), &open));
}

#[test]
fn what_has_ended_is_in_nobodys_way() {
    for stage in
        [Stage::InForce { block: BlockNumber(980) }, Stage::Failed { why: Failure::NeverIncluded }]
    {
        assert!(sends(&facts(990), &[hashed(950, stage)]));
    }
}

#[test]
fn what_other_hotkeys_and_other_subnets_have_open_is_in_nobodys_way() {
    let others = [
        Submission { hotkey: key(3), ..hashed(950, Stage::Sent) },
        Submission { netuid: Netuid(2), ..hashed(950, Stage::Sent) },
    ];
    assert!(sends(&facts(990), &others));
}

#[test]
fn plain_weights_do_not_wait_for_the_reveal_of_earlier_commits() {
    let plain = WeightFacts { commit_reveal_enabled: false, ..facts(990) };
    assert!(sends(&plain, &[hashed(950, COMMITTED)]));
}

#[test]
fn a_refusal_says_whether_time_helps() {
    let limited =
        WeightFacts { weights_rate_limit: 100, last_update: BlockNumber(980), ..facts(990) };
    let reason = waits(&limited, &[]);
    assert_eq!((reason.until(), reason.passes()), (Some(BlockNumber(1080)), true));

    let stranger = WeightFacts { uid: None, ..facts(990) };
    let reason = waits(&stranger, &[]);
    assert_eq!((reason.until(), reason.passes()), (None, false));
    assert!(matches!(reason, Reason::Refused(Preflight::NotRegistered { .. })));

    let no_permit = WeightFacts { validator_permit: false, ..facts(990) };
    let reason = waits(&no_permit, &[]);
    assert_eq!((reason.until(), reason.passes()), (Some(BlockNumber(1000)), false));

    let old = WeightFacts { weights_version: 7, ..facts(990) };
    let reason = waits(&old, &[]).to_string();
    assert!(reason.contains("version key 0") && reason.contains('7'), "{reason}");
}

fn any_stage() -> impl Strategy<Value = Stage> {
    prop_oneof![
        Just(Stage::Sent),
        (900..1_300_u64, 5..12_u64)
            .prop_map(|(block, epoch)| Stage::Committed { block: BlockNumber(block), epoch }),
        Just(Stage::InForce { block: BlockNumber(980) }),
        Just(Stage::Failed { why: Failure::Unproven }),
    ]
}

proptest! {
    #[test]
    fn what_is_sent_is_alone_in_its_epoch_and_nothing_else_is_unknown(
        head in 901..1_400_u64, stages in prop::collection::vec(any_stage(), 0..5),
    ) {
        let facts = facts(head);
        let open: Vec<_> = stages.into_iter().map(|stage| hashed(950, stage)).collect();
        match planned(&facts, &open) {
            Plan::Send(plan) => {
                let epoch = plan.reveal().unwrap().commit_epoch;
                for submission in &open {
                    match submission.stage {
                        Stage::Sent => prop_assert!(false, "its fate is not known"),
                        Stage::Committed { epoch: other, .. } => prop_assert!(other < epoch),
                        Stage::InForce { .. } | Stage::Failed { .. } => {}
                    }
                }
            }
            Plan::Wait(reason) => {
                prop_assert!(reason.passes());
                prop_assert!(reason.until().is_none_or(|block| block > facts.head), "{:?}", reason);
            }
        }
    }
}

#[test]
fn the_newest_commit_is_the_one_that_is_told() {
    let kept = |head, stage| {
        let submission = hashed(head, stage);
        KeptSubmission::new(0, submission, named_weights(), None, Duration::from_secs(12))
    };
    let later = Stage::Committed { block: BlockNumber(1_051), epoch: 8 };
    let open = [kept(950, COMMITTED), kept(1_050, later), kept(1_060, Stage::Sent)];
    let newest = Committed::newest(&open).unwrap();
    assert_eq!((newest.block, newest.revealed_from), (BlockNumber(1_051), BlockNumber(1_100)));
    assert_eq!(Committed::newest(&open[2..]), None);
}

#[test]
fn the_earlier_wake_up_counts() {
    let (soon, late) = (Wake::After(TRY_AGAIN), Wake::After(LONGEST_PAUSE));
    let block = |number| Wake::Block(BlockNumber(number));
    assert_eq!(soon.earlier(late), soon);
    assert_eq!(block(7).earlier(block(5)), block(5));
    assert_eq!(block(7).earlier(Wake::Never), block(7));
    assert_eq!(block(7).earlier(late), late);
}
