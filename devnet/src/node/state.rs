//! State: all trie nodes of all blocks that are kept, and calls into the runtime on top of them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock};

use parity_scale_codec::Decode;
use sp_core::storage::StateVersion;
use sp_core::{Blake2Hasher, H256};
use sp_externalities::set_and_run_with_externalities;
use sp_state_machine::{
    Backend, BackendTransaction, Ext, IterArgs, OverlayedChanges, TrieBackend, TrieBackendBuilder,
    TrieBackendStorage,
};
use sp_trie::PrefixedMemoryDB;

use crate::runtime::aura::BLOCK_TIME_KEY;
use crate::specs::Spec;

/// What a change of storage is: a key, and its value or nothing.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// One block's state to read from.
pub type View<'a> = TrieBackend<&'a Nodes, Blake2Hasher>;

/// Changes that a block has made and that are not stored yet.
pub type Overlay = OverlayedChanges<Blake2Hasher>;

/// Why the runtime gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallFailed {
    /// The runtime has no such function.
    #[error("the runtime has no function `{0}`")]
    Unknown(String),
    /// The arguments made no sense, or the runtime broke down.
    #[error("the runtime could not execute `{0}`: check the encoding of the arguments")]
    Panicked(String),
    /// The answer was not what was expected.
    #[error("the runtime's answer to `{0}` cannot be read")]
    Answer(String),
}

/// A trie node, and how many times the kept blocks refer to it.
type Node = (Vec<u8>, i32);

/// What a block does to the nodes. A key is here as many times as it was counted.
#[derive(Debug, Default)]
pub struct NodeChange {
    /// Those that its state needs and that are counted now. Forgetting them takes the block back.
    pub added: Vec<Vec<u8>>,
    /// Those that only earlier states need, for [`Nodes::forget`] once these are gone.
    pub freed: Vec<Vec<u8>>,
}

/// Trie nodes by position and hash.
#[derive(Debug, Default)]
pub struct Nodes(RwLock<HashMap<Vec<u8>, Node>>);

impl TrieBackendStorage<Blake2Hasher> for &Nodes {
    fn get(&self, key: &H256, prefix: (&[u8], Option<u8>)) -> Result<Option<Vec<u8>>, String> {
        let key = sp_trie::prefixed_key::<Blake2Hasher>(key, prefix);
        let nodes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(nodes.get(&key).map(|(value, _)| value.clone()))
    }
}

impl Nodes {
    /// The state whose root this is.
    pub fn at(&self, root: H256) -> View<'_> {
        TrieBackendBuilder::new(self, root).build()
    }

    /// Adds what a block adds.
    pub fn insert(&self, mut transaction: PrefixedMemoryDB<Blake2Hasher>) -> NodeChange {
        let mut change = NodeChange::default();
        let mut nodes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, (value, count)) in transaction.drain() {
            let times = count.unsigned_abs() as usize;
            if count > 0 {
                change.added.extend(std::iter::repeat_n(key.clone(), times));
                nodes.entry(key).or_insert((value, 0)).1 += count;
            } else {
                change.freed.extend(std::iter::repeat_n(key, times));
            }
        }
        change
    }

    /// Lets nodes go that no block needs any more.
    pub fn forget(&self, freed: &[Vec<u8>]) {
        let mut nodes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for key in freed {
            if let Some((_, count)) = nodes.get_mut(key) {
                *count -= 1;
                if *count <= 0 {
                    nodes.remove(key);
                }
            }
        }
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Makes a first state of these pairs. Returns its root.
    pub fn build(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> H256 {
        let empty = sp_state_machine::new_in_mem::<Blake2Hasher>();
        let delta = pairs.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
        let (root, transaction) = empty.storage_root(delta, StateVersion::V1);
        self.insert(transaction);
        root
    }

    /// Changes the state at `root`. Returns the new root.
    pub fn apply(&self, root: H256, changes: &[Change]) -> (H256, NodeChange) {
        let delta = changes.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
        let (root, transaction): (H256, BackendTransaction<Blake2Hasher>) =
            self.at(root).storage_root(delta, StateVersion::V1);
        (root, self.insert(transaction))
    }

    /// All pairs of the state at `root`.
    pub fn pairs(&self, root: H256) -> Vec<(Vec<u8>, Vec<u8>)> {
        let view = self.at(root);
        view.pairs(IterArgs::default()).map(|pairs| pairs.flatten().collect()).unwrap_or_default()
    }

    /// Asks the runtime on the state at `root`, without changing it.
    ///
    /// # Errors
    /// If the runtime has no such function or cannot execute it.
    pub fn query(
        &self,
        spec: Spec,
        root: H256,
        block_time_ms: u64,
        function: &str,
        data: &[u8],
    ) -> Result<Vec<u8>, CallFailed> {
        let mut overlay = Overlay::default();
        overlay.set_storage(BLOCK_TIME_KEY.to_vec(), Some(block_time_ms.to_le_bytes().to_vec()));
        execute(spec, &mut overlay, &self.at(root), function, data)
    }
}

/// Runs a function of the runtime. If it fails, `overlay` is as before.
///
/// # Errors
/// If the runtime has no such function or cannot execute it.
pub fn execute(
    spec: Spec,
    overlay: &mut Overlay,
    view: &View<'_>,
    function: &str,
    data: &[u8],
) -> Result<Vec<u8>, CallFailed> {
    let depth = overlay.transaction_depth();
    let answer = catch_unwind(AssertUnwindSafe(|| {
        let mut externalities = Ext::new(overlay, view, None);
        set_and_run_with_externalities(&mut externalities, || spec.dispatch(function, data))
    }));
    match answer {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(CallFailed::Unknown(function.chars().take(100).collect())),
        Err(_) => {
            while overlay.transaction_depth() > depth && overlay.rollback_transaction().is_ok() {}
            Err(CallFailed::Panicked(function.to_owned()))
        }
    }
}

/// Runs a function of the runtime and reads its answer.
///
/// # Errors
/// If the runtime has no such function, cannot execute it, or answers something else.
pub fn execute_for<A: Decode>(
    spec: Spec,
    overlay: &mut Overlay,
    view: &View<'_>,
    function: &str,
    data: &[u8],
) -> Result<A, CallFailed> {
    let answer = execute(spec, overlay, view, function, data)?;
    A::decode(&mut answer.as_slice()).map_err(|_| CallFailed::Answer(function.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_states_stay_readable_until_they_are_forgotten() {
        let nodes = Nodes::default();
        let key = |n: u32| (n.to_le_bytes().to_vec(), vec![7; 40]);
        let first = nodes.build(&(0..50).map(key).collect::<Vec<_>>());
        let change = (0_u32.to_le_bytes().to_vec(), Some(vec![8; 40]));
        let (second, NodeChange { freed, .. }) = nodes.apply(first, &[change]);
        let read = |root, key: u32| nodes.at(root).storage(&key.to_le_bytes()).unwrap();
        assert_eq!(read(first, 0), Some(vec![7; 40]));
        assert_eq!(read(second, 0), Some(vec![8; 40]));

        let before = nodes.count();
        nodes.forget(&freed);
        assert!(nodes.count() < before);
        assert!((0..50).all(|key| read(second, key).is_some()));
        assert_eq!(nodes.pairs(second).len(), 50);
    }

    #[test]
    fn a_branch_that_is_taken_back_leaves_the_others_whole() {
        let nodes = Nodes::default();
        let key = |n: u32| (n.to_le_bytes().to_vec(), vec![7; 40]);
        let root = nodes.build(&(0..50).map(key).collect::<Vec<_>>());
        let count = nodes.count();
        let set = |n: u32, to: u8| (n.to_le_bytes().to_vec(), Some(vec![to; 40]));
        let (first, one) = nodes.apply(root, &[set(0, 8), set(90, 9)]);
        let (second, two) = nodes.apply(first, &[set(1, 8)]);
        // The other branch changes the same to the same, and something else.
        let (other, three) = nodes.apply(root, &[set(0, 8), set(1, 8), set(2, 8)]);
        nodes.forget(&two.added);
        nodes.forget(&one.added);
        for (at, pairs) in [(root, 50), (other, 50)] {
            let fresh = Nodes::default();
            assert_eq!(nodes.pairs(at).len(), pairs);
            assert_eq!(fresh.build(&nodes.pairs(at)), at);
        }
        assert!(nodes.at(second).storage(&90_u32.to_le_bytes()).is_err());
        nodes.forget(&three.added);
        assert_eq!(nodes.count(), count);
    }
}
