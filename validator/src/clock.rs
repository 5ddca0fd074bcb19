//! The one place that reads the clocks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock and the steady one, read together when the process first asked for the time.
static ANCHOR: OnceLock<(i64, Instant)> = OnceLock::new();
/// By how much the wall clock is behind what is stored already, in milliseconds.
static BEHIND: AtomicI64 = AtomicI64::new(0);

fn anchor() -> (i64, Instant) {
    *ANCHOR.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (millis(since), Instant::now())
    })
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970, as the wall clock had it when the process started and steady from then on: ages and
/// retention must not change because somebody sets the clock.
pub fn unix_ms() -> i64 {
    anchor().0.saturating_add(millis(uptime())).saturating_add(BEHIND.load(Ordering::Relaxed))
}

/// Moves [`unix_ms`] forward so that it is at least `ms` from now on. Returns by how much it was moved.
///
/// For the start: evidence of an earlier run is never from the future, even if the clock was set back meanwhile.
pub fn not_before(ms: i64) -> Duration {
    let behind = ms.saturating_sub(unix_ms()).max(0);
    BEHIND.fetch_add(behind, Ordering::Relaxed);
    Duration::from_millis(u64::try_from(behind).unwrap_or(0))
}

/// Since the process first asked for the time. Steady; fit for differences only.
pub fn uptime() -> Duration {
    anchor().1.elapsed()
}

/// Nanoseconds since 1970 by the wall clock as it is set now: what others compare with their own.
pub fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_lies_before_what_is_stored_and_is_not_moved_without_need() {
        assert_eq!(not_before(unix_ms() - 1), Duration::ZERO);
        // All tests of the process share the clock, so it is moved by little.
        let stored = unix_ms() + 1_000;
        assert!(not_before(stored) > Duration::ZERO);
        assert!(unix_ms() >= stored);
    }
}
