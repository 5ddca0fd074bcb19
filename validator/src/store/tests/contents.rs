//! What is put in comes out again, once.

use super::*;
use crate::scoring::{MinerScore, Preset, Rules, Scores};
use common::{BlockNumber, MechanismId, TaskId, Uid};

on_both!(
    a_waiting_answer_survives_a_restart_whole,
    no_more_answers_wait_than_the_limit_allows,
    answers_that_were_tried_least_are_next_and_too_many_tries_give_them_up,
    a_verdict_is_applied_once_however_often_it_comes,
    a_verdict_may_come_before_the_totals_of_its_period_and_after_its_period_is_gone,
    late_running_totals_do_not_touch_a_period_that_has_ended,
    every_period_without_an_end_is_found_again,
    the_same_end_twice_counts_once,
    totals_of_ten_thousand_contenders_are_written_at_once,
    past_periods_of_one_contender_are_told_by_kind_of_failure,
    checked_answers_come_newest_first_and_their_qualities_oldest_first,
    pruning_leaves_what_is_young_and_what_is_open,
    a_number_of_a_deleted_period_is_not_used_again,
    the_last_confirmed_weights_are_remembered_with_what_they_came_from,
    a_scoring_is_kept_whole_as_long_as_weights_point_to_it,
    rows_that_cannot_be_read_are_left_out,
    amounts_that_are_no_numbers_are_stored_as_none,
);

async fn a_waiting_answer_survives_a_restart_whole(mut bed: Bed) {
    let waiting = PendingCheck { organic: true, ..pending_in(PeriodId(3), "a", 7) };
    let queued = bed.store.queue_checks(std::slice::from_ref(&waiting), 10).await.unwrap();
    assert_eq!(queued, 1);
    bed.reopen().await;
    assert_eq!(bed.store.next_checks(10).await.unwrap(), [waiting]);
}

async fn no_more_answers_wait_than_the_limit_allows(bed: Bed) {
    let waiting: Vec<_> = (0..5).map(|at| pending(&format!("id-{at}"), at)).collect();
    assert_eq!(bed.store.queue_checks(&waiting, 3).await.unwrap(), 3);
    assert_eq!(bed.store.queue_checks(&waiting, 3).await.unwrap(), 0);
    assert_eq!(bed.store.checks_waiting().await.unwrap(), 3);
}

async fn answers_that_were_tried_least_are_next_and_too_many_tries_give_them_up(bed: Bed) {
    let waiting = [pending("a", 1), pending("b", 2)];
    bed.store.queue_checks(&waiting, 9).await.unwrap();
    let ids = async || {
        let next = bed.store.next_checks(9).await.unwrap();
        next.into_iter().map(|pending| pending.check.id).collect::<Vec<_>>()
    };
    assert_eq!(ids().await, ["a", "b"]);
    for _ in 0..4 {
        assert!(!bed.store.postpone_check("a").await.unwrap());
        assert_eq!(ids().await, ["b", "a"]);
    }
    assert!(bed.store.postpone_check("a").await.unwrap());
    bed.store.drop_check("b").await.unwrap();
    assert!(ids().await.is_empty());
}

async fn a_verdict_is_applied_once_however_often_it_comes(bed: Bed) {
    let store = &bed.store;
    let period = store.begin_period(1).await.unwrap();
    store.save_tallies(period, &one(&alice(), tally(3))).await.unwrap();
    let waiting = PendingCheck { organic: true, ..pending_in(period, "a", 7) };
    store.queue_checks(std::slice::from_ref(&waiting), 10).await.unwrap();
    store.save_verdict(&waiting, &verdict(0.75)).await.unwrap();
    store.save_verdict(&waiting, &verdict(0.0)).await.unwrap();
    assert_eq!(store.checks_waiting().await.unwrap(), 0);
    let answers = store.answers(0).await.unwrap();
    let answer = crate::scoring::Answer { quality: 0.75, speed: 20.0 };
    assert_eq!(answers.into_values().collect::<Vec<_>>(), [[answer]]);
    assert!(store.answers(8).await.unwrap().is_empty());
    // Running totals leave alone what checking has found out.
    store.end_period(period, 20, &one(&alice(), tally(4))).await.unwrap();
    let past = store.past_periods(0).await.unwrap();
    let found = past[&alice()][0];
    assert_eq!((found.checked, found.quality), (1, 0.75));
    assert_eq!((found.organic_checked, found.organic_quality), (1, 0.75));
    assert_eq!(found.served, 4);
}

async fn a_verdict_may_come_before_the_totals_of_its_period_and_after_its_period_is_gone(bed: Bed) {
    let store = &bed.store;
    let period = store.begin_period(1).await.unwrap();
    store.save_verdict(&pending_in(period, "a", 7), &verdict(0.5)).await.unwrap();
    store.save_verdict(&pending_in(PeriodId(999), "b", 7), &verdict(0.5)).await.unwrap();
    store.end_period(period, 20, &one(&alice(), tally(4))).await.unwrap();
    let past = store.past_periods(0).await.unwrap();
    assert_eq!((past[&alice()][0].checked, past[&alice()][0].served), (1, 4));
    assert_eq!(store.answers(0).await.unwrap()[&alice()].len(), 2);
}

async fn late_running_totals_do_not_touch_a_period_that_has_ended(bed: Bed) {
    let period = bed.store.begin_period(1).await.unwrap();
    let id = somebody(1);
    bed.store.save_tallies(period, &one(&id, tally(1))).await.unwrap();
    bed.store.end_period(period, 2, &one(&id, tally(4))).await.unwrap();
    bed.store.save_tallies(period, &one(&id, tally(3))).await.unwrap();
    let past = bed.store.past_periods(0).await.unwrap();
    assert_eq!(past[&id], [tally(4).stretch(2, 0.001)]);
}

async fn every_period_without_an_end_is_found_again(mut bed: Bed) {
    let first = bed.store.begin_period(1).await.unwrap();
    bed.store.save_tallies(first, &one(&somebody(1), tally(2))).await.unwrap();
    let second = bed.store.begin_period(2).await.unwrap();
    bed.reopen().await;
    let open = bed.store.open_periods().await.unwrap();
    let expected =
        BTreeMap::from([(first, one(&somebody(1), tally(2))), (second, BTreeMap::new())]);
    assert_eq!(open, expected);
}

async fn the_same_end_twice_counts_once(bed: Bed) {
    let period = bed.store.begin_period(1_000).await.unwrap();
    bed.store.end_period(period, 3_000, &one(&alice(), tally(4))).await.unwrap();
    bed.store.end_period(period, 9_000, &one(&alice(), tally(5))).await.unwrap();
    let spans = bed.store.periods(0).await.unwrap();
    assert_eq!(spans, [crate::scoring::Span { at_ms: 3_000, seconds: 2.0 }]);
    assert_eq!(bed.store.past_periods(0).await.unwrap()[&alice()][0].served, 4);
}

async fn totals_of_ten_thousand_contenders_are_written_at_once(bed: Bed) {
    let period = bed.store.begin_period(1).await.unwrap();
    let contenders: BTreeMap<_, _> = (0..10_001_u32)
        .map(|name| {
            let mut hotkey = [7; 32];
            hotkey[..4].copy_from_slice(&name.to_be_bytes());
            (contender(&Hotkey::from_bytes(hotkey)), tally(name))
        })
        .collect();
    bed.store.save_tallies(period, &contenders).await.unwrap();
    bed.store.save_tallies(period, &contenders).await.unwrap();
    assert_eq!(bed.store.open_periods().await.unwrap()[&period], contenders);
}

async fn past_periods_of_one_contender_are_told_by_kind_of_failure(bed: Bed) {
    let mut ids = Vec::new();
    for (begins, ends) in [(0, 1_000), (1_000, 3_000), (3_000, 6_000)] {
        let period = bed.store.begin_period(begins).await.unwrap();
        let both = BTreeMap::from([(alice(), tally(2)), (somebody(1), tally(9))]);
        bed.store.end_period(period, ends, &both).await.unwrap();
        ids.push(period);
    }
    let past = bed.store.past_periods_of(&alice(), 2_000).await.unwrap();
    let expected = |id, ends, seconds| (id, tally(2).stretch(ends, seconds), tally(2).failed, 38);
    assert_eq!(past, [expected(ids[2], 6_000, 3.0), expected(ids[1], 3_000, 2.0)]);
}

async fn checked_answers_come_newest_first_and_their_qualities_oldest_first(bed: Bed) {
    for at in 0..60_i64 {
        let waiting = pending_in(PeriodId(2), &format!("id-{at}"), at);
        let quality = f64::from(u32::try_from(at).unwrap()) / 100.0;
        bed.store.save_verdict(&waiting, &verdict(quality)).await.unwrap();
    }
    let newest = bed.store.answers_of(&alice(), 0, 2).await.unwrap();
    let expected = CheckedAnswer {
        id: "id-59".to_owned(),
        period: PeriodId(2),
        at_ms: 59,
        organic: false,
        quality: 0.59,
        speed: 20.0,
        ttft_s: 0.25,
        tokens: 2,
        verdict: verdict(0.59),
    };
    assert_eq!(newest[0], expected);
    assert_eq!(newest[1].id, "id-58");
    assert!(bed.store.answers_of(&somebody(1), 0, 2).await.unwrap().is_empty());
    let recent = bed.store.recent_quality().await.unwrap();
    let expected: Vec<_> = (10..60).map(|at| f64::from(at) / 100.0).collect();
    assert_eq!(recent[&alice()], expected);
    assert_eq!(bed.store.answers(0).await.unwrap()[&alice()][0].quality, 0.59);
}

async fn pruning_leaves_what_is_young_and_what_is_open(bed: Bed) {
    let store = &bed.store;
    for (begins, ends) in [(1, Some(10)), (10, Some(20)), (20, None)] {
        let period = store.begin_period(begins).await.unwrap();
        store.save_tallies(period, &one(&alice(), tally(1))).await.unwrap();
        let waiting = pending_in(period, &format!("judged-{begins}"), begins);
        store.save_verdict(&waiting, &verdict(1.0)).await.unwrap();
        store.queue_checks(&[pending(&format!("waits-{begins}"), begins)], 9).await.unwrap();
        if let Some(ends) = ends {
            store.end_period(period, ends, &one(&alice(), tally(1))).await.unwrap();
        }
    }
    store.refresh(1, 0.5).await.unwrap();
    let retain = Retain { periods_ms: 15, verdicts_ms: 10, waiting_ms: 20, stretches_ms: 20 };
    store.prune(retain).await.unwrap();
    assert_eq!(store.past_periods(0).await.unwrap()[&alice()].len(), 1);
    assert_eq!(store.open_periods().await.unwrap().len(), 1);
    assert_eq!(store.answers(0).await.unwrap()[&alice()].len(), 2);
    assert_eq!(store.next_checks(9).await.unwrap()[0].check.id, "waits-20");
    let stretches = bed.stretches().await;
    assert_eq!(stretches[0].1.iter().map(|stretch| stretch.at_ms).collect::<Vec<_>>(), [20]);
    assert_eq!(bed.number("SELECT COUNT(*) FROM tallies").await, 2);
}

async fn a_number_of_a_deleted_period_is_not_used_again(bed: Bed) {
    let store = &bed.store;
    let first = store.begin_period(1).await.unwrap();
    store.end_period(first, 2, &BTreeMap::new()).await.unwrap();
    let all = i64::MAX;
    let retain = Retain { periods_ms: all, verdicts_ms: all, waiting_ms: all, stretches_ms: all };
    store.prune(retain).await.unwrap();
    assert!(store.begin_period(3).await.unwrap() > first);
}

fn scores(score: f64) -> Scores<Hotkey> {
    let miner = |score| MinerScore { score, weight: score.into(), ..MinerScore::default() };
    Scores {
        miners: BTreeMap::from([
            (somebody(1).hotkey, miner(score)),
            (somebody(2).hotkey, miner(1.0 / 3.0)),
        ]),
    }
}

fn weights(block: u64, scoring: Option<ScoringId>) -> WeightsOnChain {
    WeightsOnChain {
        at_ms: 5,
        mechanism: MechanismId(0),
        block: BlockNumber(block),
        weights: vec![(Uid(3), Hotkey::from_bytes([3; 32]), 65_535)],
        scoring,
    }
}

async fn the_last_confirmed_weights_are_remembered_with_what_they_came_from(bed: Bed) {
    let store = &bed.store;
    assert_eq!(store.last_weights().await.unwrap(), None);
    let rules = Rules::of(Preset::Touchstone);
    let scoring = store
        .save_scoring(4, &rules, &BTreeMap::new(), &BTreeMap::new(), &scores(0.5))
        .await
        .unwrap();
    store.save_weights(&weights(8, None)).await.unwrap();
    store.save_weights(&weights(9, Some(scoring))).await.unwrap();
    assert_eq!(store.last_weights().await.unwrap(), Some(weights(9, Some(scoring))));
    // A result that is gone is no reason to forget the weights.
    store.save_weights(&weights(10, Some(ScoringId(77)))).await.unwrap();
    assert_eq!(store.last_weights().await.unwrap(), Some(weights(10, None)));
}

async fn a_scoring_is_kept_whole_as_long_as_weights_point_to_it(bed: Bed) {
    let store = &bed.store;
    assert_eq!(store.last_scoring().await.unwrap(), None);
    let tasks = BTreeMap::from([("chat-demo".parse::<TaskId>().unwrap(), 1.0 / 3.0)]);
    let mechanisms = BTreeMap::from([("chat-demo".parse::<TaskId>().unwrap(), MechanismId(2))]);
    let rules = Rules::of(Preset::Subnet19);
    let mut ids = Vec::new();
    for score in 0..6 {
        let scores = scores(f64::from(score) / 7.0);
        ids.push(
            store.save_scoring(score.into(), &rules, &tasks, &mechanisms, &scores).await.unwrap(),
        );
    }
    store.save_weights(&weights(8, Some(ids[0]))).await.unwrap();
    let retain = Retain { periods_ms: 0, verdicts_ms: 0, waiting_ms: 0, stretches_ms: 0 };
    store.prune(retain).await.unwrap();
    let first = store.scoring(ids[0]).await.unwrap().unwrap();
    assert_eq!(first.scores, scores(0.0).miners);
    assert_eq!((first.at_ms, first.rules, first.tasks), (0, rules, tasks));
    assert_eq!(first.mechanisms, mechanisms);
    for gone in &ids[1..3] {
        assert_eq!(store.scoring(*gone).await.unwrap(), None);
    }
    let last = store.last_scoring().await.unwrap().unwrap();
    assert_eq!((last.id, last.scores), (ids[5], scores(5.0 / 7.0).miners));
    assert_eq!(bed.number("SELECT COUNT(*) FROM scores").await, 8);

    // Newer weights without a known origin: the old ones go by their age, and their scoring with them.
    store.save_weights(&weights(9, None)).await.unwrap();
    store.prune(Retain { verdicts_ms: 6, ..retain }).await.unwrap();
    assert_eq!(store.scoring(ids[0]).await.unwrap(), None);
    assert_eq!(store.last_weights().await.unwrap(), Some(weights(9, None)));
}

async fn rows_that_cannot_be_read_are_left_out(bed: Bed) {
    let store = &bed.store;
    let period = store.begin_period(1).await.unwrap();
    let both = BTreeMap::from([(alice(), tally(1)), (somebody(1), tally(2))]);
    store.end_period(period, 2, &both).await.unwrap();
    store.queue_checks(&[pending("a", 1), pending("b", 2)], 9).await.unwrap();
    store.save_verdict(&pending_in(period, "c", 1), &verdict(1.0)).await.unwrap();
    store.save_verdict(&pending_in(period, "d", 2), &verdict(1.0)).await.unwrap();
    let rules = Rules::of(Preset::Touchstone);
    let scoring = store
        .save_scoring(4, &rules, &BTreeMap::new(), &BTreeMap::new(), &scores(0.5))
        .await
        .unwrap();
    store.save_weights(&weights(8, None)).await.unwrap();
    bed.tamper("INSERT INTO tallies (period, hotkey, task) VALUES (1, 'nobody', 'chat-demo')")
        .await;
    bed.tamper("INSERT INTO tallies (period, hotkey, task) SELECT 1, hotkey, 'No Task' FROM verdicts LIMIT 1")
        .await;
    bed.tamper("UPDATE pending_checks SET body = '{}' WHERE id = 'a'").await;
    bed.tamper("UPDATE verdicts SET verdict = 'fine' WHERE id = 'c'").await;
    bed.tamper("INSERT INTO scores (scoring, hotkey, score) VALUES (1, 'nobody', '{}')").await;
    store.refresh(10, 0.5).await.unwrap();

    assert_eq!(store.past_periods(0).await.unwrap().len(), 2);
    assert_eq!(bed.stretches().await.len(), 2);
    assert_eq!(store.next_checks(9).await.unwrap().len(), 1);
    assert_eq!(store.checks_waiting().await.unwrap(), 1);
    assert_eq!(store.answers_of(&alice(), 0, 9).await.unwrap().len(), 1);
    assert_eq!(store.scoring(scoring).await.unwrap().unwrap().scores.len(), 2);
    bed.tamper("UPDATE scorings SET rules = '[]'").await;
    assert_eq!(store.scoring(scoring).await.unwrap(), None);
    bed.tamper("UPDATE weights_set SET weights = '[[1]]'").await;
    assert_eq!(store.last_weights().await.unwrap(), None);
}

async fn amounts_that_are_no_numbers_are_stored_as_none(bed: Bed) {
    let period = bed.store.begin_period(-5).await.unwrap();
    let wrong = Tally { declared: f64::INFINITY, consumed: f64::NAN, ..tally(u32::MAX) };
    bed.store.end_period(period, -3, &one(&alice(), wrong)).await.unwrap();
    let waiting = PendingCheck { speed: f64::NAN, ..pending_in(period, "a", 7) };
    bed.store.save_verdict(&waiting, &verdict(f64::INFINITY)).await.unwrap();
    bed.store.refresh(10, f64::NAN).await.unwrap();
    let (_, stretches) = bed.stretches().await.remove(0);
    assert_eq!((stretches[0].at_ms, stretches[0].consumed), (0, 0.0));
    assert!(stretches[0].declared.is_finite() && stretches[0].quality.is_finite());
    assert_eq!(stretches[0].served, u64::from(u32::MAX));
}
