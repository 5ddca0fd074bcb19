//! Which miner answers an organic request.
//!
//! Handlers read a snapshot that is swapped as a whole when contenders or scores change: no lock, no database. A choice
//! takes the same short time however many miners there are: a few are drawn by their scores, and of these the one is taken
//! that will likely answer first, by what earlier requests have taught ([`live`]). A conversation goes to the miner that has
//! it in its prefix cache, if that one is about as good.

mod alias;
mod live;
mod patience;
mod ring;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use common::{Hotkey, TaskId, Uid};
use rand::Rng;

use crate::network::Contender;
use crate::tally::ContenderId;
use alias::Alias;
use live::{Estimate, Live};
use patience::Hedges;
use ring::Ring;

/// A miner without any score yet is still tried now and then: this is the least share of the best miner's chance.
const LEAST_CHANCE: f64 = 0.02;
/// Miners that are drawn, of which one is taken. Two make the difference (Mitzenmacher 2001, "The power of two choices in
/// randomized load balancing"); a third lets a slow good miner lose against two quick ones.
const DRAWS: usize = 3;
/// How much longer one may wait for the miner that knows the conversation: it saves the reading of what it has read.
const AFFINITY: f64 = 2.0;
/// The time to a first token that is expected of a miner while nothing is known of any, in seconds.
const UNKNOWN_FIRST_TOKEN: f64 = 0.5;
/// The quality of a miner of which no answer was checked yet.
const UNKNOWN_QUALITY: f64 = 0.5;
/// What a failure costs the user beside the time to another miner's first token, in seconds.
const FAILURE: f64 = 0.5;
/// Beyond its declared volume a miner may refuse, so another is taken unless that one would take so much longer.
const BEYOND_VOLUME: f64 = 4.0;

/// A miner to put into the snapshot.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub id: ContenderId,
    pub contender: Contender,
    /// Its share of the task's score by the last scoring, `0.0..=1.0`.
    pub score: f64,
    /// Its verified quality by the last scoring, `0.0..=1.0`.
    pub quality: Option<f64>,
}

/// A miner that serves a task.
#[derive(Debug)]
pub struct Route {
    pub id: ContenderId,
    pub contender: Contender,
    /// The hotkey as text, made once.
    address: Arc<str>,
    score: f64,
    quality: Option<f64>,
    live: Arc<Live>,
    of_all: Arc<Shared>,
}

/// What all miners of a task have in common, from one snapshot to the next.
#[derive(Debug, Default)]
struct Shared {
    first_token: Estimate,
    hedges: Hedges,
}

/// The miners of one task.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Arc<Route>>,
    alias: Alias,
    ring: Ring,
    shared: Arc<Shared>,
}

/// The snapshot.
#[derive(Debug, Default)]
pub struct Router {
    routes: ArcSwap<BTreeMap<TaskId, Arc<Routes>>>,
}

/// A request that a miner has in hand. Dropping it says that it is over.
#[derive(Debug)]
pub struct InHand {
    route: Arc<Route>,
    started: Duration,
}

impl Route {
    pub fn uid(&self) -> Uid {
        self.contender.uid
    }

    /// The miner's hotkey as text.
    pub fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// A request is about to be sent. `now` counts from any moment that all calls have in common.
    pub fn begin(self: Arc<Self>, now: Duration) -> InHand {
        self.live.begin(now);
        InHand { route: self, started: now }
    }

    /// How much of the time that is `left` until a user's first token this miner gets, by its record; `whole` is the
    /// task's time for that, and `last` says that no other miner will be tried.
    pub fn time_for(&self, left: Duration, whole: Duration, last: bool) -> Duration {
        patience::time_for(self.live.first_token(), left, whole, last)
    }

    fn cost(&self) -> f64 {
        let typical = self.of_all.first_token.get();
        let typical = typical.map_or(UNKNOWN_FIRST_TOKEN, |spread| f64::from(spread.mean));
        let seen = Seen {
            first_token: self.live.first_token().map_or(typical, |spread| f64::from(spread.mean)),
            success: f64::from(self.live.success()),
            in_flight: self.live.in_flight(),
            quality: self.quality.unwrap_or(UNKNOWN_QUALITY),
            beyond_volume: self.live.used() as f64 >= self.contender.declared.get(),
        };
        seen.cost(typical)
    }
}

impl InHand {
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The first token has come.
    pub fn first_token(&self, now: Duration) {
        let took = now.saturating_sub(self.started);
        self.route.live.first_token_after(took);
        self.route.of_all.first_token.observe(took);
    }

    /// It was answered to the end.
    pub fn succeeded(&self, tokens: u32) {
        self.route.live.succeeded(tokens);
    }

    pub fn failed(&self, now: Duration) {
        self.route.live.failed(now);
    }

    /// The miner said that it is busy.
    pub fn refused(&self, now: Duration) {
        self.route.live.busy(now);
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.route.live.end();
    }
}

/// What decides between miners that were drawn.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Seconds.
    first_token: f64,
    success: f64,
    in_flight: u32,
    quality: f64,
    beyond_volume: bool,
}

impl Seen {
    /// The time to the first token of a good answer, in seconds: the miner's usual time, for each request that it has in
    /// hand (Finagle's "peak EWMA" balancer), and what its failures cost, over the share of answers that are good.
    fn cost(self, typical: f64) -> f64 {
        let success = self.success.clamp(0.05, 1.0);
        let waiting = self.first_token * f64::from(self.in_flight.saturating_add(1));
        let failing = (1.0 - success) * (typical + FAILURE) / success;
        let volume = if self.beyond_volume { BEYOND_VOLUME } else { 1.0 };
        (waiting + failing) * volume / self.quality.clamp(0.05, 1.0)
    }
}

impl Routes {
    fn new(candidates: Vec<Candidate>, old: Option<&Routes>) -> Self {
        let shared = old.map_or_else(Arc::default, |old| Arc::clone(&old.shared));
        let known: BTreeMap<Hotkey, &Arc<Live>> = old
            .into_iter()
            .flat_map(|old| old.routes.iter().map(|route| (route.id.hotkey, &route.live)))
            .collect();
        let best = candidates.iter().map(|candidate| candidate.score).fold(0.0, f64::max);
        let weights: Vec<f64> =
            candidates.iter().map(|candidate| candidate.score.max(best * LEAST_CHANCE)).collect();
        let ring = Ring::new(candidates.iter().map(|candidate| &candidate.id.hotkey));
        let route = |Candidate { id, contender, score, quality }: Candidate| {
            let live = known.get(&id.hotkey).map_or_else(Arc::default, |live| Arc::clone(live));
            let address = id.hotkey.to_string().into();
            let of_all = Arc::clone(&shared);
            Arc::new(Route { id, contender, address, score, quality, live, of_all })
        };
        let routes = candidates.into_iter().map(route).collect();
        Self { routes, alias: Alias::new(&weights), ring, shared }
    }

    /// A miner to ask; `None` if all have been tried. `prefix` stands for the beginning of the conversation, and `now`
    /// counts from any moment that all calls have in common.
    pub fn choose(
        &self,
        prefix: Option<u64>,
        tried: &[Hotkey],
        now: Duration,
        rng: &mut impl Rng,
    ) -> Option<Arc<Route>> {
        let may =
            |route: &&Arc<Route>| !tried.contains(&route.id.hotkey) && !route.live.is_closed(now);
        let mut best: Option<(f64, &Arc<Route>)> = None;
        for _ in 0..DRAWS {
            let drawn = self.alias.draw(rng).and_then(|index| self.routes.get(index));
            if let Some(route) = drawn.filter(may) {
                let cost = route.cost();
                if best.is_none_or(|(least, _)| cost < least) {
                    best = Some((cost, route));
                }
            }
        }
        let knows = prefix
            .and_then(|prefix| self.ring.find(prefix))
            .and_then(|index| self.routes.get(index))
            .filter(may);
        if let Some(route) = knows
            && best.is_none_or(|(cost, _)| route.cost() <= cost * AFFINITY)
        {
            return Some(Arc::clone(route));
        }
        let best = best.map(|(_, route)| route);
        best.or_else(|| self.any(tried, now, rng)).cloned()
    }

    /// When all that were drawn are out of the question: the next one in the list that is not, else one that is left alone
    /// for its failures.
    fn any(&self, tried: &[Hotkey], now: Duration, rng: &mut impl Rng) -> Option<&Arc<Route>> {
        let start = rng.random_range(0..self.routes.len().max(1));
        let (after, before) = self.routes.split_at_checked(start)?;
        let untried = || before.iter().chain(after).filter(|r| !tried.contains(&r.id.hotkey));
        untried().find(|route| !route.live.is_closed(now)).or_else(|| untried().next())
    }

    /// How many miners serve the task, at least 1.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// After which time without a first token a second miner is asked.
    pub fn hedge_after(&self) -> Option<Duration> {
        patience::hedge_after(self.shared.first_token.get())
    }

    /// One more request has come, which lets some later one be hedged.
    pub fn asked(&self) {
        self.shared.hedges.earn();
    }

    /// Whether a request may be asked a second time now; if so it is counted.
    pub fn may_hedge(&self) -> bool {
        self.routes.len() > 1 && self.shared.hedges.spend()
    }
}

impl Router {
    /// Replaces the snapshot: a new period, or new scores. What requests have taught about a miner stays.
    pub fn replace(&self, candidates: Vec<Candidate>) {
        let mut of_task: BTreeMap<TaskId, Vec<Candidate>> = BTreeMap::new();
        for candidate in candidates {
            of_task.entry(candidate.id.task.clone()).or_default().push(candidate);
        }
        let old = self.routes.load();
        let routes = of_task.into_iter().map(|(task, candidates)| {
            let routes = Routes::new(candidates, old.get(&task).map(Arc::as_ref));
            (task, Arc::new(routes))
        });
        self.routes.store(Arc::new(routes.collect()));
    }

    /// A new period has begun: all volumes are whole again.
    pub fn turn(&self) {
        for routes in self.routes.load().values() {
            routes.routes.iter().for_each(|route| route.live.turn());
        }
    }

    /// Takes miners out that have left the subnet.
    pub fn forget(&self, gone: &BTreeSet<Hotkey>) {
        let candidate = |route: &Arc<Route>| Candidate {
            id: route.id.clone(),
            contender: route.contender.clone(),
            score: route.score,
            quality: route.quality,
        };
        let old = self.routes.load_full();
        let all = old.values().flat_map(|routes| &routes.routes);
        let stay = all.filter(|route| !gone.contains(&route.id.hotkey)).map(candidate);
        self.replace(stay.collect());
    }

    /// The miners of a task; `None` if nobody serves it.
    pub fn of(&self, task: &TaskId) -> Option<Arc<Routes>> {
        self.routes.load().get(task).cloned()
    }

    /// Whether anybody serves the task.
    pub fn serves(&self, task: &TaskId) -> bool {
        self.routes.load().contains_key(task)
    }
}

#[cfg(test)]
mod tests;
