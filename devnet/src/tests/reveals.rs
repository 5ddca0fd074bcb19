//! What the chain opens by itself.

use common::{Netuid, Uid};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use timelock::{Beacon, WeightsPayload};

use super::super::{account, hotkey};
use super::played::{
    at_first_block, begin_block, blocks, clock_ms, has_event, known_round, now, set_tempo, signed,
    subnet, weights_of,
};
use super::tested::runtime::drand::{self, Withheld, beacon_key};
use super::tested::runtime::subtensor::{self, Event};
use super::tested::runtime::{Runtime, SubtensorModule};

fn beacon() -> Beacon {
    let config = drand::BeaconConfig::<Runtime>::get();
    let period = u64::from(config.period).try_into().unwrap();
    beacon_key().beacon(config.genesis_time.into(), period).unwrap()
}

/// Weights 3 to 1 of `name` for uids 2 and 1, sealed to a round.
fn sealed(name: &str, round: u64) -> Vec<u8> {
    let weights = [(Uid(2), 3), (Uid(1), 1)];
    let payload = WeightsPayload::new(&hotkey(name), &weights, 0);
    payload.seal(&beacon(), round, &mut StdRng::seed_from_u64(round)).unwrap()
}

fn commit(signer: &str, mecid: u8, bytes: Vec<u8>, round: u64) {
    let bytes = bytes.try_into().unwrap();
    SubtensorModule::commit_timelocked_mechanism_weights(signed(signer), 1, mecid, bytes, round, 4)
        .unwrap();
}

/// How many commitments wait, of any epoch.
fn waiting(index: u16) -> usize {
    subtensor::TimelockedWeightCommits::<Runtime>::iter_prefix(index)
        .map(|(_, commits)| commits.len())
        .sum()
}

/// Begins the next block. If it is the first of an epoch, says so.
fn epoch_begins() -> bool {
    let before = SubtensorModule::epoch_at(1, now());
    begin_block();
    SubtensorModule::epoch_at(1, now()) > before
}

/// Goes on to the first block in which what is committed now is revealed.
fn until_the_reveal() {
    let due = SubtensorModule::epoch_of_commit(1, now()) + 1;
    while SubtensorModule::epoch_at(1, now() + 1) < due {
        blocks(1);
    }
}

const REVEALED: [(u16, u16); 2] = [(2, 65_535), (1, 21_845)];

#[test]
fn weights_appear_when_their_epoch_has_come_and_not_before() {
    at_first_block(|| {
        subnet(&["validator", "miner"]);
        set_tempo(1, 10);
        blocks(3);
        commit("validator", 0, sealed("validator", known_round()), known_round());
        assert_eq!(waiting(1), 1);
        until_the_reveal();
        assert_eq!((weights_of(1, 1), waiting(1)), (vec![], 1));
        let updated = subtensor::LastUpdate::<Runtime>::get(1);
        begin_block();
        assert_eq!((weights_of(1, 1), waiting(1)), (REVEALED.to_vec(), 0));
        assert!(has_event(Event::TimelockedWeightsRevealed(1, account("validator"))));
        assert_eq!(
            subtensor::LastUpdate::<Runtime>::get(1),
            updated,
            "written with the commitment"
        );
    });
}

#[test]
fn a_commitment_without_its_rounds_signature_is_tried_in_every_block_of_its_epoch() {
    at_first_block(|| {
        subnet(&["validator", "miner"]);
        set_tempo(1, 10);
        blocks(1);
        let late = known_round() + 1_000_000;
        commit("validator", 0, sealed("validator", late), late);
        until_the_reveal();
        blocks(4);
        assert_eq!((weights_of(1, 1), waiting(1)), (vec![], 1));
        drand::Pallet::<Runtime>::store(late, &beacon_key().sign(late).unwrap());
        begin_block();
        assert_eq!((weights_of(1, 1), waiting(1)), (REVEALED.to_vec(), 0));
    });
}

#[test]
fn a_commitment_whose_epoch_is_over_is_removed() {
    at_first_block(|| {
        subnet(&["validator", "miner"]);
        set_tempo(1, 10);
        let never = u64::MAX;
        commit("validator", 0, sealed("validator", never), never);
        until_the_reveal();
        begin_block();
        while waiting(1) > 0 {
            assert!(now() < 60, "it is kept for ever");
            begin_block();
        }
        assert!(weights_of(1, 1).is_empty());
    });
}

#[test]
fn what_cannot_be_opened_or_set_is_dropped_in_silence() {
    at_first_block(|| {
        subnet(&["validator", "thief", "broken", "forbidden"]);
        set_tempo(1, 20);
        subtensor::ValidatorPermit::<Runtime>::insert(1, vec![true, true, true, true, false]);
        subtensor::TotalHotkeyAlpha::<Runtime>::remove(account("forbidden"), 1);
        blocks(1);
        let round = known_round();
        let good = sealed("validator", round);
        let mut broken = good.clone();
        broken[150] ^= 1;
        commit("thief", 0, good.clone(), round);
        commit("broken", 0, broken, round);
        commit("broken", 0, vec![1, 2, 3], round);
        commit("forbidden", 0, sealed("forbidden", round), round);
        // Bytes after the end do not matter.
        commit("validator", 0, [good, vec![0; 9]].concat(), round);
        assert_eq!(waiting(1), 5);
        until_the_reveal();
        begin_block();
        assert_eq!(waiting(1), 0);
        let set: Vec<bool> = (0..5).map(|uid| !weights_of(1, uid).is_empty()).collect();
        assert_eq!(set, [false, true, false, false, false]);
    });
}

#[test]
fn each_mechanism_has_its_own_commitments() {
    at_first_block(|| {
        subnet(&["validator", "miner"]);
        SubtensorModule::do_set_mechanism_count(1, 2).unwrap();
        set_tempo(1, 10);
        blocks(1);
        commit("validator", 1, sealed("validator", known_round()), known_round());
        until_the_reveal();
        begin_block();
        assert_eq!(weights_of(4097, 1), REVEALED);
        assert!(weights_of(1, 1).is_empty());
    });
}

#[test]
fn a_longer_reveal_period_is_kept() {
    at_first_block(|| {
        subnet(&["validator", "miner"]);
        SubtensorModule::do_set_reveal_period(1, 3).unwrap();
        set_tempo(1, 5);
        blocks(1);
        commit("validator", 0, sealed("validator", known_round()), known_round());
        let mut begun = 0;
        while weights_of(1, 1).is_empty() {
            begun += u64::from(epoch_begins());
            assert!(begun < 5, "it is never revealed");
        }
        assert!((2..=3).contains(&begun), "{begun}");
        assert!(SubtensorModule::do_set_reveal_period(1, 0).is_err());
        assert!(SubtensorModule::do_set_reveal_period(1, 101).is_err());
    });
}

#[test]
fn the_official_ciphertext_is_opened_by_quicknets_round() {
    let folder = std::env::var("TOUCHSTONE_VECTORS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors").into());
    let path = std::path::Path::new(&folder).join("timelock_weights.json");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let official: Value = serde_json::from_str(&text).unwrap();
    let bytes = |of: &Value| hex::decode(of.as_str().unwrap()).unwrap();
    let payload = &official["weights_payload"];
    let list = |name: &str| -> Vec<u16> { serde_json::from_value(payload[name].clone()).unwrap() };
    let round = official["round"].as_u64().unwrap();
    assert_eq!(bytes(&payload["hotkey"]), account("Alice").as_ref() as &[u8]);

    at_first_block(|| {
        subnet(&["Alice", "miner", "another"]);
        set_tempo(1, 10);
        blocks(1);
        commit("Alice", 0, bytes(&payload["inner_ciphertext"]), round);
        drand::Pallet::<Runtime>::store(round, &bytes(&official["signature_hex"]));
        until_the_reveal();
        begin_block();
        let expected: Vec<(u16, u16)> = list("uids").into_iter().zip(list("values")).collect();
        assert_eq!(weights_of(Netuid(1).0, 1), expected);
    });
}

#[test]
fn withheld_signatures_delay_a_reveal_within_its_epoch() {
    at_first_block(|| {
        subnet(&["validator", "miner"]);
        set_tempo(1, 20);
        blocks(1);
        frame_support::storage::unhashed::put(drand::WITHHELD_KEY, &Withheld::Late);
        let round = beacon().round_known_at(std::time::Duration::from_millis(clock_ms())) + 1;
        commit("validator", 0, sealed("validator", round), round);
        until_the_reveal();
        blocks(3);
        assert_eq!((weights_of(1, 1), waiting(1)), (vec![], 1));
        frame_support::storage::unhashed::put(drand::WITHHELD_KEY, &Withheld::No);
        blocks(2);
        assert_eq!((weights_of(1, 1), waiting(1)), (REVEALED.to_vec(), 0));
    });
}
