//! Spec 425, of June 2026: epochs by a schedule.

pub mod layout;
#[path = "../../runtime/mod.rs"]
pub mod runtime;
