//! What the tests of whole subnets share.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use ::chain::{Chain, ChainConfig};
use ::localnet::{Localnet, Options, Screen};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tokio::time::{sleep, timeout};
use tracing::Level;
use validator::status::{Shown, Status};

/// A test that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(170);
/// Much longer than anything that is waited for takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs a whole test, which must come to an end.
pub(crate) async fn bounded(test: impl Future<Output = ()>) {
    timeout(DEADLINE, test).await.expect("the test hangs");
}

/// Looks again and again until there is something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(LOOK_EVERY).await;
        }
    };
    let Ok(found) = timeout(PATIENCE, found).await else {
        panic!("not within {PATIENCE:?}: {what}");
    };
    found
}

/// Looks at the validator's status again and again until there is something.
pub(crate) async fn until_status<T>(
    validator: &validator::Handle,
    what: &str,
    mut look: impl FnMut(&Status) -> Option<T>,
) -> T {
    let mut last = None;
    let found = async {
        loop {
            let status = validator.status().await.unwrap();
            if let Some(found) = look(&status) {
                return found;
            }
            last = Some(status);
            sleep(LOOK_EVERY).await;
        }
    };
    let found = timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| {
        let last = last.map(|status| status.table(Shown::Finished)).unwrap_or_default();
        panic!("not within {PATIENCE:?}: {what}\n{last}");
    })
}

/// A local subnet with short periods that writes below `data` and shows nothing.
pub(crate) async fn start(options: &Options) -> Localnet {
    Localnet::start(options, &mut Screen::silent(), std::future::pending()).await.unwrap().unwrap()
}

/// A view of the chain that has nothing to do with the services.
pub(crate) async fn look_at_chain(rpc: SocketAddr) -> Chain {
    Chain::connect(ChainConfig::new(format!("ws://{rpc}").parse().unwrap())).await.unwrap()
}

/// Waits for weights that the chain confirmed in a later block than `earlier`. Returns their block.
pub(crate) async fn weights_after(validator: &validator::Handle, earlier: u64) -> u64 {
    let mut confirmed = validator.confirmed_weights();
    let block = |set: &validator::WeightsOnChain| set.block.0;
    let newer =
        confirmed.wait_for(|set| set.as_deref().map(block).is_some_and(|block| block > earlier));
    let newer = timeout(PATIENCE, newer).await.expect("weights are confirmed in time").unwrap();
    newer.as_deref().map(block).unwrap()
}

/// What the validator has stored, read beside it.
pub(crate) struct Evidence(SqlitePool);

impl Evidence {
    /// Opens the store of the subnet that writes below `data`.
    pub(crate) async fn open(data: &Path) -> Self {
        let options =
            SqliteConnectOptions::new().filename(data.join("validator.sqlite")).read_only(true);
        Self(SqlitePool::connect_with(options).await.unwrap())
    }

    /// Answers that wait for a checking server, by their ids.
    pub(crate) async fn waiting(&self) -> BTreeSet<String> {
        self.ids("SELECT id FROM pending_checks").await
    }

    /// Answers that were judged, by their ids.
    pub(crate) async fn judged(&self) -> BTreeSet<String> {
        self.ids("SELECT id FROM verdicts").await
    }

    async fn ids(&self, query: &'static str) -> BTreeSet<String> {
        let ids: Vec<String> = sqlx::query_scalar(query).fetch_all(&self.0).await.unwrap();
        ids.into_iter().collect()
    }

    /// Users' requests that were answered, by what is counted.
    pub(crate) async fn organic_served(&self) -> i64 {
        let query = "SELECT COALESCE(SUM(organic_served), 0) FROM tallies";
        sqlx::query_scalar(query).fetch_one(&self.0).await.unwrap()
    }

    /// Parts of budgets that processes have leased.
    pub(crate) async fn leases(&self) -> i64 {
        let query = "SELECT COUNT(*) FROM budget_leases WHERE node <> ''";
        sqlx::query_scalar(query).fetch_one(&self.0).await.unwrap()
    }

    /// How many scoring periods are over.
    pub(crate) async fn periods(&self) -> i64 {
        let query = "SELECT count(*) FROM periods WHERE ended_ms IS NOT NULL";
        sqlx::query_scalar(query).fetch_one(&self.0).await.unwrap()
    }

    /// Waits until so many more periods are over.
    pub(crate) async fn further_periods(&self, count: i64) {
        let enough = self.periods().await + count;
        eventually("scoring periods go by", async || {
            (self.periods().await >= enough).then_some(())
        })
        .await;
    }

    pub(crate) async fn close(self) {
        self.0.close().await;
    }
}

thread_local! {
    static LOGGED_HERE: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// What is logged on this thread: in a test whose runtime has one thread, by everything but the engines.
pub(crate) struct Logs(());

struct ThisThread;

impl io::Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED_HERE.with_borrow_mut(|text| text.iter_mut().for_each(|text| text.extend(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Logs {
    /// Collects from now on.
    pub(crate) fn collect() -> Self {
        // One for all threads: with one for each, a place in the code that is first reached on a thread without any
        // stays silent on all.
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(Level::INFO)
                .without_time()
                .with_ansi(false)
                .with_writer(|| ThisThread)
                .finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
            tracing::callsite::rebuild_interest_cache();
        });
        LOGGED_HERE.set(Some(Vec::new()));
        Self(())
    }

    fn text(&self) -> String {
        LOGGED_HERE.with_borrow(|text| {
            String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned()
        })
    }

    /// Everything the validator has warned of, line by line.
    pub(crate) fn warnings_of_the_validator(&self) -> Vec<String> {
        // Its own modules, and others on its behalf.
        let ours = |line: &str| line.contains(" validator::") || line.contains(" validator{part=");
        let text = self.text();
        let warned = text.lines().filter(|line| line.starts_with(" WARN") && ours(line));
        warned.map(str::to_owned).collect()
    }
}

impl Drop for Logs {
    /// Shows what happened before a test failed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.text());
        }
    }
}
