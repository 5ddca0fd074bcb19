//! What bursts of requests show: how much a contender serves while it is asked for all that it declares. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Requests that are remembered for one contender while a burst is open. Older ones are forgotten first.
const MAX_RECORDS: usize = 4_096;
/// A burst that is still open this many turns of the period after it was planned has lost a request.
const MAX_TURNS: u32 = 2;

/// A request that is over. Times are counted from any origin that all have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    pub started: Duration,
    /// One that ended before it started took no time.
    pub ended: Duration,
    /// Work units that the answer has; 0 without an answer.
    pub units: f64,
    /// The burst that it belongs to.
    pub burst: Option<u32>,
}

/// Units per second of busy time: the time in which at least one request of `burst` was under way.
///
/// The burst's requests count whatever came of them: a refusal or a failure is busy as long as it took. Units of all
/// other requests in that time count as well, each spread evenly over the request's duration.
///
/// `None` if there is no busy time.
pub fn shown_rate(requests: &[Asked], burst: u32) -> Option<f64> {
    let busy = busy(requests, burst);
    let seconds = busy
        .iter()
        .fold(Duration::ZERO, |sum, (from, to)| sum.saturating_add(to.saturating_sub(*from)))
        .as_secs_f64();
    if seconds <= 0.0 {
        return None;
    }
    let units: f64 = requests.iter().map(|asked| units_within(asked, &busy)).sum();
    Some(units / seconds).filter(|rate| rate.is_finite())
}

/// The union of the burst's intervals, as intervals that do not touch, in order.
fn busy(requests: &[Asked], burst: u32) -> Vec<(Duration, Duration)> {
    let mut intervals: Vec<_> = requests
        .iter()
        .filter(|asked| asked.burst == Some(burst))
        .map(|asked| (asked.started, asked.ended.max(asked.started)))
        .collect();
    intervals.sort_unstable();
    let mut union: Vec<(Duration, Duration)> = Vec::new();
    for (from, to) in intervals {
        match union.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => union.push((from, to)),
        }
    }
    union
}

fn units_within(asked: &Asked, busy: &[(Duration, Duration)]) -> f64 {
    if !asked.units.is_finite() || asked.units <= 0.0 {
        return 0.0;
    }
    let (from, to) = (asked.started, asked.ended.max(asked.started));
    let first = busy.partition_point(|(_, end)| *end < from);
    let touched = busy.iter().skip(first).take_while(|(start, _)| *start <= to);
    let length = to.saturating_sub(from).as_secs_f64();
    if length <= 0.0 {
        return if touched.count() > 0 { asked.units } else { 0.0 };
    }
    let within = touched.fold(Duration::ZERO, |sum, (start, end)| {
        sum.saturating_add(to.min(*end).saturating_sub(from.max(*start)))
    });
    asked.units * (within.as_secs_f64() / length).min(1.0)
}

/// What a contender declared when a burst was planned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Promise {
    /// Work units for one period.
    pub volume: f64,
    /// Length of the period.
    pub seconds: f64,
    /// The time that one request of the burst takes at the promised rate.
    pub per_request: Duration,
}

/// The bursts of one contender that are not over, and what is needed to evaluate them.
///
/// Methods that may end a burst return the volumes per period that the ended ones have shown, each at most the promised
/// one.
#[derive(Debug, Default)]
pub struct Exams {
    bursts: BTreeMap<u32, Burst>,
    /// What has ended since a burst is open.
    records: VecDeque<Asked>,
    /// All requests under way, whichever they are.
    under_way: u32,
}

#[derive(Debug)]
struct Burst {
    promise: Promise,
    /// Its requests that are planned or under way.
    left: u32,
    /// Once none is left: other requests that were under way then. Part of their units belongs to the busy time, so
    /// they are waited for.
    others: u32,
    /// The last end of its requests.
    ended: Duration,
    /// One of its requests came to nothing on our own side, so it shows nothing about the contender.
    void: bool,
    turns: u32,
}

impl Exams {
    /// A burst of so many requests will come.
    pub fn plan(&mut self, burst: u32, size: u32, promise: Promise) {
        let new =
            Burst { promise, left: size, others: 0, ended: Duration::ZERO, void: false, turns: 0 };
        self.bursts.insert(burst, new);
    }

    /// A request was sent.
    pub fn sent(&mut self) {
        self.under_way = self.under_way.saturating_add(1);
    }

    /// A request is over. `void` if our own side is to blame for what became of it.
    pub fn settle(&mut self, asked: &Asked, void: bool) -> Vec<f64> {
        self.under_way = self.under_way.saturating_sub(1);
        let mut shown = Vec::new();
        if !self.bursts.is_empty() {
            if self.records.len() >= MAX_RECORDS {
                // Those that only wait for others have all that they need most.
                shown = self.close(|burst| burst.left == 0);
                if self.records.len() >= MAX_RECORDS {
                    self.records.pop_front();
                }
            }
            let mut record = *asked;
            if let Some(burst) = asked.burst.and_then(|name| self.bursts.get(&name)) {
                // Who refuses at once would otherwise seem to have nothing to do, and could take turns with a neighbour
                // on the same hardware.
                if asked.units <= 0.0 {
                    let due = asked.started.saturating_add(burst.promise.per_request);
                    record.ended = record.ended.max(due);
                }
            }
            self.records.push_back(record);
        }
        for burst in self.bursts.values_mut().filter(|burst| burst.left == 0) {
            if asked.started <= burst.ended {
                burst.others = burst.others.saturating_sub(1);
            }
        }
        if let Some(burst) = asked.burst.and_then(|name| self.bursts.get_mut(&name)) {
            burst.void |= void;
            burst.ended = burst.ended.max(asked.ended);
            burst.one_less(self.under_way);
        }
        shown.extend(self.close_what_is_over());
        shown
    }

    /// A request that was sent came to nothing that counts.
    pub fn release(&mut self) -> Vec<f64> {
        self.under_way = self.under_way.saturating_sub(1);
        self.close_what_is_over()
    }

    /// A period ends. Bursts go on into the next one, but not beyond it: a request that got lost must not keep them
    /// open.
    pub fn turn(&mut self) -> Vec<f64> {
        for burst in self.bursts.values_mut() {
            burst.turns += 1;
        }
        self.close(|burst| burst.turns >= MAX_TURNS)
    }

    /// Whether there is nothing to remember.
    pub fn is_idle(&self) -> bool {
        self.under_way == 0 && self.bursts.is_empty()
    }

    fn close_what_is_over(&mut self) -> Vec<f64> {
        let under_way = self.under_way;
        self.close(|burst| burst.left == 0 && burst.others.min(under_way) == 0)
    }

    fn close(&mut self, which: impl Fn(&Burst) -> bool) -> Vec<f64> {
        let over: Vec<_> = self.bursts.extract_if(.., |_, burst| which(burst)).collect();
        let records = self.records.make_contiguous();
        let shown = over
            .into_iter()
            .filter(|(_, burst)| !burst.void)
            .filter_map(|(name, burst)| {
                let Promise { volume, seconds, .. } = burst.promise;
                let shown = shown_rate(records, name)? * seconds;
                (!shown.is_nan()).then(|| shown.min(volume).max(0.0))
            })
            .collect();
        if self.bursts.is_empty() {
            self.records = VecDeque::new();
        }
        shown
    }
}

impl Burst {
    fn one_less(&mut self, under_way: u32) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        if self.left == 0 {
            self.others = under_way;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(from_ms: u64, to_ms: u64, units: f64, burst: Option<u32>) -> Asked {
        let [started, ended] = [from_ms, to_ms].map(Duration::from_millis);
        Asked { started, ended, units, burst }
    }

    const PROMISE: Promise =
        Promise { volume: 1_000.0, seconds: 100.0, per_request: Duration::from_secs(1) };

    #[test]
    fn a_rate_is_units_per_second_of_busy_time() {
        let requests = [
            asked(0, 2_000, 30.0, Some(1)),
            asked(1_000, 3_000, 30.0, Some(1)),
            // An idle second does not count.
            asked(4_000, 5_000, 20.0, Some(1)),
            // Nor does anything outside.
            asked(9_000, 9_500, 1_000.0, None),
        ];
        assert_eq!(shown_rate(&requests, 1), Some(20.0));
        assert_eq!(shown_rate(&requests, 2), None);
    }

    #[test]
    fn other_answers_count_as_far_as_they_fall_into_the_busy_time() {
        let requests = [
            asked(1_000, 2_000, 10.0, Some(1)),
            asked(0, 4_000, 40.0, None),
            asked(1_500, 2_500, 6.0, Some(2)),
        ];
        assert_eq!(shown_rate(&requests, 1), Some(10.0 + 10.0 + 3.0));
    }

    #[test]
    fn a_request_that_comes_to_nothing_is_busy_as_long_as_it_took() {
        let requests = [asked(0, 1_000, 10.0, Some(1)), asked(1_000, 5_000, 0.0, Some(1))];
        assert_eq!(shown_rate(&requests, 1), Some(2.0));
    }

    #[test]
    fn without_busy_time_there_is_no_rate() {
        assert_eq!(shown_rate(&[asked(5, 5, 10.0, Some(1)), asked(9, 3, 1.0, Some(1))], 1), None);
    }

    #[test]
    fn a_burst_is_over_when_its_last_request_is() {
        let mut exams = Exams::default();
        exams.plan(7, 3, PROMISE);
        exams.sent();
        exams.sent();
        exams.sent();
        assert!(exams.settle(&asked(0, 2_000, 4.0, Some(7)), false).is_empty());
        assert!(exams.settle(&asked(0, 4_000, 4.0, Some(7)), false).is_empty());
        // 8 units in 4 s, and a period of 100 s.
        assert_eq!(exams.settle(&asked(3_000, 3_000, 0.0, Some(7)), false), [200.0]);
        assert!(exams.is_idle());
    }

    #[test]
    fn who_refuses_while_it_has_nothing_to_do_shows_what_it_serves_of_the_whole_burst() {
        let mut exams = Exams::default();
        exams.plan(1, 4, PROMISE);
        let mut shown = Vec::new();
        // Two of four requests, a second apart, are answered within their second; the others are refused at once.
        for (second, units) in [(0, 10.0), (1, 0.0), (2, 10.0), (3, 0.0)] {
            exams.sent();
            let ended = if units > 0.0 { 1_000 } else { 1 };
            shown.extend(
                exams.settle(&asked(second * 1_000, second * 1_000 + ended, units, Some(1)), false),
            );
        }
        assert_eq!(shown, [500.0]);
    }

    #[test]
    fn no_burst_shows_more_than_was_promised() {
        let mut exams = Exams::default();
        exams.plan(1, 1, PROMISE);
        assert_eq!(exams.settle(&asked(0, 1_000, 1e9, Some(1)), false), [1_000.0]);
    }

    #[test]
    fn answers_that_take_longer_than_the_burst_are_waited_for() {
        let mut exams = Exams::default();
        exams.plan(1, 1, PROMISE);
        for _ in 0..3 {
            exams.sent();
        }
        assert!(exams.settle(&asked(0, 2_000, 2.0, Some(1)), false).is_empty());
        assert!(exams.settle(&asked(1_000, 3_000, 2.0, None), false).is_empty());
        // One that began later says nothing about the burst.
        exams.sent();
        assert!(exams.settle(&asked(2_500, 2_700, 9.0, None), false).is_empty());
        assert_eq!(exams.release(), [150.0]);
    }

    #[test]
    fn a_burst_that_we_spoiled_shows_nothing() {
        let mut exams = Exams::default();
        exams.plan(1, 2, PROMISE);
        assert!(exams.settle(&asked(0, 2_000, 0.0, Some(1)), true).is_empty());
        assert!(exams.settle(&asked(0, 2_000, 2.0, Some(1)), false).is_empty());
        assert!(exams.is_idle());
    }

    #[test]
    fn a_lost_request_does_not_keep_a_burst_open() {
        let mut exams = Exams::default();
        exams.plan(1, 2, PROMISE);
        exams.plan(2, 2, PROMISE);
        assert!(exams.settle(&asked(0, 2_000, 2.0, Some(1)), false).is_empty());
        assert!(exams.turn().is_empty());
        assert_eq!(exams.turn(), [100.0]);
        assert!(exams.is_idle());
    }

    #[test]
    fn only_so_many_requests_are_remembered() {
        let mut exams = Exams::default();
        exams.settle(&asked(0, 1, 1.0, None), false);
        assert!(exams.records.is_empty());
        exams.plan(1, 1, PROMISE);
        exams.plan(2, 1, PROMISE);
        // One gets lost, so both bursts' ends have to be waited for.
        exams.sent();
        exams.sent();
        assert!(exams.settle(&asked(0, 1_000, 1.0, Some(1)), false).is_empty());
        let mut shown = Vec::new();
        for at in 0..5_000 {
            exams.sent();
            shown.extend(exams.settle(&asked(2_000 + at, 2_001 + at, 1.0, None), false));
        }
        assert_eq!(shown, [100.0]);
        assert_eq!(exams.records.len(), MAX_RECORDS);
    }

    fn any_asked() -> impl Strategy<Value = Asked> {
        (0..200_u64, 0..200_u64, -5.0..500.0_f64, prop::option::of(0..3_u32))
            .prop_map(|(from, to, units, burst)| asked(from, to, units, burst))
    }

    proptest! {
        #[test]
        fn a_rate_is_between_nothing_and_everything(
            requests in prop::collection::vec(any_asked(), 0..40),
        ) {
            let seconds: f64 =
                busy(&requests, 1).iter().map(|(from, to)| (*to - *from).as_secs_f64()).sum();
            match shown_rate(&requests, 1) {
                None => prop_assert_eq!(seconds, 0.0),
                Some(rate) => {
                    let all: f64 = requests.iter().map(|asked| asked.units.max(0.0)).sum();
                    let own: f64 = requests
                        .iter()
                        .filter(|asked| asked.burst == Some(1))
                        .map(|asked| asked.units.max(0.0))
                        .sum();
                    prop_assert!(rate >= own / seconds * (1.0 - 1e-9));
                    prop_assert!(rate <= all / seconds * (1.0 + 1e-9));
                }
            }
        }

        #[test]
        fn one_more_answer_never_lowers_a_rate(
            mut requests in prop::collection::vec(any_asked(), 0..20), more in any_asked(),
        ) {
            let before = shown_rate(&requests, 1);
            requests.push(Asked { burst: None, ..more });
            let after = shown_rate(&requests, 1);
            prop_assert_eq!(before.is_some(), after.is_some());
            prop_assert!(after >= before);
        }

        #[test]
        fn a_rate_does_not_depend_on_the_order(
            requests in prop::collection::vec(any_asked(), 1..20),
        ) {
            let there = shown_rate(&requests, 1).unwrap_or(-1.0);
            let reversed: Vec<_> = requests.iter().rev().copied().collect();
            let back = shown_rate(&reversed, 1).unwrap_or(-1.0);
            prop_assert!((there - back).abs() <= 1e-9 * there.abs());
        }

        #[test]
        fn no_numbers_make_a_rate_that_is_none(
            requests in prop::collection::vec(
                (any::<[Duration; 2]>(), prop::num::f64::ANY, prop::option::of(0..2_u32)),
                0..20,
            ),
        ) {
            let requests: Vec<_> = requests
                .into_iter()
                .map(|([started, ended], units, burst)| Asked { started, ended, units, burst })
                .collect();
            if let Some(rate) = shown_rate(&requests, 1) {
                prop_assert!(rate.is_finite() && rate >= 0.0);
            }
        }

        #[test]
        fn bursts_end_once_and_within_what_was_promised(
            sizes in prop::collection::vec(1..5_u32, 1..4),
            order in prop::collection::vec(
                (any::<prop::sample::Index>(), any_asked(), 0..4_u32), 60,
            ),
        ) {
            let mut exams = Exams::default();
            let mut left = sizes.clone();
            for (name, size) in (0..).zip(&sizes) {
                exams.plan(name, *size, PROMISE);
            }
            let mut shown = Vec::new();
            for (which, asked, what) in order {
                let name = which.index(left.len());
                let burst = (left[name] > 0).then_some(name as u32);
                left[name] = left[name].saturating_sub(1);
                exams.sent();
                shown.extend(exams.settle(&Asked { burst, ..asked }, what == 1));
            }
            prop_assert!(shown.len() <= sizes.len());
            prop_assert!(shown.iter().all(|shown| (0.0..=PROMISE.volume).contains(shown)));
            shown.extend(exams.turn());
            exams.turn();
            prop_assert!(exams.is_idle());
        }
    }
}
