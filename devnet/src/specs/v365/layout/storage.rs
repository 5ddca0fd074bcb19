//! Storage that spec 365 has and spec 425 has not, or has in another form.

use frame_support::pallet_macros::pallet_section;

/// Defines the storage.
#[pallet_section]
mod storage {
    /// Blocks without weights after which a validator is not counted.
    #[pallet::storage]
    pub type ActivityCutoff<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<5_000>>;

    /// Stake-weighted, clipped weights, by uid.
    #[pallet::storage]
    pub type Rank<T> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;

    /// The share of the weights that was not clipped, by uid.
    #[pallet::storage]
    pub type Trust<T> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;

    /// Who is replaced first, by uid.
    #[pallet::storage]
    pub type PruningScores<T> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;

    /// Shares in a hotkey's alpha.
    #[pallet::storage]
    pub type TotalHotkeyShares<T: Config> =
        StorageDoubleMap<_, Blake2_128Concat, T::AccountId, Identity, u16, U64F64, ValueQuery>;

    /// One coldkey's shares in a hotkey's alpha.
    #[pallet::storage]
    pub type Alpha<T: Config> = StorageNMap<
        _,
        (
            NMapKey<Blake2_128Concat, T::AccountId>,
            NMapKey<Blake2_128Concat, T::AccountId>,
            NMapKey<Identity, u16>,
        ),
        U64F64,
        ValueQuery,
    >;
}
