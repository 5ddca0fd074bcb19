//! What became of each query, synthetic or organic: counted, reported, and now and then sent to be checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::checks::Check;
use rand::Rng;
use tracing::{info, warn};

use crate::ask::{Ours, Outcome, Query, Served};
use crate::clock::{unix_ms, uptime};
use crate::metrics::Metrics;
use crate::store::{PendingCheck, PeriodId};
use crate::suspicion::Suspicions;
use crate::tally::{ContenderId, Settled, Tallies, What};
use crate::writer::Sender;

/// Where queries are booked. Never waits.
#[derive(Debug)]
pub struct Accounts {
    tallies: Arc<Tallies>,
    metrics: Arc<Metrics>,
    suspicions: Arc<Suspicions>,
    to_check: Sender,
    troubles: Mutex<Troubles>,
    own_troubles: Mutex<OwnTroubles>,
}

/// A trouble is over after so many answers in a row: one that comes and goes must not fill the log.
const ENOUGH_ANSWERS: u32 = 20;

/// The kinds of trouble that were spoken of, so that each is said once of each contender until that answers again.
#[derive(Debug, Default)]
struct Troubles(BTreeMap<ContenderId, Spoken>);

#[derive(Debug, Default)]
struct Spoken {
    kinds: BTreeSet<&'static str>,
    /// Answers since the last trouble.
    answers: u32,
}

impl Troubles {
    /// Returns whether this kind of trouble is new.
    fn came(&mut self, id: &ContenderId, kind: &'static str) -> bool {
        let spoken = self.0.entry(id.clone()).or_default();
        spoken.answers = 0;
        spoken.kinds.insert(kind)
    }

    /// Returns whether all trouble is over with this answer.
    fn answered(&mut self, id: &ContenderId) -> bool {
        let Some(spoken) = self.0.get_mut(id) else { return false };
        spoken.answers += 1;
        let over = spoken.answers >= ENOUGH_ANSWERS;
        if over {
            self.0.remove(id);
        }
        over
    }
}

/// Our own troubles that were spoken of.
#[derive(Debug, Default)]
struct OwnTroubles {
    kinds: BTreeSet<&'static str>,
    /// Answers since the last trouble with our network.
    answers: u32,
}

/// Who wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A user.
    Organic,
    /// We, as part of a burst or alone.
    Synthetic { burst: Option<u32> },
}

/// A query that is under way. One that is dropped before it is settled, as when the user goes away, counts for nobody.
#[derive(Debug)]
pub struct UnderWay {
    accounts: Arc<Accounts>,
    id: ContenderId,
    max_tokens: u32,
    origin: Origin,
    started: Duration,
    settled: bool,
}

impl Accounts {
    /// Books into these.
    pub fn new(
        tallies: Arc<Tallies>,
        metrics: Arc<Metrics>,
        suspicions: Arc<Suspicions>,
        to_check: Sender,
    ) -> Self {
        let (troubles, own_troubles) = (Mutex::default(), Mutex::default());
        Self { tallies, metrics, suspicions, to_check, troubles, own_troubles }
    }

    /// A query is about to be sent. Call it behind all of our own queues: time counts from here.
    pub fn begin(self: &Arc<Self>, id: ContenderId, max_tokens: u32, origin: Origin) -> UnderWay {
        self.tallies.under_way(&id, max_tokens);
        let started = uptime();
        UnderWay { accounts: Arc::clone(self), id, max_tokens, origin, started, settled: false }
    }

    /// A synthetic query is not sent, because we have too much to do.
    pub fn not_sent(self: &Arc<Self>, id: ContenderId, burst: Option<u32>) {
        self.begin(id, 0, Origin::Synthetic { burst }).close(&Outcome::Void(Ours::Crowded));
    }

    /// A synthetic query is not sent, because the miner leaves so many unanswered that it could not answer this one in
    /// time: as good as refused.
    pub fn given_up(self: &Arc<Self>, id: ContenderId, burst: Option<u32>) {
        self.begin(id, 0, Origin::Synthetic { burst }).close(&Outcome::Refused);
    }

    /// Forgets those that are no contenders any more.
    pub fn keep_only(&self, contenders: impl Fn(&ContenderId) -> bool) {
        self.suspicions.keep_only(&contenders);
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.0.retain(|id, _| contenders(id));
    }

    fn check(&self, id: String, query: &Query, served: Served, pending: Pending) {
        let pending = PendingCheck {
            period: pending.period,
            at_ms: unix_ms(),
            organic: pending.organic,
            speed: served.speed(),
            ttft_s: served.first_token.as_secs_f64(),
            tokens: served.tokens(),
            check: Check {
                id,
                task: query.task.clone(),
                miner: query.miner,
                // We have written it ourselves, as JSON.
                request: String::from_utf8_lossy(&query.body).into_owned(),
                text: served.text,
                receipt: served.receipt,
            },
        };
        if !self.to_check.send(pending) {
            self.metrics.checked(&query.task, "dropped");
        }
    }

    fn report(&self, id: &ContenderId, outcome: &Outcome) {
        if let Outcome::Void(ours) = outcome {
            self.report_own(ours);
            return;
        }
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let news = match outcome {
            Outcome::Served(_) => troubles.answered(id),
            outcome => troubles.came(id, outcome.label()),
        };
        drop(troubles);
        let ContenderId { hotkey, task } = id;
        match outcome {
            Outcome::Failed(failure) if news => {
                warn!(miner = %hotkey, %task, "miner {hotkey} {failure}");
            }
            Outcome::Refused if news => {
                info!(miner = %hotkey, %task, "miner {hotkey} is busy: it refuses, or leaves too many unanswered");
            }
            Outcome::Served(_) => {
                if news {
                    info!(miner = %hotkey, %task, "miner {hotkey} answers again");
                }
                self.report_own_answer();
            }
            Outcome::Refused | Outcome::Failed(_) | Outcome::Void(_) => {}
        }
    }

    fn report_own_answer(&self) {
        let mut own = self.own_troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if !own.kinds.contains(NETWORK) {
            return;
        }
        own.answers += 1;
        if own.answers >= ENOUGH_ANSWERS {
            own.kinds.remove(NETWORK);
            info!("miners can be asked again: our own network works");
        }
    }

    /// Says once of each of our own troubles that it is there. The metrics count each time.
    fn report_own(&self, ours: &Ours) {
        let mut own = self.own_troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(ours, Ours::Network(_)) {
            own.answers = 0;
        }
        match ours {
            // The usual thing when a miner hangs; the next one was asked.
            Ours::Budget | Ours::Outrun | Ours::SlowUser => {}
            Ours::Network(why) if own.kinds.insert(NETWORK) => {
                warn!("miners cannot be asked because of our own side, and are not blamed: {why}");
            }
            Ours::Stalled(held_up) if own.kinds.insert(ours.label()) => {
                warn!(
                    "this process was held up for {held_up:?}; miners whose time ran out meanwhile are not blamed. \
                     Give it more processor time if this goes on: the metric `queries` counts it as `void_stalled`"
                );
            }
            Ours::Crowded if own.kinds.insert(ours.label()) => {
                warn!(
                    "synthetic queries are left out and count for nobody: this machine was held up when they were \
                     due, or more were due than can be under way at once. Lower `probing.max_queries` only if the \
                     metric `queries` counts more and more of them as `void_crowded`"
                );
            }
            Ours::Network(_) | Ours::Stalled(_) | Ours::Crowded => {}
        }
    }
}

/// The trouble that ends when miners answer again.
const NETWORK: &str = "network";

/// What is known of a check before its answer is looked at.
#[derive(Debug, Clone, Copy)]
struct Pending {
    period: PeriodId,
    organic: bool,
}

/// An id for the check of an answer that has no name of its own.
pub fn fresh_id(rng: &mut impl Rng) -> String {
    format!("{:032x}", rng.random::<u128>())
}

impl UnderWay {
    /// The outcome is known. At least the share `floor` of answers is checked, `0.0..=1.0`, under an id that is made then.
    pub fn settle<R: Rng>(
        self,
        query: &Query,
        outcome: Outcome,
        floor: f64,
        rng: &mut R,
        id: impl FnOnce(&mut R) -> String,
    ) {
        let accounts = Arc::clone(&self.accounts);
        let share = accounts.suspicions.share(&self.id, floor);
        let organic = self.origin == Origin::Organic;
        let counted = self.close(&outcome);
        let (Some(period), Outcome::Served(served)) = (counted, outcome) else { return };
        if served.distorted {
            // Its speed would be held against the miner. Which answers are checked is up to chance anyway.
            accounts.metrics.checked(&query.task, "distorted");
            return;
        }
        if rng.random::<f64>() < share {
            accounts.check(id(rng), query, *served, Pending { period, organic });
        }
    }

    /// Counts the outcome. Returns the period in which it counts, if it does.
    pub fn close(mut self, outcome: &Outcome) -> Option<PeriodId> {
        self.settled = true;
        let what = match outcome {
            Outcome::Served(served) => What::Served { tokens: served.tokens() },
            Outcome::Refused => What::Refused,
            Outcome::Failed(failure) => What::Failed(failure.kind()),
            Outcome::Void(_) => What::Void,
        };
        let (organic, burst) = match self.origin {
            Origin::Organic => (true, None),
            Origin::Synthetic { burst } => (false, burst),
        };
        let accounts = &self.accounts;
        let settled = Settled {
            organic,
            burst,
            max_tokens: self.max_tokens,
            started: self.started,
            ended: uptime(),
            what,
            distorted: matches!(outcome, Outcome::Served(served) if served.distorted),
        };
        accounts.metrics.asked(&self.id.task, organic, outcome);
        accounts.report(&self.id, outcome);
        accounts.tallies.settle(&self.id, &settled)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.settled {
            self.accounts.tallies.release(&self.id, self.max_tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use common::generation::FinishReason;
    use common::openai::Kind;
    use common::receipt::{Generated, Timings};
    use common::{Keypair, Volume};
    use prometheus_client::registry::Registry;
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;
    use crate::ask::{Failure, Timeouts};
    use crate::plan::Probe;
    use crate::store::tests::store;
    use crate::tally::Tally;
    use crate::writer::{Writer, writer};

    struct Books {
        accounts: Arc<Accounts>,
        writer: Writer,
        _folder: tempfile::TempDir,
    }

    fn id() -> ContenderId {
        let hotkey = Keypair::development("Bob").hotkey();
        ContenderId { hotkey, task: "chat-demo".parse().unwrap() }
    }

    /// Bob is the only contender and has declared 100 tokens.
    async fn books() -> Books {
        let (folder, store) = store().await;
        let (tallies, metrics) =
            (Arc::new(Tallies::default()), Metrics::new(&mut Registry::default()));
        tallies.turn(PeriodId(1), &BTreeMap::from([(id(), Volume::from(100))]), 60.0);
        let (to_check, writer) =
            writer(Arc::clone(&tallies), Arc::clone(&metrics), store, Arc::default(), 10);
        let accounts = Arc::new(Accounts::new(tallies, metrics, Arc::default(), to_check));
        Books { accounts, writer, _folder: folder }
    }

    impl Books {
        fn tally(&self) -> Tally {
            self.accounts.tallies.snapshot()[&id()]
        }

        fn serve(&self, id: ContenderId, origin: Origin) {
            self.serve_while(false, id, origin);
        }

        fn serve_while(&self, distorted: bool, id: ContenderId, origin: Origin) {
            let query = Query {
                miner: id.hotkey,
                url: "http://127.0.0.1:9".parse().unwrap(),
                task: id.task.clone(),
                kind: Kind::Chat,
                body: "{}".into(),
                max_tokens: 10,
                timeouts: Timeouts { first_token: Duration::ZERO, total: Duration::ZERO },
                cut_short: false,
            };
            let generated = Generated {
                task: id.task.clone(),
                request_digest: common::receipt::request_digest(b"{}"),
                prompt_tokens: 1,
                tokens: vec![1, 2, 3],
                logprobs: vec![-0.1; 3],
                finish_reason: FinishReason::Stop,
                timings: Timings::default(),
            };
            let served = Served {
                text: "a b c".to_owned(),
                digest: generated.digest(),
                receipt: generated.sign(&Keypair::development("Bob")),
                first_token: Duration::from_millis(100),
                mean_arrival: Duration::from_millis(250),
                total: Duration::from_millis(400),
                distorted,
            };
            let mut rng = ChaCha12Rng::seed_from_u64(1);
            let outcome = Outcome::Served(Box::new(served));
            self.accounts.begin(id, 10, origin).settle(&query, outcome, 0.0, &mut rng, fresh_id);
        }
    }

    #[tokio::test]
    async fn what_is_dropped_counts_for_nobody_and_is_no_longer_under_way() {
        let books = books().await;
        let origin = Origin::Synthetic { burst: None };
        let first = books.accounts.begin(id(), 60, origin);
        books.accounts.begin(id(), 60, origin).close(&Outcome::Refused);
        assert_eq!((books.tally().refused_within, books.tally().refused_beyond), (0, 1));
        drop(first);
        books.accounts.begin(id(), 60, origin).close(&Outcome::Refused);
        assert_eq!((books.tally().refused_within, books.tally().asked()), (1, 2));
    }

    #[tokio::test]
    async fn our_own_troubles_count_apart_and_failures_by_their_kind() {
        let books = books().await;
        let origin = Origin::Organic;
        let network = Ours::Network("no sockets".to_owned());
        for ours in [Ours::Budget, network, Ours::Stalled(Duration::from_secs(1))] {
            books.accounts.begin(id(), 10, origin).close(&Outcome::Void(ours));
        }
        books.accounts.not_sent(id(), None);
        assert_eq!((books.tally().void, books.tally().asked()), (4, 0));
        for failure in [Failure::NoReceipt, Failure::Status(502), Failure::NoEnd(Duration::ZERO)] {
            books.accounts.begin(id(), 10, origin).close(&Outcome::Failed(failure));
        }
        let failed = books.tally().failed;
        assert_eq!(
            (failed.unusable, failed.bad_status, failed.too_late, failed.sum()),
            (1, 1, 1, 3)
        );
    }

    #[test]
    fn trouble_that_comes_and_goes_is_spoken_of_once_of_each_kind() {
        let mut troubles = Troubles::default();
        let mut said = 0;
        for _ in 0..100 {
            said += u32::from(troubles.came(&id(), "status"));
            said += u32::from(troubles.answered(&id()));
            said += u32::from(troubles.came(&id(), "refused"));
        }
        assert_eq!(said, 2);
        let over = (0..100).filter(|_| troubles.answered(&id())).count();
        assert_eq!((over, troubles.0.len()), (1, 0));
        assert!(troubles.came(&id(), "status"));
    }

    #[tokio::test]
    async fn an_answer_that_we_listened_to_too_late_counts_without_its_times() {
        let mut books = books().await;
        let tallies = Arc::clone(&books.accounts.tallies);
        for (burst, distorted) in [(1, true), (2, false)] {
            let ContenderId { hotkey, task } = id();
            let probe = |at| Probe {
                at: Duration::from_secs(at),
                hotkey,
                task: task.clone(),
                seed: 0,
                burst: Some(burst),
            };
            tallies.plan_bursts(&[probe(0), probe(1)]);
            for distorted in [distorted, false] {
                books.serve_while(distorted, id(), Origin::Synthetic { burst: Some(burst) });
            }
        }
        assert_eq!((books.tally().served, books.tally().exams), (4, 1));
        assert_eq!(books.writer.take_waiting().len(), 3);
    }

    #[tokio::test]
    async fn a_newcomers_answers_are_checked_and_those_of_no_contender_are_not() {
        let mut books = books().await;
        books.serve(id(), Origin::Organic);
        let stranger = ContenderId { hotkey: Keypair::development("Eve").hotkey(), ..id() };
        books.serve(stranger, Origin::Organic);
        let waiting = books.writer.take_waiting();
        let [pending] = &waiting[..] else { panic!("{waiting:?}") };
        assert_eq!((pending.period, pending.organic, pending.tokens), (PeriodId(1), true, 3));
        assert_eq!((pending.speed, pending.ttft_s), (6.0, 0.1));

        for _ in 0..400 {
            books.accounts.suspicions.judged(&id(), 1.0);
        }
        books.serve(id(), Origin::Synthetic { burst: None });
        assert!(
            books.writer.take_waiting().is_empty(),
            "without suspicion the floor counts, 0 here"
        );
    }
}
