//! Hyperparameters by name, as newer runtimes answer them: clients look up those that they know.

use parity_scale_codec::{Compact, Decode, Encode};
use scale_info::TypeInfo;

use super::super::types::{I32F32, U64F64};
use super::super::*;

/// 1.26, by which a registration raises the price on newer runtimes, times 2^64.
const BURN_INCREASE: u128 = 126 * (1 << 64) / 100;

/// One hyperparameter.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, TypeInfo)]
pub struct HyperparamEntry {
    /// ASCII, such as `kappa`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: HyperparamValue,
}

/// A hyperparameter's value.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, TypeInfo)]
pub enum HyperparamValue {
    Bool(bool),
    U16(Compact<u16>),
    U32(Compact<u32>),
    U64(Compact<u64>),
    U128(Compact<u128>),
    TaoBalance(Compact<u64>),
    I32F32(I32F32),
    U64F64(U64F64),
}

impl<T: Config> Pallet<T> {
    /// What a subnet runs with, by name, if it exists. What this chain does not know has the value that says so.
    pub fn named_hyperparams(netuid: u16) -> Option<Vec<HyperparamEntry>> {
        use HyperparamValue::{Bool, TaoBalance, U16, U32, U64};

        let known = Self::hyperparams(netuid)?;
        let all = [
            ("kappa", U16(known.kappa)),
            ("immunity_period", U16(known.immunity_period)),
            ("min_allowed_weights", U16(known.min_allowed_weights)),
            ("max_weights_limit", U16(known.max_weights_limit)),
            ("tempo", U16(known.tempo)),
            ("weights_version", U64(known.weights_version)),
            ("weights_rate_limit", U64(known.weights_rate_limit)),
            ("activity_cutoff", U16(known.activity_cutoff)),
            ("activity_cutoff_factor", U32(Compact(Self::activity_cutoff_factor(netuid)))),
            ("registration_allowed", Bool(known.registration_allowed)),
            ("target_regs_per_interval", U16(known.target_regs_per_interval)),
            ("min_burn", TaoBalance(known.min_burn)),
            ("max_burn", TaoBalance(known.max_burn)),
            ("burn_half_life", U16(Compact(360))),
            ("burn_increase_mult", HyperparamValue::U64F64(U64F64 { bits: BURN_INCREASE })),
            ("bonds_moving_avg", U64(known.bonds_moving_avg)),
            ("max_regs_per_block", U16(known.max_regs_per_block)),
            ("serving_rate_limit", U64(known.serving_rate_limit)),
            ("max_validators", U16(known.max_validators)),
            ("commit_reveal_period", U64(known.commit_reveal_period)),
            ("commit_reveal_weights_enabled", Bool(known.commit_reveal_weights_enabled)),
            ("alpha_high", U16(known.alpha_high)),
            ("alpha_low", U16(known.alpha_low)),
            ("liquid_alpha_enabled", Bool(known.liquid_alpha_enabled)),
            ("alpha_sigmoid_steepness", HyperparamValue::I32F32(known.alpha_sigmoid_steepness)),
            ("yuma_version", U16(known.yuma_version)),
            ("subnet_is_active", Bool(known.subnet_is_active)),
            ("transfers_enabled", Bool(known.transfers_enabled)),
            ("bonds_reset_enabled", Bool(known.bonds_reset_enabled)),
            ("user_liquidity_enabled", Bool(known.user_liquidity_enabled)),
            ("owner_cut_enabled", Bool(true)),
            ("owner_cut_auto_lock_enabled", Bool(false)),
            ("collateral_lock_share", U16(Compact(CollateralLockShare::<T>::get(netuid)))),
            ("collateral_drain_ratio", HyperparamValue::U64F64(U64F64 { bits: 0 })),
            ("min_childkey_take", U16(Compact(0))),
        ];
        let entry = |(name, value): (&str, HyperparamValue)| HyperparamEntry {
            name: name.as_bytes().to_vec(),
            value,
        };
        Some(all.map(entry).into())
    }
}
