//! What miners declared last.

use std::collections::BTreeMap;

use common::Volume;
use futures::TryStreamExt;

use super::periods::contender;
use super::{Names, Store, StoreError, failed};
use crate::tally::ContenderId;

impl Store {
    /// What each contender declared for the newest finished period that had any. An open one may have rows of some only.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn newest_declared(&self) -> Result<BTreeMap<ContenderId, Volume>, StoreError> {
        let mut declared = BTreeMap::new();
        let mut names = Names::default();
        let mut rows = self.database.rows(
            "SELECT hotkey, task, declared FROM tallies WHERE period =
                 (SELECT id FROM periods WHERE ended_ms IS NOT NULL
                  AND EXISTS (SELECT 1 FROM tallies AS own WHERE own.period = periods.id)
                  ORDER BY ended_ms DESC LIMIT 1)",
            &[],
        );
        while let Some(row) = rows.try_next().await.map_err(failed("read the newest capacities"))? {
            let mut fields = row.fields();
            let read = contender(&mut fields, &mut names).and_then(|id| Ok((id, fields.real()?)));
            let Some((id, volume)) = self.readable("tallies", read) else { continue };
            declared.insert(id, Volume::try_from(volume).unwrap_or(Volume::ZERO));
        }
        Ok(declared)
    }
}

#[cfg(test)]
mod tests {
    use common::Hotkey;

    use super::*;
    use crate::store::Location;
    use crate::tally::Tally;

    fn declares(name: u8, declared: f64) -> (ContenderId, Tally) {
        let hotkey = Hotkey::from_bytes([name; 32]);
        let id = ContenderId { hotkey, task: "chat-demo".parse().unwrap() };
        (id, Tally { declared, ..Tally::default() })
    }

    #[tokio::test]
    async fn an_open_period_says_nothing_yet() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Sqlite(folder.path().join("x.sqlite"))).await.unwrap();
        assert_eq!(store.newest_declared().await.unwrap(), BTreeMap::new());
        let first = store.begin_period(1_000).await.unwrap();
        let tallies = BTreeMap::from([declares(1, 50.0), declares(2, 70.0)]);
        store.end_period(first, 2_000, &tallies).await.unwrap();
        let second = store.begin_period(2_000).await.unwrap();

        let declared = store.newest_declared().await.unwrap();
        let volumes: Vec<_> = declared.values().map(|volume| volume.get()).collect();
        assert_eq!(volumes, [50.0, 70.0]);

        let tallies = BTreeMap::from([declares(2, 90.0)]);
        store.save_tallies(second, &tallies).await.unwrap();
        assert_eq!(store.newest_declared().await.unwrap(), declared);
        store.end_period(second, 3_000, &tallies).await.unwrap();
        let declared = store.newest_declared().await.unwrap();
        assert_eq!(declared, BTreeMap::from([(declares(2, 0.0).0, Volume::from(90))]));
        // Nobody was there.
        let third = store.begin_period(3_000).await.unwrap();
        store.end_period(third, 4_000, &BTreeMap::new()).await.unwrap();
        assert_eq!(store.newest_declared().await.unwrap(), declared);
        store.close().await;
    }
}
