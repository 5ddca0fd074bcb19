//! The scoring formulas against the reference implementation's own results.
//!
//! Vectors are read from the folder that `TOUCHSTONE_VECTORS` names, so that others of the same shape can be run; by
//! default from the repository's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::TaskId;
use serde::Deserialize;
use validator::scoring::subnet19::{self, Observed, Parameters, Period};
use validator::scoring::{Preset, Rules, Score, Summary};

const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Vectors {
    period_score: Vec<PeriodScoreCase>,
    speed_bonus: Vec<SpeedBonusCase>,
    normalised_period_score: Vec<HistoryCase>,
    weights: Vec<WeightsCase>,
}

#[derive(Deserialize)]
struct PeriodScoreCase {
    total_requests: u32,
    capacity: f64,
    consumed_capacity: f64,
    requests_429: u32,
    requests_500: u32,
    expected: Option<f64>,
}

#[derive(Deserialize)]
struct SpeedBonusCase {
    metrics: BTreeMap<String, Vec<f64>>,
    expected_percentile: BTreeMap<String, f64>,
    expected_bonus: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct PastPeriod {
    period_score: Option<f64>,
    consumed_capacity: f64,
}

#[derive(Deserialize)]
struct HistoryCase {
    periods_newest_first: Vec<PastPeriod>,
    expected: f64,
}

#[derive(Deserialize)]
struct MinerCase {
    quality_scores: Vec<f64>,
    /// Speeds, weighed by quality already.
    metrics: Vec<f64>,
    capacity: f64,
    periods_newest_first: Vec<PastPeriod>,
}

#[derive(Deserialize)]
struct WeightsCase {
    task_weights: BTreeMap<TaskId, f64>,
    miners: BTreeMap<String, BTreeMap<TaskId, MinerCase>>,
    expected_scores: BTreeMap<String, f64>,
    expected_weights: BTreeMap<String, f64>,
}

fn vectors() -> Vectors {
    let folder = std::env::var_os("TOUCHSTONE_VECTORS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors"), PathBuf::from);
    let path = folder.join("sn19_scoring.json");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn periods(past: &[PastPeriod]) -> Vec<Period> {
    past.iter()
        .map(|period| Period {
            score: period.period_score.map(Score::clamped),
            consumed: period.consumed_capacity,
        })
        .collect()
}

#[track_caller]
fn assert_close(got: f64, expected: f64, what: &str) {
    // Relative, because many weights are tiny; the rest is for those that are 0.
    let allowed = TOLERANCE * expected.abs() + 1e-15;
    assert!((got - expected).abs() <= allowed, "{what}: got {got}, expected {expected}");
}

#[test]
fn conformance_sn19_scoring_of_one_period() {
    for (n, case) in vectors().period_score.iter().enumerate() {
        let seen = Observed {
            capacity: case.capacity,
            consumed: case.consumed_capacity,
            requests: case.total_requests,
            refused: case.requests_429,
            failed: case.requests_500,
        };
        let score = subnet19::period_score(&Parameters::default(), &seen).map(Score::get);
        assert_eq!(score.is_some(), case.expected.is_some(), "case {n}: got {score:?}");
        if let (Some(score), Some(expected)) = (score, case.expected) {
            assert_close(score, expected, &format!("case {n}"));
        }
    }
}

#[test]
fn conformance_sn19_scoring_of_speed() {
    let parameters = Parameters::default();
    for (n, case) in vectors().speed_bonus.iter().enumerate() {
        let speeds: BTreeMap<&String, f64> = case
            .metrics
            .iter()
            .filter_map(|(miner, metrics)| Some((miner, subnet19::speed(&parameters, metrics)?)))
            .collect();
        assert_eq!(speeds.len(), case.expected_percentile.len(), "case {n}");
        for (miner, expected) in &case.expected_percentile {
            assert_close(speeds[miner], *expected, &format!("case {n}, speed of {miner}"));
        }
        let bonuses = subnet19::speed_bonuses(&parameters, &speeds);
        assert_eq!(bonuses.len(), case.expected_bonus.len(), "case {n}");
        for (miner, expected) in &case.expected_bonus {
            assert_close(bonuses[miner], *expected, &format!("case {n}, bonus of {miner}"));
        }
    }
}

#[test]
fn conformance_sn19_scoring_of_past_periods() {
    for (n, case) in vectors().normalised_period_score.iter().enumerate() {
        let history =
            subnet19::history(&Parameters::default(), &periods(&case.periods_newest_first));
        assert_close(history.score.get(), case.expected, &format!("case {n}"));
    }
}

#[test]
fn conformance_sn19_scoring_of_weights() {
    let parameters = Parameters::default();
    let scorer = Rules::of(Preset::Subnet19).at(0, &[], 0.0);
    for (n, case) in vectors().weights.into_iter().enumerate() {
        let mut summaries = BTreeMap::new();
        for (miner, tasks) in case.miners {
            for (task, seen) in tasks {
                let summary = subnet19::Summary {
                    quality: subnet19::quality(&parameters, &seen.quality_scores),
                    speed: subnet19::speed(&parameters, &seen.metrics),
                    history: subnet19::history(&parameters, &periods(&seen.periods_newest_first)),
                    capacity: seen.capacity,
                };
                summaries.insert((miner.clone(), task), Summary::Subnet19(summary));
            }
        }
        let scores = scorer.weights(&case.task_weights, &summaries);
        // Miners that the reference does not mention have earned nothing.
        let expected =
            |of: &BTreeMap<String, f64>, miner: &String| of.get(miner).copied().unwrap_or(0.0);
        for (miner, got) in &scores.miners {
            let what = format!("case {n}, miner {miner}");
            assert_close(
                got.score,
                expected(&case.expected_scores, miner),
                &format!("{what}, score"),
            );
            assert_close(
                got.weight.get(),
                expected(&case.expected_weights, miner),
                &format!("{what}, weight"),
            );
        }
        assert!(
            case.expected_weights.keys().all(|miner| scores.miners.contains_key(miner)),
            "case {n}"
        );
    }
}
