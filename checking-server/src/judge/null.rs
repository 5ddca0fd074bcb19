//! What honest miners do, by the formats that a task permits.

use std::collections::BTreeMap;

use common::format::NumericFormat;
use serde::{Deserialize, Serialize};

use super::logprobs::Strays;
use super::survival::Survival;

/// The null hypothesis of a policy: every stack in one of its formats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Null {
    /// The permitted formats, ascending.
    pub formats: Vec<NumericFormat>,
    pub survival: Survival,
    pub strays: Strays,
    /// By hypothesis: by how much the mean e-value of honest answers may exceed 1, at 95 % confidence. Every e-value is
    /// divided by 1 plus this.
    pub drift: BTreeMap<String, f64>,
    /// The same where tokens are drawn with other seeds than the requests'.
    pub drift_without_seeds: BTreeMap<String, f64>,
}

impl Null {
    /// Of a model that was not calibrated: typical noise of each format on other models, with a wide margin.
    ///
    /// The scales are several times the noise that was measured on a small model (f16 0.0007 nats, Q8_0 0.002, emulated
    /// bf16 0.005), because larger ones stray more.
    pub fn assumed(formats: &[NumericFormat]) -> Self {
        let scale = |format: &NumericFormat| match format {
            NumericFormat::F32 => 0.005,
            NumericFormat::F16 => 0.02,
            NumericFormat::Bf16 => 0.05,
            NumericFormat::Q8_0 => 0.08,
            NumericFormat::Q4_0 | NumericFormat::Q4K => 0.3,
        };
        let widest = formats.iter().map(scale).fold(0.005, f64::max);
        Self {
            formats: formats.to_vec(),
            survival: Survival::assumed(widest),
            strays: Strays::assumed(widest),
            drift: BTreeMap::new(),
            drift_without_seeds: BTreeMap::new(),
        }
    }

    /// The logarithm of what the e-values of a hypothesis are divided by.
    pub fn log_drift(&self, hypothesis: &str, seeded: bool) -> f64 {
        let drift = if seeded { &self.drift } else { &self.drift_without_seeds };
        drift.get(hypothesis).map_or(0.0, |drift| drift.max(0.0).ln_1p())
    }

    /// The temperature from which on noise hardly changes how likely a token is. Errors of logits become errors of a twentieth
    /// in a probability; these cancel out but for half of their square, 0.1 % per token.
    pub fn least_temperature(&self) -> f64 {
        20.0 * self.survival.scale()
    }

    /// Whether a hypothesis was measured.
    pub fn knows(&self, hypothesis: &str) -> bool {
        [&self.drift, &self.drift_without_seeds].iter().all(|drift| drift.contains_key(hypothesis))
    }

    /// Whether the numbers can be what they say: a file is not trusted.
    pub fn is_sound(&self) -> bool {
        !self.formats.is_empty()
            && self.survival.is_sound()
            && self.strays.is_sound()
            && self
                .drift
                .values()
                .chain(self.drift_without_seeds.values())
                .all(|drift| drift.is_finite() && *drift >= 0.0)
    }
}
