//! Mechanisms: several sets of weights in one subnet, each with its part of the emission.
//!
//! As on the real chain, an epoch runs each mechanism by itself with its own weights, bonds and last updates. What is
//! kept by netuid is then put together: pay is added up, flags hold if they hold anywhere, and dividends, consensus,
//! validator trust, the older scores and `Emission` are sums weighted by the mechanisms' parts. With one mechanism these
//! are its own results.

use frame_support::ensure;
use frame_support::pallet_prelude::DispatchResult;

use super::{
    Bonds, Config, Error, Incentive, LastUpdate, MechanismCountCurrent, MechanismEmissionSplit,
    NetworksAdded, Pallet, SubnetworkN, TimelockedWeightCommits, WeightCommits, Weights,
    storage_index,
};

/// The most mechanisms that a subnet has.
pub const MAX_MECHANISMS: u8 = 2;

impl<T: Config> Pallet<T> {
    /// Sets how many mechanisms a subnet has. Those taken away are wiped, and the emission is split equally again.
    pub fn do_set_mechanism_count(netuid: u16, count: u8) -> DispatchResult {
        ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::MechanismDoesNotExist);
        ensure!((1..=MAX_MECHANISMS).contains(&count), Error::<T>::InvalidValue);
        let before = MechanismCountCurrent::<T>::get(netuid);
        if before == count {
            return Ok(());
        }
        for index in (count..before).filter_map(|mecid| storage_index(netuid, mecid)) {
            for uid in 0..SubnetworkN::<T>::get(netuid) {
                Weights::<T>::remove(index, uid);
                Bonds::<T>::remove(index, uid);
            }
            Incentive::<T>::remove(index);
            LastUpdate::<T>::remove(index);
            let hotkeys: Vec<_> = WeightCommits::<T>::iter_key_prefix(index).collect();
            for hotkey in hotkeys {
                WeightCommits::<T>::remove(index, hotkey);
            }
            let epochs: Vec<u64> = TimelockedWeightCommits::<T>::iter_key_prefix(index).collect();
            for epoch in epochs {
                TimelockedWeightCommits::<T>::remove(index, epoch);
            }
        }
        MechanismCountCurrent::<T>::insert(netuid, count);
        MechanismEmissionSplit::<T>::remove(netuid);
        Ok(())
    }

    /// Sets how the emission is split between mechanisms; `None` is equally.
    pub fn do_set_emission_split(netuid: u16, split: Option<Vec<u16>>) -> DispatchResult {
        ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::MechanismDoesNotExist);
        let Some(split) = split else {
            MechanismEmissionSplit::<T>::remove(netuid);
            return Ok(());
        };
        let most = usize::from(MechanismCountCurrent::<T>::get(netuid));
        ensure!((1..=most).contains(&split.len()), Error::<T>::InvalidValue);
        let sum: u32 = split.iter().copied().map(u32::from).sum();
        ensure!(sum == u32::from(u16::MAX), Error::<T>::InvalidValue);
        MechanismEmissionSplit::<T>::insert(netuid, split);
        Ok(())
    }

    /// Each mechanism's part of an amount.
    pub(super) fn split_between_mechanisms(netuid: u16, rao: u64) -> Vec<u64> {
        let count = MechanismCountCurrent::<T>::get(netuid);
        parts(rao, count.into(), MechanismEmissionSplit::<T>::get(netuid).as_deref())
    }
}

/// Parts that sum up to `rao`; what rounding leaves goes to the first.
fn parts(rao: u64, count: usize, split: Option<&[u16]>) -> Vec<u64> {
    let part = |at: usize| match split {
        // At most `rao`.
        Some(split) => {
            let share = u128::from(split.get(at).copied().unwrap_or(0));
            (u128::from(rao) * share / u128::from(u16::MAX)) as u64
        }
        None => rao / count.max(1) as u64,
    };
    let mut parts: Vec<u64> = (0..count).map(part).collect();
    let given: u64 = parts.iter().copied().fold(0, u64::saturating_add);
    if let Some(first) = parts.first_mut() {
        *first = first.saturating_add(rao.saturating_sub(given));
    }
    parts
}

/// What several mechanisms' results make together, each weighted by its part of the emission.
#[derive(Debug, Default)]
pub(super) struct Combined<V>(Vec<V>);

impl<V: Copy + Default> Combined<V> {
    /// The results.
    pub(super) fn into_values(self) -> Vec<V> {
        self.0
    }

    fn each(&mut self, values: Vec<V>, join: impl Fn(V, V) -> V) {
        self.0.resize(self.0.len().max(values.len()), V::default());
        for (sum, value) in self.0.iter_mut().zip(values) {
            *sum = join(*sum, value);
        }
    }
}

impl Combined<u16> {
    pub(super) fn add(&mut self, values: Vec<u16>, weight: f64) {
        // `as` rounds down and saturates.
        self.each(values, |sum, value| sum.saturating_add((f64::from(value) * weight) as u16));
    }
}

impl Combined<u64> {
    pub(super) fn add(&mut self, values: Vec<u64>, weight: f64) {
        self.each(values, |sum, value| sum.saturating_add((value as f64 * weight) as u64));
    }
}

impl Combined<bool> {
    pub(super) fn add(&mut self, values: Vec<bool>) {
        self.each(values, |sum, value| sum | value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_amount_is_split_equally_or_as_set() {
        assert_eq!(parts(101, 2, None), [51, 50]);
        assert_eq!(parts(100, 1, None), [100]);
        assert_eq!(parts(65_535, 2, Some(&[20_000, 45_535])), [20_000, 45_535]);
        assert_eq!(parts(100, 2, Some(&[65_535])), [100, 0]);
    }

    #[test]
    fn results_are_weighted_and_flags_hold_if_they_hold_anywhere() {
        let mut sum = Combined::<u16>::default();
        sum.add(vec![100, 65_535], 0.25);
        sum.add(vec![200, 65_535, 8], 0.75);
        assert_eq!(sum.into_values(), [175, 65_534, 6]);
        let mut flags = Combined::<bool>::default();
        flags.add(vec![true, false]);
        flags.add(vec![false, false, true]);
        assert_eq!(flags.into_values(), [true, false, true]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_in_a_split(rao: u64, first: u16, count in 1..3_usize) {
            let split = [first, u16::MAX - first];
            for split in [None, Some(&split[..])] {
                let parts = parts(rao, count, split);
                prop_assert_eq!(parts.iter().map(|part| u128::from(*part)).sum::<u128>(), u128::from(rao));
            }
        }
    }
}
