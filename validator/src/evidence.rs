//! Gathers what is stored into the evidence that scoring takes.

use std::collections::BTreeMap;

use common::{Hotkey, TaskId, Volume};

use crate::scoring::{self, Evidence, Observed, Parameters, Period, Score};
use crate::store::{Judged, PastPeriod};
use crate::tally::{ContenderId, Tally};

/// Scores a period that is over, contender by contender.
pub fn period_scores<'a>(
    parameters: &Parameters,
    tallies: &'a BTreeMap<ContenderId, Tally>,
) -> Vec<(&'a ContenderId, &'a Tally, Option<f64>)> {
    tallies
        .iter()
        .map(|(id, tally)| {
            let observed = Observed {
                capacity: tally.declared,
                consumed: tally.consumed,
                requests: tally.asked(),
                refused: tally.refused,
                failed: tally.failed,
            };
            (id, tally, scoring::period_score(parameters, &observed).map(Score::get))
        })
        .collect()
}

/// The evidence about every contender that declared capacity in the newest period. Those that have left the subnet or
/// the task keep their rows in the store, but earn nothing.
pub fn gather(
    declared: &BTreeMap<ContenderId, Volume>,
    past: &BTreeMap<ContenderId, Vec<PastPeriod>>,
    judged: &BTreeMap<ContenderId, Vec<Judged>>,
) -> BTreeMap<(Hotkey, TaskId), Evidence> {
    declared
        .iter()
        .map(|(id, capacity)| {
            let periods = past.get(id).map(Vec::as_slice).unwrap_or_default();
            let judged = judged.get(id).map(Vec::as_slice).unwrap_or_default();
            let evidence = Evidence {
                capacity: capacity.get(),
                periods: periods
                    .iter()
                    .map(|period| Period {
                        score: period.score.map(Score::clamped),
                        consumed: period.consumed,
                    })
                    .collect(),
                qualities: judged.iter().map(|answer| answer.quality).collect(),
                weighted_speeds: judged
                    .iter()
                    .map(|answer| scoring::weighted_speed(answer.speed, answer.quality))
                    .collect(),
            };
            ((id.hotkey, id.task.clone()), evidence)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: u8) -> ContenderId {
        ContenderId { hotkey: Hotkey::from_bytes([name; 32]), task: "chat-demo".parse().unwrap() }
    }

    #[test]
    fn a_contender_that_was_not_asked_has_no_period_score() {
        let tallies = BTreeMap::from([
            (id(1), Tally { declared: 100.0, ..Tally::default() }),
            (id(2), Tally { declared: 100.0, consumed: 50.0, served: 3, ..Tally::default() }),
        ]);
        let scores: Vec<_> = period_scores(&Parameters::default(), &tallies)
            .into_iter()
            .map(|(.., score)| score)
            .collect();
        assert_eq!(scores, [None, Some(1.0)]);
    }

    #[test]
    fn only_current_contenders_have_evidence_and_each_only_its_own() {
        let declared = BTreeMap::from([(id(1), Volume::from(100)), (id(2), Volume::from(50))]);
        let past = BTreeMap::from([
            (id(1), vec![PastPeriod { score: Some(0.9), consumed: 10.0 }]),
            (id(3), vec![PastPeriod { score: Some(0.5), consumed: 10.0 }]),
        ]);
        let judged = BTreeMap::from([(id(1), vec![Judged { quality: 0.5, speed: 40.0 }])]);

        let evidence = gather(&declared, &past, &judged);

        assert_eq!(evidence.len(), 2);
        let first = &evidence[&(id(1).hotkey, id(1).task)];
        assert_eq!(first.periods.len(), 1);
        assert_eq!(first.weighted_speeds, [20.0]);
        let second = &evidence[&(id(2).hotkey, id(2).task)];
        assert!(second.periods.is_empty() && second.qualities.is_empty());
    }
}
