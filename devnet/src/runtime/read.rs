//! What came of a block, in words that are the same for all specs.

use frame_system::{EventRecord, Phase};
use parity_scale_codec::{Decode, DecodeAll};
use scale_info::{TypeDef, TypeInfo};
use sp_core::H256;
use sp_runtime::DispatchError;

use super::{Runtime, RuntimeEvent, UncheckedExtrinsic, admin, commitments, subtensor, sudo};
use crate::specs::Happening;

/// What happened in a block, with the place of the transaction that did it; `None` if these are no events.
pub fn happenings(events: &[u8]) -> Option<Vec<(Option<u32>, Happening)>> {
    let events = Vec::<EventRecord<RuntimeEvent, H256>>::decode(&mut &*events).ok()?;
    let read = |record: EventRecord<RuntimeEvent, H256>| {
        let place = match record.phase {
            Phase::ApplyExtrinsic(place) => Some(place),
            Phase::Finalization | Phase::Initialization => None,
        };
        (place, happening(record.event))
    };
    Some(events.into_iter().map(read).collect())
}

fn happening(event: RuntimeEvent) -> Happening {
    match event {
        RuntimeEvent::SubtensorModule(subtensor::Event::NetworkAdded(netuid, _)) => {
            Happening::NetworkAdded(netuid)
        }
        RuntimeEvent::SubtensorModule(subtensor::Event::NeuronRegistered(_, uid, _)) => {
            Happening::NeuronRegistered(uid)
        }
        RuntimeEvent::Sudo(sudo::Event::Sudid { sudo_result: Err(error) }) => {
            Happening::SudoFailed(error_name(error))
        }
        RuntimeEvent::System(frame_system::Event::ExtrinsicFailed { dispatch_error, .. }) => {
            Happening::Failed(error_name(dispatch_error))
        }
        other => Happening::Other(format!("{other:?}")),
    }
}

/// The name of an error, such as `NotEnoughBalanceToStake`.
pub fn error_name(error: DispatchError) -> String {
    let DispatchError::Module(module) = error else { return format!("{error:?}") };
    let errors = match module.index {
        7 => subtensor::Error::<Runtime>::type_info(),
        12 => sudo::Error::<Runtime>::type_info(),
        18 => commitments::Error::<Runtime>::type_info(),
        19 => admin::Error::<Runtime>::type_info(),
        _ => pallet_balances::Error::<Runtime>::type_info(),
    };
    let TypeDef::Variant(errors) = errors.type_def else { return format!("{error:?}") };
    let known = errors.variants.iter().find(|variant| variant.index == module.error[0]);
    known.map_or_else(|| format!("{error:?}"), |variant| variant.name.to_owned())
}

/// Whether these bytes are a transaction, as it is submitted.
pub fn is_transaction(bytes: &[u8]) -> bool {
    UncheckedExtrinsic::decode_all(&mut &*bytes).is_ok()
}
