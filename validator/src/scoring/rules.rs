//! Which formulas are in force, with which constants.

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Scorer, Span, subnet19, touchstone};

/// A set of rules by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// This project's: capacity that has been shown, speed by its value, evidence that fades with time.
    Touchstone,
    /// Those of subnet 19's validator of January 2025.
    Subnet19,
}

/// There is no such preset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no preset `{0}`; choose `touchstone` or `subnet19`")]
pub struct UnknownPreset(String);

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "touchstone" => Ok(Self::Touchstone),
            "subnet19" => Ok(Self::Subnet19),
            other => Err(UnknownPreset(other.to_owned())),
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Touchstone => "touchstone",
            Self::Subnet19 => "subnet19",
        })
    }
}

/// The formulas in force and their constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rules {
    Touchstone(touchstone::Parameters),
    Subnet19(subnet19::Parameters),
}

/// Why a constant cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongSetting {
    #[error("the preset `{preset}` has no constant `{key}`; it has {known}")]
    Unknown { preset: Preset, key: String, known: String },
    #[error("`{key}` {problem}")]
    Value { key: String, problem: String },
}

impl Default for Rules {
    fn default() -> Self {
        Self::of(Preset::Touchstone)
    }
}

impl Rules {
    /// A preset with its defaults.
    pub fn of(preset: Preset) -> Self {
        match preset {
            Preset::Touchstone => Self::Touchstone(touchstone::Parameters::default()),
            Preset::Subnet19 => Self::Subnet19(subnet19::Parameters::default()),
        }
    }

    /// Which preset this is, whatever its constants.
    pub fn preset(&self) -> Preset {
        match self {
            Self::Touchstone(_) => Preset::Touchstone,
            Self::Subnet19(_) => Preset::Subnet19,
        }
    }

    /// What is wrong with the constants: pairs of key and sentence, empty if nothing is.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Touchstone(parameters) => parameters.problems(),
            Self::Subnet19(parameters) => parameters.problems(),
        }
    }

    /// The same rules with one constant changed.
    ///
    /// # Errors
    /// If the preset has no such constant, or it cannot have this value.
    pub fn with(&self, key: &str, value: f64) -> Result<Self, WrongSetting> {
        let changed = match self {
            Self::Touchstone(parameters) => {
                Self::Touchstone(replaced(parameters, self.preset(), key, value)?)
            }
            Self::Subnet19(parameters) => {
                Self::Subnet19(replaced(parameters, self.preset(), key, value)?)
            }
        };
        match changed.problems().into_iter().next() {
            None => Ok(changed),
            Some((key, problem)) => Err(WrongSetting::Value { key: key.to_owned(), problem }),
        }
    }

    /// Which of a contender's sorted speeds stands for all of them.
    pub fn speed_percentile(&self) -> f64 {
        match self {
            Self::Touchstone(parameters) => parameters.speed_percentile,
            Self::Subnet19(parameters) => parameters.speed_percentile,
        }
    }

    /// These rules at one moment, in Unix milliseconds. `spans` are all scoring periods of the validator within the time
    /// that evidence counts, in any order, merged like the stretches of the evidence; `period_s` is the length of one.
    pub fn at(&self, now_ms: i64, spans: &[Span], period_s: f64) -> Scorer {
        Scorer::new(*self, now_ms, spans, period_s)
    }
}

fn replaced<P: Serialize + DeserializeOwned>(
    parameters: &P,
    preset: Preset,
    key: &str,
    value: f64,
) -> Result<P, WrongSetting> {
    let problem = |problem: String| WrongSetting::Value { key: key.to_owned(), problem };
    let Ok(Value::Object(mut constants)) = serde_json::to_value(parameters) else {
        return Err(problem("cannot be read".to_owned()));
    };
    let Some(constant) = constants.get_mut(key) else {
        let known = constants.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(WrongSetting::Unknown { preset, key: key.to_owned(), known });
    };
    // Counts stay whole numbers.
    *constant = if constant.is_u64() && value >= 0.0 && value.fract() == 0.0 {
        Value::from(value as u64)
    } else {
        Value::from(value)
    };
    serde_json::from_value(Value::Object(constants)).map_err(|error| problem(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_every_preset_are_sound() {
        for preset in [Preset::Touchstone, Preset::Subnet19] {
            assert_eq!(Rules::of(preset).problems(), Vec::new());
            assert_eq!(preset.to_string().parse(), Ok(preset));
        }
    }

    #[test]
    fn one_constant_can_be_changed_by_name() {
        let rules = Rules::default().with("speed_bonus", 0.2).unwrap();
        let Rules::Touchstone(parameters) = rules else { panic!("{rules:?}") };
        assert_eq!(parameters.speed_bonus, 0.2);
        let rules = Rules::of(Preset::Subnet19).with("full_history_periods", 3.0).unwrap();
        let Rules::Subnet19(parameters) = rules else { panic!("{rules:?}") };
        assert_eq!(parameters.full_history_periods, 3);
    }

    #[test]
    fn a_constant_that_does_not_exist_or_does_not_fit_is_refused_by_name() {
        let error = Rules::default().with("speed", 1.0).unwrap_err().to_string();
        assert!(error.contains("no constant `speed`") && error.contains("speed_bonus"), "{error}");
        let error = Rules::default().with("speed_bonus", 9.0).unwrap_err().to_string();
        assert!(error.contains("`speed_bonus` must be between"), "{error}");
        assert!(Rules::of(Preset::Subnet19).with("full_history_periods", 1.5).is_err());
        assert!(Rules::default().with("half_life_hours", f64::NAN).is_err());
    }

    #[test]
    fn rules_survive_being_stored() {
        for preset in [Preset::Touchstone, Preset::Subnet19] {
            let rules = Rules::of(preset);
            let json = serde_json::to_string(&rules).unwrap();
            assert_eq!(serde_json::from_str::<Rules>(&json).unwrap(), rules, "{json}");
        }
    }
}
