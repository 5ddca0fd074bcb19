//! `author_*`: submitting transactions, and watching what becomes of them.

use std::sync::Arc;

use jsonrpsee::core::SubscriptionResult;
use jsonrpsee::server::{PendingSubscriptionSink, RegisterMethodError, SubscriptionMessage};
use jsonrpsee::types::{ErrorObjectOwned, Params};
use jsonrpsee::{Extensions, RpcModule};
use sp_core::H256;
use sp_runtime::transaction_validity::{InvalidTransaction, TransactionValidityError};
use tokio::sync::mpsc;

use super::connection::Connection;
use super::params::{Answer, Bytes, hex_of, next};
use crate::node::chain::{Chain, Refused};
use crate::node::pool::NotTaken;

// The codes of Substrate's pool.
const VERIFICATION: i32 = 1002;
const INVALID: i32 = 1010;
const UNKNOWN_VALIDITY: i32 = 1011;
const BANNED: i32 = 1012;
const ALREADY_IMPORTED: i32 = 1013;
const TOO_LOW_PRIORITY: i32 = 1014;
const DROPPED: i32 = 1016;
const BAD_FORMAT: i32 = 1001;

const NO_PLACE: &str =
    "The transaction has too low priority to replace another transaction already in the pool.";
const NO_ROOM: &str = "The transaction couldn't enter the pool because of the limit";

pub(super) fn register(module: &mut RpcModule<Chain>) -> Result<(), RegisterMethodError> {
    module.register_blocking_method("author_submitExtrinsic", |params, chain, extensions| {
        submit(&params, &chain, &extensions)
    })?;
    module.register_method("author_pendingExtrinsics", |_, chain, _| {
        chain.pending().iter().map(|bytes| hex_of(&***bytes)).collect::<Vec<_>>()
    })?;
    module.register_subscription(
        "author_submitAndWatchExtrinsic",
        "author_extrinsicUpdate",
        "author_unwatchExtrinsic",
        watch,
    )?;
    Ok(())
}

fn submit(params: &Params<'_>, chain: &Chain, extensions: &Extensions) -> Answer<H256> {
    let bytes: Bytes = next(&mut params.sequence())?;
    let hash = chain.submit(&bytes.0, None).map_err(|why| refusal(&why))?;
    lose_answer(chain, extensions);
    Ok(hash)
}

/// Cuts the connection instead of answering, if that is ordered.
fn lose_answer(chain: &Chain, extensions: &Extensions) {
    if chain.faults().answers_get_lost()
        && let Some(connection) = extensions.get::<Connection>()
        && !connection.is_spared()
    {
        connection.cut();
    }
}

async fn watch(
    params: Params<'static>,
    pending: PendingSubscriptionSink,
    chain: Arc<Chain>,
    extensions: Extensions,
) -> SubscriptionResult {
    let bytes: Bytes = match next(&mut params.sequence()) {
        Ok(bytes) => bytes,
        Err(error) => {
            pending.reject(error).await;
            return Ok(());
        }
    };
    let (sender, mut updates) = mpsc::unbounded_channel();
    // Checking a signature takes longer than other connections should wait.
    let submitted = tokio::task::spawn_blocking(move || {
        let submitted = chain.submit(&bytes.0, Some(sender));
        if submitted.is_ok() {
            lose_answer(&chain, &extensions);
        }
        submitted
    });
    let submitted = submitted.await?;
    if let Err(why) = submitted {
        pending.reject(refusal(&why)).await;
        return Ok(());
    }
    let sink = pending.accept().await?;
    let mut ended = false;
    loop {
        let update = tokio::select! {
            () = sink.closed() => return Ok(()),
            update = updates.recv() => update,
        };
        // The pool says its last word and lets go.
        let Some(update) = update else { break };
        ended = update.is_last();
        sink.send(SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), &update)?)
            .await?;
    }
    if !ended {
        // It was forgotten without a word: so the client hears none.
        sink.closed().await;
    }
    Ok(())
}

/// The error that Substrate answers with.
fn refusal(why: &Refused) -> ErrorObjectOwned {
    let error = ErrorObjectOwned::owned::<String>;
    match why {
        Refused::Undecodable => {
            error(BAD_FORMAT, "Extrinsic has invalid format: it does not decode".to_owned(), None)
        }
        Refused::Invalid(TransactionValidityError::Invalid(invalid)) => {
            error(INVALID, "Invalid Transaction".to_owned(), Some(reason(*invalid)))
        }
        Refused::Invalid(TransactionValidityError::Unknown(unknown)) => {
            let why: &'static str = (*unknown).into();
            error(UNKNOWN_VALIDITY, "Unknown Transaction Validity".to_owned(), Some(why.to_owned()))
        }
        Refused::NotTaken(why) => {
            let (code, data) = match why {
                NotTaken::Known(hash) => (ALREADY_IMPORTED, Some(format!("{hash:?}"))),
                NotTaken::Banned => (BANNED, None),
                NotTaken::TooLowPriority { .. } => (TOO_LOW_PRIORITY, Some(NO_PLACE.to_owned())),
                NotTaken::Full => (DROPPED, Some(NO_ROOM.to_owned())),
            };
            error(code, why.to_string(), data)
        }
        Refused::Failed(failed) => {
            error(VERIFICATION, format!("Verification Error: {failed}"), None)
        }
    }
}

fn reason(invalid: InvalidTransaction) -> String {
    if let InvalidTransaction::Custom(number) = invalid {
        return format!("Custom error: {number}");
    }
    let text: &'static str = invalid.into();
    text.to_owned()
}
