//! `chain_*`: blocks and headers, asked for and subscribed to.

use std::sync::Arc;

use jsonrpsee::RpcModule;
use jsonrpsee::core::SubscriptionResult;
use jsonrpsee::server::{PendingSubscriptionSink, RegisterMethodError, SubscriptionMessage};
use jsonrpsee::types::Params;
use serde_json::{Value, json};
use sp_core::H256;
use tokio::sync::broadcast::error::RecvError;

use super::params::{Answer, Number, block_if_known, hex_of, optional};
use crate::node::chain::{Block, Chain};
use crate::runtime::Header;

pub(super) fn register(module: &mut RpcModule<Chain>) -> Result<(), RegisterMethodError> {
    module.register_method("chain_getHeader", |params, chain, _| header(&params, chain))?;
    module.register_method("chain_getBlock", |params, chain, _| block(&params, chain))?;
    module.register_method("chain_getBlockHash", |params, chain, _| block_hash(&params, chain))?;
    module.register_alias("chain_getHead", "chain_getBlockHash")?;
    module.register_method("chain_getFinalizedHead", |_, chain, _| {
        json!(shown(chain, &chain.finalized()))
    })?;
    module.register_alias("chain_getFinalisedHead", "chain_getFinalizedHead")?;
    module.register_subscription(
        "chain_subscribeNewHeads",
        "chain_newHead",
        "chain_unsubscribeNewHeads",
        |_, pending, chain, _| heads(pending, chain, Which::Best),
    )?;
    module.register_subscription(
        "chain_subscribeAllHeads",
        "chain_allHead",
        "chain_unsubscribeAllHeads",
        // Blocks beside the best branch are made only to become part of it.
        |_, pending, chain, _| heads(pending, chain, Which::Best),
    )?;
    module.register_subscription(
        "chain_subscribeFinalizedHeads",
        "chain_finalizedHead",
        "chain_unsubscribeFinalizedHeads",
        |_, pending, chain, _| heads(pending, chain, Which::Final),
    )?;
    module.register_alias("chain_subscribeNewHead", "chain_subscribeNewHeads")?;
    module.register_alias("chain_unsubscribeNewHead", "chain_unsubscribeNewHeads")?;
    module.register_alias("chain_subscribeFinalisedHeads", "chain_subscribeFinalizedHeads")?;
    module.register_alias("chain_unsubscribeFinalisedHeads", "chain_unsubscribeFinalizedHeads")
}

/// The hash that the node shows for its newest block: made up while it lies about its height.
fn shown(chain: &Chain, block: &Block) -> H256 {
    if chain.faults().lie() == 0 { block.hash } else { chain.faults().claim(&block.header).hash() }
}

fn header(params: &Params<'_>, chain: &Chain) -> Answer<Value> {
    let header: Option<Header> = match optional::<H256>(&mut params.sequence())? {
        None => Some(chain.faults().claim(&chain.head().header)),
        Some(hash) => match chain.at_hash(&hash) {
            Some(block) => Some(block.header.clone()),
            None => chain.faults().claimed(&hash),
        },
    };
    Ok(json!(header))
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
    enum Numbers {
        One(Number),
        Many(Vec<Option<Number>>),
    }
    let at = |number: Option<Number>| -> Option<H256> {
        match number.map(|number| number.get()) {
            None => Some(shown(chain, &chain.head())),
            Some(Some(0)) => Some(chain.genesis()),
            Some(number) => Some(chain.at_number(u32::try_from(number?).ok()?)?.hash),
        }
    };
    Ok(match optional::<Numbers>(&mut params.sequence())? {
        None => json!(at(None)),
        Some(Numbers::One(number)) => json!(at(Some(number))),
        Some(Numbers::Many(numbers)) => json!(numbers.into_iter().map(at).collect::<Vec<_>>()),
    })
}

/// Whose heads a subscriber wants.
#[derive(Debug, Clone, Copy)]
enum Which {
    Best,
    Final,
}

async fn heads(
    pending: PendingSubscriptionSink,
    chain: Arc<Chain>,
    which: Which,
) -> SubscriptionResult {
    let sink = pending.accept().await?;
    let (newest, mut blocks) = match which {
        Which::Best => chain.follow_best(),
        Which::Final => chain.follow_final(),
    };
    let message = |block: &Block| {
        let header = chain.faults().claim(&block.header);
        SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), &header)
    };
    sink.send(message(&newest)?).await?;
    loop {
        let block = tokio::select! {
            () = sink.closed() => return Ok(()),
            block = blocks.recv() => block,
        };
        match block {
            Ok(block) => sink.send(message(&block)?).await?,
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}
