//! Who there is to ask: the newest view of the subnet, read by everyone and replaced as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use chain::Metagraph;
use common::{Uid, Volume};
use url::Url;

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

    /// Replaces the metagraph.
    pub fn set_metagraph(&self, metagraph: Metagraph) {
        self.metagraph.store(Some(Arc::new(metagraph)));
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
