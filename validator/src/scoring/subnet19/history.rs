//! One number for a miner's recent periods.

use serde::{Deserialize, Serialize};

use super::{Parameters, Score, amount};

/// One past period of a miner and task.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Period {
    /// The period's score; a period without one is left out altogether.
    pub score: Option<Score>,
    /// The volume served in it, in the task's unit.
    pub consumed: f64,
}

/// What a miner's past periods come to.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    /// Periods that have a score.
    pub scored_periods: usize,
    /// The mean of their scores, weighed by volume and age.
    pub mean: Score,
    /// 1, or the newcomer's multiplier while there are too few periods.
    pub multiplier: f64,
    /// `mean * multiplier`.
    pub score: Score,
}

/// Sums up the periods, given newest first.
///
/// A period that is the i-th newest of those with a score weighs `consumed * decay^i`. Without any volume the score is 0.
pub fn history(parameters: &Parameters, newest_first: &[Period]) -> History {
    let scored: Vec<(f64, f64)> = newest_first
        .iter()
        .filter_map(|period| period.score.map(|score| (score.get(), amount(period.consumed))))
        .collect();
    let multiplier = if scored.len() >= parameters.full_history_periods {
        1.0
    } else {
        parameters.newcomer_multiplier
    };
    let mean = weighted_mean(parameters.period_decay, &scored);
    History {
        scored_periods: scored.len(),
        mean,
        multiplier,
        score: Score::clamped(mean.get() * multiplier),
    }
}

fn weighted_mean(decay: f64, newest_first: &[(f64, f64)]) -> Score {
    let largest = newest_first.iter().map(|&(_, consumed)| consumed).fold(0.0, f64::max);
    if largest == 0.0 {
        return Score::ZERO;
    }
    // Periods without volume weigh nothing, but age the ones behind them: ages are counted from the first that weighs,
    // so that a long idle time does not push every weight below the smallest float.
    let (mut sum, mut total, mut age_factor) = (0.0, 0.0, 1.0);
    for &(score, consumed) in newest_first.iter().skip_while(|&&(_, consumed)| consumed == 0.0) {
        // Relative to the largest volume, so that sums of absurd volumes stay finite.
        let weight = consumed / largest * age_factor;
        sum += score * weight;
        total += weight;
        age_factor *= decay;
    }
    if total > 0.0 { Score::clamped(sum / total) } else { Score::ZERO }
}

#[cfg(test)]
mod tests {
    use proptest::num::f64::ANY;
    use proptest::prelude::*;

    use super::*;

    fn period(score: f64, consumed: f64) -> Period {
        Period { score: Some(Score::clamped(score)), consumed }
    }

    fn score(periods: &[Period]) -> f64 {
        history(&Parameters::default(), periods).score.get()
    }

    #[test]
    fn a_miner_without_periods_scores_nothing() {
        assert_eq!(score(&[]), 0.0);
    }

    #[test]
    fn periods_without_volume_score_nothing() {
        assert_eq!(score(&[period(1.0, 0.0); 12]), 0.0);
    }

    #[test]
    fn a_newcomer_gets_a_quarter_until_its_ninth_period() {
        assert_eq!(score(&[period(1.0, 10.0); 8]), 0.25);
        assert_eq!(score(&[period(1.0, 10.0); 9]), 1.0);
    }

    #[test]
    fn a_period_that_could_not_be_judged_neither_counts_nor_ages_the_others() {
        let judged = [period(0.9, 5.0), period(0.3, 7.0)];
        let mut with_gap = judged.to_vec();
        with_gap.insert(1, Period { score: None, consumed: 1000.0 });
        assert_eq!(
            history(&Parameters::default(), &with_gap),
            history(&Parameters::default(), &judged)
        );
    }

    #[test]
    fn the_newest_period_weighs_most() {
        let improving = [period(1.0, 1.0), period(0.0, 1.0)];
        let declining = [period(0.0, 1.0), period(1.0, 1.0)];
        assert!(score(&improving) > score(&declining));
    }

    #[test]
    fn a_long_idle_time_does_not_erase_what_was_before() {
        let mut periods = vec![period(1.0, 0.0); 3000];
        periods.push(period(0.5, 10.0));
        assert_eq!(score(&periods), 0.5);
    }

    prop_compose! {
        fn anything()(score in prop::option::of(ANY), consumed in ANY) -> Period {
            Period { score: score.map(Score::clamped), consumed }
        }
    }

    proptest! {
        #[test]
        fn no_evidence_leaves_the_range(periods in prop::collection::vec(anything(), 0..40)) {
            let history = history(&Parameters::default(), &periods);
            prop_assert!((0.0..=1.0).contains(&history.score.get()));
            prop_assert!(history.score <= history.mean);
        }

        #[test]
        fn the_mean_lies_between_the_worst_and_the_best_period(
            periods in prop::collection::vec((0.0..=1.0, 0.1..1e6), 1..40),
        ) {
            let periods: Vec<_> = periods.iter().map(|&(score, consumed)| period(score, consumed)).collect();
            let scores: Vec<_> = periods.iter().map(|period| period.score.unwrap().get()).collect();
            let mean = history(&Parameters::default(), &periods).mean.get();
            let worst = scores.iter().copied().fold(f64::INFINITY, f64::min);
            let best = scores.iter().copied().fold(0.0, f64::max);
            prop_assert!(mean >= worst - 1e-12 && mean <= best + 1e-12);
        }
    }
}
