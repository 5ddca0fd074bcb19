//! Reveals: of hashes by the hotkey, of ciphertexts by the chain itself, in every block before epochs run.

use alloc::collections::VecDeque;

use frame_support::ensure;
use frame_support::pallet_prelude::DispatchResult;
use parity_scale_codec::Decode;
use sp_core::H256;
use sp_runtime::AccountId32;
use timelock::WeightsPayload;

use super::super::drand;
use super::{
    CommitRevealWeightsEnabled, Config, Error, Event, MechanismCountCurrent, Pallet,
    RevealPeriodEpochs, TimelockedWeightCommits, WeightCommits, storage_index,
};

/// Weights as a hotkey reveals them.
pub(super) struct Revealed {
    /// Whom they are for.
    pub(super) uids: Vec<u16>,
    /// The weights.
    pub(super) values: Vec<u16>,
    /// What made the hash hard to guess.
    pub(super) salt: Vec<u16>,
    /// The version of the validator's code.
    pub(super) version_key: u64,
}

/// What ciphertexts held before the hotkey was part of it. The chain still takes it.
#[derive(Decode)]
struct OldPayload {
    uids: Vec<u16>,
    values: Vec<u16>,
    version_key: u64,
}

impl<T: Config> Pallet<T> {
    pub(super) fn do_reveal_weights(
        hotkey: AccountId32,
        netuid: u16,
        mecid: u8,
        revealed: Revealed,
    ) -> DispatchResult {
        let index = Self::mechanism_index(netuid, mecid)?;
        ensure!(CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealDisabled);
        let hash = Self::hash_of(&hotkey, index, &revealed);
        WeightCommits::<T>::try_mutate_exists(index, &hotkey, |kept| -> DispatchResult {
            let commits = kept.as_mut().ok_or(Error::<T>::NoWeightsCommitFound)?;
            let expired = Self::take_expired(netuid, commits);
            if commits.is_empty() && !expired.contains(&hash) {
                return Err(Error::<T>::NoWeightsCommitFound.into());
            }
            let place = Self::revealable(netuid, commits, &expired, hash)?;
            // What was committed before it can no longer matter.
            commits.drain(..=place);
            if commits.is_empty() {
                *kept = None;
            }
            let Revealed { uids, values, version_key, .. } = revealed;
            Self::put_weights(&hotkey, netuid, mecid, uids, values, version_key)
        })?;
        Self::deposit_event(Event::WeightsRevealed(hotkey, index, hash));
        Ok(())
    }

    /// Reveals several, all or none.
    pub(super) fn do_batch_reveal_weights(
        hotkey: AccountId32,
        netuid: u16,
        all: Vec<Revealed>,
    ) -> DispatchResult {
        let index = Self::mechanism_index(netuid, 0)?;
        ensure!(CommitRevealWeightsEnabled::<T>::get(netuid), Error::<T>::CommitRevealDisabled);
        let hashes: Vec<H256> =
            all.iter().map(|revealed| Self::hash_of(&hotkey, index, revealed)).collect();
        WeightCommits::<T>::try_mutate_exists(index, &hotkey, |kept| -> DispatchResult {
            let commits = kept.as_mut().ok_or(Error::<T>::NoWeightsCommitFound)?;
            let expired = Self::take_expired(netuid, commits);
            for hash in &hashes {
                Self::revealable(netuid, commits, &expired, *hash)?;
            }
            for (revealed, hash) in all.into_iter().zip(&hashes) {
                // A second time the same one is no longer there.
                let place = Self::revealable(netuid, commits, &expired, *hash)?;
                commits.remove(place);
                let Revealed { uids, values, version_key, .. } = revealed;
                Self::put_weights(&hotkey, netuid, 0, uids, values, version_key)?;
            }
            if commits.is_empty() {
                *kept = None;
            }
            Ok(())
        })?;
        Self::deposit_event(Event::WeightsBatchRevealed(hotkey, netuid, hashes));
        Ok(())
    }

    fn hash_of(hotkey: &AccountId32, index: u16, revealed: &Revealed) -> H256 {
        let Revealed { uids, values, salt, version_key } = revealed;
        Self::hash_of_weights(hotkey, index, uids, values, salt, *version_key)
    }

    /// Takes away what can no longer be revealed. Returns its hashes.
    fn take_expired(netuid: u16, commits: &mut VecDeque<(H256, u64, u64, u64)>) -> Vec<H256> {
        let mut expired = Vec::new();
        while let Some((hash, of, _, _)) = commits.front() {
            if !Self::is_expired(netuid, *of) {
                break;
            }
            expired.push(*hash);
            commits.pop_front();
        }
        expired
    }

    /// The place of a commitment that can be revealed now.
    fn revealable(
        netuid: u16,
        commits: &VecDeque<(H256, u64, u64, u64)>,
        expired: &[H256],
        hash: H256,
    ) -> Result<usize, Error<T>> {
        let found = commits.iter().enumerate().find(|(_, (kept, ..))| *kept == hash);
        let Some((place, (_, of, _, _))) = found else {
            return Err(if expired.contains(&hash) {
                Error::ExpiredWeightCommit
            } else {
                Error::InvalidRevealCommitHashNotMatch
            });
        };
        ensure!(Self::is_revealable(netuid, *of), Error::RevealTooEarly);
        Ok(place)
    }

    /// Whether the pool takes this reveal.
    ///
    /// # Errors
    /// [`Error::NoWeightsCommitFound`] or [`Error::RevealTooEarly`], which here also means too late.
    pub fn check_reveal(
        hotkey: &AccountId32,
        netuid: u16,
        mecid: u8,
        hash: H256,
    ) -> Result<(), Error<T>> {
        let commits = storage_index(netuid, mecid)
            .and_then(|index| WeightCommits::<T>::get(index, hotkey))
            .ok_or(Error::NoWeightsCommitFound)?;
        let (_, of, _, _) =
            commits.iter().find(|(kept, ..)| *kept == hash).ok_or(Error::NoWeightsCommitFound)?;
        ensure!(Self::is_revealable(netuid, *of), Error::RevealTooEarly);
        Ok(())
    }

    /// Opens what was committed in the epoch whose turn it is, and sets it. What cannot be opened or set is dropped in
    /// silence; what waits for its round's signature is tried again in the next block, as long as the epoch lasts.
    pub(super) fn reveal_timelocked(netuid: u16, now: u64) {
        let period = RevealPeriodEpochs::<T>::get(netuid);
        let current = Self::epoch_at(netuid, now);
        let due = current.saturating_sub(period);
        for mecid in 0..MechanismCountCurrent::<T>::get(netuid) {
            let Some(index) = storage_index(netuid, mecid) else { continue };
            let old: Vec<u64> = TimelockedWeightCommits::<T>::iter_key_prefix(index)
                .filter(|epoch| *epoch < due)
                .collect();
            for epoch in old {
                TimelockedWeightCommits::<T>::remove(index, epoch);
            }
            if current < period || !TimelockedWeightCommits::<T>::contains_key(index, due) {
                continue;
            }
            let mut waiting = VecDeque::new();
            for (hotkey, block, commit, round) in TimelockedWeightCommits::<T>::take(index, due) {
                let Some(pulse) = drand::Pulses::<T>::get(round) else {
                    waiting.push_back((hotkey, block, commit, round));
                    continue;
                };
                let Some((uids, values, key)) = opened(&hotkey, &commit, &pulse.signature) else {
                    continue;
                };
                if Self::put_weights(&hotkey, netuid, mecid, uids, values, key).is_ok() {
                    Self::deposit_event(Event::TimelockedWeightsRevealed(index, hotkey));
                }
            }
            if !waiting.is_empty() {
                TimelockedWeightCommits::<T>::insert(index, due, waiting);
            }
        }
    }
}

/// Uids, weights and version key of a ciphertext, if the signature opens it and it is the hotkey's own.
fn opened(
    hotkey: &AccountId32,
    commit: &[u8],
    signature: &[u8],
) -> Option<(Vec<u16>, Vec<u16>, u64)> {
    let bytes = timelock::decrypt_as_the_chain(commit, signature).ok()?;
    if let Ok(payload) = WeightsPayload::decode(&mut &bytes[..])
        && let Ok(of) = AccountId32::decode(&mut &payload.hotkey[..])
    {
        return (of == *hotkey).then_some((payload.uids, payload.values, payload.version_key));
    }
    let old = OldPayload::decode(&mut &bytes[..]).ok()?;
    Some((old.uids, old.values, old.version_key))
}
