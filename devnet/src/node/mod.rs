//! The node: state, transactions, blocks, the file they are kept in.

pub mod chain;
pub mod pool;
pub(crate) mod shield;
pub mod state;
pub mod store;
