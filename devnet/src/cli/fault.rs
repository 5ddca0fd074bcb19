//! `devnet fault NAME`: lets a running devnet go wrong.

use std::time::Duration;

use clap::{Args, Subcommand};
use devnet::node::faults::Fault;
use devnet::setup::Control;

use super::commands::say;
use super::{Endpoint, duration};

/// What goes wrong stays wrong until `devnet fault resume`, unless it says otherwise. `devnet status` shows what is in
/// force.
#[derive(Debug, Args)]
pub(super) struct Order {
    #[command(flatten)]
    chain: Endpoint,
    #[command(subcommand)]
    fault: Name,
}

#[derive(Debug, Subcommand)]
enum Name {
    /// Replace the newest blocks by another branch, once (finality waits until so many are not final)
    Reorg {
        /// How many blocks: 1 to 64
        #[arg(long, value_name = "BLOCKS")]
        depth: u32,
        /// Let the transactions in them vanish, instead of taking them into the new blocks
        #[arg(long)]
        drop_transactions: bool,
    },
    /// Make no more blocks
    Stall {
        /// Only for so many block times
        #[arg(long)]
        blocks: Option<u32>,
    },
    /// Make blocks that do not become final
    StallFinality,
    /// Cut all connections, once
    DropConnections {
        /// Cut them again and again, so often: such as 500ms or 5s
        #[arg(long, value_name = "TIME", value_parser = duration)]
        every: Option<Duration>,
    },
    /// Answer every request late
    Slow {
        /// By how much, such as 250ms or 2s
        #[arg(value_name = "TIME", value_parser = duration)]
        by: Duration,
    },
    /// Take requests and answer none
    Silent,
    /// Refuse requests with error -32005 and new connections with HTTP status 429
    Refuse {
        /// For how long, such as 5s
        #[arg(value_name = "TIME", value_parser = duration)]
        time: Duration,
    },
    /// Claim heads that are higher than what can be read
    LieHeight {
        /// By how many blocks: 1 to 64
        #[arg(long, value_name = "BLOCKS")]
        by: u32,
    },
    /// Take submitted transactions and cut the connection before the answer
    LoseAnswers,
    /// Take submitted transactions and forget them: they come into no block
    DropTransactions,
    /// Refuse submitted transactions
    RejectTransactions {
        /// The number of a custom error (0 to 255), or 1010, 1012, 1013, 1014 or 1016
        code: u16,
    },
    /// Bring the next version of the runtime with the next block (this cannot be undone)
    UpgradeRuntime,
    /// End all faults
    Resume,
}

impl Order {
    fn fault(&self) -> Fault {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        match self.fault {
            Name::Reorg { depth, drop_transactions } => Fault::Reorg { depth, drop_transactions },
            Name::Stall { blocks } => Fault::Stall { blocks },
            Name::StallFinality => Fault::StallFinality,
            Name::DropConnections { every } => Fault::DropConnections { every_ms: every.map(ms) },
            Name::Slow { by } => Fault::Slow { by_ms: ms(by) },
            Name::Silent => Fault::Silent,
            Name::Refuse { time } => Fault::Refuse { for_ms: ms(time) },
            Name::LieHeight { by } => Fault::LieHeight { by },
            Name::LoseAnswers => Fault::LoseAnswers,
            Name::DropTransactions => Fault::DropTransactions,
            Name::RejectTransactions { code } => Fault::RejectTransactions { code },
            Name::UpgradeRuntime => Fault::UpgradeRuntime,
            Name::Resume => Fault::Resume,
        }
    }
}

pub(super) async fn run(order: &Order) -> anyhow::Result<()> {
    let fault = order.fault();
    // Said here as well: a sentence is better than the node's error around it.
    fault.check()?;
    let state = Control::connect(&order.chain.endpoint).await?.order(&fault).await?;
    say(format_args!("{}", in_force(&state.faults)));
    Ok(())
}

/// A line on what is in force.
pub(super) fn in_force(faults: &[Fault]) -> String {
    if faults.is_empty() {
        return "faults: none".to_owned();
    }
    let all: Vec<String> = faults.iter().map(described).collect();
    format!("faults: {}", all.join(", "))
}

/// A fault as it would be ordered.
fn described(fault: &Fault) -> String {
    match fault {
        Fault::Reorg { depth, drop_transactions: false } => format!("reorg --depth {depth}"),
        Fault::Reorg { depth, .. } => format!("reorg --depth {depth} --drop-transactions"),
        Fault::Stall { blocks: None } => "stall".to_owned(),
        Fault::Stall { blocks: Some(blocks) } => format!("stall --blocks {blocks}"),
        Fault::StallFinality => "stall-finality".to_owned(),
        Fault::DropConnections { every_ms: None } => "drop-connections".to_owned(),
        Fault::DropConnections { every_ms: Some(ms) } => format!("drop-connections --every {ms}ms"),
        Fault::Slow { by_ms } => format!("slow {by_ms}ms"),
        Fault::Silent => "silent".to_owned(),
        Fault::Refuse { for_ms } => format!("refuse {for_ms}ms"),
        Fault::LieHeight { by } => format!("lie-height --by {by}"),
        Fault::LoseAnswers => "lose-answers".to_owned(),
        Fault::DropTransactions => "drop-transactions".to_owned(),
        Fault::RejectTransactions { code } => format!("reject-transactions {code}"),
        Fault::UpgradeRuntime => "upgrade-runtime".to_owned(),
        Fault::Resume => "resume".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        order: Order,
    }

    #[test]
    fn every_fault_is_described_as_it_is_typed() {
        let lines = [
            "reorg --depth 3",
            "reorg --depth 3 --drop-transactions",
            "stall",
            "stall --blocks 4",
            "stall-finality",
            "drop-connections",
            "drop-connections --every 1500ms",
            "slow 250ms",
            "silent",
            "refuse 5000ms",
            "lie-height --by 2",
            "lose-answers",
            "drop-transactions",
            "reject-transactions 6",
            "upgrade-runtime",
            "resume",
        ];
        for line in lines {
            let words = ["fault"].into_iter().chain(line.split(' '));
            let typed = Typed::try_parse_from(words).unwrap();
            let fault = typed.order.fault();
            assert_eq!(described(&fault), line);
            assert_eq!(fault.check(), Ok(()));
        }
        assert_eq!(in_force(&[]), "faults: none");
        assert_eq!(in_force(&[Fault::Silent, Fault::LoseAnswers]), "faults: silent, lose-answers");
    }

    #[test]
    fn a_fault_without_what_it_needs_is_not_taken() {
        for line in ["reorg", "slow", "slow 0s", "refuse", "lie-height", "reject-transactions x"] {
            let words = ["fault"].into_iter().chain(line.split(' '));
            assert!(Typed::try_parse_from(words).is_err(), "{line}");
        }
    }
}
