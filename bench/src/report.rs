//! What was measured, as a table, as JSON, and as a document.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::gateway::{GOVERNED, PLAIN, p50_and_p99};
use crate::load::Stream;

/// What was measured of one program.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) name: &'static str,
    /// Of each block: microseconds per request, and requests per second.
    pub(crate) cpu_us: Vec<f64>,
    pub(crate) rates: Vec<f64>,
    /// Of requests that came one after the other.
    pub(crate) times: Vec<Duration>,
    /// Of few at once.
    pub(crate) streams: Vec<Stream>,
    /// Frames, of many streams at once.
    pub(crate) lost: u32,
    /// From when a caller had left until the miner knew.
    pub(crate) left: Vec<Duration>,
    pub(crate) idle_kib: f64,
    pub(crate) kib_per_stream: f64,
    /// It did not get through; what there is was measured before.
    pub(crate) failed: bool,
}

/// What became of requests while a tenth of the miners died.
#[derive(Debug)]
pub(crate) struct Death {
    pub(crate) requests: u64,
    pub(crate) answered: u64,
    pub(crate) charged: u64,
    /// Until 99 of 100 requests succeeded again.
    pub(crate) recovered_after: Duration,
}

/// All of it. The first program is the floor.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) numbers: Vec<Numbers>,
    /// Without a program between.
    pub(crate) alone: Vec<Duration>,
    pub(crate) alone_streams: Vec<Stream>,
    /// Miners, and nanoseconds to choose one.
    pub(crate) routing: Vec<(u16, f64)>,
    pub(crate) streams: usize,
    pub(crate) death: Death,
    /// Requests per second that the callers and the mock can do by themselves.
    pub(crate) rig: f64,
    pub(crate) pinned: bool,
    /// Programs that are not installed.
    pub(crate) missing: Vec<&'static str>,
}

/// Of one program: medians, and what it adds, in seconds.
#[derive(Debug)]
struct Row<'a> {
    numbers: &'a Numbers,
    cpu_us: f64,
    rate: f64,
    added: [f64; 2],
    first: [f64; 2],
    gap: [f64; 2],
    lost: u32,
    left: [f64; 2],
}

impl Numbers {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn firsts(streams: &[Stream]) -> [f64; 2] {
    p50_and_p99(&streams.iter().map(|stream| stream.first).collect::<Vec<_>>())
}

fn gaps(streams: &[Stream]) -> [f64; 2] {
    p50_and_p99(&streams.iter().flat_map(|stream| stream.gaps.iter().copied()).collect::<Vec<_>>())
}

fn less([p50, p99]: [f64; 2], [base50, base99]: [f64; 2]) -> [f64; 2] {
    [p50 - base50, p99 - base99]
}

fn us(seconds: f64) -> String {
    format!("{:.0}", seconds * 1e6)
}

impl Report {
    fn row<'a>(&self, numbers: &'a Numbers) -> Row<'a> {
        let few: u32 = numbers.streams.iter().map(|stream| stream.lost).sum();
        Row {
            numbers,
            cpu_us: median(&numbers.cpu_us),
            rate: median(&numbers.rates),
            added: less(p50_and_p99(&numbers.times), p50_and_p99(&self.alone)),
            first: less(firsts(&numbers.streams), firsts(&self.alone_streams)),
            gap: less(gaps(&numbers.streams), gaps(&self.alone_streams)),
            lost: numbers.lost + few,
            left: p50_and_p99(&numbers.left),
        }
    }

    fn floor(&self) -> f64 {
        self.numbers.first().map_or(0.0, |numbers| median(&numbers.cpu_us)).max(1e-9)
    }

    /// In Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| | CPU per request, µs | times the floor | added p50, µs | p99 | first token p50, µs | p99 | gap p50, µs | p99 \
             | lost frames | cancelled after p99, ms | idle, MiB | KiB per stream |\n\
             | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
        );
        for numbers in &self.numbers {
            let row = self.row(numbers);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {}{} | {:.1} | {:.2} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {:.1} |",
                numbers.name,
                if numbers.failed { ", failed" } else { "" },
                row.cpu_us,
                row.cpu_us / self.floor(),
                us(row.added[0]),
                us(row.added[1]),
                us(row.first[0]),
                us(row.first[1]),
                us(row.gap[0]),
                us(row.gap[1]),
                row.lost,
                row.left[1] * 1e3,
                numbers.idle_kib / 1024.0,
                numbers.kib_per_stream,
            );
        }
        text.push_str("\nChoosing a miner:");
        for (miners, ns) in &self.routing {
            let _ = write!(text, " {ns:.0} ns of {miners},");
        }
        text.pop();
        let Death { requests, answered, charged, recovered_after } = &self.death;
        let fastest = self.numbers.iter().map(|one| median(&one.rates)).fold(0.0, f64::max);
        let _ = write!(
            text,
            ".\nA tenth of the miners died: {answered} of {requests} requests were answered, {charged} charged, and 99 of 100 \
             succeeded again after {:.2} s.\nThe callers and the mock by themselves do {:.0} requests per second, {:.1} times \
             what the fastest program does.",
            recovered_after.as_secs_f64(),
            self.rig,
            self.rig / fastest.max(1e-9),
        );
        if !self.missing.is_empty() {
            let _ = write!(
                text,
                "\nNot installed, or they did not start: {}.",
                self.missing.join(", ")
            );
        }
        if !self.pinned {
            text.push_str("\nThere is no `taskset`: programs were not kept on cores of their own.");
        }
        text
    }

    pub(crate) fn json(&self) -> serde_json::Result<String> {
        let two = |[p50, p99]: [f64; 2]| json!({"p50": p50 * 1e6, "p99": p99 * 1e6});
        let program = |numbers: &Numbers| {
            let row = self.row(numbers);
            json!({
                "name": numbers.name,
                "failed": numbers.failed,
                "cpu_us_per_request": row.cpu_us,
                "cpu_us_of_blocks": numbers.cpu_us,
                "requests_per_second": row.rate,
                "added_us": two(row.added),
                "ttft_added_us": two(row.first),
                "gap_added_us": two(row.gap),
                "lost_frames": row.lost,
                "cancelled_after_us": two(row.left),
                "idle_rss_mib": row.numbers.idle_kib / 1024.0,
                "kib_per_stream": row.numbers.kib_per_stream,
            })
        };
        let mut all = Map::new();
        if let Some(numbers) = self.numbers.iter().find(|numbers| numbers.name == GOVERNED) {
            let row = self.row(numbers);
            let of = |key: &str, value: f64| (key.to_owned(), json!(value));
            let plain = self.numbers.iter().find(|numbers| numbers.name == PLAIN);
            let plain = plain.map_or(0.0, |numbers| median(&numbers.cpu_us)).max(1e-9);
            all.extend([
                of("cpu_per_request_vs_hyper", row.cpu_us / self.floor()),
                of("cpu_per_request_vs_hyper_with_plain_answers", row.cpu_us / plain),
                of("added_p99_us", row.added[1] * 1e6),
                of("ttft_added_p99_us", row.first[1] * 1e6),
                of("gap_added_p99_us", row.gap[1] * 1e6),
                of("lost_frames", row.lost.into()),
                of("cancelled_after_p99_ms", row.left[1] * 1e3),
                of("idle_rss_mib", numbers.idle_kib / 1024.0),
                of("kib_per_stream", numbers.kib_per_stream),
            ]);
        }
        let routing = self.routing.iter();
        all.extend(routing.map(|(miners, ns)| (format!("route_ns_{miners}"), json!(ns))));
        let death = json!({
            "requests": self.death.requests,
            "answered": self.death.answered,
            "charged": self.death.charged,
            "recovered_after_s": self.death.recovered_after.as_secs_f64(),
        });
        let programs: Vec<Value> = self.numbers.iter().map(program).collect();
        for (key, value) in [
            ("streams", json!(self.streams)),
            ("tenth_of_miners_died", death),
            ("rig_requests_per_second", json!(self.rig)),
            ("pinned", json!(self.pinned)),
            ("not_installed", json!(self.missing)),
            ("programs", json!(programs)),
        ] {
            all.insert(key.to_owned(), value);
        }
        serde_json::to_string_pretty(&all)
    }

    /// The page of the repository.
    pub(crate) fn document(&self) -> String {
        format!(
            "# What the organic API costs\n\n\
             Written by `cargo run --release -p bench -- gateway --write docs/performance.md`. All programs are measured in one run, \
             with one thread and one core each, in front of the same mock miner, which shares the other core with the callers. \
             Everything is measured in blocks, there and back again.\n\n\
             - **CPU per request**: short whole answers over 8 connections; the kernel's account of all of a program's processes; \
             medians of blocks.\n\
             - **added**: requests one after the other, less what the same callers see without a program between; **first token** \
             and **gap**: the same for streams of 64 frames every 20 ms, 20 at once.\n\
             - **lost frames** and **KiB per stream**: {} such streams at once; memory by what the second half of them adds.\n\
             - **cancelled after**: from when a caller leaves a stream until the miner knows.\n\n\
             The floor is a plain proxy of hyper's server and client, with the same allocator, in front of the same miner: what it gets \
             are streams with receipts, as the API does. \"The same again\" shows what the machine's noise comes to: a smaller \
             difference is none. The governed API takes a key with limits and a budget, reserves and charges each request in its \
             journal, routes over 256 miners in sessions, verifies the receipts' tags, makes one answer of the stream, and queues a share of \
             the answers for checking. The programs from there on get one short JSON text instead of a stream: the plain proxy \
             once more, and nginx, smg, vllm-router and LiteLLM as their documentation has it, without keys, limits or logs.\n\n{}\n",
            self.streams,
            self.table()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let ms = Duration::from_millis;
        let stream = |first| Stream { first: ms(first), gaps: vec![ms(20)], lost: 1 };
        let numbers = |name, cpu_us, time| Numbers {
            cpu_us: vec![cpu_us],
            rates: vec![100.0],
            times: vec![ms(time)],
            streams: vec![stream(time)],
            left: vec![ms(3)],
            ..Numbers::new(name)
        };
        Report {
            numbers: vec![numbers("floor", 10.0, 2), numbers(GOVERNED, 15.0, 4)],
            alone: vec![ms(1)],
            alone_streams: vec![stream(1)],
            routing: vec![(10, 99.0)],
            streams: 8,
            death: Death { requests: 9, answered: 9, charged: 9, recovered_after: ms(500) },
            rig: 500.0,
            pinned: false,
            missing: vec!["nginx"],
        }
    }

    #[test]
    fn what_is_told_of_the_governed_api_is_relative_to_the_floor_and_to_no_program() {
        let json: Value = serde_json::from_str(&report().json().unwrap()).unwrap();
        let number = |key: &str| json[key].as_f64().unwrap();
        assert!((number("cpu_per_request_vs_hyper") - 1.5).abs() < 1e-9);
        assert!((number("added_p99_us") - 3_000.0).abs() < 1e-6);
        assert!((number("ttft_added_p99_us") - 3_000.0).abs() < 1e-6);
        assert!((number("cancelled_after_p99_ms") - 3.0).abs() < 1e-9);
        assert!((number("route_ns_10") - 99.0).abs() < 1e-9);
        assert_eq!(json["programs"][1]["lost_frames"], 1);
    }

    #[test]
    fn each_program_has_a_line_and_what_is_missing_is_said() {
        let table = report().table();
        assert!(table.contains("\n| API, governed | 15.0 | 1.50 | 3000 | 3000 |"), "{table}");
        for said in ["9 of 9 requests were answered", "5.0 times", "nginx", "no `taskset`"] {
            assert!(table.contains(said), "{said} is missing in\n{table}");
        }
    }
}
