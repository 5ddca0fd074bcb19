//! Blocks go by, and an epoch makes permits, scores and stake.

use frame_support::traits::Hooks;

use super::*;
use crate::runtime::subtensor;
use crate::runtime::{Runtime, SubtensorModule};

fn blocks(count: u32) {
    for _ in 0..count {
        let next = System::block_number() + 1;
        System::set_block_number(next);
        <SubtensorModule as Hooks<u32>>::on_initialize(next);
    }
}

#[test]
fn permits_come_with_one_epoch_and_incentive_with_the_next() {
    first_state().execute_with(|| {
        subnet(&["validator", "good", "bad"]);
        subtensor::CommitRevealWeightsEnabled::<Runtime>::insert(1, false);
        subtensor::WeightsSetRateLimit::<Runtime>::insert(1, 0);
        subtensor::Tempo::<Runtime>::insert(1, 10);
        blocks(11);
        SubtensorModule::start_call(signed("Alice"), 1).unwrap();
        let stake = 1000 * genesis::TAO;
        SubtensorModule::add_stake(signed("Alice"), account("validator"), 1, stake).unwrap();
        blocks(11);
        assert_eq!(subtensor::ValidatorPermit::<Runtime>::get(1), [false, true, false, false]);
        let set = SubtensorModule::set_weights(signed("validator"), 1, vec![2, 3], vec![9, 1], 0);
        assert_eq!(set, Ok(()));
        let before = subtensor::TotalHotkeyAlpha::<Runtime>::get(account("good"), 1);
        blocks(11);
        let incentive = subtensor::Incentive::<Runtime>::get(1);
        assert_eq!(incentive, [0, 0, 58_981, 6_553]);
        assert!(subtensor::Dividends::<Runtime>::get(1)[1] > 65_000);
        let emission = subtensor::Emission::<Runtime>::get(1);
        assert!(emission[2] > 8 * emission[3] && emission[3] > 0, "{emission:?}");
        let after = subtensor::TotalHotkeyAlpha::<Runtime>::get(account("good"), 1);
        assert_eq!(after - before, emission[2], "miners are paid in stake");
        assert!(subtensor::BlocksSinceLastStep::<Runtime>::get(1) < 11);
        let metagraph = SubtensorModule::metagraph(1).unwrap();
        assert_eq!(metagraph.incentives.iter().map(|i| i.0).collect::<Vec<_>>(), incentive);
        assert_eq!(metagraph.select(&[52, 72]).validators.unwrap().len(), 2);
    });
}

#[test]
fn emission_reaches_those_who_stake_on_a_validator() {
    first_state().execute_with(|| {
        subnet(&["validator"]);
        subtensor::Tempo::<Runtime>::insert(1, 10);
        blocks(11);
        SubtensorModule::start_call(signed("Alice"), 1).unwrap();
        for coldkey in ["Alice", "Bob"] {
            SubtensorModule::add_stake(
                signed(coldkey),
                account("validator"),
                1,
                500 * genesis::TAO,
            )
            .unwrap();
        }
        blocks(30);
        let stake_of = |name| SubtensorModule::stake_of(&account("validator"), &account(name), 1);
        assert!(stake_of("Bob") > 500 * genesis::TAO);
        assert!(stake_of("Bob").abs_diff(stake_of("Alice")) <= 2);
    });
}

#[test]
fn the_price_of_a_registration_follows_the_demand() {
    first_state().execute_with(|| {
        subnet(&["one"]);
        subtensor::AdjustmentInterval::<Runtime>::insert(1, 5);
        subtensor::AdjustmentAlpha::<Runtime>::insert(1, 0);
        let before = subtensor::Burn::<Runtime>::get(1);
        blocks(6);
        assert!(subtensor::Burn::<Runtime>::get(1) < before);
        assert_eq!(subtensor::RegistrationsThisInterval::<Runtime>::get(1), 0);
        blocks(200);
        assert_eq!(subtensor::Burn::<Runtime>::get(1), subtensor::MinBurn::<Runtime>::get(1));
    });
}
