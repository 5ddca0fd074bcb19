//! Transactions that wait for a block.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use sp_core::H256;
use sp_runtime::transaction_validity::ValidTransaction;
use tokio::sync::mpsc;

use super::bans::Bans;

/// What a transaction needs or gives: an account and a nonce, encoded.
pub type Tag = Vec<u8>;

/// How many transactions wait at most.
pub const CAPACITY: usize = 16_384;

/// After so many blocks without finality nobody is told any more, as in Substrate.
const FINALITY_TIMEOUT: u32 = 512;

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
    /// Another branch has taken the place of this block, in which it was.
    Retracted(H256),
    /// And that block is final.
    Finalized(H256),
    /// That block has not become final for so long that nobody is told any more.
    FinalityTimeout(H256),
    /// Another transaction took its place.
    Usurped(H256),
    /// The pool let it go: it was full, or is made to forget.
    Dropped,
    /// The state changed so that it cannot be included any more.
    Invalid,
}

impl Status {
    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Future | Self::Ready | Self::InBlock(_) | Self::Retracted(_))
    }
}

/// Why a valid transaction was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It waits here already.
    #[error("Transaction Already Imported")]
    Known(H256),
    /// It was in a block or invalid a short time ago.
    #[error("Transaction is temporarily banned")]
    Banned,
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
    /// What is in blocks that are not final, by block: its height, and the transactions in their order.
    included: HashMap<H256, (u32, Vec<Entry>)>,
    bans: Bans,
}

impl Pool {
    /// Whether a transaction should be looked at: not if it waits here, was in a block, or was invalid.
    ///
    /// # Errors
    /// What it is.
    pub fn check_known(&mut self, hash: &H256) -> Result<(), NotTaken> {
        if self.bans.has(hash, Instant::now()) {
            return Err(NotTaken::Banned);
        }
        if self.entries.contains_key(hash) { Err(NotTaken::Known(*hash)) } else { Ok(()) }
    }

    /// Remembers that a transaction need not be looked at for a while.
    pub fn ban(&mut self, hash: H256) {
        self.bans.add(hash, Instant::now());
    }

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
            return Err(NotTaken::Known(hash));
        }
        let rivals: Vec<H256> =
            valid.provides.iter().filter_map(|tag| self.by_tag.get(tag)).copied().collect();
        let strongest = rivals.iter().filter_map(|rival| self.entries.get(rival));
        let strongest = strongest.map(|entry| entry.waiting.priority).max();
        if let Some(old) = strongest.filter(|old| *old >= valid.priority) {
            return Err(NotTaken::TooLowPriority { old, new: valid.priority });
        }
        if self.entries.len() >= CAPACITY && rivals.is_empty() {
            // Who pays most stays.
            let weakest = self.entries.values().map(|entry| &entry.waiting);
            let weakest = weakest.min_by_key(|one| (one.priority, std::cmp::Reverse(one.arrival)));
            match weakest.map(|one| (one.priority, one.hash)) {
                Some((priority, weakest)) if priority < valid.priority => {
                    self.remove(&weakest, &Status::Dropped);
                }
                _ => return Err(NotTaken::Full),
            }
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
        let mut in_it = Vec::new();
        for hash in included {
            if let Some(mut entry) = self.take(hash) {
                given.extend(entry.waiting.provides.iter().cloned());
                entry.tell(&Status::InBlock(block));
                in_it.push(entry);
            }
            self.ban(*hash);
        }
        if !in_it.is_empty() {
            self.included.insert(block, (number, in_it));
        }
        for (block, (at, entries)) in &mut self.included {
            if at.saturating_add(FINALITY_TIMEOUT) <= number {
                for entry in entries {
                    entry.tell(&Status::FinalityTimeout(*block));
                    entry.watchers.clear();
                }
            }
        }
        // What the chain gives need not be given by the pool any more.
        for entry in self.entries.values_mut().filter(|_| !given.is_empty()) {
            entry.waiting.requires.retain(|tag| !given.contains(tag));
        }
        for hash in invalid {
            self.remove(hash, &Status::Invalid);
            self.ban(*hash);
        }
        let old = |entry: &&Entry| entry.waiting.last_block <= u64::from(number);
        let old: Vec<H256> =
            self.entries.values().filter(old).map(|entry| entry.waiting.hash).collect();
        for hash in old {
            self.remove(&hash, &Status::Invalid);
        }
    }

    /// The transactions in these blocks, which are not final, in their order.
    pub fn included_in(&self, blocks: &[H256]) -> Vec<Waiting> {
        let entries = blocks.iter().filter_map(|block| self.included.get(block));
        entries.flat_map(|(_, entries)| entries).map(|entry| entry.waiting.clone()).collect()
    }

    /// Takes back what was in these blocks, oldest first: it waits again, or is gone if it is not to be kept.
    pub fn retract(&mut self, blocks: &[H256], keep: bool) {
        for block in blocks {
            let Some((_, entries)) = self.included.remove(block) else { continue };
            for mut entry in entries {
                let hash = entry.waiting.hash;
                entry.tell(&Status::Retracted(*block));
                self.bans.lift(&hash);
                if !keep {
                    continue;
                }
                let rival = entry.waiting.provides.iter().find_map(|tag| self.by_tag.get(tag));
                if let Some(rival) = rival {
                    entry.tell(&Status::Usurped(*rival));
                    continue;
                }
                entry.tell(&Status::Ready);
                for tag in &entry.waiting.provides {
                    self.by_tag.insert(tag.clone(), hash);
                }
                self.entries.insert(hash, entry);
            }
        }
    }

    /// Says that a block is final.
    pub fn finalize(&mut self, block: H256) {
        for mut entry in self.included.remove(&block).into_iter().flat_map(|(_, all)| all) {
            entry.tell(&Status::Finalized(block));
        }
    }

    /// Lets go of everything that waits.
    pub fn clear(&mut self) {
        for hash in self.entries.keys().copied().collect::<Vec<_>>() {
            self.remove(&hash, &Status::Dropped);
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
        if let Some(mut entry) = self.take(hash) {
            entry.tell(last_word);
        }
    }

    fn take(&mut self, hash: &H256) -> Option<Entry> {
        let entry = self.entries.remove(hash)?;
        for tag in &entry.waiting.provides {
            if self.by_tag.get(tag) == Some(hash) {
                self.by_tag.remove(tag);
            }
        }
        Some(entry)
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
        assert_eq!(insert(&mut pool, 1, valid(5, &[], 1)), Err(NotTaken::Known(hash(1))));
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

    fn watched(pool: &mut Pool, n: u8) -> mpsc::UnboundedReceiver<Status> {
        let (sender, watcher) = mpsc::unbounded_channel();
        pool.insert(hash(n), vec![n], valid(5, &[], n), 10, Some(sender)).unwrap();
        watcher
    }

    fn told(watcher: &mut mpsc::UnboundedReceiver<Status>) -> Vec<Status> {
        std::iter::from_fn(|| watcher.try_recv().ok()).collect()
    }

    #[test]
    fn what_was_in_a_replaced_block_waits_again_unless_it_is_dropped() {
        let mut pool = Pool::default();
        let (mut first, mut second) = (watched(&mut pool, 1), watched(&mut pool, 2));
        pool.settle(hash(90), 11, &[hash(1)], &[]);
        pool.settle(hash(91), 12, &[hash(2)], &[]);
        assert_eq!(pool.included_in(&[hash(90), hash(91)]).len(), 2);
        pool.retract(&[hash(91)], false);
        pool.retract(&[hash(90)], true);
        assert_eq!(order(&pool), [1]);
        assert_eq!(pool.check_known(&hash(2)), Ok(()), "it may be submitted again");
        pool.settle(hash(92), 12, &[hash(1)], &[]);
        pool.finalize(hash(92));
        let block = |n| Status::InBlock(hash(n));
        let gone = |n| Status::Retracted(hash(n));
        assert_eq!(told(&mut second), [Status::Ready, block(91), gone(91)]);
        let last = Status::Finalized(hash(92));
        let whole = [Status::Ready, block(90), gone(90), Status::Ready, block(92), last];
        assert_eq!(told(&mut first), whole);
    }

    #[test]
    fn who_waits_too_long_for_finality_is_told_so_once() {
        let mut pool = Pool::default();
        let mut watcher = watched(&mut pool, 1);
        pool.settle(hash(90), 11, &[hash(1)], &[]);
        for number in 12..11 + 2 * FINALITY_TIMEOUT {
            pool.settle(H256::from_low_u64_be(number.into()), number, &[], &[]);
        }
        let late = Status::FinalityTimeout(hash(90));
        assert_eq!(told(&mut watcher), [Status::Ready, Status::InBlock(hash(90)), late]);
    }

    #[test]
    fn a_full_pool_lets_the_cheapest_go_for_one_that_pays_more() {
        let mut pool = Pool::default();
        for n in 0..CAPACITY {
            let tag = n.to_le_bytes().to_vec();
            let valid = ValidTransaction { provides: vec![tag], ..valid(5, &[], 0) };
            pool.insert(H256::from_low_u64_be(n as u64), vec![0], valid, 10, None).unwrap();
        }
        let cheap = ValidTransaction { provides: vec![vec![1; 9]], ..valid(5, &[], 0) };
        let full = pool.insert(hash(200), vec![200], cheap, 10, None);
        assert_eq!(full, Err(NotTaken::Full));
        let dear = ValidTransaction { provides: vec![vec![1; 9]], ..valid(6, &[], 0) };
        assert_eq!(pool.insert(hash(200), vec![200], dear, 10, None), Ok(Status::Ready));
        assert_eq!(pool.count(), CAPACITY);
        pool.clear();
        assert_eq!(pool.count(), 0);
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
        assert_eq!(told, [Status::Ready, Status::InBlock(hash(99))]);
        assert_eq!(pool.check_known(&hash(1)), Err(NotTaken::Banned));
        pool.finalize(hash(99));
        assert_eq!(watcher.try_recv(), Ok(Status::Finalized(hash(99))));
        assert!(watcher.try_recv().is_err());
        pool.settle(hash(98), 15, &[], &[]);
        assert_eq!(pool.count(), 0);
        assert!(!pool.provides(&[2]));
    }
}
