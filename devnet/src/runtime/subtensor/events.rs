//! The events of spec 365 that this chain emits, with their real indices.

use frame_support::pallet_macros::pallet_section;

/// Defines the events.
#[pallet_section]
mod events {
    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A subnet was created: netuid, mechanism.
        #[codec(index = 0)]
        NetworkAdded(u16, u16),
        /// Coldkey, hotkey, TAO, alpha, netuid, fee.
        #[codec(index = 2)]
        StakeAdded(T::AccountId, T::AccountId, u64, u64, u16, u64),
        /// Coldkey, hotkey, TAO, alpha, netuid, fee.
        #[codec(index = 3)]
        StakeRemoved(T::AccountId, T::AccountId, u64, u64, u16, u64),
        /// Weights were set: storage index, uid.
        #[codec(index = 5)]
        WeightsSet(u16, u16),
        /// A hotkey has a uid now: netuid, uid, hotkey.
        #[codec(index = 6)]
        NeuronRegistered(u16, u16, T::AccountId),
        /// An axon was announced: netuid, hotkey.
        #[codec(index = 28)]
        AxonServed(u16, T::AccountId),
        /// A metrics endpoint was announced: netuid, hotkey.
        #[codec(index = 29)]
        PrometheusServed(u16, T::AccountId),
        /// Netuid, limit in blocks.
        #[codec(index = 22)]
        WeightsSetRateLimitSet(u16, u64),
        /// Netuid, limit in blocks.
        #[codec(index = 35)]
        ServingRateLimitSet(u16, u64),
        /// Netuid, blocks.
        #[codec(index = 50)]
        TempoSet(u16, u16),
        /// Netuid, block.
        #[codec(index = 89)]
        FirstEmissionBlockNumberSet(u16, u64),
        /// Netuid, on or off.
        #[codec(index = 95)]
        CommitRevealEnabled(u16, bool),
        /// What each uid earned in an epoch, in rao of alpha: netuid, amounts.
        #[codec(index = 104)]
        IncentiveAlphaEmittedToMiners { netuid: u16, emissions: Vec<u64> },
    }
}
