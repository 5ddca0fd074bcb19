//! What `/metrics` shows of the chain.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::node::chain::Chain;

/// A registry with the chain's figures.
pub(crate) fn registry(chain: Arc<Chain>) -> Registry {
    let mut registry = service::metrics::registry("devnet", env!("CARGO_PKG_VERSION"));
    registry.register_collector(Box::new(Figures(chain)));
    registry
}

/// Reads the figures when they are asked for.
#[derive(Debug)]
struct Figures(Arc<Chain>);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let height = self.0.head().header.number;
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let figures = [
            ("devnet_block_height", "The height of the newest block", i64::from(height)),
            (
                "devnet_finalized_height",
                "The height of the newest final block",
                i64::from(self.0.finalized().number()),
            ),
            (
                "devnet_pool_transactions",
                "Transactions that wait for a block",
                count(self.0.pending_len()),
            ),
            ("devnet_state_nodes", "Trie nodes kept in memory", count(self.0.nodes_len())),
        ];
        for (name, help, value) in figures {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
