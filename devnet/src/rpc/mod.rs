//! The JSON-RPC methods: those that subxt's legacy back end and the official Python SDK call.

mod author;
mod chain;
mod connection;
mod devnet;
mod hindrance;
mod pages;
mod params;
mod server;
mod state;
mod system;

use std::sync::Arc;

use jsonrpsee::server::RegisterMethodError;
use jsonrpsee::{Methods, RpcModule};
use serde_json::json;

pub(crate) use connection::CONTROL;
pub(crate) use server::{Server, serve};
pub(crate) use system::NODE_NAME;

use crate::node::chain::Chain;

/// All methods of a chain.
///
/// # Errors
/// If two methods have the same name.
pub(crate) fn methods(chain: Arc<Chain>) -> Result<Methods, RegisterMethodError> {
    let mut module = RpcModule::from_arc(chain);
    system::register(&mut module)?;
    chain::register(&mut module)?;
    state::register(&mut module)?;
    author::register(&mut module)?;
    devnet::register(&mut module)?;
    let mut names: Vec<&str> = module.method_names().collect();
    names.push("rpc_methods");
    names.sort_unstable();
    let answer = json!({ "methods": names });
    module.register_method("rpc_methods", move |_, _, _| answer.clone())?;
    Ok(module.into())
}
