//! How much of its share of the capacity each validator has used.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::capacity::{Declaration, Declared};
use common::{Hotkey, TaskId, Volume};

/// How much earlier than its end a validator's window may be followed by the next one, as a part of the period.
/// Validators ask for the capacity at the start of each scoring period, and no two periods are equally long. The next one
/// then ends as late as if it had not begun early, so that asking often gives nobody more than its share.
const EARLY: u32 = 5;

/// The use of one period, by validator and task.
///
/// Each validator has a window of its own: it starts with the validator's question for the capacity, or with its first
/// request, so that it is in step with the validator's scoring periods.
///
/// Tokens count when they are written. A request is admitted as long as any of the share is left, so a validator can
/// use more than its share by at most what the task's concurrency lets it ask for at once.
#[derive(Debug)]
pub(crate) struct Ledger {
    period: Duration,
    capacities: BTreeMap<TaskId, Volume>,
    windows: Mutex<HashMap<Hotkey, Window>>,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    used: BTreeMap<TaskId, u64>,
}

/// The share is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsedUp {
    /// Until the window ends.
    pub(crate) retry_after: Duration,
}

impl Ledger {
    pub(crate) fn new(period: Duration, capacities: BTreeMap<TaskId, Volume>) -> Self {
        Self { period, capacities, windows: Mutex::default() }
    }

    /// What a validator with this share is told. Starts its next window, if the last is (nearly) over.
    pub(crate) fn declare(&self, who: &Hotkey, share: f64, now: Instant) -> Declaration {
        self.window(&mut self.lock(), who, self.period - self.period / EARLY, now);
        let tasks = self.capacities.iter().map(|(task, capacity)| {
            // The share is a finite part of a finite number.
            let volume = Volume::try_from((capacity.get() * share).floor()).unwrap_or(Volume::ZERO);
            (task.clone(), Declared { volume })
        });
        Declaration { period_s: self.period.as_secs_f64(), tasks: tasks.collect() }
    }

    /// Whether a validator with this share may send one more request.
    pub(crate) fn admit(
        &self,
        who: &Hotkey,
        task: &TaskId,
        share: f64,
        now: Instant,
    ) -> Result<(), UsedUp> {
        let capacity = self.capacities.get(task).map_or(0.0, |capacity| capacity.get());
        let mut windows = self.lock();
        let window = self.window(&mut windows, who, self.period, now);
        let used = window.used.get(task).copied().unwrap_or(0);
        if (used as f64) < (capacity * share).floor() {
            return Ok(());
        }
        Err(UsedUp { retry_after: (window.start + self.period).saturating_duration_since(now) })
    }

    /// Counts tokens that were written for a validator.
    pub(crate) fn record(&self, who: &Hotkey, task: &TaskId, tokens: u64, now: Instant) {
        let mut windows = self.lock();
        let window = self.window(&mut windows, who, self.period, now);
        *window.used.entry(task.clone()).or_default() += tokens;
    }

    /// Tokens written in the validators' current windows, and the capacity.
    pub(crate) fn use_of(&self, task: &TaskId, now: Instant) -> (u64, f64) {
        let windows = self.lock();
        let current =
            windows.values().filter(|window| now.duration_since(window.start) < self.period);
        let used = current.filter_map(|window| window.used.get(task)).sum();
        (used, self.capacities.get(task).map_or(0.0, |capacity| capacity.get()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Hotkey, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The validator's window, a new one if the last is at least `age` old.
    fn window<'a>(
        &self,
        windows: &'a mut HashMap<Hotkey, Window>,
        who: &Hotkey,
        age: Duration,
        now: Instant,
    ) -> &'a mut Window {
        let new = |start| Window { start, used: BTreeMap::new() };
        if !windows.contains_key(who) {
            // Only permitted validators come here, and those that left are forgotten.
            windows.retain(|_, window| now.duration_since(window.start) < 2 * self.period);
        }
        let window = windows.entry(*who).or_insert_with(|| new(now));
        if now.duration_since(window.start) >= age {
            *window = new(now.max(window.start + self.period));
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::tests::hotkey;

    const PERIOD: Duration = Duration::from_secs(100);

    fn task() -> TaskId {
        "chat-demo".parse().unwrap()
    }

    fn ledger() -> Ledger {
        Ledger::new(PERIOD, [(task(), Volume::from(1000))].into())
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn each_validator_is_told_and_held_to_its_own_share() {
        let (ledger, now) = (ledger(), Instant::now());
        let (big, small) = (hotkey(1), hotkey(2));
        assert_eq!(ledger.declare(&big, 0.75, now).tasks[&task()].volume, Volume::from(750));
        ledger.record(&big, &task(), 750, now);
        ledger.record(&small, &task(), 249, now);
        let refused = ledger.admit(&big, &task(), 0.75, after(now, 40));
        assert_eq!(refused, Err(UsedUp { retry_after: Duration::from_secs(60) }));
        assert_eq!(ledger.admit(&small, &task(), 0.25, after(now, 40)), Ok(()));
        assert_eq!(ledger.use_of(&task(), after(now, 40)), (999, 1000.0));
    }

    #[test]
    fn a_window_ends_after_a_period_or_a_little_earlier_when_the_validator_starts_its_next() {
        let (ledger, now, who) = (ledger(), Instant::now(), hotkey(1));
        ledger.record(&who, &task(), 1000, now);
        ledger.declare(&who, 1.0, after(now, 79));
        assert!(
            ledger.admit(&who, &task(), 1.0, after(now, 79)).is_err(),
            "asking does not renew the share"
        );
        ledger.declare(&who, 1.0, after(now, 80));
        assert!(ledger.admit(&who, &task(), 1.0, after(now, 80)).is_ok());
        ledger.record(&who, &task(), 1000, after(now, 80));
        let refused = ledger.admit(&who, &task(), 1.0, after(now, 85));
        assert_eq!(refused, Err(UsedUp { retry_after: Duration::from_secs(115) }));
        assert!(ledger.admit(&who, &task(), 1.0, after(now, 199)).is_err());
        assert!(ledger.admit(&who, &task(), 1.0, after(now, 200)).is_ok());
    }

    #[test]
    fn asking_often_gives_no_more_than_one_share_per_period() {
        let (ledger, now, who) = (ledger(), Instant::now(), hotkey(1));
        let mut written = 0;
        for second in 0..1000 {
            ledger.declare(&who, 1.0, after(now, second));
            while ledger.admit(&who, &task(), 1.0, after(now, second)).is_ok() {
                ledger.record(&who, &task(), 100, after(now, second));
                written += 100;
            }
        }
        assert_eq!(written, 11 * 1000, "ten periods, and the one that begins early");
    }

    #[test]
    fn unknown_tasks_and_shares_below_one_token_are_never_admitted() {
        let (ledger, now, who) = (ledger(), Instant::now(), hotkey(1));
        assert!(ledger.admit(&who, &"other".parse().unwrap(), 1.0, now).is_err());
        assert!(ledger.admit(&who, &task(), 0.000_1, now).is_err());
    }
}
