//! Storage that spec 425 has and spec 365 has not, or has in another form.

use frame_support::pallet_macros::pallet_section;

/// Defines the storage.
#[pallet_section]
mod storage {
    /// The block of the last epoch.
    #[pallet::storage]
    pub type LastEpochBlock<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// The block of an epoch that was asked for or put off; 0 is none.
    #[pallet::storage]
    pub type PendingEpochAt<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// How many epochs there were.
    #[pallet::storage]
    pub type SubnetEpochIndex<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// Epochs that one block runs at most; the others wait for the next.
    #[pallet::storage]
    pub type MaxEpochsPerBlock<T> = StorageValue<_, u8, ValueQuery, ConstU8<2>>;

    /// Blocks without weights after which a validator is not counted, in thousandths of a tempo.
    #[pallet::storage]
    pub type ActivityCutoffFactorMilli<T> =
        StorageMap<_, Identity, u16, u32, ValueQuery, ConstU32<13_889>>;

    /// Shares in a hotkey's alpha.
    #[pallet::storage]
    pub type TotalHotkeySharesV2<T: Config> =
        StorageDoubleMap<_, Blake2_128Concat, T::AccountId, Identity, u16, SafeFloat, ValueQuery>;

    /// One coldkey's shares in a hotkey's alpha.
    #[pallet::storage]
    pub type AlphaV2<T: Config> = StorageNMap<
        _,
        (
            NMapKey<Blake2_128Concat, T::AccountId>,
            NMapKey<Blake2_128Concat, T::AccountId>,
            NMapKey<Identity, u16>,
        ),
        SafeFloat,
        ValueQuery,
    >;
}
