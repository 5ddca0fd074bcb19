//! Spec 365, of December 2025: epochs by the block's number.

pub mod layout;
#[path = "../../runtime/mod.rs"]
pub mod runtime;
