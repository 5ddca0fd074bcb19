//! What the organic API costs on top of a bare proxy.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::task::JoinSet;
use validator::gateway::nanoseconds_per_choice;

use crate::load::{Callers, Stream, percentile};
use crate::process::{MEASURED, REST, Running, has_taskset};
use crate::report::{Numbers, Report, Streams};

/// Requests of one block, and connections that send them.
const CONNECTIONS: usize = 8;
/// Miners of the governed API.
const MINERS: &str = "256";
/// Blocks of each program: there and back again, so that a machine that grows slower is slower for all.
const ROUNDS: usize = 4;
const STREAMED: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Requests of each block.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000)]
    requests: u64,
    /// Streams that are held at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    streams: usize,
    /// Write the table into this document instead, for example docs/performance.md.
    #[arg(long, value_name = "FILE")]
    write: Option<std::path::PathBuf>,
}

struct Subject {
    name: &'static str,
    running: Running,
    callers: Callers,
}

impl Subject {
    async fn start(name: &'static str, arguments: &[&str]) -> anyhow::Result<Self> {
        let running = Running::start(arguments, MEASURED).await?;
        let callers = Callers::of(&running);
        Ok(Self { name, running, callers })
    }
}

#[expect(clippy::print_stdout, reason = "the result of a command belongs on standard output")]
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let report = measure(options).await?;
    match &options.write {
        Some(path) => std::fs::write(path, report.document())
            .with_context(|| format!("{} cannot be written", path.display()))?,
        None if options.json => println!("{}", report.json()?),
        None => println!("{}", report.table()),
    }
    Ok(())
}

async fn measure(options: &Options) -> anyhow::Result<Report> {
    let folder = std::env::temp_dir().join(format!("touchstone-bench-{}", std::process::id()));
    let result = measure_in(options, &folder).await;
    // What is left of a store that nobody needs.
    let _ = std::fs::remove_dir_all(&folder);
    result
}

async fn measure_in(options: &Options, folder: &Path) -> anyhow::Result<Report> {
    pin_callers();
    let mock = Running::start(&["mock", MINERS], REST).await?;
    let upstream = mock.address.to_string();
    let folder_of = |name: &str| -> anyhow::Result<String> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        folder.to_str().map(str::to_owned).context("the temporary folder's name is no text")
    };
    let (bare, governed) = (folder_of("bare")?, folder_of("governed")?);
    let mut subjects = Vec::new();
    for (name, arguments) in [
        ("plain hyper proxy", vec!["proxy", &upstream]),
        ("the same again", vec!["proxy", &upstream]),
        ("API, one miner, no keys", vec!["api", &upstream, "1", "--folder", &bare]),
        ("API, governed", vec!["api", &upstream, MINERS, "--governed", "--folder", &governed]),
    ] {
        subjects.push(Subject::start(name, &arguments).await?);
    }
    let direct = Callers::of(&mock);

    let mut numbers: Vec<Numbers> =
        subjects.iter().map(|subject| Numbers::new(subject.name)).collect();
    for (numbers, subject) in numbers.iter_mut().zip(&subjects) {
        numbers.idle_kib = subject.running.rss_kib()?;
        // Connections, and sessions with all miners.
        subject.callers.ask_many(CONNECTIONS, 4_000).await?;
    }
    for round in 0..ROUNDS {
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let subject = &subjects[index];
            let before = subject.running.cpu_us()?;
            subject.callers.ask_many(CONNECTIONS, options.requests).await?;
            let used = subject.running.cpu_us()? - before;
            numbers[index].cpu_us.push(used / options.requests as f64);
        }
    }
    let mut alone = times(&direct).await?;
    for (numbers, subject) in numbers.iter_mut().zip(&subjects) {
        let mut through = times(&subject.callers).await?;
        numbers.added = [50, 99].map(|percent| {
            percentile(&mut through, percent).as_secs_f64()
                - percentile(&mut alone, percent).as_secs_f64()
        });
    }
    let alone = one_by_one(&direct).await?;
    for (numbers, subject) in numbers.iter_mut().zip(&subjects) {
        let through = one_by_one(&subject.callers).await?;
        numbers.streams = Streams::added(through, &alone);
        let (lost, kib) = held(subject, options.streams).await?;
        numbers.streams.lost += lost;
        numbers.kib_per_stream = kib;
    }
    let mut routing = Vec::new();
    for miners in [10, 256, 1_000, 10_000] {
        routing.push((miners, nanoseconds_per_choice(miners)?));
    }
    Ok(Report { numbers, routing, streams: options.streams, pinned: has_taskset() })
}

/// Callers share a core with the mock miner, so that what is measured has the other one.
fn pin_callers() {
    let pid = std::process::id().to_string();
    // Without it the figures are as good as the machine is idle; the report says so.
    let _ = std::process::Command::new("taskset")
        .args(["-pc", &REST.to_string(), &pid])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
}

/// Of many requests, one after the other.
async fn times(callers: &Callers) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..5_000 {
        times.push(callers.ask().await?);
    }
    Ok(times)
}

/// Streams that begin one after the other, a few at once.
async fn one_by_one(callers: &Callers) -> anyhow::Result<Vec<Stream>> {
    let mut seen = Vec::new();
    for _ in 0..STREAMED / 20 {
        seen.extend(together(callers, 20).await?);
    }
    Ok(seen)
}

async fn together(callers: &Callers, count: usize) -> anyhow::Result<Vec<Stream>> {
    let mut running = JoinSet::new();
    for _ in 0..count {
        let callers = callers.clone();
        running.spawn(async move { callers.stream().await });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut seen = Vec::new();
    while let Some(ended) = running.join_next().await {
        seen.push(ended??);
    }
    Ok(seen)
}

/// Holds many streams at once: frames that were lost, and memory per stream in KiB.
async fn held(subject: &Subject, count: usize) -> anyhow::Result<(u32, f64)> {
    let before = subject.running.rss_kib()?;
    let mut running = JoinSet::new();
    for _ in 0..count {
        let callers = subject.callers.clone();
        running.spawn(async move { callers.stream().await });
    }
    let (mut most, mut lost) = (before, 0);
    loop {
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(stream) => lost += stream??.lost,
                None => break,
            },
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                most = most.max(subject.running.rss_kib()?);
            }
        }
    }
    Ok((lost, (most - before) / count as f64))
}
