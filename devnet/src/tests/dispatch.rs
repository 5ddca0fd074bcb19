//! Calls at the runtime, without a node around it.

use frame_support::{assert_noop, assert_ok};

use super::*;
use crate::runtime::commitments::types::{CommitmentInfo, Data};
use crate::runtime::commitments::{self, CommitmentOf};
use crate::runtime::subtensor::types::AxonInfo;
use crate::runtime::subtensor::{self, Error, MIN_STAKE};
use crate::runtime::{Balances, Commitments, Runtime};

type Failure = Error<Runtime>;

/// Something to set, most of which is wrong at first.
#[derive(Clone)]
struct Request {
    signer: &'static str,
    netuid: u16,
    mecid: u8,
    uids: Vec<u16>,
    weights: Vec<u16>,
    version: u64,
}

impl Request {
    fn fails_with(&self, error: Failure) {
        let Self { signer, netuid, mecid, uids, weights, version } = self.clone();
        let call = || {
            SubtensorModule::set_mechanism_weights(
                signed(signer),
                netuid,
                mecid,
                uids,
                weights,
                version,
            )
        };
        assert_noop!(call(), error);
    }
}

#[test]
fn mending_one_fault_after_the_other_meets_the_errors_in_the_order_of_the_real_chain() {
    first_state().execute_with(|| {
        subnet(&["validator", "miner"]);
        let now = u64::from(System::block_number());
        subtensor::StakeThreshold::<Runtime>::put(5);
        subtensor::WeightsVersionKey::<Runtime>::insert(1, 7);
        subtensor::MinAllowedWeights::<Runtime>::insert(1, 2);
        subtensor::MaxWeightsLimit::<Runtime>::insert(1, 40_000);
        let mut request = Request {
            signer: "stranger",
            netuid: 0,
            mecid: 1,
            uids: vec![9, 9, 9, 9],
            weights: vec![1],
            version: 6,
        };
        request.fails_with(Failure::CommitRevealEnabled);
        subtensor::CommitRevealWeightsEnabled::<Runtime>::insert(0, false);
        subtensor::CommitRevealWeightsEnabled::<Runtime>::insert(1, false);
        request.fails_with(Failure::CanNotSetRootNetworkWeights);
        request.netuid = 1;
        request.fails_with(Failure::WeightVecNotEqualSize);
        request.weights = vec![1; 4];
        request.fails_with(Failure::MechanismDoesNotExist);
        request.mecid = 0;
        request.fails_with(Failure::UidsLengthExceedUidsInSubNet);
        request.uids = vec![9, 9];
        request.weights = vec![1, 1];
        request.fails_with(Failure::HotKeyNotRegisteredInSubNet);
        request.signer = "validator";
        request.fails_with(Failure::NotEnoughStakeToSetWeights);
        subtensor::TotalHotkeyAlpha::<Runtime>::insert(account("validator"), 1, 5);
        request.fails_with(Failure::IncorrectWeightVersionKey);
        request.version = 7;
        request.fails_with(Failure::SettingWeightsTooFast);
        System::set_block_number(System::block_number() + 100);
        request.fails_with(Failure::NeuronNoValidatorPermit);
        subtensor::ValidatorPermit::<Runtime>::insert(1, vec![false, true, false]);
        request.fails_with(Failure::DuplicateUids);
        request.uids = vec![2, 9];
        request.fails_with(Failure::UidVecContainInvalidOne);
        request.uids = vec![2];
        request.weights = vec![3];
        request.fails_with(Failure::WeightVecLengthIsLow);
        request.uids = vec![2, 0];
        request.weights = vec![3, 1];
        request.fails_with(Failure::MaxWeightExceeded);

        let before: u64 = subtensor::LastUpdate::<Runtime>::get(1)[1];
        assert_eq!(before, now);
        assert_ok!(SubtensorModule::set_weights(signed("validator"), 1, vec![2, 0], vec![3, 2], 7));
        assert_eq!(subtensor::Weights::<Runtime>::get(1, 1), [(2, 65_535), (0, 43_690)]);
        assert_eq!(subtensor::LastUpdate::<Runtime>::get(1)[1], now + 100);
    });
}

#[test]
fn the_owner_and_a_weight_on_oneself_need_no_permit() {
    first_state().execute_with(|| {
        subnet(&["miner"]);
        subtensor::CommitRevealWeightsEnabled::<Runtime>::insert(1, false);
        subtensor::WeightsSetRateLimit::<Runtime>::insert(1, 0);
        subtensor::StakeThreshold::<Runtime>::put(u64::MAX);
        assert_ok!(SubtensorModule::set_weights(signed("owner"), 1, vec![1], vec![1], 0));
        subtensor::StakeThreshold::<Runtime>::put(0);
        assert_ok!(SubtensorModule::set_weights(signed("miner"), 1, vec![1], vec![1], 0));
        let other = SubtensorModule::set_weights(signed("miner"), 1, vec![0], vec![1], 0);
        assert_eq!(other, Err(Failure::NeuronNoValidatorPermit.into()));
    });
}

#[test]
fn axons_are_checked_in_the_order_of_the_real_chain() {
    first_state().execute_with(|| {
        subnet(&["miner"]);
        let serve = |signer: &str, ip: u128, port: u16, ip_type: u8| {
            SubtensorModule::serve_axon(signed(signer), 1, 1, ip, port, ip_type, 4, 0, 0)
        };
        let loopback = 0x7f00_0001;
        assert_noop!(serve("stranger", loopback, 0, 5), Failure::HotKeyNotRegisteredInNetwork);
        assert_noop!(serve("miner", loopback, 0, 5), Failure::InvalidIpType);
        assert_noop!(serve("miner", loopback, 0, 4), Failure::InvalidIpAddress);
        assert_noop!(serve("miner", 1, 0, 4), Failure::InvalidPort);
        assert_ok!(serve("miner", 1, 8091, 4));
        assert_noop!(serve("miner", 1, 8092, 4), Failure::ServingRateLimitExceeded);
        System::set_block_number(System::block_number() + 50);
        assert_ok!(serve("miner", 0, 1, 4));
        let axon: AxonInfo = subtensor::Axons::<Runtime>::get(1, account("miner")).unwrap();
        assert_eq!((axon.block, axon.ip, axon.port, axon.protocol), (51, 0, 1, 4));
        let metrics = SubtensorModule::serve_prometheus(signed("miner"), 1, 1, 0, 9000, 4);
        assert_eq!(metrics, Err(Failure::InvalidIpAddress.into()));
    });
}

#[test]
fn registrations_are_checked_in_the_order_of_the_real_chain() {
    first_state().execute_with(|| {
        let register = |coldkey: &str, netuid, hotkey: &str| {
            SubtensorModule::burned_register(signed(coldkey), netuid, account(hotkey))
        };
        assert_noop!(register("poor", 0, "owner"), Failure::RegistrationNotPermittedOnRootSubnet);
        assert_noop!(register("poor", 1, "owner"), Failure::SubnetNotExists);
        subnet(&[]);
        subtensor::NetworkRegistrationAllowed::<Runtime>::insert(1, false);
        subtensor::MaxRegistrationsPerBlock::<Runtime>::insert(1, 0);
        subtensor::TargetRegistrationsPerInterval::<Runtime>::insert(1, 0);
        subtensor::MaxAllowedUids::<Runtime>::insert(1, 1);
        assert_noop!(register("poor", 1, "owner"), Failure::SubNetRegistrationDisabled);
        subtensor::NetworkRegistrationAllowed::<Runtime>::insert(1, true);
        assert_noop!(register("poor", 1, "owner"), Failure::TooManyRegistrationsThisBlock);
        subtensor::MaxRegistrationsPerBlock::<Runtime>::insert(1, 9);
        assert_noop!(register("poor", 1, "owner"), Failure::TooManyRegistrationsThisInterval);
        subtensor::TargetRegistrationsPerInterval::<Runtime>::insert(1, 3);
        assert_noop!(register("poor", 1, "owner"), Failure::HotKeyAlreadyRegisteredInSubNet);
        assert_noop!(register("poor", 1, "one"), Failure::NotEnoughBalanceToStake);
        subtensor::Owner::<Runtime>::insert(account("one"), account("Bob"));
        assert_noop!(register("Alice", 1, "one"), Failure::NonAssociatedColdKey);
        assert_noop!(register("Bob", 1, "one"), Failure::NoNeuronIdAvailable);
        subtensor::MaxAllowedUids::<Runtime>::insert(1, 3);
        let before = Balances::free_balance(account("Bob"));
        assert_ok!(register("Bob", 1, "one"));
        assert_eq!(before - Balances::free_balance(account("Bob")), 100_000_000);
        assert_eq!(subtensor::Uids::<Runtime>::get(1, account("one")), Some(1));
    });
}

#[test]
fn a_full_subnet_replaces_who_earns_least_and_wipes_its_traces() {
    first_state().execute_with(|| {
        subnet(&["rich", "poor"]);
        subtensor::MaxAllowedUids::<Runtime>::insert(1, 3);
        subtensor::Emission::<Runtime>::insert(1, vec![0, 50, 7]);
        subtensor::Weights::<Runtime>::insert(1, 2, vec![(1_u16, 1_u16)]);
        let late = SubtensorModule::burned_register(signed("Alice"), 1, account("late"));
        assert_eq!(late, Err(Failure::NoNeuronIdAvailable.into()), "all are immune");
        System::set_block_number(6000);
        assert_ok!(SubtensorModule::burned_register(signed("Alice"), 1, account("late")));
        assert_eq!(subtensor::Uids::<Runtime>::get(1, account("late")), Some(2));
        assert_eq!(subtensor::Uids::<Runtime>::get(1, account("poor")), None);
        assert!(subtensor::Weights::<Runtime>::get(1, 2).is_empty());
        assert_eq!(subtensor::Emission::<Runtime>::get(1), [0, 50, 0]);
    });
}

#[test]
fn stake_goes_in_and_comes_back_whole() {
    first_state().execute_with(|| {
        subnet(&["miner"]);
        let add = |amount| SubtensorModule::add_stake(signed("Bob"), account("miner"), 1, amount);
        assert_noop!(add(MIN_STAKE), Failure::SubtokenDisabled);
        assert_noop!(SubtensorModule::start_call(signed("Bob"), 1), Failure::NotSubnetOwner);
        let start = SubtensorModule::start_call(signed("Alice"), 1);
        assert_eq!(start, Err(Failure::NeedWaitingMoreBlocksToStarCall.into()));
        System::set_block_number(11);
        assert_ok!(SubtensorModule::start_call(signed("Alice"), 1));
        let again = SubtensorModule::start_call(signed("Alice"), 1);
        assert_eq!(again, Err(Failure::FirstEmissionBlockNumberAlreadySet.into()));
        assert_noop!(add(MIN_STAKE - 1), Failure::AmountTooLow);
        assert_noop!(add(u64::MAX), Failure::NotEnoughBalanceToStake);
        let before = Balances::free_balance(account("Bob"));
        assert_ok!(add(9_000_000));
        assert_eq!(before - Balances::free_balance(account("Bob")), 9_000_000);
        assert_eq!(SubtensorModule::stake_weight(&account("miner"), 1), 9_000_000);
        let remove =
            |amount| SubtensorModule::remove_stake(signed("Bob"), account("miner"), 1, amount);
        assert_noop!(remove(9_000_001), Failure::NotEnoughStakeToWithdraw);
        assert_ok!(remove(9_000_000));
        assert_eq!(Balances::free_balance(account("Bob")), before);
        assert_eq!(SubtensorModule::stake_weight(&account("miner"), 1), 0);
    });
}

#[test]
fn root_stake_counts_with_its_weight_everywhere() {
    first_state().execute_with(|| {
        subnet(&["validator"]);
        assert_ok!(SubtensorModule::root_register(signed("Alice"), account("validator")));
        let stake = 1_000_000_000_000;
        assert_ok!(SubtensorModule::add_stake(signed("Alice"), account("validator"), 0, stake));
        let weight = SubtensorModule::stake_weight(&account("validator"), 1);
        assert!((52_600_000_000..52_700_000_000).contains(&weight), "{weight}");
    });
}

#[test]
fn a_second_subnet_costs_twice_as_much() {
    first_state().execute_with(|| {
        let before = Balances::free_balance(account("Alice"));
        subnet(&[]);
        let first = before - Balances::free_balance(account("Alice"));
        assert_eq!(first, 1000 * genesis::TAO);
        assert_ok!(SubtensorModule::register_network(signed("Alice"), account("other")));
        assert_eq!(before - Balances::free_balance(account("Alice")), 3 * first);
        let stolen = SubtensorModule::register_network(signed("Bob"), account("other"));
        assert_eq!(stolen, Err(Failure::NonAssociatedColdKey.into()));
        let poor = SubtensorModule::register_network(signed("poor"), account("mine"));
        assert_eq!(poor, Err(Failure::CannotAffordLockCost.into()));
    });
}

#[test]
fn only_neurons_publish_and_only_so_much_between_two_epochs() {
    type Refused = commitments::Error<Runtime>;
    first_state().execute_with(|| {
        subnet(&["miner"]);
        subtensor::Tempo::<Runtime>::insert(1, 360);
        let info = |bytes: usize| CommitmentInfo {
            fields: vec![Data::Raw(vec![7; bytes].try_into().unwrap())].try_into().unwrap(),
        };
        let publish = |signer: &str, bytes| {
            Commitments::set_commitment(signed(signer), 1, Box::new(info(bytes)))
        };
        assert_noop!(publish("stranger", 1), Refused::AccountNotAllowedCommit);
        // However little it is, it counts as 100 bytes.
        for _ in 0..29 {
            assert_ok!(publish("miner", 1));
        }
        assert_ok!(publish("miner", 128));
        assert_noop!(publish("miner", 1), Refused::SpaceLimitExceeded);
        let stored = CommitmentOf::<Runtime>::get(1, account("miner")).unwrap();
        assert_eq!((stored.info, stored.block, stored.deposit), (info(128), 1, 0));
        System::set_block_number(361);
        assert_ok!(publish("miner", 2));
        assert_eq!(CommitmentOf::<Runtime>::get(1, account("miner")).unwrap().info, info(2));
        assert_noop!(
            Commitments::set_max_space(signed("miner"), 5),
            sp_runtime::DispatchError::BadOrigin
        );
        assert_ok!(Commitments::set_max_space(RuntimeOrigin::root(), 5));
        assert_noop!(publish("miner", 1), Refused::SpaceLimitExceeded);
    });
}
