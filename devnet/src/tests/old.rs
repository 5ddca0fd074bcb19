//! What holds for all specs, tried on spec 365.

use crate::specs::v365 as tested;

#[path = "commits.rs"]
mod commits;
#[path = "consensus.rs"]
mod consensus;
#[path = "foreseen.rs"]
mod foreseen;
#[path = "mechanisms.rs"]
mod mechanisms;
#[path = "played.rs"]
mod played;
#[path = "pulses.rs"]
mod pulses;
#[path = "reveals.rs"]
mod reveals;

/// Epochs follow the block's number.
fn rule_of_subnet_1() -> chain::epochs::EpochRule {
    chain::epochs::EpochRule::Modulo
}
