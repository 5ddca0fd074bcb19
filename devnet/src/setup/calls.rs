//! The hyperparameters that can be set, found in the runtime's own description of its calls.

use common::Netuid;
use frame_support::storage::storage_prefix;
use parity_scale_codec::{Decode, Encode};
use scale_info::{MetaType, TypeDef, TypeDefPrimitive, TypeInfo};

use super::SetupError;
use crate::runtime::drand::WITHHELD_KEY;
use crate::runtime::{Runtime, RuntimeCall, admin};

/// AdminUtils' place in the runtime.
const ADMIN_UTILS: u8 = 19;

/// The prefix of the calls that set something.
const PREFIX: &str = "sudo_set_";

/// What has no call and is written to storage.
struct Written {
    name: &'static str,
    of_subnet: bool,
    largest: u64,
    bytes: usize,
    /// Where, before the netuid.
    key: fn() -> Vec<u8>,
}

const WRITTEN: [Written; 3] = [
    Written {
        name: "max_weights_limit",
        of_subnet: true,
        largest: u16::MAX as u64,
        bytes: 2,
        key: || storage_prefix(b"SubtensorModule", b"MaxWeightsLimit").to_vec(),
    },
    // Of spec 425.
    Written {
        name: "activity_cutoff_factor_milli",
        of_subnet: true,
        largest: u32::MAX as u64,
        bytes: 4,
        key: || storage_prefix(b"SubtensorModule", b"ActivityCutoffFactorMilli").to_vec(),
    },
    // 1: the beacon's signatures come late; 2: they never come.
    Written {
        name: "beacon_withheld",
        of_subnet: false,
        largest: 2,
        bytes: 1,
        key: || WITHHELD_KEY.to_vec(),
    },
];

/// The first of two mechanisms' part of the emission, of 65535; the second has the rest.
const EMISSION_SPLIT: &str = "mechanism_emission_split";

/// Shorter names for some.
const SHORT: [(&str, &str); 3] = [
    ("reveal_period", "commit_reveal_weights_interval"),
    ("weights_rate_limit", "weights_set_rate_limit"),
    ("commit_reveal", "commit_reveal_weights_enabled"),
];

/// A hyperparameter that can be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hyperparameter {
    /// Its name, such as `tempo`.
    pub name: String,
    /// Whether each subnet has its own.
    pub of_subnet: bool,
    /// The largest value; 1 for a switch.
    pub largest: u64,
    call: Option<u8>,
    bytes: usize,
}

/// All that can be set, sorted by name.
pub fn hyperparameters() -> Vec<Hyperparameter> {
    let written = WRITTEN.iter().map(|item| Hyperparameter {
        name: item.name.to_owned(),
        of_subnet: item.of_subnet,
        largest: item.largest,
        call: None,
        bytes: item.bytes,
    });
    let mut all: Vec<Hyperparameter> = written.collect();
    all.push(Hyperparameter {
        name: EMISSION_SPLIT.to_owned(),
        of_subnet: true,
        largest: u64::from(u16::MAX),
        call: None,
        bytes: 2,
    });
    if let TypeDef::Variant(calls) = admin::Call::<Runtime>::type_info().type_def {
        for call in calls.variants {
            let value = call.fields.last().map(|field| size(field.ty));
            if let (Some(name), Some(Some((bytes, largest)))) =
                (call.name.strip_prefix(PREFIX), value)
            {
                all.push(Hyperparameter {
                    name: name.to_owned(),
                    of_subnet: call.fields.len() == 2,
                    largest,
                    call: Some(call.index),
                    bytes,
                });
            }
        }
    }
    for (short, long) in SHORT {
        if let Some(known) = all.iter().find(|known| known.name == long).cloned() {
            all.push(Hyperparameter { name: short.to_owned(), ..known });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Bytes and largest value of an argument.
fn size(ty: MetaType) -> Option<(usize, u64)> {
    match ty.type_info().type_def {
        TypeDef::Primitive(TypeDefPrimitive::Bool) => Some((1, 1)),
        TypeDef::Primitive(TypeDefPrimitive::U8) => Some((1, u64::from(u8::MAX))),
        TypeDef::Primitive(TypeDefPrimitive::U16) => Some((2, u64::from(u16::MAX))),
        TypeDef::Primitive(TypeDefPrimitive::U64) => Some((8, u64::MAX)),
        _ => None,
    }
}

/// The call that sets one.
pub(super) fn sudo_set(
    name: &str,
    netuid: Option<Netuid>,
    value: u64,
) -> Result<RuntimeCall, SetupError> {
    let name = name.replace('-', "_");
    let name = name.strip_prefix(PREFIX).unwrap_or(&name);
    let known = hyperparameters().into_iter().find(|known| known.name == name);
    let known = known.ok_or_else(|| SetupError::UnknownHyperparameter(name.to_owned()))?;
    if value > known.largest {
        return Err(SetupError::TooLarge { name: name.to_owned(), value });
    }
    if let (EMISSION_SPLIT, Some(Netuid(netuid))) = (name, netuid) {
        // Not above the largest.
        let first = value as u16;
        let maybe_split = Some(vec![first, u16::MAX - first]);
        let call = admin::Call::sudo_set_mechanism_emission_split { netuid, maybe_split };
        return Ok(RuntimeCall::AdminUtils(call));
    }
    let netuid = match (known.of_subnet, netuid) {
        (true, None) => return Err(SetupError::NeedsNetuid(name.to_owned())),
        (true, Some(netuid)) => netuid.0.encode(),
        (false, _) => Vec::new(),
    };
    let value = value.to_le_bytes()[..known.bytes].to_vec();
    let Some(index) = known.call else {
        let item = WRITTEN.iter().find(|item| item.name == known.name);
        let item = item.ok_or_else(|| SetupError::UnknownHyperparameter(name.to_owned()))?;
        let key = [(item.key)(), netuid].concat();
        let call = frame_system::Call::set_storage { items: vec![(key, value)] };
        return Ok(RuntimeCall::System(call));
    };
    let bytes = [vec![ADMIN_UTILS, index], netuid, value].concat();
    RuntimeCall::decode(&mut bytes.as_slice())
        .map_err(|_| SetupError::Answer { doing: "putting the call together" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hyperparameter_has_a_call_that_decodes() {
        let all = hyperparameters();
        assert!(all.len() > 30, "{}", all.len());
        let TypeDef::Variant(calls) = admin::Call::<Runtime>::type_info().type_def else {
            panic!("calls are an enum")
        };
        for call in calls.variants.iter().filter_map(|call| call.name.strip_prefix(PREFIX)) {
            assert!(all.iter().any(|known| known.name == call), "{call} cannot be set");
        }
        for known in all {
            let call = sudo_set(&known.name, Some(Netuid(1)), known.largest).unwrap();
            let shown = format!("{call:?}");
            assert_eq!(
                shown.contains("netuid: 1") || known.call.is_none(),
                known.of_subnet || known.call.is_none(),
                "{shown}"
            );
        }
    }

    #[test]
    fn names_may_be_written_as_flags_and_values_must_fit() {
        let call = |name: &str, value| sudo_set(name, Some(Netuid(3)), value);
        assert_eq!(call("sudo-set-tempo", 10).unwrap(), call("tempo", 10).unwrap());
        assert_eq!(
            call("commit-reveal", 0).unwrap(),
            call("commit_reveal_weights_enabled", 0).unwrap()
        );
        assert!(matches!(call("commit_reveal", 2), Err(SetupError::TooLarge { .. })));
        assert!(matches!(call("colour", 2), Err(SetupError::UnknownHyperparameter(_))));
        assert!(matches!(sudo_set("tempo", None, 2), Err(SetupError::NeedsNetuid(_))));
        assert!(sudo_set("stake_threshold", None, 2).is_ok());
        let split = format!("{:?}", call("mechanism-emission-split", 65_534).unwrap());
        assert!(split.contains("[65534, 1]"), "{split}");
        let nowhere = sudo_set("mechanism_emission_split", None, 2);
        assert!(matches!(nowhere, Err(SetupError::NeedsNetuid(_))));
    }
}
