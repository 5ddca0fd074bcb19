//! A client for the Bittensor chain: wallets' hotkeys, the metagraph, axons, weights.
//!
//! Nothing about a runtime is compiled in: calls, storage layouts and error names are looked up in the metadata that
//! the chain itself serves, so a runtime upgrade needs no release. The crate knows nothing of scoring or of HTTP.

pub mod axon;
pub mod client;
mod commitments;
pub mod epochs;
mod error;
mod feed;
#[cfg(test)]
mod main_network;
pub mod metagraph;
mod network;
mod nodes;
mod preflight;
pub mod registration;
mod rpc;
mod serving;
mod signed;
mod storage;
mod submission;
pub mod wallet;
mod weight_facts;
pub mod weights;

pub use axon::{Axon, AxonRefused};
pub use client::{Chain, Head};
pub use commitments::{Committed, MAX_COMMITMENT_BYTES};
pub use error::{BlockHash, ChainError};
pub use metagraph::{Hyperparameters, Metagraph, Neuron};
pub use network::{BadNetwork, ChainConfig, Network, node_address};
pub use nodes::{Look, NodeHealth, NodeState};
pub use preflight::{
    CommitFacts, CommitReveal, MAX_UNREVEALED, Preflight, ServeFacts, Way, WeightFacts,
    check_commit, check_serve, check_weights, choose_way, why_dropped,
};
pub use serving::Served;
pub use signed::{LIFETIME_BLOCKS, PoolRefusal, SubmitError};
pub use submission::{
    Digest, Failure, Kind, Next, PlannedKind, Prepared, Stage, Standing, Submission, Turn,
    WeightsPlan, plan_weights, settle,
};
pub use wallet::{WalletError, WalletPaths};
pub use weights::BadWeights;
