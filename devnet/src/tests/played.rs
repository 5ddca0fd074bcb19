//! A chain without a node around it: its first state, a subnet, and blocks that go by.

use frame_support::traits::Hooks;
use sp_io::TestExternalities;

use super::super::{Genesis, Spec, account};
use super::tested::layout::SPEC_VERSION;
use super::tested::runtime::{
    Drand, Runtime, RuntimeEvent, RuntimeOrigin, SubtensorModule, System, Timestamp, drand,
    genesis, subtensor,
};

/// When blocks are made: 12 s each, from a moment when quicknet's round 1000 is long over.
const FIRST_BLOCK_S: u64 = 1_800_000_000;

pub(super) fn signed(name: &str) -> RuntimeOrigin {
    RuntimeOrigin::signed(account(name))
}

/// Does something at block 1 of a chain.
pub(super) fn at_first_block<R>(act: impl FnOnce() -> R) -> R {
    let spec = Spec::of_version(SPEC_VERSION).unwrap();
    let genesis = Genesis { spec, ..Genesis::default() };
    TestExternalities::new(genesis.storage().unwrap()).execute_with(|| {
        block();
        act()
    })
}

/// A started subnet 1 of `//Alice` with commit-reveal on and no rate limit: `//owner` has uid 0, then come those named.
/// They have permits and, so that they keep them, some stake.
pub(super) fn subnet(hotkeys: &[&str]) {
    SubtensorModule::register_network(signed("Alice"), account("owner")).unwrap();
    for name in hotkeys {
        SubtensorModule::burned_register(signed("Alice"), 1, account(name)).unwrap();
        subtensor::TotalHotkeyAlpha::<Runtime>::insert(account(name), 1, 1000);
    }
    subtensor::WeightsSetRateLimit::<Runtime>::insert(1, 0);
    subtensor::ValidatorPermit::<Runtime>::insert(1, vec![true; hotkeys.len() + 1]);
}

/// Starts the subnet and gives hotkeys stake, in TAO.
pub(super) fn staked(stakes: &[(&str, u64)]) {
    blocks(11);
    SubtensorModule::start_call(signed("Alice"), 1).unwrap();
    for (name, tao) in stakes {
        let rao = tao * genesis::TAO;
        SubtensorModule::add_stake(signed("Alice"), account(name), 1, rao).unwrap();
    }
}

pub(super) fn now() -> u64 {
    SubtensorModule::now()
}

/// The next block begins: reveals and epochs.
pub(super) fn begin_block() {
    Drand::on_finalize(System::block_number());
    let next = System::block_number() + 1;
    System::set_block_number(next);
    SubtensorModule::on_initialize(next);
    pallet_timestamp::Now::<Runtime>::put((FIRST_BLOCK_S + 12 * u64::from(next)) * 1000);
}

/// A whole block, with no transactions.
pub(super) fn block() {
    begin_block();
}

pub(super) fn blocks(count: u64) {
    for _ in 0..count {
        block();
    }
}

pub(super) fn set_tempo(netuid: u16, tempo: u16) {
    SubtensorModule::put_tempo(netuid, tempo);
}

/// The newest round there is a signature of.
pub(super) fn known_round() -> u64 {
    drand::LastStoredRound::<Runtime>::get()
}

pub(super) fn weights_of(index: u16, uid: u16) -> Vec<(u16, u16)> {
    subtensor::Weights::<Runtime>::get(index, uid)
}

pub(super) fn has_event(event: subtensor::Event<Runtime>) -> bool {
    let wanted = RuntimeEvent::SubtensorModule(event);
    System::events().iter().any(|record| record.event == wanted)
}

/// The time of the present block, in Unix milliseconds.
pub(super) fn clock_ms() -> u64 {
    Timestamp::get()
}
