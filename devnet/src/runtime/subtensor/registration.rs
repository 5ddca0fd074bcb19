//! Subnets and uids: creating, starting, registering, replacing.

use frame_support::ensure;
use frame_support::pallet_prelude::{DispatchResult, Get};
use sp_runtime::{AccountId32, SaturatedConversion};

use super::types::RateLimitKey;
use super::weights::storage_index;
use super::{
    Active, AdjustmentAlpha, AdjustmentInterval, Axons, BlockAtRegistration, Bonds, Burn,
    BurnRegistrationsThisInterval, Config, Consensus, Dividends, Emission, Error, Event,
    FirstEmissionBlockNumber, ImmunityPeriod, Incentive, IsNetworkMember, Keys,
    LastAdjustmentBlock, LastRateLimitedBlock, LastUpdate, MaxAllowedUids, MaxAllowedValidators,
    MaxBurn, MaxRegistrationsPerBlock, MechanismCountCurrent, MinAllowedWeights, MinBurn,
    NetworkLastLockCost, NetworkLockReductionInterval, NetworkMinLockCost, NetworkRateLimit,
    NetworkRegisteredAt, NetworkRegistrationAllowed, NetworksAdded, NeuronCertificates,
    OwnedHotkeys, Owner, Pallet, Prometheus, RAORecycledForRegistration, ROOT,
    RegistrationsThisBlock, RegistrationsThisInterval, SubnetLimit, SubnetMechanism, SubnetOwner,
    SubnetOwnerHotkey, SubnetworkN, SubtokenEnabled, TargetRegistrationsPerInterval, Tempo,
    TotalNetworks, Uids, ValidatorPermit, ValidatorTrust, Weights,
};

/// 0.97 of 2^64: how slowly the price of a registration follows in a new subnet.
const NEW_ADJUSTMENT_ALPHA: u64 = 17_893_341_751_498_265_066;

/// Registrations that a new subnet takes per block and per interval. The real chain starts with 1 of each, so that
/// filling a subnet takes days; here it must take seconds.
const NEW_REGISTRATIONS: u16 = 256;

impl<T: Config> Pallet<T> {
    /// The present block.
    pub fn now() -> u64 {
        frame_system::Pallet::<T>::block_number().saturated_into()
    }

    pub(super) fn do_burned_register(
        coldkey: AccountId32,
        netuid: u16,
        hotkey: AccountId32,
    ) -> DispatchResult {
        ensure!(netuid != ROOT, Error::<T>::RegistrationNotPermittedOnRootSubnet);
        ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
        ensure!(
            NetworkRegistrationAllowed::<T>::get(netuid),
            Error::<T>::SubNetRegistrationDisabled
        );
        let this_block = RegistrationsThisBlock::<T>::get(netuid);
        ensure!(
            this_block < MaxRegistrationsPerBlock::<T>::get(netuid),
            Error::<T>::TooManyRegistrationsThisBlock
        );
        ensure!(!Self::interval_is_full(netuid), Error::<T>::TooManyRegistrationsThisInterval);
        ensure!(
            !Uids::<T>::contains_key(netuid, &hotkey),
            Error::<T>::HotKeyAlreadyRegisteredInSubNet
        );
        let price = Burn::<T>::get(netuid);
        ensure!(Self::can_pay(&coldkey, price), Error::<T>::NotEnoughBalanceToStake);
        Self::associate(&coldkey, &hotkey)?;

        let now = Self::now();
        let uid = Self::free_uid(netuid, now).ok_or(Error::<T>::NoNeuronIdAvailable)?;
        Self::withdraw(&coldkey, price)?;
        Self::seat(netuid, uid, &hotkey, now);
        RegistrationsThisBlock::<T>::mutate(netuid, |n| *n = n.saturating_add(1));
        RegistrationsThisInterval::<T>::mutate(netuid, |n| *n = n.saturating_add(1));
        BurnRegistrationsThisInterval::<T>::mutate(netuid, |n| *n = n.saturating_add(1));
        RAORecycledForRegistration::<T>::mutate(netuid, |rao| *rao = rao.saturating_add(price));
        Self::deposit_event(Event::NeuronRegistered(netuid, uid, hotkey));
        Ok(())
    }

    /// Whether this interval takes no more registrations.
    pub fn interval_is_full(netuid: u16) -> bool {
        let most = TargetRegistrationsPerInterval::<T>::get(netuid).saturating_mul(3);
        RegistrationsThisInterval::<T>::get(netuid) >= most
    }

    pub(super) fn do_register_network(coldkey: AccountId32, hotkey: AccountId32) -> DispatchResult {
        let owner = Owner::<T>::try_get(&hotkey).ok();
        ensure!(owner.is_none_or(|owner| owner == coldkey), Error::<T>::NonAssociatedColdKey);
        ensure!(Self::network_is_due(), Error::<T>::NetworkTxRateLimitExceeded);
        ensure!(
            TotalNetworks::<T>::get() < SubnetLimit::<T>::get(),
            Error::<T>::SubnetLimitReached
        );
        let price = Self::network_price();
        ensure!(Self::can_pay(&coldkey, price), Error::<T>::CannotAffordLockCost);
        Self::withdraw(&coldkey, price)?;

        let now = Self::now();
        let netuid = (1..u16::MAX)
            .find(|id| !NetworksAdded::<T>::get(id))
            .ok_or(Error::<T>::SubnetLimitReached)?;
        LastRateLimitedBlock::<T>::insert(RateLimitKey::NetworkLastRegistered, now);
        NetworkLastLockCost::<T>::put(price);
        Self::create_network(netuid, now);
        SubnetOwner::<T>::insert(netuid, &coldkey);
        SubnetOwnerHotkey::<T>::insert(netuid, &hotkey);
        Self::associate(&coldkey, &hotkey)?;
        Self::seat(netuid, 0, &hotkey, now);
        Self::deposit_event(Event::NetworkAdded(netuid, SubnetMechanism::<T>::get(netuid)));
        Ok(())
    }

    /// Whether `NetworkRateLimit` blocks have passed since the last subnet was created.
    pub fn network_is_due() -> bool {
        let last = LastRateLimitedBlock::<T>::get(RateLimitKey::NetworkLastRegistered);
        last == 0 || Self::now().saturating_sub(last) >= NetworkRateLimit::<T>::get()
    }

    /// What a subnet costs now, in rao: it doubles with each and falls back over `NetworkLockReductionInterval`.
    pub fn network_price() -> u64 {
        let last_price = NetworkLastLockCost::<T>::get();
        let last_block = LastRateLimitedBlock::<T>::get(RateLimitKey::NetworkLastRegistered);
        let factor = if last_block == 0 { 1 } else { 2 };
        let per_block =
            last_price.checked_div(NetworkLockReductionInterval::<T>::get()).unwrap_or(0);
        let fallen = per_block.saturating_mul(Self::now().saturating_sub(last_block));
        last_price.saturating_mul(factor).saturating_sub(fallen).max(NetworkMinLockCost::<T>::get())
    }

    /// Writes what a new subnet starts with; the values are those of the real chain unless a comment says otherwise.
    pub(super) fn create_network(netuid: u16, now: u64) {
        SubnetworkN::<T>::insert(netuid, 0);
        NetworksAdded::<T>::insert(netuid, true);
        NetworkRegisteredAt::<T>::insert(netuid, now);
        TotalNetworks::<T>::mutate(|n| *n = n.saturating_add(1));
        SubnetMechanism::<T>::insert(netuid, 1);
        NetworkRegistrationAllowed::<T>::insert(netuid, true);
        MaxAllowedUids::<T>::insert(netuid, 256);
        MaxAllowedValidators::<T>::insert(netuid, 64);
        MinAllowedWeights::<T>::insert(netuid, 1);
        // Read by listing the whole map, in which defaults do not appear.
        Burn::<T>::insert(netuid, Burn::<T>::get(netuid));
        Tempo::<T>::insert(netuid, Tempo::<T>::get(netuid));
        AdjustmentInterval::<T>::insert(netuid, 360);
        AdjustmentAlpha::<T>::insert(netuid, NEW_ADJUSTMENT_ALPHA);
        ImmunityPeriod::<T>::insert(netuid, 5000);
        LastAdjustmentBlock::<T>::insert(netuid, now);
        Self::begin_schedule(netuid, now);
        MaxRegistrationsPerBlock::<T>::insert(netuid, NEW_REGISTRATIONS);
        TargetRegistrationsPerInterval::<T>::insert(netuid, NEW_REGISTRATIONS);
    }

    pub(super) fn do_start_call(coldkey: AccountId32, netuid: u16) -> DispatchResult {
        ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
        ensure!(SubnetOwner::<T>::get(netuid) == coldkey, Error::<T>::NotSubnetOwner);
        ensure!(
            FirstEmissionBlockNumber::<T>::get(netuid).is_none(),
            Error::<T>::FirstEmissionBlockNumberAlreadySet
        );
        let from =
            NetworkRegisteredAt::<T>::get(netuid).saturating_add(T::DurationOfStartCall::get());
        let now = Self::now();
        ensure!(now >= from, Error::<T>::NeedWaitingMoreBlocksToStarCall);
        let first = now.saturating_add(1);
        FirstEmissionBlockNumber::<T>::insert(netuid, first);
        SubtokenEnabled::<T>::insert(netuid, true);
        Self::deposit_event(Event::FirstEmissionBlockNumberSet(netuid, first));
        Ok(())
    }

    pub(super) fn do_root_register(coldkey: AccountId32, hotkey: AccountId32) -> DispatchResult {
        ensure!(
            !Uids::<T>::contains_key(ROOT, &hotkey),
            Error::<T>::HotKeyAlreadyRegisteredInSubNet
        );
        Self::associate(&coldkey, &hotkey)?;
        let n = SubnetworkN::<T>::get(ROOT);
        let uid = if n < MaxAllowedUids::<T>::get(ROOT) {
            n
        } else {
            let stake = |uid: &u16| Self::stake_weight(&Keys::<T>::get(ROOT, uid), ROOT);
            let weakest = (0..n).min_by_key(stake).ok_or(Error::<T>::StakeTooLowForRoot)?;
            ensure!(
                Self::stake_weight(&hotkey, ROOT) > stake(&weakest),
                Error::<T>::StakeTooLowForRoot
            );
            weakest
        };
        Self::seat(ROOT, uid, &hotkey, Self::now());
        Self::deposit_event(Event::NeuronRegistered(ROOT, uid, hotkey));
        Ok(())
    }

    /// Makes the coldkey the owner of a hotkey that nobody owns.
    fn associate(coldkey: &AccountId32, hotkey: &AccountId32) -> Result<(), Error<T>> {
        match Owner::<T>::try_get(hotkey) {
            Ok(owner) => ensure!(owner == *coldkey, Error::NonAssociatedColdKey),
            Err(()) => {
                Owner::<T>::insert(hotkey, coldkey);
                OwnedHotkeys::<T>::mutate(coldkey, |hotkeys| hotkeys.push(hotkey.clone()));
            }
        }
        Ok(())
    }

    /// A new uid, or that of the neuron which earns least: the older and then the lower of two equal ones. Neither
    /// new neurons nor the owner's are replaced.
    fn free_uid(netuid: u16, now: u64) -> Option<u16> {
        let n = SubnetworkN::<T>::get(netuid);
        if n < MaxAllowedUids::<T>::get(netuid) {
            return Some(n);
        }
        let emission = Emission::<T>::get(netuid);
        let immunity = u64::from(ImmunityPeriod::<T>::get(netuid));
        let owner = Self::owner_uid(netuid);
        (0..n)
            .map(|uid| (uid, BlockAtRegistration::<T>::get(netuid, uid)))
            .filter(|(uid, block)| now.saturating_sub(*block) >= immunity && owner != Some(*uid))
            .min_by_key(|(uid, block)| {
                (emission.get(usize::from(*uid)).copied().unwrap_or(0), *block, *uid)
            })
            .map(|(uid, _)| uid)
    }

    /// Puts a hotkey on a new or a taken uid and wipes what the one before left.
    fn seat(netuid: u16, uid: u16, hotkey: &AccountId32, now: u64) {
        if uid < SubnetworkN::<T>::get(netuid) {
            let before = Keys::<T>::get(netuid, uid);
            Uids::<T>::remove(netuid, &before);
            IsNetworkMember::<T>::remove(&before, netuid);
            Axons::<T>::remove(netuid, &before);
            Prometheus::<T>::remove(netuid, &before);
            NeuronCertificates::<T>::remove(netuid, &before);
        } else {
            SubnetworkN::<T>::insert(netuid, uid.saturating_add(1));
        }
        Self::wipe_scores(netuid, uid);
        Consensus::<T>::mutate(netuid, |values| put(values, uid, 0));
        Dividends::<T>::mutate(netuid, |values| put(values, uid, 0));
        ValidatorTrust::<T>::mutate(netuid, |values| put(values, uid, 0));
        Emission::<T>::mutate(netuid, |values| put(values, uid, 0));
        Active::<T>::mutate(netuid, |values| put(values, uid, true));
        ValidatorPermit::<T>::mutate(netuid, |values| put(values, uid, false));
        for index in
            (0..MechanismCountCurrent::<T>::get(netuid)).filter_map(|id| storage_index(netuid, id))
        {
            Incentive::<T>::mutate(index, |values| put(values, uid, 0));
            LastUpdate::<T>::mutate(index, |values| put(values, uid, now));
            Weights::<T>::remove(index, uid);
            Bonds::<T>::remove(index, uid);
        }
        Keys::<T>::insert(netuid, uid, hotkey);
        Uids::<T>::insert(netuid, hotkey, uid);
        BlockAtRegistration::<T>::insert(netuid, uid, now);
        IsNetworkMember::<T>::insert(hotkey, netuid, true);
    }

    /// Lets the price of a registration follow the demand, once per `AdjustmentInterval`.
    pub(super) fn adjust_price(netuid: u16, now: u64) {
        RegistrationsThisBlock::<T>::remove(netuid);
        let interval = u64::from(AdjustmentInterval::<T>::get(netuid));
        if interval == 0 || now.saturating_sub(LastAdjustmentBlock::<T>::get(netuid)) < interval {
            return;
        }
        let price = next_price(
            Burn::<T>::get(netuid),
            RegistrationsThisInterval::<T>::get(netuid),
            TargetRegistrationsPerInterval::<T>::get(netuid),
            AdjustmentAlpha::<T>::get(netuid),
        );
        let (low, high) = (MinBurn::<T>::get(netuid), MaxBurn::<T>::get(netuid));
        Burn::<T>::insert(netuid, price.min(high).max(low));
        LastAdjustmentBlock::<T>::insert(netuid, now);
        RegistrationsThisInterval::<T>::remove(netuid);
        BurnRegistrationsThisInterval::<T>::remove(netuid);
    }
}

/// `price * (registrations + target) / (2 * target)`, of which `1 - alpha / 2^64` counts.
fn next_price(price: u64, registrations: u16, target: u16, alpha: u64) -> u64 {
    let (price, target) = (u128::from(price), u128::from(target.max(1)));
    let wanted = price * (u128::from(registrations) + target) / (2 * target);
    let keep = u128::from(alpha);
    let all = u128::from(u64::MAX);
    let next = (price * keep / all).saturating_add(wanted.min(all) * (all - keep) / all);
    u64::try_from(next).unwrap_or(u64::MAX)
}

/// Puts a neuron's value into a list by uid.
pub fn put<V: Default + Clone>(values: &mut Vec<V>, uid: u16, value: V) {
    let uid = usize::from(uid);
    if values.len() <= uid {
        values.resize(uid + 1, V::default());
    }
    values[uid] = value;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_price_stays_at_the_target_and_follows_the_demand() {
        assert_eq!(next_price(1000, 2, 2, 0), 1000);
        assert_eq!(next_price(1000, 0, 2, 0), 500);
        assert_eq!(next_price(1000, 6, 2, 0), 2000);
        assert_eq!(next_price(1000, 6, 2, u64::MAX), 1000);
    }

    proptest! {
        #[test]
        fn no_demand_makes_the_price_overflow(price: u64, registrations: u16, target: u16, alpha: u64) {
            next_price(price, registrations, target, alpha);
        }
    }
}
