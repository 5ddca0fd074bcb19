//! Which miner answers an organic request.
//!
//! Handlers read a snapshot that is swapped as a whole when contenders or scores change: no lock, no database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use common::{Hotkey, TaskId, Uid};
use rand::Rng;

/// A miner without any score yet is still tried now and then: this is the least share of the best miner's chance.
const LEAST_CHANCE: f64 = 0.02;
/// After this many failures in a row a miner is only asked when nobody else is left.
const TRIPPED: u32 = 3;

/// A miner that serves a task.
#[derive(Debug, Clone)]
pub struct Route {
    pub uid: Uid,
    pub hotkey: Hotkey,
    /// Of the task's last scoring, in `0.0..=1.0`.
    pub score: f64,
    health: Arc<AtomicU32>,
}

impl Route {
    /// Forgets earlier failures.
    pub fn succeeded(&self) {
        self.health.store(0, Ordering::Relaxed);
    }

    /// Counts one more failure in a row.
    pub fn failed(&self) {
        // A lost update among concurrent failures changes nothing that matters.
        self.health.store(self.health.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
    }

    fn is_tripped(&self) -> bool {
        self.health.load(Ordering::Relaxed) >= TRIPPED
    }
}

/// A miner to put into the snapshot.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub task: TaskId,
    pub uid: Uid,
    pub hotkey: Hotkey,
    pub score: f64,
}

/// The snapshot.
#[derive(Debug, Default)]
pub struct Router {
    routes: ArcSwap<BTreeMap<TaskId, Vec<Route>>>,
}

impl Router {
    /// Replaces the snapshot. Failures are forgotten: with each scoring everybody gets a new chance.
    pub fn replace(&self, candidates: Vec<Candidate>) {
        let mut routes: BTreeMap<TaskId, Vec<Route>> = BTreeMap::new();
        for Candidate { task, uid, hotkey, score } in candidates {
            let health = Arc::default();
            routes.entry(task).or_default().push(Route { uid, hotkey, score, health });
        }
        self.routes.store(Arc::new(routes));
    }

    /// Takes miners out that have left the subnet.
    pub fn forget(&self, gone: &BTreeSet<Hotkey>) {
        let mut routes = BTreeMap::clone(&self.routes.load());
        for of_task in routes.values_mut() {
            of_task.retain(|route| !gone.contains(&route.hotkey));
        }
        self.routes.store(Arc::new(routes));
    }

    /// At most `count` different miners of a task in the order in which they shall be tried: drawn by score, those
    /// that keep failing last. Empty if nobody serves the task.
    pub fn choose(&self, task: &TaskId, count: usize, rng: &mut impl Rng) -> Vec<Route> {
        let snapshot = self.routes.load();
        let Some(routes) = snapshot.get(task) else { return Vec::new() };
        let best = routes.iter().map(|route| route.score).fold(0.0, f64::max);
        let chance =
            |route: &Route| if best > 0.0 { (route.score / best).max(LEAST_CHANCE) } else { 1.0 };
        // Efraimidis and Spirakis 2006: sorting by u^(1/weight) draws without replacement in proportion to the weights.
        let mut drawn: Vec<(bool, f64, &Route)> = routes
            .iter()
            .map(|route| {
                (route.is_tripped(), rng.random::<f64>().powf(chance(route).recip()), route)
            })
            .collect();
        drawn.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
        drawn.into_iter().take(count).map(|(_, _, route)| route.clone()).collect()
    }

    /// Whether anybody serves the task.
    pub fn serves(&self, task: &TaskId) -> bool {
        self.routes.load().get(task).is_some_and(|routes| !routes.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;

    #[test]
    fn who_has_left_is_asked_no_more() {
        let router = Router::default();
        router.replace(vec![candidate(1, 0.5), candidate(2, 0.5)]);
        router.forget(&BTreeSet::from([Hotkey::from_bytes([1; 32])]));
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let left: Vec<_> = router.choose(&task(), 3, &mut rng).iter().map(|r| r.uid).collect();
        assert_eq!(left, [Uid(2)]);
        router.forget(&BTreeSet::from([Hotkey::from_bytes([2; 32])]));
        assert!(!router.serves(&task()));
    }

    fn candidate(uid: u16, score: f64) -> Candidate {
        Candidate {
            task: task(),
            uid: Uid(uid),
            hotkey: Hotkey::from_bytes([uid as u8; 32]),
            score,
        }
    }

    fn task() -> TaskId {
        "chat-demo".parse().unwrap()
    }

    fn first_choices(router: &Router, rounds: u32) -> BTreeMap<Uid, u32> {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let mut firsts = BTreeMap::new();
        for _ in 0..rounds {
            *firsts.entry(router.choose(&task(), 3, &mut rng)[0].uid).or_default() += 1;
        }
        firsts
    }

    #[test]
    fn better_miners_are_asked_more_and_nobody_never() {
        let router = Router::default();
        router.replace(vec![candidate(1, 0.6), candidate(2, 0.3), candidate(3, 0.0)]);
        let firsts = first_choices(&router, 3_000);
        assert!(
            firsts[&Uid(1)] > firsts[&Uid(2)] && firsts[&Uid(2)] > firsts[&Uid(3)],
            "{firsts:?}"
        );
        assert!(firsts[&Uid(3)] > 0);
    }

    #[test]
    fn nobody_is_tried_twice_for_one_request() {
        let router = Router::default();
        router.replace((1..=5).map(|uid| candidate(uid, 0.5)).collect());
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let mut uids: Vec<_> =
            router.choose(&task(), 9, &mut rng).iter().map(|route| route.uid.0).collect();
        uids.sort_unstable();
        assert_eq!(uids, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_miner_that_keeps_failing_comes_last_until_it_succeeds_or_a_new_snapshot_comes() {
        let router = Router::default();
        router.replace(vec![candidate(1, 1.0), candidate(2, 0.1)]);
        let mut rng = ChaCha12Rng::seed_from_u64(3);
        let routes = router.choose(&task(), 2, &mut rng);
        let best = routes.iter().find(|route| route.uid == Uid(1)).unwrap();
        (0..TRIPPED).for_each(|_| best.failed());
        assert_eq!(first_choices(&router, 50), BTreeMap::from([(Uid(2), 50)]));
        best.succeeded();
        assert!(first_choices(&router, 50)[&Uid(1)] > 25);
        (0..TRIPPED).for_each(|_| best.failed());
        router.replace(vec![candidate(1, 1.0), candidate(2, 0.1)]);
        assert!(first_choices(&router, 50)[&Uid(1)] > 25);
    }

    #[test]
    fn a_task_that_nobody_serves_has_no_routes() {
        let router = Router::default();
        assert!(!router.serves(&task()));
        assert!(router.choose(&task(), 3, &mut ChaCha12Rng::seed_from_u64(4)).is_empty());
    }
}
