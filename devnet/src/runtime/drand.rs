//! The pallet `Drand`: a beacon's signatures, which open what is locked to its rounds.
//!
//! The real chain fetches them from drand's servers. Here they come from a beacon of this chain's own, whose key
//! everybody knows, or from a recording of the real one; both as their time comes by the chain's clock, and a bounded
//! number per block. They can be withheld, as if the chain had lost sight of the beacon.

pub mod types;

use frame_support::storage::unhashed;
use parity_scale_codec::{Decode, Encode};
use timelock::BeaconKey;

pub use pallet::*;

/// What the secret key of a chain's own beacon is made of.
pub const BEACON_SEED: &[u8] = b"touchstone devnet";

/// The storage key of a switch: what happens to the beacon's signatures. See [`Withheld`].
pub const WITHHELD_KEY: &[u8] = b":touchstone:beacon_withheld";

/// The storage key of how many recorded signatures there are. Without it, the chain has a beacon of its own.
pub const RECORDED_KEY: &[u8] = b":touchstone:recorded";

/// The storage key of what comes next: a round, or a place in the recording.
const NEXT_KEY: &[u8] = b":touchstone:beacon_next";

/// Signatures that one block takes at most.
const PER_BLOCK: u64 = 50;

/// Signatures of the chain's own beacon that are kept.
const KEPT: u64 = 20_000;

/// What happens to a beacon's signatures. Stored as one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub enum Withheld {
    /// They arrive when their time has come.
    #[default]
    No,
    /// They do not arrive now, but as soon as this is over.
    Late,
    /// Those whose time comes meanwhile never arrive.
    Lost,
}

/// The storage key of a recorded signature.
pub fn recorded_key(place: u32) -> Vec<u8> {
    [RECORDED_KEY, b":", &place.to_be_bytes()].concat()
}

/// The key of a chain's own beacon.
pub fn beacon_key() -> BeaconKey {
    BeaconKey::from_seed(BEACON_SEED)
}

/// Defines the pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;

    use super::types::{BeaconConfiguration, Pulse, quicknet};

    /// What the pallet needs of the runtime.
    #[pallet::config]
    pub trait Config:
        frame_system::Config<RuntimeEvent: From<Event<Self>>>
        + pallet_timestamp::Config<Moment = u64>
    {
    }

    /// The pallet.
    #[pallet::pallet]
    pub struct Pallet<T>(_);

    /// Which beacon it is.
    #[pallet::storage]
    pub type BeaconConfig<T> = StorageValue<_, BeaconConfiguration, ValueQuery, DefaultBeacon>;

    /// Signatures by round.
    #[pallet::storage]
    pub type Pulses<T> = StorageMap<_, Blake2_128Concat, u64, Pulse, OptionQuery>;

    /// The newest round there is a signature of; 0 is none.
    #[pallet::storage]
    pub type LastStoredRound<T> = StorageValue<_, u64, ValueQuery>;

    /// The oldest round there is a signature of; 0 is none.
    #[pallet::storage]
    pub type OldestStoredRound<T> = StorageValue<_, u64, ValueQuery>;

    /// Quicknet, as on the real chain.
    #[pallet::type_value]
    pub fn DefaultBeacon() -> BeaconConfiguration {
        quicknet()
    }

    /// What happened.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// Signatures have arrived.
        #[codec(index = 1)]
        NewPulse {
            /// Of these rounds.
            rounds: Vec<u64>,
        },
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_finalize(_block: BlockNumberFor<T>) {
            // By now the block knows its time.
            Self::receive(pallet_timestamp::Pallet::<T>::get() / 1000);
        }
    }
}

impl<T: Config> Pallet<T> {
    /// Stores the signatures whose time has come at `now_s`, in Unix seconds.
    pub(super) fn receive(now_s: u64) {
        let withheld = unhashed::get_or_default::<Withheld>(WITHHELD_KEY);
        let rounds = match unhashed::get::<u32>(RECORDED_KEY) {
            Some(count) => Self::receive_recorded(now_s, count, withheld),
            None => Self::receive_own(now_s, withheld),
        };
        if !rounds.is_empty() {
            Self::deposit_event(Event::NewPulse { rounds });
        }
    }

    fn receive_own(now_s: u64, withheld: Withheld) -> Vec<u64> {
        let beacon = BeaconConfig::<T>::get();
        let Some(newest) = beacon.newest_round(now_s) else { return Vec::new() };
        let next = unhashed::get(NEXT_KEY).unwrap_or(newest);
        let end = match withheld {
            Withheld::No => newest.saturating_add(1).min(next.saturating_add(PER_BLOCK)),
            Withheld::Late => next,
            Withheld::Lost => {
                unhashed::put(NEXT_KEY, &newest.saturating_add(1).max(next));
                return Vec::new();
            }
        };
        let key = beacon_key();
        let mut rounds = Vec::new();
        for round in next..end {
            if let Ok(signature) = key.sign(round) {
                Self::store(round, &signature);
                rounds.push(round);
            }
        }
        unhashed::put(NEXT_KEY, &end.max(next));
        Self::forget();
        rounds
    }

    fn receive_recorded(now_s: u64, count: u32, withheld: Withheld) -> Vec<u64> {
        let beacon = BeaconConfig::<T>::get();
        let newest = beacon.newest_round(now_s).unwrap_or(0);
        let mut place = unhashed::get_or_default::<u32>(NEXT_KEY);
        let mut rounds = Vec::new();
        while place < count && withheld != Withheld::Late && (rounds.len() as u64) < PER_BLOCK {
            let recorded = unhashed::get::<(u64, [u8; 48])>(&recorded_key(place));
            let Some((round, signature)) = recorded.filter(|(round, _)| *round <= newest) else {
                break;
            };
            if withheld == Withheld::No {
                Self::store(round, &signature);
                rounds.push(round);
            }
            place += 1;
        }
        unhashed::put(NEXT_KEY, &place);
        rounds
    }

    /// Stores a signature. Nothing is checked.
    pub fn store(round: u64, signature: &[u8]) {
        let Some(pulse) = types::Pulse::new(round, signature) else { return };
        Pulses::<T>::insert(round, pulse);
        LastStoredRound::<T>::mutate(|last| *last = round.max(*last));
        if OldestStoredRound::<T>::get() == 0 {
            OldestStoredRound::<T>::put(round);
        }
    }

    /// Lets the oldest signatures go.
    fn forget() {
        let last = LastStoredRound::<T>::get();
        let mut oldest = OldestStoredRound::<T>::get();
        let keep_from = last.saturating_sub(KEPT - 1);
        for _ in 0..2 * PER_BLOCK {
            if oldest >= keep_from {
                break;
            }
            Pulses::<T>::remove(oldest);
            oldest += 1;
        }
        OldestStoredRound::<T>::put(oldest);
    }
}
