//! Sending a signed transaction and finding out for certain what became of it.
//!
//! A transaction lives for a fixed number of blocks. So every outcome is decided by looking at finalized blocks: it is in
//! one of them, or its time is over and it never will be. It is never sent again on a guess.

use std::sync::Arc;
use std::time::Duration;

use common::{BlockNumber, Hotkey, Keypair};
use subxt::SubstrateConfig;
use subxt::config::substrate::{AccountId32, MultiSignature};
use subxt::config::{Hasher as _, SubstrateExtrinsicParamsBuilder};
use subxt::dynamic::{At as _, Value};
use subxt::events::Phase;
use subxt::ext::scale_value::{Composite, ValueDef};
use subxt::rpcs::methods::legacy::TransactionStatus;
use subxt::tx::{DynamicPayload, Signer};
use subxt::utils::H256;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use crate::client::{Chain, block_time};
use crate::error::{BlockHash, ChainError};
use crate::preflight::Preflight;
use crate::rpc::{BlockClient, Connection, is_too_much};
use crate::storage::PALLET;

/// How many blocks a transaction lives: long enough for a full pool, short enough that an unknown outcome is soon known.
pub const LIFETIME_BLOCKS: u64 = 64;
/// Finality follows the newest block by a few blocks; a transaction's fate is final this long after its end.
const FINALITY_BLOCKS: u32 = 16;
/// How often finalized blocks are looked at when the node no longer tells by itself.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How many block times a node may be silent about a transaction before it is looked for.
const QUIET_BLOCKS: u32 = 16;
/// The code of "transaction is already imported".
const ALREADY_IMPORTED: i32 = 1013;
/// What a node itself says of a transaction that it does not take.
const POOL_CODES: std::ops::Range<i32> = 1000..1100;

/// A call with its arguments by name.
pub(crate) type Call = DynamicPayload<Composite<()>>;

/// Why a transaction did not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Nothing was sent: the chain would refuse it.
    #[error(transparent)]
    Preflight(#[from] Preflight),
    /// Nothing was sent: the chain could not be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The node did not take it, so it is in no block.
    #[error("the chain's node refused the transaction: {0}")]
    Pool(PoolRefusal),
    /// It is in a finalized block, but had no effect.
    #[error("the chain rejected the transaction in block {block}: {error}")]
    Dispatch { error: String, block: BlockNumber, extrinsic: BlockHash },
    /// Its time is over and no block contains it; it may be made anew.
    #[error(
        "the transaction {extrinsic} is in no block and can no longer be: its time ended with block {end}"
    )]
    Expired { extrinsic: BlockHash, end: BlockNumber },
    /// It is in a finalized block, but the chain's storage does not show it.
    #[error(
        "the transaction {extrinsic} is in block {block}, but the chain does not hold what it set"
    )]
    NotApplied { extrinsic: BlockHash, block: BlockNumber },
    /// It was sent and the chain could not be asked since. It may come into a block up to `end`.
    #[error(
        "what became of the transaction {extrinsic} is not known; until block {end} it may still take effect"
    )]
    Unknown { extrinsic: BlockHash, end: BlockNumber },
}

impl SubmitError {
    /// Whether making the transaction anew later may succeed with nothing changed on this side.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Preflight(reason) => reason.allowed_from().is_some(),
            Self::Chain(error) => error.is_retryable(),
            Self::Pool(refusal) => refusal.is_temporary(),
            Self::Expired { .. } | Self::NotApplied { .. } | Self::Unknown { .. } => true,
            Self::Dispatch { .. } => false,
        }
    }

    /// The block before which there is no use in trying again, where one is known.
    pub fn not_before(&self) -> Option<BlockNumber> {
        match self {
            Self::Preflight(reason) => reason.allowed_from(),
            Self::Unknown { end, .. } => Some(*end),
            _ => None,
        }
    }
}

/// A node's refusal to take a transaction into its pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct PoolRefusal {
    pub code: i32,
    pub message: String,
    /// Subtensor's own reason, the number in `Custom error: n`.
    pub custom: Option<u8>,
}

impl PoolRefusal {
    fn new(code: i32, message: &str, data: Option<&str>) -> Self {
        let data = data.map(|data| data.trim_matches('"')).filter(|data| !data.is_empty());
        let custom = data
            .and_then(|data| data.strip_prefix("Custom error: "))
            .and_then(|n| n.trim().parse().ok());
        let reason = custom.and_then(custom_reason).or(data).unwrap_or(message);
        Self { code, message: reason.chars().take(300).collect(), custom }
    }

    /// Whether the same transaction may be accepted later.
    fn is_temporary(&self) -> bool {
        match self.custom {
            // Too fast, and a subnet that is being set up.
            Some(6 | 12) => true,
            Some(_) => false,
            None => true,
        }
    }
}

/// The reasons of Subtensor's checks at the pool, as far as they concern hotkeys.
fn custom_reason(custom: u8) -> Option<&'static str> {
    Some(match custom {
        1 => "the stake is too small",
        2 => "the balance is too small",
        3 => "the subnet does not exist",
        4 => "the hotkey has no account",
        6 => "the rate limit is exceeded",
        10 => "the hotkey is not registered on the network",
        11 => "the address is invalid",
        12 => "the serving rate limit is exceeded",
        13 => "the port is invalid",
        15 => "the reveal round is invalid",
        16 => "there is no such commit",
        17 => "the commit cannot be revealed in this epoch",
        18 => "there are not as many weights as uids",
        19 => "the hotkey is not registered on the subnet",
        255 => "the request is malformed",
        _ => return None,
    })
}

/// Where a transaction that took effect stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Included {
    pub(crate) block: BlockNumber,
    pub(crate) hash: BlockHash,
    pub(crate) extrinsic: BlockHash,
}

/// A signed transaction, and until when it can come into a block.
struct Sent {
    bytes: Vec<u8>,
    extrinsic: H256,
    account: AccountId32,
    nonce: u64,
    spec_version: u32,
    /// The finalized block from which its life is counted.
    birth: u64,
    block_time: Duration,
}

impl Sent {
    /// The last block that can contain it.
    fn end(&self) -> BlockNumber {
        BlockNumber(self.birth.saturating_add(LIFETIME_BLOCKS - 1))
    }
}

struct HotkeySigner<'a>(&'a Keypair);

impl Signer<SubstrateConfig> for HotkeySigner<'_> {
    fn account_id(&self) -> AccountId32 {
        account(self.0.hotkey())
    }

    fn sign(&self, payload: &[u8]) -> MultiSignature {
        MultiSignature::Sr25519(self.0.sign(payload))
    }
}

fn account(hotkey: Hotkey) -> AccountId32 {
    AccountId32(*hotkey.as_bytes())
}

impl Chain {
    /// Signs and sends a call, and returns when it stands in a finalized block and took effect, or cannot any more.
    ///
    /// The caller holds [`Chain::signing`].
    pub(crate) async fn submit(
        &self,
        call: &Call,
        keypair: &Keypair,
    ) -> Result<Included, SubmitError> {
        let connection = self.connection().await?;
        let mut sent = sign(&connection, call, keypair).await?;
        let mut signed_again = false;
        let updates = loop {
            match connection.rpc().author_submit_and_watch_extrinsic(&sent.bytes).await {
                Ok(updates) => break Some(updates),
                // It has the very same transaction already, from an attempt whose answer was lost.
                Err(subxt::rpcs::Error::User(answer)) if answer.code == ALREADY_IMPORTED => {
                    break None;
                }
                // Whoever stands before the node may have handed it on before it gave up.
                Err(subxt::rpcs::Error::User(answer))
                    if !POOL_CODES.contains(&answer.code) && !is_too_much(answer.code) =>
                {
                    let why = &answer.message;
                    warn!(code = answer.code, why, "looking for the transaction in the blocks");
                    break None;
                }
                Err(subxt::rpcs::Error::User(answer)) => {
                    let data = answer.data.as_ref().map(|data| data.get());
                    let refusal = PoolRefusal::new(answer.code, &answer.message, data);
                    // The node has answered, so it does not have the transaction. What was signed may be out of date,
                    // after a runtime upgrade or when the nonce was just used; then it is signed once more.
                    let again = sign(&connection, call, keypair).await?;
                    let stale =
                        again.nonce != sent.nonce || again.spec_version != sent.spec_version;
                    if signed_again || !stale {
                        return Err(SubmitError::Pool(refusal));
                    }
                    debug!(%refusal, "signing the transaction once more");
                    signed_again = true;
                    sent = again;
                }
                // The node may have it or not.
                Err(error) => {
                    let error = connection.rpc_error("sending a transaction", error);
                    warn!(%error, "looking for the transaction in the blocks");
                    break None;
                }
            }
        };
        let patience =
            sent.block_time * (LIFETIME_BLOCKS as u32 + FINALITY_BLOCKS) + self.deadline();
        let deadline = Instant::now() + patience;
        let quiet = sent.block_time * QUIET_BLOCKS + self.deadline();
        if let Some(updates) = updates
            && let Some(hash) = watch(updates, quiet, deadline).await
        {
            match self.outcome(&connection, hash, &sent).await {
                Err(SubmitError::Chain(error)) => {
                    debug!(%error, "cannot read the transaction's block yet")
                }
                outcome => return outcome,
            }
        }
        let mut looked_at = sent.birth;
        let unknown = || SubmitError::Unknown { extrinsic: sent.extrinsic.into(), end: sent.end() };
        loop {
            match self.look(&sent, &mut looked_at).await {
                Ok(Some(included)) => return Ok(included),
                Ok(None) => {}
                Err(SubmitError::Chain(error)) if error.is_retryable() => {
                    debug!(%error, "asking again about a transaction");
                }
                Err(SubmitError::Chain(error)) => {
                    warn!(%error, "cannot find out about a transaction");
                    return Err(unknown());
                }
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Err(unknown());
            }
            tokio::time::sleep(LOOK_EVERY.max(sent.block_time / 4)).await;
        }
    }

    /// What became of a transaction that is known to be in the finalized block `hash`.
    async fn outcome(
        &self,
        connection: &Arc<Connection>,
        hash: H256,
        sent: &Sent,
    ) -> Result<Included, SubmitError> {
        let header = connection.header(Some(hash)).await?;
        let at = connection.at(hash, subxt::config::Header::number(&header)).await?;
        match find(connection, &at, sent.extrinsic).await? {
            Some(index) => verdict(connection, &at, index, sent.extrinsic).await,
            None => Err(ChainError::unexpected(
                SETTLING,
                "the node named a block without the transaction",
            )
            .into()),
        }
    }

    /// Looks for a transaction in the finalized blocks after `looked_at`. `None` when it can still come.
    async fn look(
        &self,
        sent: &Sent,
        looked_at: &mut u64,
    ) -> Result<Option<Included>, SubmitError> {
        let connection = self.connection().await?;
        let finalized = connection.finalized().await?;
        let nonce = finalized.transactions().account_nonce(&sent.account).await;
        let nonce = nonce.map_err(|error| connection.error(SETTLING, error))?;
        let newest = finalized.block_number();
        let end = sent.end().0;
        // Blocks need to be read only if one of them has used the nonce.
        if nonce > sent.nonce {
            while *looked_at < newest.min(end) {
                let number = *looked_at + 1;
                let hash = connection.rpc().chain_get_block_hash(Some(number.into())).await;
                let hash = hash.map_err(|error| connection.rpc_error(SETTLING, error))?;
                let hash = hash.ok_or_else(|| {
                    ChainError::unexpected(SETTLING, "a finalized block is missing")
                })?;
                let at = connection.at(hash, number).await?;
                if let Some(index) = find(&connection, &at, sent.extrinsic).await? {
                    return verdict(&connection, &at, index, sent.extrinsic).await.map(Some);
                }
                *looked_at = number;
            }
        }
        // Either its time is over, or another transaction of the account has taken its place for good.
        if newest >= end || nonce > sent.nonce {
            return Err(SubmitError::Expired {
                extrinsic: sent.extrinsic.into(),
                end: BlockNumber(newest.min(end)),
            });
        }
        Ok(None)
    }
}

/// After `error` in reading back a transaction that is in the chain: waits a little, or says that its effect is not
/// known when it is past `deadline` or asking again is no use.
pub(crate) async fn pause_after(
    error: SubmitError,
    included: &Included,
    deadline: Instant,
) -> Result<(), SubmitError> {
    match error {
        SubmitError::Chain(error) if error.is_retryable() && Instant::now() < deadline => {
            debug!(%error, "asking again about a transaction");
            tokio::time::sleep(LOOK_EVERY).await;
            Ok(())
        }
        // `Chain` would say that nothing was sent.
        SubmitError::Chain(error) => {
            warn!(%error, "cannot read back a transaction");
            Err(SubmitError::Unknown { extrinsic: included.extrinsic, end: included.block })
        }
        error => Err(error),
    }
}

const SETTLING: &str = "looking for a transaction in the finalized blocks";

/// Signs `call` with the next nonce, to live from the newest finalized block.
async fn sign(connection: &Connection, call: &Call, keypair: &Keypair) -> Result<Sent, ChainError> {
    const DOING: &str = "preparing a transaction";
    let finalized = connection.finalized().await?;
    let account = account(keypair.hotkey());
    // Counts what is in the pool too; what subxt asks by itself does not.
    let nonce = connection.rpc().system_account_next_index(&account).await;
    let nonce = nonce.map_err(|error| connection.rpc_error(DOING, error))?;
    let params = SubstrateExtrinsicParamsBuilder::<SubstrateConfig>::new()
        .mortal_from_unchecked(LIFETIME_BLOCKS, finalized.block_number(), finalized.block_hash())
        .nonce(nonce)
        .build();
    let transactions = finalized.transactions();
    let signable = transactions.create_signable_offline(call, params);
    let mut signable = signable.map_err(|error| connection.error(DOING, error))?;
    let signed =
        signable.sign(&HotkeySigner(keypair)).map_err(|error| connection.error(DOING, error))?;
    Ok(Sent {
        extrinsic: signed.hash(),
        bytes: signed.into_encoded(),
        account,
        nonce,
        spec_version: finalized.spec_version(),
        birth: finalized.block_number(),
        block_time: block_time(&finalized),
    })
}

/// The finalized block that contains the transaction, as the node tells. `None` when it stops telling: being dropped,
/// invalid or usurped in one node's pool proves nothing.
async fn watch(
    mut updates: subxt::rpcs::client::RpcSubscription<TransactionStatus<H256>>,
    quiet: Duration,
    deadline: Instant,
) -> Option<H256> {
    let mut seen_in = None;
    loop {
        let until = deadline.min(Instant::now() + quiet);
        match timeout_at(until, updates.next()).await {
            Ok(Some(Ok(TransactionStatus::Finalized(hash)))) => return Some(hash),
            Ok(Some(Ok(
                status @ (TransactionStatus::Usurped(_)
                | TransactionStatus::Dropped
                | TransactionStatus::Invalid
                | TransactionStatus::FinalityTimeout(_)),
            ))) => {
                debug!(?status, "the pool let go of a transaction");
                return None;
            }
            Ok(Some(Ok(TransactionStatus::Retracted(block)))) => {
                info!(%block, "the chain was reorganised: a block with a transaction of ours was taken back");
            }
            // Some nodes and clients tell of a reorganisation only in this way.
            Ok(Some(Ok(TransactionStatus::InBlock(block)))) => {
                if let Some(before) = seen_in.replace(block).filter(|before| *before != block) {
                    info!(%before, now = %block, "the chain was reorganised: a transaction of ours moved to another block");
                }
            }
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(_)) | None) | Err(_) => return None,
        }
    }
}

/// The place of a transaction in a block.
async fn find(
    connection: &Connection,
    at: &BlockClient,
    extrinsic: H256,
) -> Result<Option<u32>, ChainError> {
    let block = connection.rpc().chain_get_block(Some(at.block_hash())).await;
    let block = block.map_err(|error| connection.rpc_error(SETTLING, error))?;
    let block =
        block.ok_or_else(|| ChainError::unexpected(SETTLING, "a finalized block is missing"))?;
    let place =
        block.block.extrinsics.iter().position(|bytes| at.hasher().hash(bytes) == extrinsic);
    Ok(place.and_then(|place| u32::try_from(place).ok()))
}

/// Whether the transaction at `index` of a finalized block took effect.
async fn verdict(
    connection: &Connection,
    at: &BlockClient,
    index: u32,
    extrinsic: H256,
) -> Result<Included, SubmitError> {
    let events = at.events().fetch().await.map_err(|error| connection.error(SETTLING, error))?;
    let block = BlockNumber(at.block_number());
    for event in events.iter() {
        let event = event.map_err(|error| connection.error(SETTLING, error))?;
        if event.phase() != Phase::ApplyExtrinsic(index) || event.pallet_name() != "System" {
            continue;
        }
        match event.event_name() {
            "ExtrinsicSuccess" => {
                return Ok(Included {
                    block,
                    hash: at.block_hash().into(),
                    extrinsic: extrinsic.into(),
                });
            }
            "ExtrinsicFailed" => {
                let fields = event.decode_fields_unchecked_as::<Composite<()>>();
                let fields = fields.map_err(|error| connection.error(SETTLING, error))?;
                let error = error_name(at, fields.values().next());
                return Err(SubmitError::Dispatch { error, block, extrinsic: extrinsic.into() });
            }
            _ => {}
        }
    }
    Err(ChainError::unexpected(
        SETTLING,
        "the block does not say whether the transaction took effect",
    )
    .into())
}

/// The name of a dispatch error. Numbers of errors change between runtimes, so the block's own metadata names them.
fn error_name(at: &BlockClient, error: Option<&Value>) -> String {
    let Some(ValueDef::Variant(variant)) = error.map(|error| &error.value) else {
        return "an error without a name".to_owned();
    };
    let number =
        |value: Option<&Value>| value.and_then(Value::as_u128).and_then(|n| u8::try_from(n).ok());
    let module = variant.at("index").or_else(|| variant.at(0).and_then(|inner| inner.at("index")));
    let code = variant.at("error").or_else(|| variant.at(0).and_then(|inner| inner.at("error")));
    // The code is four bytes, of which the first counts; nested in a tuple or not.
    let code = number(code.at(0)).or_else(|| number(code.at(0).at(0))).or_else(|| number(code));
    let metadata = at.metadata_ref();
    let named = number(module).zip(code).and_then(|(module, code)| {
        let pallet = metadata.pallet_by_error_index(module)?;
        let error = pallet.error_variant_by_index(code)?;
        Some(if pallet.name() == PALLET {
            error.name.clone()
        } else {
            format!("{}.{}", pallet.name(), error.name)
        })
    });
    named.unwrap_or_else(|| variant.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtensors_own_reasons_are_put_in_words() {
        let refusal = PoolRefusal::new(1010, "Invalid Transaction", Some("\"Custom error: 6\""));
        assert_eq!(refusal.custom, Some(6));
        assert_eq!(refusal.to_string(), "the rate limit is exceeded (code 1010)");
        assert!(SubmitError::Pool(refusal).is_retryable());
        let unregistered =
            PoolRefusal::new(1010, "Invalid Transaction", Some("\"Custom error: 19\""));
        assert!(!SubmitError::Pool(unregistered).is_retryable());
        let pool = PoolRefusal::new(1016, "The transaction pool is full", None);
        assert_eq!(pool.to_string(), "The transaction pool is full (code 1016)");
    }

    #[test]
    fn an_unknown_outcome_says_until_when_it_may_still_come() {
        let unknown = SubmitError::Unknown { extrinsic: BlockHash([0; 32]), end: BlockNumber(70) };
        assert_eq!(unknown.not_before(), Some(BlockNumber(70)));
        assert!(unknown.is_retryable());
    }
}
