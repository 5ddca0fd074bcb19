//! The pallet `Commitments`: what a neuron publishes about itself, in a subnet where it is registered.
//!
//! It follows the real chain. Simplified: what is encrypted until a time stays encrypted, and the flag that asks for a reset of
//! bonds is kept but resets none.

pub mod types;

pub use pallet::*;

/// Defines the pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;
    use frame_support::traits::ConstU32;
    use frame_support::weights::Weight;
    use frame_system::pallet_prelude::*;
    use sp_runtime::SaturatedConversion;

    use super::super::subtensor;
    use super::types::{CommitmentInfo, Registration, UsageTracker};

    const CALL_WEIGHT: Weight = Weight::from_parts(100_000_000, 0);

    /// Bytes that the smallest commitment counts as.
    const LEAST_SPACE: u64 = 100;

    /// What the pallet needs of the runtime.
    #[pallet::config]
    pub trait Config:
        frame_system::Config<RuntimeEvent: From<Event<Self>>> + subtensor::Config
    {
    }

    /// The pallet.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// What a hotkey has published in a subnet.
    #[pallet::storage]
    pub type CommitmentOf<T: Config> = StorageDoubleMap<
        _,
        Identity,
        u16,
        Twox64Concat,
        T::AccountId,
        Registration<BlockNumberFor<T>>,
        OptionQuery,
    >;

    /// What a hotkey had encrypted until a time, and the block it was opened in; nothing is opened here.
    #[pallet::storage]
    pub type RevealedCommitments<T: Config> = StorageDoubleMap<
        _,
        Identity,
        u16,
        Twox64Concat,
        T::AccountId,
        Vec<(Vec<u8>, u64)>,
        OptionQuery,
    >;

    /// The block in which a hotkey last published something.
    #[pallet::storage]
    pub type LastCommitment<T: Config> = StorageDoubleMap<
        _,
        Identity,
        u16,
        Twox64Concat,
        T::AccountId,
        BlockNumberFor<T>,
        OptionQuery,
    >;

    /// Bytes that a hotkey has published since the last epoch.
    #[pallet::storage]
    pub type UsedSpaceOf<T: Config> =
        StorageDoubleMap<_, Identity, u16, Twox64Concat, T::AccountId, UsageTracker, OptionQuery>;

    /// Bytes that a hotkey may publish between two epochs.
    #[pallet::storage]
    pub type MaxSpace<T: Config> = StorageValue<_, u32, ValueQuery, ConstU32<3100>>;

    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(fn deposit_event)]
    pub enum Event<T: Config> {
        /// A hotkey has published something.
        Commitment {
            /// The subnet.
            netuid: u16,
            /// The hotkey.
            who: T::AccountId,
        },
    }

    /// Why a call failed.
    #[pallet::error]
    pub enum Error<T> {
        /// More fields than there may be.
        TooManyFieldsInCommitmentInfo,
        /// The signer is not registered in the subnet.
        AccountNotAllowedCommit,
        /// Too many bytes since the last epoch.
        SpaceLimitExceeded,
        /// Never happens: deposits are 0.
        UnexpectedUnreserveLeftover,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Publishes something of the signing hotkey, in place of what it has published before.
        #[pallet::call_index(0)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn set_commitment(
            origin: OriginFor<T>,
            netuid: u16,
            info: Box<CommitmentInfo>,
        ) -> DispatchResult {
            let who = ensure_signed(origin)?;
            let registered = subtensor::Uids::<T>::contains_key(netuid, &who);
            ensure!(registered, Error::<T>::AccountNotAllowedCommit);
            let block = frame_system::Pallet::<T>::block_number();
            let epoch = subtensor::Pallet::<T>::epoch_at(netuid, block.saturated_into());
            let used = UsedSpaceOf::<T>::get(netuid, &who).filter(|used| used.last_epoch == epoch);
            let used_space = used
                .map_or(0, |used| used.used_space)
                .saturating_add(info.space().max(LEAST_SPACE));
            let limit = u64::from(MaxSpace::<T>::get());
            ensure!(used_space <= limit, Error::<T>::SpaceLimitExceeded);
            UsedSpaceOf::<T>::insert(netuid, &who, UsageTracker { last_epoch: epoch, used_space });
            CommitmentOf::<T>::insert(
                netuid,
                &who,
                Registration { deposit: 0, block, info: *info },
            );
            LastCommitment::<T>::insert(netuid, &who, block);
            Self::deposit_event(Event::Commitment { netuid, who });
            Ok(())
        }

        /// Sets `MaxSpace`.
        #[pallet::call_index(2)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn set_max_space(origin: OriginFor<T>, new_limit: u32) -> DispatchResult {
            ensure_root(origin)?;
            MaxSpace::<T>::put(new_limit);
            Ok(())
        }
    }
}
