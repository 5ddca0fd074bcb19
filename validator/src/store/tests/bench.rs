//! What recording costs while requests are served, and what it takes to sum the evidence up and to read it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Router;
use axum::routing::post;
use common::Volume;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::metrics::Metrics;
use crate::tally::{Settled, Tallies, What};
use crate::writer::writer;

const OUTCOMES_PER_SECOND: u32 = 10_000;
/// 256 miners that serve 14 tasks.
const CONTENDERS: u16 = 3_584;
/// Of the outcomes, one in so many is sent to be checked.
const CHECKED: u32 = 50;
const REQUESTS_PER_SECOND: u32 = 500;
/// With and without recording, in turns.
const BLOCKS: u32 = 6;
const BLOCK: Duration = Duration::from_secs(3);

fn somebody_of_many(name: u16) -> ContenderId {
    let mut hotkey = [5; 32];
    hotkey[..2].copy_from_slice(&name.to_be_bytes());
    contender(&Hotkey::from_bytes(hotkey))
}

/// Settles one request, as whoever has asked a miner does.
fn record(tallies: &Tallies, id: &ContenderId) {
    tallies.under_way(id, 64);
    let settled = Settled {
        organic: true,
        burst: None,
        max_tokens: 64,
        started: Duration::ZERO,
        ended: Duration::from_secs(1),
        what: What::Served { tokens: 32 },
        distorted: false,
    };
    tallies.settle(id, &settled);
}

/// Seconds per request, sent at a steady rate to a server in this process.
async fn requests(http: &reqwest::Client, url: &str) -> Vec<f64> {
    let mut turn = tokio::time::interval(Duration::from_secs(1) / REQUESTS_PER_SECOND);
    let ends = Instant::now() + BLOCK;
    let mut asking = Vec::new();
    while Instant::now() < ends {
        turn.tick().await;
        let request = http.post(url).body("x".repeat(1_000));
        asking.push(tokio::spawn(async move {
            let sent = Instant::now();
            request.send().await.unwrap().bytes().await.unwrap();
            sent.elapsed().as_secs_f64()
        }));
    }
    futures::future::join_all(asking).await.into_iter().map(Result::unwrap).collect()
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of half a minute, to be run alone with --ignored --nocapture"]
async fn requests_are_as_fast_while_ten_thousand_outcomes_a_second_are_recorded() {
    let bed = Bed::sqlite().await;
    let ids: Arc<Vec<_>> = Arc::new((0..CONTENDERS).map(somebody_of_many).collect());
    let tallies = Arc::new(Tallies::default());
    let declared = ids.iter().map(|id| (id.clone(), Volume::from(1_000_000))).collect();
    let period = bed.store.begin_period(0).await.unwrap();
    tallies.turn(period, &declared, 3_600.0);
    let metrics = Metrics::new(&mut Registry::default());
    let (sender, writer) =
        writer(Arc::clone(&tallies), metrics, bed.store.clone(), Arc::default(), 1_000_000);
    let stop = CancellationToken::new();
    let writing = tokio::spawn(writer.run(stop.clone()));

    let on = Arc::new(AtomicBool::new(false));
    let enough = CancellationToken::new();
    let recording = tokio::spawn({
        let (on, tallies, ids, enough) =
            (Arc::clone(&on), Arc::clone(&tallies), Arc::clone(&ids), enough.clone());
        async move {
            let waiting = pending_in(period, "", 0);
            let mut turn = tokio::time::interval(Duration::from_millis(1));
            let mut recorded = 0;
            while !enough.is_cancelled() {
                turn.tick().await;
                for _ in 0..if on.load(Ordering::Relaxed) { OUTCOMES_PER_SECOND / 1_000 } else { 0 }
                {
                    record(&tallies, &ids[recorded as usize % ids.len()]);
                    recorded += 1;
                    if recorded % CHECKED == 0 {
                        let mut waiting = waiting.clone();
                        waiting.check.id = recorded.to_string();
                        assert!(sender.send(waiting));
                    }
                }
            }
            recorded
        }
    });

    let router = Router::new().route("/", post(|body: String| async move { body }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let http = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().unwrap();
    requests(&http, &url).await;
    let mut taken = [Vec::new(), Vec::new()];
    for block in 0..2 * BLOCKS {
        on.store(block % 2 == 1, Ordering::Relaxed);
        taken[block as usize % 2].extend(requests(&http, &url).await);
    }
    enough.cancel();
    let recorded = recording.await.unwrap();
    stop.cancel();
    let stopped = Instant::now();
    writing.await.unwrap();
    let last = stopped.elapsed();

    let rate = f64::from(recorded) / (f64::from(BLOCKS) * BLOCK.as_secs_f64());
    let stored = bed.store.open_periods().await.unwrap().remove(&period).unwrap();
    assert_eq!(stored.values().map(|tally| tally.served).sum::<u32>(), recorded);
    assert_eq!(bed.store.checks_waiting().await.unwrap(), recorded / CHECKED);
    println!(
        "recorded: {rate:.0} outcomes/s over {CONTENDERS} contenders, one in {CHECKED} kept to be checked; all {recorded} \
         are in SQLite, the last batch after {last:.0?}"
    );
    taken.iter_mut().for_each(|taken| taken.sort_by(f64::total_cmp));
    for (name, share) in [("median", 0.5), ("90th percentile", 0.9), ("99th percentile", 0.99)] {
        let [without, with] = [&taken[0], &taken[1]].map(|taken| 1e6 * percentile(taken, share));
        println!(
            "a request takes {with:.0} µs while recording, {without:.0} µs else: {:.2} times ({name})",
            with / without
        );
    }
    let begun = Instant::now();
    for id in ids.iter().cycle().take(1_000_000) {
        record(&tallies, id);
    }
    let each = begun.elapsed() / 1_000_000;
    println!("of which the request itself waits for {each:.1?}: what it takes to record it");
    server.abort();
}

#[tokio::test]
#[ignore = "a measurement, to be run alone with --ignored --nocapture"]
async fn a_week_of_evidence_about_all_miners_of_a_subnet_is_read() {
    let bed = Bed::sqlite().await;
    let took = |what: &str, since: Instant| println!("{what}: {:.2?}", since.elapsed());
    let ids: Vec<_> = (0..CONTENDERS).map(somebody_of_many).collect();
    let tallies: BTreeMap<_, _> = ids.iter().map(|id| (id.clone(), tally(9))).collect();
    let begun = Instant::now();
    let mut last = PeriodId(0);
    for ends in 1..=12 {
        last = bed.store.begin_period(ends - 1).await.unwrap();
        bed.store.end_period(last, ends, &tallies).await.unwrap();
    }
    took(&format!("12 periods of {CONTENDERS} contenders are written"), begun);
    let begun = Instant::now();
    for verdicts in 0..5_000 {
        let waiting = pending_in(last, &verdicts.to_string(), verdicts);
        bed.store.save_verdict(&waiting, &verdict(1.0)).await.unwrap();
    }
    took("5,000 verdicts are written", begun);
    let begun = Instant::now();
    bed.store.refresh(1_000, 0.25).await.unwrap();
    took("they are summed up", begun);
    bed.tamper(
        "WITH RECURSIVE more(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM more WHERE n < 41)
         INSERT INTO stretches
         SELECT task, hotkey, 1000 * n, at_ms + 1000 * n, seconds, idle_seconds, declared, consumed, served,
             refused_within, refusal_cost, refused_beyond, failed, organic_served, organic_refusal_cost, organic_failed,
             exams, shown, shown_squared, checked, quality, organic_checked, organic_quality, speed
         FROM stretches, more",
    )
    .await;
    let begun = Instant::now();
    let mut read = 0;
    bed.store.stretches(0, |_, stretches| read += stretches.len()).await.unwrap();
    took(&format!("{read} stretches are read, 7 days of 4 hours each"), begun);
    assert!(read >= 42 * ids.len());
}
