//! The chain: blocks, the state below them, and how the next one is made.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parity_scale_codec::{Decode, Encode};
use sp_core::storage::StateVersion;
use sp_core::{Blake2Hasher, H256};
use sp_inherents::InherentData;
use sp_runtime::traits::{BlakeTwo256, Hash, Header as _};
use sp_runtime::transaction_validity::{
    InvalidTransaction, TransactionSource, TransactionValidity, TransactionValidityError,
    ValidTransaction,
};
use sp_runtime::{ApplyExtrinsicResult, Digest, OpaqueExtrinsic};
use sp_timestamp::INHERENT_IDENTIFIER;
use sp_version::RuntimeVersion;
use tokio::sync::{broadcast, mpsc};

use super::pool::{NotTaken, Pool, Status};
use super::state::{CallFailed, Nodes, Overlay, View, execute, execute_for};
use super::store::{Loaded, Store, StoreError, StoredBlock};
use crate::runtime::Header;
use crate::specs::{Genesis, Spec};

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
    freed: Vec<Vec<u8>>,
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

#[derive(Debug, Default)]
struct Blocks {
    by_number: BTreeMap<u32, Arc<Block>>,
    by_hash: HashMap<H256, Arc<Block>>,
}

/// The chain. All of it is shared; one thread at a time makes blocks.
#[derive(Debug)]
pub struct Chain {
    spec: Spec,
    genesis: H256,
    block_time: Duration,
    /// How many blocks stay in memory.
    kept: usize,
    nodes: Nodes,
    blocks: RwLock<Blocks>,
    pool: Mutex<Pool>,
    store: Mutex<Option<Store>>,
    imported: broadcast::Sender<Arc<Block>>,
}

impl Chain {
    /// Starts a chain, or continues the one in `folder`.
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
            kept: KEPT_BLOCKS,
            nodes: Nodes::default(),
            blocks: RwLock::default(),
            pool: Mutex::default(),
            store: Mutex::default(),
            imported: broadcast::Sender::new(BROADCAST),
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

    fn begin(&mut self, store: Option<Store>, genesis: &Genesis) -> Result<(), ChainError> {
        let storage = genesis.storage().map_err(ChainError::Genesis)?;
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = storage.top.into_iter().collect();
        let state_root = self.nodes.build(&pairs);
        let nothing = BlakeTwo256::trie_root(Vec::new(), StateVersion::V1);
        let header = Header::new(0, nothing, state_root, H256::zero(), Digest::default());
        self.genesis = header.hash();
        let block = StoredBlock { header, extrinsics: Vec::new() };
        if let Some(mut store) = store {
            store.start_anew(self.genesis, block.clone(), pairs)?;
            *lock(&self.store) = Some(store);
        }
        self.keep(block, Vec::new());
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
        self.keep(loaded.block, Vec::new());
        for (block, changes) in loaded.blocks {
            let freed;
            (root, freed) = self.nodes.apply(root, &changes);
            if root != block.header.state_root || block.header.parent_hash != self.head().hash {
                return Err(damaged(block.header.number));
            }
            self.keep(block, freed);
        }
        *lock(&self.store) = store;
        self.snapshot()
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

    /// The newest block. It is final.
    pub fn head(&self) -> Arc<Block> {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let newest = blocks.by_number.last_key_value().map(|(_, block)| Arc::clone(block));
        newest.unwrap_or_else(|| unreachable!("a chain that is open has a block"))
    }

    /// The block at a height, if it is kept.
    pub fn at_number(&self, number: u32) -> Option<Arc<Block>> {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        blocks.by_number.get(&number).cloned()
    }

    /// The block with a hash, if it is kept.
    pub fn at_hash(&self, hash: &H256) -> Option<Arc<Block>> {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        blocks.by_hash.get(hash).cloned()
    }

    /// New blocks, as they are made.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Block>> {
        self.imported.subscribe()
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
        loop {
            let head = self.head();
            let valid = self.validate(&head, bytes)?;
            let mut pool = lock(&self.pool);
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

    /// Makes the next block of what waits, for no longer than the block time.
    ///
    /// # Errors
    /// If the runtime or the file system refuses. The chain is then as before.
    pub fn produce(&self) -> Result<Arc<Block>, ChainError> {
        let mut store = lock(&self.store);
        let parent = self.head();
        let number = parent.header.number + 1;
        let failed = |source| ChainError::Block { number, source };
        let until = Instant::now() + self.block_time;
        let view = self.state(&parent);
        let mut overlay = Overlay::default();
        let built = Build { spec: self.spec, overlay: &mut overlay, view: &view, until };
        let ready = lock(&self.pool).ready();
        let outcome = built.run(&parent, number, ready).map_err(failed)?;

        let changes = overlay
            .drain_storage_changes(&view, StateVersion::V1)
            .map_err(|_| failed(CallFailed::Answer("storage".to_owned())))?;
        let stored = StoredBlock { header: outcome.header, extrinsics: outcome.extrinsics };
        let due = match store.as_mut() {
            Some(store) => store.append(stored.clone(), changes.main_storage_changes)?,
            None => false,
        };
        drop(store);
        let freed = self.nodes.insert(changes.transaction);
        let block = self.keep(stored, freed);
        // Subscribers first: who is told that a transaction is in a block can read that block.
        let _ = self.imported.send(Arc::clone(&block));
        lock(&self.pool).settle(block.hash, number, &outcome.included, &outcome.invalid);
        if due {
            self.snapshot()?;
        }
        Ok(block)
    }

    /// Writes the file anew, beginning with the newest block.
    fn snapshot(&self) -> Result<(), ChainError> {
        let mut store = lock(&self.store);
        if let Some(store) = store.as_mut() {
            let head = self.head();
            let block =
                StoredBlock { header: head.header.clone(), extrinsics: head.extrinsics.clone() };
            store.start_anew(self.genesis, block, self.nodes.pairs(head.header.state_root))?;
        }
        Ok(())
    }

    /// Makes sure that the file is on the disk.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn sync(&self) -> Result<(), StoreError> {
        lock(&self.store).as_ref().map_or(Ok(()), Store::sync)
    }

    fn keep(&self, block: StoredBlock, freed: Vec<Vec<u8>>) -> Arc<Block> {
        let hash = block.header.hash();
        let block =
            Arc::new(Block { hash, header: block.header, extrinsics: block.extrinsics, freed });
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        blocks.by_number.insert(block.header.number, Arc::clone(&block));
        blocks.by_hash.insert(hash, Arc::clone(&block));
        if blocks.by_number.len() > self.kept
            && let Some((_, oldest)) = blocks.by_number.pop_first()
        {
            blocks.by_hash.remove(&oldest.hash);
            if let Some((_, next)) = blocks.by_number.first_key_value() {
                self.nodes.forget(&next.freed);
            }
        }
        block
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A block in the making.
struct Build<'a, 'b> {
    spec: Spec,
    overlay: &'a mut Overlay,
    view: &'a View<'b>,
    until: Instant,
}

/// What came of it.
struct Outcome {
    header: Header,
    extrinsics: Vec<Vec<u8>>,
    included: Vec<H256>,
    invalid: Vec<H256>,
}

impl Build<'_, '_> {
    fn run(
        mut self,
        parent: &Block,
        number: u32,
        ready: Vec<super::pool::Waiting>,
    ) -> Result<Outcome, CallFailed> {
        let zero = H256::zero();
        let header = Header::new(number, zero, zero, parent.hash, Digest::default());
        execute(self.spec, self.overlay, self.view, "Core_initialize_block", &header.encode())?;
        let mut extrinsics = Vec::new();
        for inherent in self.inherents()? {
            let bytes = inherent.encode();
            if let Err(error) = self.apply(&bytes)? {
                return Err(CallFailed::Answer(format!("BlockBuilder_apply_extrinsic: {error:?}")));
            }
            extrinsics.push(bytes);
        }
        let (mut included, mut invalid) = (Vec::new(), Vec::new());
        for waiting in ready {
            if Instant::now() >= self.until {
                break;
            }
            match self.apply(&waiting.bytes) {
                Ok(Ok(_)) => {
                    included.push(waiting.hash);
                    extrinsics.push(waiting.bytes.to_vec());
                }
                // It gets another chance in the next block.
                Ok(Err(TransactionValidityError::Invalid(
                    InvalidTransaction::Future | InvalidTransaction::ExhaustsResources,
                ))) => {}
                Ok(Err(_)) | Err(_) => invalid.push(waiting.hash),
            }
        }
        let function = "BlockBuilder_finalize_block";
        let header = execute_for(self.spec, self.overlay, self.view, function, &[])?;
        Ok(Outcome { header, extrinsics, included, invalid })
    }

    fn inherents(&mut self) -> Result<Vec<OpaqueExtrinsic>, CallFailed> {
        let function = "BlockBuilder_inherent_extrinsics";
        let now_key = frame_support::storage::storage_prefix(b"Timestamp", b"Now");
        let last = sp_state_machine::Backend::<Blake2Hasher>::storage(self.view, &now_key);
        let last = last
            .ok()
            .flatten()
            .and_then(|bytes| u64::decode(&mut bytes.as_slice()).ok())
            .unwrap_or(0);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = u64::try_from(clock).unwrap_or(u64::MAX).max(last.saturating_add(1));
        let mut data = InherentData::new();
        data.put_data(INHERENT_IDENTIFIER, &now)
            .map_err(|_| CallFailed::Answer(function.to_owned()))?;
        execute_for(self.spec, self.overlay, self.view, function, &data.encode())
    }

    /// Applies a transaction, or leaves everything as it was.
    fn apply(&mut self, bytes: &[u8]) -> Result<ApplyOutcome, CallFailed> {
        self.overlay.start_transaction();
        let function = "BlockBuilder_apply_extrinsic";
        let result: Result<ApplyExtrinsicResult, CallFailed> =
            execute_for(self.spec, self.overlay, self.view, function, bytes);
        let ended = match &result {
            Ok(Ok(_)) => self.overlay.commit_transaction(),
            _ => self.overlay.rollback_transaction(),
        };
        ended.map_err(|_| CallFailed::Panicked(function.to_owned()))?;
        Ok(result?.map(|dispatched| dispatched.is_ok()))
    }
}

/// Whether the call of an included transaction did what it should; or why it was not included.
type ApplyOutcome = Result<bool, TransactionValidityError>;

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(spec: Spec) -> Chain {
        let genesis = Genesis { spec, ..Genesis::default() };
        Chain::open(None, Duration::from_secs(10), &genesis).unwrap()
    }

    #[test]
    fn a_block_that_was_made_can_be_executed_again() {
        Spec::ALL.into_iter().for_each(a_block_can_be_executed_again);
    }

    fn a_block_can_be_executed_again(spec: Spec) {
        let chain = chain(spec);
        let parent = chain.head();
        let block = chain.produce().unwrap();
        let mut encoded = block.header.encode();
        parity_scale_codec::Compact(block.extrinsics.len() as u32).encode_to(&mut encoded);
        encoded.extend(block.extrinsics.concat());
        let view = chain.state(&parent);
        let again = execute(spec, &mut Overlay::default(), &view, "Core_execute_block", &encoded);
        assert_eq!(again, Ok(Vec::new()));
        assert_eq!(block.header.parent_hash, parent.hash);
    }

    #[test]
    fn old_blocks_are_forgotten_and_the_newest_state_stays_whole() {
        let mut chain = chain(Spec::default());
        chain.kept = 5;
        let pairs = |chain: &Chain| chain.nodes.pairs(chain.head().header.state_root);
        let mut most = 0;
        for number in 1..40 {
            let block = chain.produce().unwrap();
            assert_eq!(block.header.number, number);
            if number == 10 {
                most = chain.nodes_len();
            }
        }
        // Only the hashes of the last blocks are added to the state from block to block.
        assert!(chain.nodes_len() < 2 * most, "{} nodes, {most} before", chain.nodes_len());
        assert!(chain.at_number(34).is_none() && chain.at_number(35).is_some());
        let fresh = Nodes::default();
        assert_eq!(fresh.build(&pairs(&chain)), chain.head().header.state_root);
        assert_eq!(
            chain.state(&chain.at_number(35).unwrap()).root(),
            &chain.at_number(35).unwrap().header.state_root
        );
        assert!(!chain.nodes.pairs(chain.at_number(35).unwrap().header.state_root).is_empty());
    }
}
