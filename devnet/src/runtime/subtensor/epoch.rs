//! What happens in every block: prices follow demand, emission is put aside, and at its tempo a subnet has an epoch
//! that turns weights into permits, scores and stake.

use sp_runtime::AccountId32;

use super::{
    Active, ActivityCutoff, BlockAtRegistration, BlockEmission, BlocksSinceLastStep, Bonds,
    BondsMovingAverage, BondsPenalty, Config, Consensus, Dividends, Emission, Event,
    FirstEmissionBlockNumber, Incentive, Kappa, Keys, LastMechansimStepBlock, LastUpdate,
    MaxAllowedValidators, NetworksAdded, Owner, Pallet, PendingOwnerCut, PendingServerEmission,
    PendingValidatorEmission, PruningScores, ROOT, Rank, StakeThreshold, SubnetAlphaOutEmission,
    SubnetOwner, SubnetOwnerCut, SubnetOwnerHotkey, SubnetworkN, Tempo, TotalNetworks, Trust,
    ValidatorPermit, ValidatorTrust, Weights,
};
use crate::runtime::yuma;

impl<T: Config> Pallet<T> {
    /// The subnets that exist, in order.
    pub fn netuids() -> impl Iterator<Item = u16> {
        let count = usize::from(TotalNetworks::<T>::get());
        (0..u16::MAX).filter(|netuid| NetworksAdded::<T>::get(netuid)).take(count)
    }

    pub(super) fn block_step(now: u64) {
        for netuid in Self::netuids().filter(|netuid| *netuid != ROOT) {
            Self::adjust_price(netuid, now);
            if FirstEmissionBlockNumber::<T>::get(netuid).is_some_and(|first| first <= now) {
                Self::put_aside(netuid);
            }
            if is_epoch(netuid, Tempo::<T>::get(netuid), now) {
                Self::run_epoch(netuid, now);
                BlocksSinceLastStep::<T>::insert(netuid, 0);
                LastMechansimStepBlock::<T>::insert(netuid, now);
            } else {
                BlocksSinceLastStep::<T>::mutate(netuid, |blocks| {
                    *blocks = blocks.saturating_add(1)
                });
            }
        }
    }

    /// One block's emission of a started subnet: the owner's cut, then half for miners and half for validators.
    fn put_aside(netuid: u16) {
        let emission = BlockEmission::<T>::get();
        SubnetAlphaOutEmission::<T>::insert(netuid, emission);
        let cut = u128::from(emission) * u128::from(SubnetOwnerCut::<T>::get()) / 65_535;
        let cut = u64::try_from(cut).unwrap_or(emission).min(emission);
        let miners = (emission - cut) / 2;
        let validators = emission - cut - miners;
        PendingOwnerCut::<T>::mutate(netuid, |rao| *rao = rao.saturating_add(cut));
        PendingServerEmission::<T>::mutate(netuid, |rao| *rao = rao.saturating_add(miners));
        PendingValidatorEmission::<T>::mutate(netuid, |rao| *rao = rao.saturating_add(validators));
    }

    fn run_epoch(netuid: u16, now: u64) {
        let hotkeys: Vec<AccountId32> =
            (0..SubnetworkN::<T>::get(netuid)).map(|uid| Keys::<T>::get(netuid, uid)).collect();
        let result = yuma::epoch(&Self::observe(netuid, &hotkeys, now));

        let miners = paid(&result.miner_shares, PendingServerEmission::<T>::take(netuid));
        let validators =
            paid(&result.validator_shares, PendingValidatorEmission::<T>::take(netuid));
        for (uid, hotkey) in hotkeys.iter().enumerate() {
            let owner = Owner::<T>::get(hotkey);
            // A pot that runs over stays as it is: nobody loses anything.
            let _ = Self::increase_stake(hotkey, &owner, netuid, miners[uid]);
            Self::pay_validator(hotkey, &owner, netuid, validators[uid]);
        }
        let cut = PendingOwnerCut::<T>::take(netuid);
        let owner_hotkey = SubnetOwnerHotkey::<T>::get(netuid);
        let _ = Self::increase_stake(&owner_hotkey, &SubnetOwner::<T>::get(netuid), netuid, cut);

        let both = miners.iter().zip(&validators).map(|(a, b)| a.saturating_add(*b));
        Emission::<T>::insert(netuid, both.collect::<Vec<u64>>());
        Active::<T>::insert(netuid, result.active);
        Rank::<T>::insert(netuid, result.rank);
        Trust::<T>::insert(netuid, result.trust);
        Consensus::<T>::insert(netuid, result.consensus);
        Incentive::<T>::insert(netuid, result.incentive);
        Dividends::<T>::insert(netuid, result.dividends);
        ValidatorTrust::<T>::insert(netuid, result.validator_trust);
        PruningScores::<T>::insert(netuid, result.pruning);
        ValidatorPermit::<T>::insert(netuid, result.permits);
        for (uid, row) in (0_u16..).zip(result.bonds) {
            if row.is_empty() {
                Bonds::<T>::remove(netuid, uid);
            } else {
                Bonds::<T>::insert(netuid, uid, row);
            }
        }
        Self::deposit_event(Event::IncentiveAlphaEmittedToMiners { netuid, emissions: miners });
    }

    /// Everything the consensus depends on. Mechanism 0 alone counts.
    fn observe(netuid: u16, hotkeys: &[AccountId32], now: u64) -> yuma::Input {
        let updates = LastUpdate::<T>::get(netuid);
        let permits = ValidatorPermit::<T>::get(netuid);
        let neurons = (0_u16..)
            .zip(hotkeys)
            .map(|(uid, hotkey)| yuma::Neuron {
                stake: Self::stake_weight(hotkey, netuid),
                last_update: updates.get(usize::from(uid)).copied().unwrap_or(0),
                registered: BlockAtRegistration::<T>::get(netuid, uid),
                permit: permits.get(usize::from(uid)).copied().unwrap_or(false),
            })
            .collect();
        let uids = 0..hotkeys.len() as u16;
        yuma::Input {
            neurons,
            weights: uids.clone().map(|uid| Weights::<T>::get(netuid, uid)).collect(),
            bonds: uids.map(|uid| Bonds::<T>::get(netuid, uid)).collect(),
            owner: Self::owner_uid(netuid),
            block: now,
            tempo: Tempo::<T>::get(netuid),
            activity_cutoff: ActivityCutoff::<T>::get(netuid),
            kappa: Kappa::<T>::get(netuid),
            max_validators: MaxAllowedValidators::<T>::get(netuid),
            stake_threshold: StakeThreshold::<T>::get(),
            bonds_moving_average: BondsMovingAverage::<T>::get(netuid),
            bonds_penalty: BondsPenalty::<T>::get(netuid),
        }
    }

    /// A validator's pay reaches all who stake on it.
    fn pay_validator(hotkey: &AccountId32, owner: &AccountId32, netuid: u16, amount: u64) {
        if super::TotalHotkeyShares::<T>::get(hotkey, netuid).bits == 0 {
            let _ = Self::increase_stake(hotkey, owner, netuid, amount);
        } else {
            Self::fill_pot(hotkey, netuid, amount);
        }
    }
}

/// Whether a subnet has an epoch in this block: where `(block + netuid + 1) mod (tempo + 1)` reaches the tempo. A tempo
/// of 0 never has one.
pub(super) fn is_epoch(netuid: u16, tempo: u16, block: u64) -> bool {
    let phase = block.wrapping_add(u64::from(netuid)).wrapping_add(1) % (u64::from(tempo) + 1);
    tempo != 0 && phase == u64::from(tempo)
}

fn paid(shares: &[f64], rao: u64) -> Vec<u64> {
    // `as` rounds down and saturates.
    shares.iter().map(|share| (share * rao as f64) as u64).collect()
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
