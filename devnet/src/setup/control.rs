//! Ordering faults on a running devnet.

use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::ClientT;
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use serde::Deserialize;

use super::{REQUEST, SetupError};
use crate::node::faults::Fault;
use crate::rpc::CONTROL;

/// What a devnet says of itself, whatever it says to others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct State {
    /// The faults in force.
    pub faults: Vec<Fault>,
    /// The height of the newest block.
    pub best: u32,
    /// The height of the newest final block.
    pub finalized: u32,
}

/// A connection that faults do not concern.
#[derive(Debug)]
pub struct Control(WsClient);

impl Control {
    /// The address of the RPC at `url` that faults do not concern.
    pub fn url(url: &str) -> String {
        format!("{}{CONTROL}", url.trim_end_matches('/'))
    }

    /// Connects to the devnet whose RPC is at `url`, such as `ws://127.0.0.1:9944`.
    ///
    /// # Errors
    /// If none answers there.
    pub async fn connect(url: &str) -> Result<Self, SetupError> {
        let client =
            WsClientBuilder::default().request_timeout(REQUEST).build(Self::url(url)).await;
        client.map(Self).map_err(|source| SetupError::Connect { url: url.to_owned(), source })
    }

    /// Lets something go wrong.
    ///
    /// # Errors
    /// If it makes no sense, or the devnet does not answer.
    pub async fn order(&self, fault: &Fault) -> Result<State, SetupError> {
        let answer = self.0.request("devnet_fault", rpc_params![fault]).await;
        answer.map_err(|source| match source {
            ClientError::Call(error) => {
                SetupError::Refused { call: "the fault", reason: error.message().to_owned() }
            }
            source => SetupError::Request { doing: "ordering a fault", source },
        })
    }

    /// Asks what is in force.
    ///
    /// # Errors
    /// If the devnet does not answer.
    pub async fn state(&self) -> Result<State, SetupError> {
        let answer = self.0.request("devnet_faults", rpc_params![]).await;
        answer.map_err(|source| SetupError::Request { doing: "asking for faults", source })
    }
}
