//! The specs that a chain can have, and what the node needs of a runtime whichever it is.

pub mod pulses;
#[expect(
    missing_debug_implementations,
    clippy::too_many_arguments,
    reason = "FRAME's macros make types without and functions with many"
)]
pub mod v365;
#[expect(
    missing_debug_implementations,
    clippy::too_many_arguments,
    reason = "FRAME's macros make types without and functions with many"
)]
pub mod v425;

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use frame_support::storage::unhashed;
use parity_scale_codec::{Decode, Encode};
use sp_core::storage::Storage;

/// The storage key of the spec's number.
pub const SPEC_KEY: &[u8] = b":touchstone:spec";

/// The storage key of whether owners pay for their hotkeys' calls.
pub const FEES_KEY: &[u8] = b":touchstone:owners_pay";

/// The storage key of the period of the chain's own beacon, in seconds; 0 where recorded signatures are used.
pub const PERIOD_KEY: &[u8] = b":touchstone:beacon_period";

/// Which runtime a chain has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spec {
    /// Of December 2025.
    #[default]
    V365,
    /// Of June 2026.
    V425,
}

/// Does the same with either runtime.
macro_rules! with_runtime {
    ($spec:expr, $runtime:ident => $body:expr) => {
        match $spec {
            Spec::V365 => {
                use v365::runtime as $runtime;
                $body
            }
            Spec::V425 => {
                use v425::runtime as $runtime;
                $body
            }
        }
    };
}

impl Spec {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::V365, Self::V425];

    /// Its number, before any upgrade.
    pub const fn number(self) -> u32 {
        match self {
            Self::V365 => v365::layout::SPEC_VERSION,
            Self::V425 => v425::layout::SPEC_VERSION,
        }
    }

    /// The spec that a chain has whose runtime says this number: upgrades raise it.
    pub fn of_version(version: u32) -> Option<Self> {
        Self::ALL.into_iter().rfind(|spec| spec.number() <= version)
    }

    /// Runs a function of the runtime on the state at hand; `None` if there is none of that name. Panics if the
    /// arguments make no sense.
    pub fn dispatch(self, function: &str, data: &[u8]) -> Option<Vec<u8>> {
        with_runtime!(self, runtime => runtime::api::dispatch(function, data))
    }

    /// Whether these bytes are a transaction, as it is submitted.
    pub fn is_transaction(self, bytes: &[u8]) -> bool {
        with_runtime!(self, runtime => runtime::read::is_transaction(bytes))
    }

    /// What happened in a block, from the value of `System.Events`, with the places of the transactions that did it.
    pub fn happenings(self, events: &[u8]) -> Option<Vec<(Option<u32>, Happening)>> {
        with_runtime!(self, runtime => runtime::read::happenings(events))
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|spec| spec.number().to_string() == text);
        found.ok_or_else(|| "there are the specs 365 and 425".to_owned())
    }
}

/// Who pays for the calls of hotkeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fees {
    /// Nobody, as long as they are about weights, axons and commitments.
    #[default]
    Free,
    /// The coldkey that owns the hotkey, as in the newest runtimes.
    Owner,
}

impl fmt::Display for Fees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free => "free",
            Self::Owner => "owner",
        })
    }
}

impl FromStr for Fees {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "free" => Ok(Self::Free),
            "owner" => Ok(Self::Owner),
            _ => Err("calls of hotkeys are `free`, or the `owner` pays for them".to_owned()),
        }
    }
}

/// Where the signatures of a chain's beacon come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A beacon of the chain's own, whose key everybody knows.
    Own {
        /// Seconds between two rounds.
        period_s: NonZeroU32,
    },
    /// Signatures of quicknet, by rising rounds.
    Recorded(Vec<(u64, [u8; 48])>),
}

impl Default for Source {
    /// A round every second.
    fn default() -> Self {
        Self::Own { period_s: NonZeroU32::MIN }
    }
}

/// What a chain begins with. A chain that was begun with something else cannot be continued.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Genesis {
    /// The runtime.
    pub spec: Spec,
    /// The beacon.
    pub beacon: Source,
    /// Who pays for the calls of hotkeys.
    pub fees: Fees,
}

impl Genesis {
    /// The first state.
    ///
    /// # Errors
    /// What FRAME says, if the state cannot be built.
    pub fn storage(&self) -> Result<Storage, String> {
        with_runtime!(self.spec, runtime => runtime::genesis::storage(self))
    }

    fn period(&self) -> u32 {
        match self.beacon {
            Source::Own { period_s } => period_s.get(),
            Source::Recorded(_) => 0,
        }
    }

    /// Writes into the state at hand what [`Genesis::check`] reads.
    pub(crate) fn write(&self) {
        unhashed::put(SPEC_KEY, &self.spec.number());
        unhashed::put(FEES_KEY, &(self.fees == Fees::Owner));
        unhashed::put(PERIOD_KEY, &self.period());
    }

    /// Checks that a chain in whose state `read` finds values was begun like this.
    ///
    /// # Errors
    /// What it was begun with, as flags of the command line.
    pub fn check(&self, read: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Result<(), String> {
        let number = |key| u32::decode(&mut read(key)?.as_slice()).ok();
        let owners_pay = read(FEES_KEY) == Some(true.encode());
        let (Some(spec), Some(period)) = (number(SPEC_KEY), number(PERIOD_KEY)) else {
            return Err("an older version of this program".to_owned());
        };
        let fees = if owners_pay { Fees::Owner } else { Fees::Free };
        let same = spec == self.spec.number() && fees == self.fees && period == self.period();
        let beacon = match period {
            0 => "--beacon quicknet:FILE".to_owned(),
            period => format!("--beacon local --beacon-period {period}"),
        };
        if same { Ok(()) } else { Err(format!("`--spec {spec} --fees {fees} {beacon}`")) }
    }
}

/// What happened in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// A subnet was created.
    NetworkAdded(u16),
    /// A hotkey got this uid.
    NeuronRegistered(u16),
    /// The transaction failed with this error, for example `NotEnoughBalanceToStake`.
    Failed(String),
    /// The call that was made as root failed with this error.
    SudoFailed(String),
    /// Something else, for people to read.
    Other(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_told_by_their_numbers_also_after_upgrades() {
        assert_eq!("425".parse(), Ok(Spec::V425));
        assert_eq!(Spec::default().to_string(), "365");
        assert!("366".parse::<Spec>().is_err());
        let found = [364, 365, 366, 425, 430].map(Spec::of_version);
        let [old, new] = Spec::ALL.map(Some);
        assert_eq!(found, [None, old, old, new, new]);
    }

    #[test]
    fn a_chain_is_continued_only_as_it_was_begun() {
        let own = |seconds| Source::Own { period_s: NonZeroU32::new(seconds).unwrap() };
        let begun = Genesis { spec: Spec::V425, beacon: own(3), fees: Fees::Owner };
        let storage = begun.storage().unwrap();
        let read = |key: &[u8]| storage.top.get(key).cloned();
        assert_eq!(begun.check(read), Ok(()));
        for other in [
            Genesis { spec: Spec::V365, ..begun.clone() },
            Genesis { beacon: own(1), ..begun.clone() },
            Genesis { beacon: Source::Recorded(Vec::new()), ..begun.clone() },
            Genesis { fees: Fees::Free, ..begun.clone() },
        ] {
            let was = "`--spec 425 --fees owner --beacon local --beacon-period 3`";
            assert_eq!(other.check(read), Err(was.to_owned()));
        }
        assert!(begun.check(|_| None).unwrap_err().contains("older"));
    }
}
