//! Who may send requests, from one reading of the metagraph.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use chain::{Metagraph, Neuron};
use common::{BlockNumber, Hotkey};

use crate::config::AccessConfig;

/// What a hotkey may do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Permission {
    /// Send requests, with this share of all capacity, in `0.0..=1.0`.
    Granted {
        share: f64,
    },
    Denied(Denial),
    /// The metagraph has not been read yet.
    Unknown,
}

/// Why a hotkey may not send requests.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub(crate) enum Denial {
    #[error("this hotkey is not registered on the subnet")]
    NotRegistered,
    #[error("this hotkey has no validator permit")]
    NoPermit,
    #[error("this hotkey has {stake:.3} TAO of stake, this miner asks for {min_stake:.3}")]
    TooLittleStake { stake: f64, min_stake: f64 },
}

/// The permissions that one metagraph gives.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Access {
    /// Of the metagraph; `None` before the first was read.
    pub(crate) block: Option<BlockNumber>,
    neurons: HashMap<Hotkey, Permission>,
}

impl Access {
    /// Capacity is shared by stake among all who may send requests.
    pub(crate) fn from_metagraph(metagraph: &Metagraph, rules: &AccessConfig) -> Self {
        let denial = |neuron: &Neuron| denial(neuron, rules);
        let permitted: Vec<_> =
            metagraph.neurons.iter().filter(|neuron| denial(neuron).is_none()).collect();
        let total: f64 = permitted.iter().map(|neuron| neuron.stake).sum();
        let share = |stake: f64| {
            // Nobody has stake on some test networks.
            if total > 0.0 { stake / total } else { 1.0 / permitted.len() as f64 }
        };
        let neurons = metagraph.neurons.iter().map(|neuron| {
            let permission = match denial(neuron) {
                Some(denial) => Permission::Denied(denial),
                None => Permission::Granted { share: share(neuron.stake) },
            };
            (neuron.hotkey, permission)
        });
        Self { block: Some(metagraph.block), neurons: neurons.collect() }
    }

    /// What `hotkey` may do.
    pub(crate) fn permission(&self, hotkey: &Hotkey, rules: &AccessConfig) -> Permission {
        if rules.allow.contains(hotkey) {
            return Permission::Granted { share: 1.0 };
        }
        match self.neurons.get(hotkey) {
            Some(permission) => *permission,
            None if self.block.is_none() => Permission::Unknown,
            None => Permission::Denied(Denial::NotRegistered),
        }
    }
}

fn denial(neuron: &Neuron, rules: &AccessConfig) -> Option<Denial> {
    if rules.require_permit && !neuron.validator_permit {
        return Some(Denial::NoPermit);
    }
    // Written so that a stake that is not a number is too little.
    if neuron.stake >= rules.min_stake && neuron.stake.is_finite() {
        None
    } else {
        Some(Denial::TooLittleStake { stake: neuron.stake, min_stake: rules.min_stake })
    }
}

/// The [`Access`] in force. It is replaced as a whole; when the chain cannot be reached the last one stays.
#[derive(Debug, Default)]
pub(crate) struct Snapshot(RwLock<Arc<Access>>);

impl Snapshot {
    pub(crate) fn load(&self) -> Arc<Access> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn store(&self, access: Access) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use chain::{BlockHash, Hyperparameters};
    use common::{Netuid, Uid};

    use super::*;

    pub(crate) fn hotkey(number: u8) -> Hotkey {
        Hotkey::from_bytes([number; 32])
    }

    pub(crate) fn rules() -> AccessConfig {
        AccessConfig {
            min_stake: 100.0,
            require_permit: true,
            allow: vec![],
            refresh: Duration::from_secs(60),
        }
    }

    /// Neurons by hotkey, stake and permit.
    pub(crate) fn metagraph(neurons: &[(Hotkey, f64, bool)]) -> Metagraph {
        let neuron =
            |(uid, (hotkey, stake, validator_permit)): (u16, &(Hotkey, f64, bool))| Neuron {
                uid: Uid(uid),
                hotkey: *hotkey,
                coldkey: None,
                axon: None,
                stake: *stake,
                validator_permit: *validator_permit,
                active: true,
                last_update: BlockNumber(0),
                registered_at: BlockNumber(0),
                incentive: 0.0,
                consensus: 0.0,
                dividends: 0.0,
            };
        Metagraph {
            block: BlockNumber(7),
            block_hash: BlockHash([0; 32]),
            netuid: Netuid(1),
            neurons: (0..).zip(neurons).map(neuron).collect(),
            params: Hyperparameters {
                tempo: 360,
                weights_rate_limit: 100,
                weights_version: 0,
                min_allowed_weights: 1,
                max_weights_limit: 65535,
                commit_reveal_enabled: false,
                serving_rate_limit: 50,
                immunity_period: 4096,
                activity_cutoff: 5000,
                stake_threshold: 0.0,
            },
            next_epoch: None,
            owner: None,
        }
    }

    #[test]
    fn capacity_is_shared_by_stake_among_those_who_may_ask() {
        let neurons = [
            (hotkey(1), 300.0, true),
            (hotkey(2), 100.0, true),
            (hotkey(3), 99.0, true),
            (hotkey(4), 1e6, false),
        ];
        let access = Access::from_metagraph(&metagraph(&neurons), &rules());
        let permission = |number| access.permission(&hotkey(number), &rules());
        assert_eq!(permission(1), Permission::Granted { share: 0.75 });
        assert_eq!(permission(2), Permission::Granted { share: 0.25 });
        let too_little = Denial::TooLittleStake { stake: 99.0, min_stake: 100.0 };
        assert_eq!(permission(3), Permission::Denied(too_little));
        assert_eq!(permission(4), Permission::Denied(Denial::NoPermit));
        assert_eq!(permission(5), Permission::Denied(Denial::NotRegistered));
    }

    #[test]
    fn without_any_stake_all_share_alike() {
        let rules = AccessConfig { min_stake: 0.0, ..rules() };
        let neurons = [(hotkey(1), 0.0, true), (hotkey(2), 0.0, true), (hotkey(3), f64::NAN, true)];
        let access = Access::from_metagraph(&metagraph(&neurons), &rules);
        assert_eq!(access.permission(&hotkey(1), &rules), Permission::Granted { share: 0.5 });
        assert!(matches!(access.permission(&hotkey(3), &rules), Permission::Denied(_)));
    }

    #[test]
    fn an_allowed_hotkey_needs_no_metagraph_and_a_stranger_waits_for_one() {
        let rules = AccessConfig { allow: vec![hotkey(9)], ..rules() };
        let none = Access::default();
        assert_eq!(none.permission(&hotkey(9), &rules), Permission::Granted { share: 1.0 });
        assert_eq!(none.permission(&hotkey(1), &rules), Permission::Unknown);
    }

    #[test]
    fn an_allowed_hotkey_has_the_whole_capacity_with_a_permit_as_well() {
        let rules = AccessConfig { allow: vec![hotkey(2)], ..rules() };
        let neurons = [(hotkey(1), 300.0, true), (hotkey(2), 100.0, true)];
        let access = Access::from_metagraph(&metagraph(&neurons), &rules);
        assert_eq!(access.permission(&hotkey(2), &rules), Permission::Granted { share: 1.0 });
        assert_eq!(access.permission(&hotkey(1), &rules), Permission::Granted { share: 0.75 });
    }
}
