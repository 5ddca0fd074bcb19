//! The store on a real file.

use common::Keypair;
use common::checks::Evidence;
use common::generation::FinishReason;
use common::receipt::{Generated, Timings, request_digest};

use super::*;

pub(crate) async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("evidence.sqlite")).await.unwrap();
    (folder, store)
}

pub(crate) fn pending(id: &str, at_ms: i64) -> PendingCheck {
    let alice = Keypair::development("Alice");
    let generated = Generated {
        task: "chat-demo".parse().unwrap(),
        request_digest: request_digest(b"{}"),
        prompt_tokens: 3,
        tokens: vec![1, 2],
        logprobs: vec![-0.5, -0.25],
        finish_reason: FinishReason::Stop,
        timings: Timings::default(),
    };
    let check = Check {
        id: id.to_owned(),
        task: generated.task.clone(),
        miner: alice.hotkey(),
        request: "{}".to_owned(),
        text: "hi".to_owned(),
        receipt: generated.sign(&alice),
    };
    PendingCheck { at_ms, speed: 20.0, tokens: 2, check }
}

fn verdict(quality: f64) -> Verdict {
    Verdict { quality, evidence: Evidence::default(), reasons: Vec::new() }
}

fn contender() -> ContenderId {
    ContenderId { hotkey: Hotkey::from_bytes([1; 32]), task: "chat-demo".parse().unwrap() }
}

fn tally(served: u32) -> Tally {
    Tally { declared: 100.0, consumed: 10.0 * f64::from(served), served, refused: 1, failed: 2 }
}

#[tokio::test]
async fn a_waiting_answer_survives_a_restart_whole() {
    let (folder, store) = store().await;
    let waiting = pending("a", 7);
    assert_eq!(store.queue_checks(std::slice::from_ref(&waiting), 10).await.unwrap(), 1);
    store.close().await;
    let store = Store::open(&folder.path().join("evidence.sqlite")).await.unwrap();
    assert_eq!(store.next_checks(10).await.unwrap(), [waiting]);
}

#[tokio::test]
async fn no_more_answers_wait_than_the_limit_allows() {
    let (_folder, store) = store().await;
    let waiting: Vec<_> = (0..5).map(|at| pending(&format!("id-{at}"), at)).collect();
    assert_eq!(store.queue_checks(&waiting, 3).await.unwrap(), 3);
    assert_eq!(store.queue_checks(&waiting, 3).await.unwrap(), 0);
    assert_eq!(store.checks_waiting().await.unwrap(), 3);
}

#[tokio::test]
async fn a_verdict_is_applied_once_however_often_it_comes() {
    let (_folder, store) = store().await;
    let waiting = pending("a", 7);
    store.queue_checks(std::slice::from_ref(&waiting), 10).await.unwrap();
    store.save_verdict(&waiting, &verdict(0.75)).await.unwrap();
    store.save_verdict(&waiting, &verdict(0.0)).await.unwrap();
    assert_eq!(store.checks_waiting().await.unwrap(), 0);
    let judged = store.judged(0).await.unwrap();
    assert_eq!(judged.into_values().collect::<Vec<_>>(), [[Judged { quality: 0.75, speed: 20.0 }]]);
    assert!(store.judged(8).await.unwrap().is_empty());
}

#[tokio::test]
async fn late_running_totals_do_not_touch_a_period_that_has_ended() {
    let (_folder, store) = store().await;
    let period = store.begin_period(1).await.unwrap();
    let id = contender();
    store.save_tallies(period, &BTreeMap::from([(id.clone(), tally(1))])).await.unwrap();
    store.end_period(period, 2, &[(&id, &tally(4), Some(0.5))]).await.unwrap();
    store.save_tallies(period, &BTreeMap::from([(id.clone(), tally(3))])).await.unwrap();
    let past = store.past_periods(0).await.unwrap();
    assert_eq!(past[&id], [PastPeriod { score: Some(0.5), consumed: 40.0 }]);
}

#[tokio::test]
async fn every_period_without_an_end_is_found_again() {
    let (_folder, store) = store().await;
    let first = store.begin_period(1).await.unwrap();
    store.save_tallies(first, &BTreeMap::from([(contender(), tally(2))])).await.unwrap();
    let second = store.begin_period(2).await.unwrap();
    let open = store.open_periods().await.unwrap();
    assert_eq!(
        open,
        BTreeMap::from([
            (first, BTreeMap::from([(contender(), tally(2))])),
            (second, BTreeMap::new()),
        ])
    );
}

#[tokio::test]
async fn pruning_leaves_what_is_young_and_what_is_open() {
    let (_folder, store) = store().await;
    let id = contender();
    for (begins, ends) in [(1, Some(10)), (10, Some(20)), (20, None)] {
        let period = store.begin_period(begins).await.unwrap();
        store.save_tallies(period, &BTreeMap::from([(id.clone(), tally(1))])).await.unwrap();
        if let Some(ends) = ends {
            store.end_period(period, ends, &[(&id, &tally(1), Some(1.0))]).await.unwrap();
        }
    }
    store.prune(15, 15, 15).await.unwrap();
    assert_eq!(store.past_periods(0).await.unwrap()[&id].len(), 1);
    assert_eq!(store.open_periods().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_last_confirmed_weights_are_remembered() {
    let (_folder, store) = store().await;
    assert_eq!(store.last_weights().await.unwrap(), None);
    let set = |block| WeightsOnChain {
        at_ms: 5,
        block: BlockNumber(block),
        weights: vec![(Uid(3), Hotkey::from_bytes([3; 32]), 65_535)],
    };
    store.save_weights(&set(8)).await.unwrap();
    store.save_weights(&set(9)).await.unwrap();
    assert_eq!(store.last_weights().await.unwrap(), Some(set(9)));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "milk, bread, and many other things to buy ".repeat(50)).unwrap();
    let error = Store::open(&path).await.unwrap_err();
    assert!(error.to_string().contains("notes.txt"), "{error}");
}
