//! What the node does wrong on purpose, so that those who use it can be tested against it.
//!
//! Here is only what was ordered and what follows from it; the parts of the node ask, and misbehave themselves.

mod fault;

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sp_core::H256;
use tokio::sync::watch;

pub use self::fault::{BadFault, DEEPEST, Fault, LONGEST_MS, POOL_CODES};
use crate::runtime::Header;

/// Made-up headers that are remembered, so that those who are told a hash can ask for its header.
const CLAIMS: usize = 1024;

/// What the clock of the chain should do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing: blocks are stalled.
    Rest,
    /// Make a block as always.
    Block,
    /// Replace blocks.
    Reorganise {
        /// How many.
        depth: u32,
        /// Whether their transactions vanish.
        drop_transactions: bool,
    },
}

/// A fault that is in force.
#[derive(Debug, Clone)]
struct Ordered {
    fault: Fault,
    since: Instant,
}

/// How a request fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It is answered after this time, which may be zero.
    Late(Duration),
    /// It is refused.
    Refused,
    /// It is never answered.
    Ignored,
}

#[derive(Debug, Default)]
struct Orders {
    all: Vec<Ordered>,
    /// Made-up headers, by hash, and the order in which they were made up.
    claims: HashMap<H256, Header>,
    claimed: VecDeque<H256>,
    /// How many block times a stall has lasted.
    missed: u32,
}

/// The faults of a node.
#[derive(Debug, Default)]
pub struct Faults {
    orders: Mutex<Orders>,
    /// Counts the times that connections were to be cut once.
    cuts: watch::Sender<u64>,
    /// Told of every change.
    changed: watch::Sender<()>,
}

impl Faults {
    /// Lets something go wrong, or ([`Fault::Resume`]) nothing any more.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn order(&self, fault: Fault) -> Result<(), BadFault> {
        fault.check()?;
        {
            let mut orders = self.lock();
            orders.all.retain(|ordered| !ordered.fault.is_like(&fault));
            match fault {
                Fault::Resume => orders.all.clear(),
                Fault::DropConnections { every_ms: None } => {
                    self.cuts.send_modify(|count| *count += 1);
                }
                fault => orders.all.push(Ordered { fault, since: Instant::now() }),
            }
        }
        self.changed.send_replace(());
        Ok(())
    }

    /// What is in force, in the order in which it was ordered.
    pub fn in_force(&self) -> Vec<Fault> {
        let now = Instant::now();
        let mut orders = self.lock();
        orders.all.retain(|ordered| !is_over(ordered, now));
        orders.all.iter().map(|ordered| ordered.fault.clone()).collect()
    }

    /// Times when all connections are to be cut, as a count that grows.
    pub(crate) fn cuts(&self) -> watch::Receiver<u64> {
        self.cuts.subscribe()
    }

    /// Notices of changes.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The time between two cuts of all connections, if they are cut again and again.
    pub(crate) fn cut_every(&self) -> Option<Duration> {
        self.find(|fault| match fault {
            Fault::DropConnections { every_ms } => every_ms.map(Duration::from_millis),
            _ => None,
        })
    }

    /// What the clock should do while so many blocks are not final. Counts a stall down.
    pub(crate) fn turn(&self, unfinal: u32) -> Turn {
        let mut orders = self.lock();
        let stall = orders.all.iter().position(|one| matches!(one.fault, Fault::Stall { .. }));
        if let Some(place) = stall {
            if let Fault::Stall { blocks: Some(left) } = &mut orders.all[place].fault {
                *left -= 1;
                if *left == 0 {
                    orders.all.remove(place);
                }
            }
            orders.missed = orders.missed.saturating_add(1);
            return Turn::Rest;
        }
        orders.missed = 0;
        let reorg = orders
            .all
            .iter()
            .position(|one| matches!(one.fault, Fault::Reorg { depth, .. } if depth <= unfinal));
        match reorg.map(|place| orders.all.remove(place).fault) {
            Some(Fault::Reorg { depth, drop_transactions }) => {
                Turn::Reorganise { depth, drop_transactions }
            }
            _ => Turn::Block,
        }
    }

    /// How many blocks the rest of the network would have made during a stall.
    pub(crate) fn missed(&self) -> u32 {
        self.lock().missed
    }

    /// Whether blocks must not become final: because that was ordered, or because some of them will be replaced.
    pub(crate) fn finality_is_held(&self) -> bool {
        self.is(|fault| matches!(fault, Fault::StallFinality | Fault::Reorg { .. }))
    }

    /// Whether the block that is being made upgrades the runtime.
    pub(crate) fn upgrade_is_due(&self) -> bool {
        self.is(|fault| matches!(fault, Fault::UpgradeRuntime))
    }

    /// Lets blocks be made again.
    pub(crate) fn end_stall(&self) {
        self.lock().all.retain(|one| !matches!(one.fault, Fault::Stall { .. }));
    }

    /// Says that a block did.
    pub(crate) fn upgrade_is_done(&self) {
        self.lock().all.retain(|one| !matches!(one.fault, Fault::UpgradeRuntime));
    }

    /// How requests fare.
    pub(crate) fn treatment(&self) -> Treatment {
        let faults = self.in_force();
        let has = |wanted: fn(&Fault) -> bool| faults.iter().any(wanted);
        if has(|fault| matches!(fault, Fault::Refuse { .. })) {
            return Treatment::Refused;
        }
        if has(|fault| matches!(fault, Fault::Silent)) {
            return Treatment::Ignored;
        }
        let late = faults.iter().find_map(|fault| match fault {
            Fault::Slow { by_ms } => Some(Duration::from_millis(*by_ms)),
            _ => None,
        });
        Treatment::Late(late.unwrap_or_default())
    }

    /// Whether the answers to submissions get lost.
    pub(crate) fn answers_get_lost(&self) -> bool {
        self.is(|fault| matches!(fault, Fault::LoseAnswers))
    }

    /// Whether submitted transactions are forgotten.
    pub(crate) fn transactions_get_lost(&self) -> bool {
        self.is(|fault| matches!(fault, Fault::DropTransactions))
    }

    /// The error with which submitted transactions are refused.
    pub(crate) fn rejection(&self) -> Option<u16> {
        self.find(|fault| match fault {
            Fault::RejectTransactions { code } => Some(*code),
            _ => None,
        })
    }

    /// How many blocks the node claims to be ahead of what it has.
    pub(crate) fn lie(&self) -> u32 {
        let by = |fault: &Fault| match fault {
            Fault::LieHeight { by } => Some(*by),
            _ => None,
        };
        self.find(by).unwrap_or(0)
    }

    /// The header that the node shows for its newest one.
    pub(crate) fn claim(&self, header: &Header) -> Header {
        let mut header = header.clone();
        let by = self.lie();
        if by > 0 {
            header.number = header.number.saturating_add(by);
            let hash = header.hash();
            let mut orders = self.lock();
            if orders.claims.insert(hash, header.clone()).is_none() {
                orders.claimed.push_back(hash);
                if orders.claimed.len() > CLAIMS
                    && let Some(oldest) = orders.claimed.pop_front()
                {
                    orders.claims.remove(&oldest);
                }
            }
        }
        header
    }

    /// The made-up header with this hash.
    pub(crate) fn claimed(&self, hash: &H256) -> Option<Header> {
        self.lock().claims.get(hash).cloned()
    }

    fn is(&self, wanted: impl Fn(&Fault) -> bool) -> bool {
        self.lock().all.iter().any(|one| wanted(&one.fault))
    }

    fn find<T>(&self, wanted: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.lock().all.iter().find_map(|one| wanted(&one.fault))
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a fault's time is up.
fn is_over(ordered: &Ordered, now: Instant) -> bool {
    match ordered.fault {
        Fault::Refuse { for_ms } => {
            now.saturating_duration_since(ordered.since) >= Duration::from_millis(for_ms)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reorg(depth: u32) -> Fault {
        Fault::Reorg { depth, drop_transactions: false }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_sentence_and_changes_nothing() {
        let faults = Faults::default();
        let refused = |fault| faults.order(fault).unwrap_err().to_string();
        assert_eq!(refused(reorg(0)), "a reorganisation replaces 1 to 64 blocks, not 0");
        assert_eq!(refused(reorg(65)), "a reorganisation replaces 1 to 64 blocks, not 65");
        assert!(refused(Fault::Stall { blocks: Some(0) }).contains("at least 1 block"));
        assert!(refused(Fault::Slow { by_ms: 0 }).contains("no time"));
        assert!(refused(Fault::Refuse { for_ms: LONGEST_MS + 1 }).contains("no time"));
        assert!(refused(Fault::DropConnections { every_ms: Some(0) }).contains("no time"));
        assert!(refused(Fault::LieHeight { by: 0 }).contains("1 to 64"));
        assert!(refused(Fault::RejectTransactions { code: 256 }).contains("no error 256"));
        assert_eq!(faults.in_force(), []);
    }

    #[test]
    fn a_reorganisation_waits_until_enough_blocks_are_not_final_and_holds_finality_until_then() {
        let faults = Faults::default();
        faults.order(reorg(3)).unwrap();
        assert!(faults.finality_is_held());
        assert_eq!(faults.turn(0), Turn::Block);
        assert_eq!(faults.turn(2), Turn::Block);
        assert_eq!(faults.turn(3), Turn::Reorganise { depth: 3, drop_transactions: false });
        assert_eq!(faults.turn(3), Turn::Block);
        assert!(!faults.finality_is_held());
    }

    #[test]
    fn a_stall_ends_by_itself_or_when_it_is_resumed() {
        let faults = Faults::default();
        faults.order(Fault::Stall { blocks: Some(2) }).unwrap();
        assert_eq!(
            [faults.turn(0), faults.turn(0), faults.turn(0)],
            [Turn::Rest, Turn::Rest, Turn::Block]
        );
        faults.order(Fault::Stall { blocks: None }).unwrap();
        assert!((0..100).all(|_| faults.turn(0) == Turn::Rest));
        faults.order(Fault::Resume).unwrap();
        assert_eq!(faults.turn(0), Turn::Block);
    }

    #[test]
    fn a_refusal_ends_by_itself() {
        let since = Instant::now();
        let ordered = Ordered { fault: Fault::Refuse { for_ms: 50 }, since };
        assert!(!is_over(&ordered, since + Duration::from_millis(49)));
        assert!(is_over(&ordered, since + Duration::from_millis(50)));
    }

    #[test]
    fn the_later_fault_of_a_kind_counts_and_refusing_goes_before_silence_and_delay() {
        let faults = Faults::default();
        faults.order(Fault::Slow { by_ms: 5 }).unwrap();
        faults.order(Fault::Slow { by_ms: 7 }).unwrap();
        assert_eq!(faults.treatment(), Treatment::Late(Duration::from_millis(7)));
        faults.order(Fault::Silent).unwrap();
        assert_eq!(faults.treatment(), Treatment::Ignored);
        faults.order(Fault::Refuse { for_ms: LONGEST_MS }).unwrap();
        assert_eq!(faults.treatment(), Treatment::Refused);
        assert_eq!(faults.in_force().len(), 3);
        faults.order(Fault::Resume).unwrap();
        assert_eq!(faults.treatment(), Treatment::Late(Duration::ZERO));
    }

    fn any_fault() -> impl Strategy<Value = Fault> {
        prop_oneof![
            (any::<u32>(), any::<bool>())
                .prop_map(|(depth, drop_transactions)| Fault::Reorg { depth, drop_transactions }),
            proptest::option::of(0_u32..4).prop_map(|blocks| Fault::Stall { blocks }),
            proptest::option::of(any::<u64>())
                .prop_map(|every_ms| Fault::DropConnections { every_ms }),
            any::<u64>().prop_map(|by_ms| Fault::Slow { by_ms }),
            any::<u64>().prop_map(|for_ms| Fault::Refuse { for_ms }),
            any::<u32>().prop_map(|by| Fault::LieHeight { by }),
            any::<u16>().prop_map(|code| Fault::RejectTransactions { code }),
            Just(Fault::StallFinality),
            Just(Fault::Silent),
            Just(Fault::UpgradeRuntime),
        ]
    }

    proptest! {
        #[test]
        fn every_fault_survives_json_and_resuming_ends_whatever_is_in_force(
            all in proptest::collection::vec(any_fault(), 0..20),
        ) {
            let faults = Faults::default();
            for fault in all {
                let json = serde_json::to_string(&fault).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Fault>(&json).unwrap(), &fault);
                prop_assert_eq!(faults.order(fault.clone()), fault.check());
                faults.turn(0);
            }
            faults.order(Fault::Resume).unwrap();
            prop_assert_eq!(faults.in_force(), []);
            prop_assert!(!faults.finality_is_held() && !faults.upgrade_is_due());
            prop_assert_eq!(faults.turn(u32::MAX), Turn::Block);
        }
    }
}
