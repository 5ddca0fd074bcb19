//! What the official Python SDK and `btcli` of today read besides: storage that this chain keeps at its defaults.
//!
//! Some of it came with runtimes after the ones that this chain imitates. Their clients ask for it on every chain, and
//! give up where it is missing; the defaults say that the feature is not used.

use frame_support::pallet_macros::pallet_section;
use frame_support::pallet_prelude::*;

use super::types::U64F64;

/// How a subnet's epochs come to incentives.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Encode, Decode, TypeInfo, MaxEncodedLen)]
pub enum EpochConsensus {
    /// Clipped, stake-weighted weights: what this chain does.
    #[default]
    #[codec(index = 0)]
    Yuma,
    /// The weights of one validator as they are.
    #[codec(index = 1)]
    Null,
}

/// A signed fixed-point number with 64 integer and 64 fractional bits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Encode, Decode, TypeInfo, MaxEncodedLen)]
pub struct I64F64 {
    /// The number times 2^64.
    pub bits: i128,
}

/// Stake that its owner cannot take back for a while.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Encode, Decode, TypeInfo, MaxEncodedLen)]
pub struct LockState {
    /// Rao of alpha.
    pub locked_mass: u64,
    /// What the lock counts for in the choice of a subnet's owner.
    pub conviction: U64F64,
    /// The block that both are of.
    pub last_update: u64,
}

/// Defines the storage.
#[pallet_section]
mod sdk {
    /// How a subnet's epochs come to incentives; always Yuma here. Of newer runtimes.
    #[pallet::storage]
    pub type SubnetEpochConsensus<T> = StorageMap<_, Identity, u16, EpochConsensus, ValueQuery>;

    /// The averaged flow of TAO into a subnet, and the block it was last computed in; this chain has no pools.
    #[pallet::storage]
    pub type SubnetEmaTaoFlow<T> = StorageMap<_, Identity, u16, (u64, I64F64), OptionQuery>;

    /// Locked stake by coldkey, subnet and hotkey; nothing locks any here. Of newer runtimes.
    #[pallet::storage]
    pub type Lock<T: Config> = StorageNMap<
        _,
        (
            NMapKey<Blake2_128Concat, T::AccountId>,
            NMapKey<Identity, u16>,
            NMapKey<Blake2_128Concat, T::AccountId>,
        ),
        LockState,
        OptionQuery,
    >;

    /// The share of a registration's price that stays locked as collateral, of 65535; none here. Of newer runtimes.
    #[pallet::storage]
    pub type CollateralLockShare<T> = StorageMap<_, Identity, u16, u16, ValueQuery>;
}
