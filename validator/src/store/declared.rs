//! What miners declared last.

use std::collections::BTreeMap;

use common::Volume;
use futures::TryStreamExt;

use super::periods::contender;
use super::{Names, Store, StoreError, failed};
use crate::tally::ContenderId;

impl Store {
    /// What each contender declared for the newest period that anything is counted in.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn newest_declared(&self) -> Result<BTreeMap<ContenderId, Volume>, StoreError> {
        let mut declared = BTreeMap::new();
        let mut names = Names::default();
        let mut rows = self.database.rows(
            "SELECT hotkey, task, declared FROM tallies WHERE period = (SELECT MAX(period) FROM tallies)",
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
    async fn a_period_that_nothing_is_counted_in_yet_is_not_the_newest() {
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

        store.save_tallies(second, &BTreeMap::from([declares(2, 90.0)])).await.unwrap();
        let declared = store.newest_declared().await.unwrap();
        assert_eq!(declared, BTreeMap::from([(declares(2, 0.0).0, Volume::from(90))]));
        store.close().await;
    }
}
