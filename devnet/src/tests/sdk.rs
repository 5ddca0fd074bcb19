//! What the official SDK and `btcli` ask for besides: stakes by coldkey, prices, hyperparameters by name.

use frame_support::{assert_noop, assert_ok};
use parity_scale_codec::Encode;

use super::*;
use crate::runtime::Runtime;
use crate::runtime::subtensor::info::HyperparamValue;
use crate::runtime::subtensor::{EpochConsensus, Error, FirstEmissionBlockNumber, Lock};
use crate::runtime::subtensor::{SubnetEpochConsensus, SubtokenEnabled};

const STAKE: u64 = 5 * genesis::TAO;

fn started() {
    subnet(&["validator"]);
    SubtokenEnabled::<Runtime>::insert(1, true);
    FirstEmissionBlockNumber::<Runtime>::insert(1, 2);
}

#[test]
fn a_coldkeys_stakes_are_listed_and_all_of_it_is_free() {
    first_state().execute_with(|| {
        started();
        assert_eq!(SubtensorModule::stakes_of_coldkey(&account("Alice")), []);
        assert_ok!(SubtensorModule::add_stake(signed("Alice"), account("validator"), 1, STAKE));
        let stakes = SubtensorModule::stakes_of_coldkey(&account("Alice"));
        let [only] = stakes.as_slice() else { panic!("{stakes:?}") };
        assert_eq!((only.netuid.0, only.stake.0, only.is_registered), (1, STAKE, true));
        assert_eq!(only.hotkey, account("validator"));
        let same = SubtensorModule::stake_at(&account("validator"), &account("Alice"), 1);
        assert_eq!(same.as_ref(), Some(only));
        assert_eq!(SubtensorModule::stake_at(&account("validator"), &account("Alice"), 9), None);
        let free = SubtensorModule::stake_availability(vec![account("Alice")], &[0, 1]);
        let of = &free[&account("Alice")];
        assert_eq!((of[&0].total, of[&1].total, of[&1].available), (0, STAKE, STAKE));
    });
}

#[test]
fn stake_with_a_limit_is_taken_at_the_price_of_one_and_refused_below() {
    first_state().execute_with(|| {
        started();
        let stake = |limit| {
            let (who, hotkey) = (signed("Alice"), account("validator"));
            SubtensorModule::add_stake_limit(who, hotkey, 1, STAKE, limit, false)
        };
        let price = SubtensorModule::alpha_price(1);
        assert_noop!(stake(price - 1), Error::<Runtime>::SlippageTooHigh);
        assert_ok!(stake(price));
        let prices = SubtensorModule::alpha_prices();
        assert_eq!(prices.iter().map(|price| price.netuid).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(SubtensorModule::alpha_price(9), 0);
    });
}

#[test]
fn hyperparameters_by_name_are_those_in_force_and_each_is_there_once() {
    first_state().execute_with(|| {
        assert_eq!(SubtensorModule::named_hyperparams(1), None);
        subnet(&[]);
        let named = SubtensorModule::named_hyperparams(1).unwrap();
        let value = |name: &str| {
            let mut found = named.iter().filter(|entry| entry.name == name.as_bytes());
            let value = found.next().map(|entry| entry.value.clone());
            assert!(found.next().is_none(), "{name} is there twice");
            value.unwrap_or_else(|| panic!("{name} is missing"))
        };
        let known = SubtensorModule::hyperparams(1).unwrap();
        assert_eq!(value("tempo"), HyperparamValue::U16(known.tempo));
        assert_eq!(value("min_burn"), HyperparamValue::TaoBalance(known.min_burn));
        assert_eq!(value("commit_reveal_weights_enabled"), HyperparamValue::Bool(true));
        let names: std::collections::BTreeSet<_> = named.iter().map(|entry| &entry.name).collect();
        assert_eq!(names.len(), named.len());
    });
}

#[test]
fn what_this_chain_does_not_have_reads_as_not_used() {
    first_state().execute_with(|| {
        subnet(&[]);
        assert_eq!(SubnetEpochConsensus::<Runtime>::get(1), EpochConsensus::Yuma);
        assert_eq!(EpochConsensus::Yuma.encode(), [0]);
        assert_eq!(Lock::<Runtime>::iter().count(), 0);
    });
}
