//! `state_*`: storage and calls into the runtime, at any block that is kept.

use std::sync::Arc;

use jsonrpsee::core::SubscriptionResult;
use jsonrpsee::server::{PendingSubscriptionSink, RegisterMethodError, SubscriptionMessage};
use jsonrpsee::types::Params;
use jsonrpsee::{Extensions, RpcModule};
use parity_scale_codec::{Decode, Encode};
use serde_json::{Value, json};
use sp_core::H256;
use sp_runtime::traits::{BlakeTwo256, Hash};
use sp_state_machine::{Backend, IterArgs};
use sp_version::RuntimeVersion;
use tokio::sync::broadcast::error::RecvError;

use super::params::{Answer, Bytes, block, call_failed, hex_of, invalid, next, optional};
use crate::node::chain::{Block, Chain};
use crate::node::state::CallFailed;
use crate::runtime::UPGRADES_KEY;

/// The most keys that one call answers with, as in Substrate.
const MOST_KEYS: u32 = 1000;

pub(super) fn register(module: &mut RpcModule<Chain>) -> Result<(), RegisterMethodError> {
    module.register_method("state_getStorage", |params, chain, _| storage(&params, chain))?;
    module.register_alias("state_getStorageAt", "state_getStorage")?;
    module
        .register_method("state_getStorageSize", |params, chain, _| storage_size(&params, chain))?;
    module
        .register_method("state_getStorageHash", |params, chain, _| storage_hash(&params, chain))?;
    module
        .register_blocking_method("state_getKeysPaged", |params, chain, _| keys(&params, &chain))?;
    module.register_alias("state_getKeysPagedAt", "state_getKeysPaged")?;
    module.register_blocking_method("state_queryStorageAt", |params, chain, _| {
        query(&params, &chain)
    })?;
    module.register_blocking_method("state_call", |params, chain, _| call(&params, &chain))?;
    module.register_alias("state_callAt", "state_call")?;
    module.register_blocking_method("state_getMetadata", |params, chain, _| {
        metadata(&params, &chain)
    })?;
    module.register_blocking_method("state_getRuntimeVersion", |params, chain, _| {
        version(&params, &chain)
    })?;
    module.register_alias("chain_getRuntimeVersion", "state_getRuntimeVersion")?;
    module
        .register_blocking_method("payment_queryInfo", |params, chain, _| fee(&params, &chain))?;
    module.register_subscription(
        "state_subscribeRuntimeVersion",
        "state_runtimeVersion",
        "state_unsubscribeRuntimeVersion",
        runtime_version,
    )?;
    module.register_alias("chain_subscribeRuntimeVersion", "state_subscribeRuntimeVersion")?;
    module.register_alias("chain_unsubscribeRuntimeVersion", "state_unsubscribeRuntimeVersion")
}

fn read(chain: &Chain, block: &Block, key: &[u8]) -> Answer<Option<Vec<u8>>> {
    chain
        .state(block)
        .storage(key)
        .map_err(|error| invalid(format!("the state cannot be read: {error}")))
}

fn wanted(params: &Params<'_>, chain: &Chain) -> Answer<Option<Vec<u8>>> {
    let mut params = params.sequence();
    let key: Bytes = next(&mut params)?;
    read(chain, &*block(&mut params, chain)?, &key.0)
}

fn storage(params: &Params<'_>, chain: &Chain) -> Answer<Option<String>> {
    Ok(wanted(params, chain)?.map(hex_of))
}

fn storage_size(params: &Params<'_>, chain: &Chain) -> Answer<Option<usize>> {
    Ok(wanted(params, chain)?.map(|value| value.len()))
}

fn storage_hash(params: &Params<'_>, chain: &Chain) -> Answer<Option<H256>> {
    Ok(wanted(params, chain)?.map(|value| BlakeTwo256::hash(&value)))
}

fn keys(params: &Params<'_>, chain: &Chain) -> Answer<Vec<String>> {
    let mut params = params.sequence();
    let prefix = optional::<Bytes>(&mut params)?.map_or(Vec::new(), |bytes| bytes.0);
    let count: u32 = next(&mut params)?;
    let start = optional::<Bytes>(&mut params)?.map(|bytes| bytes.0);
    let block = block(&mut params, chain)?;
    if count > MOST_KEYS {
        return Err(invalid(format!(
            "count exceeds maximum value. value: {count}, max: {MOST_KEYS}"
        )));
    }
    let mut args = IterArgs::default();
    args.prefix = Some(&prefix);
    args.start_at = start.as_deref();
    args.start_at_exclusive = true;
    let state = chain.state(&block);
    let keys =
        state.keys(args).map_err(|error| invalid(format!("the state cannot be read: {error}")))?;
    Ok(keys.flatten().take(count as usize).map(hex_of).collect())
}

fn query(params: &Params<'_>, chain: &Chain) -> Answer<Value> {
    let mut params = params.sequence();
    let keys: Vec<Bytes> = next(&mut params)?;
    let block = block(&mut params, chain)?;
    let changes = keys
        .iter()
        .map(|key| Ok((hex_of(&key.0), read(chain, &block, &key.0)?.map(hex_of))))
        .collect::<Answer<Vec<_>>>()?;
    Ok(json!([{ "block": block.hash, "changes": changes }]))
}

fn call(params: &Params<'_>, chain: &Chain) -> Answer<String> {
    let mut params = params.sequence();
    let function: String = next(&mut params)?;
    let data: Bytes = next(&mut params)?;
    let block = block(&mut params, chain)?;
    chain.query(&block, &function, &data.0).map(hex_of).map_err(|error| call_failed(&error))
}

fn version(params: &Params<'_>, chain: &Chain) -> Answer<Value> {
    let block = block(&mut params.sequence(), chain)?;
    chain.version(&block).map(|version| json!(version)).map_err(|error| call_failed(&error))
}

fn metadata(params: &Params<'_>, chain: &Chain) -> Answer<String> {
    let block = block(&mut params.sequence(), chain)?;
    let bytes =
        chain.query(&block, "Metadata_metadata", &[]).map_err(|error| call_failed(&error))?;
    decoded::<Vec<u8>>("Metadata_metadata", &bytes).map(hex_of)
}

fn fee(params: &Params<'_>, chain: &Chain) -> Answer<Value> {
    use pallet_transaction_payment::RuntimeDispatchInfo;

    let function = "TransactionPaymentApi_query_info";
    let mut params = params.sequence();
    let Bytes(mut data) = next(&mut params)?;
    let block = block(&mut params, chain)?;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    data.extend(length.encode());
    let bytes = chain.query(&block, function, &data).map_err(|error| call_failed(&error))?;
    let info: RuntimeDispatchInfo<u64> = decoded(function, &bytes)?;
    Ok(
        json!({ "weight": info.weight, "class": info.class, "partialFee": info.partial_fee.to_string() }),
    )
}

fn decoded<T: Decode>(function: &str, bytes: &[u8]) -> Answer<T> {
    T::decode(&mut &*bytes).map_err(|_| call_failed(&CallFailed::Answer(function.to_owned())))
}

/// Tells the version, and each other one that the best branch comes to have.
async fn runtime_version(
    _params: Params<'static>,
    pending: PendingSubscriptionSink,
    chain: Arc<Chain>,
    _extensions: Extensions,
) -> SubscriptionResult {
    let sink = pending.accept().await?;
    let (mut newest, mut blocks) = chain.follow_best();
    let mut told: Option<RuntimeVersion> = None;
    let mut upgrades: Option<Vec<u8>> = None;
    loop {
        let now = read(&chain, &newest, UPGRADES_KEY)?;
        if told.is_none() || now != upgrades {
            upgrades = now;
            let version = chain.version(&newest).map_err(|error| error.to_string())?;
            if told.as_ref() != Some(&version) {
                let message =
                    SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), &version)?;
                sink.send(message).await?;
                told = Some(version);
            }
        }
        let block = tokio::select! {
            () = sink.closed() => return Ok(()),
            block = blocks.recv() => block,
        };
        match block {
            Ok(block) => newest = block,
            Err(RecvError::Lagged(_)) => newest = chain.head(),
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}
