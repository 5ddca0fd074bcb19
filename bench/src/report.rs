//! What was measured, as a table, as JSON, and as a document.

use std::fmt::Write as _;

use serde_json::json;

use crate::load::{Stream, percentile};

/// What was measured of one program.
#[derive(Debug)]
pub(crate) struct Numbers {
    name: &'static str,
    /// Of each block, in microseconds per request.
    pub(crate) cpu_us: Vec<f64>,
    /// Median and 99th percentile of a request's time less those without a program between, in seconds.
    pub(crate) added: [f64; 2],
    pub(crate) streams: Streams,
    pub(crate) idle_kib: f64,
    pub(crate) kib_per_stream: f64,
}

/// Streams compared with those without a program between, in seconds.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    first: [f64; 2],
    gap: [f64; 2],
    pub(crate) lost: u32,
}

impl Streams {
    pub(crate) fn added(through: Vec<Stream>, alone: &[Stream]) -> Self {
        let lost = through.iter().map(|stream| stream.lost).sum();
        let mut firsts: Vec<_> = through.iter().map(|stream| stream.first).collect();
        let mut gaps: Vec<_> = through.into_iter().flat_map(|stream| stream.gaps).collect();
        let mut alone_firsts: Vec<_> = alone.iter().map(|stream| stream.first).collect();
        let mut alone_gaps: Vec<_> =
            alone.iter().flat_map(|stream| stream.gaps.iter().copied()).collect();
        let added = |through: &mut [_], alone: &mut [_]| {
            [50, 99].map(|percent| {
                percentile(through, percent).as_secs_f64()
                    - percentile(alone, percent).as_secs_f64()
            })
        };
        Self {
            first: added(&mut firsts, &mut alone_firsts),
            gap: added(&mut gaps, &mut alone_gaps),
            lost,
        }
    }
}

impl Numbers {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            cpu_us: Vec::new(),
            added: [0.0; 2],
            streams: Streams::default(),
            idle_kib: 0.0,
            kib_per_stream: 0.0,
        }
    }

    fn cpu(&self) -> f64 {
        let mut cpu = self.cpu_us.clone();
        cpu.sort_unstable_by(f64::total_cmp);
        cpu.get(cpu.len() / 2).copied().unwrap_or(0.0)
    }
}

/// All of it. The first program is the floor.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) numbers: Vec<Numbers>,
    /// Miners, and nanoseconds to choose one.
    pub(crate) routing: Vec<(u16, f64)>,
    pub(crate) streams: usize,
    pub(crate) pinned: bool,
}

fn us(seconds: f64) -> String {
    format!("{:.0}", seconds * 1e6)
}

impl Report {
    fn floor(&self) -> f64 {
        self.numbers.first().map_or(0.0, Numbers::cpu).max(1e-9)
    }

    /// In Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| | CPU per request, µs | times the floor | added p50, µs | p99 | first token p50, µs | p99 | gap p50, µs | p99 | lost frames | idle, MiB | KiB per stream |\n\
             | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
        );
        for one in &self.numbers {
            let [first, gap] = [one.streams.first, one.streams.gap];
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {:.1} | {:.2} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} |",
                one.name,
                one.cpu(),
                one.cpu() / self.floor(),
                us(one.added[0]),
                us(one.added[1]),
                us(first[0]),
                us(first[1]),
                us(gap[0]),
                us(gap[1]),
                one.streams.lost,
                one.idle_kib / 1024.0,
                one.kib_per_stream,
            );
        }
        text.push_str("\nChoosing a miner:");
        for (miners, ns) in &self.routing {
            let _ = write!(text, " {ns:.0} ns of {miners},");
        }
        text.pop();
        text.push('.');
        if !self.pinned {
            text.push_str("\nThere is no `taskset`: programs were not kept on cores of their own.");
        }
        text
    }

    pub(crate) fn json(&self) -> serde_json::Result<String> {
        let programs: Vec<_> = self
            .numbers
            .iter()
            .map(|one| {
                json!({
                    "name": one.name,
                    "cpu_us_per_request": one.cpu(),
                    "cpu_us_of_blocks": one.cpu_us,
                    "added_us": {"p50": one.added[0] * 1e6, "p99": one.added[1] * 1e6},
                    "ttft_added_us": {"p50": one.streams.first[0] * 1e6, "p99": one.streams.first[1] * 1e6},
                    "gap_added_us": {"p50": one.streams.gap[0] * 1e6, "p99": one.streams.gap[1] * 1e6},
                    "lost_frames": one.streams.lost,
                    "idle_rss_mib": one.idle_kib / 1024.0,
                    "kib_per_stream": one.kib_per_stream,
                })
            })
            .collect();
        let governed = self.numbers.last();
        let of = |number: fn(&Numbers) -> f64| governed.map(number);
        let routing: serde_json::Map<_, _> = self
            .routing
            .iter()
            .map(|(miners, ns)| (format!("route_ns_{miners}"), json!(ns)))
            .collect();
        let mut all = json!({
            "cpu_per_request_vs_hyper": of(Numbers::cpu).map(|cpu| cpu / self.floor()),
            "added_p99_us": of(|one| one.added[1] * 1e6),
            "ttft_added_p99_us": of(|one| one.streams.first[1] * 1e6),
            "idle_rss_mib": of(|one| one.idle_kib / 1024.0),
            "kib_per_stream": of(|one| one.kib_per_stream),
            "streams": self.streams,
            "pinned": self.pinned,
            "programs": programs,
        });
        if let Some(fields) = all.as_object_mut() {
            fields.extend(routing);
        }
        serde_json::to_string_pretty(&all)
    }

    /// The page of the repository.
    pub(crate) fn document(&self) -> String {
        format!(
            "# What the organic API costs\n\n\
             Written by `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo run -p bench -- gateway --write docs/performance.md`. All programs are measured in one run, each on \
             one thread and one core, with callers and a mock miner on another: blocks of short whole answers over 8 connections, \
             there and back again (CPU from the kernel's account of the process); requests one after the other; streams of 64 frames \
             every 20 ms, less what the same callers see without a program between; and {} such streams at once for lost frames and \
             memory. The floor is a plain proxy of hyper's server and client, with the same allocator. \"The same again\" shows what \
             the machine's noise comes to. The governed API takes a key with limits and a budget, reserves and charges each request \
             in its journal, routes over 256 miners in sessions, verifies receipts and queues a share of the answers for checking.\n\n{}\n",
            self.streams,
            self.table()
        )
    }
}
