//! The blocks in memory: the best branch, how much of it is final, and branches that were replaced.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sp_core::H256;

use super::chain::Block;
use super::state::Change;
use super::store::StoredBlock;

/// Positions of trie nodes.
type NodeKeys = Vec<Vec<u8>>;

/// What must be known of a block as long as another may take its place.
#[derive(Debug, Default)]
pub(super) struct Unfinal {
    /// Nodes that its state added. They go when the block is forgotten without having become final.
    pub(super) added: NodeKeys,
    /// What it changed, for the file; empty if there is none.
    pub(super) changes: Vec<Change>,
}

/// All blocks that are kept. Nothing here touches the states: whoever calls lets the returned nodes go.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// The best branch.
    by_number: BTreeMap<u32, Arc<Block>>,
    /// The best branch and those that were replaced.
    by_hash: HashMap<H256, Arc<Block>>,
    /// By block.
    unfinal: HashMap<H256, Unfinal>,
    /// Blocks that were replaced, readable until finality has passed them.
    replaced: Vec<Arc<Block>>,
    finalized: u32,
}

impl Blocks {
    /// The newest block.
    pub(super) fn best(&self) -> Arc<Block> {
        let newest = self.by_number.last_key_value().map(|(_, block)| Arc::clone(block));
        newest.unwrap_or_else(|| unreachable!("a chain that is open has a block"))
    }

    /// The newest final block, or the oldest one if that is not kept any more.
    pub(super) fn finalized(&self) -> Arc<Block> {
        let found = self.by_number.range(self.finalized..).next();
        found.map_or_else(|| self.best(), |(_, block)| Arc::clone(block))
    }

    /// The height of the newest final block.
    pub(super) fn finalized_number(&self) -> u32 {
        self.finalized
    }

    /// The block at a height of the best branch.
    pub(super) fn at_number(&self, number: u32) -> Option<Arc<Block>> {
        self.by_number.get(&number).cloned()
    }

    /// The block with a hash, also of a branch that was replaced.
    pub(super) fn at_hash(&self, hash: &H256) -> Option<Arc<Block>> {
        self.by_hash.get(hash).cloned()
    }

    /// Adds the next block of the best branch, and forgets the oldest if there are more than `kept`. Returns the nodes
    /// that no block needs any more.
    pub(super) fn push(&mut self, block: Arc<Block>, unfinal: Unfinal, kept: usize) -> NodeKeys {
        self.unfinal.insert(block.hash, unfinal);
        self.by_hash.insert(block.hash, Arc::clone(&block));
        self.by_number.insert(block.number(), block);
        if self.by_number.len() <= kept {
            return Vec::new();
        }
        if let Some((_, oldest)) = self.by_number.pop_first() {
            self.by_hash.remove(&oldest.hash);
            self.unfinal.remove(&oldest.hash);
        }
        let next = self.by_number.first_key_value();
        next.map_or_else(Vec::new, |(_, next)| next.freed.clone())
    }

    /// Makes the next block final. Returns it, and the nodes of blocks that it has replaced for good.
    pub(super) fn finalize_next(&mut self) -> (Option<Arc<Block>>, NodeKeys) {
        self.finalized += 1;
        let block = self.at_number(self.finalized);
        if let Some(block) = &block {
            self.unfinal.remove(&block.hash);
        }
        let finalized = self.finalized;
        let mut unneeded = Vec::new();
        for gone in self.replaced.extract_if(.., |block| block.number() <= finalized) {
            self.by_hash.remove(&gone.hash);
            if let Some(unfinal) = self.unfinal.remove(&gone.hash) {
                unneeded.extend(unfinal.added);
            }
        }
        (block, unneeded)
    }

    /// Takes the blocks above `number` out of the best branch. Their states stay readable for now.
    pub(super) fn retract_to(&mut self, number: u32) {
        self.replaced.extend(self.by_number.split_off(&(number + 1)).into_values());
    }

    /// The blocks of the best branch above `number`, oldest first.
    pub(super) fn above(&self, number: u32) -> Vec<Arc<Block>> {
        self.by_number.range(number + 1..).map(|(_, block)| Arc::clone(block)).collect()
    }

    /// What is not final, as the file wants it.
    pub(super) fn tail(&self) -> Vec<(StoredBlock, Vec<Change>)> {
        let changes = |block: &Block| {
            self.unfinal.get(&block.hash).map_or_else(Vec::new, |unfinal| unfinal.changes.clone())
        };
        self.above(self.finalized).iter().map(|block| (block.stored(), changes(block))).collect()
    }
}
