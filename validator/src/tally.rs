//! Running totals of the open scoring period.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{Hotkey, TaskId, Volume};

use crate::exam::{Asked, Exams, Promise};
use crate::plan::Probe;
use crate::scoring::Stretch;
use crate::store::PeriodId;

/// A miner together with one of the tasks it serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContenderId {
    pub hotkey: Hotkey,
    pub task: TaskId,
}

/// What one contender did in one period.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    /// Work it declared for the period, in the task's unit.
    pub declared: f64,
    /// Work it did.
    pub consumed: f64,
    pub served: u32,
    /// Refusals within the declared capacity, and the sum of what they cost: each the unused share of the capacity.
    pub refused_within: u32,
    pub refusal_cost: f64,
    /// Refusals beyond it, which cost nothing.
    pub refused_beyond: u32,
    pub failed: Failures,
    /// What came to nothing on our own side.
    pub void: u32,
    /// The part of the above that users' requests have.
    pub organic_served: u32,
    pub organic_refusal_cost: f64,
    pub organic_failed: u32,
    /// Finished bursts, the sum of the volumes that they have shown, and the sum of the squares.
    pub exams: u32,
    pub shown: f64,
    pub shown_squared: f64,
}

/// Failures by what went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failures {
    /// No connection.
    pub unreachable: u32,
    /// A status that is neither an answer nor a refusal.
    pub bad_status: u32,
    /// No first token, or no end, in time.
    pub too_late: u32,
    /// The stream broke off.
    pub broken: u32,
    /// No answer to this request: garbage, too much, or without a receipt that the miner signed for it.
    pub unusable: u32,
}

impl Failures {
    /// All of them.
    pub fn sum(&self) -> u32 {
        [self.unreachable, self.bad_status, self.too_late, self.broken, self.unusable]
            .into_iter()
            .fold(0, u32::saturating_add)
    }

    fn add(&mut self, more: Self) {
        for (count, more) in [
            (&mut self.unreachable, more.unreachable),
            (&mut self.bad_status, more.bad_status),
            (&mut self.too_late, more.too_late),
            (&mut self.broken, more.broken),
            (&mut self.unusable, more.unusable),
        ] {
            *count = count.saturating_add(more);
        }
    }

    fn count(&mut self, kind: FailureKind) {
        let count = match kind {
            FailureKind::Unreachable => &mut self.unreachable,
            FailureKind::BadStatus => &mut self.bad_status,
            FailureKind::TooLate => &mut self.too_late,
            FailureKind::Broken => &mut self.broken,
            FailureKind::Unusable => &mut self.unusable,
        };
        *count = count.saturating_add(1);
    }
}

/// What went wrong, see [`Failures`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    Unreachable,
    BadStatus,
    TooLate,
    Broken,
    Unusable,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// An answer of so many units.
    Served {
        tokens: u32,
    },
    /// The miner said that it is busy (429).
    Refused,
    Failed(FailureKind),
    /// It came to nothing on our own side, which says nothing about the miner.
    Void,
}

/// A request that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Whether a user asked.
    pub organic: bool,
    /// The burst that it belongs to, as it was planned.
    pub burst: Option<u32>,
    /// Most units that the answer may have, as given to [`Tallies::under_way`].
    pub max_tokens: u32,
    /// From when it was sent until the outcome was known, counted from any origin that all requests have in common.
    pub started: Duration,
    pub ended: Duration,
    pub what: What,
    /// Whether we were held up, so that the times say more about us. The answer counts, its burst shows nothing.
    pub distorted: bool,
}

/// What became of users' requests to one contender in another process, between two moments in Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    pub from_ms: i64,
    pub to_ms: i64,
    pub served: u32,
    /// Units of the answers.
    pub tokens: u64,
    pub refused: u32,
    pub failed: Failures,
    pub void: u32,
}

impl Report {
    /// With what a later one says.
    #[must_use]
    pub fn and(mut self, later: &Self) -> Self {
        self.failed.add(later.failed);
        Self {
            from_ms: self.from_ms.min(later.from_ms),
            to_ms: self.to_ms.max(later.to_ms),
            served: self.served.saturating_add(later.served),
            tokens: self.tokens.saturating_add(later.tokens),
            refused: self.refused.saturating_add(later.refused),
            failed: self.failed,
            void: self.void.saturating_add(later.void),
        }
    }
}

impl Tally {
    /// What it says of users' requests, if there were any.
    pub fn report(&self, from_ms: i64, to_ms: i64) -> Option<Report> {
        let report = Report {
            from_ms,
            to_ms,
            served: self.served,
            tokens: self.consumed as u64,
            refused: self.refused(),
            failed: self.failed,
            void: self.void,
        };
        (report != Report { from_ms, to_ms, ..Report::default() }).then_some(report)
    }

    /// Everything it was asked and that says something about it.
    pub fn asked(&self) -> u32 {
        self.served.saturating_add(self.refused()).saturating_add(self.failed.sum())
    }

    /// All refusals.
    pub fn refused(&self) -> u32 {
        self.refused_within.saturating_add(self.refused_beyond)
    }

    /// The tally of one period, of this length and with this end, as evidence for scoring. What checking finds out is
    /// not in it.
    pub fn stretch(&self, ended_ms: i64, seconds: f64) -> Stretch {
        // Who declares nothing is away: coming only when weights are set must not look like having been there.
        let (seconds, idle_seconds) = match self.asked() {
            _ if self.declared <= 0.0 => (0.0, 0.0),
            0 => (0.0, seconds),
            _ => (seconds, 0.0),
        };
        Stretch {
            at_ms: ended_ms,
            seconds,
            idle_seconds,
            declared: self.declared,
            consumed: self.consumed,
            served: self.served.into(),
            refused_within: self.refused_within.into(),
            refusal_cost: self.refusal_cost,
            refused_beyond: self.refused_beyond.into(),
            failed: self.failed.sum().into(),
            organic_served: self.organic_served.into(),
            organic_refusal_cost: self.organic_refusal_cost,
            organic_failed: self.organic_failed.into(),
            exams: self.exams.into(),
            shown: self.shown,
            shown_squared: self.shown_squared,
            ..Stretch::default()
        }
    }

    /// `under_way`: most units that requests under way may take, this one's included.
    fn count(&mut self, settled: &Settled, under_way: u64) {
        let organic = u32::from(settled.organic);
        match settled.what {
            What::Served { tokens } => {
                self.served = self.served.saturating_add(1);
                self.organic_served = self.organic_served.saturating_add(organic);
                self.consumed += f64::from(tokens);
            }
            What::Refused => self.refuse(settled.organic, under_way),
            What::Failed(kind) => {
                self.failed.count(kind);
                self.organic_failed = self.organic_failed.saturating_add(organic);
            }
            What::Void => self.void = self.void.saturating_add(1),
        }
    }

    /// The part of the declared capacity that is not used up, `0.0..=1.0`.
    fn unused_share(&self) -> f64 {
        if self.declared > 0.0 {
            ((self.declared - self.consumed) / self.declared).clamp(0.0, 1.0)
        } else {
            0.0
        }
    }

    fn absorb(&mut self, report: &Report, under_way: u64) {
        self.served = self.served.saturating_add(report.served);
        self.organic_served = self.organic_served.saturating_add(report.served);
        self.consumed += report.tokens as f64;
        for _ in 0..report.refused {
            self.refuse(true, under_way);
        }
        self.failed.add(report.failed);
        self.organic_failed = self.organic_failed.saturating_add(report.failed.sum());
        self.void = self.void.saturating_add(report.void);
    }

    fn refuse(&mut self, organic: bool, under_way: u64) {
        if self.consumed + under_way as f64 > self.declared {
            self.refused_beyond = self.refused_beyond.saturating_add(1);
            return;
        }
        self.refused_within = self.refused_within.saturating_add(1);
        let cost = self.unused_share();
        self.refusal_cost += cost;
        self.organic_refusal_cost += if organic { cost } else { 0.0 };
    }

    fn count_exams(&mut self, shown: &[f64]) {
        for shown in shown {
            self.exams = self.exams.saturating_add(1);
            self.shown += shown;
            self.shown_squared += shown * shown;
        }
    }
}

/// The totals of all contenders, shared by everyone who asks miners.
#[derive(Debug, Default)]
pub struct Tallies {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// `None` before the first period.
    period: Option<PeriodId>,
    /// Its length.
    seconds: f64,
    tallies: BTreeMap<ContenderId, Tally>,
    /// Those that differ from what is stored.
    changed: BTreeSet<ContenderId>,
    /// Users' requests of this period that have not yet stood in for a probe.
    organic: BTreeMap<ContenderId, u32>,
    /// What goes on from one period into the next, even for somebody who is no contender any more.
    work: BTreeMap<ContenderId, Work>,
}

#[derive(Debug, Default)]
struct Work {
    /// Most units that the requests under way may take.
    under_way: u64,
    exams: Exams,
}

impl Tallies {
    /// A request was sent that may take up to `max_tokens` units. [`settle`](Self::settle) or
    /// [`release`](Self::release) must follow with the same number, or later refusals look as if they were beyond the
    /// declared capacity.
    pub fn under_way(&self, id: &ContenderId, max_tokens: u32) {
        let mut open = self.lock();
        let work = open.work.entry(id.clone()).or_default();
        work.under_way = work.under_way.saturating_add(max_tokens.into());
        work.exams.sent();
    }

    /// Counts a request that is over, and says in which period: the one in which its outcome is known.
    ///
    /// Somebody who is no contender any more, because a new period has begun without it, is not counted.
    pub fn settle(&self, id: &ContenderId, settled: &Settled) -> Option<PeriodId> {
        let mut open = self.lock();
        let open = &mut *open;
        let own = u64::from(settled.max_tokens);
        let mut under_way = own;
        let mut shown = Vec::new();
        if let Some(work) = open.work.get_mut(id) {
            under_way = work.under_way.max(own);
            work.under_way = work.under_way.saturating_sub(own);
            let units = match settled.what {
                What::Served { tokens } => f64::from(tokens),
                What::Refused | What::Failed(_) | What::Void => 0.0,
            };
            let Settled { started, ended, burst, what, distorted, .. } = *settled;
            let void = what == What::Void || distorted;
            shown = work.exams.settle(&Asked { started, ended, units, burst }, void);
        }
        open.forget_if_idle(id);
        let tally = open.tallies.get_mut(id)?;
        tally.count(settled, under_way);
        tally.count_exams(&shown);
        if settled.organic && settled.what != What::Void {
            let organic = open.organic.entry(id.clone()).or_default();
            *organic = organic.saturating_add(1);
        }
        open.changed.insert(id.clone());
        open.period
    }

    /// Counts what became of users' requests in another process, between these times.
    ///
    /// A refusal counts by what is known here to be used up. For bursts that are open, the report is one long answer.
    pub fn absorb(&self, id: &ContenderId, report: &Report, started: Duration, ended: Duration) {
        let mut open = self.lock();
        let open = &mut *open;
        let (mut shown, mut under_way) = (Vec::new(), 0);
        if let Some(work) = open.work.get_mut(id) {
            let asked = Asked { started, ended, units: report.tokens as f64, burst: None };
            under_way = work.under_way;
            work.exams.sent();
            shown = work.exams.settle(&asked, false);
        }
        open.forget_if_idle(id);
        let Some(tally) = open.tallies.get_mut(id) else { return };
        tally.absorb(report, under_way);
        tally.count_exams(&shown);
        let asked = report.served.saturating_add(report.refused);
        let organic = open.organic.entry(id.clone()).or_default();
        *organic = organic.saturating_add(asked).saturating_add(report.failed.sum());
        open.changed.insert(id.clone());
    }

    /// Whether a probe can be left out because a user has asked the same in this period; each user's request stands in
    /// for one probe. Probes of bursts always come: users do not ask at a rate that shows a capacity.
    pub fn take_organic(&self, id: &ContenderId) -> bool {
        let mut open = self.lock();
        let Some(organic) = open.organic.get_mut(id).filter(|organic| **organic > 0) else {
            return false;
        };
        *organic -= 1;
        true
    }

    /// A request that was sent came to nothing that counts, for example because the user went away.
    pub fn release(&self, id: &ContenderId, max_tokens: u32) {
        self.lock().work_on(id, |work| {
            work.under_way = work.under_way.saturating_sub(max_tokens.into());
            work.exams.release()
        });
    }

    /// Says which bursts will come in the period that has just begun. Each of their probes has to be settled, one that is
    /// not sent by our own fault as [`What::Void`]; one that is forgotten keeps its burst open until the end of the next
    /// period.
    pub fn plan_bursts(&self, probes: &[Probe]) {
        let mut times: BTreeMap<(ContenderId, u32), Vec<Duration>> = BTreeMap::new();
        for Probe { at, hotkey, task, burst, .. } in probes {
            let Some(burst) = *burst else { continue };
            let id = ContenderId { hotkey: *hotkey, task: task.clone() };
            times.entry((id, burst)).or_default().push(*at);
        }
        let mut open = self.lock();
        for ((id, burst), times) in times {
            let Some(tally) = open.tallies.get(&id) else { continue };
            let size = u32::try_from(times.len()).unwrap_or(u32::MAX);
            let first = times.iter().min().copied().unwrap_or_default();
            let last = times.iter().max().copied().unwrap_or_default();
            let promise = Promise {
                volume: tally.declared,
                seconds: open.seconds,
                per_request: last.saturating_sub(first) / size.saturating_sub(1).max(1),
            };
            open.work.entry(id).or_default().exams.plan(burst, size, promise);
        }
    }

    /// Ends the period and begins `next`, of this length in seconds, with these contenders at zero. Returns the one
    /// that ended and its totals.
    pub fn turn(
        &self,
        next: PeriodId,
        declared: &BTreeMap<ContenderId, Volume>,
        seconds: f64,
    ) -> Option<(PeriodId, BTreeMap<ContenderId, Tally>)> {
        let mut open = self.lock();
        let open = &mut *open;
        for (id, work) in &mut open.work {
            let shown = work.exams.turn();
            if let Some(tally) = open.tallies.get_mut(id) {
                tally.count_exams(&shown);
            }
        }
        let mut work = std::mem::take(&mut open.work);
        work.retain(|_, work| !work.is_idle());
        let next = Open {
            period: Some(next),
            seconds,
            tallies: declared
                .iter()
                .map(|(id, volume)| {
                    (id.clone(), Tally { declared: volume.get(), ..Tally::default() })
                })
                .collect(),
            changed: declared.keys().cloned().collect(),
            organic: BTreeMap::new(),
            work,
        };
        let ended = std::mem::replace(open, next);
        Some((ended.period?, ended.tallies))
    }

    /// Goes on with these contenders, in a period that another process has begun. What was counted stays until it is
    /// [drained](Self::drain), also of those that are no contenders any more.
    pub fn follow(&self, period: PeriodId, declared: &BTreeMap<ContenderId, Volume>) {
        let mut open = self.lock();
        open.period = Some(period);
        for (id, volume) in declared {
            open.tallies.entry(id.clone()).or_default().declared = volume.get();
        }
        let counts = |tally: &Tally| tally.report(0, 0).is_some();
        open.tallies.retain(|id, tally| declared.contains_key(id) || counts(tally));
    }

    /// What was counted since the last call, between these two moments in Unix milliseconds. It counts from zero then.
    pub fn drain(&self, from_ms: i64, to_ms: i64) -> BTreeMap<ContenderId, Report> {
        let mut open = self.lock();
        let mut reports = BTreeMap::new();
        for id in std::mem::take(&mut open.changed) {
            let Some(tally) = open.tallies.get_mut(&id) else { continue };
            let Some(report) = tally.report(from_ms, to_ms) else { continue };
            *tally = Tally { declared: tally.declared, ..Tally::default() };
            reports.insert(id, report);
        }
        reports
    }

    /// The totals as they are now.
    pub fn snapshot(&self) -> BTreeMap<ContenderId, Tally> {
        self.lock().tallies.clone()
    }

    /// The totals that have changed since the last call, and their period. `None` before the first period.
    pub fn take_changed(&self) -> Option<(PeriodId, BTreeMap<ContenderId, Tally>)> {
        let mut open = self.lock();
        let changed = std::mem::take(&mut open.changed);
        let totals = changed
            .into_iter()
            .filter_map(|id| Some((id.clone(), *open.tallies.get(&id)?)))
            .collect();
        Some((open.period?, totals))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Does something to a contender's work and counts the exams that it ends.
    fn work_on(&mut self, id: &ContenderId, change: impl FnOnce(&mut Work) -> Vec<f64>) {
        let Some(work) = self.work.get_mut(id) else { return };
        let shown = change(work);
        self.forget_if_idle(id);
        if shown.is_empty() {
            return;
        }
        if let Some(tally) = self.tallies.get_mut(id) {
            tally.count_exams(&shown);
            self.changed.insert(id.clone());
        }
    }

    fn forget_if_idle(&mut self, id: &ContenderId) {
        if self.work.get(id).is_some_and(Work::is_idle) {
            self.work.remove(id);
        }
    }
}

impl Work {
    fn is_idle(&self) -> bool {
        self.under_way == 0 && self.exams.is_idle()
    }
}

#[cfg(test)]
mod tests;
