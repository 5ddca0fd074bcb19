//! Who has staked what, and what it is worth. Without pools one alpha is one TAO.

use std::collections::BTreeMap;

use parity_scale_codec::{Compact, Decode, Encode};
use scale_info::TypeInfo;
use sp_runtime::AccountId32;

use super::super::*;

/// The price of everything: one TAO, in rao.
const ONE_TAO: u64 = 1_000_000_000;

/// What one coldkey has on one hotkey in one subnet. The fields are those of spec 365.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, TypeInfo)]
pub struct StakeInfo<AccountId> {
    pub hotkey: AccountId,
    pub coldkey: AccountId,
    pub netuid: Compact<u16>,
    pub stake: Compact<u64>,
    pub locked: Compact<u64>,
    pub emission: Compact<u64>,
    pub tao_emission: Compact<u64>,
    pub drain: Compact<u64>,
    pub is_registered: bool,
}

/// How much of a coldkey's stake in a subnet it may take back. Of newer runtimes.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, TypeInfo)]
pub struct StakeAvailability {
    pub total: u64,
    pub locked: u64,
    pub available: u64,
}

/// The price of a subnet's alpha. Of newer runtimes.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, TypeInfo)]
pub struct SubnetPrice {
    pub netuid: u16,
    pub price: u64,
}

/// What an exchange would come to. The fields are those of spec 365.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, TypeInfo)]
pub struct SimSwapResult {
    pub tao_amount: u64,
    pub alpha_amount: u64,
    pub tao_fee: u64,
    pub alpha_fee: u64,
}

impl SimSwapResult {
    /// One rao for one rao of alpha, without a fee.
    pub fn even(amount: u64) -> Self {
        Self { tao_amount: amount, alpha_amount: amount, tao_fee: 0, alpha_fee: 0 }
    }
}

impl<T: Config> Pallet<T> {
    /// All that a coldkey has staked.
    pub fn stakes_of_coldkey(coldkey: &AccountId32) -> Vec<StakeInfo<AccountId32>> {
        let mut subnets: Vec<u16> =
            NetworksAdded::<T>::iter().filter(|(_, added)| *added).map(|(id, _)| id).collect();
        subnets.sort_unstable();
        let hotkeys = StakingHotkeys::<T>::get(coldkey);
        let each = hotkeys.iter().flat_map(|hotkey| subnets.iter().map(move |id| (hotkey, *id)));
        each.map(|(hotkey, netuid)| Self::stake_info(hotkey, coldkey, netuid))
            .filter(|info| info.stake.0 > 0)
            .collect()
    }

    /// What a coldkey has on a hotkey in a subnet, if the subnet exists.
    pub fn stake_at(
        hotkey: &AccountId32,
        coldkey: &AccountId32,
        netuid: u16,
    ) -> Option<StakeInfo<AccountId32>> {
        NetworksAdded::<T>::get(netuid).then(|| Self::stake_info(hotkey, coldkey, netuid))
    }

    /// How much of each coldkey's stake in each subnet is free: all of it.
    pub fn stake_availability(
        coldkeys: Vec<AccountId32>,
        netuids: &[u16],
    ) -> BTreeMap<AccountId32, BTreeMap<u16, StakeAvailability>> {
        let of = |coldkey: &AccountId32, netuid: u16| {
            let hotkeys = StakingHotkeys::<T>::get(coldkey);
            let stakes = hotkeys.iter().map(|hotkey| Self::stake_of(hotkey, coldkey, netuid));
            let total = stakes.fold(0, u64::saturating_add);
            StakeAvailability { total, locked: 0, available: total }
        };
        let all =
            |coldkey: &AccountId32| netuids.iter().map(|id| (*id, of(coldkey, *id))).collect();
        coldkeys.into_iter().map(|coldkey| (coldkey.clone(), all(&coldkey))).collect()
    }

    /// The price of a subnet's alpha, in rao.
    pub fn alpha_price(netuid: u16) -> u64 {
        if NetworksAdded::<T>::get(netuid) { ONE_TAO } else { 0 }
    }

    /// The price of every subnet's alpha, by netuid.
    pub fn alpha_prices() -> Vec<SubnetPrice> {
        let mut prices: Vec<SubnetPrice> = NetworksAdded::<T>::iter()
            .filter(|(_, added)| *added)
            .map(|(netuid, _)| SubnetPrice { netuid, price: ONE_TAO })
            .collect();
        prices.sort_unstable_by_key(|price| price.netuid);
        prices
    }

    fn stake_info(
        hotkey: &AccountId32,
        coldkey: &AccountId32,
        netuid: u16,
    ) -> StakeInfo<AccountId32> {
        let emission = Uids::<T>::get(netuid, hotkey)
            .and_then(|uid| Emission::<T>::get(netuid).get(usize::from(uid)).copied());
        StakeInfo {
            hotkey: hotkey.clone(),
            coldkey: coldkey.clone(),
            netuid: Compact(netuid),
            stake: Compact(Self::stake_of(hotkey, coldkey, netuid)),
            locked: Compact(0),
            emission: Compact(emission.unwrap_or(0)),
            tao_emission: Compact(0),
            drain: Compact(0),
            is_registered: Uids::<T>::contains_key(netuid, hotkey),
        }
    }
}
