//! The pallet `MevShield`: carries transactions that are sealed for the block producer, who includes what is inside
//! right behind the carrier.
//!
//! Simplified: there is one key for ever, and its secret half is part of this program.

use std::sync::LazyLock;

pub use pallet::*;

/// Bytes of a public key of ML-KEM-768.
pub const PUBLIC_KEY_BYTES: usize = 1184;

/// Where the public key is in the secret one.
const PUBLIC_KEY_AT: usize = 1152;

/// The producer's key. Everybody knows it, as they know `//Alice`.
pub static SECRET_KEY: LazyLock<Vec<u8>> =
    LazyLock::new(|| hex::decode(include_str!("mev_shield/key.hex").trim()).unwrap_or_default());

/// What transactions are sealed to.
pub fn public_key() -> Vec<u8> {
    let public = SECRET_KEY.get(PUBLIC_KEY_AT..PUBLIC_KEY_AT + PUBLIC_KEY_BYTES);
    public.unwrap_or_default().to_vec()
}

/// Defines the pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;
    use frame_support::weights::Weight;
    use frame_system::pallet_prelude::*;
    use sp_runtime::traits::Hash;

    const CALL_WEIGHT: Weight = Weight::from_parts(100_000_000, 0);

    /// What the pallet needs of the runtime.
    #[pallet::config]
    pub trait Config: frame_system::Config<RuntimeEvent: From<Event<Self>>> {}

    /// The pallet.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The ML-KEM-768 public key of the next block's producer.
    #[pallet::storage]
    pub type NextKey<T> = StorageValue<_, BoundedVec<u8, ConstU32<2048>>, OptionQuery>;

    /// What happens.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A sealed transaction is on the chain.
        EncryptedSubmitted {
            /// The hash of who sent it and what.
            id: T::Hash,
            /// Who sent it.
            who: T::AccountId,
        },
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Carries a sealed transaction, as newer runtimes do.
        #[pallet::call_index(1)]
        #[pallet::weight(CALL_WEIGHT)]
        pub fn submit_encrypted(
            origin: OriginFor<T>,
            ciphertext: BoundedVec<u8, ConstU32<8192>>,
        ) -> DispatchResult {
            let who = ensure_signed(origin)?;
            let id = T::Hashing::hash_of(&(&who, &ciphertext));
            Self::deposit_event(Event::EncryptedSubmitted { id, who });
            Ok(())
        }
    }
}
