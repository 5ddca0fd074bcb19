//! What each request cost: written to a journal before the answer ends, then taken over into the database, once.

mod csv;
mod journal;
mod record;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::store::{Location, Store, StoreError};

pub use csv::csv;
pub use journal::Journal;
use journal::Rest;
pub use record::{Entry, Pico, Record};

/// Between two imports.
const TURN: Duration = Duration::from_millis(500);

/// Why records did not come into the database. They are still in the journal.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the journal cannot be read: {0}")]
    Journal(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where the journals are: beside the SQLite file, unless the configuration names a folder. The suffix tells the folders of
/// several processes apart.
pub fn folder(store: &Location, configured: Option<&Path>, suffix: &str) -> PathBuf {
    match (configured, store) {
        (Some(folder), _) => folder.to_owned(),
        (None, Location::Sqlite(file)) => {
            let mut folder = file.as_os_str().to_owned();
            folder.push("-ledger");
            folder.push(suffix);
            folder.into()
        }
        (None, Location::Postgres(_)) => PathBuf::from(format!("data/ledger{suffix}")),
    }
}

/// Takes journals over into the database.
#[derive(Debug)]
pub struct Importer {
    journal: Arc<Journal>,
    store: Store,
}

impl Importer {
    /// Takes over all that earlier processes left, and counts the requests that their end cut off. To be called before this
    /// process writes anything.
    ///
    /// # Errors
    /// If the journal or the database fails.
    pub async fn start(journal: Arc<Journal>, store: Store) -> Result<Self, ImportError> {
        let importer = Self { journal, store };
        importer.import().await?;
        importer.store.end_leases(importer.journal.node()).await?;
        let cut_off = importer.store.count_cut_off(importer.journal.node()).await?;
        if cut_off > 0 {
            warn!(
                "{cut_off} requests were cut off by the end of the last run; they are not charged"
            );
        }
        Ok(importer)
    }

    /// Takes over what there is now. Returns how many records that were.
    ///
    /// # Errors
    /// If the journal or the database fails: each chunk is there wholly or not at all.
    pub async fn import(&self) -> Result<usize, ImportError> {
        // What cannot be written can still be read.
        let begun = self.journal.write_begun();
        let mut count = 0;
        for name in self.journal.files()? {
            let mut position = self.store.journal_position(&name).await?;
            loop {
                let chunk = match self.journal.take(&name, position) {
                    Some(chunk) => chunk,
                    None => {
                        let (journal, file) = (Arc::clone(&self.journal), name.clone());
                        tokio::task::spawn_blocking(move || journal.read(&file, position))
                            .await
                            .map_err(io::Error::other)??
                    }
                };
                if !chunk.records.is_empty() {
                    let node = self.journal.node();
                    self.store.import_records(node, &name, chunk.position, &chunk.records).await?;
                }
                count += chunk.records.len();
                position = chunk.position;
                match chunk.rest {
                    Rest::More => {}
                    Rest::Growing => break,
                    Rest::Nothing => {
                        self.journal.delete(&name, position)?;
                        self.store.forget_journal(&name).await?;
                        break;
                    }
                }
            }
        }
        begun?;
        Ok(count)
    }

    /// Imports until it is told to stop, and then what is left.
    pub async fn run(self, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let stopped = tokio::select! {
                () = stop.cancelled() => true,
                () = self.journal.filled(), if !failing => false,
                () = tokio::time::sleep(TURN) => false,
            };
            match self.import().await {
                Ok(_) => failing = false,
                Err(error) if !failing => {
                    warn!("what requests cost stays in the journal for now: {error}");
                    failing = true;
                }
                Err(_) => {}
            }
            if stopped {
                // What is not imported is covered by the leases still.
                if !failing && let Err(error) = self.store.end_leases(self.journal.node()).await {
                    warn!("other processes wait a minute for this one's part of budgets: {error}");
                }
                return;
            }
        }
    }
}
