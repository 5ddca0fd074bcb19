//! Epochs by a schedule in storage, and what else is stored in this spec's way.

use sp_runtime::AccountId32;

use super::super::runtime::subtensor::types::SafeFloat;
use super::super::runtime::subtensor::{
    ActivityCutoffFactorMilli, AlphaV2, BlocksSinceLastStep, Config, Event, LastEpochBlock,
    MaxEpochsPerBlock, Pallet, PendingEpochAt, SubnetEpochIndex, SubnetworkN, Tempo,
    TotalHotkeySharesV2,
};
use super::super::runtime::yuma;

/// A subnet that had no epoch for more blocks than this has one at once; the highest tempo an owner can set.
const MAX_IDLE_BLOCKS: u64 = 50_400;

/// The power of ten that shares are counted in.
const SHARE_EXPONENT: i64 = -4;

impl<T: Config> Pallet<T> {
    /// The subnets that have their epoch in this block. Those that are too many have it in the next one.
    pub(in super::super) fn take_turns(netuids: &[u16], now: u64) -> Vec<u16> {
        let most = usize::from(MaxEpochsPerBlock::<T>::get());
        let mut turns = Vec::new();
        for netuid in netuids.iter().copied() {
            BlocksSinceLastStep::<T>::mutate(netuid, |blocks| *blocks = blocks.saturating_add(1));
            if !Self::epoch_is_due(netuid, now) {
                continue;
            }
            if turns.len() >= most {
                let to_block = now.saturating_add(1);
                PendingEpochAt::<T>::insert(netuid, to_block);
                Self::deposit_event(Event::EpochDeferred { netuid, from_block: now, to_block });
                continue;
            }
            BlocksSinceLastStep::<T>::insert(netuid, 0);
            LastEpochBlock::<T>::insert(netuid, now);
            PendingEpochAt::<T>::insert(netuid, 0);
            SubnetEpochIndex::<T>::mutate(netuid, |index| *index = index.saturating_add(1));
            turns.push(netuid);
        }
        turns
    }

    /// Whether a subnet should have an epoch in this block. A tempo of 0 never has one.
    pub fn epoch_is_due(netuid: u16, now: u64) -> bool {
        let tempo = u64::from(Tempo::<T>::get(netuid));
        let pending = PendingEpochAt::<T>::get(netuid);
        let since = now.saturating_sub(LastEpochBlock::<T>::get(netuid));
        tempo != 0
            && (pending > 0 && now >= pending
                || BlocksSinceLastStep::<T>::get(netuid) > MAX_IDLE_BLOCKS
                || since >= tempo)
    }

    /// The block of the next epoch, as far as it is on the schedule; `None` with a tempo of 0.
    pub fn next_epoch_start(netuid: u16) -> Option<u64> {
        let tempo = Tempo::<T>::get(netuid);
        let by_tempo = LastEpochBlock::<T>::get(netuid).saturating_add(tempo.into());
        let pending = Some(PendingEpochAt::<T>::get(netuid)).filter(|block| *block > 0);
        (tempo != 0).then(|| pending.map_or(by_tempo, |pending| pending.min(by_tempo)))
    }

    /// The epoch that the present block belongs to: one that is due counts as begun.
    pub fn epoch_at(netuid: u16, now: u64) -> u64 {
        let due = u64::from(Self::epoch_is_due(netuid, now));
        SubnetEpochIndex::<T>::get(netuid).saturating_add(due)
    }

    /// The epoch that a commitment of this block belongs to.
    pub fn epoch_of_commit(netuid: u16, now: u64) -> u64 {
        Self::epoch_at(netuid, now)
    }

    /// What `WeightCommits` keeps of a commitment: its epoch, and twice its block, where earlier specs have bounds.
    pub(in super::super) fn when_committed(netuid: u16, now: u64, _period: u64) -> (u64, u64, u64) {
        (Self::epoch_at(netuid, now), now, now)
    }

    /// The epoch of a commitment, from the first thing that `WeightCommits` keeps of it.
    pub(in super::super) fn epoch_kept(_netuid: u16, kept: u64) -> u64 {
        kept
    }

    /// Sets `Tempo`. The next epoch comes a whole tempo later.
    pub fn put_tempo(netuid: u16, tempo: u16) {
        Tempo::<T>::insert(netuid, tempo);
        LastEpochBlock::<T>::insert(netuid, Self::now());
        PendingEpochAt::<T>::insert(netuid, 0);
    }

    /// A new subnet's first epoch comes a tempo after it was created.
    pub(in super::super) fn begin_schedule(netuid: u16, now: u64) {
        LastEpochBlock::<T>::insert(netuid, now);
    }

    /// Thousandths of a tempo without weights after which a validator is not counted.
    pub fn activity_cutoff_factor(netuid: u16) -> u32 {
        ActivityCutoffFactorMilli::<T>::get(netuid)
    }

    /// Blocks without weights after which a validator is not counted.
    pub fn activity_cutoff(netuid: u16) -> u64 {
        let factor = u64::from(ActivityCutoffFactorMilli::<T>::get(netuid));
        factor * u64::from(Tempo::<T>::get(netuid)) / 1000
    }

    /// Sets the factor so that with the present tempo the cutoff is so many blocks, or one tempo's rounding more.
    pub fn put_activity_cutoff(netuid: u16, blocks: u16) {
        let tempo = u32::from(Tempo::<T>::get(netuid)).max(1);
        ActivityCutoffFactorMilli::<T>::insert(netuid, (u32::from(blocks) * 1000).div_ceil(tempo));
    }

    /// Keeps nothing: this spec has no storage for it.
    pub(in super::super) fn keep_scores(_netuid: u16, _scores: yuma::Scores) {}

    /// Zeros, which this spec answers with where earlier ones had scores.
    pub(in super::super) fn kept_scores(netuid: u16) -> yuma::Scores {
        let zeros = vec![0; SubnetworkN::<T>::get(netuid).into()];
        yuma::Scores { rank: zeros.clone(), trust: zeros.clone(), pruning: zeros }
    }

    /// Nothing is kept, so nothing is wiped.
    pub(in super::super) fn wipe_scores(_netuid: u16, _uid: u16) {}

    /// All shares in a hotkey's alpha.
    pub(in super::super) fn all_shares(hotkey: &AccountId32, netuid: u16) -> u128 {
        TotalHotkeySharesV2::<T>::get(hotkey, netuid).mantissa
    }

    /// Sets all shares in a hotkey's alpha.
    pub(in super::super) fn put_all_shares(hotkey: &AccountId32, netuid: u16, shares: u128) {
        TotalHotkeySharesV2::<T>::insert(hotkey, netuid, float(shares));
    }

    /// One coldkey's shares in a hotkey's alpha.
    pub(in super::super) fn shares(
        hotkey: &AccountId32,
        coldkey: &AccountId32,
        netuid: u16,
    ) -> u128 {
        AlphaV2::<T>::get((hotkey, coldkey, netuid)).mantissa
    }

    /// Sets one coldkey's shares in a hotkey's alpha.
    pub(in super::super) fn put_shares(
        hotkey: &AccountId32,
        coldkey: &AccountId32,
        netuid: u16,
        shares: u128,
    ) {
        if shares == 0 {
            AlphaV2::<T>::remove((hotkey, coldkey, netuid));
        } else {
            AlphaV2::<T>::insert((hotkey, coldkey, netuid), float(shares));
        }
    }
}

fn float(shares: u128) -> SafeFloat {
    SafeFloat { mantissa: shares, exponent: SHARE_EXPONENT }
}
