//! How long to wait for one miner before the next is tried, and when to ask a second one meanwhile. Pure.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::live::Spread;

/// A miner is given up this many deviations after its mean: RFC 6298's choice for a retransmission.
const GIVE_UP: f32 = 4.0;
/// A second miner is asked this many deviations after the mean of all: about the slowest twentieth.
const HEDGE: f32 = 2.0;
/// The least that a miner is given, whatever its record: one that is usually quick may have to read a long prompt.
const LEAST: Duration = Duration::from_millis(500);
/// No second miner is asked sooner.
const LEAST_HEDGE: Duration = Duration::from_millis(50);
/// The most of what is left that one miner may use up, if it is not the last to be tried.
const PART: f64 = 0.6;
/// Requests for each one that may be asked a second time: what hedging costs miners is bounded.
const REQUESTS_PER_HEDGE: u32 = 10;
/// Hedges that may be saved up.
const SAVED: u32 = 10;

/// How much of the time that is `left` until a user's first token one miner gets; `whole` is the task's time for that.
///
/// Who gets nearly the whole time gets the whole.
pub(super) fn time_for(
    known: Option<Spread>,
    left: Duration,
    whole: Duration,
    last: bool,
) -> Duration {
    if last {
        return if left >= whole.mul_f64(0.9) { whole } else { left };
    }
    let most = left.mul_f64(PART);
    match known {
        Some(spread) => spread.late(GIVE_UP).max(LEAST).min(most),
        None => most,
    }
}

/// After which time without a first token a second miner is asked, by what is known of all miners of the task. `None`
/// while nothing is.
pub(super) fn hedge_after(of_all: Option<Spread>) -> Option<Duration> {
    of_all.map(|spread| spread.late(HEDGE).max(LEAST_HEDGE))
}

/// How many requests may still be asked a second time.
#[derive(Debug, Default)]
pub(super) struct Hedges {
    /// In parts of which [`REQUESTS_PER_HEDGE`] make one.
    saved: AtomicU32,
}

impl Hedges {
    /// One more request has come.
    pub(super) fn earn(&self) {
        let saved = self.saved.load(Ordering::Relaxed);
        if saved < SAVED * REQUESTS_PER_HEDGE {
            self.saved.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether one may be asked a second time now; if so it is counted.
    pub(super) fn spend(&self) -> bool {
        let take = |saved: u32| saved.checked_sub(REQUESTS_PER_HEDGE);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const QUICK: Option<Spread> = Some(Spread { mean: 0.25, deviation: 0.25 });

    #[test]
    fn who_is_usually_quick_gets_less_time_and_nobody_all_but_the_last() {
        let whole = ms(10_000);
        assert_eq!(time_for(QUICK, whole, whole, false), ms(1_250));
        assert_eq!(time_for(None, whole, whole, false), ms(6_000));
        assert_eq!(time_for(QUICK, ms(1_000), whole, false), ms(600));
        assert_eq!(time_for(QUICK, ms(1_000), whole, true), ms(1_000));
        assert_eq!(time_for(QUICK, ms(9_500), whole, true), whole);
        let instant = Some(Spread { mean: 0.001, deviation: 0.0 });
        assert_eq!(time_for(instant, whole, whole, false), LEAST);
    }

    #[test]
    fn the_slow_tail_is_hedged_once_something_is_known() {
        assert_eq!(hedge_after(None), None);
        assert_eq!(hedge_after(QUICK), Some(ms(750)));
        assert_eq!(hedge_after(Some(Spread { mean: 0.001, deviation: 0.001 })), Some(LEAST_HEDGE));
    }

    #[test]
    fn one_request_in_ten_is_asked_a_second_time_at_most() {
        let hedges = Hedges::default();
        assert!(!hedges.spend());
        let spent = (0..1000)
            .filter(|_| {
                hedges.earn();
                hedges.spend()
            })
            .count();
        assert_eq!(spent, 100);
        (0..1000).for_each(|_| hedges.earn());
        let burst = (0..1000).filter(|_| hedges.spend()).count();
        assert_eq!(burst, SAVED as usize);
    }
}
