//! The pallet `MevShield`, switched off: no block producer announces a key, so nobody can encrypt a transaction to one.
//! Clients read that here, and send in the open or refuse.

pub use pallet::*;

/// Defines the pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;

    /// What the pallet needs of the runtime.
    #[pallet::config]
    pub trait Config: frame_system::Config {}

    /// The pallet.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The ML-KEM-768 public key of the next block's producer.
    #[pallet::storage]
    pub type NextKey<T> = StorageValue<_, BoundedVec<u8, ConstU32<2048>>, OptionQuery>;
}
