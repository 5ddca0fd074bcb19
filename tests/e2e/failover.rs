//! Several nodes: the one in use is left when it is gone, silent, behind, or tells what it cannot show.
//!
//! Two devnets that begin alike stand for two nodes of one network.

use std::time::Duration;

use ::chain::{Chain, ChainConfig, ChainError, NodeState};
use ::devnet::Config;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::chain::{Devnet, PATIENCE, until};

struct Pair {
    first: Devnet,
    second: Devnet,
    chain: Chain,
    stop: CancellationToken,
    following: JoinHandle<()>,
}

impl Pair {
    /// A client that prefers the first of two nodes.
    async fn boot() -> Self {
        let (first, second) = (Devnet::boot().await, Devnet::boot().await);
        let config = ChainConfig {
            deadline: Duration::from_secs(1),
            fallbacks: vec![second.url().parse().unwrap()],
            look_every: Duration::from_millis(100),
            ..first.config()
        };
        let chain = Chain::connect(config).await.unwrap();
        let stop = CancellationToken::new();
        let following = tokio::spawn({
            let (chain, stop) = (chain.clone(), stop.clone());
            async move { chain.follow(stop).await }
        });
        let pair = Self { first, second, chain, stop, following };
        assert_eq!(pair.chain.endpoint(), pair.first.url());
        pair
    }

    /// Requests are answered by this node, and the feed of blocks is its.
    async fn uses(&self, node: &Devnet) {
        let url = node.url();
        until(async || {
            let answers = self.chain.finalized_block().await.is_ok();
            (answers && self.chain.endpoint() == url).then_some(())
        })
        .await;
        let blocks = self.chain.blocks();
        for _ in 0..3 {
            let height = node.inside.finalized().number();
            until(async || {
                let head = (*blocks.borrow())?;
                let own = node.inside.at_number(u32::try_from(head.number.0).ok()?)?;
                (head.number.0 > u64::from(height) && own.hash.0 == head.hash.0).then_some(())
            })
            .await;
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.following).await.unwrap().unwrap();
        self.first.stop().await;
        self.second.stop().await;
    }
}

#[tokio::test]
async fn a_node_that_is_gone_is_left_and_taken_up_again_when_it_is_back_and_steady() {
    let pair = Pair::boot().await;
    pair.first.controls.set_reachable(false);
    pair.uses(&pair.second).await;
    pair.first.controls.set_reachable(true);
    pair.uses(&pair.first).await;
    pair.stop().await;
}

#[tokio::test]
async fn a_node_that_stays_behind_is_left() {
    let pair = Pair::boot().await;
    pair.first.controls.pause_blocks();
    pair.uses(&pair.second).await;
    let lag = until(async || match &pair.chain.nodes()[0].state {
        NodeState::Well { lag, .. } => Some(*lag),
        NodeState::Unknown | NodeState::Unusable(_) => None,
    });
    assert!(lag.await > 0);
    pair.stop().await;
}

#[tokio::test]
async fn a_node_that_never_answers_is_left() {
    let pair = Pair::boot().await;
    pair.first.controls.silent();
    pair.uses(&pair.second).await;
    let first = until(async || match pair.chain.nodes().swap_remove(0).state {
        NodeState::Unusable(why) => Some(why),
        NodeState::Unknown | NodeState::Well { .. } => None,
    });
    assert!(!first.await.is_empty());
    pair.stop().await;
}

#[tokio::test]
async fn a_node_that_refuses_because_it_is_asked_too_much_is_left() {
    let pair = Pair::boot().await;
    pair.first.controls.refuse(Duration::from_secs(3600)).unwrap();
    pair.uses(&pair.second).await;
    pair.stop().await;
}

#[tokio::test]
async fn a_node_that_names_blocks_which_it_cannot_show_is_left() {
    let pair = Pair::boot().await;
    pair.first.controls.lie_height(60).unwrap();
    pair.uses(&pair.second).await;
    // The other one may not be believed for lying either, however high it says it is.
    pair.first.controls.resume();
    pair.uses(&pair.first).await;
    pair.second.controls.lie_height(60).unwrap();
    until(async || matches!(pair.chain.nodes()[1].state, NodeState::Unusable(_)).then_some(()))
        .await;
    assert_eq!(pair.chain.endpoint(), pair.first.url());
    pair.stop().await;
}

#[tokio::test]
async fn a_fallback_of_another_network_is_never_used() {
    let first = Devnet::boot().await;
    // Another beacon in its first state makes it another chain.
    let beacon = ::devnet::Beacon::Own { period_s: 7.try_into().unwrap() };
    let other = Devnet::boot_with(Config { beacon, ..Config::default() }).await;
    let config = ChainConfig { fallbacks: vec![other.url().parse().unwrap()], ..first.config() };
    let chain = Chain::connect(config).await.unwrap();
    first.controls.set_reachable(false);
    let error = until(async || match chain.finalized_block().await {
        Err(error @ (ChainError::WrongChain { .. } | ChainError::Unreachable { .. })) => {
            Some(error)
        }
        _ => None,
    });
    error.await;
    first.controls.set_reachable(true);
    until(async || chain.finalized_block().await.ok()).await;
    assert_eq!(chain.endpoint(), first.url());
    first.stop().await;
    other.stop().await;
}
