//! A miner's hardware: a server that divides its rate evenly among the answers under way.

/// What hardware can do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hardware {
    /// Units per second over all answers.
    pub(super) total: f64,
    /// Units per second of an answer that is alone.
    pub(super) single: f64,
    /// Seconds before the first unit of an answer.
    pub(super) prefill: f64,
}

impl Hardware {
    /// So many of it behind one address.
    pub(super) fn times(self, size: f64) -> Self {
        Self { total: self.total * size, ..self }
    }
}

/// Hardware at work. Seconds are counted from the simulation's beginning.
#[derive(Debug)]
pub(super) struct Backend {
    hardware: Hardware,
    now: f64,
    /// Units that an answer which has been under way all the time would have by now.
    progress: f64,
    /// The integral of time over progress: from it follows when an answer's text has arrived on average.
    moment: f64,
    answers: Vec<Answer>,
    /// Answers that were accepted and have not begun yet.
    pub(super) waiting: usize,
    /// Counts changes, after which an earlier prediction of [`Self::next`] does not hold any more.
    pub(super) changes: u64,
}

#[derive(Debug)]
struct Answer {
    request: usize,
    from_progress: f64,
    from_moment: f64,
    to_progress: f64,
    deadline: f64,
}

/// An answer that has left the server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Left {
    pub(super) request: usize,
    /// When its text has arrived on average; `None` if it was not done in time.
    pub(super) mean_arrival: Option<f64>,
}

impl Backend {
    pub(super) fn new(hardware: Hardware) -> Self {
        Self {
            hardware,
            now: 0.0,
            progress: 0.0,
            moment: 0.0,
            answers: Vec::new(),
            waiting: 0,
            changes: 0,
        }
    }

    pub(super) fn prefill(&self) -> f64 {
        self.hardware.prefill
    }

    /// Answers under way or accepted, relative to those that the hardware serves at full speed.
    pub(super) fn load(&self) -> f64 {
        let full = (self.hardware.total / self.hardware.single).max(1.0);
        (self.answers.len() + self.waiting) as f64 / full
    }

    /// Begins an answer that takes so much of the hardware, in units. It is given up at the deadline.
    pub(super) fn begin(&mut self, now: f64, request: usize, work: f64, deadline: f64) {
        self.advance(now);
        self.waiting = self.waiting.saturating_sub(1);
        self.changes += 1;
        self.answers.push(Answer {
            request,
            from_progress: self.progress,
            from_moment: self.moment,
            to_progress: self.progress + work.max(1e-6),
            deadline,
        });
    }

    /// When the next answer leaves, unless something changes before.
    pub(super) fn next(&self) -> Option<f64> {
        let rate = self.rate();
        self.answers
            .iter()
            .map(|answer| {
                let done = self.now + (answer.to_progress - self.progress).max(0.0) / rate;
                done.min(answer.deadline)
            })
            .min_by(f64::total_cmp)
    }

    /// The answers that leave by `now`, which is when [`Self::next`] said.
    pub(super) fn leave(&mut self, now: f64, left: &mut Vec<Left>) {
        self.advance(now);
        self.changes += 1;
        let (progress, moment) = (self.progress, self.moment);
        self.answers.retain(|answer| {
            let done = answer.to_progress <= progress + 1e-7;
            if !done && answer.deadline > now {
                return true;
            }
            let mean_arrival = done.then(|| {
                (moment - answer.from_moment) / (progress - answer.from_progress).max(1e-9)
            });
            left.push(Left { request: answer.request, mean_arrival });
            false
        });
    }

    /// Units per second of each answer.
    fn rate(&self) -> f64 {
        self.hardware.single.min(self.hardware.total / self.answers.len().max(1) as f64)
    }

    fn advance(&mut self, now: f64) {
        let rate = self.rate();
        self.progress += rate * (now - self.now);
        self.moment += rate * (now - self.now) * (now + self.now) / 2.0;
        self.now = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARDWARE: Hardware = Hardware { total: 20.0, single: 10.0, prefill: 0.0 };

    fn run(backend: &mut Backend) -> Vec<(f64, Left)> {
        let mut all = Vec::new();
        while let Some(next) = backend.next() {
            let mut left = Vec::new();
            backend.leave(next, &mut left);
            all.extend(left.into_iter().map(|left| (next, left)));
        }
        all
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn an_answer_alone_comes_at_the_single_rate_and_its_text_arrives_half_way_on_average() {
        let mut backend = Backend::new(HARDWARE);
        backend.begin(5.0, 7, 100.0, 60.0);
        let left = run(&mut backend);
        assert!(near(left[0].0, 15.0), "{left:?}");
        assert_eq!(left[0].1.request, 7);
        assert!(near(left[0].1.mean_arrival.unwrap(), 10.0), "{left:?}");
    }

    #[test]
    fn more_answers_than_it_has_streams_for_share_the_total_rate() {
        let mut backend = Backend::new(HARDWARE);
        for request in 0..4 {
            backend.begin(0.0, request, 100.0, 60.0);
        }
        let left = run(&mut backend);
        assert_eq!(left.len(), 4);
        assert!(left.iter().all(|(at, _)| near(*at, 20.0)), "{left:?}");
    }

    #[test]
    fn an_answer_that_is_slowed_down_half_way_arrives_later_on_average() {
        let mut backend = Backend::new(Hardware { total: 10.0, ..HARDWARE });
        backend.begin(0.0, 0, 100.0, 60.0);
        backend.begin(5.0, 1, 100.0, 60.0);
        let left = run(&mut backend);
        // 50 units around 2.5 s, 50 around 10 s.
        assert!(near(left[0].0, 15.0) && near(left[0].1.mean_arrival.unwrap(), 6.25), "{left:?}");
        assert!(near(left[1].0, 20.0), "{left:?}");
    }

    #[test]
    fn what_is_not_done_in_time_is_given_up_and_frees_the_hardware() {
        let mut backend = Backend::new(Hardware { total: 10.0, ..HARDWARE });
        backend.begin(0.0, 0, 1000.0, 10.0);
        backend.begin(0.0, 1, 100.0, 60.0);
        let left = run(&mut backend);
        assert_eq!(left[0], (10.0, Left { request: 0, mean_arrival: None }));
        assert!(near(left[1].0, 15.0), "{left:?}");
    }
}
