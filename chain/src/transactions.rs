//! What a hotkey does on the chain: announce an axon, set weights.

use std::time::Duration;

use common::{BlockNumber, Keypair, Netuid, Uid};
use subxt::dynamic::Value;
use subxt::ext::scale_decode::DecodeAsType;
use subxt::ext::scale_value::Composite;
use tokio::time::Instant;

use crate::axon::{Axon, AxonFields};
use crate::client::Chain;
use crate::error::{BlockHash, ChainError};
use crate::metagraph::{read_rules, total_stakes};
use crate::preflight::{Preflight, ServeFacts, WeightFacts, check_serve, check_weights};
use crate::signed::{Call, Included, SubmitError, pause_after};
use crate::storage::{At, Key as _, PALLET};

/// How long a chain that goes away just after it took a transaction is awaited, to read back what it took.
pub(crate) const PROOF_PATIENCE: Duration = Duration::from_secs(60);

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The chain has this axon already.
    Skipped,
    /// The chain has it since this finalized block.
    Submitted { block: BlockNumber, hash: BlockHash, extrinsic: BlockHash },
}

/// Weights that are proven to be on the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightsSet {
    /// The finalized block that they were set in.
    pub block: BlockNumber,
    pub hash: BlockHash,
    pub extrinsic: BlockHash,
    /// As the chain stores them.
    pub weights: Vec<(Uid, u16)>,
}

/// When an axon was announced, beside what was announced.
#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Announced {
    block: u64,
}

impl Chain {
    /// Announces where the hotkey of `keypair` serves, unless the chain knows already. Returns when the announcement is
    /// in a finalized block and has been read back.
    pub async fn serve_axon(
        &self,
        netuid: Netuid,
        axon: Axon,
        keypair: &Keypair,
    ) -> Result<Served, SubmitError> {
        let _one_at_a_time = self.signing().lock().await;
        let at = self.newest_at().await?;
        let (facts, announced) = serve_facts(&at, netuid, keypair).await?;
        if announced == Some(axon.to_fields()) {
            return Ok(Served::Skipped);
        }
        check_serve(&facts, &axon)?;
        let call = serve_axon_call(netuid, axon);
        let included = self.submit(&call, keypair).await?;
        let Included { block, hash, extrinsic } = included;
        let deadline = Instant::now() + PROOF_PATIENCE;
        let announced = loop {
            match self.announced_in(&included, netuid, keypair).await {
                Ok(announced) => break announced,
                Err(error) => pause_after(error, &included, deadline).await?,
            }
        };
        if announced != Some(axon.to_fields()) {
            return Err(SubmitError::NotApplied { extrinsic, block });
        }
        Ok(Served::Submitted { block, hash, extrinsic })
    }

    /// Sets the weights of the hotkey of `keypair`, as [`encode`](crate::weights::encode) makes them, on a subnet without
    /// commit-reveal. Returns when they are in a finalized block and have been read back.
    ///
    /// `version_key` is the version of the validator's rules, not a counter.
    pub async fn set_weights(
        &self,
        netuid: Netuid,
        weights: &[(Uid, u16)],
        version_key: u64,
        keypair: &Keypair,
    ) -> Result<WeightsSet, SubmitError> {
        let _one_at_a_time = self.signing().lock().await;
        let at = self.newest_at().await?;
        let facts = weight_facts(&at, netuid, keypair).await?;
        check_weights(&facts, weights, version_key)?;
        // The check is passed only with a uid.
        let Some(uid) = facts.uid else {
            return Err(Preflight::NotRegistered { netuid, hotkey: facts.hotkey }.into());
        };
        let call = set_weights_call(netuid, weights, version_key);
        let included = self.submit(&call, keypair).await?;
        let Included { block, hash, extrinsic } = included;
        let deadline = Instant::now() + PROOF_PATIENCE;
        let (stored, updated) = loop {
            match self.weights_in(&included, netuid, uid).await {
                Ok(read) => break read,
                Err(error) => pause_after(error, &included, deadline).await?,
            }
        };
        if updated != block || !same_ratios(weights, &stored) {
            return Err(SubmitError::NotApplied { extrinsic, block });
        }
        Ok(WeightsSet { block, hash, extrinsic, weights: stored })
    }

    /// What decides whether the hotkey of `keypair` may set weights now, for [`check_weights`].
    pub async fn weight_facts(
        &self,
        netuid: Netuid,
        keypair: &Keypair,
    ) -> Result<WeightFacts, SubmitError> {
        weight_facts(&self.newest_at().await?, netuid, keypair).await
    }

    /// The newest block, which includes our own transactions that are not final yet.
    pub(crate) async fn newest_at(&self) -> Result<At, ChainError> {
        let connection = self.connection().await?;
        let block = connection.best().await?;
        Ok(At::new(connection, block))
    }

    pub(crate) async fn at_block_of(&self, included: &Included) -> Result<At, ChainError> {
        let connection = self.connection().await?;
        let block = connection.at(included.hash.into(), included.block.0).await?;
        Ok(At::new(connection, block))
    }

    async fn announced_in(
        &self,
        included: &Included,
        netuid: Netuid,
        keypair: &Keypair,
    ) -> Result<Option<AxonFields>, SubmitError> {
        let at = self.at_block_of(included).await?;
        Ok(serve_facts(&at, netuid, keypair).await?.1)
    }

    /// The weights of `uid` and the block in which they were set.
    async fn weights_in(
        &self,
        included: &Included,
        netuid: Netuid,
        uid: Uid,
    ) -> Result<(Vec<(Uid, u16)>, BlockNumber), SubmitError> {
        let at = self.at_block_of(included).await?;
        Ok((at.weights(netuid, uid).await?, read_rules(&at, netuid).await?.last_update(uid)))
    }
}

fn set_weights_call(netuid: Netuid, weights: &[(Uid, u16)], version_key: u64) -> Call {
    let uids = weights.iter().map(|(uid, _)| uid.key());
    let values = weights.iter().map(|(_, weight)| Value::u128((*weight).into()));
    let arguments = [
        ("netuid", netuid.key()),
        ("dests", Value::unnamed_composite(uids)),
        ("weights", Value::unnamed_composite(values)),
        ("version_key", Value::u128(version_key.into())),
    ];
    Call::new(PALLET, "set_weights", Composite::named(arguments))
}

fn serve_axon_call(netuid: Netuid, axon: Axon) -> Call {
    let AxonFields { version, ip, port, ip_type, protocol } = axon.to_fields();
    let arguments = [
        ("netuid", netuid.key()),
        ("version", Value::u128(version.into())),
        ("ip", Value::u128(ip)),
        ("port", Value::u128(port.into())),
        ("ip_type", Value::u128(ip_type.into())),
        ("protocol", Value::u128(protocol.into())),
        ("placeholder1", Value::u128(0)),
        ("placeholder2", Value::u128(0)),
    ];
    Call::new(PALLET, "serve_axon", Composite::named(arguments))
}

async fn serve_facts(
    at: &At,
    netuid: Netuid,
    keypair: &Keypair,
) -> Result<(ServeFacts, Option<AxonFields>), SubmitError> {
    let hotkey = keypair.hotkey();
    let mut batch = at.batch("reading the announced axon");
    let exists = batch.add("NetworksAdded", [netuid.key()])?;
    let uid = batch.add("Uids", [netuid.key(), hotkey.key()])?;
    let axon = batch.add("Axons", [netuid.key(), hotkey.key()])?;
    let limit = batch.add("ServingRateLimit", [netuid.key()])?;
    let found = batch.fetch().await?;
    if !found.get_or_default::<bool>(exists)? {
        return Err(Preflight::NoSubnet(netuid).into());
    }
    let facts = ServeFacts {
        netuid,
        hotkey,
        next_block: BlockNumber(at.block().block_number() + 1),
        registered: found.get::<u16>(uid)?.is_some(),
        serving_rate_limit: found.get_or_default(limit)?,
        last_served: BlockNumber(
            found.get::<Announced>(axon)?.map_or(0, |announced| announced.block),
        ),
    };
    Ok((facts, found.get(axon)?))
}

async fn weight_facts(
    at: &At,
    netuid: Netuid,
    keypair: &Keypair,
) -> Result<WeightFacts, SubmitError> {
    let hotkey = keypair.hotkey();
    let rules = read_rules(at, netuid).await?;
    if !rules.exists {
        return Err(Preflight::NoSubnet(netuid).into());
    }
    let mut batch = at.batch("reading the hotkey's registration");
    let uid = batch.add("Uids", [netuid.key(), hotkey.key()])?;
    let uid = batch.fetch().await?.get::<u16>(uid)?.map(Uid);
    let stakes = total_stakes(at, netuid, rules.neurons.into()).await?;
    let stake_rao =
        stakes.zip(uid).and_then(|(stakes, uid)| stakes.get(usize::from(uid.0)).copied());
    Ok(WeightFacts {
        netuid,
        hotkey,
        next_block: BlockNumber(at.block().block_number() + 1),
        uid,
        neurons: rules.neurons,
        commit_reveal_enabled: rules.params.commit_reveal_enabled,
        weights_rate_limit: rules.params.weights_rate_limit,
        last_update: uid.map_or(BlockNumber(0), |uid| rules.last_update(uid)),
        weights_version: rules.params.weights_version,
        min_allowed_weights: rules.params.min_allowed_weights,
        max_weights_limit: rules.params.max_weights_limit,
        validator_permit: uid.is_some_and(|uid| rules.has_permit(uid)),
        is_owner: rules.owner == Some(hotkey),
        stake_rao,
        stake_threshold_rao: rules.stake_threshold_rao,
        next_epoch: rules.next_epoch,
    })
}

/// Whether the chain stores what was sent. It scales weights so that the largest is 65535, rounding in its own way.
fn same_ratios(sent: &[(Uid, u16)], stored: &[(Uid, u16)]) -> bool {
    let largest = sent.iter().map(|(_, weight)| *weight).max().unwrap_or(0).max(1);
    let scale = f64::from(u16::MAX) / f64::from(largest);
    sent.len() == stored.len()
        && sent.iter().zip(stored).all(|((uid, weight), (stored_uid, stored_weight))| {
            uid == stored_uid
                && (f64::from(*weight) * scale - f64::from(*stored_weight)).abs() <= 1.0
        })
}

#[cfg(test)]
mod tests {
    use subxt::config::substrate::SpecVersionForRange;
    use subxt::{Metadata, OfflineClient, SubstrateConfig};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::commitments::commit_call;
    use crate::network::{ChainConfig, Network};

    /// What every runtime so far has.
    const ITEMS_OF_SUBNET: [&str; 18] = [
        "NetworksAdded",
        "SubnetworkN",
        "SubnetOwnerHotkey",
        "Tempo",
        "WeightsSetRateLimit",
        "WeightsVersionKey",
        "MinAllowedWeights",
        "MaxWeightsLimit",
        "CommitRevealWeightsEnabled",
        "ServingRateLimit",
        "ImmunityPeriod",
        "ActivityCutoff",
        "ValidatorPermit",
        "Active",
        "LastUpdate",
        "Incentive",
        "Consensus",
        "Dividends",
    ];

    #[test]
    fn every_request_can_run_in_a_task_of_its_own() {
        fn is_send<T: Send>(_: T) {}
        let chain = Chain::new(ChainConfig::new(Network::Local)).unwrap();
        let alice = Keypair::development("Alice");
        is_send(chain.set_weights(Netuid(1), &[], 0, &alice));
        is_send(chain.serve_axon(Netuid(1), Axon::local(1), &alice));
        is_send(chain.weight_facts(Netuid(1), &alice));
        is_send(chain.commit(Netuid(1), &alice, &[]));
        is_send(chain.commitments(Netuid(1)));
        is_send(chain.metagraph(Netuid(1)));
        is_send(chain.follow(CancellationToken::new()));
    }

    #[test]
    fn stored_weights_prove_only_what_was_sent() {
        let sent = [(Uid(1), 30_000), (Uid(4), 10_000)];
        assert!(same_ratios(&sent, &[(Uid(1), 65535), (Uid(4), 21845)]));
        assert!(!same_ratios(&sent, &[(Uid(1), 65535), (Uid(5), 21845)]));
        assert!(!same_ratios(&sent, &[(Uid(1), 65535), (Uid(4), 21000)]));
        assert!(!same_ratios(&sent, &[(Uid(1), 65535)]));
        assert!(same_ratios(&[(Uid(0), 65535)], &[(Uid(0), 65535)]));
    }

    /// Checks what this crate sends and reads against the main network's metadata, when a file with it is at hand.
    #[test]
    fn calls_and_storage_fit_the_main_network() {
        let Some(path) = std::env::var_os("TOUCHSTONE_FINNEY_METADATA") else { return };
        let metadata = Metadata::decode_from(&std::fs::read(path).unwrap()).unwrap();
        let ranges =
            SpecVersionForRange { block_range: 0..1, spec_version: 365, transaction_version: 1 };
        let config = SubstrateConfig::builder()
            .set_spec_version_for_block_ranges([ranges])
            .set_metadata_for_spec_versions([(365, metadata.arc())])
            .build();
        let at = OfflineClient::new_with_config(config).at_block(0_u64).unwrap();

        let data = |call| at.transactions().call_data(&call).unwrap();
        let mut set_weights = vec![7, 0, 19, 0];
        set_weights.extend([4, 2, 1, 4, 0xff, 0xff, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(data(set_weights_call(Netuid(19), &[(Uid(258), 65535)], 5)), set_weights);
        let mut serve_axon = vec![7, 4, 19, 0, 1, 0, 0, 0, 8, 8, 8, 8];
        serve_axon.extend([0; 12]);
        serve_axon.extend([0x9b, 0x1f, 4, 4, 0, 0]);
        assert_eq!(
            data(serve_axon_call(Netuid(19), Axon::at(([8, 8, 8, 8], 8091).into()))),
            serve_axon
        );
        let commitment = [18, 0, 19, 0, 4, 4, 1, 2, 3];
        assert_eq!(data(commit_call(Netuid(19), &[1, 2, 3])), commitment);

        let number = || Value::u128(1);
        let account = || Value::from_bytes([1; 32]);
        let has_in = |pallet: &str, item: &str, keys: Vec<Value>| {
            let entry = at
                .storage()
                .entry(subxt::dynamic::storage::<Vec<Value>, Value>(pallet, item))
                .unwrap();
            entry.fetch_key(keys).unwrap_or_else(|error| panic!("{item}: {error}"));
        };
        let has = |item: &str, keys: Vec<Value>| has_in(PALLET, item, keys);
        for item in ITEMS_OF_SUBNET {
            has(item, vec![number()]);
        }
        for item in ["TaoWeight", "StakeThreshold"] {
            has(item, vec![]);
        }
        for item in ["Keys", "BlockAtRegistration", "Weights"] {
            has(item, vec![number(), number()]);
        }
        for item in ["Axons", "Uids"] {
            has(item, vec![number(), account()]);
        }
        has("TotalHotkeyAlpha", vec![account(), number()]);
        has("Owner", vec![account()]);
        has_in("Commitments", "CommitmentOf", vec![number(), account()]);
    }
}
