//! The key that may do everything: `//Alice`.

pub use pallet::*;

/// Defines the pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::dispatch::GetDispatchInfo;
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;
    use sp_runtime::traits::Dispatchable;

    /// What the pallet needs of the runtime.
    #[pallet::config]
    pub trait Config: frame_system::Config<RuntimeEvent: From<Event<Self>>> {
        /// Everything that can be called.
        type AnyCall: Parameter
            + Dispatchable<RuntimeOrigin = Self::RuntimeOrigin>
            + GetDispatchInfo;
    }

    /// The pallet.
    #[pallet::pallet]
    pub struct Pallet<T>(_);

    /// The account of the key.
    #[pallet::storage]
    pub type Key<T: Config> = StorageValue<_, T::AccountId, OptionQuery>;

    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(fn deposit_event)]
    pub enum Event<T: Config> {
        /// A call was made as root.
        Sudid {
            /// What came of it.
            sudo_result: DispatchResult,
        },
    }

    /// Why a call failed.
    #[pallet::error]
    pub enum Error<T> {
        /// The signer is not the key.
        RequireSudo,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Makes a call as root. Its result is in the event: this call succeeds either way.
        #[pallet::call_index(0)]
        #[pallet::weight((call.get_dispatch_info().call_weight, call.get_dispatch_info().class, Pays::No))]
        pub fn sudo(
            origin: OriginFor<T>,
            call: Box<<T as Config>::AnyCall>,
        ) -> DispatchResultWithPostInfo {
            let who = ensure_signed(origin)?;
            ensure!(Key::<T>::get() == Some(who), Error::<T>::RequireSudo);
            let result = call.dispatch(frame_system::RawOrigin::Root.into());
            Self::deposit_event(Event::Sudid {
                sudo_result: result.map(|_| ()).map_err(|e| e.error),
            });
            Ok(Pays::No.into())
        }
    }
}
