//! What must survive a restart, in a SQLite file or a PostgreSQL database.
//!
//! Only this module speaks SQL. It takes and returns domain types; ids of answers and all times are made by its callers.

mod checks;
mod database;
mod declared;
mod error;
mod flags;
mod handover;
mod keys;
mod leases;
mod ledger;
mod location;
mod periods;
mod prune;
mod scorings;
mod stretches;
mod submissions;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::Hotkey;
use sqlx::ConnectOptions;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::tally::ContenderId;
use database::{Database, Record};

pub use checks::{ANSWERS_PER_CONTENDER, CheckStanding, CheckedAnswer, PendingCheck};
pub use error::StoreError;
pub use flags::{Applied, Flagged};
pub use handover::Published;
pub use leases::{Leased, Wanted};
pub use ledger::Usage;
pub use location::{Location, LocationError};
pub use periods::PeriodId;
pub use prune::Retain;
pub use scorings::{Scoring, ScoringId, WeightsOnChain};
pub use submissions::{KeptSubmission, SubmissionId};

static SQLITE: Migrator = sqlx::migrate!("./migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");

/// How long a call waits for another program that has the file.
const BUSY: Duration = Duration::from_secs(10);
const CONNECTIONS: u32 = 4;
/// The most rows that are read ahead: a few megabytes.
const ROW_BUFFER: usize = 2_000;

/// The validator's database.
#[derive(Debug, Clone)]
pub struct Store {
    database: Database,
    /// The tables of which it was said that some rows cannot be read.
    said: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Store {
    /// Opens the database, makes the file if there is none, and brings the tables to this version.
    ///
    /// # Errors
    /// If it cannot be opened or written, is no database, or comes from a newer version.
    pub async fn open(at: &Location) -> Result<Self, StoreError> {
        Self::open_waiting(at, BUSY).await
    }

    /// Waits no longer than `busy` for another program that has the file.
    async fn open_waiting(at: &Location, busy: Duration) -> Result<Self, StoreError> {
        let opened = |source| StoreError::open(at, source);
        let database = match at {
            Location::Sqlite(path) => {
                let options = sqlite(path, busy)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // In WAL mode a power cut can lose the last commits, never the file.
                    .synchronous(SqliteSynchronous::Normal);
                let pool = sqlite_pool().connect_with(options).await.map_err(opened)?;
                let migrated = SQLITE.run(&pool).await;
                migrated.map_err(|error| StoreError::migrate(at, newest(&SQLITE), error))?;
                Database::Sqlite(pool)
            }
            Location::Postgres(url) => {
                let pool = postgres_pool()
                    .connect_with(postgres(url).map_err(opened)?)
                    .await
                    .map_err(opened)?;
                let migrated = POSTGRES.run(&pool).await;
                migrated.map_err(|error| StoreError::migrate(at, newest(&POSTGRES), error))?;
                Database::Postgres(pool)
            }
        };
        // Changes nothing, but tells now and not in the middle of a period that it cannot be written.
        database
            .execute("UPDATE stretches_made SET one = 1 WHERE one = 1", &[])
            .await
            .map_err(opened)?;
        Ok(Self::new(database))
    }

    /// Opens a database of this version to look into it. Nothing in it is changed, and a validator may be using it.
    ///
    /// # Errors
    /// If it cannot be opened, or is not of this version.
    pub async fn open_to_read(at: &Location) -> Result<Self, StoreError> {
        let read = |error: sqlx::Error| match &error {
            sqlx::Error::Database(cause) if cause.message().contains("_sqlx_migrations") => {
                StoreError::Foreign { at: at.clone() }
            }
            _ => StoreError::open(at, error),
        };
        let (database, found, known) = match at {
            Location::Sqlite(path) => {
                let options = sqlite(path, BUSY).read_only(true);
                let opened = match read_sqlite(options.clone()).await {
                    // A folder that cannot be written has no place for the files by which SQLite shares a database. Without
                    // a log beside it nobody is writing it, so that nothing has to be shared.
                    Err(error) if path.exists() && !has_log(path) => {
                        read_sqlite(options.immutable(true)).await.map_err(|_| error)
                    }
                    opened => opened,
                };
                let (database, found) = opened.map_err(read)?;
                (database, found, newest(&SQLITE))
            }
            Location::Postgres(url) => {
                let options =
                    postgres(url).map_err(read)?.options([("default_transaction_read_only", "on")]);
                let pool = postgres_pool().connect_with(options).await.map_err(read)?;
                let database = Database::Postgres(pool);
                let found = version(&database).await.map_err(read)?;
                (database, found, newest(&POSTGRES))
            }
        };
        match found.cmp(&known) {
            std::cmp::Ordering::Less => Err(StoreError::Older { at: at.clone() }),
            std::cmp::Ordering::Greater => Err(StoreError::Newer { at: at.clone(), found, known }),
            std::cmp::Ordering::Equal => Ok(Self::new(database)),
        }
    }

    fn new(database: Database) -> Self {
        Self { database, said: Arc::default() }
    }

    /// Writes what is buffered and closes the connections.
    pub async fn close(&self) {
        self.database.close().await;
    }

    /// What a row says, or `None` for one that this version cannot read: it is no reason to stop. Said once of a table.
    fn readable<T>(&self, table: &'static str, read: Result<T, sqlx::Error>) -> Option<T> {
        read.inspect_err(|error| {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.insert(table) {
                tracing::warn!(
                    "rows of the table `{table}` that this version cannot read are left out: {error}"
                );
            }
        })
        .ok()
    }
}

fn sqlite(path: &Path, busy: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(busy)
        .row_buffer_size(ROW_BUFFER)
        .disable_statement_logging()
}

fn postgres(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(url.parse::<PgConnectOptions>()?.disable_statement_logging())
}

fn sqlite_pool() -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(BUSY * 2)
}

fn postgres_pool() -> PgPoolOptions {
    PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(BUSY)
}

async fn read_sqlite(options: SqliteConnectOptions) -> Result<(Database, i64), sqlx::Error> {
    let database = Database::Sqlite(sqlite_pool().connect_with(options).await?);
    let found = version(&database).await?;
    Ok((database, found))
}

/// The version of a database's tables.
async fn version(database: &Database) -> Result<i64, sqlx::Error> {
    let row = database
        .first("SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations", &[])
        .await?
        .ok_or(sqlx::Error::RowNotFound)?;
    row.fields().int()
}

/// Whether a SQLite file has a log with changes beside it.
fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).is_ok_and(|log| log.len() > 0)
}

fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or(0)
}

fn failed(doing: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::query(doing, source)
}

/// Reads the names of contenders. Each comes many times, and decoding one takes longer than reading the row.
#[derive(Debug, Default)]
struct Names(HashMap<String, Hotkey>);

impl Names {
    fn read(&mut self, hotkey: &str, task: &str) -> Result<ContenderId, sqlx::Error> {
        let task = task.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        if let Some(hotkey) = self.0.get(hotkey) {
            return Ok(ContenderId { hotkey: *hotkey, task });
        }
        let read = hotkey.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        self.0.insert(hotkey.to_owned(), read);
        Ok(ContenderId { hotkey: read, task })
    }
}

#[cfg(test)]
pub(crate) mod tests;
