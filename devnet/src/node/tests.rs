//! The chain without a server: growing, forking, finality, and what is on the disk after a kill.

use std::path::Path;
use std::time::Duration;

use common::Keypair;
use parity_scale_codec::Encode;
use sp_core::H256;
use sp_runtime::transaction_validity::InvalidTransaction;
use tokio::sync::mpsc;

use super::chain::{Block, Chain, ChainError, MOST_UNFINAL, Refused};
use super::faults::Fault;
use super::pool::Status;
use super::state::{Nodes, Overlay, execute};
use crate::runtime::{RuntimeCall, UPGRADES_KEY};
use crate::setup::signed;
use crate::specs::{Genesis, Spec};

fn chain() -> Chain {
    chain_of(Spec::default())
}

fn chain_of(spec: Spec) -> Chain {
    let genesis = Genesis { spec, ..Genesis::default() };
    Chain::open(None, Duration::from_secs(10), &genesis).unwrap()
}

#[test]
fn a_block_that_was_made_can_be_executed_again() {
    Spec::ALL.into_iter().for_each(a_block_can_be_executed_again);
}

fn a_block_can_be_executed_again(spec: Spec) {
    let chain = chain_of(spec);
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
    let mut chain = chain();
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

/// A transaction of `//Alice`.
fn remark(chain: &Chain, nonce: u32) -> Vec<u8> {
    let call = frame_system::Call::remark { remark: nonce.to_le_bytes().to_vec() };
    let version = chain.version(&chain.head()).unwrap().spec_version;
    let alice = Keypair::development("Alice");
    signed(&alice, nonce, chain.genesis(), version, RuntimeCall::System(call))
}

/// Submits it and makes the block that it is in. Returns what its watcher hears.
fn included(chain: &Chain, nonce: u32) -> (mpsc::UnboundedReceiver<Status>, H256) {
    let (sender, watcher) = mpsc::unbounded_channel();
    chain.submit(&remark(chain, nonce), Some(sender)).unwrap();
    (watcher, chain.produce().unwrap().hash)
}

fn told(watcher: &mut mpsc::UnboundedReceiver<Status>) -> Vec<Status> {
    std::iter::from_fn(|| watcher.try_recv().ok()).collect()
}

fn nonce(chain: &Chain) -> u32 {
    chain.next_nonce(*Keypair::development("Alice").hotkey().as_bytes()).unwrap()
}

/// Every block up to the newest one names the one below it, and the newest state is whole.
fn check(chain: &Chain) {
    let head = chain.head();
    for number in 1..=head.number() {
        let block = chain.at_number(number).unwrap();
        assert_eq!(block.header.parent_hash, chain.at_number(number - 1).unwrap().hash);
        assert_eq!(chain.at_hash(&block.hash).unwrap().hash, block.header.hash());
    }
    let fresh = Nodes::default();
    assert_eq!(fresh.build(&chain.nodes.pairs(head.header.state_root)), head.header.state_root);
}

#[test]
fn finality_follows_at_its_distance() {
    let chain = chain().with_finality(3);
    let (_, mut news) = chain.follow_final();
    let (mut watcher, block) = included(&chain, 0);
    for number in 2..10_u32 {
        chain.produce().unwrap();
        assert_eq!(chain.finalized().number(), number.saturating_sub(3));
    }
    let numbers: Vec<u32> =
        std::iter::from_fn(|| news.try_recv().ok()).map(|block| block.number()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        told(&mut watcher),
        [Status::Ready, Status::InBlock(block), Status::Finalized(block)]
    );
}

#[test]
fn another_branch_takes_the_transactions_along() {
    let chain = chain();
    chain.order(Fault::StallFinality).unwrap();
    let (mut watcher, old) = included(&chain, 0);
    included(&chain, 1);
    chain.produce().unwrap();
    let (base, mut news) = chain.follow_best();
    assert_eq!(base.number(), 3);
    let head = chain.reorganise(3, false).unwrap();
    assert_eq!(head.number(), 4);
    let numbers: Vec<u32> =
        std::iter::from_fn(|| news.try_recv().ok()).map(|block| block.number()).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    check(&chain);
    assert_eq!(nonce(&chain), 2, "both are in the new branch");
    assert!(chain.at_hash(&old).is_some(), "a replaced block can be read until others are final");
    assert!(chain.state(&chain.at_hash(&old).unwrap()).root() != chain.state(&head).root());
    let new = chain.at_number(1).unwrap();
    assert_eq!(new.extrinsics.len(), 3, "the time and both transactions");

    chain.order(Fault::Resume).unwrap();
    chain.produce().unwrap();
    assert_eq!(chain.finalized().number(), 5);
    assert!(chain.at_hash(&old).is_none());
    check(&chain);
    assert_eq!(
        told(&mut watcher),
        [
            Status::Ready,
            Status::InBlock(old),
            Status::Retracted(old),
            Status::Ready,
            Status::InBlock(new.hash),
            Status::Finalized(new.hash),
        ]
    );
}

#[test]
fn another_branch_can_lose_the_transactions() {
    let chain = chain();
    included(&chain, 0);
    chain.order(Fault::StallFinality).unwrap();
    let (mut watcher, old) = included(&chain, 1);
    chain.reorganise(1, true).unwrap();
    check(&chain);
    assert_eq!((nonce(&chain), chain.pending_len()), (1, 0));
    assert_eq!(told(&mut watcher), [Status::Ready, Status::InBlock(old), Status::Retracted(old)]);
    let (_, again) = included(&chain, 1);
    assert_eq!(chain.head().hash, again);
    assert_eq!(nonce(&chain), 2, "it can be sent again");
}

#[test]
fn final_blocks_are_never_replaced() {
    let chain = chain();
    chain.produce().unwrap();
    let refused = |depth| chain.reorganise(depth, false).unwrap_err();
    assert!(matches!(refused(1), ChainError::Final { depth: 1, unfinal: 0 }));
    chain.order(Fault::StallFinality).unwrap();
    chain.produce().unwrap();
    assert!(matches!(refused(2), ChainError::Final { depth: 2, unfinal: 1 }));
    assert!(matches!(refused(0), ChainError::Final { .. }));
    assert_eq!(chain.head().number(), 2);
}

#[test]
fn an_ordered_reorganisation_happens_as_soon_as_it_can_and_nodes_do_not_pile_up() {
    let mut chain = chain();
    chain.kept = 20;
    let mut counts = Vec::new();
    for _ in 0..8 {
        chain.order(Fault::Reorg { depth: 3, drop_transactions: false }).unwrap();
        let mut heights = vec![chain.head().number()];
        while !chain.faults().in_force().is_empty() {
            heights.push(chain.turn().unwrap().unwrap().number());
        }
        let first = heights[0];
        assert_eq!(heights, (first..=first + 4).collect::<Vec<_>>());
        assert_eq!(chain.finalized().number(), chain.head().number());
        counts.push(chain.nodes_len());
    }
    assert!(counts[7] < 2 * counts[4], "{counts:?}");
    let head = chain.head();
    let fresh = Nodes::default();
    assert_eq!(fresh.build(&chain.nodes.pairs(head.header.state_root)), head.header.state_root);
}

#[test]
fn finality_is_not_held_for_ever() {
    let chain = chain();
    chain.order(Fault::StallFinality).unwrap();
    for _ in 0..MOST_UNFINAL + 5 {
        chain.produce().unwrap();
    }
    assert_eq!(chain.finalized().number(), 5);
}

#[test]
fn an_upgrade_raises_the_counter_in_the_next_block_once() {
    let chain = chain();
    let upgrades = |block: &Block| {
        use sp_state_machine::Backend;
        chain.state(block).storage(UPGRADES_KEY).unwrap()
    };
    chain.order(Fault::UpgradeRuntime).unwrap();
    assert_eq!(upgrades(&chain.head()), None);
    // Signed for the old version and in the block that brings the new one; and waiting while it comes.
    let (waiting, mut watcher) = (remark(&chain, 1), mpsc::unbounded_channel());
    chain.submit(&remark(&chain, 0), None).unwrap();
    let block = chain.produce().unwrap();
    assert_eq!((block.extrinsics.len(), upgrades(&block)), (2, Some(vec![1, 0, 0, 0])));
    let refused = chain.submit(&waiting, Some(watcher.0)).unwrap_err();
    assert_eq!(refused, Refused::Invalid(InvalidTransaction::BadProof.into()));
    assert!(watcher.1.try_recv().is_err());
    assert_eq!(chain.faults().in_force(), []);
    assert_eq!(upgrades(&chain.produce().unwrap()), Some(vec![1, 0, 0, 0]));
    chain.order(Fault::UpgradeRuntime).unwrap();
    chain.produce().unwrap();
    assert_eq!(upgrades(&chain.produce().unwrap()), Some(vec![2, 0, 0, 0]));
    assert_eq!(chain.version(&chain.head()).unwrap().spec_version, Spec::default().number() + 2);
}

#[test]
fn what_waits_while_the_runtime_is_upgraded_becomes_invalid() {
    let chain = chain();
    let (sender, mut watcher) = mpsc::unbounded_channel();
    // Its nonce is for later, so it is not in the block that brings the new version.
    chain.submit(&remark(&chain, 1), Some(sender)).unwrap();
    chain.order(Fault::UpgradeRuntime).unwrap();
    chain.produce().unwrap();
    chain.submit(&remark(&chain, 0), None).unwrap();
    chain.produce().unwrap();
    assert_eq!(told(&mut watcher), [Status::Future, Status::Invalid]);
    assert_eq!((nonce(&chain), chain.pending_len()), (1, 0));
}

/// The folder as it would be after a kill: the process that holds it is still there.
fn killed(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("chain.log"), copy.path().join("chain.log")).unwrap();
    copy
}

#[test]
fn after_a_reorganisation_and_a_kill_the_folder_holds_the_new_branch() {
    let folder = tempfile::tempdir().unwrap();
    let open = |folder: &Path| {
        Chain::open(Some(folder), Duration::from_secs(10), &Genesis::default()).unwrap()
    };
    let chain = open(folder.path()).with_finality(8);
    for number in 0..4 {
        included(&chain, number);
    }
    let before = killed(folder.path());
    chain.reorganise(3, true).unwrap();
    let after = killed(folder.path());
    included(&chain, 1);
    let later = killed(folder.path());
    // A snapshot in the middle of it keeps what is not final, and that can be replaced again.
    chain.snapshot(super::chain::lock(&chain.store).as_mut()).unwrap();
    let compacted = killed(folder.path());
    chain.reorganise(2, false).unwrap();
    let twice = killed(folder.path());

    let reopened = |folder: &Path| {
        let chain = open(folder);
        check(&chain);
        assert_eq!(chain.finalized().hash, chain.head().hash, "what was read is final");
        let next = chain.produce().unwrap();
        assert_eq!(next.header.parent_hash, chain.at_number(next.number() - 1).unwrap().hash);
        (next.number() - 1, nonce(&chain))
    };
    assert_eq!(reopened(before.path()), (4, 4));
    assert_eq!(reopened(after.path()), (5, 1));
    assert_eq!(reopened(later.path()), (6, 2));
    assert_eq!(reopened(compacted.path()), (6, 2));
    assert_eq!(reopened(twice.path()), (7, 2));
}
