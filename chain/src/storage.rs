//! Reading the chain's storage at one block, laid out as the chain's own metadata says.

use std::collections::HashMap;
use std::sync::Arc;

use common::{Hotkey, MechanismId, Netuid, Uid};
use subxt::dynamic::Value;
use subxt::ext::scale_decode::DecodeAsType;
use subxt::metadata::Metadata;

use crate::error::ChainError;
use crate::rpc::{BlockClient, Connection};

/// The pallet with everything that is Bittensor's own.
pub(crate) const PALLET: &str = "SubtensorModule";

/// Keys in one request; about 200 kB of text.
const KEYS_PER_REQUEST: usize = 1000;

/// A block and the connection to read it through.
pub(crate) struct At {
    connection: Arc<Connection>,
    block: BlockClient,
}

/// Storage items that are read together.
pub(crate) struct Batch<'a> {
    at: &'a At,
    doing: &'static str,
    keys: Vec<Vec<u8>>,
}

/// One item of a [`Batch`]. `None` for an item that this runtime does not have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pallet: &'static str,
    item: &'static str,
    index: Option<usize>,
}

/// What a [`Batch`] found.
pub(crate) struct Found<'a> {
    at: &'a At,
    doing: &'static str,
    values: Vec<Option<Vec<u8>>>,
}

impl At {
    pub(crate) fn new(connection: Arc<Connection>, block: BlockClient) -> Self {
        Self { connection, block }
    }

    pub(crate) fn block(&self) -> &BlockClient {
        &self.block
    }

    /// A batch; `doing` completes the sentence "the connection was lost while ...".
    pub(crate) fn batch(&self, doing: &'static str) -> Batch<'_> {
        Batch { at: self, doing, keys: Vec::new() }
    }

    /// What the runtime function `api.method` returns. `None` if this runtime has no such function, or one that takes
    /// or returns something else.
    pub(crate) async fn call<T: DecodeAsType>(
        &self,
        api: &'static str,
        method: &'static str,
        arguments: Vec<Value>,
        doing: &'static str,
    ) -> Result<Option<T>, ChainError> {
        let known = self.block.metadata_ref().runtime_api_trait_by_name(api);
        if known.and_then(|api| api.method_by_name(method)).is_none() {
            return Ok(None);
        }
        let payload = subxt::dynamic::runtime_api_call::<_, T>(api, method, arguments);
        match self.block.runtime_apis().call(payload).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => match self.connection.error(doing, error) {
                ChainError::Unexpected { source, .. } => {
                    tracing::debug!(%source, "{api}.{method} is not usable");
                    Ok(None)
                }
                lost => Err(lost),
            },
        }
    }

    /// The weights that `uid` has set in a mechanism of the subnet.
    pub(crate) async fn weights(
        &self,
        netuid: Netuid,
        mechanism: MechanismId,
        uid: Uid,
    ) -> Result<Vec<(Uid, u16)>, ChainError> {
        let mut batch = self.batch("reading weights");
        let weights = batch.add("Weights", [index_key(netuid, mechanism)?, uid.key()])?;
        let found = batch.fetch().await?;
        let weights: Vec<(u16, u16)> = found.get_or_default(weights)?;
        Ok(weights.into_iter().map(|(uid, weight)| (Uid(uid), weight)).collect())
    }
}

/// Under which number the chain keeps what each mechanism has of its own, `NetUidStorageIndex`: `mecid * 4096 + netuid`.
/// `None` for a mechanism that no subnet can have.
pub(crate) fn storage_index(netuid: Netuid, mechanism: MechanismId) -> Option<u16> {
    u16::from(mechanism.0).checked_mul(4096)?.checked_add(netuid.0)
}

pub(crate) fn index_key(netuid: Netuid, mechanism: MechanismId) -> Result<Value, ChainError> {
    let index = storage_index(netuid, mechanism).ok_or_else(|| {
        ChainError::unexpected("naming a mechanism", "no subnet can have so many")
    })?;
    Ok(Value::u128(index.into()))
}

fn entry<'a>(
    metadata: &'a Metadata,
    pallet: &str,
    item: &str,
) -> Option<&'a subxt::metadata::StorageEntryMetadata> {
    metadata.pallet_by_name(pallet)?.storage()?.entry_by_name(item)
}

impl<'a> Batch<'a> {
    /// Adds an item under its keys; an item that this runtime does not have stays unread.
    pub(crate) fn add(
        &mut self,
        item: &'static str,
        keys: impl IntoIterator<Item = Value>,
    ) -> Result<Slot, ChainError> {
        self.add_of(PALLET, item, keys)
    }

    /// As [`Batch::add`], for an item of another pallet.
    pub(crate) fn add_of(
        &mut self,
        pallet: &'static str,
        item: &'static str,
        keys: impl IntoIterator<Item = Value>,
    ) -> Result<Slot, ChainError> {
        if entry(self.at.block.metadata_ref(), pallet, item).is_none() {
            return Ok(Slot { pallet, item, index: None });
        }
        let address = subxt::dynamic::storage::<Vec<Value>, Value>(pallet, item);
        let key = self
            .at
            .block
            .storage()
            .entry(address)
            .and_then(|entry| entry.fetch_key(keys.into_iter().collect()));
        self.keys.push(key.map_err(|error| ChainError::unexpected(self.doing, error))?);
        Ok(Slot { pallet, item, index: Some(self.keys.len() - 1) })
    }

    /// Reads all items that were added, in as few requests as is polite.
    pub(crate) async fn fetch(self) -> Result<Found<'a>, ChainError> {
        let Self { at, doing, keys } = self;
        let mut found = HashMap::with_capacity(keys.len());
        for keys in keys.chunks(KEYS_PER_REQUEST) {
            let keys = keys.iter().map(Vec::as_slice);
            let answer =
                at.connection.rpc().state_query_storage_at(keys, Some(at.block.block_hash())).await;
            let answer = answer.map_err(|error| at.connection.rpc_error(doing, error))?;
            let changes = answer.into_iter().flat_map(|set| set.changes);
            found.extend(changes.filter_map(|(key, value)| Some((key.0, value?.0))));
        }
        let values = keys.iter().map(|key| found.remove(key)).collect();
        Ok(Found { at, doing, values })
    }
}

impl Found<'_> {
    /// Whether there is a value of the item's own, not only a default.
    pub(crate) fn is_stored(&self, slot: Slot) -> bool {
        slot.index.is_some_and(|index| matches!(self.values.get(index), Some(Some(_))))
    }

    /// The item's value, or its default. `None` when the runtime has neither the item nor a default for it.
    pub(crate) fn get<T: DecodeAsType>(&self, slot: Slot) -> Result<Option<T>, ChainError> {
        let Some(index) = slot.index else { return Ok(None) };
        let metadata = self.at.block.metadata_ref();
        let Some(entry) = entry(metadata, slot.pallet, slot.item) else { return Ok(None) };
        let stored = self.values.get(index).and_then(Option::as_deref);
        let Some(bytes) = stored.or_else(|| entry.default_value()) else { return Ok(None) };
        let value = T::decode_as_type(&mut &*bytes, entry.value_ty(), metadata.types());
        value.map(Some).map_err(|error| {
            ChainError::unexpected(
                self.doing,
                format!("{}.{} has another layout: {error}", slot.pallet, slot.item),
            )
        })
    }

    pub(crate) fn get_or_default<T: DecodeAsType + Default>(
        &self,
        slot: Slot,
    ) -> Result<T, ChainError> {
        Ok(self.get(slot)?.unwrap_or_default())
    }

    /// An account; `None` also for the all-zero account, the chain's way to say "nobody".
    pub(crate) fn account(&self, slot: Slot) -> Result<Option<Hotkey>, ChainError> {
        let account: Option<[u8; 32]> = self.get(slot)?;
        Ok(account.filter(|bytes| *bytes != [0; 32]).map(Hotkey::from_bytes))
    }
}

/// What storage keys are made of.
pub(crate) trait Key {
    fn key(&self) -> Value;
}

impl Key for Netuid {
    fn key(&self) -> Value {
        Value::u128(self.0.into())
    }
}

impl Key for Uid {
    fn key(&self) -> Value {
        Value::u128(self.0.into())
    }
}

impl Key for Hotkey {
    fn key(&self) -> Value {
        Value::from_bytes(self.as_bytes())
    }
}
