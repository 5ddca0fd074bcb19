//! What several processes on one database share.

use common::money::Usd;
use common::{Uid, Volume};

use super::*;
use crate::keys::Reset;
use crate::network::Contender;
use crate::routing::Candidate;
use crate::tally::Report;

on_both!(
    whoever_may_be_asked_is_told_whole_and_only_when_it_changes,
    reports_are_taken_once,
    a_budget_is_leased_in_parts_and_never_more_than_once,
);

fn candidate(uid: u16, quality: Option<f64>) -> Candidate {
    let id = ContenderId { hotkey: Hotkey::from_bytes([uid as u8; 32]), ..alice() };
    let url = format!("http://127.0.0.1:{}/", 1000 + uid).parse().unwrap();
    let contender = Contender { uid: Uid(uid), url, declared: Volume::from(u32::from(uid)) };
    Candidate { id, contender, score: 0.5, quality }
}

async fn whoever_may_be_asked_is_told_whole_and_only_when_it_changes(bed: Bed) {
    let store = &bed.store;
    let nobody = store.published(None).await.unwrap().unwrap();
    assert!(nobody.candidates.is_empty());
    assert!(store.published(Some(nobody.version)).await.unwrap().is_none());
    let period = store.begin_period(7).await.unwrap();
    let two = [candidate(1, Some(0.25)), candidate(2, None)];
    store.publish(&two).await.unwrap();
    let told = store.published(Some(nobody.version)).await.unwrap().unwrap();
    assert_eq!((told.period, told.candidates.len()), (period, 2));
    for (told, said) in told.candidates.iter().zip(&two) {
        assert_eq!((&told.id, &told.contender), (&said.id, &said.contender));
        assert_eq!((told.score, told.quality), (said.score, said.quality));
    }
    store.publish(&two[1..]).await.unwrap();
    let told = store.published(Some(told.version)).await.unwrap().unwrap();
    assert_eq!(told.candidates.len(), 1);
}

async fn reports_are_taken_once(bed: Bed) {
    let store = &bed.store;
    assert!(!store.has_reports().await.unwrap());
    let failed = Failures { unreachable: 4, bad_status: 5, too_late: 6, broken: 7, unusable: 8 };
    let report = Report { from_ms: 1, to_ms: 2, served: 1, tokens: 2, refused: 3, failed, void: 9 };
    store.leave_reports(&BTreeMap::from([(alice(), report)])).await.unwrap();
    let later = Report { from_ms: 2, to_ms: 3, served: 1, ..Report::default() };
    store.leave_reports(&BTreeMap::from([(alice(), later)])).await.unwrap();
    assert!(store.has_reports().await.unwrap());
    let mut taken = store.take_reports().await.unwrap();
    taken.sort_unstable_by_key(|(_, report)| report.from_ms);
    assert_eq!(taken, [(alice(), report), (alice(), later)]);
    assert!(store.take_reports().await.unwrap().is_empty());
}

async fn a_budget_is_leased_in_parts_and_never_more_than_once(bed: Bed) {
    let store = &bed.store;
    let lease = async |node: &'static str, least: i64, now_ms: i64| {
        let wanted = Wanted {
            key: "key_a",
            node,
            budget: Usd::from_pico(1_000),
            reset: Reset::Never,
            least: Usd::from_pico(least),
            until_ms: now_ms + 100,
        };
        let leased = store.lease(wanted, now_ms).await.unwrap();
        (leased.more.pico(), leased.left.pico())
    };
    for node in ["a", "b"] {
        assert!(store.renew_leases(node, 0, 100).await.unwrap().is_empty());
    }
    assert_eq!(store.api_nodes().await.unwrap(), 2);
    // Its part of the half, or what it needs.
    assert_eq!(lease("a", 10, 0).await, (250, 750));
    assert_eq!(lease("b", 700, 0).await, (700, 50));
    assert_eq!(lease("a", 51, 0).await, (0, 50));
    store.give_back("key_a", "b", Usd::from_pico(600)).await.unwrap();
    assert_eq!(lease("a", 500, 0).await, (500, 150));
    assert!(store.renew_leases("a", 90, 100).await.unwrap().contains("key_a"));
    // One is silent for too long: its lease is free, and it is told so when it comes back.
    assert_eq!(lease("a", 250, 101).await, (250, 0));
    assert!(store.renew_leases("b", 101, 100).await.unwrap().is_empty());
    store.end_leases("a").await.unwrap();
    assert_eq!(store.api_nodes().await.unwrap(), 1);
    assert_eq!(lease("b", 1_000, 101).await, (1_000, 0));
}
