//! Reservations by thousands, and a process that is killed among them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::money::{Price, Usd};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tasks::{Catalogue, Task};

use super::*;
use crate::ledger::{Importer, Journal};
use crate::store::{Location, Store};

const NOW: i64 = 1_795_212_604_999;
const CHILD: &str = "TOUCHSTONE_TEST_KILLED_LEDGER";
const ROUND: &str = "TOUCHSTONE_TEST_KILLED_LEDGER_ROUND";
const BUDGET: Usd = Usd::from_pico(3_000_000);

fn task() -> Task {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/tasks.toml");
    let mut task = Catalogue::load(Path::new(file)).unwrap().tasks()[0].clone();
    task.price = Price { prompt: 3, completion: 7 };
    task
}

struct Bed {
    store: Store,
    gate: Arc<Gate>,
    importer: Importer,
}

async fn bed(folder: &Path, run: u64, anonymous: Option<Spec>) -> Bed {
    let at = Location::Sqlite(folder.join("x.sqlite"));
    let journals = crate::ledger::folder(&at, None, "");
    process(&at, &journals, run, anonymous).await
}

/// One of the processes on a database.
async fn process(at: &Location, journals: &Path, run: u64, anonymous: Option<Spec>) -> Bed {
    let store = Store::open(at).await.unwrap();
    let journal = Arc::new(Journal::open(journals, run, NOW).unwrap());
    let importer = Importer::start(Arc::clone(&journal), store.clone()).await.unwrap();
    let config = GateConfig { anonymous, keys: BTreeSet::new(), concurrency: 64 };
    let gate = Gate::open(config, store.clone(), journal, run).await.unwrap();
    Bed { store, gate: Arc::new(gate), importer }
}

fn spec() -> Spec {
    Spec { name: "test".to_owned(), ..Spec::default() }
}

fn used(prompt_tokens: u64, completion_tokens: u64) -> Used {
    Used { prompt_tokens, completion_tokens, ..Used::default() }
}

async fn charged(store: &Store) -> Usd {
    let mut sum = Usd::ZERO;
    let add = |entry: crate::ledger::Entry| sum = sum.plus(Usd::from_pico(entry.amount.0));
    store.ledger(i64::MIN, i64::MAX, add).await.unwrap();
    sum
}

#[tokio::test]
async fn a_key_is_let_in_as_its_limits_say() {
    let folder = tempfile::tempdir().unwrap();
    let bed = bed(folder.path(), 1, None).await;
    let task = task();
    let limits = Spec {
        requests_per_minute: Some(3),
        tokens_per_minute: Some(100),
        parallel: Some(1),
        budget: Some(Usd::from_pico(1_000)),
        ..spec()
    };
    let (key, secret) = Key::draw(limits, NOW, &mut ChaCha12Rng::seed_from_u64(1));
    assert_eq!(bed.gate.identify(Some(secret.reveal()), NOW).unwrap_err(), Denied::Unknown);
    bed.store.add_api_key(&key).await.unwrap();
    bed.gate.reload().await.unwrap();
    let enter = || bed.gate.identify(Some(secret.reveal()), NOW);
    assert_eq!(bed.gate.identify(None, NOW).unwrap_err(), Denied::NoKey);

    let first = enter().unwrap();
    assert_eq!(enter().unwrap_err(), Denied::Parallel { limit: 1 });
    let levels = first.levels();
    let first = first.reserve(&task, 10, 80, 1, NOW).await.unwrap();
    assert_eq!(levels.headers(NOW).tokens.map(|level| level.remaining), Some(10));
    assert_eq!(first.settle(used(10, 20), NOW), Ok(Usd::from_pico(170)));

    let second = enter().unwrap();
    assert_eq!(second.levels().headers(NOW).tokens.map(|level| level.remaining), Some(70));
    let wait = std::time::Duration::from_secs(6);
    let denied = Denied::Tokens { limit: 100, needs: 80, wait };
    assert_eq!(second.reserve(&task, 79, 1, 1, NOW).await.unwrap_err(), denied);
    let third = enter().unwrap();
    let left = Usd::from_pico(830);
    let denied = third.reserve(&task, 0, 70, 2, NOW).await.unwrap_err();
    assert_eq!(denied, Denied::Budget { needs: Usd::from_pico(980), left });
    assert!(matches!(enter().unwrap_err(), Denied::Requests { limit: 3, .. }));

    let revoke = |key: &mut Key| {
        key.revoked_ms = Some(NOW);
        Ok::<_, crate::store::StoreError>(())
    };
    bed.store.change_api_key(&key.id, revoke).await.unwrap().unwrap();
    bed.gate.reload().await.unwrap();
    assert_eq!(enter().unwrap_err(), Denied::Revoked);
    bed.importer.import().await.unwrap();
    assert_eq!(charged(&bed.store).await, Usd::from_pico(170));
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_given_away() {
    let folder = tempfile::tempdir().unwrap();
    let bed = bed(folder.path(), 1, Some(Spec { budget: Some(BUDGET), ..spec() })).await;
    std::fs::remove_dir_all(folder.path().join("x.sqlite-ledger")).unwrap();
    let mut task = task();
    let enter = || bed.gate.identify(None, NOW).unwrap();
    // The first is noticed at its end, all others before they begin.
    let first = enter().reserve(&task, 1, 1, 1, NOW).await.unwrap();
    assert_eq!(first.settle(used(1, 1), NOW), Err(Denied::NoLedger));
    assert_eq!(enter().reserve(&task, 1, 1, 1, NOW).await.unwrap_err(), Denied::NoLedger);
    task.price = Price::default();
    let free = enter().reserve(&task, 1, 1, 1, NOW).await.unwrap();
    assert_eq!(free.settle(used(1, 1), NOW), Ok(Usd::ZERO));
}

/// Sends so many requests, and returns what the settled ones were said to cost.
async fn spend(gate: &Arc<Gate>, task: &Task, worker: u64, requests: u32, now_ms: i64) -> Usd {
    let mut rng = ChaCha12Rng::seed_from_u64(worker);
    let mut acknowledged = Usd::ZERO;
    for _ in 0..requests {
        let (prompt, most) = (rng.random_range(1..100), rng.random_range(1..200));
        let admission = gate.identify(None, now_ms).unwrap();
        let reserved = admission.reserve(task, prompt, most, 1, now_ms).await;
        let Ok(reservation) = reserved else { continue };
        if rng.random_bool(0.8) {
            // Miners may claim more than was asked for.
            let answer = used(prompt + 5, rng.random_range(0..2 * u64::from(most)));
            acknowledged = acknowledged.plus(reservation.settle(answer, now_ms).unwrap());
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousands_at_once_never_exceed_a_budget_and_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let budget = Usd::from_pico(500_000);
    let bed = bed(folder.path(), 1, Some(Spec { budget: Some(budget), ..spec() })).await;
    let task = Arc::new(task());
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let (gate, task) = (Arc::clone(&bed.gate), Arc::clone(&task));
        workers.spawn(async move { spend(&gate, &task, worker, 500, NOW).await });
    }
    let acknowledged = workers.join_all().await.into_iter().fold(Usd::ZERO, Usd::plus);
    bed.importer.import().await.unwrap();
    assert_eq!(charged(&bed.store).await, acknowledged);
    assert!(acknowledged <= budget && acknowledged.pico() > budget.pico() * 9 / 10);
    assert_eq!(bed.store.count_cut_off("0000000000000001").await.unwrap(), 0);
}

#[tokio::test]
async fn a_kill_at_any_moment_loses_and_doubles_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = ChaCha12Rng::seed_from_u64(7);
    let mut acknowledged = BTreeMap::new();
    let mut in_flight = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "keys::tests::charges_until_killed"])
            .env(CHILD, folder.path())
            .env(ROUND, round.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut note = |line: String| {
            let words: Vec<_> = line.split(' ').collect();
            if let ["ACK", id, pico] = words[..] {
                let pico: i64 = pico.parse().unwrap();
                assert_eq!(acknowledged.insert(id.to_owned(), pico), None, "no id twice");
                return 1;
            }
            0
        };
        let (lives_for, mut acks) = (rng.random_range(5..400), 0);
        while acks < lives_for {
            acks += note(lines.next().expect("the child goes on until it is killed").unwrap());
        }
        // SIGKILL, in the midst of whatever it does by now.
        child.kill().unwrap();
        lines.map_while(Result::ok).for_each(|line| _ = note(line));
        child.wait().unwrap();
        in_flight += 4;

        let bed = bed(folder.path(), 1_000 + round, None).await;
        let mut ledger = BTreeMap::new();
        let entries = |entry: crate::ledger::Entry| {
            assert_eq!(ledger.insert(entry.id, entry.amount.0), None, "no id twice");
        };
        bed.store.ledger(i64::MIN, i64::MAX, entries).await.unwrap();
        for (id, pico) in &acknowledged {
            assert_eq!(ledger.get(id), Some(pico), "{id} was acknowledged");
        }
        // Beyond that there is at most what each of the four workers was about to acknowledge.
        assert!(ledger.len() <= acknowledged.len() + in_flight);
        let sum: i64 = ledger.values().sum();
        assert_eq!(charged(&bed.store).await.pico(), sum);
        assert!(sum <= BUDGET.pico() * 100, "the budget holds over all runs");
        bed.store.close().await;
    }
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "run, and killed, by the test above"]
async fn charges_until_killed() {
    let (Ok(folder), Ok(round)) = (std::env::var(CHILD), std::env::var(ROUND)) else { return };
    let round: u64 = round.parse().unwrap();
    let budget = Some(Usd::from_pico(BUDGET.pico() * 100));
    let Bed { gate, importer, .. } =
        bed(Path::new(&folder), round, Some(Spec { budget, ..spec() })).await;
    let task = Arc::new(task());
    for worker in 0..4 {
        let (gate, task) = (Arc::clone(&gate), Arc::clone(&task));
        tokio::spawn(async move {
            let mut rng = ChaCha12Rng::seed_from_u64(round * 10 + worker);
            loop {
                let admission = gate.identify(None, NOW).unwrap();
                let reserved = admission.reserve(&task, 50, 100, 1, NOW).await;
                let Ok(reservation) = reserved else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let id = reservation.id().to_owned();
                if rng.random_bool(0.9) {
                    let used = used(rng.random_range(0..50), rng.random_range(0..100));
                    let amount = reservation.settle(used, NOW).unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ACK {id} {}", amount.pico()).unwrap();
                    out.flush().unwrap();
                }
            }
        });
    }
    loop {
        importer.import().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_on_one_database_spend_a_budget_together_and_never_more() {
    let folder = tempfile::tempdir().unwrap();
    let budget = Usd::from_pico(500_000);
    let anonymous = Some(Spec { budget: Some(budget), ..spec() });
    let at = Location::Sqlite(folder.path().join("x.sqlite"));
    let mut processes = Vec::new();
    for number in 0..3 {
        let journals = folder.path().join(number.to_string());
        processes.push(process(&at, &journals, number, anonymous.clone()).await);
    }
    let task = Arc::new(task());
    let mut acknowledged = Usd::ZERO;
    // Each time all of them learn how many there are, and give back what they did not use.
    for round in 0..4_i64 {
        let now_ms = NOW + round * 60_000;
        let mut workers = tokio::task::JoinSet::new();
        for bed in &processes {
            bed.gate.renew(now_ms).await.unwrap();
            let (gate, task) = (Arc::clone(&bed.gate), Arc::clone(&task));
            workers.spawn(async move { spend(&gate, &task, 9, 300, now_ms).await });
        }
        acknowledged = workers.join_all().await.into_iter().fold(acknowledged, Usd::plus);
        for bed in &processes {
            bed.gate.renew(now_ms).await.unwrap();
            bed.importer.import().await.unwrap();
            bed.gate.give_back_idle(now_ms + 30_000).await.unwrap();
        }
        assert!(acknowledged <= budget, "{acknowledged}");
    }
    assert_eq!(charged(&processes[0].store).await, acknowledged);
    assert!(acknowledged.pico() > budget.pico() * 99 / 100, "{acknowledged}");
}

#[tokio::test]
async fn limits_are_divided_and_a_budget_that_was_lowered_holds_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let bed = bed(folder.path(), 1, None).await;
    let limits = Spec {
        requests_per_minute: Some(10),
        parallel: Some(3),
        budget: Some(Usd::from_pico(1_000_000)),
        ..spec()
    };
    let made = edit::create(&bed.store, limits.clone()).await.unwrap();
    bed.gate.reload().await.unwrap();
    let task = task();
    let enter = || bed.gate.identify(Some(&made.secret), NOW);
    let spent = enter().unwrap().reserve(&task, 10, 10, 1, NOW).await.unwrap();
    spent.settle(used(10, 10), NOW).unwrap();
    bed.importer.import().await.unwrap();

    let lower = Spec { budget: Some(Usd::from_pico(150)), ..limits };
    let change = |key: &mut Key| {
        key.spec = lower.clone();
        Ok::<_, crate::store::StoreError>(())
    };
    bed.store.change_api_key(&made.key.id, change).await.unwrap().unwrap();
    bed.gate.reload().await.unwrap();
    let denied = enter().unwrap().reserve(&task, 10, 10, 1, NOW).await.unwrap_err();
    let left = Usd::from_pico(50);
    assert_eq!(denied, Denied::Budget { needs: Usd::from_pico(100), left });

    // Another process appears.
    bed.store.renew_leases("other", NOW, 60_000).await.unwrap();
    bed.gate.renew(NOW).await.unwrap();
    let levels = bed.gate.levels(Some(&made.secret)).unwrap().headers(NOW).requests.unwrap();
    assert_eq!((levels.limit, levels.remaining), (10, 6));
    let both = (enter().unwrap(), enter().unwrap());
    assert_eq!(enter().unwrap_err(), Denied::Parallel { limit: 3 });
    drop(both);
    // It has not been heard of for a minute.
    bed.gate.renew(NOW + 60_001).await.unwrap();
    let three = [enter().unwrap(), enter().unwrap(), enter().unwrap()];
    assert_eq!(enter().unwrap_err(), Denied::Parallel { limit: 3 });
    drop(three);
}

#[tokio::test]
async fn where_no_key_is_needed_only_what_looks_like_one_has_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let bed = bed(folder.path(), 1, Some(spec())).await;
    let key = |bearer| bed.gate.identify(bearer, NOW).map(|admission| admission.key().to_owned());
    for bearer in [None, Some("none"), Some("sk-1234"), Some("")] {
        assert_eq!(key(bearer).as_deref(), Ok("anonymous"), "{bearer:?}");
    }
    assert_eq!(key(Some("ts-0123")), Err(Denied::Unknown));
    let made = edit::create(&bed.store, spec()).await.unwrap();
    bed.gate.reload().await.unwrap();
    assert_eq!(key(Some(&made.secret)), Ok(made.key.id));
}
