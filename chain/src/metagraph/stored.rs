//! Neurons as storage has them, for runtimes that do not put them together by themselves: a handful of requests, however
//! many neurons there are.

use common::{BlockNumber, Hotkey, Netuid, Uid};

use super::rules::Rules;
use super::{DOING, Neuron, ROOT, share, tao};
use crate::axon::{Axon, AxonFields};
use crate::error::ChainError;
use crate::storage::{At, Found, Key as _, Slot};

/// Reads all neurons of a subnet.
pub(super) async fn neurons(
    at: &At,
    netuid: Netuid,
    rules: &Rules,
) -> Result<Vec<Neuron>, ChainError> {
    let mut batch = at.batch(DOING);
    let mut slots = Vec::with_capacity(rules.neurons.into());
    for uid in (0..rules.neurons).map(Uid) {
        let keys = [netuid.key(), uid.key()];
        slots.push((
            uid,
            batch.add("Keys", keys.clone())?,
            batch.add("BlockAtRegistration", keys)?,
        ));
    }
    let found = batch.fetch().await?;
    let mut registered: Vec<(Uid, Hotkey, BlockNumber)> = Vec::with_capacity(slots.len());
    for (uid, key, block) in slots {
        // A slot without a key is an inconsistency of the chain; every neuron keeps its own uid all the same.
        let hotkey = found.account(key)?.unwrap_or(Hotkey::from_bytes([0; 32]));
        registered.push((uid, hotkey, BlockNumber(found.get_or_default(block)?)));
    }

    let mut batch = at.batch(DOING);
    let mut slots = Vec::with_capacity(registered.len());
    for (_, hotkey, _) in &registered {
        slots.push(HotkeySlots {
            axon: batch.add("Axons", [netuid.key(), hotkey.key()])?,
            coldkey: batch.add("Owner", [hotkey.key()])?,
            alpha: batch.add("TotalHotkeyAlpha", [hotkey.key(), netuid.key()])?,
            tao: batch.add("TotalHotkeyAlpha", [hotkey.key(), ROOT.key()])?,
        });
    }
    let found = batch.fetch().await?;
    let mut neurons = Vec::with_capacity(registered.len());
    for ((uid, hotkey, registered_at), slots) in registered.into_iter().zip(slots) {
        let row = rules.row(uid);
        neurons.push(Neuron {
            uid,
            hotkey,
            coldkey: found.account(slots.coldkey)?,
            axon: found.get::<AxonFields>(slots.axon)?.as_ref().and_then(Axon::from_fields),
            stake: slots.stake_weight(&found, rules.tao_weight)?,
            validator_permit: rules.has_permit(uid),
            active: row.active,
            last_update: row.last_update,
            registered_at,
            incentive: share(row.incentive),
            consensus: share(row.consensus),
            dividends: share(row.dividends),
        });
    }
    Ok(neurons)
}

struct HotkeySlots {
    axon: Slot,
    coldkey: Slot,
    alpha: Slot,
    tao: Slot,
}

impl HotkeySlots {
    /// The stake weight in TAO without what child hotkeys inherit, which storage does not hold.
    fn stake_weight(&self, found: &Found<'_>, tao_weight: u64) -> Result<f64, ChainError> {
        let alpha: u64 = found.get_or_default(self.alpha)?;
        let staked: u64 = found.get_or_default(self.tao)?;
        Ok(tao(alpha) + tao(staked) * (tao_weight as f64 / u64::MAX as f64))
    }
}
