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
