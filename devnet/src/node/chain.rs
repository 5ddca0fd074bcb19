//! The chain: blocks, the state below them, and the transactions that wait for the next one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use parity_scale_codec::{Decode, Encode};
use sp_core::H256;
use sp_core::storage::StateVersion;
use sp_runtime::Digest;
use sp_runtime::traits::{BlakeTwo256, Hash, Header as _};
use sp_runtime::transaction_validity::{
    InvalidTransaction, TransactionSource, TransactionValidity, TransactionValidityError,
    ValidTransaction,
};
use sp_version::RuntimeVersion;
use tokio::sync::{broadcast, mpsc};

use super::blocks::{Blocks, Unfinal};
use super::faults::{BadFault, Fault, Faults};
use super::pool::{NotTaken, Pool, Status};
use super::state::{CallFailed, Nodes, View};
use super::store::{Loaded, Store, StoreError, StoredBlock};
use crate::runtime::Header;
use crate::specs::{Genesis, Spec};

/// How many blocks finality is behind at most, whatever holds it.
pub const MOST_UNFINAL: u32 = 1024;

/// How many blocks, with their states, are kept in memory. Mortal transactions look back 2400.
const KEPT_BLOCKS: usize = 4096;

/// The longest transaction that is taken, in bytes.
const LONGEST_EXTRINSIC: usize = 1 << 20;

/// Blocks that a slow subscriber may be behind before it misses some.
const BROADCAST: usize = 256;

/// A block of the chain.
#[derive(Debug)]
pub struct Block {
    /// Blake2-256 of the header.
    pub hash: H256,
    /// The header.
    pub header: Header,
    /// The transactions, each with a length prefix.
    pub extrinsics: Vec<Vec<u8>>,
    /// Nodes that this block's state needs no more and the one before does.
    pub(super) freed: Vec<Vec<u8>>,
}

impl Block {
    pub(super) fn new(stored: StoredBlock, freed: Vec<Vec<u8>>) -> Self {
        let StoredBlock { header, extrinsics } = stored;
        Self { hash: header.hash(), header, extrinsics, freed }
    }

    /// Its height.
    pub fn number(&self) -> u32 {
        self.header.number
    }

    pub(super) fn stored(&self) -> StoredBlock {
        StoredBlock { header: self.header.clone(), extrinsics: self.extrinsics.clone() }
    }
}

/// Why a chain could not be started or a block not be made.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The first state cannot be built.
    #[error("the first state cannot be built: {0}")]
    Genesis(String),
    /// The chain in the folder is of another kind.
    #[error(
        "the chain in {} was begun with {was}: start it so, or choose another folder for a new chain",
        .folder.display()
    )]
    BegunOtherwise {
        /// The folder.
        folder: PathBuf,
        /// With what.
        was: String,
    },
    /// The file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The runtime does not do its part of a block.
    #[error("block {number} cannot be made")]
    Block {
        /// Its height.
        number: u32,
        /// What failed.
        source: CallFailed,
    },
    /// Final blocks were to be replaced.
    #[error("the newest {depth} blocks cannot be replaced: only {unfinal} are not final")]
    Final {
        /// How many blocks were to be replaced.
        depth: u32,
        /// How many could be.
        unfinal: u32,
    },
}

/// Why a transaction was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its bytes are no transaction of this chain.
    #[error("the bytes are no transaction of this chain")]
    Undecodable,
    /// It is not valid in the present state.
    #[error("the transaction is not valid")]
    Invalid(TransactionValidityError),
    /// The pool does not take it.
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    /// The runtime broke down over it.
    #[error("the runtime broke down over it")]
    Failed(#[from] CallFailed),
}

impl Refused {
    /// What a node says that refuses with this error of Substrate's pool, or with a custom error below 256.
    fn with_code(code: u16, hash: H256) -> Self {
        match (u8::try_from(code), code) {
            (Ok(custom), _) => Self::Invalid(InvalidTransaction::Custom(custom).into()),
            (_, 1012) => Self::NotTaken(NotTaken::Banned),
            (_, 1013) => Self::NotTaken(NotTaken::Known(hash)),
            (_, 1014) => Self::NotTaken(NotTaken::TooLowPriority { old: 0, new: 0 }),
            (_, 1016) => Self::NotTaken(NotTaken::Full),
            _ => Self::Invalid(InvalidTransaction::BadProof.into()),
        }
    }
}

/// The chain. All of it is shared; one thread at a time makes blocks.
#[derive(Debug)]
pub struct Chain {
    pub(super) spec: Spec,
    pub(super) genesis: H256,
    pub(super) block_time: Duration,
    /// How many blocks finality is behind the newest one.
    pub(super) finality: u32,
    /// How many blocks stay in memory.
    pub(super) kept: usize,
    pub(super) nodes: Nodes,
    pub(super) blocks: RwLock<Blocks>,
    pub(super) pool: Mutex<Pool>,
    /// Held while a block is made.
    pub(super) store: Mutex<Option<Store>>,
    pub(super) faults: Faults,
    pub(super) best: broadcast::Sender<Arc<Block>>,
    pub(super) finalized: broadcast::Sender<Arc<Block>>,
}

impl Chain {
    /// Starts a chain, or continues the one in `folder`. Every block in there is taken for final.
    ///
    /// # Errors
    /// If the file is in use, unreadable or damaged, or the chain in it was begun otherwise.
    pub fn open(
        folder: Option<&Path>,
        block_time: Duration,
        genesis: &Genesis,
    ) -> Result<Self, ChainError> {
        let (store, loaded) = match folder {
            None => (None, None),
            Some(folder) => {
                let (store, loaded) = Store::open(folder)?;
                (Some(store), loaded)
            }
        };
        let mut chain = Self {
            spec: genesis.spec,
            genesis: H256::zero(),
            block_time,
            finality: 0,
            kept: KEPT_BLOCKS,
            nodes: Nodes::default(),
            blocks: RwLock::default(),
            pool: Mutex::default(),
            store: Mutex::default(),
            faults: Faults::default(),
            best: broadcast::Sender::new(BROADCAST),
            finalized: broadcast::Sender::new(BROADCAST),
        };
        match loaded {
            Some(loaded) => {
                if let Some(folder) = folder {
                    let read = |key: &[u8]| {
                        let pair = loaded.pairs.iter().find(|(found, _)| found == key);
                        pair.map(|(_, value)| value.clone())
                    };
                    let folder = || folder.to_owned();
                    genesis
                        .check(read)
                        .map_err(|was| ChainError::BegunOtherwise { folder: folder(), was })?;
                }
                chain.restore(loaded, store)?;
            }
            None => chain.begin(store, genesis)?,
        }
        Ok(chain)
    }

    /// Lets finality be so many blocks behind the newest block, at most [`MOST_UNFINAL`]; it is 0 otherwise.
    #[must_use]
    pub fn with_finality(mut self, blocks: u32) -> Self {
        self.finality = blocks.min(MOST_UNFINAL);
        self
    }

    fn begin(&mut self, store: Option<Store>, genesis: &Genesis) -> Result<(), ChainError> {
        let storage = genesis.storage().map_err(ChainError::Genesis)?;
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = storage.top.into_iter().collect();
        let state_root = self.nodes.build(&pairs);
        let nothing = BlakeTwo256::trie_root(Vec::new(), StateVersion::V1);
        let header = Header::new(0, nothing, state_root, H256::zero(), Digest::default());
        self.genesis = header.hash();
        let block = StoredBlock { header, extrinsics: Vec::new() };
        if let Some(mut store) = store {
            store.start_anew(self.genesis, block.clone(), pairs, Vec::new())?;
            *lock(&self.store) = Some(store);
        }
        self.take_up(block, Vec::new());
        Ok(())
    }

    fn restore(&mut self, loaded: Loaded, store: Option<Store>) -> Result<(), ChainError> {
        let damaged = |number: u32| {
            let why = format!("the state of block {number} does not match its header");
            store
                .as_ref()
                .map_or(ChainError::Genesis(why.clone()), |store| store.damaged(why).into())
        };
        self.genesis = loaded.genesis;
        let mut root = self.nodes.build(&loaded.pairs);
        if root != loaded.block.header.state_root {
            return Err(damaged(loaded.block.header.number));
        }
        self.take_up(loaded.block, Vec::new());
        for (block, changes) in loaded.blocks {
            let change;
            (root, change) = self.nodes.apply(root, &changes);
            if root != block.header.state_root || block.header.parent_hash != self.head().hash {
                return Err(damaged(block.header.number));
            }
            self.take_up(block, change.freed);
        }
        let mut store = store;
        self.snapshot(store.as_mut())?;
        *lock(&self.store) = store;
        Ok(())
    }

    /// Takes a block in that was made earlier and is final.
    fn take_up(&self, block: StoredBlock, freed: Vec<Vec<u8>>) {
        let (number, block) = (block.header.number, Arc::new(Block::new(block, freed)));
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        self.nodes.forget(&blocks.push(block, Unfinal::default(), self.kept));
        while blocks.finalized_number() < number {
            blocks.finalize_next();
        }
    }

    /// The hash of the first block.
    pub fn genesis(&self) -> H256 {
        self.genesis
    }

    /// The spec it was begun with.
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// The runtime's version at a block.
    ///
    /// # Errors
    /// If the runtime does not tell.
    pub fn version(&self, block: &Block) -> Result<RuntimeVersion, CallFailed> {
        let answer = self.query(block, "Core_version", &[])?;
        RuntimeVersion::decode(&mut answer.as_slice())
            .map_err(|_| CallFailed::Answer("Core_version".to_owned()))
    }

    /// The time between two blocks.
    pub fn block_time(&self) -> Duration {
        self.block_time
    }

    /// The newest block of the best branch.
    pub fn head(&self) -> Arc<Block> {
        self.blocks().best()
    }

    /// The newest block that is final.
    pub fn finalized(&self) -> Arc<Block> {
        self.blocks().finalized()
    }

    /// The block at a height of the best branch, if it is kept.
    pub fn at_number(&self, number: u32) -> Option<Arc<Block>> {
        self.blocks().at_number(number)
    }

    /// The block with a hash, if it is kept. Blocks that were replaced are kept until others at their height are final.
    pub fn at_hash(&self, hash: &H256) -> Option<Arc<Block>> {
        self.blocks().at_hash(hash)
    }

    /// New blocks of the best branch, as they are made. After a reorganisation they begin anew at a lower height.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Block>> {
        self.best.subscribe()
    }

    /// The newest block, and those that come after it.
    pub fn follow_best(&self) -> (Arc<Block>, broadcast::Receiver<Arc<Block>>) {
        // Blocks are announced under the lock, so none is missed or comes twice.
        let blocks = self.blocks();
        (blocks.best(), self.best.subscribe())
    }

    /// The newest final block, and those that become final after it.
    pub fn follow_final(&self) -> (Arc<Block>, broadcast::Receiver<Arc<Block>>) {
        let blocks = self.blocks();
        (blocks.finalized(), self.finalized.subscribe())
    }

    /// What goes wrong on purpose.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Lets something go wrong on purpose.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn order(&self, fault: Fault) -> Result<(), BadFault> {
        let forget = fault == Fault::DropTransactions;
        self.faults.order(fault)?;
        if forget {
            lock(&self.pool).clear();
        }
        Ok(())
    }

    pub(super) fn blocks(&self) -> RwLockReadGuard<'_, Blocks> {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block's state.
    pub fn state(&self, block: &Block) -> View<'_> {
        self.nodes.at(block.header.state_root)
    }

    /// Asks the runtime about a block's state.
    ///
    /// # Errors
    /// If the runtime has no such function or cannot execute it.
    pub fn query(&self, block: &Block, function: &str, data: &[u8]) -> Result<Vec<u8>, CallFailed> {
        let block_time = u64::try_from(self.block_time.as_millis()).unwrap_or(u64::MAX);
        self.nodes.query(self.spec, block.header.state_root, block_time, function, data)
    }

    /// The transactions that wait, as submitted.
    pub fn pending(&self) -> Vec<Arc<Vec<u8>>> {
        lock(&self.pool).pending()
    }

    /// How many transactions wait.
    pub fn pending_len(&self) -> usize {
        lock(&self.pool).count()
    }

    /// How many trie nodes are kept.
    pub fn nodes_len(&self) -> usize {
        self.nodes.count()
    }

    /// The nonce an account should sign with next: what the state says, and what waits counted in.
    ///
    /// # Errors
    /// If the runtime does not tell.
    pub fn next_nonce(&self, account: [u8; 32]) -> Result<u32, CallFailed> {
        let head = self.head();
        let answer = self.query(&head, "AccountNonceApi_account_nonce", &account)?;
        let mut nonce = u32::decode(&mut answer.as_slice())
            .map_err(|_| CallFailed::Answer("AccountNonceApi_account_nonce".to_owned()))?;
        let pool = lock(&self.pool);
        while pool.provides(&(account, nonce).encode()) {
            nonce = nonce.saturating_add(1);
        }
        Ok(nonce)
    }

    /// Takes a transaction into the pool if it is valid.
    ///
    /// # Errors
    /// If it is not, or the pool does not take it.
    pub fn submit(
        &self,
        bytes: &[u8],
        watcher: Option<mpsc::UnboundedSender<Status>>,
    ) -> Result<H256, Refused> {
        if bytes.len() > LONGEST_EXTRINSIC {
            return Err(Refused::Invalid(InvalidTransaction::ExhaustsResources.into()));
        }
        // Decoded before it reaches the runtime, which panics on what it cannot decode.
        if !self.spec.is_transaction(bytes) {
            return Err(Refused::Undecodable);
        }
        let hash = BlakeTwo256::hash(bytes);
        if let Some(code) = self.faults.rejection() {
            return Err(Refused::with_code(code, hash));
        }
        lock(&self.pool).check_known(&hash)?;
        loop {
            let head = self.head();
            let valid = self.validate(&head, bytes);
            let mut pool = lock(&self.pool);
            if matches!(valid, Err(Refused::Invalid(TransactionValidityError::Invalid(_)))) {
                pool.ban(hash);
            }
            let valid = valid?;
            if self.faults.transactions_get_lost() {
                if let Some(watcher) = watcher {
                    let _ = watcher.send(Status::Ready);
                }
                return Ok(hash);
            }
            // What is required may have come into a block meanwhile, and nobody would give it any more.
            if self.head().hash == head.hash {
                pool.insert(hash, bytes.to_vec(), valid, head.header.number, watcher)?;
                return Ok(hash);
            }
        }
    }

    fn validate(&self, head: &Block, bytes: &[u8]) -> Result<ValidTransaction, Refused> {
        let function = "TaggedTransactionQueue_validate_transaction";
        let mut data = TransactionSource::External.encode();
        data.extend_from_slice(bytes);
        data.extend(head.hash.encode());
        let answer = self.query(head, function, &data)?;
        let validity = TransactionValidity::decode(&mut answer.as_slice())
            .map_err(|_| CallFailed::Answer(function.to_owned()))?;
        validity.map_err(Refused::Invalid)
    }

    /// Makes sure that the file is on the disk and lets go of it: another chain may use the folder, and what this one
    /// makes from now on is in memory only.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn close(&self) -> Result<(), StoreError> {
        lock(&self.store).take().map_or(Ok(()), |store| store.sync())
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
