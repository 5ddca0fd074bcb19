//! `system_*`: who this node is, and the next nonce of an account.

use std::str::FromStr;
use std::sync::Arc;

use common::Hotkey;
use jsonrpsee::RpcModule;
use jsonrpsee::server::RegisterMethodError;
use jsonrpsee::types::Params;
use serde_json::json;

use super::params::{Answer, call_failed, invalid, next};
use crate::node::chain::Chain;

/// What the node calls itself.
pub(crate) const NODE_NAME: &str = "Touchstone devnet";

/// The chain's name.
const CHAIN: &str = "Touchstone Devnet";

/// A node that is more blocks behind the others says that it is syncing, as Substrate does.
const MAJOR_SYNC: u32 = 5;

pub(super) fn register(module: &mut RpcModule<Chain>) -> Result<(), RegisterMethodError> {
    module.register_method("system_chain", |_, _, _| CHAIN)?;
    module.register_method("system_chainType", |_, _, _| "Local")?;
    module.register_method("system_name", |_, _, _| NODE_NAME)?;
    module.register_method("system_version", |_, _, _| env!("CARGO_PKG_VERSION"))?;
    module.register_method(
        "system_properties",
        |_, _, _| json!({ "ss58Format": 42, "tokenDecimals": 9, "tokenSymbol": "TAO" }),
    )?;
    module.register_method("system_health", |_, chain, _| {
        let syncing = chain.faults().missed() > MAJOR_SYNC;
        json!({ "peers": 0, "isSyncing": syncing, "shouldHavePeers": false })
    })?;
    module.register_method("system_peers", |_, _, _| json!([]))?;
    module.register_method("system_syncState", |_, chain, _| {
        let head = chain.head().number() + chain.faults().lie();
        let highest = head + chain.faults().missed();
        json!({ "startingBlock": 0, "currentBlock": head, "highestBlock": highest })
    })?;
    module.register_blocking_method("system_accountNextIndex", |params, chain, _| {
        next_index(&params, &chain)
    })?;
    module.register_alias("account_nextIndex", "system_accountNextIndex")
}

fn next_index(params: &Params<'_>, chain: &Arc<Chain>) -> Answer<u32> {
    let account: String = next(&mut params.sequence())?;
    let account = Hotkey::from_str(&account).map_err(|error| invalid(error.to_string()))?;
    chain.next_nonce(*account.as_bytes()).map_err(|error| call_failed(&error))
}
