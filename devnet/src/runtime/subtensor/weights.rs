//! Setting weights: the checks of the real chain in their order.

use frame_support::ensure;
use frame_support::pallet_prelude::DispatchResult;
use parity_scale_codec::Compact;
use sp_runtime::AccountId32;

use super::layout;
use super::{
    CommitRevealWeightsEnabled, Config, Error, Event, LastUpdate, MaxWeightsLimit,
    MechanismCountCurrent, MinAllowedWeights, NetworksAdded, Pallet, ROOT, StakeThreshold,
    SubnetOwnerHotkey, SubnetworkN, Uids, ValidatorPermit, Weights, WeightsSetRateLimit,
    WeightsVersionKey,
};

/// Mechanisms of all subnets share the maps kept by storage index: this many subnets lie between two mechanisms.
const SUBNETS_PER_MECHANISM: u16 = 4096;

/// The key of a mechanism's weights: `mecid * 4096 + netuid`. `None` if it does not fit.
pub fn storage_index(netuid: u16, mecid: u8) -> Option<u16> {
    u16::from(mecid).checked_mul(SUBNETS_PER_MECHANISM)?.checked_add(netuid)
}

impl<T: Config> Pallet<T> {
    pub(super) fn do_set_weights(
        hotkey: AccountId32,
        netuid: u16,
        mecid: u8,
        uids: Vec<u16>,
        values: Vec<u16>,
        version_key: u64,
    ) -> DispatchResult {
        ensure!(!CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealEnabled);
        Self::put_weights(&hotkey, netuid, mecid, uids, values, version_key)
    }

    /// Sets weights in several subnets: those that can be set are set, the others are told in events.
    pub(super) fn do_batch_set_weights(
        hotkey: AccountId32,
        netuids: Vec<Compact<u16>>,
        weights: Vec<Vec<(Compact<u16>, Compact<u16>)>>,
        version_keys: &[Compact<u64>],
    ) -> DispatchResult {
        let same = netuids.len() == weights.len() && netuids.len() == version_keys.len();
        ensure!(same, Error::<T>::InputLengthsUnequal);
        let items = netuids.iter().zip(weights).zip(version_keys);
        let outcomes: Vec<(u16, DispatchResult)> = items
            .map(|((netuid, weights), key)| {
                let (uids, values) =
                    weights.into_iter().map(|(uid, value)| (uid.0, value.0)).unzip();
                (netuid.0, Self::do_set_weights(hotkey.clone(), netuid.0, 0, uids, values, key.0))
            })
            .collect();
        Self::tell_batch(hotkey, netuids, outcomes);
        Ok(())
    }

    /// Says which items of a batch failed, or that none did.
    pub(super) fn tell_batch(
        hotkey: AccountId32,
        netuids: Vec<Compact<u16>>,
        outcomes: Vec<(u16, DispatchResult)>,
    ) {
        let mut failed = false;
        for (netuid, outcome) in outcomes {
            if let Err(error) = outcome {
                failed = true;
                Self::deposit_event(layout::item_failed(netuid, error));
            }
        }
        Self::deposit_event(if failed {
            Event::BatchCompletedWithErrors()
        } else {
            Event::BatchWeightsCompleted(netuids, hotkey)
        });
    }

    /// Sets weights, whether they come openly or from a commitment: that sets the block of the last update itself.
    pub(super) fn put_weights(
        hotkey: &AccountId32,
        netuid: u16,
        mecid: u8,
        uids: Vec<u16>,
        values: Vec<u16>,
        version_key: u64,
    ) -> DispatchResult {
        ensure!(netuid != ROOT, Error::<T>::CanNotSetRootNetworkWeights);
        ensure!(uids.len() == values.len(), Error::<T>::WeightVecNotEqualSize);
        let index = Self::mechanism_index(netuid, mecid)?;
        let n = SubnetworkN::<T>::get(netuid);
        ensure!(uids.len() <= usize::from(n), Error::<T>::UidsLengthExceedUidsInSubNet);
        let uid = Uids::<T>::get(netuid, hotkey).ok_or(Error::<T>::HotKeyNotRegisteredInSubNet)?;
        ensure!(
            Self::has_stake_for_weights(hotkey, netuid),
            Error::<T>::NotEnoughStakeToSetWeights
        );
        let wanted = WeightsVersionKey::<T>::get(netuid);
        ensure!(wanted == 0 || version_key >= wanted, Error::<T>::IncorrectWeightVersionKey);
        let now = Self::now();
        let open = !CommitRevealWeightsEnabled::<T>::get(netuid);
        let due = !open || Self::weights_are_due(netuid, index, uid, now);
        ensure!(due, Error::<T>::SettingWeightsTooFast);

        let of_itself = uids == [uid];
        let permitted =
            ValidatorPermit::<T>::get(netuid).get(usize::from(uid)).copied().unwrap_or(false);
        let by_owner = Self::owner_uid(netuid) == Some(uid);
        ensure!(of_itself || by_owner || permitted, Error::<T>::NeuronNoValidatorPermit);
        ensure!(!has_duplicates(&uids), Error::<T>::DuplicateUids);
        ensure!(uids.iter().all(|uid| *uid < n), Error::<T>::UidVecContainInvalidOne);
        let fewest = MinAllowedWeights::<T>::get(netuid).min(n);
        ensure!(of_itself || uids.len() >= usize::from(fewest), Error::<T>::WeightVecLengthIsLow);
        let values = upscaled(&values);
        let limit = MaxWeightsLimit::<T>::get(netuid);
        ensure!(of_itself || respects_limit(&values, limit), Error::<T>::MaxWeightExceeded);

        Weights::<T>::insert(index, uid, uids.into_iter().zip(values).collect::<Vec<_>>());
        if open {
            Self::set_last_update(index, uid, now);
        }
        Self::deposit_event(Event::WeightsSet(index, uid));
        Ok(())
    }

    /// The storage index of one of a subnet's mechanisms.
    pub(super) fn mechanism_index(netuid: u16, mecid: u8) -> Result<u16, Error<T>> {
        let exists =
            NetworksAdded::<T>::get(netuid) && mecid < MechanismCountCurrent::<T>::get(netuid);
        ensure!(exists, Error::MechanismDoesNotExist);
        storage_index(netuid, mecid).ok_or(Error::MechanismDoesNotExist)
    }

    /// Whether the hotkey's stake reaches `StakeThreshold`, or it is the subnet owner's.
    pub fn has_stake_for_weights(hotkey: &AccountId32, netuid: u16) -> bool {
        *hotkey == SubnetOwnerHotkey::<T>::get(netuid)
            || Self::stake_weight(hotkey, netuid) >= StakeThreshold::<T>::get()
    }

    /// Whether `WeightsSetRateLimit` blocks have passed. A last update of 0 means never.
    pub fn weights_are_due(netuid: u16, index: u16, uid: u16, now: u64) -> bool {
        match LastUpdate::<T>::get(index).get(usize::from(uid)).copied() {
            None | Some(0) => true,
            Some(last) => now.saturating_sub(last) >= WeightsSetRateLimit::<T>::get(netuid),
        }
    }

    pub(super) fn owner_uid(netuid: u16) -> Option<u16> {
        Uids::<T>::get(netuid, SubnetOwnerHotkey::<T>::get(netuid))
    }

    pub(super) fn set_last_update(index: u16, uid: u16, block: u64) {
        LastUpdate::<T>::mutate(index, |updates| {
            let uid = usize::from(uid);
            if updates.len() <= uid {
                updates.resize(uid + 1, 0);
            }
            updates[uid] = block;
        });
    }
}

fn has_duplicates(uids: &[u16]) -> bool {
    let mut sorted = uids.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

/// Scales so that the largest becomes 65535. All zeros stay zeros.
fn upscaled(values: &[u16]) -> Vec<u16> {
    let max = u64::from(values.iter().copied().max().unwrap_or(0));
    if max == 0 {
        return values.to_vec();
    }
    // At most 65535, since no value is above `max`.
    values.iter().map(|value| ((u64::from(*value) * 65_535 + max / 2) / max) as u16).collect()
}

/// Whether the largest value's share of the sum is at most `limit / 65535`; a limit of 65535 is off.
fn respects_limit(values: &[u16], limit: u16) -> bool {
    let sum: u64 = values.iter().copied().map(u64::from).sum();
    let max = u64::from(values.iter().copied().max().unwrap_or(0));
    limit == u16::MAX || max * 65_535 <= sum * u64::from(limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mechanisms_are_kept_4096_apart() {
        assert_eq!(storage_index(7, 0), Some(7));
        assert_eq!(storage_index(7, 1), Some(4103));
        assert_eq!(storage_index(7, 255), None);
    }

    #[test]
    fn the_share_of_the_largest_weight_is_limited() {
        assert!(respects_limit(&[1, 1, 1, 1], 16_384));
        assert!(!respects_limit(&[1, 1, 1, 1], 16_383));
        assert!(respects_limit(&[65_535], u16::MAX));
        assert!(respects_limit(&[], 0));
    }

    proptest! {
        #[test]
        fn upscaling_reaches_the_maximum_and_keeps_the_order(values in prop::collection::vec(any::<u16>(), 1..300)) {
            let scaled = upscaled(&values);
            prop_assert!(values.iter().all(|v| *v == 0) || scaled.contains(&u16::MAX));
            for (a, b) in values.iter().zip(&scaled) {
                for (c, d) in values.iter().zip(&scaled) {
                    prop_assert!(a > c || b <= d);
                }
            }
        }
    }
}
