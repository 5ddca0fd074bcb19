//! What hotkeys publish about themselves on a subnet: a few bytes that the chain keeps and anyone may read.

use std::collections::BTreeMap;

use common::{BlockNumber, Hotkey, Keypair, Netuid, Uid};
use subxt::dynamic::Value;
use subxt::ext::scale_decode::DecodeAsType;
use subxt::ext::scale_value::{Composite, ValueDef};
use tokio::time::Instant;
use tracing::debug;

use crate::client::Chain;
use crate::error::{BlockHash, ChainError};
use crate::metagraph::MAX_NEURONS;
use crate::preflight::{CommitFacts, check_commit};
use crate::serving::PROOF_PATIENCE;
use crate::signed::{Call, Included, SubmitError, pause_after};
use crate::storage::{At, Key as _};

const PALLET: &str = "Commitments";

/// The most bytes of a commitment: the chain has a type for each length up to this.
pub const MAX_COMMITMENT_BYTES: usize = 128;

/// What became of a commitment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The chain holds these bytes already.
    Skipped,
    /// The chain holds them since this finalized block.
    Submitted { block: BlockNumber, hash: BlockHash, extrinsic: BlockHash },
}

/// What is read of a stored commitment; the rest is skipped.
#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Registration {
    info: Info,
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Info {
    fields: Vec<Value>,
}

impl Chain {
    /// The commitments of all neurons of a subnet at the newest finalized block: the first raw field of each, at most
    /// [`MAX_COMMITMENT_BYTES`] bytes. Commitments of other kinds are left out, and so is what hotkeys left behind that
    /// are no longer registered.
    pub async fn commitments(
        &self,
        netuid: Netuid,
    ) -> Result<BTreeMap<Hotkey, Vec<u8>>, ChainError> {
        const DOING: &str = "reading commitments";
        let at = self.finalized_at().await?;
        let mut batch = at.batch(DOING);
        let exists = batch.add("NetworksAdded", [netuid.key()])?;
        let neurons = batch.add("SubnetworkN", [netuid.key()])?;
        let found = batch.fetch().await?;
        if !found.get_or_default::<bool>(exists)? {
            return Err(ChainError::NoSubnet(netuid));
        }
        let neurons = found.get_or_default::<u16>(neurons)?.min(MAX_NEURONS);

        let mut batch = at.batch(DOING);
        let slots: Result<Vec<_>, ChainError> =
            (0..neurons).map(|uid| batch.add("Keys", [netuid.key(), Uid(uid).key()])).collect();
        let found = batch.fetch().await?;
        let hotkeys: Result<Vec<_>, ChainError> =
            slots?.into_iter().map(|slot| found.account(slot)).collect();

        let mut batch = at.batch(DOING);
        let mut slots = Vec::with_capacity(neurons.into());
        for hotkey in hotkeys?.into_iter().flatten() {
            let keys = [netuid.key(), hotkey.key()];
            slots.push((hotkey, batch.add_of(PALLET, "CommitmentOf", keys)?));
        }
        let found = batch.fetch().await?;
        let mut commitments = BTreeMap::new();
        for (hotkey, slot) in slots {
            match found.get::<Registration>(slot) {
                Ok(registration) => {
                    let bytes = registration.and_then(|registration| first_raw(&registration));
                    commitments.extend(bytes.map(|bytes| (hotkey, bytes)));
                }
                Err(error) => debug!(%hotkey, %error, "skipping a commitment"),
            }
        }
        Ok(commitments)
    }

    /// Publishes `bytes`, at most [`MAX_COMMITMENT_BYTES`], as the commitment of the hotkey of `keypair`, unless the chain
    /// holds them already. Returns when they are in a finalized block and have been read back.
    ///
    /// The chain keeps one commitment for each hotkey and subnet, and takes about 30 between two epochs.
    pub async fn commit(
        &self,
        netuid: Netuid,
        keypair: &Keypair,
        bytes: &[u8],
    ) -> Result<Committed, SubmitError> {
        let _one_at_a_time = self.signing().lock().await;
        let at = self.newest_at().await?;
        let (facts, held) = commit_facts(&at, netuid, keypair.hotkey()).await?;
        check_commit(&facts, bytes)?;
        if held.as_deref() == Some(bytes) {
            return Ok(Committed::Skipped);
        }
        let included = self.submit(&commit_call(netuid, bytes), keypair).await?;
        let Included { block, hash, extrinsic } = included;
        let deadline = Instant::now() + PROOF_PATIENCE;
        let held = loop {
            match self.committed_in(&included, netuid, keypair.hotkey()).await {
                Ok(held) => break held,
                Err(error) => pause_after(error, &included, deadline).await?,
            }
        };
        if held.as_deref() != Some(bytes) {
            return Err(SubmitError::NotApplied { extrinsic, block });
        }
        Ok(Committed::Submitted { block, hash, extrinsic })
    }

    async fn committed_in(
        &self,
        included: &Included,
        netuid: Netuid,
        hotkey: Hotkey,
    ) -> Result<Option<Vec<u8>>, SubmitError> {
        let at = self.at_block_of(included).await?;
        Ok(commit_facts(&at, netuid, hotkey).await?.1)
    }
}

/// What decides whether the hotkey may publish, and what it has published.
async fn commit_facts(
    at: &At,
    netuid: Netuid,
    hotkey: Hotkey,
) -> Result<(CommitFacts, Option<Vec<u8>>), SubmitError> {
    let mut batch = at.batch("reading the hotkey's commitment");
    let exists = batch.add("NetworksAdded", [netuid.key()])?;
    let uid = batch.add("Uids", [netuid.key(), hotkey.key()])?;
    let held = batch.add_of(PALLET, "CommitmentOf", [netuid.key(), hotkey.key()])?;
    let found = batch.fetch().await?;
    let facts = CommitFacts {
        netuid,
        hotkey,
        exists: found.get_or_default(exists)?,
        registered: found.get::<u16>(uid)?.is_some(),
    };
    // What an odd program has published may be replaced.
    let held = found.get::<Registration>(held).ok().flatten();
    Ok((facts, held.and_then(|held| first_raw(&held))))
}

pub(crate) fn commit_call(netuid: Netuid, bytes: &[u8]) -> Call {
    let raw = Value::unnamed_variant(format!("Raw{}", bytes.len()), [Value::from_bytes(bytes)]);
    // A bounded vector is a composite around a vector.
    let fields = Value::unnamed_composite([Value::unnamed_composite([raw])]);
    let arguments =
        [("netuid", netuid.key()), ("info", Value::named_composite([("fields", fields)]))];
    Call::new(PALLET, "set_commitment", Composite::named(arguments))
}

/// The bytes of the first field that is raw data.
fn first_raw(registration: &Registration) -> Option<Vec<u8>> {
    registration.info.fields.iter().find_map(|field| {
        let ValueDef::Variant(variant) = &field.value else { return None };
        let length: usize = variant.name.strip_prefix("Raw")?.parse().ok()?;
        let array = variant.values.values().next()?;
        let ValueDef::Composite(array) = &array.value else { return None };
        let bytes: Option<Vec<u8>> =
            array.values().map(|byte| u8::try_from(byte.as_u128()?).ok()).collect();
        bytes.filter(|bytes| bytes.len() == length && length <= MAX_COMMITMENT_BYTES)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(bytes: &[u8]) -> Value {
        Value::unnamed_variant(format!("Raw{}", bytes.len()), [Value::from_bytes(bytes)])
    }

    fn first(fields: Vec<Value>) -> Option<Vec<u8>> {
        first_raw(&Registration { info: Info { fields } })
    }

    #[test]
    fn the_first_raw_field_counts_and_fields_of_other_kinds_do_not() {
        let hash = Value::unnamed_variant("Sha256", [Value::from_bytes([1; 32])]);
        let large = Value::unnamed_variant("BigRaw", [Value::from_bytes([1; 300])]);
        assert_eq!(first(vec![hash.clone(), raw(&[5, 6]), raw(&[7])]), Some(vec![5, 6]));
        assert_eq!(first(vec![raw(&[])]), Some(Vec::new()));
        assert_eq!(first(vec![hash, large]), None);
        assert_eq!(first(Vec::new()), None);
    }

    #[test]
    fn what_is_not_what_its_name_says_is_no_commitment() {
        let wrong_length = Value::unnamed_variant("Raw3", [Value::from_bytes([1, 2])]);
        let no_bytes = Value::unnamed_variant("Raw1", [Value::u128(1)]);
        let too_large =
            Value::unnamed_variant("Raw1", [Value::unnamed_composite([Value::u128(256)])]);
        let too_long = raw(&[0; 129]);
        for odd in [wrong_length, no_bytes, too_large, too_long] {
            assert_eq!(first(vec![odd]), None);
        }
    }
}
