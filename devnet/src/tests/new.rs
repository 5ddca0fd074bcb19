//! What holds for all specs, tried on spec 425.

use crate::specs::v425 as tested;

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
#[path = "schedule.rs"]
mod schedule;

/// Epochs follow the schedule in storage.
fn rule_of_subnet_1() -> chain::epochs::EpochRule {
    use common::BlockNumber;

    use self::tested::runtime::Runtime;
    use self::tested::runtime::subtensor::{
        BlocksSinceLastStep, LastEpochBlock, PendingEpochAt, SubnetEpochIndex,
    };
    chain::epochs::EpochRule::Scheduler(chain::epochs::Schedule {
        last_epoch: BlockNumber(LastEpochBlock::<Runtime>::get(1)),
        pending_at: BlockNumber(PendingEpochAt::<Runtime>::get(1)),
        index: SubnetEpochIndex::<Runtime>::get(1),
        idle_blocks: BlocksSinceLastStep::<Runtime>::get(1),
    })
}
