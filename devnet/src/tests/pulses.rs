//! The beacon: signatures arrive as their time comes, unless they are withheld.

use frame_support::storage::unhashed;
use sp_io::TestExternalities;

use super::super::{Genesis, Source, Spec};
use super::played::{at_first_block, block, clock_ms, known_round};
use super::tested::layout::SPEC_VERSION;
use super::tested::runtime::drand::types::quicknet;
use super::tested::runtime::drand::{self, Withheld, beacon_key};
use super::tested::runtime::{Runtime, System};

fn stored() -> Vec<u64> {
    let mut rounds: Vec<u64> = drand::Pulses::<Runtime>::iter_keys().collect();
    rounds.sort_unstable();
    rounds
}

fn withhold(withheld: Withheld) {
    unhashed::put(drand::WITHHELD_KEY, &withheld);
}

#[test]
fn a_chains_own_beacon_signs_every_round_from_the_chains_start_on() {
    at_first_block(|| {
        assert!(stored().is_empty(), "the first block has no time before its end");
        block();
        let newest = drand::BeaconConfig::<Runtime>::get().newest_round(clock_ms() / 1000 - 12);
        let first = newest.unwrap();
        assert_eq!(stored(), [first], "not the years before");
        block();
        assert_eq!(stored(), (first..=first + 12).collect::<Vec<_>>());
        assert_eq!(known_round(), first + 12);
        assert_eq!(drand::OldestStoredRound::<Runtime>::get(), first);
        let pulse = drand::Pulses::<Runtime>::get(first + 5).unwrap();
        assert_eq!(pulse.signature.to_vec(), beacon_key().sign(first + 5).unwrap());
        assert_eq!((pulse.round, pulse.randomness.len()), (first + 5, 32));
    });
}

#[test]
fn late_signatures_arrive_a_bounded_number_per_block_and_lost_ones_never() {
    at_first_block(|| {
        block();
        let first = known_round();
        withhold(Withheld::Late);
        (0..10).for_each(|_| block());
        assert_eq!(stored(), [first]);
        withhold(Withheld::No);
        block();
        assert_eq!(stored(), (first..=first + 50).collect::<Vec<_>>());
        (0..3).for_each(|_| block());
        assert_eq!(stored().len() as u64, 1 + 14 * 12);

        let last = known_round();
        withhold(Withheld::Lost);
        (0..2).for_each(|_| block());
        withhold(Withheld::No);
        block();
        let rounds = stored();
        assert!(!rounds.contains(&(last + 1)) && !rounds.contains(&(last + 24)));
        assert!(rounds.contains(&(last + 25)) && known_round() == last + 36);
    });
}

#[test]
fn recorded_signatures_are_stored_once_their_time_has_come() {
    let spec = Spec::of_version(SPEC_VERSION).unwrap();
    let future = u64::MAX - 1;
    let pulses = vec![(1000, [1; 48]), (1001, [2; 48]), (future, [3; 48])];
    let genesis = Genesis { spec, beacon: Source::Recorded(pulses), ..Genesis::default() };
    TestExternalities::new(genesis.storage().unwrap()).execute_with(|| {
        System::set_block_number(1);
        assert_eq!(drand::BeaconConfig::<Runtime>::get(), quicknet());
        (0..3).for_each(|_| block());
        assert_eq!(stored(), [1000, 1001]);
        assert_eq!(known_round(), 1001);
        assert_eq!(drand::Pulses::<Runtime>::get(1001).unwrap().signature.to_vec(), [2; 48]);
    });
}
