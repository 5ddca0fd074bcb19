//! The rules of a subnet, and what else the chain keeps of it as a whole: one request.

use common::{BlockNumber, Hotkey, Netuid, Uid};

use super::{DOING, Hyperparameters, MAX_NEURONS, tao};
use crate::epochs::{EpochClock, EpochRule, Schedule};
use crate::error::ChainError;
use crate::storage::{At, Key as _};

/// The rules, and what else is read of a subnet as a whole.
pub(crate) struct Rules {
    pub(crate) params: Hyperparameters,
    pub(crate) stake_threshold_rao: u64,
    pub(crate) exists: bool,
    pub(crate) neurons: u16,
    pub(crate) owner: Option<Hotkey>,
    pub(crate) clock: EpochClock,
    pub(super) tao_weight: u64,
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

    /// What is kept in columns, for one neuron.
    pub(super) fn row(&self, uid: Uid) -> Row {
        Row {
            active: at(&self.active, uid),
            last_update: BlockNumber(at(&self.last_update, uid)),
            incentive: at(&self.incentive, uid),
            consensus: at(&self.consensus, uid),
            dividends: at(&self.dividends, uid),
        }
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

/// A neuron's places in the columns of the subnet.
pub(super) struct Row {
    pub(super) active: bool,
    pub(super) last_update: BlockNumber,
    pub(super) incentive: u16,
    pub(super) consensus: u16,
    pub(super) dividends: u16,
}

fn at<T: Copy + Default>(values: &[T], uid: Uid) -> T {
    values.get(usize::from(uid.0)).copied().unwrap_or_default()
}
