//! Processes that serve the API, and the parts of budgets that each may spend without asking.
//!
//! What a budget still has is the budget, less what the ledger holds, less all leases. A lease covers what its process has
//! charged and not yet imported; the import takes that out of the lease in the transaction that puts it into the ledger.

use std::collections::{BTreeMap, BTreeSet};

use common::money::Usd;

use super::database::{Transaction, values};
use super::ledger::CHARGED;
use super::{Store, StoreError, failed};
use crate::keys::{Reset, window_start};

/// What a process asks for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub key: &'a str,
    pub node: &'a str,
    pub budget: Usd,
    pub reset: Reset,
    /// At least this much more; nothing if there is not as much.
    pub least: Usd,
    /// Until others may take it, Unix milliseconds.
    pub until_ms: i64,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leased {
    /// More than before.
    pub more: Usd,
    /// What nobody holds.
    pub left: Usd,
}

impl Store {
    /// Takes more of a budget: what is wanted, or this process's part of half of what nobody holds if that is more.
    ///
    /// # Errors
    /// If the database fails; nothing is taken then.
    pub async fn lease(&self, wanted: Wanted<'_>, now_ms: i64) -> Result<Leased, StoreError> {
        let failed = failed("lease a part of a budget");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        let leased = lease(&mut transaction, wanted, now_ms).await.map_err(&failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(leased)
    }

    /// Gives back what is not spent. What was spent and is not imported stays leased.
    ///
    /// # Errors
    /// If the database fails; nothing is given back then.
    pub async fn give_back(&self, key: &str, node: &str, unspent: Usd) -> Result<(), StoreError> {
        let failed = failed("give a part of a budget back");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        take_out(&mut transaction, key, node, unspent).await.map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// Says that a process lives, and that what it has leased stays leased for so long, in milliseconds. Who has not said so
    /// for as long is forgotten. Returns the keys of which the process has a lease.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn renew_leases(
        &self,
        node: &str,
        now_ms: i64,
        lasts_ms: i64,
    ) -> Result<BTreeSet<String>, StoreError> {
        let failed = failed("renew the leases of budgets");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        transaction
            .execute(
                "INSERT INTO api_nodes (node, seen_ms) VALUES ($1, $2)
                 ON CONFLICT (node) DO UPDATE SET seen_ms = excluded.seen_ms",
                values![node, now_ms],
            )
            .await
            .map_err(&failed)?;
        transaction
            .execute(
                "DELETE FROM api_nodes WHERE seen_ms < $1",
                values![now_ms.saturating_sub(lasts_ms)],
            )
            .await
            .map_err(&failed)?;
        transaction
            .execute(
                "UPDATE budget_leases SET until_ms = $1 WHERE node = $2",
                values![now_ms.saturating_add(lasts_ms), node],
            )
            .await
            .map_err(&failed)?;
        let rows = transaction
            .all("SELECT key_id FROM budget_leases WHERE node = $1", values![node])
            .await
            .map_err(&failed)?;
        let keys = rows.iter().map(|row| row.fields().text().map(str::to_owned)).collect();
        let keys = Result::<_, sqlx::Error>::map_err(keys, &failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(keys)
    }

    /// How many processes serve the API; at least one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn api_nodes(&self) -> Result<u32, StoreError> {
        let failed = failed("count the processes that serve the API");
        let row =
            self.database.first("SELECT COUNT(*) FROM api_nodes", &[]).await.map_err(&failed)?;
        let count = row.map_or(Ok(1), |row| row.fields().count()).map_err(failed)?;
        Ok(count.max(1))
    }

    /// A process begins or ends: it has no lease. Everything that it has charged must be imported.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_leases(&self, node: &str) -> Result<(), StoreError> {
        let failed = failed("end the leases of budgets");
        for statement in
            ["DELETE FROM budget_leases WHERE node = $1", "DELETE FROM api_nodes WHERE node = $1"]
        {
            self.database.execute(statement, values![node]).await.map_err(&failed)?;
        }
        Ok(())
    }
}

async fn lease(
    transaction: &mut Transaction,
    wanted: Wanted<'_>,
    now_ms: i64,
) -> Result<Leased, sqlx::Error> {
    let Wanted { key, node, budget, reset, least, until_ms } = wanted;
    // A row that all who lease of this key write first, so that they do it one after the other.
    transaction
        .execute(
            "INSERT INTO budget_leases (key_id, node, amount, until_ms) VALUES ($1, '', 0, $2)
             ON CONFLICT (key_id, node) DO UPDATE SET until_ms = excluded.until_ms",
            values![key, i64::MAX],
        )
        .await?;
    transaction
        .execute(
            "DELETE FROM budget_leases WHERE key_id = $1 AND until_ms < $2",
            values![key, now_ms],
        )
        .await?;
    let sum = |rows: Vec<super::Record>| rows.first().map_or(Ok(0), |row| row.fields().int());
    let charged =
        transaction.all(CHARGED, values![key, window_start(reset, now_ms)]).await.and_then(sum)?;
    let leased = transaction
        .all(
            "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM budget_leases WHERE key_id = $1",
            values![key],
        )
        .await
        .and_then(sum)?;
    let nodes = transaction.all("SELECT COUNT(*) FROM api_nodes", &[]).await.and_then(sum)?.max(1);
    let free = budget.minus(Usd::from_pico(charged)).minus(Usd::from_pico(leased)).max(Usd::ZERO);
    // The half, so that the last of a budget does not lie where nobody spends it.
    let part = Usd::from_pico(free.pico() / (2 * nodes));
    let more = if least > free { Usd::ZERO } else { least.max(part) };
    if more > Usd::ZERO {
        transaction
            .execute(
                "INSERT INTO budget_leases (key_id, node, amount, until_ms) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (key_id, node) DO UPDATE
                     SET amount = budget_leases.amount + excluded.amount, until_ms = excluded.until_ms",
                values![key, node, more.pico(), until_ms],
            )
            .await?;
    }
    Ok(Leased { more, left: free.minus(more) })
}

/// Lessens leases by what is in the ledger now.
pub(super) async fn imported(
    transaction: &mut Transaction,
    node: &str,
    charged: &BTreeMap<&str, Usd>,
) -> Result<(), sqlx::Error> {
    for (key, amount) in charged.iter().filter(|(_, amount)| **amount > Usd::ZERO) {
        take_out(transaction, key, node, *amount).await?;
    }
    Ok(())
}

async fn take_out(
    transaction: &mut Transaction,
    key: &str,
    node: &str,
    amount: Usd,
) -> Result<(), sqlx::Error> {
    transaction
        .execute(
            "UPDATE budget_leases SET amount = CASE WHEN amount > $1 THEN amount - $1 ELSE 0 END
             WHERE key_id = $2 AND node = $3",
            values![amount.pico(), key, node],
        )
        .await?;
    transaction
        .execute(
            "DELETE FROM budget_leases WHERE key_id = $1 AND node = $2 AND amount = 0",
            values![key, node],
        )
        .await?;
    Ok(())
}
