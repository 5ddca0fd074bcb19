//! Two mechanisms in one subnet.

use super::super::account;
use super::played::{at_first_block, blocks, set_tempo, signed, staked, subnet, weights_of};
use super::tested::runtime::subtensor::{self, Error};
use super::tested::runtime::{AdminUtils, Runtime, RuntimeOrigin, SubtensorModule};

fn set_count(count: u8) -> Result<(), sp_runtime::DispatchError> {
    AdminUtils::sudo_set_mechanism_count(RuntimeOrigin::root(), 1, count)
}

fn set_split(split: Option<Vec<u16>>) -> Result<(), sp_runtime::DispatchError> {
    AdminUtils::sudo_set_mechanism_emission_split(RuntimeOrigin::root(), 1, split)
}

#[test]
fn there_are_one_or_two_and_their_parts_make_a_whole() {
    at_first_block(|| {
        let none = set_count(2);
        assert_eq!(none, Err(Error::<Runtime>::MechanismDoesNotExist.into()));
        subnet(&[]);
        let wrong = Err(Error::<Runtime>::InvalidValue.into());
        assert_eq!(set_count(0), wrong);
        assert_eq!(set_count(3), wrong);
        assert_eq!(set_split(Some(vec![1, 65_534])), wrong, "there is one mechanism");
        set_count(2).unwrap();
        assert_eq!(set_split(Some(vec![1, 2])), wrong);
        assert_eq!(set_split(Some(vec![])), wrong);
        set_split(Some(vec![1, 65_534])).unwrap();
        set_count(1).unwrap();
        assert_eq!(subtensor::MechanismEmissionSplit::<Runtime>::get(1), None);
        let by_others = AdminUtils::sudo_set_mechanism_count(signed("Alice"), 1, 2);
        assert_eq!(by_others, Err(sp_runtime::DispatchError::BadOrigin));
    });
}

#[test]
fn each_has_its_own_weights_and_its_part_of_the_emission() {
    at_first_block(|| {
        subnet(&["validator", "first", "second"]);
        subtensor::CommitRevealWeightsEnabled::<Runtime>::insert(1, false);
        set_count(2).unwrap();
        set_split(Some(vec![16_384, 49_151])).unwrap();
        set_tempo(1, 5);
        staked(&[("validator", 1000)]);
        blocks(12);
        for (mecid, miner) in [(0, 2), (1, 3)] {
            SubtensorModule::set_mechanism_weights(
                signed("validator"),
                1,
                mecid,
                vec![miner],
                vec![1],
                0,
            )
            .unwrap();
        }
        assert_eq!((weights_of(1, 1), weights_of(4097, 1)), (vec![(2, 65_535)], vec![(3, 65_535)]));
        let stake = |name| subtensor::TotalHotkeyAlpha::<Runtime>::get(account(name), 1);
        blocks(12);
        assert_eq!(subtensor::Incentive::<Runtime>::get(1), [0, 0, 65_535, 0]);
        assert_eq!(subtensor::Incentive::<Runtime>::get(4097), [0, 0, 0, 65_535]);
        let (first, second) = (stake("first"), stake("second"));
        let ratio = second as f64 / first as f64;
        assert!((ratio - 3.0).abs() < 0.01, "{first} and {second}");
        assert!(subtensor::Dividends::<Runtime>::get(1)[1] > 65_000, "the sum of both parts");
        let consensus = subtensor::Consensus::<Runtime>::get(1);
        assert!(consensus[2].abs_diff(16_384) < 2 && consensus[3].abs_diff(49_151) < 2);

        set_count(1).unwrap();
        assert!(weights_of(4097, 1).is_empty());
        assert!(subtensor::Incentive::<Runtime>::get(4097).is_empty());
        assert!(subtensor::LastUpdate::<Runtime>::get(4097).is_empty());
    });
}
