//! What requests teach about a miner: how long it takes to its first token, how often it fails, how much it has in hand.
//!
//! All of it is in atomics: every request reads and writes it, and a lost update changes nothing that matters.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// After this many failures in a row a miner is left alone for a while.
const TRIPPED: u32 = 3;
/// The first pause; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A miner that was left alone gets one request; this long no other one, unless that succeeds.
const PROBE: Duration = Duration::from_secs(2);
/// A miner that said that it is busy is left alone for this long.
const BUSY: Duration = Duration::from_millis(500);
/// Weight of the newest observation of success.
const LEARNING: f32 = 0.1;

/// What is known of a miner's work on one task.
#[derive(Debug)]
pub(super) struct Live {
    first_token: Estimate,
    /// Share of requests that succeed, as bits of an f32, newer ones counting more.
    success: AtomicU32,
    in_flight: AtomicU32,
    failures: AtomicU32,
    /// Left alone until then, in microseconds of the clock of which the callers tell the time.
    closed_until: AtomicU64,
    /// Tokens that users' requests were given since the last snapshot.
    used: AtomicU64,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            first_token: Estimate::default(),
            success: AtomicU32::new(1.0_f32.to_bits()),
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            closed_until: AtomicU64::new(0),
            used: AtomicU64::new(0),
        }
    }
}

impl Live {
    pub(super) fn first_token(&self) -> Option<Spread> {
        self.first_token.get()
    }

    /// Share of requests that succeed, `0.0..=1.0`.
    pub(super) fn success(&self) -> f32 {
        f32::from_bits(self.success.load(Ordering::Relaxed))
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self, now: Duration) -> bool {
        self.closed_until.load(Ordering::Relaxed) > micros(now)
    }

    /// A request is on its way. If the miner was left alone until now, it is the one that tries it.
    pub(super) fn begin(&self, now: Duration) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if self.failures.load(Ordering::Relaxed) >= TRIPPED {
            self.closed_until.store(micros(now + PROBE), Ordering::Relaxed);
        }
    }

    /// The request is over, however it ended.
    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn first_token_after(&self, took: Duration) {
        self.first_token.observe(took);
    }

    pub(super) fn succeeded(&self, tokens: u32) {
        self.failures.store(0, Ordering::Relaxed);
        self.closed_until.store(0, Ordering::Relaxed);
        self.used.fetch_add(tokens.into(), Ordering::Relaxed);
        self.learn(1.0);
    }

    pub(super) fn failed(&self, now: Duration) {
        let failures = self.failures.load(Ordering::Relaxed).saturating_add(1);
        self.failures.store(failures, Ordering::Relaxed);
        self.learn(0.0);
        if let Some(beyond) = failures.checked_sub(TRIPPED) {
            let pause = FIRST_PAUSE.saturating_mul(1 << beyond.min(16)).min(LONGEST_PAUSE);
            self.closed_until.store(micros(now + pause), Ordering::Relaxed);
        }
    }

    /// It said that it is busy, which is no failure.
    pub(super) fn busy(&self, now: Duration) {
        self.closed_until.fetch_max(micros(now + BUSY), Ordering::Relaxed);
    }

    /// A new period: its volume is whole again.
    pub(super) fn turn(&self) {
        self.used.store(0, Ordering::Relaxed);
    }

    fn learn(&self, success: f32) {
        let known = self.success();
        let learnt = known + LEARNING * (success - known);
        self.success.store(learnt.to_bits(), Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A mean, and how far observations are from it on average, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) mean: f32,
    pub(super) deviation: f32,
}

impl Spread {
    /// The mean and so many deviations more.
    pub(super) fn late(&self, deviations: f32) -> Duration {
        Duration::try_from_secs_f32(self.mean + deviations * self.deviation)
            .unwrap_or(Duration::MAX)
    }
}

/// A running estimate of a time and of its spread, by the formulas of RFC 6298 for round-trip times: gain 1/8 for the
/// mean, 1/4 for the deviation, the first observation counting for both.
#[derive(Debug, Default)]
pub(super) struct Estimate(AtomicU64);

impl Estimate {
    pub(super) fn get(&self) -> Option<Spread> {
        let bits = self.0.load(Ordering::Relaxed);
        let part = |bits: u64| f32::from_bits(bits as u32);
        (bits != 0).then(|| Spread { mean: part(bits >> 32), deviation: part(bits) })
    }

    pub(super) fn observe(&self, took: Duration) {
        let took = took.as_secs_f32().max(1e-6);
        let Spread { mean, deviation } = match self.get() {
            None => Spread { mean: took, deviation: took / 2.0 },
            Some(Spread { mean, deviation }) => Spread {
                mean: mean + (took - mean) / 8.0,
                deviation: deviation + ((took - mean).abs() - deviation) / 4.0,
            },
        };
        let bits = u64::from(mean.to_bits()) << 32 | u64::from(deviation.to_bits());
        self.0.store(bits, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_miner_that_keeps_failing_is_left_alone_longer_and_longer() {
        let live = Live::default();
        (0..TRIPPED - 1).for_each(|_| live.failed(s(10)));
        assert!(!live.is_closed(s(10)));
        live.failed(s(10));
        assert!(live.is_closed(s(10)) && !live.is_closed(s(11)));
        live.failed(s(20));
        assert!(live.is_closed(s(21)) && !live.is_closed(s(22)));
        (0..100).for_each(|_| live.failed(s(30)));
        assert!(live.is_closed(s(89)) && !live.is_closed(s(90)));
        live.succeeded(1);
        assert!(!live.is_closed(s(30)));
    }

    #[test]
    fn one_request_at_a_time_tries_a_miner_that_was_left_alone() {
        let live = Live::default();
        (0..TRIPPED).for_each(|_| live.failed(s(10)));
        live.begin(s(11));
        assert!(live.is_closed(s(12)) && !live.is_closed(s(13)));
        live.end();
        assert_eq!(live.in_flight(), 0);
    }

    #[test]
    fn a_busy_miner_gets_a_moment_and_keeps_its_name() {
        let live = Live::default();
        live.busy(s(1));
        assert!(live.is_closed(s(1)) && !live.is_closed(s(2)));
        assert_eq!(live.success(), 1.0);
    }

    #[test]
    fn reliability_follows_what_happens() {
        let live = Live::default();
        (0..20).for_each(|_| live.failed(s(1)));
        assert!(live.success() < 0.2);
        (0..40).for_each(|_| live.succeeded(3));
        assert!(live.success() > 0.95);
        assert_eq!(live.used(), 120);
        live.turn();
        assert_eq!(live.used(), 0);
    }

    proptest! {
        #[test]
        fn estimates_stay_within_what_was_observed(times in prop::collection::vec(1..100_000_u64, 1..60)) {
            let estimate = Estimate::default();
            prop_assert_eq!(estimate.get(), None);
            for time in &times {
                estimate.observe(Duration::from_millis(*time));
            }
            let spread = estimate.get().unwrap();
            let (least, most) = (*times.iter().min().unwrap() as f32, *times.iter().max().unwrap() as f32);
            let mean = spread.mean * 1e3;
            prop_assert!(mean >= least * 0.999 && mean <= most * 1.001, "{:?}", spread);
            prop_assert!(spread.deviation >= 0.0 && spread.deviation * 1e3 <= most, "{:?}", spread);
        }
    }
}
