use common::Volume;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use super::*;

const NOW: Duration = Duration::from_secs(100);

fn task() -> TaskId {
    "chat-demo".parse().unwrap()
}

fn hotkey(uid: u16) -> Hotkey {
    Hotkey::from_bytes([uid as u8; 32])
}

fn candidate(uid: u16, score: f64) -> Candidate {
    let contender = Contender {
        uid: Uid(uid),
        url: format!("http://127.0.0.1:{uid}").parse().unwrap(),
        declared: Volume::from(1000),
    };
    let id = ContenderId { hotkey: hotkey(uid), task: task() };
    Candidate { id, contender, score, quality: Some(1.0) }
}

fn router(candidates: impl IntoIterator<Item = Candidate>) -> Router {
    let router = Router::default();
    router.replace(candidates.into_iter().collect());
    router
}

/// How often each is chosen first, nobody having a request in hand.
fn firsts(router: &Router, rounds: u32) -> BTreeMap<u16, u32> {
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let routes = router.of(&task()).unwrap();
    let mut firsts = BTreeMap::new();
    for _ in 0..rounds {
        let uid = routes.choose(None, &[], NOW, &mut rng).unwrap().uid();
        *firsts.entry(uid.0).or_default() += 1;
    }
    firsts
}

fn route(router: &Router, uid: u16) -> Arc<Route> {
    let routes = router.of(&task()).unwrap();
    routes.routes.iter().find(|route| route.uid() == Uid(uid)).unwrap().clone()
}

fn answers(router: &Router, uid: u16, first_token: Duration) {
    for _ in 0..30 {
        let in_hand = route(router, uid).begin(NOW);
        in_hand.first_token(NOW + first_token);
        in_hand.succeeded(1);
    }
}

#[test]
fn who_has_left_is_asked_no_more() {
    let router = router([candidate(1, 0.5), candidate(2, 0.5)]);
    router.forget(&BTreeSet::from([hotkey(1)]));
    assert_eq!(firsts(&router, 20), BTreeMap::from([(2, 20)]));
    router.forget(&BTreeSet::from([hotkey(2)]));
    assert!(!router.serves(&task()) && router.of(&task()).is_none());
}

#[test]
fn better_miners_are_asked_more_and_nobody_never() {
    let router = router([candidate(1, 0.6), candidate(2, 0.3), candidate(3, 0.0)]);
    let firsts = firsts(&router, 3_000);
    assert!(firsts[&1] > firsts[&2] && firsts[&2] > firsts[&3], "{firsts:?}");
    assert!(firsts[&3] > 0);
}

#[test]
fn of_equals_the_quick_the_idle_and_the_reliable_are_preferred() {
    let make = || router([candidate(1, 0.5), candidate(2, 0.5)]);
    let by_speed = make();
    answers(&by_speed, 1, Duration::from_millis(900));
    answers(&by_speed, 2, Duration::from_millis(100));
    let by_load = make();
    let _in_hand: Vec<_> = (0..5).map(|_| route(&by_load, 1).begin(NOW)).collect();
    let by_failures = make();
    (0..2).for_each(|_| route(&by_failures, 1).begin(NOW).failed(NOW));
    let by_quality =
        router([Candidate { quality: Some(0.2), ..candidate(1, 0.5) }, candidate(2, 0.5)]);
    let by_volume = make();
    route(&by_volume, 1).begin(NOW).succeeded(1000);
    for router in [&by_speed, &by_load, &by_failures, &by_quality, &by_volume] {
        let firsts = firsts(router, 1_000);
        assert!(firsts[&2] > 4 * firsts[&1] && firsts[&1] > 0, "{firsts:?}");
    }
    by_volume.turn();
    let firsts = firsts(&by_volume, 1_000);
    assert!(firsts[&1] > 300, "{firsts:?}");
}

#[test]
fn nobody_is_tried_twice_for_one_request_and_everybody_once() {
    let router = router((1..=5).map(|uid| candidate(uid, 0.5_f64.powi(uid.into()))));
    (0..10).for_each(|_| route(&router, 3).begin(NOW).failed(NOW));
    let routes = router.of(&task()).unwrap();
    for seed in 0..50 {
        let (mut rng, mut tried) = (ChaCha12Rng::seed_from_u64(seed), Vec::new());
        while let Some(route) = routes.choose(Some(seed), &tried, NOW, &mut rng) {
            tried.push(route.id.hotkey);
        }
        assert_eq!(tried.last(), Some(&hotkey(3)), "who keeps failing comes last");
        let different: BTreeSet<_> = tried.iter().collect();
        assert_eq!((tried.len(), different.len()), (5, 5));
    }
}

#[test]
fn a_miner_that_keeps_failing_is_left_alone_even_by_a_new_snapshot_until_it_succeeds() {
    let router = router([candidate(1, 1.0), candidate(2, 0.1)]);
    (0..3).for_each(|_| route(&router, 1).begin(NOW).failed(NOW));
    assert_eq!(firsts(&router, 50), BTreeMap::from([(2, 50)]));
    router.replace(vec![candidate(1, 1.0), candidate(2, 0.1)]);
    assert_eq!(firsts(&router, 50), BTreeMap::from([(2, 50)]));
    (0..30).for_each(|_| route(&router, 1).begin(NOW).succeeded(1));
    assert!(firsts(&router, 50)[&1] > 25);
    route(&router, 1).begin(NOW).refused(NOW);
    assert_eq!(firsts(&router, 50), BTreeMap::from([(2, 50)]));
}

#[test]
fn a_conversation_stays_with_its_miner_unless_that_one_is_much_slower() {
    let router = router((1..=8).map(|uid| candidate(uid, 0.5)));
    let routes = router.of(&task()).unwrap();
    let mut rng = ChaCha12Rng::seed_from_u64(5);
    let mut choose = |prefix| routes.choose(Some(prefix), &[], NOW, &mut rng).unwrap().uid().0;
    let own = choose(77);
    assert!((0..50).all(|_| choose(77) == own));
    let spread: BTreeSet<_> =
        (0..200).map(|n: u64| choose(n.wrapping_mul(1 << 57 | 12_345))).collect();
    assert!(spread.len() > 4, "{spread:?}");
    for uid in 1..=8 {
        answers(&router, uid, Duration::from_millis(if uid == own { 900 } else { 100 }));
    }
    assert!((0..50).all(|_| choose(77) != own));
}

#[test]
fn a_task_that_nobody_serves_has_no_routes() {
    let router = Router::default();
    assert!(!router.serves(&task()) && router.of(&task()).is_none());
}

#[test]
fn one_miner_alone_is_never_hedged() {
    for (miners, hedged) in [(1, false), (2, true)] {
        let router = router((1..=miners).map(|uid| candidate(uid, 0.5)));
        let routes = router.of(&task()).unwrap();
        assert_eq!(routes.hedge_after(), None);
        answers(&router, 1, Duration::from_millis(100));
        assert!(routes.hedge_after().is_some());
        (0..100).for_each(|_| routes.asked());
        assert_eq!(routes.may_hedge(), hedged);
    }
}
