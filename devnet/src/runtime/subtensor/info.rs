//! Answers of the runtime APIs, put together from storage.

mod named;
mod stake;
mod types;

use parity_scale_codec::Compact;
use sp_runtime::AccountId32;

use super::types::I32F32;
use super::*;

pub use named::{HyperparamEntry, HyperparamValue};
pub use stake::{SimSwapResult, StakeAvailability, StakeInfo, SubnetPrice};
pub use types::{Metagraph, NeuronInfoLite, SelectiveMetagraph, SubnetHyperparamsV2};

impl<T: Config> Pallet<T> {
    /// Everything about a subnet, if it exists.
    pub fn metagraph(netuid: u16) -> Option<Metagraph<AccountId32>> {
        if !NetworksAdded::<T>::get(netuid) {
            return None;
        }
        let n = SubnetworkN::<T>::get(netuid);
        let hotkeys: Vec<AccountId32> = (0..n).map(|uid| Keys::<T>::get(netuid, uid)).collect();
        let of_each =
            |read: &dyn Fn(&AccountId32) -> u64| hotkeys.iter().map(|h| Compact(read(h))).collect();
        let identity = SubnetIdentitiesV3::<T>::get(netuid);
        let name =
            identity.as_ref().map(|identity| identity.subnet_name.clone()).unwrap_or_default();
        let (alpha_low, alpha_high) = AlphaValues::<T>::get(netuid);
        let pending = PendingServerEmission::<T>::get(netuid)
            .saturating_add(PendingValidatorEmission::<T>::get(netuid))
            .saturating_add(PendingOwnerCut::<T>::get(netuid));
        let scores = Self::kept_scores(netuid);
        let coldkeys: Vec<AccountId32> = hotkeys.iter().map(Owner::<T>::get).collect();
        Some(Metagraph {
            netuid: Compact(netuid),
            name: compact(name),
            symbol: compact(TokenSymbol::<T>::get(netuid)),
            identity,
            network_registered_at: Compact(NetworkRegisteredAt::<T>::get(netuid)),
            owner_hotkey: SubnetOwnerHotkey::<T>::get(netuid),
            owner_coldkey: SubnetOwner::<T>::get(netuid),
            block: Compact(Self::now()),
            tempo: Compact(Tempo::<T>::get(netuid)),
            last_step: Compact(LastMechansimStepBlock::<T>::get(netuid)),
            blocks_since_last_step: Compact(BlocksSinceLastStep::<T>::get(netuid)),
            subnet_emission: Compact(0),
            alpha_in: Compact(SubnetAlphaIn::<T>::get(netuid)),
            alpha_out: Compact(SubnetAlphaOut::<T>::get(netuid)),
            tao_in: Compact(SubnetTAO::<T>::get(netuid)),
            alpha_out_emission: Compact(SubnetAlphaOutEmission::<T>::get(netuid)),
            alpha_in_emission: Compact(SubnetAlphaInEmission::<T>::get(netuid)),
            tao_in_emission: Compact(SubnetTaoInEmission::<T>::get(netuid)),
            pending_alpha_emission: Compact(pending),
            pending_root_emission: Compact(0),
            subnet_volume: Compact(SubnetVolume::<T>::get(netuid)),
            moving_price: SubnetMovingPrice::<T>::get(netuid),
            rho: Compact(Rho::<T>::get(netuid)),
            kappa: Compact(Kappa::<T>::get(netuid)),
            min_allowed_weights: Compact(MinAllowedWeights::<T>::get(netuid)),
            max_weights_limit: Compact(MaxWeightsLimit::<T>::get(netuid)),
            weights_version: Compact(WeightsVersionKey::<T>::get(netuid)),
            weights_rate_limit: Compact(WeightsSetRateLimit::<T>::get(netuid)),
            activity_cutoff: Compact(layout::told(Self::activity_cutoff(netuid))),
            max_validators: Compact(MaxAllowedValidators::<T>::get(netuid)),
            num_uids: Compact(n),
            max_uids: Compact(MaxAllowedUids::<T>::get(netuid)),
            burn: Compact(Burn::<T>::get(netuid)),
            difficulty: Compact(Difficulty::<T>::get(netuid)),
            registration_allowed: NetworkRegistrationAllowed::<T>::get(netuid),
            pow_registration_allowed: NetworkPowRegistrationAllowed::<T>::get(netuid),
            immunity_period: Compact(ImmunityPeriod::<T>::get(netuid)),
            min_difficulty: Compact(MinDifficulty::<T>::get(netuid)),
            max_difficulty: Compact(MaxDifficulty::<T>::get(netuid)),
            min_burn: Compact(MinBurn::<T>::get(netuid)),
            max_burn: Compact(MaxBurn::<T>::get(netuid)),
            adjustment_alpha: Compact(AdjustmentAlpha::<T>::get(netuid)),
            adjustment_interval: Compact(AdjustmentInterval::<T>::get(netuid)),
            target_regs_per_interval: Compact(TargetRegistrationsPerInterval::<T>::get(netuid)),
            max_regs_per_block: Compact(MaxRegistrationsPerBlock::<T>::get(netuid)),
            serving_rate_limit: Compact(ServingRateLimit::<T>::get(netuid)),
            commit_reveal_weights_enabled: CommitRevealWeightsEnabled::<T>::get(netuid),
            commit_reveal_period: Compact(RevealPeriodEpochs::<T>::get(netuid)),
            liquid_alpha_enabled: LiquidAlphaOn::<T>::get(netuid),
            alpha_high: Compact(alpha_high),
            alpha_low: Compact(alpha_low),
            bonds_moving_avg: Compact(BondsMovingAverage::<T>::get(netuid)),
            identities: coldkeys.iter().map(IdentitiesV2::<T>::get).collect(),
            coldkeys,
            axons: hotkeys
                .iter()
                .map(|hotkey| Axons::<T>::get(netuid, hotkey).unwrap_or_default())
                .collect(),
            active: Active::<T>::get(netuid),
            validator_permit: ValidatorPermit::<T>::get(netuid),
            pruning_score: compact(scores.pruning),
            last_update: compact(LastUpdate::<T>::get(netuid)),
            emission: compact(Emission::<T>::get(netuid)),
            dividends: compact(Dividends::<T>::get(netuid)),
            incentives: compact(Incentive::<T>::get(netuid)),
            consensus: compact(Consensus::<T>::get(netuid)),
            trust: compact(scores.trust),
            rank: compact(scores.rank),
            block_at_registration: (0..n)
                .map(|uid| Compact(BlockAtRegistration::<T>::get(netuid, uid)))
                .collect(),
            alpha_stake: of_each(&|hotkey| TotalHotkeyAlpha::<T>::get(hotkey, netuid)),
            tao_stake: of_each(&|hotkey| Self::weighted_tao(hotkey)),
            total_stake: of_each(&|hotkey| Self::stake_weight(hotkey, netuid)),
            tao_dividends_per_hotkey: Vec::new(),
            alpha_dividends_per_hotkey: Vec::new(),
            hotkeys,
        })
    }

    /// What a subnet runs with, if it exists.
    pub fn hyperparams(netuid: u16) -> Option<SubnetHyperparamsV2> {
        if !NetworksAdded::<T>::get(netuid) {
            return None;
        }
        let (alpha_low, alpha_high) = AlphaValues::<T>::get(netuid);
        Some(SubnetHyperparamsV2 {
            rho: Compact(Rho::<T>::get(netuid)),
            kappa: Compact(Kappa::<T>::get(netuid)),
            immunity_period: Compact(ImmunityPeriod::<T>::get(netuid)),
            min_allowed_weights: Compact(MinAllowedWeights::<T>::get(netuid)),
            max_weights_limit: Compact(MaxWeightsLimit::<T>::get(netuid)),
            tempo: Compact(Tempo::<T>::get(netuid)),
            min_difficulty: Compact(MinDifficulty::<T>::get(netuid)),
            max_difficulty: Compact(MaxDifficulty::<T>::get(netuid)),
            weights_version: Compact(WeightsVersionKey::<T>::get(netuid)),
            weights_rate_limit: Compact(WeightsSetRateLimit::<T>::get(netuid)),
            adjustment_interval: Compact(AdjustmentInterval::<T>::get(netuid)),
            activity_cutoff: Compact(Self::activity_cutoff(netuid).try_into().unwrap_or(u16::MAX)),
            registration_allowed: NetworkRegistrationAllowed::<T>::get(netuid),
            target_regs_per_interval: Compact(TargetRegistrationsPerInterval::<T>::get(netuid)),
            min_burn: Compact(MinBurn::<T>::get(netuid)),
            max_burn: Compact(MaxBurn::<T>::get(netuid)),
            bonds_moving_avg: Compact(BondsMovingAverage::<T>::get(netuid)),
            max_regs_per_block: Compact(MaxRegistrationsPerBlock::<T>::get(netuid)),
            serving_rate_limit: Compact(ServingRateLimit::<T>::get(netuid)),
            max_validators: Compact(MaxAllowedValidators::<T>::get(netuid)),
            adjustment_alpha: Compact(AdjustmentAlpha::<T>::get(netuid)),
            difficulty: Compact(Difficulty::<T>::get(netuid)),
            commit_reveal_period: Compact(RevealPeriodEpochs::<T>::get(netuid)),
            commit_reveal_weights_enabled: CommitRevealWeightsEnabled::<T>::get(netuid),
            alpha_high: Compact(alpha_high),
            alpha_low: Compact(alpha_low),
            liquid_alpha_enabled: LiquidAlphaOn::<T>::get(netuid),
            alpha_sigmoid_steepness: I32F32 {
                bits: i64::from(AlphaSigmoidSteepness::<T>::get(netuid)) << 32,
            },
            yuma_version: Compact(if Yuma3On::<T>::get(netuid) { 3 } else { 2 }),
            subnet_is_active: SubtokenEnabled::<T>::get(netuid),
            transfers_enabled: TransferToggle::<T>::get(netuid),
            bonds_reset_enabled: BondsResetOn::<T>::get(netuid),
            user_liquidity_enabled: false,
        })
    }

    /// All neurons of a subnet.
    pub fn neurons_lite(netuid: u16) -> Vec<NeuronInfoLite<AccountId32>> {
        (0..SubnetworkN::<T>::get(netuid))
            .filter_map(|uid| Self::neuron_lite(netuid, uid))
            .collect()
    }

    /// One neuron, if the subnet has it.
    pub fn neuron_lite(netuid: u16, uid: u16) -> Option<NeuronInfoLite<AccountId32>> {
        if uid >= SubnetworkN::<T>::get(netuid) {
            return None;
        }
        let at = usize::from(uid);
        let hotkey = Keys::<T>::get(netuid, uid);
        let coldkey = Owner::<T>::get(&hotkey);
        let scores = Self::kept_scores(netuid);
        let fraction = |values: Vec<u16>| Compact(values.get(at).copied().unwrap_or(0));
        let number = |values: Vec<u64>| Compact(values.get(at).copied().unwrap_or(0));
        let flag = |values: Vec<bool>| values.get(at).copied().unwrap_or(false);
        Some(NeuronInfoLite {
            coldkey: coldkey.clone(),
            uid: Compact(uid),
            netuid: Compact(netuid),
            active: flag(Active::<T>::get(netuid)),
            axon_info: Axons::<T>::get(netuid, &hotkey).unwrap_or_default(),
            prometheus_info: Prometheus::<T>::get(netuid, &hotkey).unwrap_or_default(),
            stake: vec![(coldkey, Compact(Self::stake_weight(&hotkey, netuid)))],
            rank: fraction(scores.rank),
            emission: number(Emission::<T>::get(netuid)),
            incentive: fraction(Incentive::<T>::get(netuid)),
            consensus: fraction(Consensus::<T>::get(netuid)),
            trust: fraction(scores.trust),
            validator_trust: fraction(ValidatorTrust::<T>::get(netuid)),
            dividends: fraction(Dividends::<T>::get(netuid)),
            last_update: number(LastUpdate::<T>::get(netuid)),
            validator_permit: flag(ValidatorPermit::<T>::get(netuid)),
            pruning_score: fraction(scores.pruning),
            hotkey,
        })
    }
}

fn compact<V>(values: Vec<V>) -> Vec<Compact<V>> {
    values.into_iter().map(Compact).collect()
}
