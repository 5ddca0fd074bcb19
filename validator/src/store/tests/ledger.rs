//! What requests cost, on both databases.

use common::money::Usd;

use super::*;
use crate::ledger::{Entry, Pico, Record};

on_both!(charges_are_added_up_by_day_and_what_was_cut_off_is_counted);

fn settled(id: &str, at_ms: i64, amount: i64) -> Record {
    Record::Settled(Entry {
        id: id.to_owned(),
        at_ms,
        key: "key_a".into(),
        task: "chat-demo".parse().unwrap(),
        prompt_tokens: 3,
        completion_tokens: 4,
        amount: Pico(amount),
        uid: Some(7),
        hotkey: None,
        attempts: 1,
        streamed: true,
    })
}

async fn charges_are_added_up_by_day_and_what_was_cut_off_is_counted(bed: Bed) {
    let opened = |id: &str| Record::Opened { id: id.to_owned(), key: "key_a".into() };
    let first = [opened("a"), settled("a", 1, 10), opened("b"), opened("c"), opened("d")];
    bed.store.import_records("n", "one", 50, &first).await.unwrap();
    let second =
        [settled("b", 2, 20), Record::Released { id: "c".into() }, settled("e", 86_400_000, 5)];
    bed.store.import_records("n", "one", 90, &second).await.unwrap();
    assert_eq!(bed.store.journal_position("one").await.unwrap(), 90);
    // A batch that has an entry again changes nothing at all.
    let again = [settled("f", 3, 1), settled("a", 1, 10)];
    assert!(bed.store.import_records("n", "one", 120, &again).await.is_err());
    assert_eq!(bed.store.journal_position("one").await.unwrap(), 90);

    assert_eq!(bed.store.count_cut_off("other").await.unwrap(), 0);
    assert_eq!(bed.store.count_cut_off("n").await.unwrap(), 1);
    assert_eq!(bed.store.count_cut_off("n").await.unwrap(), 0);
    let usage = bed.store.usage(Some("key_a"), 0, i64::MAX).await.unwrap();
    let days: Vec<_> = usage.iter().map(|day| (day.day_ms, day.requests, day.cost_usd)).collect();
    assert_eq!(days, [(0, 2, Usd::from_pico(30)), (86_400_000, 1, Usd::from_pico(5))]);
    assert!(bed.store.usage(Some("key_b"), 0, i64::MAX).await.unwrap().is_empty());
    let csv = crate::ledger::csv(&bed.store, 0, 86_400_000).await.unwrap();
    let line = "a,1970-01-01 00:00:00,key_a,chat-demo,3,4,0.00000000001,7,,1,true";
    assert_eq!(csv.lines().nth(1), Some(line));
    assert_eq!(csv.lines().count(), 3);
    bed.store.forget_journal("one").await.unwrap();
    assert_eq!(bed.store.journal_position("one").await.unwrap(), 0);
}
