//! Who there is to ask: the newest view of the subnet, read by everyone and replaced as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use chain::Metagraph;
use common::{Uid, Volume};
use url::Url;

use crate::changes::{Changes, diff};
use crate::tally::ContenderId;

/// A miner that declared capacity for a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Contender {
    pub uid: Uid,
    /// Base of its server, checked to be an address that may be called.
    pub url: Url,
    /// For the running period.
    pub declared: Volume,
}

/// The newest view of the subnet.
#[derive(Debug, Default)]
pub struct Network {
    metagraph: ArcSwapOption<Metagraph>,
    contenders: ArcSwap<BTreeMap<ContenderId, Contender>>,
}

impl Network {
    /// The metagraph as it was last read, however long ago; `None` before the first time.
    pub fn metagraph(&self) -> Option<Arc<Metagraph>> {
        self.metagraph.load_full()
    }

    /// Takes over what differs from the metagraph that was read before, and returns it; `None` the first time. Who left
    /// the subnet is no contender any more.
    pub fn update(&self, new: Metagraph) -> Option<Changes> {
        let Some(old) = self.metagraph() else {
            self.metagraph.store(Some(Arc::new(new)));
            return None;
        };
        let changes = diff(&old, &new);
        if !changes.is_empty() {
            self.metagraph.store(Some(Arc::new(new)));
        }
        let gone = changes.gone();
        if !gone.is_empty() {
            let mut contenders = BTreeMap::clone(&self.contenders.load());
            contenders.retain(|id, _| !gone.contains(&id.hotkey));
            self.set_contenders(contenders);
        }
        Some(changes)
    }

    /// The contenders of the running period.
    pub fn contenders(&self) -> Arc<BTreeMap<ContenderId, Contender>> {
        self.contenders.load_full()
    }

    /// Replaces the contenders.
    pub fn set_contenders(&self, contenders: BTreeMap<ContenderId, Contender>) {
        self.contenders.store(Arc::new(contenders));
    }

    /// The declared volumes of the running period.
    pub fn declared(&self) -> BTreeMap<ContenderId, Volume> {
        self.contenders
            .load()
            .iter()
            .map(|(id, contender)| (id.clone(), contender.declared))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use common::{BlockNumber, Hotkey};

    use super::*;
    use crate::weights::tests::metagraph;

    fn id(name: u8) -> ContenderId {
        ContenderId { hotkey: Hotkey::from_bytes([name; 32]), task: "chat-demo".parse().unwrap() }
    }

    #[test]
    fn the_old_view_stays_while_nothing_differs_and_who_leaves_is_no_contender() {
        let network = Network::default();
        assert_eq!(network.update(metagraph(&[(0, 1), (1, 2)])), None);
        let contender = Contender {
            uid: Uid(0),
            url: "http://127.0.0.1:1".parse().unwrap(),
            declared: Volume::from(1),
        };
        network.set_contenders([1, 2].map(|name| (id(name), contender.clone())).into());

        let first = network.metagraph().unwrap();
        let same = Metagraph { block: BlockNumber(9), ..metagraph(&[(0, 1), (1, 2)]) };
        assert!(network.update(same).unwrap().is_empty());
        assert!(Arc::ptr_eq(&first, &network.metagraph().unwrap()));
        assert_eq!(network.contenders().len(), 2);

        let changes = network.update(metagraph(&[(0, 1), (1, 3)])).unwrap();
        assert_eq!(changes.left.len(), 1);
        let left: Vec<_> = network.contenders().keys().cloned().collect();
        assert_eq!(left, [id(1)]);
        assert_eq!(network.metagraph().unwrap().neurons[1].hotkey, id(3).hotkey);
    }
}
