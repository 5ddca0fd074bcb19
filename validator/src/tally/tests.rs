use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::*;
use crate::plan::{Declared, Probing, schedule};

fn id(name: u8) -> ContenderId {
    ContenderId { hotkey: Hotkey::from_bytes([name; 32]), task: "chat-demo".parse().unwrap() }
}

fn settled(what: What) -> Settled {
    Settled {
        organic: false,
        burst: None,
        max_tokens: 0,
        started: Duration::ZERO,
        ended: Duration::from_secs(1),
        what,
        distorted: false,
    }
}

#[test]
fn a_burst_that_we_distorted_shows_nothing_but_its_answers_count() {
    let tallies = begun(1_000);
    tallies.plan_bursts(&[probe(Some(1)), probe(Some(1))]);
    for distorted in [true, false] {
        tallies.under_way(&id(1), 9);
        let answer = settled(What::Served { tokens: 2 });
        tallies.settle(&id(1), &Settled { burst: Some(1), max_tokens: 9, distorted, ..answer });
    }
    let tally = tallies.snapshot()[&id(1)];
    assert_eq!((tally.served, tally.consumed, tally.exams), (2, 4.0, 0));
}

/// With one contender that declares this much for a period of 100 s.
fn begun(declared: u32) -> Tallies {
    let tallies = Tallies::default();
    tallies.turn(PeriodId(1), &BTreeMap::from([(id(1), Volume::from(declared))]), 100.0);
    tallies
}

fn probe(burst: Option<u32>) -> Probe {
    let ContenderId { hotkey, task } = id(1);
    Probe { at: Duration::ZERO, hotkey, task, seed: 0, burst }
}

#[test]
fn a_new_period_starts_at_zero_and_keeps_the_old_totals_apart() {
    let tallies = begun(100);
    let failed = settled(What::Failed(FailureKind::Unusable));
    assert_eq!(tallies.settle(&id(1), &failed), Some(PeriodId(1)));
    assert_eq!(tallies.settle(&id(2), &failed), None);

    let declared = BTreeMap::from([(id(1), Volume::from(100))]);
    let ended = tallies.turn(PeriodId(2), &declared, 100.0);

    let failed = Failures { unusable: 1, ..Failures::default() };
    let expected = Tally { declared: 100.0, failed, ..Tally::default() };
    assert_eq!(ended, Some((PeriodId(1), BTreeMap::from([(id(1), expected)]))));
    assert_eq!(tallies.snapshot()[&id(1)].asked(), 0);
}

#[test]
fn only_what_changed_is_handed_to_the_store() {
    let tallies = Tallies::default();
    let changed =
        |tallies: &Tallies| tallies.take_changed().unwrap().1.into_keys().collect::<Vec<_>>();
    let declared = BTreeMap::from([(id(1), Volume::from(1)), (id(2), Volume::from(1))]);
    assert_eq!(tallies.turn(PeriodId(1), &declared, 1.0), None);
    assert_eq!(changed(&tallies), [id(1), id(2)]);
    tallies.settle(&id(2), &settled(What::Refused));
    assert_eq!(changed(&tallies), [id(2)]);
    assert!(changed(&tallies).is_empty());
}

#[test]
fn a_refusal_within_the_declared_capacity_costs_the_unused_share() {
    let tallies = begun(100);
    tallies.settle(&id(1), &settled(What::Served { tokens: 40 }));
    tallies.under_way(&id(1), 40);
    tallies.under_way(&id(1), 20);
    // 40 used up, 40 under way, and 20 asked for.
    let refused = Settled { max_tokens: 20, organic: true, ..settled(What::Refused) };
    tallies.settle(&id(1), &refused);
    let tally = tallies.snapshot()[&id(1)];
    assert_eq!((tally.refused_within, tally.refused_beyond), (1, 0));
    assert_eq!((tally.refusal_cost, tally.organic_refusal_cost), (0.6, 0.6));
}

#[test]
fn a_refusal_beyond_the_declared_capacity_costs_nothing() {
    let tallies = begun(100);
    tallies.under_way(&id(1), 81);
    tallies.under_way(&id(1), 20);
    let refused = Settled { max_tokens: 20, ..settled(What::Refused) };
    tallies.settle(&id(1), &refused);
    let tally = tallies.snapshot()[&id(1)];
    assert_eq!((tally.refused_within, tally.refused_beyond), (0, 1));
    assert_eq!(tally.refusal_cost, 0.0);
    // The user goes away, and there is room again.
    tallies.release(&id(1), 81);
    tallies.under_way(&id(1), 20);
    tallies.settle(&id(1), &refused);
    assert_eq!(tallies.snapshot()[&id(1)].refusal_cost, 1.0);
}

#[test]
fn a_refusal_without_any_capacity_costs_nothing() {
    let tallies = begun(0);
    tallies.settle(&id(1), &settled(What::Refused));
    assert_eq!(tallies.snapshot()[&id(1)].refusal_cost, 0.0);
}

#[test]
fn a_users_request_stands_in_for_one_probe_of_the_same_period() {
    let tallies = begun(100);
    assert!(!tallies.take_organic(&id(1)));
    for what in [What::Served { tokens: 1 }, What::Refused, What::Void] {
        tallies.settle(&id(1), &Settled { organic: true, ..settled(what) });
    }
    assert!(tallies.take_organic(&id(1)) && tallies.take_organic(&id(1)));
    assert!(!tallies.take_organic(&id(1)), "what is void says nothing");
    tallies.settle(&id(1), &Settled { organic: true, ..settled(What::Refused) });
    tallies.turn(PeriodId(2), &BTreeMap::from([(id(1), Volume::from(100))]), 100.0);
    assert!(!tallies.take_organic(&id(1)));
}

#[test]
fn requests_under_way_go_on_into_the_next_period() {
    let tallies = begun(100);
    tallies.under_way(&id(1), 90);
    tallies.turn(PeriodId(2), &BTreeMap::from([(id(1), Volume::from(100))]), 100.0);
    tallies.under_way(&id(1), 20);
    tallies.settle(&id(1), &Settled { max_tokens: 20, ..settled(What::Refused) });
    assert_eq!(tallies.snapshot()[&id(1)].refused_beyond, 1);
}

#[test]
fn a_finished_burst_is_an_exam_of_the_period_then_open() {
    let tallies = begun(1_000);
    tallies.plan_bursts(&[probe(Some(7)), probe(None), probe(Some(7)), probe(Some(7))]);
    let answer = Settled { burst: Some(7), max_tokens: 9, ..settled(What::Served { tokens: 2 }) };
    for _ in 0..2 {
        tallies.under_way(&id(1), 9);
    }
    tallies.settle(&id(1), &answer);
    tallies.turn(PeriodId(2), &BTreeMap::from([(id(1), Volume::from(1_000))]), 100.0);
    tallies.settle(&id(1), &answer);
    assert_eq!(tallies.snapshot()[&id(1)].exams, 0);
    tallies.take_changed();
    tallies.under_way(&id(1), 0);
    tallies.settle(&id(1), &Settled { burst: Some(7), ..settled(What::Refused) });
    let tally = tallies.take_changed().unwrap().1[&id(1)];
    // 4 units in 1 s of a period of 100 s.
    assert_eq!((tally.exams, tally.shown, tally.shown_squared), (1, 400.0, 160_000.0));
}

#[test]
fn a_burst_with_a_lost_request_ends_with_the_next_period() {
    let tallies = begun(1_000);
    let declared = BTreeMap::from([(id(1), Volume::from(1_000))]);
    tallies.plan_bursts(&[probe(Some(1)), probe(Some(1))]);
    let answer = Settled { burst: Some(1), ..settled(What::Served { tokens: 2 }) };
    tallies.settle(&id(1), &answer);
    let exams =
        |ended: Option<(PeriodId, BTreeMap<ContenderId, Tally>)>| ended.unwrap().1[&id(1)].exams;
    assert_eq!(exams(tallies.turn(PeriodId(2), &declared, 100.0)), 0);
    assert_eq!(exams(tallies.turn(PeriodId(3), &declared, 100.0)), 1);
    assert!(tallies.lock().work.is_empty());
}

#[test]
fn a_period_in_which_nothing_could_be_asked_is_idle() {
    let tally = Tally { declared: 5.0, void: 3, ..Tally::default() };
    let stretch = tally.stretch(9_000, 60.0);
    assert_eq!((stretch.at_ms, stretch.seconds, stretch.idle_seconds), (9_000, 0.0, 60.0));
    let stretch = Tally { refused_beyond: 1, ..tally }.stretch(9_000, 60.0);
    assert_eq!((stretch.seconds, stretch.idle_seconds), (60.0, 0.0));
}

#[test]
fn who_declares_nothing_is_away() {
    for served in [0, 1] {
        let stretch = Tally { served, ..Tally::default() }.stretch(9_000, 60.0);
        assert_eq!((stretch.seconds, stretch.idle_seconds), (0.0, 0.0));
    }
}

/// Mean of what the exams of 20 periods show of a miner that answers 4 requests at once with 30 tokens a second each,
/// and lets the others wait. `declared` and the result are parts of what it really has.
fn shown_by_a_miner_that_declares(declared: f64) -> f64 {
    const SECONDS: f64 = 1_200.0;
    let capacity = 4.0 * 30.0 * SECONDS;
    let volume = Volume::try_from(declared * capacity).unwrap();
    let ContenderId { hotkey, task } = id(1);
    let contenders = [Declared { hotkey, task, volume, tokens_per_request: 60.0 }];
    let everyone = BTreeMap::from([(id(1), volume)]);
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let tallies = Tallies::default();
    let (mut exams, mut shown) = (0, 0.0);
    for period in 0..=20 {
        let ended = tallies.turn(PeriodId(period), &everyone, SECONDS);
        if let Some(tally) = ended.and_then(|(_, tallies)| tallies.get(&id(1)).copied()) {
            exams += tally.exams;
            shown += tally.shown;
        }
        let period = Duration::from_secs_f64(SECONDS);
        let probes = schedule(&contenders, &Probing::default(), period, &mut rng);
        tallies.plan_bursts(&probes);
        let mut free = [Duration::ZERO; 4];
        let mut settled: Vec<_> = probes
            .iter()
            .map(|probe| {
                free.sort();
                let tokens = rng.random_range(20..=100);
                let answering = Duration::from_secs_f64(f64::from(tokens) / 30.0);
                free[0] = free[0].max(probe.at) + answering;
                Settled {
                    burst: probe.burst,
                    started: probe.at,
                    ended: free[0],
                    ..settled(What::Served { tokens })
                }
            })
            .collect();
        settled.sort_by_key(|settled| settled.ended);
        for settled in settled {
            tallies.under_way(&id(1), 0);
            tallies.settle(&id(1), &settled);
        }
    }
    shown / f64::from(exams) / capacity
}

#[test]
fn exams_show_what_a_miner_has_and_not_what_it_declares() {
    for (declared, expected) in
        [(0.5, 0.45..0.5), (0.9, 0.8..0.9), (2.0, 0.9..1.1), (5.0, 0.9..1.1)]
    {
        let shown = shown_by_a_miner_that_declares(declared);
        assert!(expected.contains(&shown), "{declared}: {shown}");
    }
}

fn any_what() -> impl Strategy<Value = What> {
    prop_oneof![
        (0..200_u32).prop_map(|tokens| What::Served { tokens }),
        Just(What::Refused),
        Just(What::Failed(FailureKind::Unreachable)),
        Just(What::Failed(FailureKind::BadStatus)),
        Just(What::Failed(FailureKind::TooLate)),
        Just(What::Failed(FailureKind::Broken)),
        Just(What::Failed(FailureKind::Unusable)),
        Just(What::Void),
    ]
}

proptest! {
    #[test]
    fn totals_add_up(
        declared in 0..2_000_u32,
        requests in prop::collection::vec(
            (any_what(), any::<bool>(), prop::option::of(0..3_u32), 0..300_u32, 0..9_u64, 0..9_u64),
            0..60,
        ),
    ) {
        let tallies = begun(declared);
        let probes: Vec<_> =
            requests.iter().map(|(_, _, burst, ..)| probe(*burst)).collect();
        tallies.plan_bursts(&probes);
        for (.., max_tokens, _, _) in &requests {
            tallies.under_way(&id(1), *max_tokens);
        }
        for (what, organic, burst, max_tokens, started, ended) in &requests {
            let [started, ended] = [started, ended].map(|s| Duration::from_secs(*s));
            let settled = Settled {
                organic: *organic,
                burst: *burst,
                max_tokens: *max_tokens,
                started,
                ended,
                what: *what,
                distorted: false,
            };
            prop_assert_eq!(tallies.settle(&id(1), &settled), Some(PeriodId(1)));
        }
        prop_assert!(tallies.lock().work.is_empty());
        let tally = tallies.snapshot()[&id(1)];
        prop_assert_eq!((tally.asked() + tally.void) as usize, requests.len());
        prop_assert!(tally.refusal_cost <= f64::from(tally.refused_within));
        prop_assert!((0.0..=tally.refusal_cost).contains(&tally.organic_refusal_cost));
        prop_assert!(tally.organic_served <= tally.served);
        prop_assert!(tally.organic_failed <= tally.failed.sum());
        prop_assert!(tally.exams <= 3);
        prop_assert!(tally.shown <= f64::from(tally.exams) * tally.declared);
        // No variance is negative.
        let squares = tally.shown_squared * f64::from(tally.exams);
        prop_assert!(tally.shown * tally.shown <= squares * (1.0 + 1e-9));
    }
}

#[test]
fn what_another_process_saw_counts_as_if_it_had_been_seen_here() {
    let (here, there) = (Tallies::default(), Tallies::default());
    let declared = BTreeMap::from([(id(1), Volume::from(100))]);
    here.turn(PeriodId(1), &declared, 60.0);
    there.follow(PeriodId(1), &declared);
    let failed = What::Failed(FailureKind::Broken);
    for what in [What::Served { tokens: 30 }, failed, What::Refused, What::Void] {
        there.under_way(&id(1), 10);
        let settled = Settled { organic: true, ..settled(what) };
        assert_eq!(there.settle(&id(1), &settled), Some(PeriodId(1)));
    }
    let reports = there.drain(5, 9);
    let report = reports[&id(1)];
    assert_eq!((report.from_ms, report.to_ms, report.served, report.tokens), (5, 9, 1, 30));
    assert_eq!((report.refused, report.failed.sum(), report.void), (1, 1, 1));
    assert!(there.drain(9, 12).is_empty());

    here.absorb(&id(1), &report, Duration::ZERO, Duration::from_secs(1));
    let tally = here.snapshot()[&id(1)];
    assert_eq!((tally.organic_served, tally.consumed, tally.organic_failed), (1, 30.0, 1));
    // 30 of 100 were used up: the refusal was within what is declared.
    assert_eq!((tally.refused_within, tally.refusal_cost, tally.void), (1, 0.7, 1));
    assert_eq!(tally.organic_refusal_cost, 0.7);
    let more = Report { served: 1, tokens: 80, refused: 2, ..Report::default() };
    here.absorb(&id(1), &more, Duration::ZERO, Duration::ZERO);
    assert_eq!(here.snapshot()[&id(1)].refused_beyond, 2);
    // Who is no contender is not counted, and what it did before it left is still told.
    here.absorb(&id(2), &more, Duration::ZERO, Duration::ZERO);
    assert_eq!(here.snapshot().len(), 1);
    there.under_way(&id(1), 10);
    there.settle(&id(1), &Settled { organic: true, ..settled(What::Served { tokens: 1 }) });
    there.follow(PeriodId(2), &BTreeMap::new());
    assert_eq!(there.drain(0, 0)[&id(1)].served, 1);
    there.follow(PeriodId(3), &BTreeMap::new());
    assert!(there.snapshot().is_empty());
}
