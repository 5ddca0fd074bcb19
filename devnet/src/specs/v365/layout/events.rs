//! The events of spec 365 that this chain emits, with their real indices.

use frame_support::pallet_macros::pallet_section;

/// Defines the events.
#[pallet_section]
mod events {
    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(pub fn deposit_event)]
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
        /// A hash of weights was committed: hotkey, storage index, hash.
        #[codec(index = 79)]
        WeightsCommitted(T::AccountId, u16, H256),
        /// What a hash stood for was revealed: hotkey, storage index, hash.
        #[codec(index = 80)]
        WeightsRevealed(T::AccountId, u16, H256),
        /// The same for several: hotkey, netuid, hashes.
        #[codec(index = 81)]
        WeightsBatchRevealed(T::AccountId, u16, Vec<H256>),
        /// All items of a batch were tried: netuids, hotkey.
        #[codec(index = 82)]
        BatchWeightsCompleted(Vec<Compact<u16>>, T::AccountId),
        /// Some items of a batch failed.
        #[codec(index = 83)]
        BatchCompletedWithErrors(),
        /// An item of a batch failed: why.
        #[codec(index = 84)]
        BatchWeightItemFailed(DispatchError),
        /// Netuid, block.
        #[codec(index = 89)]
        FirstEmissionBlockNumberSet(u16, u64),
        /// Netuid, epochs.
        #[codec(index = 94)]
        CommitRevealPeriodsSet(u16, u64),
        /// Netuid, on or off.
        #[codec(index = 95)]
        CommitRevealEnabled(u16, bool),
        /// The version of time-locked commitments.
        #[codec(index = 100)]
        CommitRevealVersionSet(u16),
        /// Time-locked weights were committed: hotkey, storage index, hash of the ciphertext, round.
        #[codec(index = 101)]
        TimelockedWeightsCommitted(T::AccountId, u16, H256, u64),
        /// Time-locked weights were opened and set: storage index, hotkey.
        #[codec(index = 102)]
        TimelockedWeightsRevealed(u16, T::AccountId),
        /// What each uid earned in an epoch, in rao of alpha: netuid, amounts.
        #[codec(index = 104)]
        IncentiveAlphaEmittedToMiners { netuid: u16, emissions: Vec<u64> },
    }
}
