//! Evidence of many answers, and what it does to a period.

use common::checks::EValue;
use common::evidence::Flag;

use super::*;

on_both!(
    a_miner_is_flagged_for_good_when_several_answers_say_so_and_its_period_is_worth_nothing,
    the_same_verdict_twice_is_evidence_once,
    without_a_calibration_nobody_is_flagged,
    only_the_answers_that_say_most_are_kept,
);

/// A verdict with one e-value, of a quality that is whole.
fn saying(log_e: f64) -> Verdict {
    let e_values = vec![EValue { hypothesis: "seed".to_owned(), share: 1.0, log_e }];
    Verdict {
        quality: 1.0,
        evidence: Evidence { calibrated: true, e_values, log_e, ..Evidence::default() },
        reasons: vec!["the tokens are not those of the seed".to_owned()],
    }
}

async fn judged(store: &Store, period: PeriodId, id: &str, verdict: &Verdict) -> Applied {
    store.save_verdict(&pending_in(period, id, 7), verdict).await.unwrap()
}

async fn a_miner_is_flagged_for_good_when_several_answers_say_so_and_its_period_is_worth_nothing(
    mut bed: Bed,
) {
    let period = bed.store.begin_period(1).await.unwrap();
    assert_eq!(judged(&bed.store, period, "good", &saying(-1.0)).await.flag, Flag::None);
    let mut flags = Vec::new();
    for index in 0..4 {
        // What is known survives a restart.
        bed.reopen().await;
        flags.push(judged(&bed.store, period, &format!("bad-{index}"), &saying(9.0)).await);
    }
    let settled = flags.iter().position(|applied| applied.is_settled).unwrap();
    assert!(settled >= 1 && flags[settled].flag == Flag::Hard, "{flags:?}");
    assert!(flags[settled - 1].flag == Flag::Soft, "{flags:?}");

    let store = &bed.store;
    let flagged = store.flags(None, None, 9).await.unwrap();
    assert_eq!(flagged.len(), 1);
    assert_eq!((&flagged[0].id, flagged[0].period), (&alice(), period));
    assert_eq!(flagged[0].answers as usize, settled + 2);
    assert_eq!((flagged[0].telling.len(), flagged[0].hypothesis.as_str()), (settled + 1, "seed"));
    assert_eq!(flagged[0].telling[0].check.id, "bad-0");
    assert_eq!(flagged[0].telling[0].verdict, saying(9.0));

    // Everything of that period, what comes later included, and nothing of the next one.
    judged(store, period, "late", &saying(-1.0)).await;
    let next = store.begin_period(2).await.unwrap();
    judged(store, next, "again", &saying(-1.0)).await;
    store.end_period(period, 20, &one(&alice(), tally(4))).await.unwrap();
    store.end_period(next, 30, &one(&alice(), tally(4))).await.unwrap();
    let past = &store.past_periods(0).await.unwrap()[&alice()];
    let quality = |index: usize| (past[index].checked, past[index].quality);
    // The newest first.
    assert_eq!((quality(0), quality(1)), ((1, 1.0), (6, 0.0)));
    let qualities = &store.recent_quality().await.unwrap()[&alice()];
    assert_eq!(qualities.iter().filter(|quality| **quality == 0.0).count(), 6);

    let nobody = store.flags(Some(&somebody(9).hotkey), None, 9).await.unwrap();
    assert_eq!(nobody, []);
    let hers = store.flags(Some(&alice().hotkey), Some(&alice().task), 9).await.unwrap();
    assert_eq!(hers, flagged);
}

async fn the_same_verdict_twice_is_evidence_once(bed: Bed) {
    let period = bed.store.begin_period(1).await.unwrap();
    for _ in 0..9 {
        let applied = judged(&bed.store, period, "one", &saying(9.0)).await;
        assert!(applied.flag < Flag::Hard);
    }
    assert_eq!(bed.store.flags(None, None, 9).await.unwrap(), []);
}

async fn without_a_calibration_nobody_is_flagged(bed: Bed) {
    let period = bed.store.begin_period(1).await.unwrap();
    let mut verdict = saying(9.0);
    verdict.evidence.calibrated = false;
    for index in 0..9 {
        let applied = judged(&bed.store, period, &format!("{index}"), &verdict).await;
        assert_eq!(applied.flag, Flag::None);
    }
}

async fn only_the_answers_that_say_most_are_kept(bed: Bed) {
    let period = bed.store.begin_period(1).await.unwrap();
    // Too little each to settle anything before the many.
    for index in 0..200 {
        let (name, log_e) = if index % 10 == 0 { ("weak", 2.4) } else { ("none", -6.0) };
        judged(&bed.store, period, &format!("{name}-{index:03}"), &saying(log_e)).await;
    }
    for index in 0..6 {
        judged(&bed.store, period, &format!("strong-{index}"), &saying(9.0)).await;
    }
    let flagged = bed.store.flags(None, None, 9).await.unwrap();
    let ids: Vec<_> =
        flagged.last().unwrap().telling.iter().map(|one| one.check.id.as_str()).collect();
    assert!(ids.len() <= 16, "{ids:?}");
    assert!(ids.iter().any(|id| id.starts_with("strong")), "{ids:?}");
    assert!(!ids.iter().any(|id| id.starts_with("none")), "{ids:?}");
}
