//! A stand-in for the block production pallet: clients read the block time from its constant.

pub use pallet::*;

/// The storage key that a node fills with its block time in milliseconds before it runs a query.
pub const BLOCK_TIME_KEY: &[u8] = b":devnet:block_time_ms";

/// Defines the pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;

    /// What the pallet needs of the runtime.
    #[pallet::config]
    pub trait Config: frame_system::Config {
        /// Milliseconds between two blocks.
        #[pallet::constant]
        type SlotDuration: Get<u64>;
    }

    /// The pallet.
    #[pallet::pallet]
    pub struct Pallet<T>(_);
}

/// The node's block time, 12 s where nobody says otherwise.
#[derive(Debug)]
pub struct SlotDuration;

impl frame_support::traits::Get<u64> for SlotDuration {
    fn get() -> u64 {
        frame_support::storage::unhashed::get(BLOCK_TIME_KEY).unwrap_or(12_000)
    }
}
