//! The pallet `SubtensorModule`: what neurons, validators and subnet owners call, and the epochs.
//!
//! It follows the real chain in everything that a client sees; what differs between specs is in `layout`. Simplified:
//! stake has no pool, so TAO and alpha exchange one to one; there are no child keys, so nothing is inherited.

mod calls;
mod commits;
mod epoch;
pub mod info;
mod mechanisms;
mod registration;
mod reveals;
mod sdk;
mod serving;
mod staking;
mod storage;
pub mod types;
mod weights;

use frame_support::pallet_macros::import_section;
use frame_support::weights::Weight;

use super::layout;
pub use pallet::*;
pub use registration::put;
pub use sdk::{EpochConsensus, I64F64, LockState};
pub use weights::storage_index;

/// What a call weighs. All weigh the same: a development chain needs no better.
const CALL_WEIGHT: Weight = Weight::from_parts(100_000_000, 0);

/// The root network's netuid.
pub const ROOT: u16 = 0;

/// The smallest stake that can be added or left, in rao.
pub const MIN_STAKE: u64 = 2_000_000;

/// Defines the pallet.
#[import_section(calls::calls)]
#[import_section(layout::errors::errors)]
#[import_section(layout::events::events)]
#[import_section(layout::storage::storage)]
#[import_section(storage::storage)]
#[import_section(sdk::sdk)]
#[frame_support::pallet]
pub mod pallet {
    use alloc::collections::VecDeque;

    use frame_support::pallet_prelude::*;
    use frame_support::traits::{ConstBool, ConstI16, ConstU8, ConstU16, ConstU64};
    use frame_system::pallet_prelude::*;
    use parity_scale_codec::Compact;
    use sp_core::H256;
    use sp_runtime::SaturatedConversion;

    use super::super::drand;
    use super::CALL_WEIGHT;
    use super::reveals::Revealed;
    use super::sdk::*;
    use super::types::*;

    /// What the pallet needs of the runtime.
    #[pallet::config]
    pub trait Config:
        frame_system::Config<AccountId = sp_runtime::AccountId32, RuntimeEvent: From<Event<Self>>>
        + pallet_balances::Config<Balance = u64>
        + drand::Config
    {
        /// Blocks between `register_network` and `start_call`.
        #[pallet::constant]
        type DurationOfStartCall: Get<u64>;
    }

    /// The pallet.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// 32 zero bytes.
    #[pallet::type_value]
    pub fn DefaultAccount<T: Config>() -> T::AccountId {
        NOBODY
    }

    /// The bounds 0.7 and 0.9.
    #[pallet::type_value]
    pub fn DefaultAlphaValues() -> (u16, u16) {
        (45_875, 58_982)
    }

    /// A mathematical tau, as on the real chain.
    #[pallet::type_value]
    pub fn DefaultTokenSymbol() -> Vec<u8> {
        "\u{1d70f}".as_bytes().to_vec()
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_initialize(block: BlockNumberFor<T>) -> Weight {
            Self::block_step(block.saturated_into());
            Weight::zero()
        }
    }
}
