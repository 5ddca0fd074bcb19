//! When a subnet has its epochs, and so when a commit made now is revealed.
//!
//! Pure: the state of one block goes in. Older runtimes place epochs by the block's number, newer ones keep a schedule
//! in storage; which of the two holds is told by whether the metadata has `SubnetEpochIndex`.

use std::time::Duration;

use common::{BlockNumber, Netuid};
use serde::{Deserialize, Serialize};

/// Blocks after the first possible reveal to which the reveal is aimed, so that the round's signature, which the chain
/// fetches by itself, has arrived by then. The constant of the official packages.
const MARGIN_BLOCKS: u64 = 3;

/// A schedule whose last epoch lies more blocks back than this has one at once; the highest tempo an owner can set.
const MAX_IDLE_BLOCKS: u64 = 50_400;

/// What decides when a subnet has epochs, read at one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochClock {
    pub netuid: Netuid,
    /// Blocks between two epochs; one less under [`EpochRule::Modulo`]. 0 has no epochs.
    pub tempo: u16,
    /// The block at which all this was read.
    pub head: BlockNumber,
    pub rule: EpochRule,
}

/// How a runtime places epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochRule {
    /// By the block's number, as in spec 365: an epoch runs where `(block + netuid + 1) % (tempo + 1) == tempo`.
    Modulo,
    /// By a schedule in storage, as in spec 425.
    Scheduler(Schedule),
}

/// A subnet's schedule, as newer runtimes store it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// `LastEpochBlock`.
    pub last_epoch: BlockNumber,
    /// `PendingEpochAt`: an epoch that was asked for or put off; 0 is none.
    pub pending_at: BlockNumber,
    /// `SubnetEpochIndex`: how many epochs there were.
    pub index: u64,
    /// `BlocksSinceLastStep`.
    pub idle_blocks: u64,
}

/// Why there is no reveal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoReveal {
    #[error("subnet {0} has a tempo of 0: it has no epochs, so no commit is ever revealed")]
    NoEpochs(Netuid),
    #[error("a reveal period of 0 epochs is none")]
    NoPeriod,
    #[error("the reveal would lie beyond every block or time that can be counted")]
    OutOfReach,
}

/// When a commit that is included in the block after `head` is revealed.
///
/// A commit that is included later may belong to a later epoch; it is then still revealed, though its round is known
/// earlier than need be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reveal {
    /// The block from which this was foreseen.
    pub head: BlockNumber,
    /// The epoch under which the chain files the commit, the second key of `TimelockedWeightCommits`.
    pub commit_epoch: u64,
    /// The one epoch in which the commit can be revealed.
    pub epoch: u64,
    /// The first block in which it can be revealed.
    pub first: BlockNumber,
    /// The last block in which it can be revealed; after it the chain drops the commit.
    pub last: BlockNumber,
}

impl Reveal {
    /// The block to which the reveal is aimed.
    pub fn aim(&self) -> BlockNumber {
        BlockNumber(self.first.0.saturating_add(MARGIN_BLOCKS).min(self.last.0))
    }

    /// When the block that is aimed at will be made, as time since the Unix epoch: the time to which a commit is to be
    /// sealed. `now` is the time at `head`.
    ///
    /// # Errors
    /// [`NoReveal::OutOfReach`] when a `Duration` cannot hold it.
    pub fn time(&self, now: Duration, block_time: Duration) -> Result<Duration, NoReveal> {
        let blocks = self.aim().0.saturating_sub(self.head.0);
        block_time
            .as_nanos()
            .checked_mul(blocks.into())
            .and_then(|nanos| {
                let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
                // The remainder is below a billion.
                now.checked_add(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
            })
            .ok_or(NoReveal::OutOfReach)
    }
}

impl EpochClock {
    /// The first block after `head` that has an epoch, as far as can be foreseen: when too many subnets have one in the
    /// same block, some are put off by a block. `None` with a tempo of 0.
    pub fn next_epoch(&self) -> Option<BlockNumber> {
        if self.tempo == 0 {
            return None;
        }
        Some(BlockNumber(match self.rule {
            EpochRule::Modulo => {
                let next = self.head.0.saturating_add(1);
                let phase = self.shifted(next) % self.cycle();
                next.saturating_add(u64::from(self.tempo) - phase)
            }
            EpochRule::Scheduler(schedule) => schedule.next(self.head, self.tempo).run,
        }))
    }

    /// The epoch under which the chain files a commit in the block after `head`. `None` with a tempo of 0.
    pub fn epoch(&self) -> Option<u64> {
        Some(self.reveal(1).ok()?.commit_epoch)
    }

    /// The epoch under which the chain files a commit in that block. `None` with a tempo of 0, and where only the chain's
    /// own storage tells.
    pub(crate) fn epoch_of(&self, block: BlockNumber) -> Option<u64> {
        match self.rule {
            EpochRule::Modulo if self.tempo > 0 => Some(self.shifted(block.0) / self.cycle()),
            _ => None,
        }
    }

    /// When a commit that is included in the block after `head` is revealed. `period` is `RevealPeriodEpochs`.
    ///
    /// # Errors
    /// When the subnet has no epochs, or the numbers make no sense.
    pub fn reveal(&self, period: u64) -> Result<Reveal, NoReveal> {
        if self.tempo == 0 {
            return Err(NoReveal::NoEpochs(self.netuid));
        }
        if period == 0 {
            return Err(NoReveal::NoPeriod);
        }
        match self.rule {
            EpochRule::Modulo => self.reveal_by_number(period),
            EpochRule::Scheduler(schedule) => self.reveal_by_schedule(&schedule, period),
        }
        .ok_or(NoReveal::OutOfReach)
    }

    fn reveal_by_number(&self, period: u64) -> Option<Reveal> {
        let commit_epoch = self.shifted(self.head.0.checked_add(1)?) / self.cycle();
        let epoch = commit_epoch.checked_add(period)?;
        let first = epoch.checked_mul(self.cycle())?.checked_sub(self.shifted(0))?;
        let last = first.checked_add(u64::from(self.tempo))?;
        Some(self.revealed(commit_epoch, epoch, first, last))
    }

    fn reveal_by_schedule(&self, schedule: &Schedule, period: u64) -> Option<Reveal> {
        let next = schedule.next(self.head, self.tempo);
        // Epochs come before transactions, so one in the block of the commit is over by then. (The official packages
        // leave out the one that only `MAX_IDLE_BLOCKS` brings about in that very block.)
        let over = u64::from(next.run == self.head.0.checked_add(1)?);
        let commit_epoch = schedule.index.checked_add(over)?;
        let epoch = commit_epoch.checked_add(period)?;
        let between = over.checked_add(period)?.checked_sub(1)?;
        let first = next.seen_after(between, self.tempo)?;
        let last = next.seen_after(between.checked_add(1)?, self.tempo)?.checked_sub(1)?;
        Some(self.revealed(commit_epoch, epoch, first, last))
    }

    fn revealed(&self, commit_epoch: u64, epoch: u64, first: u64, last: u64) -> Reveal {
        let (first, last) = (BlockNumber(first), BlockNumber(last));
        Reveal { head: self.head, commit_epoch, epoch, first, last }
    }

    /// Blocks from one epoch to the next by the block's number.
    fn cycle(&self) -> u64 {
        u64::from(self.tempo) + 1
    }

    /// A block's number as the modulo rule counts it.
    fn shifted(&self, block: u64) -> u64 {
        block.saturating_add(u64::from(self.netuid.0) + 1)
    }
}

/// An epoch that a schedule foresees.
#[derive(Debug, Clone, Copy)]
struct Foreseen {
    /// The block that runs it.
    run: u64,
    /// The first block in which reveals count it as begun: the same one, or the next.
    seen: u64,
}

impl Schedule {
    /// The first epoch after `head`.
    fn next(&self, head: BlockNumber, tempo: u16) -> Foreseen {
        let start = head.0.saturating_add(1);
        let mut due = self.last_epoch.0.saturating_add(tempo.into());
        if self.pending_at.0 > 0 {
            due = due.min(self.pending_at.0);
        }
        let idle = head.0.saturating_add((MAX_IDLE_BLOCKS + 1).saturating_sub(self.idle_blocks));
        Foreseen {
            run: due.min(idle).max(start),
            // Reveals come before the block counts as idle.
            seen: due.min(idle.saturating_add(1)).max(start),
        }
    }
}

impl Foreseen {
    /// The first block in which reveals count the epoch that comes `between` epochs after this one as begun.
    fn seen_after(&self, between: u64, tempo: u16) -> Option<u64> {
        if between == 0 {
            return Some(self.seen);
        }
        let tempo = u64::from(tempo);
        let distance = tempo.min(MAX_IDLE_BLOCKS + 1);
        let late = u64::from(tempo > distance);
        self.run.checked_add(between.checked_mul(distance)?)?.checked_add(late)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use timelock::Beacon;

    fn modulo(netuid: u16, tempo: u16, head: u64) -> EpochClock {
        EpochClock {
            netuid: Netuid(netuid),
            tempo,
            head: BlockNumber(head),
            rule: EpochRule::Modulo,
        }
    }

    fn scheduler(tempo: u16, head: u64, of: [u64; 4]) -> EpochClock {
        let [last_epoch, pending_at, index, idle_blocks] = of;
        let rule = EpochRule::Scheduler(Schedule {
            last_epoch: BlockNumber(last_epoch),
            pending_at: BlockNumber(pending_at),
            index,
            idle_blocks,
        });
        EpochClock { netuid: Netuid(1), tempo, head: BlockNumber(head), rule }
    }

    /// What a chain of the newer kind does, block by block: commit epoch, first and last block of the reveal.
    fn played(tempo: u16, head: u64, of: [u64; 4], period: u64) -> (u64, u64, u64) {
        let [mut last, mut pending, mut index, mut idle] = of;
        let due = |block: u64, last: u64, pending: u64, idle: u64| {
            u64::from(
                (pending > 0 && block >= pending)
                    || idle > MAX_IDLE_BLOCKS
                    || block.saturating_sub(last) >= u64::from(tempo),
            )
        };
        let (mut commit_epoch, mut first) = (None, None);
        for block in head + 1.. {
            // Reveals, epochs, transactions.
            let current = index + due(block, last, pending, idle);
            if let Some(commit_epoch) = commit_epoch {
                match first {
                    None if current == commit_epoch + period => first = Some(block),
                    Some(first) if current > commit_epoch + period => {
                        return (commit_epoch, first, block - 1);
                    }
                    _ => {}
                }
            }
            idle += 1;
            if due(block, last, pending, idle) == 1 {
                (last, pending, idle) = (block, 0, 0);
                index += 1;
            }
            commit_epoch.get_or_insert(index + due(block, last, pending, idle));
        }
        unreachable!()
    }

    #[test]
    fn epochs_by_number_lie_a_tempo_and_a_block_apart() {
        let blocks = |netuid, tempo| {
            let first = modulo(netuid, tempo, 0).next_epoch().unwrap();
            [first, modulo(netuid, tempo, first.0).next_epoch().unwrap()].map(|block| block.0)
        };
        assert_eq!(blocks(0, 100), [99, 200]);
        assert_eq!(blocks(1, 100), [98, 199]);
        assert_eq!(blocks(1, 1), [1, 3]);
        assert_eq!(modulo(0, 0, 5).next_epoch(), None);
    }

    #[test]
    fn a_commit_after_the_last_block_of_an_epoch_belongs_to_the_next() {
        // Epoch 0 of subnet 1 with tempo 100 ends with block 98.
        let reveal = |head| modulo(1, 100, head).reveal(1).unwrap();
        assert_eq!((reveal(97).commit_epoch, reveal(97).first), (0, BlockNumber(99)));
        assert_eq!((reveal(98).commit_epoch, reveal(98).first), (1, BlockNumber(200)));
        assert_eq!((reveal(98).last, reveal(98).aim()), (BlockNumber(300), BlockNumber(203)));
    }

    #[test]
    fn the_official_examples_of_the_schedule_hold() {
        let first = |tempo, head, of, period| scheduler(tempo, head, of).reveal(period);
        assert_eq!(first(50, 10, [10, 0, 0, 0], 1).unwrap().first, BlockNumber(60));
        assert_eq!(first(20, 91, [80, 95, 0, 0], 1).unwrap().first, BlockNumber(95));
        assert_eq!(first(50, 120, [100, 0, 0, 0], 1).unwrap().commit_epoch, 0);
        assert_eq!(first(0, 10, [10, 0, 0, 0], 1), Err(NoReveal::NoEpochs(Netuid(1))));
        let aim = first(360, 1100, [1000, 0, 0, 100], 1).unwrap().aim();
        assert_eq!(aim.0 - 1100, 263);
    }

    #[test]
    fn the_official_reveal_rounds_are_met() {
        let folder = std::env::var("TOUCHSTONE_VECTORS")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors").into());
        let path = std::path::Path::new(&folder).join("bittensor_sdk.json");
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let vectors: Value = serde_json::from_str(&text).unwrap();
        let cases = vectors["reveal_rounds"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let number = |name: &str| case[name].as_u64().unwrap();
            let seconds = |name: &str| Duration::from_secs_f64(case[name].as_f64().unwrap());
            let head = number("current_block");
            let clock = scheduler(
                u16::try_from(number("tempo")).unwrap(),
                head,
                [
                    number("last_epoch_block"),
                    number("pending_epoch_at"),
                    number("subnet_epoch_index"),
                    number("blocks_since_last_step"),
                ],
            );
            let reveal = clock.reveal(number("reveal_period_epochs")).unwrap();
            let blocks = (reveal.aim().0 - head) as f64;
            let bounds = &case["blocks_until_reveal_between"];
            let [low, high] = [0, 1].map(|side| bounds[side].as_f64().unwrap());
            assert!(low <= blocks && blocks <= high, "{blocks}: {case}");
            let time = reveal.time(seconds("now_unix_s"), seconds("block_time_s")).unwrap();
            let round = Beacon::quicknet().round_known_at(time);
            // The official call read its clock a moment later.
            let official = number("reveal_round");
            assert!(round == official || round + 1 == official, "{round}: {case}");
        }
    }

    #[test]
    fn a_reveal_is_never_aimed_past_its_epoch() {
        let reveal = scheduler(2, 10, [10, 0, 4, 0]).reveal(1).unwrap();
        assert_eq!((reveal.first, reveal.last), (BlockNumber(12), BlockNumber(13)));
        assert_eq!(reveal.aim(), BlockNumber(13));
    }

    #[test]
    fn numbers_that_make_no_sense_are_errors() {
        assert_eq!(modulo(1, 360, 5).reveal(0), Err(NoReveal::NoPeriod));
        assert_eq!(modulo(1, 360, 5).reveal(u64::MAX), Err(NoReveal::OutOfReach));
        assert_eq!(modulo(1, 360, u64::MAX).reveal(1), Err(NoReveal::OutOfReach));
        let reveal = modulo(1, 360, 5).reveal(1).unwrap();
        assert_eq!(reveal.time(Duration::MAX, Duration::MAX), Err(NoReveal::OutOfReach));
    }

    proptest! {
        #[test]
        fn by_number_a_reveal_spans_the_blocks_of_its_epoch(
            netuid: u16,
            tempo in 1..500_u16,
            head in 0..10_000_000_u64,
            period in 1..100_u64,
        ) {
            let clock = modulo(netuid, tempo, head);
            let epoch = |block: u64| (block + u64::from(netuid) + 1) / (u64::from(tempo) + 1);
            let reveal = clock.reveal(period).unwrap();
            prop_assert_eq!(reveal.commit_epoch, epoch(head + 1));
            prop_assert_eq!(reveal.epoch, epoch(head + 1) + period);
            let (first, last) = (reveal.first.0, reveal.last.0);
            let around = [first - 1, first, last, last + 1].map(epoch);
            prop_assert_eq!(around, [0, 1, 1, 2].map(|more| reveal.epoch - 1 + more));
            // The epoch runs in the last block that has its number.
            let next = clock.next_epoch().unwrap().0;
            let run = |block: u64| (block + u64::from(netuid) + 1) % (u64::from(tempo) + 1) == u64::from(tempo);
            prop_assert_eq!((head + 1..).find(|&block| run(block)), Some(next));
            prop_assert!(run(last));
        }

        #[test]
        fn by_schedule_a_reveal_is_when_a_chain_played_block_by_block_has_it(
            tempo in prop_oneof![3 => 1..60_u16, 1 => 50_380..=u16::MAX],
            since in prop_oneof![3 => 0..80_u64, 1 => 50_300..70_000_u64],
            pending in prop_oneof![Just(0), 99_900..100_200_u64],
            idle in prop_oneof![3 => 0..80_u64, 1 => 50_380..50_420_u64],
            period in 1..4_u64,
        ) {
            let head = 100_000;
            let of = [head - since, pending, 7, idle];
            let reveal = scheduler(tempo, head, of).reveal(period).unwrap();
            let foreseen = (reveal.commit_epoch, reveal.first.0, reveal.last.0);
            prop_assert_eq!(foreseen, played(tempo, head, of, period));
            prop_assert_eq!(reveal.epoch, reveal.commit_epoch + period);
        }

        #[test]
        fn whatever_the_chain_says_nothing_overflows(
            netuid: u16,
            tempo: u16,
            head: u64,
            of: [u64; 4],
            period: u64,
            nanos: u64,
        ) {
            let by_number = modulo(netuid, tempo, head);
            let by_schedule = scheduler(tempo, head, of);
            for clock in [by_number, by_schedule] {
                prop_assert_eq!(clock.next_epoch().is_none(), tempo == 0);
                prop_assert!(clock.next_epoch().is_none_or(|block| block > clock.head));
                if let Ok(reveal) = clock.reveal(period) {
                    prop_assert!(clock.head < reveal.first && reveal.first <= reveal.last);
                    prop_assert!(reveal.aim() >= reveal.first && reveal.aim() <= reveal.last);
                    let time = reveal.time(Duration::from_nanos(nanos), Duration::from_nanos(nanos));
                    prop_assert!(time.is_ok() || time == Err(NoReveal::OutOfReach));
                }
            }
        }
    }
}
