//! What spec 365 has in another form than later ones.

pub mod api;
pub mod errors;
pub mod events;
mod schedule;
pub mod storage;

use sp_runtime::DispatchError;

use super::runtime::subtensor::{Config, Event};
use super::runtime::{Runtime, extensions};

/// The spec that this runtime imitates.
pub const SPEC_VERSION: u32 = 365;

/// How the blocks of an activity cutoff are told.
pub type CutoffBlocks = u16;

/// An activity cutoff as it is told.
pub fn told(cutoff: u64) -> CutoffBlocks {
    cutoff.try_into().unwrap_or(u16::MAX)
}

/// One share of a hotkey's alpha, as stored.
pub const ONE_SHARE: u128 = 1 << 64;

/// Whether a commitment to a round whose signature is known already is refused.
pub const REFUSES_KNOWN_ROUNDS: bool = false;

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
    extensions::SudoTransactionExtension,
    extensions::SubtensorTransactionExtension,
    extensions::DrandPriority,
    extensions::CheckMetadataHash,
);

/// The event of an item of a batch that failed.
pub fn item_failed<T: Config>(_netuid: u16, error: DispatchError) -> Event<T> {
    Event::BatchWeightItemFailed(error)
}
