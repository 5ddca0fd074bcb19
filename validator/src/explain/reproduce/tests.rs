use std::collections::BTreeSet;

use chain::weights::encode_within;
use common::{BlockNumber, MechanismId, TaskId};
use proptest::num::f64::ANY;
use proptest::prelude::*;

use super::*;
use crate::explain::build::{Found, build};
use crate::explain::{Explanation, PeriodRow};
use crate::scoring::{Answer, Evidence, Preset, Rules, Scores, Span, Stretch, Summary};
use crate::store::{Scoring, ScoringId, WeightsOnChain};

const NOW: i64 = 1_795_212_604_000;
const HOUR: i64 = 3_600_000;

fn key(name: u8) -> Hotkey {
    Hotkey::from_bytes([name; 32])
}

fn task(name: &str) -> TaskId {
    name.parse().unwrap()
}

fn scoring(rules: Rules, evidence: &BTreeMap<(u8, TaskId), Evidence>) -> Scoring {
    let spans: Vec<_> = (0..12).map(|n| Span { at_ms: NOW - n * HOUR, seconds: 1_800.0 }).collect();
    let scorer = rules.at(NOW, &spans, 1_800.0);
    let summaries: BTreeMap<(Hotkey, TaskId), Summary> = evidence
        .iter()
        .map(|((miner, task), evidence)| ((key(*miner), task.clone()), scorer.sum_up(evidence)))
        .collect();
    let tasks = BTreeMap::from([(task("chat"), 0.6), (task("completion"), 0.4)]);
    let Scores { miners } = scorer.weights(&tasks, &summaries);
    let mechanisms = BTreeMap::new();
    Scoring { id: ScoringId(7), at_ms: NOW, rules, tasks, mechanisms, scores: miners }
}

/// As the database gives it back.
fn stored(scoring: &Scoring) -> Scoring {
    let scores = scoring.scores.iter().map(|(hotkey, miner)| {
        let json = serde_json::to_string(miner).unwrap();
        (*hotkey, serde_json::from_str(&json).unwrap())
    });
    Scoring { scores: scores.collect(), ..scoring.clone() }
}

/// Every second miner has left the subnet before the weights were set.
fn set(scoring: &Scoring, limit: u16) -> Option<WeightsOnChain> {
    let registered: Vec<(u16, f64)> = scoring
        .scores
        .iter()
        .filter(|(hotkey, _)| hotkey.as_bytes()[0] % 4 != 3)
        .map(|(hotkey, miner)| (u16::from(hotkey.as_bytes()[0]) + 10, miner.weight.get()))
        .collect();
    let weights = encode_within(&registered, limit).ok()?;
    let weights = weights.into_iter().map(|(uid, weight)| (uid, key((uid.0 - 10) as u8), weight));
    Some(WeightsOnChain {
        at_ms: NOW,
        mechanism: MechanismId(0),
        block: BlockNumber(5),
        weights: weights.collect(),
        scoring: Some(scoring.id),
    })
}

fn explained(scoring: Scoring, set: Option<WeightsOnChain>, miner: u8) -> Explanation {
    let tasks = scoring.tasks.keys().map(|task| (task.clone(), (Vec::new(), Vec::new())));
    build(Found {
        hotkey: key(miner),
        mechanism: MechanismId(0),
        mechanisms: BTreeSet::from([MechanismId(0)]),
        tasks: tasks.collect(),
        behind: set.as_ref().map(|_| scoring.clone()),
        set,
        newest: scoring,
    })
}

fn good(capacity: f64) -> Evidence {
    let stretch = Stretch {
        at_ms: NOW - HOUR,
        seconds: 1_800.0,
        declared: capacity,
        consumed: capacity / 4.0,
        served: 40,
        refused_within: 2,
        refusal_cost: 0.5,
        failed: 1,
        exams: 3,
        shown: capacity * 2.7,
        shown_squared: capacity * capacity * 2.45,
        checked: 10,
        quality: 9.6,
        speed: Some(50.0),
        ..Stretch::default()
    };
    let answers = vec![Answer { quality: 0.97, speed: 52.0 }; 4];
    Evidence { capacity, stretches: vec![stretch; 10], answers }
}

fn small(rules: Rules) -> Scoring {
    let evidence = [((1, "chat"), 100.0), ((1, "completion"), 50.0), ((2, "chat"), 170.0)];
    let evidence = evidence.map(|((miner, name), size)| ((miner, task(name)), good(size)));
    scoring(rules, &BTreeMap::from(evidence))
}

#[test]
fn a_number_that_was_changed_is_named() {
    for preset in [Preset::Touchstone, Preset::Subnet19] {
        let scoring = small(Rules::of(preset));
        let sound = explained(scoring.clone(), set(&scoring, u16::MAX), 1);
        assert_eq!(sound.reproduced, Reproduction { yes: true, differs: None });

        let named = |change: fn(&mut Explanation)| {
            let mut changed = sound.clone();
            change(&mut changed);
            reproduce(&changed).differs.expect("it was changed").number
        };
        assert_eq!(named(|e| e.score *= 1.001), "the score");
        assert_eq!(named(|e| e.all_scores += 0.1), "the sum of all scores");
        let volume = |e: &mut Explanation| {
            e.tasks[0].score.as_mut().unwrap().effective_volume *= 1.0 + 1e-9;
        };
        assert_eq!(named(volume), "the effective volume of chat");
        let weighting = |e: &mut Explanation| {
            e.contributions.get_mut(&task("chat")).unwrap().contribution = 0.5;
        };
        assert_eq!(named(weighting), "the contribution of chat");
        assert_eq!(named(|e| e.on_chain.as_mut().unwrap().weight -= 1), "the weight on chain");
        assert_eq!(named(|e| e.miners[1].on_chain -= 1), "the weight on chain of uid 12");
    }
}

#[test]
fn a_limit_on_single_weights_shows_in_the_weights() {
    let evidence = [(1, 900.0), (2, 700.0), (4, 300.0), (5, 290.0), (6, 100.0), (8, 90.0)];
    let evidence = evidence.map(|(miner, size)| ((miner, task("chat")), good(size)));
    let scoring = scoring(Rules::default(), &BTreeMap::from(evidence));
    for limit in [14_000, 20_000, 25_000] {
        let shown = explained(scoring.clone(), set(&scoring, limit), 4);
        let found = shown.on_chain.as_ref().unwrap().max_weights_limit;
        assert!(shown.reproduced.yes && found.abs_diff(limit) <= 2, "{found} {limit} {shown:?}");
    }
}

#[test]
fn a_changed_factor_is_named() {
    let scoring = small(Rules::default());
    let mut shown = explained(scoring.clone(), set(&scoring, u16::MAX), 1);
    if let Some(Factors::Touchstone(factors)) =
        shown.tasks[0].score.as_mut().map(|score| &mut score.factors)
    {
        factors.summary.failed += 1.0;
    }
    assert_eq!(reproduce(&shown).differs.unwrap().number, "the reliability of chat");
}

#[test]
fn each_mechanism_is_explained_by_its_tasks_alone() {
    let mut scoring = small(Rules::default());
    scoring.mechanisms = BTreeMap::from([(task("completion"), MechanismId(1))]);
    assert_eq!(scoring.mechanisms(), BTreeSet::from([MechanismId(0), MechanismId(1)]));
    let shown = |mechanism, miner| {
        let part = scoring.clone().of_mechanism(mechanism);
        let set = set(&part, u16::MAX).map(|set| WeightsOnChain { mechanism, ..set });
        explained(part, set, miner)
    };
    let (chat, completion) = (shown(MechanismId(0), 1), shown(MechanismId(1), 1));
    for part in [&chat, &completion] {
        assert!(part.reproduced.yes && part.contributions.len() == 1, "{part:?}");
    }
    // Nobody else completes texts, and of chat it has the smaller part.
    assert_eq!(completion.weight, 1.0);
    assert_eq!(completion.on_chain.unwrap().share, 1.0);
    assert!(chat.weight > 0.0 && chat.weight < 0.5, "{}", chat.weight);
    let other = shown(MechanismId(1), 2);
    assert_eq!((other.weight, other.on_chain.unwrap().weight), (0.0, 0));
}

#[test]
fn who_came_after_the_weights_were_set_is_shown_the_newest_scoring() {
    let behind = small(Rules::default());
    let evidence = [((1, "chat"), 100.0), ((9, "chat"), 60.0)];
    let evidence = evidence.map(|((miner, name), size)| ((miner, task(name)), good(size)));
    let newest = Scoring {
        id: ScoringId(8),
        at_ms: NOW + HOUR,
        ..scoring(Rules::default(), &BTreeMap::from(evidence))
    };
    let of = |miner| {
        build(Found {
            hotkey: key(miner),
            mechanism: MechanismId(0),
            mechanisms: BTreeSet::from([MechanismId(0)]),
            set: set(&behind, u16::MAX),
            behind: Some(behind.clone()),
            newest: newest.clone(),
            tasks: BTreeMap::new(),
        })
    };
    let (old, new) = (of(1), of(9));
    assert_eq!((old.scoring.id, old.weights_come_from_scoring), (7, true));
    assert_eq!(old.scoring.newer.map(|(at_ms, _)| at_ms), Some(NOW + HOUR));
    assert_eq!((new.scoring.id, new.weights_come_from_scoring), (8, false));
    assert!(new.reproduced.yes && new.weight > 0.0, "{new:?}");
}

#[test]
fn text_fits_a_terminal_and_says_what_was_computed() {
    for preset in [Preset::Touchstone, Preset::Subnet19] {
        let scoring = small(Rules::of(preset));
        let mut shown = explained(scoring.clone(), set(&scoring, u16::MAX), 1);
        let stretch = good(20_000.0).stretches[0];
        let failures = crate::tally::Failures { too_late: 1, ..Default::default() };
        shown.tasks[0].periods =
            vec![PeriodRow::from(&(crate::store::PeriodId(3), stretch, failures, 2))];
        let text = shown.text();
        for line in text.lines() {
            assert!(line.chars().count() <= 92, "{} columns: {line}", line.chars().count());
        }
        for part in ["reproduced: yes", "share_exponent", "TASK chat", "2/0", "1 too late"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}

prop_compose! {
    fn any_stretch()(
        at_ms in (NOW - 100 * HOUR)..(NOW + HOUR), counts in prop::array::uniform6(0..1_000u64),
        amounts in prop::array::uniform9(ANY), speed in prop::option::of(ANY),
    ) -> Stretch {
        Stretch {
            at_ms, seconds: amounts[0], idle_seconds: amounts[1], declared: amounts[2], consumed: amounts[3],
            served: counts[0], refused_within: counts[1], refusal_cost: amounts[4], refused_beyond: counts[2],
            failed: counts[3], exams: counts[4], shown: amounts[5], shown_squared: amounts[6], checked: counts[5],
            quality: amounts[7], speed, ..Stretch::default()
        }
    }
}

prop_compose! {
    fn likely_stretch()(
        age in 0..100i64, counts in prop::array::uniform6(0..1_000u64), parts in prop::array::uniform4(0.0..1.0),
        declared in 1.0..1e6, speed in prop::option::of(0.0..500.0),
    ) -> Stretch {
        let [served, refused, beyond, failed, exams, checked] = counts;
        let shown = exams as f64 * declared * parts[0];
        Stretch {
            at_ms: NOW - age * HOUR, seconds: 1_800.0, declared, consumed: declared * parts[1], served,
            refused_within: refused, refusal_cost: refused as f64 * parts[2], refused_beyond: beyond, failed, exams,
            shown, shown_squared: shown * declared * parts[0] * 1.01, checked, quality: checked as f64 * parts[3],
            speed, ..Stretch::default()
        }
    }
}

fn evidence(
    stretch: impl Strategy<Value = Stretch>,
    number: impl Strategy<Value = f64> + Clone,
) -> impl Strategy<Value = Evidence> {
    let answer =
        (number.clone(), number.clone()).prop_map(|(quality, speed)| Answer { quality, speed });
    let stretches = prop::collection::vec(stretch, 0..6);
    (number, stretches, prop::collection::vec(answer, 0..6))
        .prop_map(|(capacity, stretches, answers)| Evidence { capacity, stretches, answers })
}

fn field(
    evidence: impl Strategy<Value = Evidence>,
) -> impl Strategy<Value = BTreeMap<(u8, TaskId), Evidence>> {
    let name = prop::sample::select(vec!["chat", "completion", "vanished"]).prop_map(task);
    prop::collection::btree_map((0..16u8, name), evidence, 1..30)
}

fn check_field(
    evidence: &BTreeMap<(u8, TaskId), Evidence>,
    preset: Preset,
) -> Result<(), TestCaseError> {
    let scoring = scoring(Rules::of(preset), evidence);
    let set = set(&scoring, u16::MAX);
    let scoring = stored(&scoring);
    for hotkey in scoring.scores.keys() {
        let shown = explained(scoring.clone(), set.clone(), hotkey.as_bytes()[0]);
        prop_assert!(shown.reproduced.yes, "{:?}\n{}", shown.reproduced, shown.text());
        let read: Explanation = serde_json::from_str(&shown.json().unwrap()).unwrap();
        prop_assert!(reproduce(&read).yes, "{:?}", reproduce(&read));
        if let Some(set) = &set {
            let on_chain: Vec<_> =
                set.weights.iter().map(|(uid, _, weight)| (*uid, *weight)).collect();
            let mut computed = weights(&read);
            computed.sort_unstable();
            prop_assert_eq!(computed, on_chain);
        }
    }
    Ok(())
}

fn presets() -> impl Strategy<Value = Preset> {
    prop::sample::select(vec![Preset::Touchstone, Preset::Subnet19])
}

proptest! {
    #[test]
    fn every_weight_can_be_computed_again_from_likely_evidence(
        evidence in field(evidence(likely_stretch(), 0.0..1e4)), preset in presets(),
    ) {
        check_field(&evidence, preset)?;
    }

    #[test]
    fn every_weight_can_be_computed_again_whatever_the_evidence(
        evidence in field(evidence(any_stretch(), ANY)), preset in presets(),
    ) {
        check_field(&evidence, preset)?;
    }
}
