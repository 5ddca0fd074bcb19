//! The first state: a rich `//Alice` who holds the sudo key, a few more accounts, the root network.

use common::Keypair;
use frame_support::BoundedVec;
use frame_support::traits::ConstU32;
use sp_runtime::{AccountId32, BuildStorage};
use sp_state_machine::BasicExternalities;

use super::drand::types::{BeaconConfiguration, quicknet};
use super::drand::{self, RECORDED_KEY, recorded_key};
use super::subtensor::{self, ROOT};
use super::{Balance, Runtime, RuntimeGenesisConfig, SystemConfig, mev_shield, sudo};
use crate::specs::{Genesis, Source};

/// 1 TAO in rao.
pub const TAO: Balance = 1_000_000_000;

/// What `//Alice` has at first, in TAO.
pub const ALICE_TAO: u64 = 10_000_000;

/// Who else has something at first, and how much, in TAO.
pub const OTHERS: [&str; 5] = ["Bob", "Charlie", "Dave", "Eve", "Ferdie"];

/// See [`OTHERS`].
pub const OTHERS_TAO: u64 = 10_000;

/// The account of a development key.
pub fn development_account(name: &str) -> AccountId32 {
    AccountId32::new(*Keypair::development(name).hotkey().as_bytes())
}

/// The first state's storage.
///
/// # Errors
/// What FRAME says, if the state cannot be built.
pub fn storage(genesis: &Genesis) -> Result<sp_core::storage::Storage, String> {
    let mut balances = vec![(development_account("Alice"), ALICE_TAO * TAO)];
    balances.extend(OTHERS.map(|name| (development_account(name), OTHERS_TAO * TAO)));
    let issued: Balance = balances.iter().map(|(_, balance)| balance).sum();
    let config = RuntimeGenesisConfig {
        system: SystemConfig::default(),
        balances: pallet_balances::GenesisConfig { balances, ..Default::default() },
        ..Default::default()
    };
    let mut storage = config.build_storage()?;
    BasicExternalities::execute_with_storage(&mut storage, || {
        sudo::Key::<Runtime>::put(development_account("Alice"));
        subtensor::TotalIssuance::<Runtime>::put(issued);
        create_root();
        if let Ok(key) = mev_shield::public_key().try_into() {
            mev_shield::NextKey::<Runtime>::put::<BoundedVec<u8, ConstU32<2048>>>(key);
        }
        genesis.write();
        set_beacon(&genesis.beacon)
    })?;
    Ok(storage)
}

/// The root network is there from the start, and subnets may be created one after the other.
fn create_root() {
    subtensor::NetworksAdded::<Runtime>::insert(ROOT, true);
    subtensor::TotalNetworks::<Runtime>::put(1);
    subtensor::MaxAllowedUids::<Runtime>::insert(ROOT, 64);
    subtensor::Tempo::<Runtime>::insert(ROOT, 100);
    subtensor::SubtokenEnabled::<Runtime>::insert(ROOT, true);
    subtensor::NetworkRateLimit::<Runtime>::put(0);
}

fn set_beacon(source: &Source) -> Result<(), String> {
    let beacon = match source {
        Source::Own { period_s } => {
            BeaconConfiguration::own(*period_s).ok_or("the beacon has no key")?
        }
        Source::Recorded(pulses) => {
            let count = u32::try_from(pulses.len()).map_err(|_| "there are too many pulses")?;
            frame_support::storage::unhashed::put(RECORDED_KEY, &count);
            for (place, pulse) in (0..count).zip(pulses) {
                frame_support::storage::unhashed::put(&recorded_key(place), pulse);
            }
            quicknet()
        }
    };
    drand::BeaconConfig::<Runtime>::put(beacon);
    Ok(())
}
