//! A subnet at one block: its neurons and its rules.

use common::{BlockNumber, Hotkey, Netuid, Uid};
use subxt::dynamic::Value;
use subxt::ext::scale_decode::DecodeAsType;

use crate::axon::{Axon, AxonFields};
use crate::client::head;
use crate::epochs::{EpochClock, EpochRule, Schedule};
use crate::error::{BlockHash, ChainError};
use crate::storage::{At, Found, Key as _, Slot};

const DOING: &str = "reading the metagraph";
/// The chain counts in rao; 10⁹ of them are one TAO.
const RAO_PER_TAO: f64 = 1e9;
/// The root network, where TAO itself is staked.
const ROOT: Netuid = Netuid(0);
/// More neurons than any subnet may have: a bound on what one answer makes us read.
pub(crate) const MAX_NEURONS: u16 = 4096;

/// A subnet, read at one block.
#[derive(Debug, Clone, PartialEq)]
pub struct Metagraph {
    pub block: BlockNumber,
    pub block_hash: BlockHash,
    pub netuid: Netuid,
    /// By uid: neuron `i` has uid `i`.
    pub neurons: Vec<Neuron>,
    pub params: Hyperparameters,
    /// The block in which the next epoch runs, if nothing changes until then. `None` while the subnet has no epochs.
    pub next_epoch: Option<BlockNumber>,
    /// The hotkey of the subnet's owner.
    pub owner: Option<Hotkey>,
}

/// A miner or validator.
#[derive(Debug, Clone, PartialEq)]
pub struct Neuron {
    pub uid: Uid,
    pub hotkey: Hotkey,
    /// The account that owns the hotkey.
    pub coldkey: Option<Hotkey>,
    /// Where it serves, as it says itself: check it with [`check_reachable`](crate::axon::check_reachable).
    pub axon: Option<Axon>,
    /// The stake weight in TAO: the subnet's own token plus TAO on the root network times the chain's `TaoWeight`.
    pub stake: f64,
    pub validator_permit: bool,
    /// Whether it has set weights recently enough to count.
    pub active: bool,
    /// The block in which it last set weights; 0 is never.
    pub last_update: BlockNumber,
    pub registered_at: BlockNumber,
    /// Its share of the miners' reward in the last epoch, relative, in `0.0..=1.0`.
    pub incentive: f64,
    /// What validators agreed on, in `0.0..=1.0`.
    pub consensus: f64,
    /// Its share of the validators' reward in the last epoch, relative, in `0.0..=1.0`.
    pub dividends: f64,
}

/// The rules of a subnet. Spans are in blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyperparameters {
    pub tempo: u16,
    /// The least distance between two settings of weights by the same neuron.
    pub weights_rate_limit: u64,
    /// The oldest version key that is accepted; 0 accepts all.
    pub weights_version: u64,
    pub min_allowed_weights: u16,
    /// The largest share of one weight, in 65535ths; 65535 is no limit.
    pub max_weights_limit: u16,
    /// Weights must be committed in secret first and cannot be set directly.
    pub commit_reveal_enabled: bool,
    /// The least distance between two announcements of the same axon; 0 is no limit.
    pub serving_rate_limit: u64,
    pub immunity_period: u16,
    /// A validator that has set no weights for this long does not count.
    pub activity_cutoff: u64,
    /// The stake weight, in TAO, from which a neuron may set weights.
    pub stake_threshold: f64,
}

impl Metagraph {
    /// The neuron of a hotkey.
    pub fn neuron(&self, hotkey: &Hotkey) -> Option<&Neuron> {
        self.neurons.iter().find(|neuron| neuron.hotkey == *hotkey)
    }
}

/// The rules, and what else is read of a subnet as a whole.
pub(crate) struct Rules {
    pub(crate) params: Hyperparameters,
    pub(crate) stake_threshold_rao: u64,
    pub(crate) exists: bool,
    pub(crate) neurons: u16,
    pub(crate) owner: Option<Hotkey>,
    pub(crate) clock: EpochClock,
    tao_weight: u64,
    validator_permit: Vec<bool>,
    active: Vec<bool>,
    last_update: Vec<u64>,
    incentive: Vec<u16>,
    consensus: Vec<u16>,
    dividends: Vec<u16>,
}

impl Rules {
    pub(crate) fn has_permit(&self, uid: Uid) -> bool {
        at(&self.validator_permit, uid)
    }

    pub(crate) fn last_update(&self, uid: Uid) -> BlockNumber {
        BlockNumber(at(&self.last_update, uid))
    }
}

/// Reads the rules of a subnet in one request.
pub(crate) async fn read_rules(at: &At, netuid: Netuid) -> Result<Rules, ChainError> {
    let mut batch = at.batch(DOING);
    let mut of_subnet = |item| batch.add(item, [netuid.key()]);
    let exists = of_subnet("NetworksAdded")?;
    let neurons = of_subnet("SubnetworkN")?;
    let owner = of_subnet("SubnetOwnerHotkey")?;
    let tempo = of_subnet("Tempo")?;
    let weights_rate_limit = of_subnet("WeightsSetRateLimit")?;
    let weights_version = of_subnet("WeightsVersionKey")?;
    let min_allowed_weights = of_subnet("MinAllowedWeights")?;
    let max_weights_limit = of_subnet("MaxWeightsLimit")?;
    let commit_reveal = of_subnet("CommitRevealWeightsEnabled")?;
    let serving_rate_limit = of_subnet("ServingRateLimit")?;
    let immunity_period = of_subnet("ImmunityPeriod")?;
    let activity_cutoff = of_subnet("ActivityCutoff")?;
    let activity_factor = of_subnet("ActivityCutoffFactorMilli")?;
    let validator_permit = of_subnet("ValidatorPermit")?;
    let active = of_subnet("Active")?;
    let last_update = of_subnet("LastUpdate")?;
    let incentive = of_subnet("Incentive")?;
    let consensus = of_subnet("Consensus")?;
    let dividends = of_subnet("Dividends")?;
    let last_epoch = of_subnet("LastEpochBlock")?;
    let pending_epoch = of_subnet("PendingEpochAt")?;
    let epoch_index = of_subnet("SubnetEpochIndex")?;
    let idle_blocks = of_subnet("BlocksSinceLastStep")?;
    let tao_weight = batch.add("TaoWeight", [])?;
    let stake_threshold = batch.add("StakeThreshold", [])?;
    let found = batch.fetch().await?;

    let tempo: u16 = found.get_or_default(tempo)?;
    let activity_cutoff = match found.get::<u64>(activity_cutoff)? {
        Some(blocks) => blocks,
        None => found.get_or_default::<u64>(activity_factor)?.saturating_mul(tempo.into()) / 1000,
    };
    // Which of the two ways of placing epochs the runtime has is told by whether it counts them.
    let rule = match found.get::<u64>(epoch_index)? {
        Some(index) => EpochRule::Scheduler(Schedule {
            last_epoch: BlockNumber(found.get_or_default(last_epoch)?),
            pending_at: BlockNumber(found.get_or_default(pending_epoch)?),
            index,
            idle_blocks: found.get_or_default(idle_blocks)?,
        }),
        None => EpochRule::Modulo,
    };
    let head = BlockNumber(at.block().block_number());
    let stake_threshold_rao = found.get_or_default(stake_threshold)?;
    Ok(Rules {
        params: Hyperparameters {
            tempo,
            weights_rate_limit: found.get_or_default(weights_rate_limit)?,
            weights_version: found.get_or_default(weights_version)?,
            min_allowed_weights: found.get_or_default(min_allowed_weights)?,
            max_weights_limit: found.get(max_weights_limit)?.unwrap_or(u16::MAX),
            commit_reveal_enabled: found.get_or_default(commit_reveal)?,
            serving_rate_limit: found.get_or_default(serving_rate_limit)?,
            immunity_period: found.get_or_default(immunity_period)?,
            activity_cutoff,
            stake_threshold: tao(stake_threshold_rao),
        },
        stake_threshold_rao,
        exists: found.get_or_default(exists)?,
        neurons: found.get_or_default::<u16>(neurons)?.min(MAX_NEURONS),
        owner: found.account(owner)?,
        clock: EpochClock { netuid, tempo, head, rule },
        tao_weight: found.get_or_default(tao_weight)?,
        validator_permit: found.get_or_default(validator_permit)?,
        active: found.get_or_default(active)?,
        last_update: found.get_or_default(last_update)?,
        incentive: found.get_or_default(incentive)?,
        consensus: found.get_or_default(consensus)?,
        dividends: found.get_or_default(dividends)?,
    })
}

/// Reads a subnet in a handful of requests, however many neurons it has.
pub(crate) async fn read(at: &At, netuid: Netuid) -> Result<Metagraph, ChainError> {
    let rules = read_rules(at, netuid).await?;
    if !rules.exists {
        return Err(ChainError::NoSubnet(netuid));
    }
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
    let exact_stakes = total_stakes(at, netuid, registered.len()).await?;
    let mut neurons = Vec::with_capacity(registered.len());
    for ((index, (uid, hotkey, registered_at)), slots) in
        registered.into_iter().enumerate().zip(slots)
    {
        let stake = match &exact_stakes {
            Some(stakes) => stakes[index] as f64 / RAO_PER_TAO,
            None => slots.stake_weight(&found, rules.tao_weight)?,
        };
        neurons.push(Neuron {
            uid,
            hotkey,
            coldkey: found.account(slots.coldkey)?,
            axon: found.get::<AxonFields>(slots.axon)?.as_ref().and_then(Axon::from_fields),
            stake,
            validator_permit: rules.has_permit(uid),
            active: self::at(&rules.active, uid),
            last_update: rules.last_update(uid),
            registered_at,
            incentive: share(&rules.incentive, uid),
            consensus: share(&rules.consensus, uid),
            dividends: share(&rules.dividends, uid),
        });
    }
    let head = head(at.block());
    Ok(Metagraph {
        block: head.number,
        block_hash: head.hash,
        netuid,
        neurons,
        params: rules.params,
        next_epoch: rules.clock.next_epoch(),
        owner: rules.owner,
    })
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

/// What `get_selective_metagraph` returns; its many other fields are skipped.
#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct SelectiveMetagraph {
    total_stake: Option<Vec<u64>>,
}

/// The index of the field `total_stake` in the request for a selective metagraph.
const TOTAL_STAKE: u128 = 69;

/// The stake weights in rao by uid as the runtime itself counts them, where it offers to.
pub(crate) async fn total_stakes(
    at: &At,
    netuid: Netuid,
    neurons: usize,
) -> Result<Option<Vec<u64>>, ChainError> {
    let arguments = vec![netuid.key(), Value::unnamed_composite([Value::u128(TOTAL_STAKE)])];
    let answer: Option<Option<SelectiveMetagraph>> =
        at.call("SubnetInfoRuntimeApi", "get_selective_metagraph", arguments, DOING).await?;
    let stakes = answer.flatten().and_then(|metagraph| metagraph.total_stake);
    Ok(stakes.filter(|stakes| stakes.len() == neurons))
}

fn at<T: Copy + Default>(values: &[T], uid: Uid) -> T {
    values.get(usize::from(uid.0)).copied().unwrap_or_default()
}

fn share(values: &[u16], uid: Uid) -> f64 {
    f64::from(at(values, uid)) / f64::from(u16::MAX)
}

fn tao(rao: u64) -> f64 {
    rao as f64 / RAO_PER_TAO
}
