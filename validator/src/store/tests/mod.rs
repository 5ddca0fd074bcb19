//! The store on a real file and on a real PostgreSQL server.

mod bench;
mod contents;
mod evidence;
mod faults;
mod flags;
mod kill;
mod ledger;
mod migration;
pub(super) mod plans;
mod processes;
mod server;
mod submissions;

use std::collections::BTreeMap;
use std::path::Path;

use common::Keypair;
use common::checks::{Check, Evidence, Verdict};
use common::generation::FinishReason;
use common::receipt::{Generated, Timings, request_digest};

use super::*;
use crate::tally::{Failures, Tally};

/// Makes two tests of each function: one on a SQLite file, one on a PostgreSQL server.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::store::tests::Bed::sqlite().await).await;
            })*
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                if let Some(bed) = $crate::store::tests::Bed::postgres().await {
                    super::$name(bed).await;
                }
            })*
        }
    };
}
use on_both;

/// A fresh store and what it lies in.
#[derive(Debug)]
struct Bed {
    at: Location,
    store: Store,
    _folder: Option<tempfile::TempDir>,
}

impl Bed {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = file(folder.path());
        let store = Store::open(&at).await.unwrap();
        Self { at, store, _folder: Some(folder) }
    }

    /// `None` where there is no server; said.
    async fn postgres() -> Option<Self> {
        let at = server::fresh().await?;
        let store = Store::open(&at).await.unwrap();
        Some(Self { at, store, _folder: None })
    }

    /// As after a restart.
    async fn reopen(&mut self) {
        self.store.close().await;
        self.store = Store::open(&self.at).await.unwrap();
    }

    /// Runs a statement that no store would run.
    async fn tamper(&self, sql: &'static str) {
        self.store.database.execute(sql, &[]).await.unwrap();
    }

    /// The only number that a statement returns.
    async fn number(&self, sql: &'static str) -> i64 {
        self.store.database.first(sql, &[]).await.unwrap().unwrap().fields().int().unwrap()
    }

    /// All that scoring reads, in the order in which it comes.
    async fn stretches(&self) -> Vec<(ContenderId, Vec<crate::scoring::Stretch>)> {
        let mut all = Vec::new();
        self.store.stretches(0, |id, stretches| all.push((id, stretches))).await.unwrap();
        all
    }
}

fn file(folder: &Path) -> Location {
    Location::Sqlite(folder.join("evidence.sqlite"))
}

/// A store on a file, for tests of others.
pub(crate) async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&file(folder.path())).await.unwrap();
    (folder, store)
}

/// An answer of Alice to a probe, outside all periods.
pub(crate) fn pending(id: &str, at_ms: i64) -> PendingCheck {
    let alice = Keypair::development("Alice");
    let generated = Generated {
        task: "chat-demo".parse().unwrap(),
        request_digest: request_digest(b"{}"),
        prompt_tokens: 3,
        tokens: vec![1, 2],
        logprobs: vec![-0.5, -0.25],
        finish_reason: FinishReason::Stop,
        timings: Timings::default(),
    };
    let check = Check {
        id: id.to_owned(),
        task: generated.task.clone(),
        miner: alice.hotkey(),
        request: "{}".to_owned(),
        text: "hi".to_owned(),
        receipt: generated.sign(&alice),
    };
    PendingCheck {
        period: PeriodId(0),
        at_ms,
        organic: false,
        speed: 20.0,
        ttft_s: 0.25,
        tokens: 2,
        check,
    }
}

/// The same in a period.
fn pending_in(period: PeriodId, id: &str, at_ms: i64) -> PendingCheck {
    PendingCheck { period, ..pending(id, at_ms) }
}

fn alice() -> ContenderId {
    contender(&Keypair::development("Alice").hotkey())
}

fn somebody(name: u8) -> ContenderId {
    contender(&Hotkey::from_bytes([name; 32]))
}

fn contender(hotkey: &Hotkey) -> ContenderId {
    ContenderId { hotkey: *hotkey, task: "chat-demo".parse().unwrap() }
}

fn verdict(quality: f64) -> Verdict {
    Verdict { quality, evidence: Evidence::default(), reasons: Vec::new() }
}

/// A tally in which each number differs from the others.
fn tally(served: u32) -> Tally {
    Tally {
        declared: 100.0,
        consumed: 10.5 * f64::from(served),
        served,
        refused_within: 31,
        refusal_cost: 1.25,
        refused_beyond: 32,
        failed: Failures {
            unreachable: 33,
            bad_status: 34,
            too_late: 35,
            broken: 36,
            unusable: 37,
        },
        void: 38,
        organic_served: 39,
        organic_refusal_cost: 0.75,
        organic_failed: 40,
        exams: 41,
        shown: 250.0,
        shown_squared: 6_000.5,
    }
}

fn one(id: &ContenderId, tally: Tally) -> BTreeMap<ContenderId, Tally> {
    BTreeMap::from([(id.clone(), tally)])
}
