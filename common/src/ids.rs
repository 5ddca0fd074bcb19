//! Small identifiers and quantities.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A neuron's slot in a subnet. Slots are reused after a de-registration: state is keyed by [`Hotkey`](crate::Hotkey).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub u16);

/// The number of a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Netuid(pub u16);

/// One of a subnet's incentive mechanisms, each with weights of its own; the chain calls it `mecid`. Every subnet has 0.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MechanismId(pub u8);

/// The height of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockNumber(pub u64);

macro_rules! shown_as_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
shown_as_number!(Uid, Netuid, MechanismId, BlockNumber);

/// The name of a task in the catalogue, such as `chat-llama-3-1-8b`: 1 to 64 of `a-z 0-9 - .`, starting with a
/// letter or digit. It doubles as the model name in the OpenAI-compatible API. Copies are cheap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Arc<str>", into = "Arc<str>")]
pub struct TaskId(Arc<str>);

/// Why a text is no [`TaskId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a task id: use 1 to 64 of a-z, 0-9, `-` and `.`, starting with a letter or digit"
)]
pub struct BadTaskId(String);

impl TaskId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TaskId {
    type Err = BadTaskId;

    fn from_str(text: &str) -> Result<Self, BadTaskId> {
        Arc::<str>::from(text).try_into()
    }
}

impl TryFrom<Arc<str>> for TaskId {
    type Error = BadTaskId;

    fn try_from(text: Arc<str>) -> Result<Self, BadTaskId> {
        let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let all_allowed = text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.');
        if starts_well && all_allowed && text.len() <= 64 {
            Ok(Self(text))
        } else {
            // It may come from a stranger and end up in a log.
            Err(BadTaskId(text.chars().take(80).flat_map(char::escape_debug).collect()))
        }
    }
}

impl From<TaskId> for Arc<str> {
    fn from(id: TaskId) -> Self {
        id.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An amount of work in a task's own unit (tokens for text): finite and not negative.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Volume(f64);

/// Why a number is no [`Volume`].
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{0} is not a volume: it must be finite and not negative")]
pub struct BadVolume(f64);

impl Volume {
    /// No work.
    pub const ZERO: Self = Self(0.0);

    /// The amount in the task's unit.
    pub fn get(self) -> f64 {
        self.0
    }

    /// The smaller of the two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }
}

impl TryFrom<f64> for Volume {
    type Error = BadVolume;

    fn try_from(amount: f64) -> Result<Self, BadVolume> {
        // `+ 0.0` turns a negative zero into zero.
        if amount.is_finite() && amount >= 0.0 {
            Ok(Self(amount + 0.0))
        } else {
            Err(BadVolume(amount))
        }
    }
}

impl From<Volume> for f64 {
    fn from(volume: Volume) -> Self {
        volume.0
    }
}

impl From<u32> for Volume {
    fn from(amount: u32) -> Self {
        Self(f64::from(amount))
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
