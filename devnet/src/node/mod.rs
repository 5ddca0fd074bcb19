//! The node: state, transactions, blocks, the file they are kept in.

pub mod chain;
pub mod pool;
pub mod state;
pub mod store;
