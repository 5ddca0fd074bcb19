//! What the chain would refuse, found out before anything is signed.
//!
//! Pure: the facts of one block go in, a reason comes out. The checks and their order are those of the runtime.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{BlockNumber, Hotkey, Netuid, Uid};

use crate::axon::Axon;
use crate::commitments::MAX_COMMITMENT_BYTES;

/// What decides whether a hotkey may set weights, read at one block.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightFacts {
    pub netuid: Netuid,
    pub hotkey: Hotkey,
    /// The first block that a transaction sent now can be in.
    pub next_block: BlockNumber,
    /// `None` when the hotkey is not registered on the subnet.
    pub uid: Option<Uid>,
    /// How many neurons the subnet has.
    pub neurons: u16,
    pub commit_reveal_enabled: bool,
    pub weights_rate_limit: u64,
    /// The block in which the hotkey last set weights; 0 is never.
    pub last_update: BlockNumber,
    pub weights_version: u64,
    pub min_allowed_weights: u16,
    pub max_weights_limit: u16,
    pub validator_permit: bool,
    /// The subnet's owner needs neither stake nor permit.
    pub is_owner: bool,
    /// The stake weight in rao; `None` when only the chain itself can tell.
    pub stake_rao: Option<u64>,
    pub stake_threshold_rao: u64,
    /// When permits are given out next.
    pub next_epoch: Option<BlockNumber>,
}

/// What decides whether a hotkey may announce an axon, read at one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServeFacts {
    pub netuid: Netuid,
    pub hotkey: Hotkey,
    /// The first block that a transaction sent now can be in.
    pub next_block: BlockNumber,
    pub registered: bool,
    pub serving_rate_limit: u64,
    /// The block of the hotkey's last announcement; 0 is never.
    pub last_served: BlockNumber,
}

/// What decides whether a hotkey may publish a commitment, read at one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CommitFacts {
    pub netuid: Netuid,
    pub hotkey: Hotkey,
    /// Whether there is such a subnet.
    pub exists: bool,
    pub registered: bool,
}

/// Why a transaction is not worth sending.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Preflight {
    #[error("weights are not set on the root network in this way")]
    RootNetwork,
    #[error("there is no subnet {0} on this chain")]
    NoSubnet(Netuid),
    #[error("subnet {0} accepts only weights that are committed in secret first (commit-reveal)")]
    CommitReveal(Netuid),
    #[error(
        "hotkey {hotkey} is not registered on subnet {netuid}: register it with its coldkey first"
    )]
    NotRegistered { netuid: Netuid, hotkey: Hotkey },
    #[error("the hotkey's stake weight is {:.3} TAO; setting weights needs {:.3}", tao(*.rao), tao(*.needed_rao))]
    TooLittleStake { rao: u64, needed_rao: u64 },
    #[error(
        "the version key {given} is too old: the subnet asks for {required} or newer. Is an update due?"
    )]
    OldVersion { given: u64, required: u64 },
    #[error(
        "weights were set in block {last}; the subnet allows it again from block {allowed_from}"
    )]
    TooFast { last: BlockNumber, allowed_from: BlockNumber },
    #[error(
        "the hotkey has no validator permit: it is given to the neurons with the most stake{}",
        .next_epoch.map(|block| format!(", next in block {block}")).unwrap_or_default()
    )]
    NoPermit { next_epoch: Option<BlockNumber> },
    #[error("there is no weight to set")]
    NoWeights,
    #[error("uid {0} appears twice")]
    DuplicateUid(Uid),
    #[error("uid {uid} does not exist: the subnet has {neurons} neurons")]
    UnknownUid { uid: Uid, neurons: u16 },
    #[error("{given} weights are too few: the subnet asks for at least {needed}")]
    TooFewWeights { given: usize, needed: u16 },
    #[error("uid {uid} has {share} 65535ths of all weight; the subnet allows at most {limit}")]
    WeightTooLarge { uid: Uid, share: u64, limit: u16 },
    #[error(
        "the chain stores no axon at {0}. On a local chain announce 0.0.0.1, which stands for this machine"
    )]
    BadAddress(IpAddr),
    #[error("a commitment has at most {MAX_COMMITMENT_BYTES} bytes, this one has {0}")]
    CommitmentTooLong(usize),
    #[error("an axon needs a port that is not 0")]
    NoPort,
    #[error(
        "an axon was announced in block {last}; the subnet allows it again from block {allowed_from}"
    )]
    ServedTooRecently { last: BlockNumber, allowed_from: BlockNumber },
}

impl Preflight {
    /// The block from which the same transaction may be allowed, where only time stands in the way.
    pub fn allowed_from(&self) -> Option<BlockNumber> {
        match self {
            Self::TooFast { allowed_from, .. } | Self::ServedTooRecently { allowed_from, .. } => {
                Some(*allowed_from)
            }
            Self::NoPermit { next_epoch } => *next_epoch,
            _ => None,
        }
    }
}

/// Whether the chain would accept these weights in the next block.
pub fn check_weights(
    facts: &WeightFacts,
    weights: &[(Uid, u16)],
    version_key: u64,
) -> Result<(), Preflight> {
    if facts.commit_reveal_enabled {
        return Err(Preflight::CommitReveal(facts.netuid));
    }
    if facts.netuid == Netuid(0) {
        return Err(Preflight::RootNetwork);
    }
    let Some(own) = facts.uid else {
        return Err(Preflight::NotRegistered { netuid: facts.netuid, hotkey: facts.hotkey });
    };
    if let Some(rao) = facts.stake_rao
        && rao < facts.stake_threshold_rao
        && !facts.is_owner
    {
        return Err(Preflight::TooLittleStake { rao, needed_rao: facts.stake_threshold_rao });
    }
    if version_key < facts.weights_version {
        return Err(Preflight::OldVersion { given: version_key, required: facts.weights_version });
    }
    if let Some(allowed_from) =
        blocked_until(facts.last_update, facts.weights_rate_limit, facts.next_block)
    {
        return Err(Preflight::TooFast { last: facts.last_update, allowed_from });
    }
    let is_self_weight = matches!(weights, [(uid, _)] if *uid == own);
    if !(facts.validator_permit || facts.is_owner || is_self_weight) {
        return Err(Preflight::NoPermit { next_epoch: facts.next_epoch });
    }
    let mut seen = BTreeSet::new();
    if let Some((uid, _)) = weights.iter().find(|(uid, _)| !seen.insert(*uid)) {
        return Err(Preflight::DuplicateUid(*uid));
    }
    if let Some((uid, _)) = weights.iter().find(|(uid, _)| uid.0 >= facts.neurons) {
        return Err(Preflight::UnknownUid { uid: *uid, neurons: facts.neurons });
    }
    let needed = facts.min_allowed_weights.min(facts.neurons);
    if weights.len() < needed.into() && !is_self_weight {
        return Err(Preflight::TooFewWeights { given: weights.len(), needed });
    }
    let Some(&(uid, largest)) =
        weights.iter().max_by_key(|(_, weight)| weight).filter(|(_, weight)| *weight > 0)
    else {
        return Err(Preflight::NoWeights);
    };
    let sum: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let share = (u64::from(largest) * u64::from(u16::MAX)).div_ceil(sum);
    if share > facts.max_weights_limit.into() && !is_self_weight {
        return Err(Preflight::WeightTooLarge { uid, share, limit: facts.max_weights_limit });
    }
    Ok(())
}

/// Whether the chain would accept this commitment in the next block. How much a hotkey may publish between two epochs is
/// left for the chain to judge.
pub fn check_commit(facts: &CommitFacts, bytes: &[u8]) -> Result<(), Preflight> {
    if !facts.exists {
        return Err(Preflight::NoSubnet(facts.netuid));
    }
    if !facts.registered {
        return Err(Preflight::NotRegistered { netuid: facts.netuid, hotkey: facts.hotkey });
    }
    if bytes.len() > MAX_COMMITMENT_BYTES {
        return Err(Preflight::CommitmentTooLong(bytes.len()));
    }
    Ok(())
}

/// Whether the chain would accept this axon in the next block.
pub fn check_serve(facts: &ServeFacts, axon: &Axon) -> Result<(), Preflight> {
    if !facts.registered {
        return Err(Preflight::NotRegistered { netuid: facts.netuid, hotkey: facts.hotkey });
    }
    let refused: [IpAddr; 4] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::BROADCAST.into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::from(u128::MAX).into(),
    ];
    // The chain takes 0 to mean "nowhere", which is no use to announce.
    if refused.contains(&axon.ip) || axon.ip.is_unspecified() {
        return Err(Preflight::BadAddress(axon.ip));
    }
    if axon.port == 0 {
        return Err(Preflight::NoPort);
    }
    match blocked_until(facts.last_served, facts.serving_rate_limit, facts.next_block) {
        Some(allowed_from) => {
            Err(Preflight::ServedTooRecently { last: facts.last_served, allowed_from })
        }
        None => Ok(()),
    }
}

/// The block from which something done in block `last` may be done again, if that is after `next`.
fn blocked_until(last: BlockNumber, limit: u64, next: BlockNumber) -> Option<BlockNumber> {
    let allowed_from = BlockNumber(last.0.saturating_add(limit));
    (last.0 > 0 && allowed_from > next).then_some(allowed_from)
}

fn tao(rao: u64) -> f64 {
    rao as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use common::Keypair;

    use super::*;

    fn facts() -> WeightFacts {
        WeightFacts {
            netuid: Netuid(19),
            hotkey: Keypair::development("Alice").hotkey(),
            next_block: BlockNumber(1000),
            uid: Some(Uid(0)),
            neurons: 4,
            commit_reveal_enabled: false,
            weights_rate_limit: 100,
            last_update: BlockNumber(900),
            weights_version: 3,
            min_allowed_weights: 2,
            max_weights_limit: u16::MAX,
            validator_permit: true,
            is_owner: false,
            stake_rao: Some(1_000),
            stake_threshold_rao: 1_000,
            next_epoch: Some(BlockNumber(1010)),
        }
    }

    const WEIGHTS: [(Uid, u16); 2] = [(Uid(1), 65535), (Uid(2), 32768)];

    #[test]
    fn weights_that_the_chain_accepts_pass() {
        assert_eq!(check_weights(&facts(), &WEIGHTS, 3), Ok(()));
    }

    #[test]
    fn every_refusal_has_its_reason() {
        use Preflight::*;
        let refusal = |facts: WeightFacts| check_weights(&facts, &WEIGHTS, 3).unwrap_err();
        assert_eq!(
            refusal(WeightFacts { commit_reveal_enabled: true, ..facts() }),
            CommitReveal(Netuid(19))
        );
        assert_eq!(refusal(WeightFacts { netuid: Netuid(0), ..facts() }), RootNetwork);
        assert!(matches!(refusal(WeightFacts { uid: None, ..facts() }), NotRegistered { .. }));
        let poor = WeightFacts { stake_rao: Some(999), ..facts() };
        assert_eq!(refusal(poor), TooLittleStake { rao: 999, needed_rao: 1_000 });
        let newer = WeightFacts { weights_version: 4, ..facts() };
        assert_eq!(refusal(newer), OldVersion { given: 3, required: 4 });
        let no_permit = WeightFacts { validator_permit: false, ..facts() };
        assert_eq!(refusal(no_permit).allowed_from(), Some(BlockNumber(1010)));
        assert!(matches!(
            refusal(WeightFacts { neurons: 2, ..facts() }),
            UnknownUid { uid: Uid(2), neurons: 2 }
        ));
        let many = WeightFacts { min_allowed_weights: 3, ..facts() };
        assert_eq!(refusal(many), TooFewWeights { given: 2, needed: 3 });
        let flat = WeightFacts { max_weights_limit: 40_000, ..facts() };
        assert_eq!(refusal(flat), WeightTooLarge { uid: Uid(1), share: 43_690, limit: 40_000 });
        let twice = [(Uid(1), 1), (Uid(1), 2)];
        assert_eq!(check_weights(&facts(), &twice, 3), Err(DuplicateUid(Uid(1))));
        assert_eq!(check_weights(&facts(), &[(Uid(1), 0), (Uid(2), 0)], 3), Err(NoWeights));
    }

    #[test]
    fn too_early_names_the_first_block_that_will_do() {
        let early = WeightFacts { last_update: BlockNumber(901), ..facts() };
        let refusal = check_weights(&early, &WEIGHTS, 3).unwrap_err();
        assert_eq!(refusal.allowed_from(), Some(BlockNumber(1001)));
        assert!(refusal.to_string().contains("from block 1001"), "{refusal}");
        let never =
            WeightFacts { last_update: BlockNumber(0), weights_rate_limit: 5000, ..facts() };
        assert_eq!(check_weights(&never, &WEIGHTS, 3), Ok(()));
    }

    #[test]
    fn the_owner_and_self_weights_are_exempt() {
        let owner =
            WeightFacts { is_owner: true, stake_rao: Some(0), validator_permit: false, ..facts() };
        assert_eq!(check_weights(&owner, &WEIGHTS, 3), Ok(()));
        let powerless = WeightFacts { validator_permit: false, max_weights_limit: 10, ..facts() };
        assert_eq!(check_weights(&powerless, &[(Uid(0), 65535)], 3), Ok(()));
    }

    #[test]
    fn an_axon_is_refused_for_what_the_chain_refuses() {
        let facts = ServeFacts {
            netuid: Netuid(19),
            hotkey: Keypair::development("Alice").hotkey(),
            next_block: BlockNumber(100),
            registered: true,
            serving_rate_limit: 50,
            last_served: BlockNumber(50),
        };
        let axon = |text: &str| Axon::at(text.parse().unwrap());
        assert_eq!(check_serve(&facts, &axon("8.8.8.8:8091")), Ok(()));
        assert_eq!(check_serve(&facts, &Axon::local(8091)), Ok(()));
        for address in ["127.0.0.1:1", "255.255.255.255:1", "[::1]:1", "0.0.0.0:1"] {
            assert!(
                matches!(check_serve(&facts, &axon(address)), Err(Preflight::BadAddress(_))),
                "{address}"
            );
        }
        assert_eq!(check_serve(&facts, &axon("8.8.8.8:0")), Err(Preflight::NoPort));
        let stranger = ServeFacts { registered: false, ..facts };
        assert!(matches!(
            check_serve(&stranger, &axon("8.8.8.8:1")),
            Err(Preflight::NotRegistered { .. })
        ));
        let recent = ServeFacts { last_served: BlockNumber(60), ..facts };
        let refusal = check_serve(&recent, &axon("8.8.8.8:1")).unwrap_err();
        assert_eq!(refusal.allowed_from(), Some(BlockNumber(110)));
    }

    #[test]
    fn only_neurons_publish_and_only_so_much() {
        let facts = CommitFacts {
            netuid: Netuid(19),
            hotkey: Keypair::development("Alice").hotkey(),
            exists: true,
            registered: true,
        };
        assert_eq!(check_commit(&facts, &[0; 128]), Ok(()));
        assert_eq!(check_commit(&facts, &[0; 129]), Err(Preflight::CommitmentTooLong(129)));
        let stranger = CommitFacts { registered: false, ..facts };
        let refused = check_commit(&stranger, &[0; 129]);
        assert!(matches!(refused, Err(Preflight::NotRegistered { .. })), "{refused:?}");
        let nowhere = CommitFacts { exists: false, ..stranger };
        assert_eq!(check_commit(&nowhere, &[]), Err(Preflight::NoSubnet(Netuid(19))));
    }
}
