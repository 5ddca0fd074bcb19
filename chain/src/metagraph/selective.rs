//! Neurons as the runtime puts them together by itself: one request.

use common::{BlockNumber, Hotkey, Netuid, Uid};
use subxt::dynamic::Value;
use subxt::ext::scale_decode::DecodeAsType;

use super::{DOING, Neuron, RAO_PER_TAO, share};
use crate::axon::{Axon, AxonFields};
use crate::error::ChainError;
use crate::storage::{At, Key as _};

const API: &str = "SubnetInfoRuntimeApi";
const METHOD: &str = "get_selective_metagraph";

/// The index of the field `total_stake` in the request.
const TOTAL_STAKE: u16 = 69;
/// The indices of the fields of [`Columns`] in the request, in their order.
const COLUMNS: [u16; 11] = [52, 53, 55, 56, 57, 59, 61, 62, 63, 66, TOTAL_STAKE];

/// The columns that neurons are made of; the many other fields of the answer are skipped.
#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Columns {
    hotkeys: Option<Vec<[u8; 32]>>,
    coldkeys: Option<Vec<[u8; 32]>>,
    axons: Option<Vec<AxonFields>>,
    active: Option<Vec<bool>>,
    validator_permit: Option<Vec<bool>>,
    last_update: Option<Vec<u64>>,
    dividends: Option<Vec<u16>>,
    incentives: Option<Vec<u16>>,
    consensus: Option<Vec<u16>>,
    block_at_registration: Option<Vec<u64>>,
    total_stake: Option<Vec<u64>>,
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Stakes {
    total_stake: Option<Vec<u64>>,
}

/// All neurons of a subnet; `None` where the runtime does not offer to put them together, or gives something else.
pub(super) async fn neurons(
    at: &At,
    netuid: Netuid,
    count: u16,
) -> Result<Option<Vec<Neuron>>, ChainError> {
    let columns: Option<Columns> = ask(at, netuid, &COLUMNS).await?;
    Ok(columns.and_then(|columns| columns.neurons(count.into())))
}

/// The stake weights in rao by uid as the runtime itself counts them, where it offers to.
pub(crate) async fn total_stakes(
    at: &At,
    netuid: Netuid,
    neurons: usize,
) -> Result<Option<Vec<u64>>, ChainError> {
    let answer: Option<Stakes> = ask(at, netuid, &[TOTAL_STAKE]).await?;
    let stakes = answer.and_then(|answer| answer.total_stake);
    Ok(stakes.filter(|stakes| stakes.len() == neurons))
}

async fn ask<T: DecodeAsType>(
    at: &At,
    netuid: Netuid,
    indices: &[u16],
) -> Result<Option<T>, ChainError> {
    let indices = indices.iter().map(|index| Value::u128((*index).into()));
    let arguments = vec![netuid.key(), Value::unnamed_composite(indices)];
    let answer: Option<Option<T>> = at.call(API, METHOD, arguments, DOING).await?;
    Ok(answer.flatten())
}

impl Columns {
    /// `None` unless every column is there and has a row for each neuron.
    fn neurons(self, count: usize) -> Option<Vec<Neuron>> {
        let hotkeys = whole(self.hotkeys, count)?;
        let coldkeys = whole(self.coldkeys, count)?;
        let axons = whole(self.axons, count)?;
        let active = whole(self.active, count)?;
        let validator_permit = whole(self.validator_permit, count)?;
        let last_update = whole(self.last_update, count)?;
        let dividends = whole(self.dividends, count)?;
        let incentives = whole(self.incentives, count)?;
        let consensus = whole(self.consensus, count)?;
        let registered = whole(self.block_at_registration, count)?;
        let stake = whole(self.total_stake, count)?;
        let neuron = |(uid, index): (u16, usize)| Neuron {
            uid: Uid(uid),
            hotkey: Hotkey::from_bytes(hotkeys[index]),
            coldkey: Some(coldkeys[index]).filter(|key| *key != [0; 32]).map(Hotkey::from_bytes),
            axon: Axon::from_fields(&axons[index]),
            stake: stake[index] as f64 / RAO_PER_TAO,
            validator_permit: validator_permit[index],
            active: active[index],
            last_update: BlockNumber(last_update[index]),
            registered_at: BlockNumber(registered[index]),
            incentive: share(incentives[index]),
            consensus: share(consensus[index]),
            dividends: share(dividends[index]),
        };
        Some((0_u16..).zip(0..count).map(neuron).collect())
    }
}

fn whole<T>(column: Option<Vec<T>>, count: usize) -> Option<Vec<T>> {
    column.filter(|column| column.len() == count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Columns {
        let axon = AxonFields { version: 1, ip: 0x0808_0808, port: 9, ip_type: 4, protocol: 4 };
        let none = AxonFields { ip: 0, port: 0, ..axon };
        Columns {
            hotkeys: Some(vec![[1; 32], [2; 32]]),
            coldkeys: Some(vec![[9; 32], [0; 32]]),
            axons: Some(vec![axon, none]),
            active: Some(vec![true, false]),
            validator_permit: Some(vec![false, true]),
            last_update: Some(vec![5, 6]),
            dividends: Some(vec![0, 65535]),
            incentives: Some(vec![65535, 0]),
            consensus: Some(vec![13107, 0]),
            block_at_registration: Some(vec![3, 4]),
            total_stake: Some(vec![1_500_000_000, 0]),
        }
    }

    #[test]
    fn rows_are_made_of_columns() {
        let neurons = columns().neurons(2).unwrap();
        let first = &neurons[0];
        assert_eq!((first.uid, first.hotkey), (Uid(0), Hotkey::from_bytes([1; 32])));
        assert_eq!((first.stake, first.incentive, first.consensus), (1.5, 1.0, 0.2));
        assert_eq!(first.axon.map(|axon| axon.port), Some(9));
        assert_eq!((neurons[1].axon, neurons[1].coldkey), (None, None));
        assert_eq!((neurons[1].last_update, neurons[1].dividends), (BlockNumber(6), 1.0));
    }

    #[test]
    fn an_answer_with_a_column_missing_or_too_short_is_not_used() {
        assert_eq!(columns().neurons(3), None);
        let missing = Columns { axons: None, ..columns() };
        assert_eq!(missing.neurons(2), None);
        let short = Columns { consensus: Some(vec![1]), ..columns() };
        assert_eq!(short.neurons(2), None);
    }
}
