//! Stake: one rao of TAO is one rao of alpha, held as shares of a hotkey's pot, so that emission into the pot
//! reaches everyone who has shares.

use frame_support::ensure;
use frame_support::pallet_prelude::DispatchResult;
use frame_support::traits::fungible::{Inspect, Mutate};
use frame_support::traits::tokens::{Fortitude, Precision, Preservation};
use sp_runtime::helpers_128bit::multiply_by_rational_with_rounding;
use sp_runtime::{AccountId32, DispatchError, Rounding};

use super::layout::ONE_SHARE;
use super::{
    Config, Error, Event, MIN_STAKE, NetworksAdded, Owner, Pallet, ROOT, StakingHotkeys,
    SubnetAlphaOut, SubnetTAO, SubtokenEnabled, TaoWeight, TotalHotkeyAlpha, TotalIssuance,
    TotalStake,
};

impl<T: Config> Pallet<T> {
    pub(super) fn do_add_stake(
        coldkey: AccountId32,
        hotkey: AccountId32,
        netuid: u16,
        amount: u64,
    ) -> DispatchResult {
        Self::check_add_stake(&coldkey, &hotkey, netuid, amount)?;
        Self::withdraw(&coldkey, amount)?;
        Self::increase_stake(&hotkey, &coldkey, netuid, amount)?;
        SubnetTAO::<T>::mutate(netuid, |tao| *tao = tao.saturating_add(amount));
        TotalStake::<T>::mutate(|total| *total = total.saturating_add(amount));
        Self::deposit_event(Event::StakeAdded(coldkey, hotkey, amount, amount, netuid, 0));
        Ok(())
    }

    pub(super) fn do_remove_stake(
        coldkey: AccountId32,
        hotkey: AccountId32,
        netuid: u16,
        amount: u64,
    ) -> DispatchResult {
        Self::check_remove_stake(&coldkey, &hotkey, netuid, amount)?;
        Self::decrease_stake(&hotkey, &coldkey, netuid, amount)?;
        SubnetTAO::<T>::mutate(netuid, |tao| *tao = tao.saturating_sub(amount));
        TotalStake::<T>::mutate(|total| *total = total.saturating_sub(amount));
        pallet_balances::Pallet::<T>::mint_into(&coldkey, amount)?;
        TotalIssuance::<T>::mutate(|issued| *issued = issued.saturating_add(amount));
        Self::deposit_event(Event::StakeRemoved(coldkey, hotkey, amount, amount, netuid, 0));
        Ok(())
    }

    /// Whether the stake can be added.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_add_stake(
        coldkey: &AccountId32,
        hotkey: &AccountId32,
        netuid: u16,
        amount: u64,
    ) -> Result<(), Error<T>> {
        ensure!(NetworksAdded::<T>::get(netuid), Error::SubnetNotExists);
        ensure!(SubtokenEnabled::<T>::get(netuid), Error::SubtokenDisabled);
        ensure!(amount >= MIN_STAKE, Error::AmountTooLow);
        ensure!(Self::can_pay(coldkey, amount), Error::NotEnoughBalanceToStake);
        ensure!(Owner::<T>::contains_key(hotkey), Error::HotKeyAccountNotExists);
        Ok(())
    }

    /// Whether the stake can be taken back.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_remove_stake(
        coldkey: &AccountId32,
        hotkey: &AccountId32,
        netuid: u16,
        amount: u64,
    ) -> Result<(), Error<T>> {
        ensure!(NetworksAdded::<T>::get(netuid), Error::SubnetNotExists);
        ensure!(SubtokenEnabled::<T>::get(netuid), Error::SubtokenDisabled);
        ensure!(Owner::<T>::contains_key(hotkey), Error::HotKeyAccountNotExists);
        ensure!(Self::stake_of(hotkey, coldkey, netuid) >= amount, Error::NotEnoughStakeToWithdraw);
        ensure!(amount >= MIN_STAKE, Error::AmountTooLow);
        Ok(())
    }

    /// A hotkey's weight in a subnet: its alpha there, plus its root stake times `TaoWeight`. In rao.
    pub fn stake_weight(hotkey: &AccountId32, netuid: u16) -> u64 {
        let alpha = if netuid == ROOT { 0 } else { TotalHotkeyAlpha::<T>::get(hotkey, netuid) };
        alpha.saturating_add(Self::weighted_tao(hotkey))
    }

    /// A hotkey's root stake times `TaoWeight`, in rao.
    pub fn weighted_tao(hotkey: &AccountId32) -> u64 {
        let tao = u128::from(TotalHotkeyAlpha::<T>::get(hotkey, ROOT));
        // Both factors have 64 bits and the quotient has no more than `tao`.
        (tao * u128::from(TaoWeight::<T>::get()) / u128::from(u64::MAX)) as u64
    }

    /// A coldkey's stake on a hotkey, in rao of alpha.
    pub fn stake_of(hotkey: &AccountId32, coldkey: &AccountId32, netuid: u16) -> u64 {
        let shares = Self::shares(hotkey, coldkey, netuid);
        let all = Self::all_shares(hotkey, netuid);
        let pot = u128::from(TotalHotkeyAlpha::<T>::get(hotkey, netuid));
        let stake = multiply_by_rational_with_rounding(pot, shares, all, Rounding::Down);
        if all == 0 { 0 } else { stake.map_or(0, |stake| u64::try_from(stake).unwrap_or(u64::MAX)) }
    }

    /// Whether the coldkey can lose this much and stay alive.
    pub(super) fn can_pay(coldkey: &AccountId32, amount: u64) -> bool {
        let free = pallet_balances::Pallet::<T>::reducible_balance(
            coldkey,
            Preservation::Preserve,
            Fortitude::Polite,
        );
        free >= amount
    }

    /// Takes TAO out of circulation.
    pub(super) fn withdraw(coldkey: &AccountId32, amount: u64) -> DispatchResult {
        pallet_balances::Pallet::<T>::burn_from(
            coldkey,
            amount,
            Preservation::Preserve,
            Precision::Exact,
            Fortitude::Polite,
        )?;
        TotalIssuance::<T>::mutate(|issued| *issued = issued.saturating_sub(amount));
        Ok(())
    }

    /// Adds alpha that belongs to one coldkey.
    pub(super) fn increase_stake(
        hotkey: &AccountId32,
        coldkey: &AccountId32,
        netuid: u16,
        amount: u64,
    ) -> DispatchResult {
        if amount == 0 {
            return Ok(());
        }
        let pot = TotalHotkeyAlpha::<T>::get(hotkey, netuid);
        let all = Self::all_shares(hotkey, netuid);
        let shares = if pot == 0 || all == 0 {
            u128::from(amount) * ONE_SHARE
        } else {
            multiply_by_rational_with_rounding(all, amount.into(), pot.into(), Rounding::Down)
                .ok_or(Error::<T>::Overflow)?
        };
        let all = all.checked_add(shares).ok_or(Error::<T>::Overflow)?;
        Self::put_all_shares(hotkey, netuid, all);
        let mine = Self::shares(hotkey, coldkey, netuid).saturating_add(shares);
        Self::put_shares(hotkey, coldkey, netuid, mine);
        StakingHotkeys::<T>::mutate(coldkey, |hotkeys| {
            if !hotkeys.contains(hotkey) {
                hotkeys.push(hotkey.clone());
            }
        });
        Self::fill_pot(hotkey, netuid, amount);
        Ok(())
    }

    /// Adds alpha that belongs to all who have shares.
    pub(super) fn fill_pot(hotkey: &AccountId32, netuid: u16, amount: u64) {
        TotalHotkeyAlpha::<T>::mutate(hotkey, netuid, |pot| *pot = pot.saturating_add(amount));
        SubnetAlphaOut::<T>::mutate(netuid, |alpha| *alpha = alpha.saturating_add(amount));
    }

    fn decrease_stake(
        hotkey: &AccountId32,
        coldkey: &AccountId32,
        netuid: u16,
        amount: u64,
    ) -> Result<(), DispatchError> {
        let pot = TotalHotkeyAlpha::<T>::get(hotkey, netuid);
        let all = Self::all_shares(hotkey, netuid);
        let mine = Self::shares(hotkey, coldkey, netuid);
        let stake = Self::stake_of(hotkey, coldkey, netuid);
        // The last rao takes all shares along, so that rounding leaves none without alpha.
        let shares = if amount >= stake {
            mine
        } else {
            multiply_by_rational_with_rounding(all, amount.into(), pot.into(), Rounding::Up)
                .ok_or(Error::<T>::Overflow)?
                .min(mine)
        };
        Self::put_all_shares(hotkey, netuid, all.saturating_sub(shares));
        Self::put_shares(hotkey, coldkey, netuid, mine.saturating_sub(shares));
        TotalHotkeyAlpha::<T>::insert(hotkey, netuid, pot.saturating_sub(amount));
        SubnetAlphaOut::<T>::mutate(netuid, |alpha| *alpha = alpha.saturating_sub(amount));
        Ok(())
    }
}
