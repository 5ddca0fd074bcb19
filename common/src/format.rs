//! Formats in which models are computed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The format of a model's weights and of what is computed with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumericFormat {
    F32,
    F16,
    Bf16,
    /// Weights of 8 bits in blocks of 32 with a scale each (GGML).
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Weights of 4 bits in blocks of 32 with a scale each (GGML).
    #[serde(rename = "q4_0")]
    Q4_0,
    /// Weights of 4 bits in blocks of 256 with scales of 6 bits (GGML).
    #[serde(rename = "q4k")]
    Q4K,
}

impl NumericFormat {
    /// As it is written in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4K => "q4k",
        }
    }
}

impl fmt::Display for NumericFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_written_and_read_by_one_name() {
        use NumericFormat::{Bf16, F16, F32, Q4_0, Q4K, Q8_0};
        for format in [F32, F16, Bf16, Q8_0, Q4_0, Q4K] {
            assert_eq!(serde_json::to_value(format).unwrap(), format.as_str());
        }
    }
}
