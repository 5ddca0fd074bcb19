//! Transactions that wait for a block.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde::Serialize;
use sp_core::H256;
use sp_runtime::transaction_validity::ValidTransaction;
use tokio::sync::mpsc;

/// What a transaction needs or gives: an account and a nonce, encoded.
pub type Tag = Vec<u8>;

/// How many transactions wait at most.
pub const CAPACITY: usize = 16_384;

/// What becomes of a transaction, as `author_extrinsicUpdate` says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// It waits for an earlier transaction of its signer.
    Future,
    /// It can be in the next block.
    Ready,
    /// It is in this block.
    InBlock(H256),
    /// And that block is final.
    Finalized(H256),
    /// Another transaction took its place.
    Usurped(H256),
    /// The state changed so that it cannot be included any more.
    Invalid,
}

/// Why a valid transaction was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It waits here already.
    #[error("Transaction Already Imported")]
    Known,
    /// One with the same signer and nonce waits here, and pays as much.
    #[error("Priority is too low: ({old} vs {new})")]
    TooLowPriority {
        /// The priority of the one that waits.
        old: u64,
        /// The priority of the new one.
        new: u64,
    },
    /// There are too many.
    #[error("Immediately Dropped")]
    Full,
}

/// A transaction that waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Blake2-256 of the bytes.
    pub hash: H256,
    /// As submitted: with a length prefix.
    pub bytes: Arc<Vec<u8>>,
    priority: u64,
    requires: Vec<Tag>,
    provides: Vec<Tag>,
    /// The last block that it may be in.
    last_block: u64,
    /// The order of arrival.
    arrival: u64,
}

#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    watchers: Vec<mpsc::UnboundedSender<Status>>,
}

impl Entry {
    fn tell(&mut self, status: &Status) {
        self.watchers.retain(|watcher| watcher.send(status.clone()).is_ok());
    }
}

/// The pool. Whether a transaction is valid is decided before it comes here.
#[derive(Debug, Default)]
pub struct Pool {
    entries: HashMap<H256, Entry>,
    by_tag: HashMap<Tag, H256>,
    arrivals: u64,
}

impl Pool {
    /// Takes a transaction that was found valid at block `now`. Returns what its watchers are told first.
    ///
    /// # Errors
    /// If it is here already, one with the same nonce is in its way, or the pool is full.
    pub fn insert(
        &mut self,
        hash: H256,
        bytes: Vec<u8>,
        valid: ValidTransaction,
        now: u32,
        watcher: Option<mpsc::UnboundedSender<Status>>,
    ) -> Result<Status, NotTaken> {
        if self.entries.contains_key(&hash) {
            return Err(NotTaken::Known);
        }
        let rivals: Vec<H256> =
            valid.provides.iter().filter_map(|tag| self.by_tag.get(tag)).copied().collect();
        let strongest = rivals.iter().filter_map(|rival| self.entries.get(rival));
        let strongest = strongest.map(|entry| entry.waiting.priority).max();
        if let Some(old) = strongest.filter(|old| *old >= valid.priority) {
            return Err(NotTaken::TooLowPriority { old, new: valid.priority });
        }
        if self.entries.len() >= CAPACITY && rivals.is_empty() {
            return Err(NotTaken::Full);
        }
        for rival in rivals {
            self.remove(&rival, &Status::Usurped(hash));
        }
        for tag in &valid.provides {
            self.by_tag.insert(tag.clone(), hash);
        }
        self.arrivals += 1;
        let waiting = Waiting {
            hash,
            bytes: Arc::new(bytes),
            priority: valid.priority,
            requires: valid.requires,
            provides: valid.provides,
            last_block: u64::from(now).saturating_add(valid.longevity),
            arrival: self.arrivals,
        };
        let ready = waiting.requires.iter().all(|tag| self.by_tag.contains_key(tag));
        let status = if ready { Status::Ready } else { Status::Future };
        let mut entry = Entry { waiting, watchers: watcher.into_iter().collect() };
        entry.tell(&status);
        self.entries.insert(hash, entry);
        Ok(status)
    }

    /// Those that can be in the next block, in the order in which they should be tried.
    pub fn ready(&self) -> Vec<Waiting> {
        let mut all: Vec<&Waiting> = self.entries.values().map(|entry| &entry.waiting).collect();
        all.sort_by_key(|waiting| (std::cmp::Reverse(waiting.priority), waiting.arrival));
        // A transaction comes after those it requires, whatever their priorities.
        let mut blocked: HashMap<&Tag, Vec<&Waiting>> = HashMap::new();
        let mut given: HashSet<&Tag> = HashSet::new();
        let mut order = Vec::with_capacity(all.len());
        let mut queue = VecDeque::from(all);
        while let Some(waiting) = queue.pop_front() {
            let missing = waiting.requires.iter().find(|tag| !given.contains(tag));
            if let Some(tag) = missing {
                blocked.entry(tag).or_default().push(waiting);
                continue;
            }
            for tag in &waiting.provides {
                given.insert(tag);
                for unblocked in blocked.remove(tag).unwrap_or_default() {
                    queue.push_front(unblocked);
                }
            }
            order.push(waiting.clone());
        }
        order
    }

    /// Takes out what a block has taken in, what has become invalid, and what is too old for the next block.
    pub fn settle(&mut self, block: H256, number: u32, included: &[H256], invalid: &[H256]) {
        let mut given = HashSet::new();
        for hash in included {
            if let Some(entry) = self.entries.get_mut(hash) {
                given.extend(entry.waiting.provides.iter().cloned());
                entry.tell(&Status::InBlock(block));
                self.remove(hash, &Status::Finalized(block));
            }
        }
        // What the chain gives need not be given by the pool any more.
        for entry in self.entries.values_mut().filter(|_| !given.is_empty()) {
            entry.waiting.requires.retain(|tag| !given.contains(tag));
        }
        for hash in invalid {
            self.remove(hash, &Status::Invalid);
        }
        let old = |entry: &&Entry| entry.waiting.last_block <= u64::from(number);
        let old: Vec<H256> =
            self.entries.values().filter(old).map(|entry| entry.waiting.hash).collect();
        for hash in old {
            self.remove(&hash, &Status::Invalid);
        }
    }

    /// Whether a transaction that gives this tag waits here.
    pub fn provides(&self, tag: &[u8]) -> bool {
        self.by_tag.contains_key(tag)
    }

    /// All that wait, as submitted.
    pub fn pending(&self) -> Vec<Arc<Vec<u8>>> {
        self.entries.values().map(|entry| Arc::clone(&entry.waiting.bytes)).collect()
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, hash: &H256, last_word: &Status) {
        if let Some(mut entry) = self.entries.remove(hash) {
            entry.tell(last_word);
            for tag in &entry.waiting.provides {
                if self.by_tag.get(tag) == Some(hash) {
                    self.by_tag.remove(tag);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(priority: u64, requires: &[u8], provides: u8) -> ValidTransaction {
        ValidTransaction {
            priority,
            requires: requires.iter().map(|tag| vec![*tag]).collect(),
            provides: vec![vec![provides]],
            longevity: 5,
            propagate: true,
        }
    }

    fn hash(n: u8) -> H256 {
        H256::repeat_byte(n)
    }

    fn insert(pool: &mut Pool, n: u8, valid: ValidTransaction) -> Result<Status, NotTaken> {
        pool.insert(hash(n), vec![n], valid, 10, None)
    }

    fn order(pool: &Pool) -> Vec<u8> {
        pool.ready().iter().map(|waiting| waiting.bytes[0]).collect()
    }

    #[test]
    fn a_transaction_comes_after_those_it_requires() {
        let mut pool = Pool::default();
        assert_eq!(insert(&mut pool, 2, valid(9, &[1], 2)), Ok(Status::Future));
        assert_eq!(insert(&mut pool, 3, valid(9, &[2], 3)), Ok(Status::Ready));
        assert_eq!(order(&pool), [0; 0]);
        assert_eq!(insert(&mut pool, 1, valid(1, &[], 1)), Ok(Status::Ready));
        assert_eq!(insert(&mut pool, 7, valid(5, &[], 7)), Ok(Status::Ready));
        assert_eq!(order(&pool), [7, 1, 2, 3]);
    }

    #[test]
    fn only_a_higher_priority_takes_the_place_of_the_same_nonce() {
        let mut pool = Pool::default();
        let (sender, mut watcher) = mpsc::unbounded_channel();
        pool.insert(hash(1), vec![1], valid(5, &[], 1), 10, Some(sender)).unwrap();
        assert_eq!(insert(&mut pool, 1, valid(5, &[], 1)), Err(NotTaken::Known));
        assert_eq!(
            insert(&mut pool, 2, valid(5, &[], 1)),
            Err(NotTaken::TooLowPriority { old: 5, new: 5 })
        );
        assert_eq!(insert(&mut pool, 3, valid(6, &[], 1)), Ok(Status::Ready));
        assert_eq!(order(&pool), [3]);
        assert_eq!(watcher.try_recv(), Ok(Status::Ready));
        assert_eq!(watcher.try_recv(), Ok(Status::Usurped(hash(3))));
    }

    #[test]
    fn what_a_block_has_taken_in_is_not_waited_for() {
        let mut pool = Pool::default();
        insert(&mut pool, 1, valid(5, &[], 1)).unwrap();
        insert(&mut pool, 2, valid(5, &[1], 2)).unwrap();
        pool.settle(hash(99), 11, &[hash(1)], &[]);
        assert_eq!(order(&pool), [2]);
    }

    #[test]
    fn settled_and_expired_transactions_leave_and_their_watchers_know() {
        let mut pool = Pool::default();
        let (sender, mut watcher) = mpsc::unbounded_channel();
        pool.insert(hash(1), vec![1], valid(5, &[], 1), 10, Some(sender)).unwrap();
        insert(&mut pool, 2, valid(5, &[], 2)).unwrap();
        pool.settle(hash(99), 11, &[hash(1)], &[]);
        assert_eq!(pool.count(), 1);
        let told: Vec<Status> = std::iter::from_fn(|| watcher.try_recv().ok()).collect();
        assert_eq!(told, [Status::Ready, Status::InBlock(hash(99)), Status::Finalized(hash(99))]);
        pool.settle(hash(98), 15, &[], &[]);
        assert_eq!(pool.count(), 0);
        assert!(!pool.provides(&[2]));
    }
}
