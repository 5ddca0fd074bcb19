//! Stake: one rao of TAO is one rao of alpha, held as shares of a hotkey's pot, so that emission into the pot
//! reaches everyone who has shares.

use frame_support::ensure;
use frame_support::pallet_prelude::DispatchResult;
use frame_support::traits::fungible::{Inspect, Mutate};
use frame_support::traits::tokens::{Fortitude, Precision, Preservation};
use sp_runtime::helpers_128bit::multiply_by_rational_with_rounding;
use sp_runtime::{AccountId32, DispatchError, Rounding};

use super::types::U64F64;
use super::{
    Alpha, Config, Error, Event, MIN_STAKE, NetworksAdded, Owner, Pallet, ROOT, StakingHotkeys,
    SubnetAlphaOut, SubnetTAO, SubtokenEnabled, TaoWeight, TotalHotkeyAlpha, TotalHotkeyShares,
    TotalIssuance, TotalStake,
};

/// One share, as stored.
const ONE: u128 = 1 << 64;

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
        let shares = Alpha::<T>::get((hotkey, coldkey, netuid)).bits;
        let all = TotalHotkeyShares::<T>::get(hotkey, netuid).bits;
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
        let all = TotalHotkeyShares::<T>::get(hotkey, netuid).bits;
        let shares = if pot == 0 || all == 0 {
            u128::from(amount) * ONE
        } else {
            multiply_by_rational_with_rounding(all, amount.into(), pot.into(), Rounding::Down)
                .ok_or(Error::<T>::Overflow)?
        };
        let all = all.checked_add(shares).ok_or(Error::<T>::Overflow)?;
        TotalHotkeyShares::<T>::insert(hotkey, netuid, U64F64 { bits: all });
        Alpha::<T>::mutate((hotkey, coldkey, netuid), |mine| {
            mine.bits = mine.bits.saturating_add(shares)
        });
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
        let all = TotalHotkeyShares::<T>::get(hotkey, netuid).bits;
        let mine = Alpha::<T>::get((hotkey, coldkey, netuid)).bits;
        let stake = Self::stake_of(hotkey, coldkey, netuid);
        // The last rao takes all shares along, so that rounding leaves none without alpha.
        let shares = if amount >= stake {
            mine
        } else {
            multiply_by_rational_with_rounding(all, amount.into(), pot.into(), Rounding::Up)
                .ok_or(Error::<T>::Overflow)?
                .min(mine)
        };
        TotalHotkeyShares::<T>::insert(hotkey, netuid, U64F64 { bits: all.saturating_sub(shares) });
        if mine == shares {
            Alpha::<T>::remove((hotkey, coldkey, netuid));
        } else {
            Alpha::<T>::insert((hotkey, coldkey, netuid), U64F64 { bits: mine - shares });
        }
        TotalHotkeyAlpha::<T>::insert(hotkey, netuid, pot.saturating_sub(amount));
        SubnetAlphaOut::<T>::mutate(netuid, |alpha| *alpha = alpha.saturating_sub(amount));
        Ok(())
    }
}
