//! Reading what decides about weights: everything at one block.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::Duration;

use common::{BlockNumber, Hotkey, MechanismId, Netuid, Uid};
use subxt::dynamic::Value;
use subxt::ext::scale_decode::DecodeAsType;
use timelock::Beacon;

use crate::client::{Chain, block_time};
use crate::error::ChainError;
use crate::metagraph::{read_rules, total_stakes};
use crate::preflight::{Preflight, REVEAL_CALLS, WEIGHT_CALLS, WeightFacts};
use crate::signed::SubmitError;
use crate::storage::{At, Found, Key as _, PALLET, Slot, storage_index};

const DOING: &str = "reading what decides about weights";

/// A time-locked commit as the chain keeps it: whose, since which block, the ciphertext, the round.
pub(crate) type TimelockedCommit = ([u8; 32], u64, Vec<u8>, u64);
/// A commit by hash as the chain keeps it; the numbers mean other things on older and newer runtimes.
pub(crate) type HashedCommit = ([u8; 32], u64, u64, u64);

/// What the chain says about the random beacon; other fields are skipped.
#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct BeaconConfig {
    public_key: Vec<u8>,
    period: u32,
    genesis_time: u32,
}

impl BeaconConfig {
    fn beacon(&self) -> Option<Beacon> {
        let key = self.public_key.as_slice().try_into().ok()?;
        Beacon::new(key, self.genesis_time.into(), NonZeroU64::new(self.period.into())?).ok()
    }
}

impl Chain {
    /// What decides whether and how a hotkey may set weights now, for [`choose_way`](crate::choose_way) and
    /// [`check_weights`](crate::check_weights).
    ///
    /// # Errors
    /// If the chain cannot be asked, or the subnet or mechanism does not exist.
    pub async fn weight_facts(
        &self,
        netuid: Netuid,
        mechanism: MechanismId,
        hotkey: Hotkey,
    ) -> Result<WeightFacts, SubmitError> {
        read(&self.newest_at().await?, netuid, mechanism, hotkey).await
    }
}

pub(crate) async fn read(
    at: &At,
    netuid: Netuid,
    mechanism: MechanismId,
    hotkey: Hotkey,
) -> Result<WeightFacts, SubmitError> {
    let rules = read_rules(at, netuid).await?;
    if !rules.exists {
        return Err(Preflight::NoSubnet(netuid).into());
    }
    let mut batch = at.batch(DOING);
    let uid = batch.add("Uids", [netuid.key(), hotkey.key()])?;
    let mechanisms = batch.add("MechanismCountCurrent", [netuid.key()])?;
    let commit_version = batch.add("CommitRevealWeightsVersion", [])?;
    let reveal_period = batch.add("RevealPeriodEpochs", [netuid.key()])?;
    let now = batch.add_of("Timestamp", "Now", [])?;
    let beacon = batch.add_of("Drand", "BeaconConfig", [])?;
    let newest_round = batch.add_of("Drand", "LastStoredRound", [])?;
    let index = storage_index(netuid, mechanism).map(|index| Value::u128(index.into()));
    let last_update = index.clone().map(|index| batch.add("LastUpdate", [index])).transpose()?;
    let epoch = rules.clock.epoch().map(|epoch| Value::u128(epoch.into()));
    let commits = index.zip(epoch).map(|(index, epoch)| batch.add(TIMELOCKED, [index, epoch]));
    let commits = commits.transpose()?;
    let found = batch.fetch().await?;

    let mechanisms = found.get::<u8>(mechanisms)?.unwrap_or(1);
    let Some(last_update) = last_update.filter(|_| mechanism.0 < mechanisms) else {
        return Err(Preflight::NoMechanism { netuid, mechanism, count: mechanisms }.into());
    };
    let uid = found.get::<u16>(uid)?.map(Uid);
    let of_uid = |values: Vec<u64>| uid.and_then(|uid| values.get(usize::from(uid.0)).copied());
    let last_update = found.get_or_default::<Vec<u64>>(last_update)?;
    let stakes = total_stakes(at, netuid, rules.neurons.into()).await?;
    Ok(WeightFacts {
        netuid,
        mechanism,
        hotkey,
        head: BlockNumber(at.block().block_number()),
        now: Duration::from_millis(found.get_or_default(now)?),
        block_time: block_time(at.block()),
        uid,
        neurons: rules.neurons,
        mechanisms,
        calls: calls(at),
        commit_reveal_enabled: rules.params.commit_reveal_enabled,
        commit_version: found.get_or_default(commit_version)?,
        reveal_period: found.get::<u64>(reveal_period)?.unwrap_or(1),
        clock: rules.clock,
        beacon: found.get::<BeaconConfig>(beacon)?.and_then(|config| config.beacon()),
        newest_round: found.get::<u64>(newest_round)?.filter(|round| *round > 0),
        unrevealed: own_commits(&found, commits, hotkey)?.count(),
        weights_rate_limit: rules.params.weights_rate_limit,
        last_update: BlockNumber(of_uid(last_update).unwrap_or(0)),
        weights_version: rules.params.weights_version,
        min_allowed_weights: rules.params.min_allowed_weights,
        max_weights_limit: rules.params.max_weights_limit,
        validator_permit: uid.is_some_and(|uid| rules.has_permit(uid)),
        is_owner: rules.owner == Some(hotkey),
        stake_rao: stakes.and_then(of_uid),
        stake_threshold_rao: rules.stake_threshold_rao,
    })
}

/// The storage of time-locked commits, by mechanism and epoch.
pub(crate) const TIMELOCKED: &str = "TimelockedWeightCommits";

/// The commits of a hotkey among those of all validators.
pub(crate) fn own_commits(
    found: &Found<'_>,
    slot: Option<Slot>,
    hotkey: Hotkey,
) -> Result<impl Iterator<Item = TimelockedCommit>, ChainError> {
    let all: Option<Vec<TimelockedCommit>> =
        slot.map(|slot| found.get(slot)).transpose()?.flatten();
    let own = move |commit: &TimelockedCommit| commit.0 == *hotkey.as_bytes();
    Ok(all.into_iter().flatten().filter(own))
}

fn calls(at: &At) -> BTreeSet<&'static str> {
    let Some(pallet) = at.block().metadata_ref().pallet_by_name(PALLET) else {
        return BTreeSet::new();
    };
    let names = WEIGHT_CALLS.iter().flat_map(|(_, any, first)| [*any, *first]);
    let names = names.chain([REVEAL_CALLS.0, REVEAL_CALLS.1]);
    names.filter(|name| pallet.call_variant_by_name(name).is_some()).collect()
}
