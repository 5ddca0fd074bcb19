//! What the organic API costs on top of a bare proxy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use validator::gateway::nanoseconds_per_choice;

use crate::load::{Callers, Stream, percentile};
use crate::mock::{DIE, GIVEN_UP};
use crate::others::Other;
use crate::process::{MEASURED, REST, Running, found};
use crate::report::{Death, Numbers, Report};

/// Connections that send the requests of one block.
const CONNECTIONS: usize = 8;
/// Miners of the governed API.
const MINERS: u16 = 256;
/// Blocks of each program: there and back again, so that a machine that grows slower is slower for all.
const ROUNDS: usize = 6;
/// Requests, one after the other, of one block that looks at latency.
const ALONE: usize = 500;
/// Streams at once, of one block that looks at the times of frames.
const TOGETHER: usize = 20;
/// Callers that leave.
const LEAVE: usize = 50;
/// Until what was charged is in the ledger, and until a mock knows who left.
const SETTLED: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// A tenth of everything: to see whether it works, not what it comes to.
    #[arg(long)]
    quick: bool,
    /// Requests of each block.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000)]
    requests: u64,
    /// Streams that are held at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 2_000)]
    streams: usize,
    /// Write the table into this document instead, for example docs/performance.md.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

struct Subject {
    numbers: Numbers,
    running: Running,
    callers: Callers,
    /// Not ours: what it cannot do is said and does not end the run.
    other: Option<Other>,
}

impl Subject {
    fn new(name: &'static str, running: Running, other: Option<Other>) -> Self {
        let callers = Callers::of(&running);
        Self { numbers: Numbers::new(name), running, callers, other }
    }

    /// How many of so many are enough to measure it.
    fn some_of(&self, number: usize) -> usize {
        if self.other.is_some_and(Other::is_slow) { (number / 20).max(1) } else { number }
    }

    /// Takes note of what a program of others cannot do.
    ///
    /// # Errors
    /// If it is one of ours.
    fn bear(&mut self, done: anyhow::Result<()>) -> anyhow::Result<()> {
        match done {
            Err(error) if self.other.is_some() => {
                say(&format!("{}: {error:#}", self.numbers.name));
                self.numbers.failed = true;
                Ok(())
            }
            done => done,
        }
    }

    async fn warm_up(&mut self) -> anyhow::Result<()> {
        self.numbers.idle_kib = self.running.rss_kib()?;
        // Connections, and sessions with all miners.
        let count = self.some_of(4_000);
        self.callers.ask_many(CONNECTIONS, count as u64).await
    }

    async fn cpu(&mut self, requests: usize) -> anyhow::Result<()> {
        let (before, began) = (self.running.cpu_us()?, Instant::now());
        let count = self.some_of(requests);
        self.callers.ask_many(CONNECTIONS, count as u64).await?;
        let used = self.running.cpu_us()? - before;
        self.numbers.cpu_us.push(used / count as f64);
        self.numbers.rates.push(count as f64 / began.elapsed().as_secs_f64());
        Ok(())
    }

    async fn latency(&mut self) -> anyhow::Result<()> {
        let count = self.some_of(ALONE);
        self.numbers.times.extend(times(&self.callers, count).await?);
        self.numbers.streams.extend(together(&self.callers, TOGETHER).await?);
        Ok(())
    }

    async fn many_streams(&mut self, streams: usize, mock: &Callers) -> anyhow::Result<()> {
        let streams = self.some_of(streams);
        hold(self, streams).await?;
        self.numbers.left = leave(&self.callers, mock).await?;
        Ok(())
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
    let part = if options.quick { 10 } else { 1 };
    let (rounds, streams) = (if options.quick { 2 } else { ROUNDS }, options.streams / part);
    let requests = usize::try_from(options.requests)? / part;
    let mock = Running::start(&["mock", &MINERS.to_string()], REST).await?;
    let direct = Subject::new("none", mock, None);
    let (mut subjects, missing) = subjects(&direct, folder).await?;

    for subject in &mut subjects {
        let done = subject.warm_up().await;
        subject.bear(done)?;
    }
    let rig = rate(&direct, requests).await?;
    for round in 0..rounds {
        say(&format!("CPU per request, block {} of {rounds}", round + 1));
        for subject in in_turn(&mut subjects, round) {
            let done = subject.cpu(requests).await;
            subject.bear(done)?;
        }
    }
    let (mut alone, mut alone_streams) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        say(&format!("latency, block {} of {rounds}", round + 1));
        alone.extend(times(&direct.callers, ALONE).await?);
        alone_streams.extend(together(&direct.callers, TOGETHER).await?);
        for subject in in_turn(&mut subjects, round) {
            let done = subject.latency().await;
            subject.bear(done)?;
        }
    }
    for subject in in_turn(&mut subjects, 0) {
        say(&format!("{streams} streams at once through {}", subject.numbers.name));
        let done = subject.many_streams(streams, &direct.callers).await;
        subject.bear(done)?;
    }
    say("a tenth of the miners dies");
    let governed = subjects.iter().find(|subject| subject.numbers.name == GOVERNED);
    let governed = governed.context("the governed API is not there")?;
    let death = death(governed, &direct.callers, requests).await?;
    let mut routing = Vec::new();
    for miners in [10, 256, 1_000, 10_000] {
        routing.push((miners, nanoseconds_per_choice(miners)?));
    }
    let numbers = subjects.into_iter().map(|subject| subject.numbers).collect();
    let pinned = found("taskset").is_some();
    Ok(Report { numbers, alone, alone_streams, routing, streams, death, rig, pinned, missing })
}

/// The API with everything that an operator needs.
pub(crate) const GOVERNED: &str = "API, governed";

/// The floor of the programs of others, which get plain answers.
pub(crate) const PLAIN: &str = "hyper proxy, plain answers";

/// Starts all programs, and says which are not installed.
async fn subjects(
    direct: &Subject,
    folder: &Path,
) -> anyhow::Result<(Vec<Subject>, Vec<&'static str>)> {
    let address = direct.running.address;
    let upstream = address.to_string();
    let folder_of = |name: &str| -> anyhow::Result<String> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        folder.to_str().map(str::to_owned).context("the temporary folder's name is no text")
    };
    let (bare, governed) = (folder_of("bare")?, folder_of("governed")?);
    let miners = MINERS.to_string();
    let (mut subjects, mut missing) = (Vec::new(), Vec::new());
    for (name, arguments) in [
        ("plain hyper proxy", vec!["proxy", &upstream, "--miners"]),
        ("the same again", vec!["proxy", &upstream, "--miners"]),
        ("API, one miner, no keys", vec!["api", &upstream, "1", "--folder", &bare]),
        (GOVERNED, vec!["api", &upstream, &miners, "--governed", "--folder", &governed]),
    ] {
        let running = Running::start(&arguments, MEASURED).await?;
        subjects.push(Subject::new(name, running, None));
    }
    let plain = Running::start(&["proxy", &upstream], MEASURED).await?;
    subjects.push(Subject::new(PLAIN, plain, None));
    for other in Other::ALL {
        say(&format!("starting {}", other.name()));
        let folder = folder_of(other.name())?;
        match other.start(address, Path::new(&folder)).await {
            Ok(Some(running)) => subjects.push(Subject::new(other.name(), running, Some(other))),
            Ok(None) => missing.push(other.name()),
            Err(error) => {
                say(&format!("{error:#}"));
                missing.push(other.name());
            }
        }
    }
    Ok((subjects, missing))
}

/// Progress; the result alone goes to standard output.
#[expect(clippy::print_stderr, reason = "progress of a command that takes minutes")]
fn say(what: &str) {
    eprintln!("{what}");
}

/// There, and in every other round back again; without those that have failed.
fn in_turn(subjects: &mut [Subject], round: usize) -> Vec<&mut Subject> {
    let works = |subject: &&mut Subject| !subject.numbers.failed;
    let mut order: Vec<_> = subjects.iter_mut().filter(works).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
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

/// Requests per second that the rig itself can do.
async fn rate(direct: &Subject, requests: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    direct.callers.ask_many(CONNECTIONS, requests as u64).await?;
    Ok(requests as f64 / began.elapsed().as_secs_f64())
}

/// Of requests, one after the other.
async fn times(callers: &Callers, count: usize) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        times.push(callers.ask().await?);
    }
    Ok(times)
}

/// Streams that begin one after the other and run together.
async fn together(callers: &Callers, count: usize) -> anyhow::Result<Vec<Stream>> {
    let mut running = JoinSet::new();
    for _ in 0..count {
        let callers = callers.clone();
        running.spawn(async move { callers.stream().await });
        sleep(Duration::from_millis(1)).await;
    }
    let mut seen = Vec::new();
    while let Some(ended) = running.join_next().await {
        seen.push(ended??);
    }
    Ok(seen)
}

/// Holds half as many streams, then all: what is lost, and the memory that each of the second half takes.
async fn hold(subject: &mut Subject, streams: usize) -> anyhow::Result<()> {
    let (half, lost) = hold_so_many(subject, streams / 2).await?;
    subject.numbers.lost += lost;
    let (whole, lost) = hold_so_many(subject, streams).await?;
    subject.numbers.lost += lost;
    let more = (streams - streams / 2) as f64;
    subject.numbers.kib_per_stream = (whole - half).max(0.0) / more;
    Ok(())
}

/// Memory with so many streams, in KiB, and how many frames were lost. A stream that failed has lost all of its own.
async fn hold_so_many(subject: &Subject, count: usize) -> anyhow::Result<(f64, u32)> {
    let mut running = JoinSet::new();
    for _ in 0..count {
        let callers = subject.callers.clone();
        running.spawn(async move { callers.stream().await });
    }
    let (mut most, mut lost) = (0.0_f64, 0);
    loop {
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(stream) => lost += stream?.map_or(crate::mock::FRAMES, |stream| stream.lost),
                None => return Ok((most, lost)),
            },
            () = sleep(Duration::from_millis(50)) => {
                most = most.max(subject.running.rss_kib()?);
            }
        }
    }
}

/// Leaves streams, and asks the mock when it learnt of each.
async fn leave(callers: &Callers, mock: &Callers) -> anyhow::Result<Vec<Duration>> {
    let given_up = async || -> anyhow::Result<Vec<u64>> {
        Ok(serde_json::from_value(mock.get(GIVEN_UP).await?)?)
    };
    let mut took = Vec::new();
    for _ in 0..LEAVE {
        let before = given_up().await?.len();
        let left = callers.leave().await?;
        let learnt = async {
            loop {
                if let Some(at) = given_up().await?.get(before) {
                    return anyhow::Ok(*at);
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        // Who never cancels has the whole stream's time.
        let at = timeout(SETTLED, learnt).await.unwrap_or(Ok(u64::MAX))?;
        took.push(Duration::from_micros(at.saturating_sub(left)));
    }
    Ok(took)
}

/// Lets a tenth of the miners die in the midst of requests.
async fn death(subject: &Subject, mock: &Callers, requests: usize) -> anyhow::Result<Death> {
    let charged = async || -> anyhow::Result<u64> {
        let usage = subject.callers.get("/v1/usage").await?;
        let rows = usage["data"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(rows.iter().filter_map(|row| row["requests"].as_u64()).sum())
    };
    // Until nothing is on its way any more.
    let steady = async || -> anyhow::Result<u64> {
        let mut last = charged().await?;
        loop {
            sleep(Duration::from_secs(1)).await;
            let now = charged().await?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
    };
    let before = timeout(SETTLED, steady()).await??;
    let began = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let callers = subject.callers.clone();
        running.spawn(async move {
            let mut outcomes = Vec::new();
            for _ in 0..requests / CONNECTIONS {
                let answered = callers.ask().await.is_ok();
                outcomes.push((began.elapsed(), answered));
            }
            outcomes
        });
    }
    sleep(Duration::from_millis(200)).await;
    mock.get(&format!("{DIE}{}", MINERS / 10)).await?;
    let died = began.elapsed();
    let mut outcomes = running.join_all().await.concat();
    outcomes.sort_unstable();
    let answered = outcomes.iter().filter(|(_, answered)| *answered).count() as u64;
    let after = timeout(SETTLED, steady()).await??;
    mock.get(&format!("{DIE}0")).await?;
    Ok(Death {
        requests: outcomes.len() as u64,
        answered,
        charged: after - before,
        recovered_after: recovered_after(&outcomes, died),
    })
}

/// How long after the death of miners 99 of 100 requests succeed for good: until the last hundred in which fewer did.
fn recovered_after(outcomes: &[(Duration, bool)], died: Duration) -> Duration {
    let since = outcomes.partition_point(|(at, _)| *at < died);
    let hundreds = outcomes[since..].chunks(100);
    let mut bad = hundreds.filter(|hundred| {
        hundred.iter().filter(|(_, answered)| *answered).count() * 100 < hundred.len() * 99
    });
    let last = bad.next_back().and_then(|hundred| hundred.last());
    last.map_or(Duration::ZERO, |(at, _)| at.saturating_sub(died))
}

/// The two percentiles that are told.
pub(crate) fn p50_and_p99(values: &[Duration]) -> [f64; 2] {
    let mut values = values.to_vec();
    [50, 99].map(|percent| percentile(&mut values, percent).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_back_after_the_last_hundred_that_was_not_good_enough() {
        let at = |ms: u64, answered| (Duration::from_millis(ms), answered);
        let good: Vec<_> = (0..400).map(|ms| at(ms, true)).collect();
        assert_eq!(recovered_after(&good, Duration::from_millis(50)), Duration::ZERO);
        let mut some = good.clone();
        // One of a hundred may fail; two of the hundred from 150 to 249 are too many.
        some[60].1 = false;
        some[160].1 = false;
        some[200].1 = false;
        let after = recovered_after(&some, Duration::from_millis(50));
        assert_eq!(after, Duration::from_millis(199));
    }

    #[test]
    fn percentiles_of_nothing_are_nothing() {
        assert_eq!(p50_and_p99(&[]), [0.0, 0.0]);
        let times: Vec<_> = (1..=100).map(Duration::from_secs).collect();
        assert_eq!(p50_and_p99(&times), [51.0, 100.0]);
    }
}
