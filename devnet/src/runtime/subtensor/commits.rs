//! Commitments: hashes that the hotkey reveals itself, and ciphertexts that the chain opens. The checks are those of
//! the real chain in their order.

use frame_support::ensure;
use frame_support::pallet_prelude::DispatchResult;
use parity_scale_codec::{Compact, Encode};
use sp_core::H256;
use sp_runtime::AccountId32;
use sp_runtime::traits::{BlakeTwo256, Hash};

use super::types::Ciphertext;
use super::{
    CommitRevealWeightsEnabled, CommitRevealWeightsVersion, Config, Error, Event, Pallet,
    RevealPeriodEpochs, TimelockedWeightCommits, Uids, WeightCommits,
};

/// Commitments of a hotkey that may wait at a time, for each mechanism.
const MAX_UNREVEALED: usize = 10;

/// Bounds of `RevealPeriodEpochs`.
const REVEAL_PERIODS: std::ops::RangeInclusive<u64> = 1..=100;

impl<T: Config> Pallet<T> {
    /// Keeps a hash of weights.
    pub(super) fn do_commit_weights(
        hotkey: AccountId32,
        netuid: u16,
        mecid: u8,
        hash: H256,
    ) -> DispatchResult {
        let index = Self::mechanism_index(netuid, mecid)?;
        ensure!(CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealDisabled);
        let uid = Self::committing_uid(&hotkey, netuid, index)?;
        let now = Self::now();
        WeightCommits::<T>::try_mutate(index, &hotkey, |kept| -> DispatchResult {
            let mut commits = kept.take().unwrap_or_default();
            while commits.front().is_some_and(|(_, of, _, _)| Self::is_expired(netuid, *of)) {
                commits.pop_front();
            }
            ensure!(commits.len() < MAX_UNREVEALED, Error::<T>::TooManyUnrevealedCommits);
            let period = RevealPeriodEpochs::<T>::get(netuid);
            let (of, first, last) = Self::when_committed(netuid, now, period);
            commits.push_back((hash, of, first, last));
            *kept = Some(commits);
            Ok(())
        })?;
        Self::set_last_update(index, uid, now);
        Self::deposit_event(Event::WeightsCommitted(hotkey, index, hash));
        Ok(())
    }

    /// Keeps hashes of weights for several subnets: those that can be kept are kept, the others are told in events.
    pub(super) fn do_batch_commit_weights(
        hotkey: AccountId32,
        netuids: Vec<Compact<u16>>,
        hashes: &[H256],
    ) -> DispatchResult {
        ensure!(netuids.len() == hashes.len(), Error::<T>::InputLengthsUnequal);
        let outcomes = netuids
            .iter()
            .zip(hashes)
            .map(|(netuid, hash)| {
                (netuid.0, Self::do_commit_weights(hotkey.clone(), netuid.0, 0, *hash))
            })
            .collect();
        Self::tell_batch(hotkey, netuids, outcomes);
        Ok(())
    }

    /// Keeps weights that the signature of `round` opens.
    pub(super) fn do_commit_timelocked_weights(
        hotkey: AccountId32,
        netuid: u16,
        mecid: u8,
        commit: Ciphertext,
        round: u64,
        version: u16,
    ) -> DispatchResult {
        let index = Self::mechanism_index(netuid, mecid)?;
        ensure!(CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealDisabled);
        ensure!(
            version == CommitRevealWeightsVersion::<T>::get(),
            Error::<T>::IncorrectCommitRevealVersion
        );
        let uid = Self::committing_uid(&hotkey, netuid, index)?;
        let now = Self::now();
        let epoch = Self::epoch_of_commit(netuid, now);
        let hash = BlakeTwo256::hash(&commit);
        TimelockedWeightCommits::<T>::try_mutate(index, epoch, |commits| -> DispatchResult {
            let waiting = commits.iter().filter(|(who, ..)| *who == hotkey).count();
            ensure!(waiting < MAX_UNREVEALED, Error::<T>::TooManyUnrevealedCommits);
            commits.push_back((hotkey.clone(), now, commit, round));
            Ok(())
        })?;
        Self::set_last_update(index, uid, now);
        Self::deposit_event(Event::TimelockedWeightsCommitted(hotkey, index, hash, round));
        Ok(())
    }

    fn committing_uid(hotkey: &AccountId32, netuid: u16, index: u16) -> Result<u16, Error<T>> {
        let uid = Uids::<T>::get(netuid, hotkey).ok_or(Error::HotKeyNotRegisteredInSubNet)?;
        let due = Self::weights_are_due(netuid, index, uid, Self::now());
        ensure!(due, Error::CommittingWeightsTooFast);
        Ok(uid)
    }

    /// Whether the epoch in which a commitment can be revealed is over; `kept` is what was kept of its time.
    pub(super) fn is_expired(netuid: u16, kept: u64) -> bool {
        Self::epoch_at(netuid, Self::now()) > Self::epoch_of_reveal(netuid, kept)
    }

    /// Whether a commitment can be revealed now: in one epoch alone.
    pub fn is_revealable(netuid: u16, kept: u64) -> bool {
        Self::epoch_at(netuid, Self::now()) == Self::epoch_of_reveal(netuid, kept)
    }

    fn epoch_of_reveal(netuid: u16, kept: u64) -> u64 {
        Self::epoch_kept(netuid, kept).saturating_add(RevealPeriodEpochs::<T>::get(netuid))
    }

    /// The hash that stands for weights.
    pub fn hash_of_weights(
        hotkey: &AccountId32,
        index: u16,
        uids: &[u16],
        values: &[u16],
        salt: &[u16],
        version_key: u64,
    ) -> H256 {
        BlakeTwo256::hash(&(hotkey, index, uids, values, salt, version_key).encode())
    }

    /// Sets `RevealPeriodEpochs`.
    pub fn do_set_reveal_period(netuid: u16, epochs: u64) -> DispatchResult {
        ensure!(epochs <= *REVEAL_PERIODS.end(), Error::<T>::RevealPeriodTooLarge);
        ensure!(epochs >= *REVEAL_PERIODS.start(), Error::<T>::RevealPeriodTooSmall);
        RevealPeriodEpochs::<T>::insert(netuid, epochs);
        Self::deposit_event(Event::CommitRevealPeriodsSet(netuid, epochs));
        Ok(())
    }
}
