//! How the chain grows: blocks are made, become final, or are replaced by another branch.

use std::sync::{Arc, PoisonError, RwLockWriteGuard};
use std::time::Instant;

use parity_scale_codec::Encode;
use sp_core::storage::StateVersion;
use sp_core::{Blake2Hasher, H256};
use sp_runtime::{Digest, DigestItem};
use sp_trie::PrefixedMemoryDB;

use super::blocks::{Blocks, Unfinal};
use super::build::Build;
use super::chain::{Block, Chain, ChainError, MOST_UNFINAL, lock};
use super::faults::Turn;
use super::pool::Waiting;
use super::state::{CallFailed, Change, Overlay};
use super::store::{Store, StoredBlock};

/// Marks the first block of a branch that replaces another, so that it differs from the one it replaces.
const FORK: [u8; 4] = *b"fork";

/// A block that was made and that nobody knows of yet.
struct Made {
    stored: StoredBlock,
    changes: Vec<Change>,
    nodes: PrefixedMemoryDB<Blake2Hasher>,
    included: Vec<H256>,
    invalid: Vec<H256>,
}

/// A block whose state can be read.
struct Placed {
    block: Arc<Block>,
    unfinal: Unfinal,
    included: Vec<H256>,
    invalid: Vec<H256>,
}

/// What another branch takes the place of.
struct Retraction {
    /// The height that stays.
    to: u32,
    /// The blocks above it, oldest first.
    replaced: Vec<H256>,
    drop_transactions: bool,
}

impl Chain {
    /// What happens once per block time: usually a block, unless a fault wants something else. Returns the newest
    /// block if there is a new one.
    ///
    /// # Errors
    /// As [`Chain::produce`].
    pub fn turn(&self) -> Result<Option<Arc<Block>>, ChainError> {
        match self.faults.turn(self.unfinal()) {
            Turn::Rest => {
                self.finalize_due();
                Ok(None)
            }
            Turn::Block => self.produce().map(Some),
            Turn::Reorganise { depth, drop_transactions } => {
                self.reorganise(depth, drop_transactions).map(Some)
            }
        }
    }

    /// Makes the next block of what waits, for no longer than the block time.
    ///
    /// # Errors
    /// If the runtime or the file system refuses. The chain is then as before.
    pub fn produce(&self) -> Result<Arc<Block>, ChainError> {
        let mut store = lock(&self.store);
        let parent = self.head();
        let ready = lock(&self.pool).ready();
        let made = self.make(&parent, Digest::default(), &ready)?;
        let due = match store.as_mut() {
            Some(store) => store.append(made.stored.clone(), made.changes.clone())?,
            None => false,
        };
        let placed = self.place(made, store.is_some());
        let block = Arc::clone(&placed.block);
        self.announce(vec![placed], None);
        if due {
            self.snapshot(store.as_mut())?;
        }
        Ok(block)
    }

    /// Replaces the newest blocks by as many others and one more. What is in them waits for a block again, and is taken
    /// into the new ones if it is still valid; or it vanishes, if `drop_transactions`. Returns the newest block.
    ///
    /// # Errors
    /// If some of these blocks are final, or the runtime or the file system refuses. The chain is then as before.
    pub fn reorganise(
        &self,
        depth: u32,
        drop_transactions: bool,
    ) -> Result<Arc<Block>, ChainError> {
        let mut store = lock(&self.store);
        let unfinal = self.unfinal();
        let base =
            self.head().number().checked_sub(depth).and_then(|number| self.at_number(number));
        let Some(base) = base.filter(|_| (1..=unfinal).contains(&depth)) else {
            return Err(ChainError::Final { depth, unfinal });
        };
        let replaced: Vec<H256> =
            self.blocks().above(base.number()).iter().map(|block| block.hash).collect();
        let mut waiting = Vec::new();
        {
            let pool = lock(&self.pool);
            if !drop_transactions {
                waiting = pool.included_in(&replaced);
            }
            waiting.extend(pool.ready());
        }

        let mut branch: Vec<Placed> = Vec::new();
        let grown = self.grow(&base, replaced.first(), &mut waiting, depth + 1, &mut branch);
        let written = grown.and_then(|()| match store.as_mut() {
            Some(store) => {
                let blocks = branch.iter();
                let blocks = blocks.map(|one| (one.block.stored(), one.unfinal.changes.clone()));
                Ok(store.fork(base.number(), blocks.collect())?)
            }
            None => Ok(false),
        });
        let due = match written {
            Ok(due) => due,
            Err(error) => {
                // Nobody has heard of these blocks; nor will anybody.
                branch.iter().for_each(|placed| self.nodes.forget(&placed.unfinal.added));
                return Err(error);
            }
        };
        let retraction = Retraction { to: base.number(), replaced, drop_transactions };
        self.announce(branch, Some(&retraction));
        if due {
            self.snapshot(store.as_mut())?;
        }
        Ok(self.head())
    }

    /// Makes a branch of `count` blocks on top of `base`.
    fn grow(
        &self,
        base: &Arc<Block>,
        instead_of: Option<&H256>,
        waiting: &mut Vec<Waiting>,
        count: u32,
        branch: &mut Vec<Placed>,
    ) -> Result<(), ChainError> {
        let mark = DigestItem::PreRuntime(FORK, instead_of.encode());
        let mut digest = Digest { logs: vec![mark] };
        let mut parent = Arc::clone(base);
        for _ in 0..count {
            let made = self.make(&parent, std::mem::take(&mut digest), waiting)?;
            let settled = |one: &Waiting| {
                made.included.contains(&one.hash) || made.invalid.contains(&one.hash)
            };
            waiting.retain(|one| !settled(one));
            let placed = self.place(made, true);
            parent = Arc::clone(&placed.block);
            branch.push(placed);
        }
        Ok(())
    }

    /// Makes a block on top of `parent`. Nothing has changed after that.
    fn make(&self, parent: &Block, digest: Digest, ready: &[Waiting]) -> Result<Made, ChainError> {
        let failed = |source| ChainError::Block { number: parent.number() + 1, source };
        let view = self.state(parent);
        let mut overlay = Overlay::default();
        let build = Build {
            spec: self.spec,
            overlay: &mut overlay,
            view: &view,
            until: Instant::now() + self.block_time,
            upgrade: self.faults.upgrade_is_due(),
        };
        let upgrade = build.upgrade;
        let outcome = build.run(parent, digest, ready).map_err(failed)?;
        let changes = overlay
            .drain_storage_changes(&view, StateVersion::V1)
            .map_err(|_| failed(CallFailed::Answer("storage".to_owned())))?;
        if upgrade {
            self.faults.upgrade_is_done();
        }
        Ok(Made {
            stored: StoredBlock { header: outcome.header, extrinsics: outcome.extrinsics },
            changes: changes.main_storage_changes,
            nodes: changes.transaction,
            included: outcome.included,
            invalid: outcome.invalid,
        })
    }

    /// Makes a block's state readable.
    fn place(&self, made: Made, keep_changes: bool) -> Placed {
        let nodes = self.nodes.insert(made.nodes);
        let changes = if keep_changes { made.changes } else { Vec::new() };
        Placed {
            block: Arc::new(Block::new(made.stored, nodes.freed)),
            unfinal: Unfinal { added: nodes.added, changes },
            included: made.included,
            invalid: made.invalid,
        }
    }

    /// Puts new blocks on top of the best branch, or in the place of what is there, and tells everybody.
    fn announce(&self, placed: Vec<Placed>, retraction: Option<&Retraction>) {
        let mut settled = Vec::with_capacity(placed.len());
        {
            // Under one lock, so that nobody sees a chain that has become shorter.
            let mut blocks = self.write_blocks();
            if let Some(retraction) = retraction {
                blocks.retract_to(retraction.to);
            }
            for Placed { block, unfinal, included, invalid } in placed {
                self.nodes.forget(&blocks.push(Arc::clone(&block), unfinal, self.kept));
                let _ = self.best.send(Arc::clone(&block));
                settled.push((block, included, invalid));
            }
        }
        // Blocks first: who is told that a transaction is in a block can read that block.
        {
            let mut pool = lock(&self.pool);
            if let Some(Retraction { replaced, drop_transactions, .. }) = retraction {
                pool.retract(replaced, !drop_transactions);
            }
            for (block, included, invalid) in settled {
                pool.settle(block.hash, block.number(), &included, &invalid);
            }
        }
        self.finalize_due();
    }

    /// Makes final what is old enough.
    fn finalize_due(&self) {
        let lag = if self.faults.finality_is_held() { MOST_UNFINAL } else { self.finality };
        loop {
            let (block, unneeded) = {
                let mut blocks = self.write_blocks();
                if blocks.finalized_number() >= blocks.best().number().saturating_sub(lag) {
                    return;
                }
                let (block, unneeded) = blocks.finalize_next();
                if let Some(block) = &block {
                    let _ = self.finalized.send(Arc::clone(block));
                }
                (block, unneeded)
            };
            self.nodes.forget(&unneeded);
            if let Some(block) = block {
                lock(&self.pool).finalize(block.hash);
            }
        }
    }

    /// Writes the file anew, beginning with the newest final block.
    pub(super) fn snapshot(&self, store: Option<&mut Store>) -> Result<(), ChainError> {
        let Some(store) = store else { return Ok(()) };
        let (last, tail) = {
            let blocks = self.blocks();
            (blocks.finalized(), blocks.tail())
        };
        let pairs = self.nodes.pairs(last.header.state_root);
        Ok(store.start_anew(self.genesis, last.stored(), pairs, tail)?)
    }

    /// How many blocks are not final.
    fn unfinal(&self) -> u32 {
        self.head().number().saturating_sub(self.finalized().number())
    }

    fn write_blocks(&self) -> RwLockWriteGuard<'_, Blocks> {
        self.blocks.write().unwrap_or_else(PoisonError::into_inner)
    }
}
