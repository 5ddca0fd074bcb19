//! What happens in every block: prices follow demand, emission is put aside, commitments are revealed, and a subnet whose
//! turn it is has an epoch that turns weights into permits, scores and stake.

use sp_runtime::AccountId32;

use super::super::yuma;
use super::mechanisms::Combined;
use super::{
    Active, BlockAtRegistration, BlockEmission, Bonds, BondsMovingAverage, BondsPenalty, Config,
    Consensus, Dividends, Emission, Event, FirstEmissionBlockNumber, Incentive, Kappa, Keys,
    LastMechansimStepBlock, LastUpdate, MaxAllowedValidators, NetworksAdded, Owner, Pallet,
    PendingOwnerCut, PendingServerEmission, PendingValidatorEmission, ROOT, StakeThreshold,
    SubnetAlphaOutEmission, SubnetOwner, SubnetOwnerCut, SubnetOwnerHotkey, SubnetworkN, Tempo,
    TotalNetworks, ValidatorPermit, ValidatorTrust, Weights, storage_index,
};

impl<T: Config> Pallet<T> {
    /// The subnets that exist, in order.
    pub fn netuids() -> impl Iterator<Item = u16> {
        let count = usize::from(TotalNetworks::<T>::get());
        (0..u16::MAX).filter(|netuid| NetworksAdded::<T>::get(netuid)).take(count)
    }

    pub(super) fn block_step(now: u64) {
        let netuids: Vec<u16> = Self::netuids().filter(|netuid| *netuid != ROOT).collect();
        for netuid in netuids.iter().copied() {
            Self::adjust_price(netuid, now);
            if FirstEmissionBlockNumber::<T>::get(netuid).is_some_and(|first| first <= now) {
                Self::put_aside(netuid);
            }
        }
        for netuid in netuids.iter().copied() {
            Self::reveal_timelocked(netuid, now);
        }
        for netuid in Self::take_turns(&netuids, now) {
            Self::run_epoch(netuid, now);
            LastMechansimStepBlock::<T>::insert(netuid, now);
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
        let servers = PendingServerEmission::<T>::take(netuid);
        let validators = PendingValidatorEmission::<T>::take(netuid);
        let whole = servers.saturating_add(validators);
        let parts = Self::split_between_mechanisms(netuid, servers)
            .into_iter()
            .zip(Self::split_between_mechanisms(netuid, validators));

        let mut miners = vec![0_u64; hotkeys.len()];
        let (mut emission, mut active) = (Combined::<u64>::default(), Combined::<bool>::default());
        let mut permits = Combined::<bool>::default();
        let [mut consensus, mut dividends, mut validator_trust, mut rank, mut trust, mut pruning] =
            std::array::from_fn(|_| Combined::<u16>::default());
        let mut pay = Vec::new();
        for (mecid, (servers, validators)) in (0_u8..).zip(parts) {
            let Some(index) = storage_index(netuid, mecid) else { continue };
            let result = yuma::epoch(&Self::observe(netuid, index, &hotkeys, now));
            let weight = match whole {
                0 => f64::from(u8::from(mecid == 0)),
                whole => servers.saturating_add(validators) as f64 / whole as f64,
            };
            let servers = paid(&result.miner_shares, servers);
            let validators = paid(&result.validator_shares, validators);
            let both = servers.iter().zip(&validators).map(|(a, b)| a.saturating_add(*b));
            emission.add(both.collect(), weight);
            for (sum, part) in miners.iter_mut().zip(&servers) {
                *sum = sum.saturating_add(*part);
            }
            pay.push((servers, validators));
            active.add(result.active);
            permits.add(result.permits);
            consensus.add(result.consensus, weight);
            dividends.add(result.dividends, weight);
            validator_trust.add(result.validator_trust, weight);
            rank.add(result.scores.rank, weight);
            trust.add(result.scores.trust, weight);
            pruning.add(result.scores.pruning, weight);
            Incentive::<T>::insert(index, result.incentive);
            for (uid, row) in (0_u16..).zip(result.bonds) {
                if row.is_empty() {
                    Bonds::<T>::remove(index, uid);
                } else {
                    Bonds::<T>::insert(index, uid, row);
                }
            }
        }

        for (servers, validators) in pay {
            Self::pay_out(netuid, &hotkeys, &servers, &validators);
        }
        let cut = PendingOwnerCut::<T>::take(netuid);
        let owner_hotkey = SubnetOwnerHotkey::<T>::get(netuid);
        let _ = Self::increase_stake(&owner_hotkey, &SubnetOwner::<T>::get(netuid), netuid, cut);

        Emission::<T>::insert(netuid, emission.into_values());
        Active::<T>::insert(netuid, active.into_values());
        Consensus::<T>::insert(netuid, consensus.into_values());
        Dividends::<T>::insert(netuid, dividends.into_values());
        ValidatorTrust::<T>::insert(netuid, validator_trust.into_values());
        ValidatorPermit::<T>::insert(netuid, permits.into_values());
        Self::keep_scores(
            netuid,
            yuma::Scores {
                rank: rank.into_values(),
                trust: trust.into_values(),
                pruning: pruning.into_values(),
            },
        );
        Self::deposit_event(Event::IncentiveAlphaEmittedToMiners { netuid, emissions: miners });
    }

    fn pay_out(netuid: u16, hotkeys: &[AccountId32], servers: &[u64], validators: &[u64]) {
        for (uid, hotkey) in hotkeys.iter().enumerate() {
            let owner = Owner::<T>::get(hotkey);
            // A pot that runs over stays as it is: nobody loses anything.
            let _ = Self::increase_stake(hotkey, &owner, netuid, servers[uid]);
            Self::pay_validator(hotkey, &owner, netuid, validators[uid]);
        }
    }

    /// Everything that the consensus of one mechanism depends on.
    fn observe(netuid: u16, index: u16, hotkeys: &[AccountId32], now: u64) -> yuma::Input {
        let updates = LastUpdate::<T>::get(index);
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
            weights: uids.clone().map(|uid| Weights::<T>::get(index, uid)).collect(),
            bonds: uids.map(|uid| Bonds::<T>::get(index, uid)).collect(),
            owner: Self::owner_uid(netuid),
            block: now,
            tempo: Tempo::<T>::get(netuid),
            activity_cutoff: Self::activity_cutoff(netuid),
            kappa: Kappa::<T>::get(netuid),
            max_validators: MaxAllowedValidators::<T>::get(netuid),
            stake_threshold: StakeThreshold::<T>::get(),
            bonds_moving_average: BondsMovingAverage::<T>::get(netuid),
            bonds_penalty: BondsPenalty::<T>::get(netuid),
        }
    }

    /// A validator's pay reaches all who stake on it.
    fn pay_validator(hotkey: &AccountId32, owner: &AccountId32, netuid: u16, amount: u64) {
        if Self::all_shares(hotkey, netuid) == 0 {
            let _ = Self::increase_stake(hotkey, owner, netuid, amount);
        } else {
            Self::fill_pot(hotkey, netuid, amount);
        }
    }
}

fn paid(shares: &[f64], rao: u64) -> Vec<u64> {
    // `as` rounds down and saturates.
    shares.iter().map(|share| (share * rao as f64) as u64).collect()
}
