//! Notices when this process is held up, so that miners are not blamed for it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How often the runtime is asked to wake the monitor.
const TICK: Duration = Duration::from_millis(100);
/// How long a delay is remembered: longer than any time limit of a task should be.
const REMEMBERED: Duration = Duration::from_secs(600);
/// A time limit that ran out says nothing about the miner if the process was held up for more than this part of it.
const PART_OF_LIMIT: u32 = 10;

/// Whether a time limit ran out on our own side.
pub fn is_ours(held_up: Duration, limit: Duration) -> bool {
    held_up > limit / PART_OF_LIMIT
}

/// Whether an answer that took so long says more about us than about the miner.
///
/// A delay shorter than a tick is seen only by chance, so it does not count.
pub fn distorts(held_up: Duration, took: Duration) -> bool {
    held_up >= TICK && is_ours(held_up, took)
}

/// How late the ticks of the last minutes came.
#[derive(Debug, Default)]
pub struct Lags(Mutex<Window>);

/// The latest ticks: later ones that were later than an earlier one push that out, so lateness falls from front to back.
#[derive(Debug, Default)]
struct Window {
    /// When a late tick came, and by how much.
    late: VecDeque<(Instant, Duration)>,
    /// When the next tick should come.
    due: Option<Instant>,
}

impl Window {
    fn tick(&mut self, due: Instant, now: Instant) {
        let lateness = now.saturating_duration_since(due);
        while self.late.back().is_some_and(|(_, earlier)| *earlier <= lateness) {
            self.late.pop_back();
        }
        self.late.push_back((now, lateness));
        while self.late.front().is_some_and(|(at, _)| now.duration_since(*at) > REMEMBERED) {
            self.late.pop_front();
        }
    }

    fn worst_since(&self, start: Instant, now: Instant) -> Duration {
        let seen =
            self.late.iter().find(|(at, _)| *at >= start).map_or(Duration::ZERO, |(_, by)| *by);
        // After a delay a time limit may be looked at before the tick that tells of it.
        let overdue = self.due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        seen.max(overdue)
    }
}

impl Lags {
    /// The longest that the process was held up in one go since `start`.
    pub fn worst_since(&self, start: Instant) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).worst_since(start, Instant::now())
    }

    /// As if the process had just been held up for so long.
    #[cfg(test)]
    pub(crate) fn held_up(&self, by: Duration) {
        let now = Instant::now();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tick(now - by, now);
    }

    /// Watches until it is told to stop.
    pub async fn watch(&self, stop: CancellationToken) {
        loop {
            let due = Instant::now() + TICK;
            self.0.lock().unwrap_or_else(PoisonError::into_inner).due = Some(due);
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep_until(due) => {}
            }
            self.0.lock().unwrap_or_else(PoisonError::into_inner).tick(due, Instant::now());
        }
        // Nobody watches any more, so nothing is overdue.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).due = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_tenth_of_the_limit_is_the_line() {
        assert!(!is_ours(ms(500), ms(5_000)));
        assert!(is_ours(ms(501), ms(5_000)));
        assert!(!is_ours(ms(0), ms(0)));
    }

    #[test]
    fn a_short_answer_is_not_distorted_by_what_the_ticks_cannot_see() {
        assert!(!distorts(ms(99), ms(200)));
        assert!(distorts(ms(100), ms(200)));
        assert!(!distorts(ms(500), ms(5_000)));
        assert!(distorts(ms(501), ms(5_000)));
    }

    #[test]
    fn a_tick_that_has_not_come_yet_counts_as_late() {
        let start = Instant::now();
        let window = Window { due: Some(start + ms(100)), ..Window::default() };
        assert_eq!(window.worst_since(start, start + ms(900)), ms(800));
        assert_eq!(window.worst_since(start, start + ms(50)), ms(0));
    }

    #[test]
    fn old_delays_are_forgotten() {
        let start = Instant::now();
        let mut window = Window::default();
        window.tick(start, start + ms(700));
        let later = start + REMEMBERED + ms(1_000);
        window.tick(later, later);
        assert_eq!(window.late.len(), 1);
    }

    proptest! {
        #[test]
        fn the_worst_delay_since_a_moment_is_found(
            lateness in prop::collection::vec(0..1_000_u64, 1..80), from in 0..100_u64,
        ) {
            let start = Instant::now();
            let mut window = Window::default();
            let mut expected = ms(0);
            for (number, late) in (0..).zip(&lateness) {
                let due = start + ms(2_000 * number);
                window.tick(due, due + ms(*late));
                if due + ms(*late) >= start + ms(2_000 * from) {
                    expected = expected.max(ms(*late));
                }
            }
            prop_assert_eq!(window.worst_since(start + ms(2_000 * from), start), expected);
        }
    }
}
