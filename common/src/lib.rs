//! The nouns of an inference subnet, the messages its services exchange, and the signatures on them.
//!
//! Knows nothing of HTTP servers, databases, chains or engines: every service depends on this crate, so it holds only
//! what at least two of them mean by the same word.

pub mod btauth;
pub mod bundle;
pub mod capacity;
pub mod checks;
pub mod evidence;
pub mod format;
pub mod generation;
mod hotkey;
mod ids;
mod keypair;
pub mod money;
pub mod openai;
pub mod receipt;
pub mod session;

pub use hotkey::{BadHotkey, Hotkey};
pub use ids::{BadTaskId, BadVolume, BlockNumber, MechanismId, Netuid, TaskId, Uid, Volume};
pub use keypair::{Keypair, Signature};
