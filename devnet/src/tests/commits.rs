//! Commitments: the errors in the order of the real chain, and what is kept of them.

use frame_support::{assert_noop, assert_ok};
use sp_core::H256;
use sp_runtime::traits::{BlakeTwo256, Hash};

use super::super::account;
use super::played::{
    at_first_block, blocks, has_event, now, set_tempo, signed, subnet, weights_of,
};
use super::tested::runtime::subtensor::types::Ciphertext;
use super::tested::runtime::subtensor::{self, Error, Event};
use super::tested::runtime::{Runtime, SubtensorModule};

type Failure = Error<Runtime>;

fn ciphertext(byte: u8) -> Ciphertext {
    vec![byte; 10].try_into().unwrap()
}

fn commit(signer: &str, mecid: u8, version: u16) -> frame_support::pallet_prelude::DispatchResult {
    SubtensorModule::commit_timelocked_mechanism_weights(
        signed(signer),
        1,
        mecid,
        ciphertext(7),
        99,
        version,
    )
}

#[test]
fn time_locked_commitments_are_checked_in_the_order_of_the_real_chain() {
    at_first_block(|| {
        assert_noop!(commit("stranger", 0, 3), Failure::MechanismDoesNotExist);
        subnet(&["validator"]);
        subtensor::CommitRevealWeightsEnabled::<Runtime>::insert(1, false);
        subtensor::WeightsSetRateLimit::<Runtime>::insert(1, 5);
        assert_noop!(commit("stranger", 1, 3), Failure::MechanismDoesNotExist);
        assert_noop!(commit("stranger", 0, 3), Failure::CommitRevealDisabled);
        subtensor::CommitRevealWeightsEnabled::<Runtime>::insert(1, true);
        assert_noop!(commit("stranger", 0, 3), Failure::IncorrectCommitRevealVersion);
        assert_noop!(commit("stranger", 0, 4), Failure::HotKeyNotRegisteredInSubNet);
        assert_noop!(commit("validator", 0, 4), Failure::CommittingWeightsTooFast);
        blocks(5);
        assert_ok!(commit("validator", 0, 4));
        assert_eq!(
            subtensor::LastUpdate::<Runtime>::get(1)[1],
            now(),
            "written with the commitment"
        );
        let hash = BlakeTwo256::hash(&ciphertext(7));
        assert!(has_event(Event::TimelockedWeightsCommitted(account("validator"), 1, hash, 99)));
        let epoch = SubtensorModule::epoch_of_commit(1, now());
        let kept = subtensor::TimelockedWeightCommits::<Runtime>::get(1, epoch);
        assert_eq!(kept, [(account("validator"), now(), ciphertext(7), 99)]);
    });
}

#[test]
fn ten_commitments_wait_and_no_more() {
    at_first_block(|| {
        subnet(&["validator", "other"]);
        for _ in 0..10 {
            assert_ok!(commit("validator", 0, 4));
            assert_ok!(SubtensorModule::commit_weights(signed("validator"), 1, H256::zero()));
        }
        assert_noop!(commit("validator", 0, 4), Failure::TooManyUnrevealedCommits);
        let hash = SubtensorModule::commit_weights(signed("validator"), 1, H256::zero());
        assert_eq!(hash, Err(Failure::TooManyUnrevealedCommits.into()));
        assert_ok!(commit("other", 0, 4));
        SubtensorModule::do_set_mechanism_count(1, 2).unwrap();
        assert_ok!(commit("validator", 1, 4));
    });
}

#[test]
fn the_calls_without_a_mechanism_and_without_a_version_mean_the_first_and_four() {
    at_first_block(|| {
        subnet(&["validator"]);
        let who = || signed("validator");
        assert_ok!(SubtensorModule::commit_timelocked_weights(who(), 1, ciphertext(1), 5, 4));
        assert_ok!(SubtensorModule::commit_crv3_mechanism_weights(who(), 1, 0, ciphertext(2), 6));
        let epoch = SubtensorModule::epoch_of_commit(1, now());
        assert_eq!(subtensor::TimelockedWeightCommits::<Runtime>::get(1, epoch).len(), 2);
        subtensor::CommitRevealWeightsVersion::<Runtime>::put(5);
        let old = SubtensorModule::commit_crv3_mechanism_weights(who(), 1, 0, ciphertext(2), 6);
        assert_eq!(old, Err(Failure::IncorrectCommitRevealVersion.into()));
    });
}

/// The first block from here in which the epoch number is higher.
fn until_the_next_epoch() {
    let before = SubtensorModule::epoch_at(1, now());
    while SubtensorModule::epoch_at(1, now()) == before {
        blocks(1);
    }
}

#[test]
fn a_hash_is_revealed_in_one_epoch_alone() {
    at_first_block(|| {
        subnet(&["validator", "miner"]);
        set_tempo(1, 10);
        let (uids, values, salt) = (vec![2_u16], vec![5_u16], vec![1_u16, 2, 3]);
        let hash = |salt: &[u16]| {
            SubtensorModule::hash_of_weights(&account("validator"), 1, &uids, &values, salt, 0)
        };
        let reveal = |salt: &[u16]| {
            let (uids, values) = (uids.clone(), values.clone());
            SubtensorModule::reveal_weights(signed("validator"), 1, uids, values, salt.to_vec(), 0)
        };
        let commit = |salt: &[u16]| {
            SubtensorModule::commit_weights(signed("validator"), 1, hash(salt)).unwrap();
        };
        let official = timelock::commit_hash(
            &super::super::hotkey("validator"),
            1,
            &[(common::Uid(2), 5)],
            &salt,
            0,
        );
        assert_eq!(hash(&salt).0, official, "clients hash it in the same way");

        assert_noop!(reveal(&salt), Failure::NoWeightsCommitFound);
        commit(&[9]);
        commit(&salt);
        assert_noop!(reveal(&[4]), Failure::InvalidRevealCommitHashNotMatch);
        assert_noop!(reveal(&salt), Failure::RevealTooEarly);
        until_the_next_epoch();
        assert_ok!(reveal(&salt));
        assert_eq!(weights_of(1, 1), [(2, 65_535)]);
        assert!(has_event(Event::WeightsRevealed(account("validator"), 1, hash(&salt))));
        // The one before went with it.
        assert_noop!(reveal(&[9]), Failure::NoWeightsCommitFound);

        commit(&salt);
        until_the_next_epoch();
        until_the_next_epoch();
        assert_noop!(reveal(&salt), Failure::ExpiredWeightCommit);
        assert_noop!(reveal(&[4]), Failure::NoWeightsCommitFound);
        subtensor::CommitRevealWeightsEnabled::<Runtime>::insert(1, false);
        assert_noop!(reveal(&salt), Failure::CommitRevealDisabled);
    });
}

#[test]
fn a_batch_of_reveals_is_all_or_nothing() {
    at_first_block(|| {
        subnet(&["validator", "miner"]);
        set_tempo(1, 10);
        let hash = |value: u16| {
            SubtensorModule::hash_of_weights(&account("validator"), 1, &[2], &[value], &[1], 0)
        };
        let reveal = |values: &[u16]| {
            let n = values.len();
            SubtensorModule::batch_reveal_weights(
                signed("validator"),
                1,
                vec![vec![2]; n],
                values.iter().map(|value| vec![*value]).collect(),
                vec![vec![1]; n],
                vec![0; n],
            )
        };
        for value in [3, 4] {
            SubtensorModule::commit_weights(signed("validator"), 1, hash(value)).unwrap();
        }
        until_the_next_epoch();
        assert_noop!(reveal(&[3, 5]), Failure::InvalidRevealCommitHashNotMatch);
        assert_noop!(reveal(&[3, 3]), Failure::InvalidRevealCommitHashNotMatch);
        assert_ok!(reveal(&[3, 4]));
        assert!(has_event(Event::WeightsBatchRevealed(
            account("validator"),
            1,
            vec![hash(3), hash(4)]
        )));
        assert!(!subtensor::WeightCommits::<Runtime>::contains_key(1, account("validator")));
        let unequal = SubtensorModule::batch_reveal_weights(
            signed("validator"),
            1,
            vec![vec![2]],
            vec![],
            vec![],
            vec![],
        );
        assert_eq!(unequal, Err(Failure::InputLengthsUnequal.into()));
    });
}

#[test]
fn batches_over_subnets_succeed_and_tell_in_events_what_failed() {
    at_first_block(|| {
        subnet(&["validator", "miner"]);
        subtensor::CommitRevealWeightsEnabled::<Runtime>::insert(1, false);
        let set = |netuids: &[u16]| {
            let weights = vec![(2_u16.into(), 7_u16.into())];
            SubtensorModule::batch_set_weights(
                signed("validator"),
                netuids.iter().map(|netuid| (*netuid).into()).collect(),
                vec![weights; netuids.len()],
                vec![0_u64.into(); netuids.len()],
            )
        };
        assert_ok!(set(&[1]));
        assert_eq!(weights_of(1, 1), [(2, 65_535)]);
        let done = Event::BatchWeightsCompleted(vec![1_u16.into()], account("validator"));
        assert!(has_event(done));
        assert!(!has_event(Event::BatchCompletedWithErrors()));
        assert_ok!(set(&[1, 9]));
        assert!(has_event(Event::BatchCompletedWithErrors()));
        let why = Failure::CommitRevealEnabled.into();
        assert!(has_event(super::tested::layout::item_failed(9, why)));

        let commit = |netuids: &[u16], hashes| {
            let netuids = netuids.iter().map(|netuid| (*netuid).into()).collect();
            SubtensorModule::batch_commit_weights(signed("validator"), netuids, hashes)
        };
        assert_noop!(commit(&[1], vec![]), Failure::InputLengthsUnequal);
        assert_ok!(commit(&[1], vec![H256::zero()]));
        let why = Failure::CommitRevealDisabled.into();
        assert!(has_event(super::tested::layout::item_failed(1, why)));
    });
}
