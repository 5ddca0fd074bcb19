//! Indexes match the queries.

use std::cell::RefCell;
use std::collections::BTreeSet;

use sqlx::AssertSqlSafe;

use super::*;
use crate::store::database::Database;

thread_local! {
    /// The statements that stores were given by this test.
    static SEEN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Takes note of a statement.
pub(in crate::store) fn note(sql: &str) {
    SEEN.with_borrow_mut(|seen| seen.insert(sql.to_owned()));
}

/// What may be read whole.
const WHOLE: [&str; 4] = [
    // Scoring wants all of them, in this order.
    "SCAN stretches",
    // To count them, and to find those that are next: there are at most as many as may wait.
    "SCAN pending_checks USING COVERING INDEX pending_checks_by_time",
    "SCAN pending_checks USING INDEX pending_checks_by_turn",
    // The newest of every contender, each contender's together.
    "SCAN verdicts USING INDEX verdicts_of_contender",
];

#[tokio::test]
async fn no_statement_reads_a_whole_table_of_evidence() {
    let bed = Bed::sqlite().await;
    let store = &bed.store;
    let period = store.begin_period(1).await.unwrap();
    store.save_tallies(period, &one(&alice(), tally(1))).await.unwrap();
    let waiting = pending_in(period, "a", 1);
    store.queue_checks(std::slice::from_ref(&waiting), 9).await.unwrap();
    store.next_checks(9).await.unwrap();
    store.postpone_check("a").await.unwrap();
    store.save_verdict(&waiting, &verdict(1.0)).await.unwrap();
    store.open_periods().await.unwrap();
    store.end_period(period, 2, &one(&alice(), tally(1))).await.unwrap();
    store.refresh(10, 0.5).await.unwrap();
    bed.stretches().await;
    store.periods(0).await.unwrap();
    store.past_periods(0).await.unwrap();
    store.past_periods_of(&alice(), 0).await.unwrap();
    store.answers(0).await.unwrap();
    store.answers_of(&alice(), 0, 10).await.unwrap();
    store.last_scoring().await.unwrap();
    store.scoring(ScoringId(1)).await.unwrap();
    store.last_weights().await.unwrap();
    store.last_weights_of(common::MechanismId(0)).await.unwrap();
    store.open_submissions().await.unwrap();
    store.newest_submissions(9).await.unwrap();
    store.newest_declared().await.unwrap();
    let retain = Retain { periods_ms: 1, verdicts_ms: 1, waiting_ms: 1, stretches_ms: 1 };
    store.prune(retain).await.unwrap();

    let seen = SEEN.take();
    assert!(seen.len() > 30, "only {} statements", seen.len());
    let Database::Sqlite(pool) = &store.database else { unreachable!() };
    let mut wrong = Vec::new();
    for sql in seen {
        let explained = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        for row in sqlx::query(explained).fetch_all(pool).await.unwrap() {
            let step: String = sqlx::Row::get(&row, "detail");
            let table = step.strip_prefix("SCAN ").map(|step| step.split(' ').next().unwrap());
            let known = ["periods", "tallies", "verdicts", "pending_checks", "stretches", "scores"];
            let whole = table.is_some_and(|table| known.contains(&table));
            let allowed = WHOLE.contains(&step.as_str());
            if whole && !allowed {
                wrong.push(format!("{step}, in:\n{sql}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
