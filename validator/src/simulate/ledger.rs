//! The evidence of simulated periods, kept and added up as the store does it, and the scores that follow from it.

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Hotkey, TaskId, Volume};

use crate::evidence::bucket_ms;
use crate::scoring::{Answer, Evidence, Preset, Rules, Scores, Span, Stretch};
use crate::store::ANSWERS_PER_CONTENDER;
use crate::tally::{ContenderId, Tally};

/// Periods are forgotten after so long for the preset `touchstone`, as by default.
const EVIDENCE_MS: i64 = 168 * 3_600_000;
/// Single periods are forgotten after so long, for the preset `subnet19`.
const PERIODS_MS: i64 = 72 * 3_600_000;

/// An answer that was checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    pub(super) quality: f64,
    /// Units per second, see [`Stretch::speed`].
    pub(super) speed: f64,
    pub(super) organic: bool,
}

/// All evidence by now.
#[derive(Debug)]
pub(super) struct Ledger {
    rules: Rules,
    period: Duration,
    tasks: BTreeMap<TaskId, f64>,
    /// Newest first, each with the number of periods in it.
    spans: Vec<(Span, i64)>,
    kept: BTreeMap<ContenderId, Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    evidence: Evidence,
    /// Periods in the newest stretch, and the speeds of the answers in it.
    merged: i64,
    speeds: Vec<f64>,
    /// Answers checked in the open period.
    checked: Vec<Checked>,
}

impl Ledger {
    pub(super) fn new(rules: Rules, task: TaskId, period: Duration) -> Self {
        let tasks = BTreeMap::from([(task, 1.0)]);
        Self { rules, period, tasks, spans: Vec::new(), kept: BTreeMap::new() }
    }

    /// Takes down a verdict, which counts in the open period.
    pub(super) fn checked(&mut self, id: &ContenderId, checked: Checked) {
        match self.kept.get_mut(id) {
            Some(kept) => kept.checked.push(checked),
            None => {
                self.kept.insert(id.clone(), Kept { checked: vec![checked], ..Kept::default() });
            }
        }
    }

    /// Takes down a period that has ended.
    pub(super) fn end_period(&mut self, ended_ms: i64, tallies: &BTreeMap<ContenderId, Tally>) {
        let seconds = self.period.as_secs_f64();
        let merging = self.rules.preset() == Preset::Touchstone;
        let bucket_ms = bucket_ms(self.period);
        let same_bucket =
            |at_ms: i64| merging && ended_ms.div_euclid(bucket_ms) == at_ms.div_euclid(bucket_ms);
        match self.spans.first_mut().filter(|(span, _)| same_bucket(span.at_ms)) {
            Some((span, count)) => {
                span.at_ms = mean(span.at_ms, *count, ended_ms);
                span.seconds += seconds;
                *count += 1;
            }
            None => self.spans.insert(0, (Span { at_ms: ended_ms, seconds }, 1)),
        }
        self.spans.retain(|(span, _)| span.at_ms > ended_ms - EVIDENCE_MS);
        for (id, tally) in tallies {
            let kept = self.kept.entry(id.clone()).or_default();
            let mut stretch = tally.stretch(ended_ms, seconds);
            let checked = std::mem::take(&mut kept.checked);
            let newest = kept.evidence.stretches.first_mut();
            let newest = newest.filter(|newest| same_bucket(newest.at_ms));
            if newest.is_none() {
                (kept.merged, kept.speeds) = (0, Vec::new());
            }
            for Checked { quality, speed, organic } in &checked {
                stretch.checked += 1;
                stretch.quality += quality;
                stretch.organic_checked += u64::from(*organic);
                stretch.organic_quality += if *organic { *quality } else { 0.0 };
                kept.speeds.push(speed * quality);
                if !merging {
                    kept.evidence.answers.push(Answer { quality: *quality, speed: *speed });
                }
            }
            stretch.speed = percentile(&mut kept.speeds, self.rules.speed_percentile());
            match newest {
                Some(newest) => {
                    stretch.at_ms = mean(newest.at_ms, kept.merged, ended_ms);
                    *newest = sum(newest, &stretch);
                }
                None => kept.evidence.stretches.insert(0, stretch),
            }
            kept.merged += 1;
            let window = if merging { EVIDENCE_MS } else { PERIODS_MS };
            kept.evidence.stretches.retain(|stretch| stretch.at_ms > ended_ms - window);
            let surplus =
                kept.evidence.answers.len().saturating_sub(ANSWERS_PER_CONTENDER as usize);
            kept.evidence.answers.drain(..surplus);
        }
    }

    /// What everybody who declares capacity now has earned.
    pub(super) fn score(
        &mut self,
        now_ms: i64,
        declared: &BTreeMap<ContenderId, Volume>,
    ) -> Scores<Hotkey> {
        let spans: Vec<_> = self.spans.iter().map(|(span, _)| *span).collect();
        let scorer = self.rules.at(now_ms, &spans, self.period.as_secs_f64());
        let summaries = declared
            .iter()
            .map(|(id, volume)| {
                let kept = self.kept.entry(id.clone()).or_default();
                kept.evidence.capacity = volume.get();
                ((id.hotkey, id.task.clone()), scorer.sum_up(&kept.evidence))
            })
            .collect();
        scorer.weights(&self.tasks, &summaries)
    }
}

/// The mean of `count` numbers, whose mean is given, and one more.
fn mean(mean: i64, count: i64, more: i64) -> i64 {
    mean + (more - mean) / (count + 1)
}

/// The number at place `floor(percentile * n)` of the sorted ones.
fn percentile(values: &mut [f64], percentile: f64) -> Option<f64> {
    let place = (values.len() as f64 * percentile) as usize;
    let place = place.min(values.len().checked_sub(1)?);
    Some(*values.select_nth_unstable_by(place, f64::total_cmp).1)
}

/// Both together, with the time and the speed of the second.
fn sum(a: &Stretch, b: &Stretch) -> Stretch {
    Stretch {
        at_ms: b.at_ms,
        seconds: a.seconds + b.seconds,
        idle_seconds: a.idle_seconds + b.idle_seconds,
        declared: a.declared + b.declared,
        consumed: a.consumed + b.consumed,
        served: a.served + b.served,
        refused_within: a.refused_within + b.refused_within,
        refusal_cost: a.refusal_cost + b.refusal_cost,
        refused_beyond: a.refused_beyond + b.refused_beyond,
        failed: a.failed + b.failed,
        organic_served: a.organic_served + b.organic_served,
        organic_refusal_cost: a.organic_refusal_cost + b.organic_refusal_cost,
        organic_failed: a.organic_failed + b.organic_failed,
        exams: a.exams + b.exams,
        shown: a.shown + b.shown,
        shown_squared: a.shown_squared + b.shown_squared,
        checked: a.checked + b.checked,
        quality: a.quality + b.quality,
        organic_checked: a.organic_checked + b.organic_checked,
        organic_quality: a.organic_quality + b.organic_quality,
        speed: b.speed,
    }
}
