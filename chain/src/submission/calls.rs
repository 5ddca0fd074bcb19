//! The calls, with their arguments by name.

use common::{MechanismId, Netuid, Uid};
use subxt::dynamic::Value;
use subxt::ext::scale_value::Composite;

use super::{Submission, WeightsPlan};
use crate::signed::Call;
use crate::storage::{Key as _, PALLET};

type Arguments = Vec<(&'static str, Value)>;

pub(crate) fn plain(plan: &WeightsPlan) -> Call {
    let (uids, values) = columns(&plan.weights);
    let mut arguments = place(plan.netuid, plan.mechanism, plan.call);
    arguments.extend([("dests", uids), ("weights", values), version(plan.version_key)]);
    call(plan.call, arguments)
}

pub(crate) fn timelocked(
    plan: &WeightsPlan,
    commit: &[u8],
    round: u64,
    commit_version: u16,
) -> Call {
    let mut arguments = place(plan.netuid, plan.mechanism, plan.call);
    arguments.extend([
        // A bounded vector is a composite around a vector.
        ("commit", Value::unnamed_composite([Value::from_bytes(commit)])),
        ("reveal_round", Value::u128(round.into())),
        ("commit_reveal_version", Value::u128(commit_version.into())),
    ]);
    call(plan.call, arguments)
}

pub(crate) fn hashed(plan: &WeightsPlan, hash: &[u8; 32]) -> Call {
    let mut arguments = place(plan.netuid, plan.mechanism, plan.call);
    arguments.push(("commit_hash", Value::from_bytes(hash)));
    call(plan.call, arguments)
}

pub(crate) fn reveal(submission: &Submission, salt: &[u16], name: &'static str) -> Call {
    let (uids, values) = columns(&submission.weights);
    let salt = Value::unnamed_composite(salt.iter().map(|number| Value::u128((*number).into())));
    let mut arguments = place(submission.netuid, submission.mechanism, name);
    arguments.extend([
        ("uids", uids),
        ("values", values),
        ("salt", salt),
        version(submission.version_key),
    ]);
    call(name, arguments)
}

fn call(name: &'static str, arguments: Arguments) -> Call {
    Call::new(PALLET, name, Composite::named(arguments))
}

/// The subnet, and the mechanism where the call takes one.
fn place(netuid: Netuid, mechanism: MechanismId, call: &str) -> Arguments {
    let mut arguments = vec![("netuid", netuid.key())];
    if call.contains("mechanism") {
        arguments.push(("mecid", Value::u128(mechanism.0.into())));
    }
    arguments
}

fn version(key: u64) -> (&'static str, Value) {
    ("version_key", Value::u128(key.into()))
}

fn columns(weights: &[(Uid, u16)]) -> (Value, Value) {
    let uids = weights.iter().map(|(uid, _)| uid.key());
    let values = weights.iter().map(|(_, weight)| Value::u128((*weight).into()));
    (Value::unnamed_composite(uids), Value::unnamed_composite(values))
}
