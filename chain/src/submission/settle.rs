//! What has become of weights that were sent, decided from what the chain shows.

use common::{BlockNumber, Uid};

use super::{Failure, Kind, LATE_EPOCHS, Stage, Submission};
use crate::preflight::{WeightFacts, why_dropped};

/// What the chain shows of a submission at one finalized block.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub facts: WeightFacts,
    /// The weights that the chain holds of the hotkey in the mechanism.
    pub stored: Vec<(Uid, u16)>,
    /// The block of the commit and the epoch under which it is filed, as long as it waits for its reveal.
    pub waiting: Option<(BlockNumber, u64)>,
    /// Whether the chain has the signature of the round to which the commit is sealed; `None` if it is not sealed.
    pub pulse: Option<bool>,
}

/// What to do about a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing before this block is final.
    Wait(BlockNumber),
    /// It has come to this stage.
    Stage(Stage),
    /// The hashed weights can be revealed now, in this epoch and no other.
    Reveal,
}

/// Decides. The same submission and standing always give the same answer, so nothing is lost by asking again.
pub fn settle(submission: &Submission, standing: &Standing) -> Next {
    if submission.is_over() {
        return Next::Stage(submission.stage.clone());
    }
    // A node that is behind shows nothing of what is known already.
    let known = match submission.stage {
        Stage::Committed { block, .. } => block,
        _ => submission.made_at,
    };
    if standing.facts.head < known {
        return Next::Wait(known);
    }
    match (&submission.kind, standing.waiting) {
        (Kind::Plain, _) => plain(submission, standing),
        (_, Some((block, epoch))) => waiting(submission, standing, block, epoch),
        (Kind::Timelocked { .. } | Kind::Hashed { .. }, None) => gone(submission, standing),
    }
}

fn plain(submission: &Submission, standing: &Standing) -> Next {
    let facts = &standing.facts;
    let touched = facts.last_update > submission.made_at;
    if touched && holds(submission, standing) {
        return Next::Stage(Stage::InForce { block: facts.last_update });
    }
    let why = if touched { Failure::Unproven } else { Failure::NeverIncluded };
    unless_over(submission, facts, why)
}

/// The chain holds the commit.
fn waiting(submission: &Submission, standing: &Standing, block: BlockNumber, epoch: u64) -> Next {
    let facts = &standing.facts;
    let stage = Stage::Committed { block, epoch };
    if submission.stage != stage {
        return Next::Stage(stage);
    }
    let (current, reveal) = (facts.clock.epoch(), submission.reveal_epoch(facts.reveal_period));
    match (&submission.kind, current.cmp(&reveal)) {
        (_, std::cmp::Ordering::Less) if is_renumbered(submission, facts) => {
            failed(Failure::Dropped { reason: RENUMBERED.to_owned() })
        }
        (_, std::cmp::Ordering::Less) => {
            Next::Wait(facts.next_epoch().unwrap_or(facts.next_block()))
        }
        (Kind::Hashed { .. }, std::cmp::Ordering::Equal) => Next::Reveal,
        (Kind::Hashed { .. }, std::cmp::Ordering::Greater) => {
            failed(Failure::Missed { epoch: reveal.unwrap_or_default() })
        }
        // In the epoch of the reveal, and until it removes what is too old, it is the chain's turn.
        (Kind::Timelocked { .. } | Kind::Plain, _) => Next::Wait(facts.next_block()),
    }
}

const RENUMBERED: &str = "the subnet's tempo was changed, so its epochs are numbered anew";

/// Whether the epoch of the reveal should have passed long ago but is far ahead by its number: a longer tempo numbers epochs
/// anew under the modulo rule.
fn is_renumbered(submission: &Submission, facts: &WeightFacts) -> bool {
    let (epoch, period) = (u64::from(facts.clock.tempo) + 1, facts.reveal_period);
    let late = epoch.saturating_mul(period.saturating_add(LATE_EPOCHS));
    submission.reveal().is_some_and(|reveal| facts.head.0 > reveal.last.0.saturating_add(late))
}

/// The chain does not hold the commit: not yet, or no longer.
fn gone(submission: &Submission, standing: &Standing) -> Next {
    let facts = &standing.facts;
    let current = facts.clock.epoch();
    let reveal = submission.reveal_epoch(facts.reveal_period);
    let committed = match submission.stage {
        Stage::Committed { block, .. } => block,
        _ => {
            if facts.last_update <= submission.made_at {
                return unless_over(submission, facts, Failure::NeverIncluded);
            }
            // Something of the hotkey came into a block; this, or what another program sent.
            if current < reveal {
                return unless_over(submission, facts, Failure::NeverIncluded);
            }
            facts.last_update
        }
    };
    if holds(submission, standing) {
        return Next::Stage(Stage::InForce { block: facts.head });
    }
    // A later commit writes a later `LastUpdate`; without one, nothing can have replaced these weights.
    if facts.last_update > committed && current > reveal {
        return failed(Failure::Unproven);
    }
    match submission.kind {
        Kind::Hashed { .. } if current > reveal => {
            failed(Failure::Missed { epoch: reveal.unwrap_or_default() })
        }
        Kind::Hashed { .. } => failed(Failure::Unproven),
        Kind::Timelocked { round, .. } => {
            failed(Failure::Dropped { reason: reason(submission, standing, round) })
        }
        Kind::Plain => unless_over(submission, facts, Failure::NeverIncluded),
    }
}

/// Which check the chain's reveal most likely failed.
fn reason(submission: &Submission, standing: &Standing, round: u64) -> String {
    let checked = why_dropped(&standing.facts, &submission.weights, submission.version_key);
    if let Some(reason) = checked {
        return format!("at that time: {reason}");
    }
    match standing.pulse {
        Some(false) => format!(
            "the beacon's signature of round {round} did not reach the chain while the commit could be revealed"
        ),
        _ => "the chain could not open the commit or read what was in it".to_owned(),
    }
}

/// Fails as `why` says once no block can contain the transaction any more.
fn unless_over(submission: &Submission, facts: &WeightFacts, why: Failure) -> Next {
    match submission.open_until {
        Some(end) if facts.head >= end => failed(why),
        _ => Next::Wait(facts.next_block()),
    }
}

fn failed(why: Failure) -> Next {
    Next::Stage(Stage::Failed { why })
}

fn holds(submission: &Submission, standing: &Standing) -> bool {
    same_ratios(&submission.weights, &standing.stored)
}

/// Whether the chain stores what was sent. It scales weights so that the largest is 65535, rounding in its own way; what
/// has that largest already, as everything that is encoded here, is stored as it is.
pub(super) fn same_ratios(sent: &[(Uid, u16)], stored: &[(Uid, u16)]) -> bool {
    let largest = sent.iter().map(|(_, weight)| *weight).max().unwrap_or(0).max(1);
    let scale = f64::from(u16::MAX) / f64::from(largest);
    let tolerance = if largest == u16::MAX { 0.0 } else { 1.0 };
    sent.len() == stored.len()
        && sent.iter().zip(stored).all(|((uid, weight), (stored_uid, stored_weight))| {
            uid == stored_uid
                && (f64::from(*weight) * scale - f64::from(*stored_weight)).abs() <= tolerance
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epochs::{EpochClock, EpochRule, Reveal, Schedule};
    use crate::preflight::examples::{WEIGHTS, facts};
    use crate::submission::Digest;

    const MADE_AT: BlockNumber = BlockNumber(999);

    /// Epochs every 100 blocks; epoch 7 began with block 900.
    fn at(head: u64) -> WeightFacts {
        let (last, index) = (head / 100 * 100, head / 100 - 2);
        let rule = EpochRule::Scheduler(Schedule {
            last_epoch: BlockNumber(last),
            pending_at: BlockNumber(0),
            index,
            idle_blocks: head - last,
        });
        let head = BlockNumber(head);
        let clock = EpochClock { tempo: 100, head, rule, ..facts().clock };
        WeightFacts { head, clock, ..facts() }
    }

    fn standing(head: u64) -> Standing {
        Standing { facts: at(head), stored: Vec::new(), waiting: None, pulse: None }
    }

    fn submission(kind: Kind, stage: Stage) -> Submission {
        Submission {
            netuid: facts().netuid,
            mechanism: facts().mechanism,
            hotkey: facts().hotkey,
            uid: Uid(0),
            weights: WEIGHTS.to_vec(),
            version_key: 3,
            made_at: MADE_AT,
            open_until: None,
            kind,
            stage,
        }
    }

    /// Made in block 999, the last one of epoch 7: the commit comes into epoch 8 and is revealed in 9, from block 1100.
    fn reveal() -> Reveal {
        at(999).clock.reveal(1).unwrap()
    }

    fn timelocked(stage: Stage) -> Submission {
        let kind = Kind::Timelocked { reveal: reveal(), round: 5000, digest: Digest([1; 32]) };
        submission(kind, stage)
    }

    fn hashed(stage: Stage) -> Submission {
        let kind = Kind::Hashed { reveal: reveal(), digest: Digest([1; 32]), salt: vec![1, 2, 3] };
        submission(kind, stage)
    }

    const COMMITTED: Stage = Stage::Committed { block: BlockNumber(1003), epoch: 8 };

    fn last_update(standing: Standing, block: u64) -> Standing {
        let facts = WeightFacts { last_update: BlockNumber(block), ..standing.facts };
        Standing { facts, ..standing }
    }

    #[test]
    fn the_example_is_as_it_says() {
        assert_eq!((reveal().commit_epoch, reveal().epoch), (8, 9));
        assert_eq!(reveal().first, BlockNumber(1100));
        assert_eq!(at(1050).clock.epoch(), Some(8));
    }

    #[test]
    fn plain_weights_are_in_force_when_they_are_there_and_newer_than_the_attempt() {
        let sent = submission(Kind::Plain, Stage::Sent);
        let there = Standing { stored: WEIGHTS.to_vec(), ..standing(1010) };
        assert_eq!(settle(&sent, &there), Next::Wait(BlockNumber(1011)), "they were there before");
        let in_force = Next::Stage(Stage::InForce { block: BlockNumber(1003) });
        assert_eq!(settle(&sent, &last_update(there, 1003)), in_force);
    }

    #[test]
    fn nothing_is_given_up_before_the_last_block_that_can_contain_it() {
        for sent in
            [submission(Kind::Plain, Stage::Sent), timelocked(Stage::Sent), hashed(Stage::Sent)]
        {
            let sent = Submission { open_until: Some(BlockNumber(1064)), ..sent };
            assert_eq!(settle(&sent, &standing(1063)), Next::Wait(BlockNumber(1064)));
            assert_eq!(settle(&sent, &standing(1064)), failed(Failure::NeverIncluded));
            let endless = Submission { open_until: None, ..sent };
            assert_eq!(settle(&endless, &standing(9999)), Next::Wait(BlockNumber(10_000)));
        }
    }

    #[test]
    fn a_commit_is_found_then_awaited_then_proven() {
        let found = Standing { waiting: Some((BlockNumber(1003), 8)), ..standing(1003) };
        assert_eq!(settle(&timelocked(Stage::Sent), &found), Next::Stage(COMMITTED));
        let committed = timelocked(COMMITTED);
        assert_eq!(settle(&committed, &found), Next::Wait(BlockNumber(1100)));
        let late = Standing { facts: at(1100), ..found };
        assert_eq!(settle(&committed, &late), Next::Wait(BlockNumber(1101)), "no signature yet");
        let revealed = Standing { stored: WEIGHTS.to_vec(), ..standing(1102) };
        let in_force = Next::Stage(Stage::InForce { block: BlockNumber(1102) });
        assert_eq!(settle(&committed, &last_update(revealed, 1003)), in_force);
    }

    #[test]
    fn a_dropped_commit_is_told_with_the_most_likely_reason() {
        let because = |standing: Standing| {
            let next = settle(&timelocked(COMMITTED), &last_update(standing, 1003));
            let Next::Stage(Stage::Failed { why: Failure::Dropped { reason } }) = next else {
                panic!("{next:?}")
            };
            reason
        };
        let facts = WeightFacts { validator_permit: false, ..at(1101) };
        let reason = because(Standing { facts, ..standing(1101) });
        assert!(reason.contains("no validator permit"), "{reason}");
        let reason = because(Standing { pulse: Some(false), ..standing(1101) });
        assert!(reason.contains("round 5000"), "{reason}");
        let reason = because(Standing { pulse: Some(true), ..standing(1101) });
        assert!(reason.contains("could not open"), "{reason}");
    }

    #[test]
    fn what_nobody_saw_is_not_called_dropped() {
        let long_after = last_update(standing(1350), 1240);
        assert_eq!(settle(&timelocked(COMMITTED), &long_after), failed(Failure::Unproven));
        let nothing_since = last_update(standing(1350), 1003);
        let next = settle(&timelocked(COMMITTED), &nothing_since);
        assert!(
            matches!(next, Next::Stage(Stage::Failed { why: Failure::Dropped { .. } })),
            "{next:?}"
        );
    }

    #[test]
    fn a_commit_that_came_into_a_block_while_nobody_looked_is_judged_too() {
        let revealed = Standing { stored: WEIGHTS.to_vec(), ..standing(1102) };
        let in_force = Next::Stage(Stage::InForce { block: BlockNumber(1102) });
        assert_eq!(settle(&timelocked(Stage::Sent), &last_update(revealed, 1003)), in_force);
    }

    #[test]
    fn hashes_are_revealed_in_their_epoch_and_no_other() {
        let waits = |head| Standing { waiting: Some((BlockNumber(1003), 8)), ..standing(head) };
        let committed = hashed(COMMITTED);
        assert_eq!(settle(&committed, &waits(1050)), Next::Wait(BlockNumber(1100)));
        for head in [1099, 1100, 1198] {
            assert_eq!(settle(&committed, &waits(head)), Next::Reveal, "{head}");
        }
        for head in [1199, 1200, 1250] {
            assert_eq!(
                settle(&committed, &waits(head)),
                failed(Failure::Missed { epoch: 9 }),
                "{head}"
            );
        }
        let revealed = Standing { stored: WEIGHTS.to_vec(), ..standing(1120) };
        let in_force = Next::Stage(Stage::InForce { block: BlockNumber(1120) });
        assert_eq!(settle(&committed, &revealed), in_force);
    }

    #[test]
    fn the_end_stays_the_end() {
        let stage = Stage::InForce { block: BlockNumber(7) };
        assert_eq!(settle(&timelocked(stage.clone()), &standing(5000)), Next::Stage(stage));
    }

    #[test]
    fn stored_weights_prove_only_what_was_sent() {
        let sent = [(Uid(1), 30_000), (Uid(4), 10_000)];
        assert!(same_ratios(&sent, &[(Uid(1), 65535), (Uid(4), 21845)]));
        assert!(!same_ratios(&sent, &[(Uid(1), 65535), (Uid(5), 21845)]));
        assert!(!same_ratios(&sent, &[(Uid(1), 65535), (Uid(4), 21000)]));
        assert!(!same_ratios(&sent, &[(Uid(1), 65535)]));
        let encoded = [(Uid(0), 65535), (Uid(1), 20_000)];
        assert!(same_ratios(&encoded, &encoded));
        assert!(!same_ratios(&encoded, &[(Uid(0), 65535), (Uid(1), 20_001)]));
    }

    #[test]
    fn a_node_that_is_behind_is_no_proof_of_anything() {
        for committed in [timelocked(COMMITTED), hashed(COMMITTED)] {
            assert_eq!(settle(&committed, &standing(1002)), Next::Wait(BlockNumber(1003)));
        }
        let mut sent = submission(Kind::Plain, Stage::Sent);
        sent.open_until = Some(BlockNumber(950));
        assert_eq!(settle(&sent, &standing(998)), Next::Wait(MADE_AT));
    }

    #[test]
    fn a_commit_whose_epoch_moved_far_ahead_by_its_number_is_given_up() {
        let filed = Stage::Committed { block: BlockNumber(1003), epoch: 800 };
        let last = reveal().last.0;
        let waits = |head| {
            let waiting = Some((BlockNumber(1003), 800));
            settle(&timelocked(filed.clone()), &Standing { waiting, ..standing(head) })
        };
        assert!(matches!(waits(last + 1), Next::Wait(_)));
        assert_eq!(
            waits(last + 1000),
            Next::Stage(Stage::Failed { why: Failure::Dropped { reason: RENUMBERED.to_owned() } })
        );
    }
}
