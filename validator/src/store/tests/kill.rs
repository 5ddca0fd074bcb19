//! A process that is killed at any moment loses nothing that the store has acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use common::{BlockNumber, MechanismId};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::*;

on_both!(a_process_that_is_killed_at_any_moment_loses_nothing_that_was_acknowledged);

const ROUNDS: u32 = 10;
/// Where the child writes, and which round it is.
const CHILD: &str = "TOUCHSTONE_TEST_KILLED_STORE";
const ROUND: &str = "TOUCHSTONE_TEST_KILLED_ROUND";

/// What the child was told by the store, over all rounds.
#[derive(Debug, Default)]
struct Acknowledged {
    /// Served answers of the periods that have ended.
    ended: BTreeMap<i64, i64>,
    /// The last running totals of each period.
    running: BTreeMap<i64, i64>,
    queued: BTreeSet<String>,
    judged: BTreeSet<String>,
    weights: BTreeSet<i64>,
    submitted: BTreeSet<i64>,
}

impl Acknowledged {
    fn note(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let number = |word: &str| word.parse::<i64>().unwrap();
        match words[..] {
            ["ACK", "ended", period, served] => {
                self.ended.insert(number(period), number(served));
            }
            ["ACK", "running", period, served] => {
                self.running.insert(number(period), number(served));
            }
            ["ACK", "queued", id] => _ = self.queued.insert(id.to_owned()),
            ["ACK", "judged", id] => _ = self.judged.insert(id.to_owned()),
            ["ACK", "submitted", at_ms] => _ = self.submitted.insert(number(at_ms)),
            ["ACK", "weights", block] => _ = self.weights.insert(number(block)),
            // The test harness's own words.
            _ => {}
        }
    }
}

async fn a_process_that_is_killed_at_any_moment_loses_nothing_that_was_acknowledged(mut bed: Bed) {
    let mut rng = ChaCha12Rng::seed_from_u64(9);
    let mut acknowledged = Acknowledged::default();
    for round in 0..ROUNDS {
        bed.store.close().await;
        let mut child = child(&bed.at, round);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lives_for = rng.random_range(5..200);
        let mut acks = 0;
        while acks < lives_for {
            let line = lines.next().expect("the child goes on until it is killed").unwrap();
            acks += i32::from(line.starts_with("ACK"));
            acknowledged.note(&line);
        }
        // SIGKILL, in the midst of whatever it does by now.
        child.kill().unwrap();
        for line in lines.map_while(Result::ok) {
            acknowledged.note(&line);
        }
        child.wait().unwrap();
        bed.store = Store::open(&bed.at).await.unwrap();
        check(&bed, &acknowledged).await;
    }
    assert!(acknowledged.ended.len() > 5 && acknowledged.weights.len() > 5, "{acknowledged:?}");
    assert!(acknowledged.judged.len() > 20, "{acknowledged:?}");
}

async fn check(bed: &Bed, acknowledged: &Acknowledged) {
    let rows = async |sql: &'static str| {
        let mut transaction = bed.store.database.begin().await.unwrap();
        transaction.all(sql, &[]).await.unwrap()
    };
    let texts = async |sql: &'static str| {
        let rows = rows(sql).await;
        let texts: Vec<_> =
            rows.iter().map(|row| row.fields().text().unwrap().to_owned()).collect();
        let set: BTreeSet<_> = texts.iter().cloned().collect();
        assert_eq!(set.len(), texts.len(), "each is there once");
        set
    };
    if let Location::Sqlite(_) = bed.at {
        assert_eq!(texts("PRAGMA integrity_check").await, BTreeSet::from(["ok".to_owned()]));
        assert!(rows("PRAGMA foreign_key_check").await.is_empty());
    }
    // A process that is killed right after it began a period has no totals in it.
    let totals: BTreeMap<i64, (bool, i64)> = rows(
        "SELECT id, COALESCE(ended_ms, -1), CAST(COALESCE(SUM(served), 0) AS BIGINT)
         FROM periods LEFT JOIN tallies ON tallies.period = periods.id GROUP BY id, ended_ms",
    )
    .await
    .iter()
    .map(|row| {
        let mut fields = row.fields();
        (fields.int().unwrap(), (fields.int().unwrap() >= 0, fields.int().unwrap()))
    })
    .collect();
    for (period, served) in &acknowledged.ended {
        assert_eq!(totals.get(period), Some(&(true, *served)), "period {period} has ended");
    }
    for (period, served) in &acknowledged.running {
        assert!(totals[period].1 >= *served, "running totals of period {period}");
    }
    let waiting = texts("SELECT id FROM pending_checks").await;
    let judged = texts("SELECT id FROM verdicts").await;
    assert!(waiting.is_disjoint(&judged));
    assert!(judged.is_superset(&acknowledged.judged));
    for id in &acknowledged.queued {
        assert!(waiting.contains(id) || judged.contains(id), "{id} waits or is judged");
    }
    // Sums and rows of verdicts are written together.
    let sums = bed.number("SELECT CAST(SUM(checked) AS BIGINT) FROM tallies").await;
    assert_eq!(sums, i64::try_from(judged.len()).unwrap());
    let blocks: Vec<i64> = rows("SELECT block FROM weights_set")
        .await
        .iter()
        .map(|row| row.fields().int().unwrap())
        .collect();
    let set: BTreeSet<_> = blocks.iter().copied().collect();
    assert_eq!(set.len(), blocks.len(), "weights are there once");
    assert!(set.is_superset(&acknowledged.weights));
    // With all that a commit needs to be revealed.
    let open = bed.store.open_submissions().await.unwrap();
    let open: BTreeSet<_> = open.iter().map(|kept| kept.at_ms).collect();
    assert!(open.is_superset(&acknowledged.submitted));
}

fn child(at: &Location, round: u32) -> Child {
    let url = match at {
        Location::Sqlite(path) => path.display().to_string(),
        Location::Postgres(url) => url.clone(),
    };
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "store::tests::kill::writes_until_killed"])
        .env(CHILD, url)
        .env(ROUND, round.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A validator's life as far as the store can tell, with a line for everything that the store acknowledges.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run, and killed, by the test above"]
async fn writes_until_killed() {
    let (Ok(at), Ok(round)) = (std::env::var(CHILD), std::env::var(ROUND)) else { return };
    let round: i64 = round.parse().unwrap();
    let store = Store::open(&at.parse().unwrap()).await.unwrap();
    let said = |line: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "ACK {line}").unwrap();
        out.flush().unwrap();
    };
    let served = |tallies: &BTreeMap<ContenderId, Tally>| {
        tallies.values().map(|tally| tally.served).sum::<u32>()
    };
    for (period, tallies) in store.open_periods().await.unwrap() {
        store.end_period(period, round * 1_000, &tallies).await.unwrap();
        said(format!("ended {} {}", period.0, served(&tallies)));
    }
    for turn in 0..100_000_i64 {
        let period = store.begin_period(round * 1_000 + turn).await.unwrap();
        let mut tallies: BTreeMap<_, _> =
            (1..=50).map(|name| (somebody(name), Tally::default())).collect();
        tallies.insert(alice(), Tally::default());
        for flush in 0..4 {
            for tally in tallies.values_mut() {
                tally.served += 1;
            }
            store.save_tallies(period, &tallies).await.unwrap();
            said(format!("running {} {}", period.0, served(&tallies)));
            let ids: Vec<_> = (0..3).map(|id| format!("{round}-{turn}-{flush}-{id}")).collect();
            let waiting: Vec<_> = ids.iter().map(|id| pending_in(period, id, turn)).collect();
            store.queue_checks(&waiting, u32::MAX).await.unwrap();
            ids.iter().for_each(|id| said(format!("queued {id}")));
            for pending in store.next_checks(2).await.unwrap() {
                store.save_verdict(&pending, &verdict(0.5)).await.unwrap();
                said(format!("judged {}", pending.check.id));
            }
        }
        store.end_period(period, round * 1_000 + turn + 1, &tallies).await.unwrap();
        said(format!("ended {} {}", period.0, served(&tallies)));
        store.refresh(10, 0.5).await.unwrap();
        let block = round * 1_000_000 + turn;
        let set = WeightsOnChain {
            at_ms: turn,
            mechanism: MechanismId(0),
            block: BlockNumber(u64::try_from(block).unwrap()),
            weights: Vec::new(),
            scoring: None,
        };
        store.save_weights(&set).await.unwrap();
        said(format!("weights {block}"));
        let stage = chain::Stage::Sent;
        let kept = KeptSubmission::new(
            block,
            crate::weights::tests::hashed(950, stage),
            Vec::new(),
            None,
            Duration::from_secs(12),
        );
        store.keep_submission(&kept).await.unwrap();
        said(format!("submitted {block}"));
    }
}
