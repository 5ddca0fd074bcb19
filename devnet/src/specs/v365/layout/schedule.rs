//! Epochs by the block's number, and what else is stored in this spec's way.

use sp_runtime::AccountId32;

use super::super::runtime::subtensor::types::U64F64;
use super::super::runtime::subtensor::{
    ActivityCutoff, Alpha, BlocksSinceLastStep, Config, Pallet, PruningScores, Rank, Tempo,
    TotalHotkeyShares, Trust, put,
};
use super::super::runtime::yuma;

impl<T: Config> Pallet<T> {
    /// The subnets that have their epoch in this block.
    pub(in super::super) fn take_turns(netuids: &[u16], now: u64) -> Vec<u16> {
        let mut turns = Vec::new();
        for netuid in netuids.iter().copied() {
            if is_epoch(netuid, Tempo::<T>::get(netuid), now) {
                BlocksSinceLastStep::<T>::insert(netuid, 0);
                turns.push(netuid);
            } else {
                BlocksSinceLastStep::<T>::mutate(netuid, |blocks| {
                    *blocks = blocks.saturating_add(1)
                });
            }
        }
        turns
    }

    /// The epoch that a block belongs to; the epoch runs in the last block of its number.
    pub fn epoch_at(netuid: u16, block: u64) -> u64 {
        shifted(netuid, block) / (u64::from(Tempo::<T>::get(netuid)) + 1)
    }

    /// The epoch that a commitment of this block belongs to.
    pub fn epoch_of_commit(netuid: u16, now: u64) -> u64 {
        Self::epoch_at(netuid, now)
    }

    /// What `WeightCommits` keeps of a commitment: its block, and the first and the last block of its reveal.
    pub(in super::super) fn when_committed(netuid: u16, now: u64, period: u64) -> (u64, u64, u64) {
        let tempo = u64::from(Tempo::<T>::get(netuid));
        let epoch = Self::epoch_at(netuid, now).saturating_add(period);
        let first = epoch.saturating_mul(tempo + 1).saturating_sub(shifted(netuid, 0));
        (now, first, first.saturating_add(tempo))
    }

    /// The epoch of a commitment, from the first thing that `WeightCommits` keeps of it.
    pub(in super::super) fn epoch_kept(netuid: u16, kept: u64) -> u64 {
        Self::epoch_at(netuid, kept)
    }

    /// Sets `Tempo`.
    pub fn put_tempo(netuid: u16, tempo: u16) {
        Tempo::<T>::insert(netuid, tempo);
    }

    /// A new subnet's schedule: nothing to write.
    pub(in super::super) fn begin_schedule(_netuid: u16, _now: u64) {}

    /// Thousandths of a tempo without weights after which a validator is not counted, as newer specs keep it.
    pub fn activity_cutoff_factor(netuid: u16) -> u32 {
        let tempo = u32::from(Tempo::<T>::get(netuid).max(1));
        u32::from(ActivityCutoff::<T>::get(netuid)) * 1000 / tempo
    }

    /// Blocks without weights after which a validator is not counted.
    pub fn activity_cutoff(netuid: u16) -> u64 {
        ActivityCutoff::<T>::get(netuid).into()
    }

    /// Sets the activity cutoff.
    pub fn put_activity_cutoff(netuid: u16, blocks: u16) {
        ActivityCutoff::<T>::insert(netuid, blocks);
    }

    /// Keeps the results of an epoch that later specs keep no more.
    pub(in super::super) fn keep_scores(netuid: u16, scores: yuma::Scores) {
        Rank::<T>::insert(netuid, scores.rank);
        Trust::<T>::insert(netuid, scores.trust);
        PruningScores::<T>::insert(netuid, scores.pruning);
    }

    /// Those results of the last epoch.
    pub(in super::super) fn kept_scores(netuid: u16) -> yuma::Scores {
        yuma::Scores {
            rank: Rank::<T>::get(netuid),
            trust: Trust::<T>::get(netuid),
            pruning: PruningScores::<T>::get(netuid),
        }
    }

    /// Wipes one neuron's part of them.
    pub(in super::super) fn wipe_scores(netuid: u16, uid: u16) {
        Rank::<T>::mutate(netuid, |values| put(values, uid, 0));
        Trust::<T>::mutate(netuid, |values| put(values, uid, 0));
        PruningScores::<T>::mutate(netuid, |values| put(values, uid, 0));
    }

    /// All shares in a hotkey's alpha.
    pub(in super::super) fn all_shares(hotkey: &AccountId32, netuid: u16) -> u128 {
        TotalHotkeyShares::<T>::get(hotkey, netuid).bits
    }

    /// Sets all shares in a hotkey's alpha.
    pub(in super::super) fn put_all_shares(hotkey: &AccountId32, netuid: u16, shares: u128) {
        TotalHotkeyShares::<T>::insert(hotkey, netuid, U64F64 { bits: shares });
    }

    /// One coldkey's shares in a hotkey's alpha.
    pub(in super::super) fn shares(
        hotkey: &AccountId32,
        coldkey: &AccountId32,
        netuid: u16,
    ) -> u128 {
        Alpha::<T>::get((hotkey, coldkey, netuid)).bits
    }

    /// Sets one coldkey's shares in a hotkey's alpha.
    pub(in super::super) fn put_shares(
        hotkey: &AccountId32,
        coldkey: &AccountId32,
        netuid: u16,
        shares: u128,
    ) {
        if shares == 0 {
            Alpha::<T>::remove((hotkey, coldkey, netuid));
        } else {
            Alpha::<T>::insert((hotkey, coldkey, netuid), U64F64 { bits: shares });
        }
    }
}

/// A block's number as epochs count it.
fn shifted(netuid: u16, block: u64) -> u64 {
    block.saturating_add(u64::from(netuid)).saturating_add(1)
}

/// Whether a subnet has an epoch in this block: where `(block + netuid + 1) mod (tempo + 1)` reaches the tempo. A tempo
/// of 0 never has one.
fn is_epoch(netuid: u16, tempo: u16, block: u64) -> bool {
    tempo != 0 && shifted(netuid, block) % (u64::from(tempo) + 1) == u64::from(tempo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_lie_a_tempo_and_a_block_apart() {
        let blocks = |netuid, tempo| {
            (0..250).filter(|b| is_epoch(netuid, tempo, *b)).take(2).collect::<Vec<_>>()
        };
        assert_eq!(blocks(0, 100), [99, 200]);
        assert_eq!(blocks(1, 100), [98, 199]);
        assert_eq!(blocks(1, 1), [1, 3]);
        assert_eq!(blocks(0, 0), [0; 0]);
    }
}
