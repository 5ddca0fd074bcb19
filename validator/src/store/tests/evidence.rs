//! Sums over buckets of time are those of the rows that they were made of.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::*;
use crate::scoring::Stretch;

on_both!(
    periods_of_a_bucket_are_added_up,
    idle_periods_are_told_apart,
    a_late_verdict_is_added_to_its_bucket,
    the_percentile_is_the_one_that_was_asked_for,
    another_length_of_buckets_makes_them_anew,
    what_was_made_of_deleted_rows_stays,
    a_clock_that_was_ahead_for_a_while_spoils_nothing_later,
    sums_are_those_of_the_rows_whatever_happened_in_between,
);

/// A period with these ends and one contender.
async fn period(bed: &Bed, begins: i64, ends: i64, counted: Tally) -> PeriodId {
    let period = bed.store.begin_period(begins).await.unwrap();
    bed.store.end_period(period, ends, &one(&alice(), counted)).await.unwrap();
    period
}

async fn of_alice(bed: &Bed) -> Vec<Stretch> {
    bed.stretches().await.into_iter().find(|(id, _)| *id == alice()).map(|(_, all)| all).unwrap()
}

async fn periods_of_a_bucket_are_added_up(bed: Bed) {
    period(&bed, 0, 1_000, tally(1)).await;
    period(&bed, 1_000, 3_000, tally(2)).await;
    period(&bed, 3_000, 12_000, tally(5)).await;
    bed.store.refresh(10_000, 0.5).await.unwrap();
    let stretches = of_alice(&bed).await;
    assert_eq!(stretches[0], tally(5).stretch(12_000, 9.0));
    let expected = Stretch {
        at_ms: 2_000,
        seconds: 3.0,
        idle_seconds: 0.0,
        declared: 200.0,
        consumed: 31.5,
        served: 3,
        refused_within: 62,
        refusal_cost: 2.5,
        refused_beyond: 64,
        failed: 350,
        organic_served: 78,
        organic_refusal_cost: 1.5,
        organic_failed: 80,
        exams: 82,
        shown: 500.0,
        shown_squared: 12_001.0,
        ..Stretch::default()
    };
    assert_eq!(stretches[1..], [expected]);
    let mut young = Vec::new();
    bed.store.stretches(2_001, |_, stretches| young.extend(stretches)).await.unwrap();
    assert_eq!(young.len(), 1);
}

async fn idle_periods_are_told_apart(bed: Bed) {
    period(&bed, 0, 1_000, tally(1)).await;
    period(&bed, 1_000, 5_000, Tally { declared: 7.0, void: 9, ..Tally::default() }).await;
    bed.store.refresh(10_000, 0.5).await.unwrap();
    let stretch = of_alice(&bed).await[0];
    assert_eq!((stretch.seconds, stretch.idle_seconds), (1.0, 4.0));
}

async fn a_late_verdict_is_added_to_its_bucket(bed: Bed) {
    let old = period(&bed, 0, 1_000, tally(1)).await;
    period(&bed, 11_000, 12_000, tally(2)).await;
    bed.store.refresh(10_000, 0.5).await.unwrap();
    assert_eq!(of_alice(&bed).await[1].speed, None);
    let mut waiting = pending_in(old, "a", 900);
    waiting.organic = true;
    bed.store.save_verdict(&waiting, &verdict(0.5)).await.unwrap();
    // Only this bucket is made anew: another one that somebody has changed stays as it is.
    bed.tamper("UPDATE stretches SET declared = -1 WHERE bucket = 10000").await;
    bed.store.refresh(10_000, 0.5).await.unwrap();
    let stretches = of_alice(&bed).await;
    assert_eq!(stretches[0].declared, -1.0);
    let expected = Stretch {
        checked: 1,
        quality: 0.5,
        organic_checked: 1,
        organic_quality: 0.5,
        speed: Some(10.0),
        ..tally(1).stretch(1_000, 1.0)
    };
    assert_eq!(stretches[1], expected);
    assert_eq!(bed.number("SELECT COUNT(*) FROM periods WHERE changed = 1").await, 0);
}

async fn the_percentile_is_the_one_that_was_asked_for(bed: Bed) {
    let only = period(&bed, 0, 1_000, tally(1)).await;
    for speed in [7.0, 3.0, 1.0, 5.0, 9.0] {
        let waiting = PendingCheck { speed, ..pending_in(only, &speed.to_string(), 1) };
        bed.store.save_verdict(&waiting, &verdict(1.0)).await.unwrap();
    }
    let cases =
        [(0.0, 1.0), (0.19, 1.0), (0.2, 3.0), (0.5, 5.0), (0.8, 9.0), (1.0, 9.0), (-3.0, 1.0)];
    for (percentile, speed) in cases {
        bed.store.refresh(10_000, percentile).await.unwrap();
        assert_eq!(of_alice(&bed).await[0].speed, Some(speed), "at {percentile}");
    }
}

async fn another_length_of_buckets_makes_them_anew(bed: Bed) {
    for begins in 0..10 {
        period(&bed, begins * 1_000, begins * 1_000 + 999, tally(1)).await;
    }
    for (bucket, served) in [(5_000, vec![5, 5]), (100, vec![1; 10]), (20_000, vec![10])] {
        bed.store.refresh(bucket, 0.5).await.unwrap();
        let counts: Vec<_> = of_alice(&bed).await.iter().map(|stretch| stretch.served).collect();
        assert_eq!(counts, served, "with buckets of {bucket} ms");
    }
}

async fn what_was_made_of_deleted_rows_stays(bed: Bed) {
    let mut periods = Vec::new();
    for begins in 0..10 {
        periods.push(period(&bed, begins * 1_000, begins * 1_000 + 999, tally(1)).await);
    }
    bed.store.refresh(5_000, 0.5).await.unwrap();
    let retain = Retain { periods_ms: 3_000, verdicts_ms: 0, waiting_ms: 0, stretches_ms: 0 };
    bed.store.prune(retain).await.unwrap();
    // Makes the bucket of which rows are missing look changed.
    bed.store.save_verdict(&pending_in(periods[4], "a", 1), &verdict(1.0)).await.unwrap();
    bed.store.refresh(5_000, 0.5).await.unwrap();
    let counts =
        async || of_alice(&bed).await.iter().map(|stretch| stretch.served).collect::<Vec<_>>();
    assert_eq!(counts().await, [5, 5]);
    // The bucket of which a part is left cannot be divided; nothing counts twice.
    bed.store.refresh(2_500, 0.5).await.unwrap();
    assert_eq!(counts().await, [3, 2, 5]);
}

async fn a_clock_that_was_ahead_for_a_while_spoils_nothing_later(bed: Bed) {
    let ahead = 1_000_000_000;
    period(&bed, 0, 1_000, tally(1)).await;
    period(&bed, ahead, ahead + 1_000, tally(2)).await;
    bed.store.refresh(10_000, 0.5).await.unwrap();
    let before = ahead - 5_000;
    let retain = Retain {
        periods_ms: before,
        verdicts_ms: before,
        waiting_ms: before,
        stretches_ms: before,
    };
    bed.store.prune(retain).await.unwrap();
    // It is set back: such a period ends before it began, the next one is as any other.
    period(&bed, ahead + 1_000, 12_000, tally(3)).await;
    period(&bed, 12_000, 14_000, tally(4)).await;
    bed.store.refresh(10_000, 0.5).await.unwrap();
    let now = of_alice(&bed).await[1];
    assert_eq!((now.served, now.seconds), (7, 2.0));
}

/// What the sums have to be, by the plainest way.
fn expected(
    bucket_ms: i64,
    percentile: f64,
    periods: &BTreeMap<PeriodId, (i64, i64, BTreeMap<ContenderId, Tally>)>,
    verdicts: &[(PendingCheck, f64)],
) -> BTreeMap<ContenderId, Vec<Stretch>> {
    #[derive(Default)]
    struct Bucket {
        ends: i64,
        count: i64,
        sum: Stretch,
        speeds: Vec<f64>,
    }
    let mut buckets: BTreeMap<(ContenderId, i64), Bucket> = BTreeMap::new();
    for (period, (begins, ends, tallies)) in periods {
        for (id, tally) in tallies {
            let one = tally.stretch(*ends, (ends - begins) as f64 / 1_000.0);
            let Bucket { ends: all_ends, count, sum, speeds } =
                buckets.entry((id.clone(), -(ends / bucket_ms))).or_default();
            (*all_ends, *count) = (*all_ends + ends, *count + 1);
            sum.seconds += one.seconds;
            sum.idle_seconds += one.idle_seconds;
            sum.declared += one.declared;
            sum.served += one.served;
            sum.failed += one.failed;
            for (pending, quality) in verdicts {
                let whose =
                    ContenderId { hotkey: pending.check.miner, task: pending.check.task.clone() };
                if pending.period == *period && whose == *id {
                    sum.checked += 1;
                    sum.quality += quality;
                    speeds.push(pending.speed * quality);
                }
            }
        }
    }
    let mut all: BTreeMap<ContenderId, Vec<Stretch>> = BTreeMap::new();
    for ((id, _), Bucket { ends, count, mut sum, mut speeds }) in buckets {
        speeds.sort_by(f64::total_cmp);
        sum.speed = speeds.get((percentile * speeds.len() as f64) as usize).copied();
        sum.at_ms = ends / count;
        all.entry(id).or_default().push(sum);
    }
    all
}

async fn sums_are_those_of_the_rows_whatever_happened_in_between(mut bed: Bed) {
    let mut rng = ChaCha12Rng::seed_from_u64(19);
    let mut periods = BTreeMap::new();
    let mut verdicts: Vec<(PendingCheck, f64)> = Vec::new();
    let (mut now, mut bucket_ms, mut percentile) = (0, 7_000, 0.25);
    for step in 0..60 {
        // Eighths of a second can be added up exactly, in any order.
        let ends = now + 125 * rng.random_range(4..32);
        let period = bed.store.begin_period(now).await.unwrap();
        let asked = |served| Tally { declared: 64.0, served, ..Tally::default() };
        let mut tallies = BTreeMap::new();
        for id in [alice(), somebody(1), somebody(2)] {
            if rng.random_bool(0.7) {
                tallies.insert(id, asked(rng.random_range(0..3)));
            }
        }
        bed.store.end_period(period, ends, &tallies).await.unwrap();
        periods.insert(period, (now, ends, tallies));
        now = ends;
        for _ in 0..rng.random_range(0..4) {
            let of = *periods.keys().nth(rng.random_range(0..periods.len())).unwrap();
            if !periods[&of].2.contains_key(&alice()) {
                continue;
            }
            let quality = f64::from(rng.random_range(0..=4)) / 4.0;
            let speed = f64::from(rng.random_range(1..100));
            let id = verdicts.len().to_string();
            let waiting = PendingCheck { speed, ..pending_in(of, &id, now) };
            bed.store.save_verdict(&waiting, &verdict(quality)).await.unwrap();
            verdicts.push((waiting, quality));
        }
        match step % 20 {
            13 => bucket_ms = rng.random_range(1_000..20_000),
            16 => percentile = rng.random_range(0.0..0.9),
            18 => bed.reopen().await,
            _ => {}
        }
        if step % 3 == 0 {
            bed.store.refresh(bucket_ms, percentile).await.unwrap();
            let found: BTreeMap<_, _> = bed.stretches().await.into_iter().collect();
            assert_eq!(found, expected(bucket_ms, percentile, &periods, &verdicts));
        }
    }
}
