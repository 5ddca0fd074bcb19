//! How long scoring takes and what memory it needs, from the store to weights, and how both grow with the subnet.
//!
//! `cargo run -p validator --example scoring [MINERS]...`. Every miner serves 14 tasks; the store holds seven days of
//! evidence, of which the last hours have changed since the scoring before: half-hour periods with three checked answers
//! per miner and task. A file of ten thousand miners takes about 3 GB in the system's temporary folder while it runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::{Hotkey, TaskId, Volume};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use validator::evidence::{Moment, Retention, bucket_ms, summaries};
use validator::scoring::Rules;
use validator::store::{Location, Store};
use validator::tally::ContenderId;

const TASKS: usize = 14;
const PERIOD: Duration = Duration::from_secs(1800);
/// Of seven days, in the store's buckets of four hours.
const BUCKETS: i64 = 42;
/// Periods that have ended in the newest bucket.
const NEW_PERIODS: i64 = 4;
const CHECKED: i64 = 3;
/// Some time in 2026, at the end of a bucket.
const NOW_MS: i64 = 122_500 * 14_400_000;

#[expect(clippy::print_stdout, reason = "a program whose result is what it prints")]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut sizes = std::env::args()
        .skip(1)
        .map(|size| size.parse().with_context(|| format!("`{size}` is no number of miners")))
        .collect::<anyhow::Result<Vec<usize>>>()?;
    if sizes.is_empty() {
        sizes = vec![256, 1_024, 4_096, 10_000];
    }
    println!("miners  rows      refresh  read+sum  weigh    save     total    peak memory");
    let mut last: Option<(usize, f64)> = None;
    for miners in sizes {
        let times = measure(miners).await?;
        let total: f64 = times.iter().sum();
        let rows = miners * TASKS * BUCKETS as usize;
        let [refresh, read, weigh, save] = times;
        print!(
            "{miners:>6}  {rows:>8}  {refresh:>6.2} s  {read:>6.2} s  {weigh:>5.2} s  {save:>5.2} s  \
             {total:>6.2} s  {:>5} MB",
            peak_memory_mb()?
        );
        match last.replace((miners, total)) {
            Some((fewer, before)) => println!(
                "   {:.1} x the miners, {:.1} x the time",
                miners as f64 / fewer as f64,
                total / before
            ),
            None => println!(),
        }
    }
    Ok(())
}

/// Seconds of the four parts of a scoring.
async fn measure(miners: usize) -> anyhow::Result<[f64; 4]> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("evidence.sqlite");
    let at = Location::Sqlite(path.clone());
    let tasks: Vec<TaskId> =
        (0..TASKS).map(|task| format!("task-{task:02}").parse()).collect::<Result<_, _>>()?;
    let hotkeys: Vec<Hotkey> = (0..miners).map(hotkey).collect();
    Store::open(&at).await?.close().await;
    fill(&path, &tasks, &hotkeys).await?;

    let store = Store::open(&at).await?;
    let rules = Rules::default();
    let hours = |hours: u64| Duration::from_secs(3600 * hours);
    let retention = Retention {
        evidence: hours(168),
        periods: hours(72),
        verdicts: hours(120),
        waiting_checks: hours(5),
    };
    let moment = Moment { now_ms: NOW_MS, period: PERIOD, retention };
    let declared: BTreeMap<_, _> = hotkeys
        .iter()
        .flat_map(|hotkey| {
            let of = |task: &TaskId| ContenderId { hotkey: *hotkey, task: task.clone() };
            tasks.iter().map(move |task| (of(task), Volume::from(60_000)))
        })
        .collect();
    let weights: BTreeMap<_, _> =
        tasks.iter().map(|task| (task.clone(), 1.0 / TASKS as f64)).collect();

    let mut marks = vec![Instant::now()];
    store.refresh(bucket_ms(PERIOD), rules.speed_percentile()).await?;
    marks.push(Instant::now());
    let (scorer, summed) = summaries(&store, &rules, &moment, &declared).await?;
    marks.push(Instant::now());
    let scores = scorer.weights(&weights, &summed);
    marks.push(Instant::now());
    store.save_scoring(NOW_MS, &rules, &weights, &BTreeMap::new(), &scores).await?;
    marks.push(Instant::now());
    store.close().await;

    let earned: f64 = scores.miners.values().map(|miner| miner.weight.get()).sum();
    anyhow::ensure!((earned - 1.0).abs() < 1e-6, "the weights sum to {earned}");
    let mut times = [0.0; 4];
    for (time, pair) in times.iter_mut().zip(marks.windows(2)) {
        *time = (pair[1] - pair[0]).as_secs_f64();
    }
    Ok(times)
}

fn hotkey(number: usize) -> Hotkey {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    Hotkey::from_bytes(bytes)
}

/// Writes the evidence as the validator would have left it. The database makes the rows itself: that is quicker.
async fn fill(path: &std::path::Path, tasks: &[TaskId], hotkeys: &[Hotkey]) -> anyhow::Result<()> {
    let mut file = SqliteConnection::connect(&path.display().to_string()).await?;
    let mut transaction = file.begin().await?;
    sqlx::query("CREATE TEMP TABLE who (hotkey TEXT, task TEXT)")
        .execute(&mut *transaction)
        .await?;
    for hotkey in hotkeys {
        for task in tasks {
            sqlx::query("INSERT INTO who VALUES ($1, $2)")
                .bind(hotkey.to_string())
                .bind(task.as_str())
                .execute(&mut *transaction)
                .await?;
        }
    }
    let bucket = bucket_ms(PERIOD);
    let newest = NOW_MS - bucket;
    let period_ms = i64::try_from(PERIOD.as_millis())?;
    // All but the newest bucket are as the scorings before have left them.
    for statement in [
        format!(
            "WITH RECURSIVE past(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM past WHERE n < {BUCKETS} - 1)
             INSERT INTO stretches SELECT task, hotkey, {newest} - n * {bucket}, {newest} - n * {bucket} + {bucket} / 2,
                 14400, 0, 480000, 32000, 108, 0, 0, 0, 1, 0, 0, 0, 8, 8 * 60000.0, 8 * 60000.0 * 60000.0,
                 24, 23.9, 0, 0, 40 + abs(random() % 1000) / 100.0
             FROM who JOIN past ORDER BY task, hotkey"
        ),
        format!(
            "WITH RECURSIVE past(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM past WHERE n < 8 * ({BUCKETS} - 1) - 1)
             INSERT INTO periods (started_ms, ended_ms, changed)
             SELECT {newest} - (n + 1) * {period_ms}, {newest} - n * {period_ms}, 0 FROM past ORDER BY n DESC"
        ),
        format!(
            "WITH RECURSIVE new(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM new WHERE n < {NEW_PERIODS} - 1)
             INSERT INTO periods (started_ms, ended_ms, changed)
             SELECT {newest} + n * {period_ms}, {newest} + (n + 1) * {period_ms} - 1, 1 FROM new"
        ),
        "INSERT INTO tallies (period, hotkey, task, declared, consumed, served, unreachable, exams, shown, shown_squared,
             checked, quality)
         SELECT id, hotkey, task, 60000, 4000, 13, 0, 1, 60000.0, 60000.0 * 60000.0, 3, 2.99
         FROM periods JOIN who WHERE changed = 1 ORDER BY id, hotkey, task"
            .to_owned(),
        format!(
            "WITH RECURSIVE answers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM answers WHERE n < {CHECKED})
             INSERT INTO verdicts (id, period, at_ms, hotkey, task, organic, quality, speed, ttft_s, tokens, verdict)
             SELECT id || '-' || n || '-' || who.rowid, id, started_ms + 1, hotkey, task, 0, 0.997,
                 40 + abs(random() % 1000) / 100.0, 0.2, 300, '{{}}'
             FROM periods JOIN who JOIN answers WHERE changed = 1 ORDER BY 1"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *transaction).await?;
    }
    sqlx::query("UPDATE stretches_made SET bucket_ms = $1, speed_percentile = $2")
        .bind(bucket)
        .bind(Rules::default().speed_percentile())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    file.close().await?;
    Ok(())
}

/// The most memory that this process has had, in megabytes.
fn peak_memory_mb() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("needs Linux' /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmHWM")?;
    Ok(kilobytes.trim().parse::<u64>()? / 1000)
}
