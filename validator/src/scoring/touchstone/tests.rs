//! What the rules promise, on evidence good, bad and absurd.

use std::collections::BTreeMap;

use common::TaskId;
use proptest::num::f64::ANY;
use proptest::prelude::*;

use super::super::{Factors as AnyFactors, Preset, Rules, Scores, TaskScore};
use super::*;

const HOUR_MS: i64 = 3_600_000;
const NOW: i64 = 1000 * HOUR_MS;
const PERIOD_S: f64 = 1800.0;

/// Four hours of a miner that declares 1000 units per period and delivers them, ending `hours_ago`.
fn good(hours_ago: f64) -> Stretch {
    Stretch {
        at_ms: NOW - (hours_ago * HOUR_MS as f64) as i64,
        seconds: 8.0 * PERIOD_S,
        idle_seconds: 0.0,
        declared: 8000.0,
        consumed: 560.0,
        served: 80,
        exams: 8,
        shown: 8000.0,
        shown_squared: 8e6,
        checked: 20,
        quality: 20.0,
        speed: Some(50.0),
        ..Stretch::default()
    }
}

fn miner(stretches: impl IntoIterator<Item = Stretch>) -> Evidence {
    Evidence { capacity: 1000.0, stretches: stretches.into_iter().collect(), answers: Vec::new() }
}

/// A week of the validator's time.
fn week() -> Vec<Span> {
    (0..42).map(|part| Span { at_ms: NOW - part * 4 * HOUR_MS, seconds: 8.0 * PERIOD_S }).collect()
}

fn always() -> Evidence {
    miner((0..42).map(|part| good(f64::from(part) * 4.0)))
}

fn task() -> TaskId {
    "chat".parse().unwrap()
}

fn scores_with(rules: Rules, evidence: &[Evidence]) -> Scores<usize> {
    let scorer = rules.at(NOW, &week(), PERIOD_S);
    let summaries = evidence
        .iter()
        .enumerate()
        .map(|(name, seen)| ((name, task()), scorer.sum_up(seen)))
        .collect();
    scorer.weights(&BTreeMap::from([(task(), 1.0)]), &summaries)
}

fn weights(evidence: &[Evidence]) -> Vec<f64> {
    scores_with(Rules::default(), evidence)
        .miners
        .values()
        .map(|miner| miner.weight.get())
        .collect()
}

fn summary(evidence: &Evidence) -> Summary {
    let parameters = Parameters::default();
    let observed = observed(&parameters, NOW, &week());
    sum_up(&parameters, NOW, observed, PERIOD_S, evidence)
}

fn changed(change: impl Fn(&mut Stretch)) -> Evidence {
    let mut evidence = always();
    evidence.stretches.iter_mut().for_each(change);
    evidence
}

#[test]
fn a_miner_that_does_everything_right_gets_its_declared_volume() {
    let summary = summary(&always());
    assert!((summary.proven - 1000.0).abs() < 1e-9);
    assert_eq!(summary.quality, Some(Score::clamped(1.0)));
    assert_eq!(summary.reliability, Score::clamped(1.0));
    assert!((summary.presence.get() - 1.0).abs() < 1e-12, "{summary:?}");
}

#[test]
fn equal_miners_get_equal_weight() {
    assert_eq!(weights(&[always(), always()]), [0.5, 0.5]);
}

#[test]
fn declaring_more_than_is_shown_earns_nothing() {
    let boastful = Evidence { capacity: 1e9, ..always() };
    let weights = weights(&[always(), boastful]);
    assert!((weights[0] - 0.5).abs() < 1e-9, "{weights:?}");
}

#[test]
fn a_capacity_that_no_burst_has_shown_counts_as_far_as_it_was_used() {
    let unshown = changed(|stretch| {
        (stretch.exams, stretch.shown, stretch.shown_squared) = (0, 0.0, 0.0);
    });
    // 560 units in eight periods.
    assert!((summary(&unshown).proven - 70.0).abs() < 1e-9);
}

#[test]
fn volumes_that_vary_prove_less_than_their_mean() {
    let unsteady = changed(|stretch| {
        (stretch.shown, stretch.shown_squared) = (8.0 * 500.0, 4.0 * 1e6);
    });
    let proven = summary(&unsteady).proven;
    assert!(proven < 500.0 && proven > 300.0, "{proven}");
}

#[test]
fn two_half_miners_earn_less_than_a_whole_one() {
    let half = || {
        let mut half = changed(|stretch| {
            stretch.shown /= 2.0;
            stretch.shown_squared /= 4.0;
        });
        half.capacity /= 2.0;
        half
    };
    let weights = weights(&[always(), half(), half()]);
    assert!(weights[1] + weights[2] < weights[0], "{weights:?}");
}

#[test]
fn a_newcomer_rises_smoothly_and_one_who_left_comes_back_smoothly() {
    let presence = |parts: i32| {
        summary(&miner((0..parts).map(|part| good(f64::from(part) * 4.0)))).presence.get()
    };
    let steps: Vec<f64> = (1..42).map(|parts| presence(parts) - presence(parts - 1)).collect();
    assert!(steps.iter().all(|step| (0.0..0.31).contains(step)), "{steps:?}");
    let back = miner(
        (0..42).filter(|part| !(1..7).contains(part)).map(|part| good(f64::from(part) * 4.0)),
    );
    let back = summary(&back).presence.get();
    assert!(back > presence(1) && back < 0.5, "{back}");
}

#[test]
fn time_in_which_a_miner_could_not_be_asked_is_not_held_against_it() {
    let mut evidence = always();
    for stretch in evidence.stretches.iter_mut().take(6) {
        *stretch = Stretch {
            at_ms: stretch.at_ms,
            idle_seconds: stretch.seconds,
            declared: stretch.declared,
            ..Stretch::default()
        };
    }
    let summary = summary(&evidence);
    assert!((summary.presence.get() - 1.0).abs() < 1e-12, "{summary:?}");
    assert!((summary.proven - 1000.0).abs() < 1e-9);
    assert_eq!(summary.reliability.get(), 1.0);
}

#[test]
fn refusing_costs_and_failing_costs_more_but_refusing_beyond_the_capacity_is_free() {
    let of = |evidence: &Evidence| summary(evidence).reliability.get();
    let refusing = changed(|stretch| (stretch.refused_within, stretch.refusal_cost) = (8, 8.0));
    let failing = changed(|stretch| stretch.failed = 8);
    let beyond = changed(|stretch| stretch.refused_beyond = 800);
    assert!(of(&failing) < of(&refusing) && of(&refusing) < of(&always()));
    assert_eq!(of(&beyond), 1.0);
}

#[test]
fn half_of_the_answers_from_nowhere_cost_more_than_half_of_the_income() {
    let mixing = changed(|stretch| stretch.quality /= 2.0);
    let weights = weights(&[always(), mixing]);
    assert!(weights[1] / weights[0] < 0.2, "{weights:?}");
}

#[test]
fn users_requests_count_as_often_as_they_are_preferred() {
    let one_bad_user = changed(|stretch| {
        (stretch.failed, stretch.organic_failed) = (2, 2);
    });
    let rules = Rules::default().with("organic_weight", 5.0).unwrap();
    let even = scores_with(Rules::default(), &[always(), one_bad_user.clone()]);
    let preferring = scores_with(rules, &[always(), one_bad_user]);
    assert!(preferring.miners[&1].weight < even.miners[&1].weight);
}

#[test]
fn evidence_from_before_a_clock_was_set_back_counts_as_new() {
    let future = miner((0..42).map(|part| good(f64::from(part) * 4.0 - 500.0)));
    assert!((0.0..=1.0).contains(&summary(&future).presence.get()));
    assert!((summary(&future).proven - 1000.0).abs() < 1e-9);
}

#[test]
fn nobody_earns_anything_without_checked_answers() {
    let unchecked = changed(|stretch| (stretch.checked, stretch.quality) = (0, 0.0));
    assert_eq!(weights(&[unchecked]), [0.0]);
}

#[test]
fn a_vanished_task_and_a_summary_of_other_rules_are_left_out() {
    let scorer = Rules::default().at(NOW, &week(), PERIOD_S);
    let other = Rules::of(Preset::Subnet19).at(NOW, &week(), PERIOD_S);
    let vanished: TaskId = "vanished".parse().unwrap();
    let summaries = BTreeMap::from([
        ((1, task()), scorer.sum_up(&always())),
        ((2, vanished), scorer.sum_up(&always())),
        ((3, task()), other.sum_up(&always())),
    ]);
    let scores = scorer.weights(&BTreeMap::from([(task(), 1.0)]), &summaries);
    let weights: Vec<_> = scores.miners.values().map(|miner| miner.weight.get()).collect();
    assert_eq!(weights, [1.0, 0.0, 0.0]);
}

#[test]
fn scores_survive_being_stored() {
    let scores = scores_with(Rules::default(), &[always(), changed(|stretch| stretch.failed = 3)]);
    let json = serde_json::to_string(&scores).unwrap();
    let stored = serde_json::from_str::<Scores<usize>>(&json).unwrap();
    for (miner, score) in &scores.miners {
        let stored = &stored.miners[miner];
        assert_eq!(stored.tasks.len(), score.tasks.len());
        assert!((stored.weight.get() - score.weight.get()).abs() < 1e-15);
    }
}

prop_compose! {
    fn anything()(
        at_ms: i64, amounts in prop::array::uniform10(ANY), counts in prop::array::uniform8(any::<u64>()),
        speed in prop::option::of(ANY), idle_seconds in ANY,
    ) -> Stretch {
        Stretch {
            at_ms,
            seconds: amounts[0],
            idle_seconds,
            declared: amounts[1],
            consumed: amounts[2],
            served: counts[0],
            refused_within: counts[1],
            refusal_cost: amounts[3],
            refused_beyond: counts[2],
            failed: counts[3],
            organic_served: counts[4],
            organic_refusal_cost: amounts[4],
            organic_failed: counts[5],
            exams: counts[6],
            shown: amounts[5],
            shown_squared: amounts[6],
            checked: counts[7],
            quality: amounts[7],
            organic_checked: counts[3],
            organic_quality: amounts[8],
            speed,
        }
    }
}

prop_compose! {
    fn plausible()(
        hours in 0.0..168.0, served in 0..500u64, refused in 0..50u32, failed in 0..50u64,
        declared in 1.0..1e5_f64, shown in 0.0..=1.0_f64, quality in 0.0..=1.0_f64, speed in 0.1..500.0_f64,
    ) -> Stretch {
        Stretch {
            served,
            refused_within: u64::from(refused),
            refusal_cost: f64::from(refused) * 0.5,
            failed,
            exams: 4,
            shown: 4.0 * declared * shown,
            shown_squared: 4.0 * (declared * shown).powi(2),
            checked: served / 4 + 1,
            quality: (served / 4 + 1) as f64 * quality,
            speed: Some(speed),
            ..good(hours)
        }
    }
}

fn evidence(stretch: impl Strategy<Value = Stretch>) -> impl Strategy<Value = Evidence> {
    (ANY, prop::collection::vec(stretch, 0..6)).prop_map(|(capacity, stretches)| Evidence {
        capacity,
        stretches,
        answers: Vec::new(),
    })
}

fn sound(task: &TaskScore) -> bool {
    let AnyFactors::Touchstone(factors) = task.factors else { return false };
    let summary = factors.summary;
    let scores = [summary.reliability, summary.presence, task.share];
    let amounts = [
        summary.checked,
        summary.served,
        summary.refusal_cost,
        summary.failed,
        summary.proven,
        summary.capacity,
        summary.shown,
        summary.error,
        summary.used,
        task.effective_volume,
    ];
    scores.iter().all(|score| (0.0..=1.0).contains(&score.get()))
        // Sums of absurd counts may overflow to infinity; what is made of them may not.
        && amounts[4..].iter().all(|amount| (0.0..=f64::MAX).contains(amount))
        && amounts.iter().all(|amount| *amount >= 0.0)
        && (0.75..=1.25).contains(&factors.speed_factor)
        && (0.0..=1.0).contains(&task.contribution)
}

proptest! {
    #[test]
    fn no_evidence_makes_a_weight_unusable(
        field in prop::collection::vec(evidence(anything()), 0..6),
    ) {
        let scores = scores_with(Rules::default(), &field);
        let total: f64 = scores.miners.values().map(|miner| miner.weight.get()).sum();
        prop_assert!(total == 0.0 || (total - 1.0).abs() < 1e-9, "weights sum to {}", total);
        for miner in scores.miners.values() {
            prop_assert!((0.0..=1.0).contains(&miner.weight.get()));
            for task in miner.tasks.values() {
                prop_assert!(sound(task), "{:?}", task);
            }
        }
    }

    #[test]
    fn one_absurd_miner_changes_nothing_between_the_others(absurd in evidence(anything())) {
        let mut half = always();
        half.capacity /= 2.0;
        let honest = weights(&[always(), half.clone()]);
        let with_absurd = weights(&[always(), half, absurd]);
        if with_absurd[0] > 1e-6 {
            // The typical speed may move with it, the order and the volumes may not.
            let (before, after) = (honest[0] / honest[1], with_absurd[0] / with_absurd[1]);
            prop_assert!((before / after - 1.0).abs() < 1e-6, "{} {}", before, after);
        }
    }

    #[test]
    fn serving_more_never_hurts_and_failing_more_never_helps(
        stretches in prop::collection::vec(plausible(), 1..6), which: prop::sample::Index, more in 1..100u64,
    ) {
        let before = Evidence { capacity: 1e4, stretches, answers: Vec::new() };
        let index = which.index(before.stretches.len());
        let mut better = before.clone();
        better.stretches[index].served += more;
        let mut worse = before.clone();
        worse.stretches[index].failed += more;
        let of = |evidence: &Evidence| summary(evidence).reliability.get();
        prop_assert!(of(&better) >= of(&before));
        prop_assert!(of(&worse) <= of(&before));
    }

    #[test]
    fn worse_answers_and_smaller_volumes_never_raise_a_weight(
        subject in prop::collection::vec(plausible(), 1..6), others in prop::collection::vec(plausible(), 1..6),
    ) {
        let other = Evidence { capacity: 1e4, stretches: others, answers: Vec::new() };
        let before = Evidence { capacity: 1e4, stretches: subject, answers: Vec::new() };
        let mut worse = before.clone();
        for stretch in &mut worse.stretches {
            stretch.quality /= 2.0;
            stretch.shown /= 2.0;
            stretch.shown_squared /= 4.0;
        }
        let weight = |subject: &Evidence| weights(&[subject.clone(), other.clone()])[0];
        prop_assert!(weight(&worse) <= weight(&before) + 1e-12);
    }
}
