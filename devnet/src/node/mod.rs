//! The node: state, transactions, blocks, the file they are kept in, and what goes wrong on purpose.

mod bans;
mod blocks;
mod build;
pub mod chain;
pub mod faults;
mod growth;
pub mod pool;
pub mod state;
pub mod store;
#[cfg(test)]
mod tests;
