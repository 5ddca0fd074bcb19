//! Weights on their way survive everything that a process can come to.

use chain::{Failure, Kind, Stage};
use common::{BlockNumber, MechanismId};

use super::*;
use crate::scoring::{Preset, Rules, Scores};
use crate::weights::tests::{hashed, named_weights};

on_both!(
    what_is_kept_before_it_is_sent_is_found_after_a_restart_salt_and_all,
    weights_that_come_into_force_become_those_of_their_mechanism_once,
    the_newest_submissions_come_first,
    old_submissions_are_deleted_but_not_open_ones_nor_the_newest_of_a_mechanism,
    a_scoring_is_kept_until_the_weights_that_came_from_it_are_revealed,
);

fn kept(at_ms: i64, mechanism: u8, stage: Stage) -> KeptSubmission {
    let mut submission = hashed(950, stage);
    submission.mechanism = MechanismId(mechanism);
    KeptSubmission::new(at_ms, submission, named_weights(), None, Duration::from_millis(250))
}

const COMMITTED: Stage = Stage::Committed { block: BlockNumber(951), epoch: 7 };

async fn what_is_kept_before_it_is_sent_is_found_after_a_restart_salt_and_all(mut bed: Bed) {
    let mut one = kept(5, 1, Stage::Sent);
    one.id = bed.store.keep_submission(&one).await.unwrap();
    bed.reopen().await;
    let found = bed.store.open_submissions().await.unwrap();
    assert_eq!(found, [one.clone()]);
    let Kind::Hashed { salt, .. } = &found[0].submission.kind else { panic!("{found:?}") };
    assert_eq!(salt, &[1, 2, 3]);

    one.submission.open_until = Some(BlockNumber(1014));
    one.extrinsic = Some("0x12".to_owned());
    one.come_to(6, COMMITTED);
    bed.store.update_submission(&one).await.unwrap();
    bed.reopen().await;
    assert_eq!(bed.store.open_submissions().await.unwrap(), [one.clone()]);
    assert_eq!(one.committed, Some(BlockNumber(951)));

    one.come_to(7, Stage::Failed { why: Failure::Missed { epoch: 8 } });
    bed.store.update_submission(&one).await.unwrap();
    assert_eq!(bed.store.open_submissions().await.unwrap(), []);
    let newest = bed.store.newest_submissions(9).await.unwrap();
    assert_eq!(newest, [one]);
    assert!(newest[0].error.as_ref().is_some_and(|error| error.contains("epoch 8")));
    assert_eq!(bed.store.last_weights().await.unwrap(), None);
}

async fn weights_that_come_into_force_become_those_of_their_mechanism_once(bed: Bed) {
    for mechanism in [0, 1] {
        let mut one = kept(5, mechanism, Stage::Sent);
        one.id = bed.store.keep_submission(&one).await.unwrap();
        one.come_to(8, COMMITTED);
        bed.store.update_submission(&one).await.unwrap();
        let block = BlockNumber(1_002 + u64::from(mechanism));
        one.come_to(9, Stage::InForce { block });
        bed.store.update_submission(&one).await.unwrap();
        // As after a crash between the two halves of a step.
        bed.store.update_submission(&one).await.unwrap();
        let set = bed.store.last_weights_of(MechanismId(mechanism)).await.unwrap().unwrap();
        assert_eq!((set.block, set.at_ms, set.weights), (block, 9, named_weights()));
    }
    assert_eq!(bed.number("SELECT COUNT(*) FROM weights_set").await, 2);
    assert_eq!(bed.store.last_weights().await.unwrap().unwrap().mechanism, MechanismId(1));
    assert_eq!(bed.store.last_weights_of(MechanismId(2)).await.unwrap(), None);
}

async fn the_newest_submissions_come_first(bed: Bed) {
    for at_ms in 1..=5 {
        bed.store.keep_submission(&kept(at_ms, 0, Stage::Sent)).await.unwrap();
    }
    let newest = bed.store.newest_submissions(2).await.unwrap();
    let times: Vec<_> = newest.iter().map(|kept| kept.at_ms).collect();
    assert_eq!(times, [5, 4]);
    bed.tamper("UPDATE weight_submissions SET submission = '{}' WHERE at_ms = 4").await;
    assert_eq!(bed.store.newest_submissions(9).await.unwrap().len(), 4);
    assert_eq!(bed.store.open_submissions().await.unwrap().len(), 4);
}

const RETAIN: Retain = Retain { periods_ms: 0, verdicts_ms: 0, waiting_ms: 0, stretches_ms: 0 };

async fn old_submissions_are_deleted_but_not_open_ones_nor_the_newest_of_a_mechanism(bed: Bed) {
    let failed = Stage::Failed { why: Failure::NeverIncluded };
    for (at_ms, mechanism, stage) in [
        (1, 0, failed.clone()),
        (2, 1, failed.clone()),
        (3, 0, COMMITTED),
        (4, 0, failed.clone()),
        (5, 0, failed),
    ] {
        bed.store.keep_submission(&kept(at_ms, mechanism, stage)).await.unwrap();
    }
    bed.store.prune(Retain { verdicts_ms: 100, ..RETAIN }).await.unwrap();
    let newest = bed.store.newest_submissions(9).await.unwrap();
    let times: Vec<_> = newest.iter().map(|kept| kept.at_ms).collect();
    assert_eq!(times, [5, 3, 2]);
}

async fn a_scoring_is_kept_until_the_weights_that_came_from_it_are_revealed(bed: Bed) {
    let rules = Rules::of(Preset::Touchstone);
    let scores = Scores { miners: BTreeMap::new() };
    let none = BTreeMap::new();
    let mechanisms = BTreeMap::new();
    let mut ids = Vec::new();
    for at_ms in 0..6 {
        let id = bed.store.save_scoring(at_ms, &rules, &none, &mechanisms, &scores).await;
        ids.push(id.unwrap());
    }
    let mut one = KeptSubmission { scoring: Some(ids[0]), ..kept(1, 0, COMMITTED) };
    one.id = bed.store.keep_submission(&one).await.unwrap();
    bed.store.prune(RETAIN).await.unwrap();
    assert!(bed.store.scoring(ids[0]).await.unwrap().is_some());
    assert_eq!(bed.store.scoring(ids[1]).await.unwrap(), None);

    one.come_to(2, Stage::InForce { block: BlockNumber(1_002) });
    bed.store.update_submission(&one).await.unwrap();
    bed.store.prune(RETAIN).await.unwrap();
    assert!(bed.store.scoring(ids[0]).await.unwrap().is_some());
    let set = bed.store.last_weights().await.unwrap().unwrap();
    assert_eq!(set.scoring, Some(ids[0]));
}
