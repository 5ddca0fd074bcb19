//! What differs between two views of the subnet: only that is applied and told.
//!
//! Pure. A neuron is its hotkey: a uid is a slot that changes hands.

use std::collections::{BTreeMap, BTreeSet};

use chain::{Metagraph, Neuron};
use common::{Hotkey, Uid};

/// The most neurons that one line names; further ones are counted.
const NAMED: usize = 5;

/// What differs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    pub joined: Vec<(Uid, Hotkey)>,
    pub left: Vec<(Uid, Hotkey)>,
    /// Hotkeys that have another uid than before: from, to.
    pub moved: Vec<(Hotkey, Uid, Uid)>,
    /// Neurons that announce another address, or none any more.
    pub axons: Vec<(Uid, Hotkey)>,
    /// Those that got a validator permit.
    pub permitted: Vec<(Uid, Hotkey)>,
    /// Those that lost theirs.
    pub dismissed: Vec<(Uid, Hotkey)>,
    /// Whether the subnet's rules or its owner are others.
    pub rules: bool,
    /// Neurons of which anything else differs: stake, rewards, when they set weights.
    pub figures: usize,
}

/// Compares an older view with a newer one. In which block each was read is no difference, nor is when the next epoch
/// comes.
pub fn diff(old: &Metagraph, new: &Metagraph) -> Changes {
    let mut changes = Changes {
        rules: old.params != new.params || old.owner != new.owner || old.netuid != new.netuid,
        ..Changes::default()
    };
    let before: BTreeMap<Hotkey, &Neuron> = by_hotkey(old);
    let after: BTreeMap<Hotkey, &Neuron> = by_hotkey(new);
    for (hotkey, was) in &before {
        if !after.contains_key(hotkey) {
            changes.left.push((was.uid, *hotkey));
        }
    }
    for (hotkey, is) in &after {
        match before.get(hotkey) {
            None => changes.joined.push((is.uid, *hotkey)),
            Some(was) => changes.neuron(was, is),
        }
    }
    changes
}

fn by_hotkey(metagraph: &Metagraph) -> BTreeMap<Hotkey, &Neuron> {
    metagraph.neurons.iter().map(|neuron| (neuron.hotkey, neuron)).collect()
}

impl Changes {
    fn neuron(&mut self, was: &Neuron, is: &Neuron) {
        if was == is {
            return;
        }
        let who = (is.uid, is.hotkey);
        if was.uid != is.uid {
            self.moved.push((is.hotkey, was.uid, is.uid));
        }
        if was.axon != is.axon {
            self.axons.push(who);
        }
        match (was.validator_permit, is.validator_permit) {
            (false, true) => self.permitted.push(who),
            (true, false) => self.dismissed.push(who),
            (false, false) | (true, true) => {}
        }
        let told = Neuron {
            uid: is.uid,
            axon: is.axon,
            validator_permit: is.validator_permit,
            ..was.clone()
        };
        self.figures += usize::from(told != *is);
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The hotkeys that are gone.
    pub fn gone(&self) -> BTreeSet<Hotkey> {
        self.left.iter().map(|(_, hotkey)| *hotkey).collect()
    }

    /// What is worth a line in the log; never more than a handful, however much has changed.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (who, what) in [
            (&self.joined, "joined the subnet"),
            (&self.left, "left the subnet"),
            (&self.axons, "announced another address"),
            (&self.permitted, "got a validator permit"),
            (&self.dismissed, "lost the validator permit"),
        ] {
            let named = who.iter().map(|(uid, hotkey)| format!("uid {uid} ({hotkey})"));
            lines.extend(line(named, what));
        }
        let moved = self.moved.iter();
        let moved = moved.map(|(hotkey, from, to)| format!("{hotkey} from uid {from} to {to}"));
        lines.extend(line(moved, "moved"));
        if self.rules {
            lines.push("the subnet's rules have changed".to_owned());
        }
        lines
    }
}

/// `2 neurons left the subnet: ...`; `None` if there are none.
fn line(named: impl ExactSizeIterator<Item = String>, what: &str) -> Option<String> {
    let count = named.len();
    let first: Vec<_> = named.take(NAMED).collect();
    let more = match count.saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let neurons = if count == 1 { "neuron" } else { "neurons" };
    (count > 0).then(|| format!("{count} {neurons} {what}: {}{more}", first.join(", ")))
}

#[cfg(test)]
mod tests {
    use chain::Axon;
    use common::BlockNumber;
    use proptest::prelude::*;

    use super::*;
    use crate::weights::tests::metagraph;

    fn key(name: u8) -> Hotkey {
        Hotkey::from_bytes([name; 32])
    }

    #[test]
    fn another_block_alone_is_no_difference() {
        let old = metagraph(&[(0, 1), (1, 2)]);
        let new =
            Metagraph { block: BlockNumber(99), next_epoch: Some(BlockNumber(7)), ..old.clone() };
        assert!(diff(&old, &new).is_empty());
        assert!(diff(&old, &new).lines().is_empty());
    }

    #[test]
    fn a_slot_that_changes_hands_is_one_who_left_and_one_who_joined() {
        let changes = diff(&metagraph(&[(0, 1), (1, 2)]), &metagraph(&[(0, 1), (1, 3)]));
        assert_eq!(changes.left, [(Uid(1), key(2))]);
        assert_eq!(changes.joined, [(Uid(1), key(3))]);
        assert_eq!(changes.gone(), BTreeSet::from([key(2)]));
        assert_eq!(changes.moved, []);
    }

    #[test]
    fn each_kind_of_change_is_told_apart() {
        let old = metagraph(&[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]);
        let mut new = metagraph(&[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]);
        new.neurons[0].axon = Some(Axon::at("8.8.8.8:1".parse().unwrap()));
        new.neurons[1].validator_permit = true;
        new.neurons[2].stake = 5.0;
        new.neurons[3].last_update = BlockNumber(9);
        new.neurons[4].uid = Uid(7);
        new.params.tempo = 99;
        let changes = diff(&old, &new);
        assert_eq!(changes.axons, [(Uid(0), key(1))]);
        assert_eq!(changes.permitted, [(Uid(1), key(2))]);
        assert_eq!((changes.figures, changes.rules), (2, true));
        assert_eq!(changes.moved, [(key(5), Uid(4), Uid(7))]);
        assert_eq!(diff(&new, &old).dismissed, [(Uid(1), key(2))]);
        assert_eq!(changes.lines().len(), 4, "{:?}", changes.lines());
    }

    #[test]
    fn many_changes_are_counted_and_not_listed() {
        let many: Vec<_> = (0..200).map(|uid| (uid, uid as u8)).collect();
        let lines = diff(&metagraph(&[]), &metagraph(&many)).lines();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("200 neurons joined the subnet: uid 0 ("), "{lines:?}");
        assert!(lines[0].ends_with(" and 195 more"), "{lines:?}");
    }

    proptest! {
        #[test]
        fn the_changes_lead_from_one_view_to_the_other(
            old in prop::collection::btree_map(0..20_u8, 0..20_u16, 0..12),
            new in prop::collection::btree_map(0..20_u8, 0..20_u16, 0..12),
        ) {
            let view = |all: &BTreeMap<u8, u16>| {
                metagraph(&all.iter().map(|(name, uid)| (*uid, *name)).collect::<Vec<_>>())
            };
            let changes = diff(&view(&old), &view(&new));
            prop_assert_eq!(changes.is_empty(), old == new);
            let mut after = old.clone();
            after.retain(|name, _| !changes.gone().contains(&key(*name)));
            let joined = changes.joined.iter().map(|(uid, hotkey)| (hotkey.as_bytes()[0], uid.0));
            let moved = changes.moved.iter().map(|(hotkey, _, to)| (hotkey.as_bytes()[0], to.0));
            after.extend(joined.chain(moved));
            prop_assert_eq!(after, new);
        }
    }
}
