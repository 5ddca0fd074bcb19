//! Whether the chain would take an axon or a commitment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{BlockNumber, Hotkey, Netuid};

use super::{Preflight, blocked_until};
use crate::axon::Axon;
use crate::commitments::MAX_COMMITMENT_BYTES;

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

#[cfg(test)]
mod tests {
    use common::Keypair;

    use super::*;

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
