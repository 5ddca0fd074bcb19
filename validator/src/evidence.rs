//! Gathers what is stored into the evidence that scoring takes.

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Hotkey, TaskId, Volume};

use crate::scoring::{Evidence, Preset, Rules, Scorer, Span, Summary};
use crate::store::{Store, StoreError};
use crate::tally::ContenderId;

/// Periods are added up over so long: fine enough for evidence that fades over hours, and few enough rows that a week of
/// a large subnet is read in a second.
const BUCKET: Duration = Duration::from_secs(4 * 3600);

/// How long evidence is used and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Sums over [`bucket_ms`], which the preset `touchstone` scores by.
    pub evidence: Duration,
    /// Single periods. The reference keeps them for 3 days, and verdicts for 5.
    pub periods: Duration,
    pub verdicts: Duration,
    /// Answers that could not be checked for so long are given up.
    pub waiting_checks: Duration,
}

/// The moment that is scored, and how far back it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Unix milliseconds.
    pub now_ms: i64,
    /// Length of a scoring period.
    pub period: Duration,
    pub retention: Retention,
}

impl Moment {
    /// The beginning of what counts now.
    pub fn since(&self, window: Duration) -> i64 {
        self.now_ms.saturating_sub(millis(window))
    }
}

/// The length of time over which periods are added up, in milliseconds; at least one period.
pub fn bucket_ms(period: Duration) -> i64 {
    millis(BUCKET.max(period)).max(1)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Reads the evidence about everybody who declares capacity now and sums it up by these rules. Those that have left the
/// subnet or the task keep their rows in the store, but earn nothing.
///
/// # Errors
/// If the database fails.
pub async fn summaries(
    store: &Store,
    rules: &Rules,
    moment: &Moment,
    declared: &BTreeMap<ContenderId, Volume>,
) -> Result<(Scorer, BTreeMap<(Hotkey, TaskId), Summary>), StoreError> {
    let bucket_ms = bucket_ms(moment.period);
    let since = moment.since(moment.retention.evidence);
    let (spans, mut past, mut answers) = match rules.preset() {
        Preset::Touchstone => {
            (merged(&store.periods(since).await?, bucket_ms), BTreeMap::new(), BTreeMap::new())
        }
        Preset::Subnet19 => (
            Vec::new(),
            store.past_periods(moment.since(moment.retention.periods)).await?,
            store.answers(moment.since(moment.retention.verdicts)).await?,
        ),
    };
    let scorer = rules.at(moment.now_ms, &spans, moment.period.as_secs_f64());
    // Who declares capacity and was never asked is scored as well: it earns nothing yet.
    let mut summaries: BTreeMap<_, _> = declared
        .iter()
        .map(|(id, capacity)| {
            let evidence = Evidence {
                capacity: capacity.get(),
                stretches: past.remove(id).unwrap_or_default(),
                answers: answers.remove(id).unwrap_or_default(),
            };
            ((id.hotkey, id.task.clone()), scorer.sum_up(&evidence))
        })
        .collect();
    if rules.preset() == Preset::Touchstone {
        store
            .stretches(since, |id, stretches| {
                let Some(capacity) = declared.get(&id) else { return };
                let evidence =
                    Evidence { capacity: capacity.get(), stretches, answers: Vec::new() };
                summaries.insert((id.hotkey, id.task), scorer.sum_up(&evidence));
            })
            .await?;
    }
    Ok((scorer, summaries))
}

/// Periods added up like the stretches that miners are measured by: so a miner that was always there has exactly the
/// validator's own time.
fn merged(spans: &[Span], bucket_ms: i64) -> Vec<Span> {
    let mut buckets: BTreeMap<i64, (i128, i128, f64)> = BTreeMap::new();
    for span in spans {
        let (count, ends, seconds) = buckets.entry(span.at_ms.div_euclid(bucket_ms)).or_default();
        *count += 1;
        *ends += i128::from(span.at_ms);
        *seconds += span.seconds;
    }
    buckets
        .into_values()
        .map(|(count, ends, seconds)| {
            // A mean of numbers of 64 bits is one.
            Span { at_ms: i64::try_from(ends / count).unwrap_or(i64::MAX), seconds }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_added_up_by_the_time_they_ended_in() {
        let span = |at_ms| Span { at_ms, seconds: 30.0 };
        let merged = merged(&[span(95), span(10), span(30), span(101)], 100);
        assert_eq!(merged, [Span { at_ms: 45, seconds: 90.0 }, Span { at_ms: 101, seconds: 30.0 }]);
    }

    #[test]
    fn a_long_period_is_a_stretch_of_its_own() {
        assert_eq!(bucket_ms(Duration::from_secs(20)), 14_400_000);
        assert_eq!(bucket_ms(Duration::from_secs(86_400)), 86_400_000);
    }
}
