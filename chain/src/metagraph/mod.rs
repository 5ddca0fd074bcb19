//! A subnet at one block: its neurons and its rules.

mod rules;
mod selective;
mod stored;

use common::{BlockNumber, Hotkey, Netuid, Uid};

use crate::axon::Axon;
use crate::client::head;
use crate::error::{BlockHash, ChainError};
use crate::storage::At;

pub(crate) use rules::read_rules;
pub(crate) use selective::total_stakes;

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

/// Reads a subnet: in two requests where the runtime puts neurons together by itself, else in a handful.
pub(crate) async fn read(at: &At, netuid: Netuid) -> Result<Metagraph, ChainError> {
    let rules = read_rules(at, netuid).await?;
    if !rules.exists {
        return Err(ChainError::NoSubnet(netuid));
    }
    let neurons = match selective::neurons(at, netuid, rules.neurons).await? {
        Some(neurons) => neurons,
        None => stored::neurons(at, netuid, &rules).await?,
    };
    let head = head(at.block());
    Ok(Metagraph {
        block: head.number,
        block_hash: head.hash,
        netuid,
        neurons,
        next_epoch: rules.clock.next_epoch(),
        owner: rules.owner,
        params: rules.params,
    })
}

fn share(of_65535: u16) -> f64 {
    f64::from(of_65535) / f64::from(u16::MAX)
}

fn tao(rao: u64) -> f64 {
    rao as f64 / RAO_PER_TAO
}
