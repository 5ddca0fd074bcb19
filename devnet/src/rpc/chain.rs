//! `chain_*`: blocks and headers, asked for and subscribed to.

use std::sync::Arc;

use jsonrpsee::core::SubscriptionResult;
use jsonrpsee::server::{PendingSubscriptionSink, RegisterMethodError, SubscriptionMessage};
use jsonrpsee::types::Params;
use jsonrpsee::{Extensions, RpcModule};
use serde_json::{Value, json};
use sp_core::H256;
use tokio::sync::broadcast::error::RecvError;

use super::params::{Answer, Number, block_if_known, hex_of, optional};
use crate::node::chain::{Block, Chain};

pub(super) fn register(module: &mut RpcModule<Chain>) -> Result<(), RegisterMethodError> {
    module.register_method("chain_getHeader", |params, chain, _| header(&params, chain))?;
    module.register_method("chain_getBlock", |params, chain, _| block(&params, chain))?;
    module.register_method("chain_getBlockHash", |params, chain, _| block_hash(&params, chain))?;
    module.register_alias("chain_getHead", "chain_getBlockHash")?;
    module.register_method("chain_getFinalizedHead", |_, chain, _| json!(chain.head().hash))?;
    module.register_alias("chain_getFinalisedHead", "chain_getFinalizedHead")?;
    // Every block is final as soon as it is made, so all three say the same.
    module.register_subscription(
        "chain_subscribeNewHeads",
        "chain_newHead",
        "chain_unsubscribeNewHeads",
        heads,
    )?;
    module.register_subscription(
        "chain_subscribeAllHeads",
        "chain_allHead",
        "chain_unsubscribeAllHeads",
        heads,
    )?;
    module.register_subscription(
        "chain_subscribeFinalizedHeads",
        "chain_finalizedHead",
        "chain_unsubscribeFinalizedHeads",
        heads,
    )?;
    module.register_alias("chain_subscribeNewHead", "chain_subscribeNewHeads")?;
    module.register_alias("chain_unsubscribeNewHead", "chain_unsubscribeNewHeads")
}

fn header(params: &Params<'_>, chain: &Chain) -> Answer<Value> {
    Ok(block_if_known(params, chain)?.map_or(Value::Null, |block| json!(block.header)))
}

fn block(params: &Params<'_>, chain: &Chain) -> Answer<Value> {
    let Some(block) = block_if_known(params, chain)? else { return Ok(Value::Null) };
    let extrinsics: Vec<String> = block.extrinsics.iter().map(hex_of).collect();
    Ok(json!({
        "block": { "header": block.header, "extrinsics": extrinsics },
        "justifications": null,
    }))
}

fn block_hash(params: &Params<'_>, chain: &Chain) -> Answer<Value> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Which {
        One(Number),
        Many(Vec<Option<Number>>),
    }
    let at = |number: Option<Number>| -> Option<H256> {
        match number.map(|number| number.get()) {
            None => Some(chain.head().hash),
            Some(Some(0)) => Some(chain.genesis()),
            Some(number) => Some(chain.at_number(u32::try_from(number?).ok()?)?.hash),
        }
    };
    Ok(match optional::<Which>(&mut params.sequence())? {
        None => json!(at(None)),
        Some(Which::One(number)) => json!(at(Some(number))),
        Some(Which::Many(numbers)) => json!(numbers.into_iter().map(at).collect::<Vec<_>>()),
    })
}

async fn heads(
    _params: Params<'static>,
    pending: PendingSubscriptionSink,
    chain: Arc<Chain>,
    _extensions: Extensions,
) -> SubscriptionResult {
    let mut blocks = chain.subscribe();
    let sink = pending.accept().await?;
    let message = |block: &Block| {
        SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), &block.header)
    };
    let newest = chain.head();
    sink.send(message(&newest)?).await?;
    loop {
        let block = tokio::select! {
            () = sink.closed() => return Ok(()),
            block = blocks.recv() => block,
        };
        match block {
            // What came between subscribing and asking for the newest is known already.
            Ok(block) if block.header.number <= newest.header.number => {}
            Ok(block) => sink.send(message(&block)?).await?,
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}
