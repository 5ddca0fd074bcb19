//! `devnet_*`: faults on command. Only a development chain has such methods.

use jsonrpsee::RpcModule;
use jsonrpsee::server::RegisterMethodError;
use jsonrpsee::types::Params;
use serde_json::{Value, json};

use super::params::{Answer, invalid, next};
use crate::node::chain::Chain;
use crate::node::faults::Fault;

/// What the names of these methods begin with. Faults do not concern them.
pub(super) const NAMESPACE: &str = "devnet_";

pub(super) fn register(module: &mut RpcModule<Chain>) -> Result<(), RegisterMethodError> {
    module.register_method("devnet_fault", |params, chain, _| fault(&params, chain))?;
    module.register_method("devnet_faults", |_, chain, _| state(chain))?;
    Ok(())
}

/// Takes a [`Fault`] as JSON and answers like `devnet_faults`.
fn fault(params: &Params<'_>, chain: &Chain) -> Answer<Value> {
    let fault: Fault = next(&mut params.sequence())?;
    chain.order(fault).map_err(|error| invalid(error.to_string()))?;
    Ok(state(chain))
}

/// What is in force, and the true heights.
fn state(chain: &Chain) -> Value {
    json!({
        "faults": chain.faults().in_force(),
        "best": chain.head().number(),
        "finalized": chain.finalized().number(),
    })
}
