//! The ledger for spreadsheets.

use std::fmt::Write;

use common::money::Usd;

use crate::explain::utc;
use crate::store::{Store, StoreError};

/// All entries from a moment on and before another, in Unix milliseconds. No field has a comma or a quote.
///
/// # Errors
/// If the database fails.
pub async fn csv(store: &Store, from_ms: i64, to_ms: i64) -> Result<String, StoreError> {
    let mut text = "id,time,key,task,prompt_tokens,completion_tokens,cost_usd,miner_uid,miner_hotkey,attempts,streamed\n"
        .to_owned();
    let add = |entry: super::Entry| {
        // Writing into a text cannot fail.
        _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{},{},{},{}",
            entry.id,
            utc(entry.at_ms),
            entry.key,
            entry.task,
            entry.prompt_tokens,
            entry.completion_tokens,
            Usd::from_pico(entry.amount.0),
            entry.uid.map(|uid| uid.to_string()).unwrap_or_default(),
            entry.hotkey.as_deref().unwrap_or_default(),
            entry.attempts,
            entry.streamed,
        );
    };
    store.ledger(from_ms, to_ms, add).await?;
    Ok(text)
}
