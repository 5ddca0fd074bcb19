//! Which of several nodes to talk to. Pure: what was seen of them goes in.

use std::time::Duration;

use crate::client::Head;

/// A node whose newest final block is further behind the others' than this many blocks is left.
pub(crate) const MAX_LAG_BLOCKS: u64 = 5;
/// A node that comes first in the configuration is taken up again after it was well this many times in a row.
const STEADY: u32 = 3;
/// With this many usable nodes one alone is not believed against the others.
const QUORUM: usize = 3;

/// What a look at a node showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The height of its newest finalized block, which it has served, state and all.
    pub finalized: u64,
    /// How long it took to answer.
    pub took: Duration,
    /// How often in a row it was well, this time included.
    pub steady: u32,
}

/// The health of one of the configured nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHealth {
    /// Its address, without what may be secret in it.
    pub endpoint: String,
    /// Whether it is the one that is asked.
    pub in_use: bool,
    pub state: NodeState,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeState {
    /// Nobody has looked yet. A single node is never looked at: there is no choice.
    Unknown,
    /// Blocks that it is behind the highest node that is believed.
    Well { look: Look, lag: u64 },
    /// It cannot be used, and why.
    Unusable(String),
}

/// What a final block that is told of means for those who follow the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is the next one.
    News,
    /// It is known, or from a node that is a little behind the one before.
    Nothing,
    /// What was told before does not hold: the node was reset, or the one before has told of blocks that there are not.
    /// There is no other way than to follow.
    Contradiction,
}

/// Final blocks are not taken back, so a lower one is from another node that is behind, or it is a contradiction.
pub(crate) fn told(known: Option<&Head>, new: &Head, by_the_same_node: bool) -> Told {
    let Some(known) = known else { return Told::News };
    if new == known {
        return Told::Nothing;
    }
    match known.number.0.checked_sub(new.number.0) {
        None => Told::News,
        Some(behind) if !by_the_same_node && behind <= MAX_LAG_BLOCKS => Told::Nothing,
        Some(_) => Told::Contradiction,
    }
}

/// The height that the nodes together are believed to have reached. `None` while none is usable.
///
/// It is the highest; but where there are three nodes or more, a single one that is far ahead of all others is not
/// believed.
pub(crate) fn believed_height(looks: &[Option<Look>]) -> Option<u64> {
    let mut heights: Vec<u64> = looks.iter().flatten().map(|look| look.finalized).collect();
    heights.sort_unstable_by(|a, b| b.cmp(a));
    match heights.as_slice() {
        [highest, second, ..]
            if heights.len() >= QUORUM && *highest > second.saturating_add(MAX_LAG_BLOCKS) =>
        {
            Some(*second)
        }
        [highest, ..] => Some(*highest),
        [] => None,
    }
}

/// The node to change to, if another one than `current` should be used. Nodes are in the order of preference; `None`
/// stands for one that is not usable.
pub(crate) fn better(current: usize, looks: &[Option<Look>]) -> Option<usize> {
    let height = believed_height(looks)?;
    let well = |look: &Look| {
        look.finalized.saturating_add(MAX_LAG_BLOCKS) >= height
            && look.finalized <= height.saturating_add(MAX_LAG_BLOCKS)
    };
    let stays = looks.get(current).and_then(Option::as_ref).is_some_and(well);
    let first = looks.iter().position(|look| {
        look.as_ref().is_some_and(|look| well(look) && (!stays || look.steady >= STEADY))
    })?;
    (first != current && (!stays || first < current)).then_some(first)
}

#[cfg(test)]
mod tests {
    use common::BlockNumber;
    use proptest::prelude::*;

    use super::*;
    use crate::error::BlockHash;

    #[test]
    fn a_node_that_is_a_little_behind_takes_nothing_back_but_a_contradiction_does() {
        let head = |number, hash| Head { number: BlockNumber(number), hash: BlockHash([hash; 32]) };
        let known = head(100, 1);
        assert_eq!(told(None, &known, false), Told::News);
        assert_eq!(told(Some(&known), &known, true), Told::Nothing);
        assert_eq!(told(Some(&known), &head(101, 2), false), Told::News);
        for behind in [head(95, 3), head(100, 3)] {
            assert_eq!(told(Some(&known), &behind, false), Told::Nothing, "{behind:?}");
            assert_eq!(told(Some(&known), &behind, true), Told::Contradiction, "{behind:?}");
        }
        let liar = head(u64::MAX, 9);
        assert_eq!(told(Some(&liar), &known, false), Told::Contradiction);
    }

    fn at(finalized: u64, steady: u32) -> Option<Look> {
        Some(Look { finalized, took: Duration::from_millis(5), steady })
    }

    #[test]
    fn a_node_that_is_gone_or_behind_is_left_for_the_first_that_is_well() {
        assert_eq!(better(0, &[at(100, 9), at(101, 9)]), None, "a little behind is normal");
        assert_eq!(better(0, &[at(100, 9), at(106, 1)]), Some(1));
        assert_eq!(better(0, &[None, at(50, 1), at(50, 1)]), Some(1));
        assert_eq!(better(0, &[None, at(50, 1), at(70, 1), at(70, 1)]), Some(2), "1 is behind");
        assert_eq!(better(0, &[None, None]), None);
        assert_eq!(better(0, &[at(5, 1)]), None);
    }

    #[test]
    fn the_preferred_node_is_taken_up_again_once_it_is_steady() {
        assert_eq!(better(1, &[at(100, 1), at(100, 9)]), None);
        assert_eq!(better(1, &[at(100, 3), at(100, 9)]), Some(0));
        assert_eq!(better(0, &[at(100, 9), at(100, 9)]), None);
    }

    #[test]
    fn one_node_alone_is_not_believed_against_two() {
        assert_eq!(better(0, &[at(100, 9), at(100, 9), at(1_000_000, 9)]), None);
        assert_eq!(better(2, &[at(100, 9), at(100, 9), at(1_000_000, 9)]), Some(0));
        assert_eq!(believed_height(&[at(100, 9), None, at(200, 9)]), Some(200), "no majority");
    }

    proptest! {
        #[test]
        fn only_a_usable_node_is_changed_to_and_then_it_stays(
            looks in prop::collection::vec(prop::option::of((0..200_u64, 0..6_u32)), 1..6),
            current in 0..6_usize,
        ) {
            let looks: Vec<_> = looks.into_iter().map(|look| look.and_then(|(at_, s)| at(at_, s))).collect();
            if let Some(next) = better(current, &looks) {
                prop_assert!(looks[next].is_some());
                let again = better(next, &looks);
                prop_assert!(again.is_none_or(|again| again < next), "{again:?}");
            }
        }
    }
}
