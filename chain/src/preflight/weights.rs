//! By which way weights get on a subnet now, and whether the chain would take them.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use common::{BlockNumber, Hotkey, MechanismId, Netuid, Uid};
use serde::{Deserialize, Serialize};
use timelock::{Beacon, MAX_COMMIT_WEIGHTS};

use super::{Preflight, blocked_until};
use crate::epochs::{EpochClock, Reveal};

/// The most commits that the chain keeps for one hotkey and mechanism.
pub const MAX_UNREVEALED: usize = 10;
/// The version of time-locked commits that this crate makes.
const COMMIT_VERSION: u16 = 4;

/// The calls by which weights reach the chain, each with its name for one mechanism of many and for the first one.
pub(crate) const WEIGHT_CALLS: [(Way, &str, &str); 3] = [
    (Way::Plain, "set_mechanism_weights", "set_weights"),
    (Way::Timelocked, "commit_timelocked_mechanism_weights", "commit_timelocked_weights"),
    (Way::Hashed, "commit_mechanism_weights", "commit_weights"),
];
/// The same for the second half of [`Way::Hashed`].
pub(crate) const REVEAL_CALLS: (&str, &str) = ("reveal_mechanism_weights", "reveal_weights");

/// How weights get on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// In the open, in force at once.
    Plain,
    /// Sealed to a round of a random beacon; the chain opens them by itself.
    Timelocked,
    /// Their hash first; the validator reveals them itself one or more epochs later.
    Hashed,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Timelocked => "timelocked",
            Self::Hashed => "hashed",
        })
    }
}

/// What an operator prefers on a subnet with commit-reveal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitReveal {
    /// Time-locked commits where this program and the chain agree on their version, else hashes.
    #[default]
    Auto,
    /// Time-locked commits or none.
    Timelocked,
    /// Hashes.
    Hashed,
}

/// What decides whether and how a hotkey may set weights, read at one block.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightFacts {
    pub netuid: Netuid,
    pub mechanism: MechanismId,
    pub hotkey: Hotkey,
    /// The block at which all this was read.
    pub head: BlockNumber,
    /// When that block was made, as time since the Unix epoch by the chain's own clock.
    pub now: Duration,
    pub block_time: Duration,
    /// `None` when the hotkey is not registered on the subnet.
    pub uid: Option<Uid>,
    /// How many neurons the subnet has.
    pub neurons: u16,
    /// How many mechanisms the subnet has; they are numbered from 0.
    pub mechanisms: u8,
    /// Those of the calls by which weights are set, committed and revealed that the runtime has.
    pub calls: BTreeSet<&'static str>,
    pub commit_reveal_enabled: bool,
    /// The version of time-locked commits that the chain takes.
    pub commit_version: u16,
    /// After how many epochs a commit is revealed.
    pub reveal_period: u64,
    /// When the subnet has its epochs.
    pub clock: EpochClock,
    /// The beacon to which commits are sealed, if the chain names one.
    pub beacon: Option<Beacon>,
    /// The newest round that the chain has the signature of, if it has any.
    pub newest_round: Option<u64>,
    /// Commits of the hotkey that wait for their reveal.
    pub unrevealed: usize,
    pub weights_rate_limit: u64,
    /// The block in which the hotkey last set or committed weights; 0 is never.
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
}

impl WeightFacts {
    /// The first block that a transaction sent now can be in.
    pub fn next_block(&self) -> BlockNumber {
        BlockNumber(self.head.0.saturating_add(1))
    }

    /// When permits are given out next.
    pub fn next_epoch(&self) -> Option<BlockNumber> {
        self.clock.next_epoch()
    }

    /// When a commit made now is revealed, and the beacon's round to which it is to be sealed.
    ///
    /// # Errors
    /// If it never would be, or the chain names no beacon, or its round is out already, which the chain refuses.
    pub fn sealing(&self) -> Result<(Reveal, u64, &Beacon), Preflight> {
        let beacon = self.beacon.as_ref().ok_or(Preflight::NoBeacon)?;
        let reveal = self.clock.reveal(self.reveal_period)?;
        let round = beacon.round_known_at(reveal.time(self.now, self.block_time)?);
        match self.newest_round {
            Some(newest) if round <= newest => {
                Err(Preflight::RoundIsPast { round, newest, allowed_from: self.next_block() })
            }
            _ => Ok((reveal, round, beacon)),
        }
    }

    /// Whether the runtime has the call that this way needs.
    fn offers(&self, way: Way) -> Result<(), Preflight> {
        call_name(way, self.mechanism, &self.calls)?;
        if way == Way::Hashed {
            reveal_call_name(self.mechanism, &self.calls)?;
        }
        Ok(())
    }
}

/// The call for a mechanism: the one that takes the mechanism's number, or for the first mechanism the older one.
pub(crate) fn call_name(
    way: Way,
    mechanism: MechanismId,
    calls: &BTreeSet<&'static str>,
) -> Result<&'static str, Preflight> {
    let names =
        WEIGHT_CALLS.iter().find(|(of, ..)| *of == way).map(|(_, any, first)| (*any, *first));
    let (any, first) = names.unwrap_or(("set_mechanism_weights", "set_weights"));
    named(any, first, mechanism, calls)
}

pub(crate) fn reveal_call_name(
    mechanism: MechanismId,
    calls: &BTreeSet<&'static str>,
) -> Result<&'static str, Preflight> {
    named(REVEAL_CALLS.0, REVEAL_CALLS.1, mechanism, calls)
}

fn named(
    any: &'static str,
    first: &'static str,
    mechanism: MechanismId,
    calls: &BTreeSet<&'static str>,
) -> Result<&'static str, Preflight> {
    if calls.contains(any) {
        Ok(any)
    } else if mechanism == MechanismId(0) && calls.contains(first) {
        Ok(first)
    } else {
        Err(Preflight::MissingCall(any))
    }
}

/// By which way weights get on the subnet now.
///
/// # Errors
/// When the runtime has no call for it, or wants a version of commits that this crate does not make.
pub fn choose_way(facts: &WeightFacts, preference: CommitReveal) -> Result<Way, Preflight> {
    if !facts.commit_reveal_enabled {
        return facts.offers(Way::Plain).map(|()| Way::Plain);
    }
    let timelocked = facts.offers(Way::Timelocked).and_then(|()| match facts.commit_version {
        COMMIT_VERSION if facts.beacon.is_none() => Err(Preflight::NoBeacon),
        COMMIT_VERSION => Ok(Way::Timelocked),
        other => Err(Preflight::UnknownCommitVersion(other)),
    });
    let hashed = || facts.offers(Way::Hashed).map(|()| Way::Hashed);
    match preference {
        CommitReveal::Timelocked => timelocked,
        CommitReveal::Hashed => hashed(),
        // What stands in the way of the better one is the better reason.
        CommitReveal::Auto => timelocked.or_else(|reason| hashed().map_err(|_| reason)),
    }
}

/// Whether the chain would take these weights in the next block, and, for the ways with a commit, whether it would take
/// them at the reveal if nothing changes until then: there it drops them in silence.
///
/// # Errors
/// With the first reason against it, in the order in which the runtime checks.
pub fn check_weights(
    facts: &WeightFacts,
    way: Way,
    weights: &[(Uid, u16)],
    version_key: u64,
) -> Result<(), Preflight> {
    facts.offers(way)?;
    if facts.netuid == Netuid(0) {
        return Err(Preflight::RootNetwork);
    }
    if facts.mechanism.0 >= facts.mechanisms {
        return Err(Preflight::NoMechanism {
            netuid: facts.netuid,
            mechanism: facts.mechanism,
            count: facts.mechanisms,
        });
    }
    if facts.uid.is_none() {
        return Err(Preflight::NotRegistered { netuid: facts.netuid, hotkey: facts.hotkey });
    }
    check_rights(facts, version_key)?;
    let (last, limit) = (facts.last_update, facts.weights_rate_limit);
    if let Some(allowed_from) = blocked_until(last, limit, facts.next_block()) {
        return Err(Preflight::TooFast { last, allowed_from });
    }
    if way != Way::Plain && facts.unrevealed >= MAX_UNREVEALED {
        let allowed_from = facts.next_epoch();
        return Err(Preflight::TooManyCommits { count: facts.unrevealed, allowed_from });
    }
    check_contents(facts, weights)?;
    match way {
        Way::Plain => Ok(()),
        Way::Timelocked if weights.len() > MAX_COMMIT_WEIGHTS => {
            Err(Preflight::CommitTooLong { given: weights.len(), most: MAX_COMMIT_WEIGHTS })
        }
        Way::Timelocked => facts.sealing().map(|_| ()),
        Way::Hashed => facts.clock.reveal(facts.reveal_period).map(|_| ()).map_err(Preflight::from),
    }
}

/// Which check weights that were to be revealed most likely failed, by the facts of a block after it. `None` when they
/// would pass, so that it was something else.
pub fn why_dropped(
    facts: &WeightFacts,
    weights: &[(Uid, u16)],
    version_key: u64,
) -> Option<Preflight> {
    if facts.uid.is_none() {
        return Some(Preflight::NotRegistered { netuid: facts.netuid, hotkey: facts.hotkey });
    }
    check_rights(facts, version_key).and_then(|()| check_contents(facts, weights)).err()
}

/// Stake and version.
fn check_rights(facts: &WeightFacts, version_key: u64) -> Result<(), Preflight> {
    if let Some(rao) = facts.stake_rao
        && rao < facts.stake_threshold_rao
        && !facts.is_owner
    {
        return Err(Preflight::TooLittleStake { rao, needed_rao: facts.stake_threshold_rao });
    }
    if version_key < facts.weights_version {
        return Err(Preflight::OldVersion { given: version_key, required: facts.weights_version });
    }
    Ok(())
}

/// The permit, and the weights themselves.
fn check_contents(facts: &WeightFacts, weights: &[(Uid, u16)]) -> Result<(), Preflight> {
    let is_self_weight = matches!(weights, [(uid, _)] if Some(*uid) == facts.uid);
    if !(facts.validator_permit || facts.is_owner || is_self_weight) {
        return Err(Preflight::NoPermit { next_epoch: facts.next_epoch() });
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

#[cfg(test)]
pub(crate) mod tests {
    use common::Keypair;

    use super::*;
    use crate::epochs::{EpochRule, NoReveal};

    /// A validator that may do anything on a subnet without commit-reveal.
    pub(crate) fn facts() -> WeightFacts {
        WeightFacts {
            netuid: Netuid(19),
            mechanism: MechanismId(0),
            hotkey: Keypair::development("Alice").hotkey(),
            head: BlockNumber(999),
            now: Duration::from_secs(1_800_000_000),
            block_time: Duration::from_secs(12),
            uid: Some(Uid(0)),
            neurons: 4,
            mechanisms: 1,
            calls: WEIGHT_CALLS
                .iter()
                .flat_map(|(_, any, first)| [*any, *first])
                .chain([REVEAL_CALLS.0, REVEAL_CALLS.1])
                .collect(),
            commit_reveal_enabled: false,
            commit_version: 4,
            reveal_period: 1,
            clock: EpochClock {
                netuid: Netuid(19),
                tempo: 360,
                head: BlockNumber(999),
                rule: EpochRule::Modulo,
            },
            beacon: Some(Beacon::quicknet()),
            newest_round: Some(1000),
            unrevealed: 0,
            weights_rate_limit: 100,
            last_update: BlockNumber(900),
            weights_version: 3,
            min_allowed_weights: 2,
            max_weights_limit: u16::MAX,
            validator_permit: true,
            is_owner: false,
            stake_rao: Some(1_000),
            stake_threshold_rao: 1_000,
        }
    }

    pub(crate) const WEIGHTS: [(Uid, u16); 2] = [(Uid(1), 65535), (Uid(2), 32768)];

    fn plain(facts: &WeightFacts, weights: &[(Uid, u16)]) -> Result<(), Preflight> {
        check_weights(facts, Way::Plain, weights, 3)
    }

    #[test]
    fn weights_that_the_chain_accepts_pass_by_every_way() {
        for way in [Way::Plain, Way::Timelocked, Way::Hashed] {
            assert_eq!(check_weights(&facts(), way, &WEIGHTS, 3), Ok(()), "{way}");
        }
    }

    #[test]
    fn every_refusal_has_its_reason() {
        use Preflight::*;
        let refusal = |facts: WeightFacts| plain(&facts, &WEIGHTS).unwrap_err();
        assert_eq!(refusal(WeightFacts { netuid: Netuid(0), ..facts() }), RootNetwork);
        let second = WeightFacts { mechanism: MechanismId(1), ..facts() };
        assert!(matches!(refusal(second), NoMechanism { count: 1, .. }));
        assert!(matches!(refusal(WeightFacts { uid: None, ..facts() }), NotRegistered { .. }));
        let poor = WeightFacts { stake_rao: Some(999), ..facts() };
        assert_eq!(refusal(poor), TooLittleStake { rao: 999, needed_rao: 1_000 });
        let newer = WeightFacts { weights_version: 4, ..facts() };
        assert_eq!(refusal(newer), OldVersion { given: 3, required: 4 });
        let no_permit = WeightFacts { validator_permit: false, ..facts() };
        assert_eq!(refusal(no_permit).allowed_from(), facts().next_epoch());
        assert!(matches!(
            refusal(WeightFacts { neurons: 2, ..facts() }),
            UnknownUid { uid: Uid(2), neurons: 2 }
        ));
        let many = WeightFacts { min_allowed_weights: 3, ..facts() };
        assert_eq!(refusal(many), TooFewWeights { given: 2, needed: 3 });
        let flat = WeightFacts { max_weights_limit: 40_000, ..facts() };
        assert_eq!(refusal(flat), WeightTooLarge { uid: Uid(1), share: 43_690, limit: 40_000 });
        assert_eq!(plain(&facts(), &[(Uid(1), 1), (Uid(1), 2)]), Err(DuplicateUid(Uid(1))));
        assert_eq!(plain(&facts(), &[(Uid(1), 0), (Uid(2), 0)]), Err(NoWeights));
    }

    #[test]
    fn too_early_names_the_first_block_that_will_do() {
        let early = WeightFacts { last_update: BlockNumber(901), ..facts() };
        for way in [Way::Plain, Way::Timelocked, Way::Hashed] {
            let refusal = check_weights(&early, way, &WEIGHTS, 3).unwrap_err();
            assert_eq!(refusal.allowed_from(), Some(BlockNumber(1001)));
            assert!(refusal.to_string().contains("from block 1001"), "{refusal}");
        }
        let never =
            WeightFacts { last_update: BlockNumber(0), weights_rate_limit: 5000, ..facts() };
        assert_eq!(plain(&never, &WEIGHTS), Ok(()));
    }

    #[test]
    fn the_owner_and_self_weights_are_exempt() {
        let owner =
            WeightFacts { is_owner: true, stake_rao: Some(0), validator_permit: false, ..facts() };
        assert_eq!(plain(&owner, &WEIGHTS), Ok(()));
        let powerless = WeightFacts { validator_permit: false, max_weights_limit: 10, ..facts() };
        assert_eq!(plain(&powerless, &[(Uid(0), 65535)]), Ok(()));
    }

    #[test]
    fn the_way_follows_the_subnets_rules_and_what_the_runtime_has() {
        use CommitReveal::*;
        assert_eq!(choose_way(&facts(), Hashed), Ok(Way::Plain));
        let on = || WeightFacts { commit_reveal_enabled: true, ..facts() };
        assert_eq!(choose_way(&on(), Auto), Ok(Way::Timelocked));
        assert_eq!(choose_way(&on(), Hashed), Ok(Way::Hashed));

        let newer = || WeightFacts { commit_version: 5, ..on() };
        assert_eq!(choose_way(&newer(), Auto), Ok(Way::Hashed));
        let refused = Err(Preflight::UnknownCommitVersion(5));
        assert_eq!(choose_way(&newer(), Timelocked), refused);
        let without = |prefix: &str| {
            let calls = facts().calls.into_iter().filter(|name| !name.starts_with(prefix));
            calls.collect::<BTreeSet<_>>()
        };
        let neither = WeightFacts { calls: without("commit_"), ..on() };
        let missing = Err(Preflight::MissingCall("commit_timelocked_mechanism_weights"));
        assert_eq!(choose_way(&neither, Auto), missing);
        let no_reveal = WeightFacts { calls: without("reveal_"), ..newer() };
        assert_eq!(choose_way(&no_reveal, Auto), refused);
        let silent = WeightFacts { beacon: None, ..on() };
        assert_eq!(choose_way(&silent, Timelocked), Err(Preflight::NoBeacon));
    }

    #[test]
    fn older_calls_serve_the_first_mechanism_only() {
        let calls = BTreeSet::from(["set_weights"]);
        assert_eq!(call_name(Way::Plain, MechanismId(0), &calls), Ok("set_weights"));
        let missing = Preflight::MissingCall("set_mechanism_weights");
        assert_eq!(call_name(Way::Plain, MechanismId(1), &calls), Err(missing.clone()));
        assert_eq!(call_name(Way::Plain, MechanismId(0), &BTreeSet::new()), Err(missing));
    }

    #[test]
    fn a_commit_that_is_never_revealed_or_no_secret_is_not_made() {
        let sealed = |facts: &WeightFacts| check_weights(facts, Way::Timelocked, &WEIGHTS, 3);
        let (_, round, _) = facts().sealing().unwrap();
        let known = WeightFacts { newest_round: Some(round), ..facts() };
        let refusal = sealed(&known).unwrap_err();
        assert!(matches!(refusal, Preflight::RoundIsPast { .. }), "{refusal}");
        assert_eq!(refusal.allowed_from(), Some(BlockNumber(1000)));
        let still = EpochClock { tempo: 0, ..facts().clock };
        let never = WeightFacts { clock: still, ..facts() };
        assert_eq!(sealed(&never), Err(NoReveal::NoEpochs(Netuid(19)).into()));
        let full = WeightFacts { unrevealed: MAX_UNREVEALED, ..facts() };
        assert!(matches!(sealed(&full), Err(Preflight::TooManyCommits { count: 10, .. })));
        let many: Vec<_> = (0..1178).map(|uid| (Uid(uid), 1)).collect();
        let large = WeightFacts { neurons: 4096, ..facts() };
        let refusal = sealed(&large).and(check_weights(&large, Way::Timelocked, &many, 3));
        assert_eq!(refusal, Err(Preflight::CommitTooLong { given: 1178, most: 1177 }));
        assert_eq!(check_weights(&large, Way::Hashed, &many, 3), Ok(()));
    }

    #[test]
    fn what_the_chain_checks_at_the_reveal_explains_a_drop() {
        assert_eq!(why_dropped(&facts(), &WEIGHTS, 3), None);
        let early = WeightFacts { last_update: BlockNumber(999), ..facts() };
        assert_eq!(
            why_dropped(&early, &WEIGHTS, 3),
            None,
            "the rate limit was passed at the commit"
        );
        let gone = WeightFacts { uid: None, ..facts() };
        assert!(matches!(why_dropped(&gone, &WEIGHTS, 3), Some(Preflight::NotRegistered { .. })));
        let newer = WeightFacts { weights_version: 9, ..facts() };
        let old = Preflight::OldVersion { given: 3, required: 9 };
        assert_eq!(why_dropped(&newer, &WEIGHTS, 3), Some(old));
    }
}
