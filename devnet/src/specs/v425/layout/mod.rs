//! What spec 425 has in another form than earlier ones.
//!
//! Known of the real runtime are the names and kinds of its storage, its errors with their indices, its extensions and
//! its functions; not the indices of its newer events, which are made up here.

pub mod api;
pub mod errors;
pub mod events;
mod schedule;
pub mod storage;

use sp_runtime::DispatchError;

use super::runtime::subtensor::{Config, Event};
use super::runtime::{Runtime, extensions};

/// The spec that this runtime imitates.
pub const SPEC_VERSION: u32 = 425;

/// How the blocks of an activity cutoff are told.
pub type CutoffBlocks = u64;

/// An activity cutoff as it is told.
pub fn told(cutoff: u64) -> CutoffBlocks {
    cutoff
}

/// One share of a hotkey's alpha, as stored: the mantissa of a decimal number with four places.
pub const ONE_SHARE: u128 = 10_000;

/// Whether a commitment to a round whose signature is known already is refused.
pub const REFUSES_KNOWN_ROUNDS: bool = true;

/// What every transaction carries, in order.
pub type TxExtensions = (
    frame_system::CheckNonZeroSender<Runtime>,
    frame_system::CheckSpecVersion<Runtime>,
    frame_system::CheckTxVersion<Runtime>,
    frame_system::CheckGenesis<Runtime>,
    frame_system::CheckMortality<Runtime>,
    extensions::CheckNonce,
    frame_system::CheckWeight<Runtime>,
    extensions::ChargeTransactionPayment,
    // A tuple holds twelve at most; on the wire and in the metadata there is no difference.
    (extensions::SudoTransactionExtension, extensions::CheckShieldedTxValidity),
    extensions::SubtensorTransactionExtension,
    extensions::DrandPriority,
    extensions::CheckMetadataHash,
);

/// The event of an item of a batch that failed.
pub fn item_failed<T: Config>(netuid: u16, error: DispatchError) -> Event<T> {
    Event::BatchWeightItemFailed(netuid, error)
}
