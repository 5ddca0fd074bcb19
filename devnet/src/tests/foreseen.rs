//! Clients foresee epochs and reveals; the chain must have them there.

use chain::epochs::EpochClock;
use common::{BlockNumber, Netuid};

use super::played::{at_first_block, begin_block, now, set_tempo, subnet};
use super::tested::runtime::subtensor;
use super::tested::runtime::{Runtime, SubtensorModule};

/// What is seen of one block.
struct Seen {
    /// The clock after the block, as a client reads it.
    clock: EpochClock,
    /// The epoch when reveals have their turn.
    at_reveals: u64,
    /// The epoch of a commitment in it.
    of_commit: u64,
    /// Whether an epoch ran.
    ran: bool,
}

fn clock() -> EpochClock {
    EpochClock {
        netuid: Netuid(1),
        tempo: subtensor::Tempo::<Runtime>::get(1),
        head: BlockNumber(now()),
        rule: super::rule_of_subnet_1(),
    }
}

fn watched(blocks: u64) -> Vec<Seen> {
    let look = || {
        let next = now() + 1;
        let at_reveals = SubtensorModule::epoch_at(1, next);
        begin_block();
        let of_commit = SubtensorModule::epoch_of_commit(1, now());
        let ran = subtensor::BlocksSinceLastStep::<Runtime>::get(1) == 0;
        Seen { clock: clock(), at_reveals, of_commit, ran }
    };
    (0..blocks).map(|_| look()).collect()
}

#[test]
fn epochs_and_reveals_are_where_clients_foresee_them() {
    for tempo in [1, 2, 7, 20] {
        at_first_block(|| {
            subnet(&[]);
            set_tempo(1, tempo);
            let seen = watched(120);
            let first = seen[0].clock.head.0;
            let at = |block: u64| seen.get(usize::try_from(block - first).unwrap());
            for (place, of) in seen.iter().enumerate().take(40) {
                let later = &seen[place + 1..];
                let next = later.iter().find(|block| block.ran).unwrap().clock.head;
                assert_eq!(of.clock.next_epoch(), Some(next), "tempo {tempo}, {:?}", of.clock);
                for period in [1, 2] {
                    let reveal = of.clock.reveal(period).unwrap();
                    let committed = &later[0];
                    assert_eq!(reveal.commit_epoch, committed.of_commit, "{:?}", of.clock);
                    let epochs =
                        [reveal.first.0 - 1, reveal.first.0, reveal.last.0, reveal.last.0 + 1]
                            .map(|block| at(block).unwrap().at_reveals);
                    let due = committed.of_commit + period;
                    assert_eq!(epochs[1..3], [due, due], "{:?}: {reveal:?}", of.clock);
                    assert!(epochs[3] > due, "{:?}: {reveal:?}", of.clock);
                    assert!(
                        epochs[0] < due || reveal.first.0 - 1 <= of.clock.head.0 + 1,
                        "{:?}: {reveal:?}",
                        of.clock
                    );
                }
            }
        });
    }
}
