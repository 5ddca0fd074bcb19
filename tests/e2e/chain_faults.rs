//! Weights while the chain fails in every way that it can be made to fail: they are set once, or it is certain that they
//! are not.

use std::fmt;
use std::time::Duration;

use ::chain::{
    Chain, ChainConfig, CommitReveal, Failure, Next, Prepared, Stage, Submission, SubmitError,
    plan_weights, settle,
};
use ::devnet::{Config, Controls, Spec};
use common::{MechanismId, Uid};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use tokio::time::timeout;

use crate::chain::{Devnet, PATIENCE, Subnet, uids, until};

/// Submissions in all, spread over as many chains as there are tests here.
const SUBMISSIONS: usize = 100;
const CHAINS: usize = 4;
/// Blocks after which what went wrong goes right again, unless it does so by itself.
const LASTS_BLOCKS: u32 = 15;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Reorganisation,
    ReorganisationThatLosesTransactions,
    Stall,
    StallOfFinality,
    CutConnections,
    CutConnectionsAgainAndAgain,
    Slowness,
    Silence,
    Refusals,
    LyingHeight,
    LostAnswers,
    LostTransactions,
    RejectedTransactions,
    Upgrade,
}

const FAULTS: [Fault; 14] = [
    Fault::Reorganisation,
    Fault::ReorganisationThatLosesTransactions,
    Fault::Stall,
    Fault::StallOfFinality,
    Fault::CutConnections,
    Fault::CutConnectionsAgainAndAgain,
    Fault::Slowness,
    Fault::Silence,
    Fault::Refusals,
    Fault::LyingHeight,
    Fault::LostAnswers,
    Fault::LostTransactions,
    Fault::RejectedTransactions,
    Fault::Upgrade,
];

/// When it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Just before the transaction is signed and sent.
    Before,
    /// While it waits in the pool.
    InThePool,
}

impl Fault {
    fn order(self, controls: &Controls) {
        match self {
            Self::Reorganisation => controls.reorg(3, false).unwrap(),
            Self::ReorganisationThatLosesTransactions => controls.reorg(3, true).unwrap(),
            Self::Stall => controls.stall(LASTS_BLOCKS).unwrap(),
            Self::StallOfFinality => controls.stall_finality(),
            Self::CutConnections => controls.drop_connections(None).unwrap(),
            Self::CutConnectionsAgainAndAgain => {
                controls.drop_connections(Some(Duration::from_millis(60))).unwrap();
            }
            Self::Slowness => controls.slow(Duration::from_millis(150)).unwrap(),
            Self::Silence => controls.silent(),
            Self::Refusals => controls.refuse(Duration::from_millis(700)).unwrap(),
            Self::LyingHeight => controls.lie_height(50).unwrap(),
            Self::LostAnswers => controls.lose_answers(),
            Self::LostTransactions => controls.drop_transactions(),
            Self::RejectedTransactions => controls.reject_transactions(1016).unwrap(),
            Self::Upgrade => controls.upgrade_runtime(),
        }
    }
}

/// One submission and what came of it.
#[derive(Debug)]
struct Ended {
    fault: Fault,
    moment: Moment,
    submission: Submission,
    /// How often the hotkey's transactions came into blocks meanwhile.
    included: u32,
    /// Whether the chain holds exactly these weights at the end.
    held: bool,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}: ", self.fault, self.moment)?;
        match &self.submission.stage {
            Stage::InForce { block } => write!(f, "set in block {block}"),
            Stage::Failed { why } => write!(f, "{why}"),
            other => write!(f, "{other:?}"),
        }
    }
}

struct Bed {
    devnet: Devnet,
    subnet: Subnet,
    chain: Chain,
    own: Uid,
    miners: Vec<Uid>,
}

impl Bed {
    async fn boot(spec: Spec) -> Self {
        let devnet = Devnet::boot_with(Config { spec, ..Config::default() }).await;
        let subnet = Subnet::set_up(&devnet).await;
        let config = ChainConfig { deadline: Duration::from_secs(1), ..devnet.config() };
        let chain = Chain::connect(config).await.unwrap();
        let metagraph = subnet.with_permit(&chain).await;
        let own = metagraph.neuron(&subnet.validator.hotkey()).unwrap().uid;
        let miners = uids(&metagraph, &subnet.miners);
        Self { devnet, subnet, chain, own, miners }
    }

    fn nonce(&self) -> u32 {
        self.devnet.inside.next_nonce(*self.subnet.validator.hotkey().as_bytes()).unwrap()
    }

    fn height(&self) -> u32 {
        self.devnet.inside.head().number()
    }

    async fn prepared(&self, turn: usize) -> Prepared {
        let weights =
            vec![(self.miners[0], u16::MAX), (self.miners[1], u16::try_from(turn).unwrap() + 1)];
        let netuid = self.subnet.netuid;
        let facts = until(async || {
            let hotkey = self.subnet.validator.hotkey();
            self.chain.weight_facts(netuid, MechanismId(0), hotkey).await.ok()
        })
        .await;
        let plan = plan_weights(&facts, &weights, 0, CommitReveal::Auto).unwrap();
        plan.prepare(&mut ChaCha12Rng::from_os_rng()).unwrap()
    }

    /// Sends weights while something goes wrong, and finds out what became of them.
    async fn one(&self, turn: usize, fault: Fault, moment: Moment) -> Ended {
        let controls = &self.devnet.controls;
        let prepared = self.prepared(turn).await;
        let nonce = self.nonce();
        let key = &self.subnet.validator;
        match moment {
            Moment::Before => fault.order(controls),
            Moment::InThePool => controls.pause_blocks(),
        }
        let began = self.height();
        let trouble = async {
            if moment == Moment::InThePool {
                until(async || (self.devnet.inside.pending_len() == 1).then_some(())).await;
                fault.order(controls);
                // A stall ends by itself.
                if fault != Fault::Stall {
                    controls.resume_blocks();
                }
            }
            until(async || (self.height() >= began + LASTS_BLOCKS).then_some(())).await;
            controls.resume();
        };
        let send = timeout(PATIENCE, self.chain.send_weights(&prepared, key));
        let (sent, ()) = tokio::join!(send, trouble);
        let submission = prepared.submission().clone();
        let submission = match sent.expect("it ends") {
            Ok(stage) => Submission { stage, ..submission },
            Err(SubmitError::Unknown { end, .. }) => {
                let submission = Submission { open_until: Some(end), ..submission };
                self.until_over(submission).await
            }
            Err(error) => {
                let why = Failure::after(&error).unwrap();
                Submission { stage: Stage::Failed { why }, ..submission }
            }
        };
        // What is in no block by now, and does not wait for one, never comes into one.
        until(async || (self.devnet.inside.pending_len() == 0).then_some(())).await;
        let stored = until(async || {
            self.chain.weights(self.subnet.netuid, MechanismId(0), self.own).await.ok()
        })
        .await;
        let held = stored == submission.weights;
        Ended { fault, moment, submission, included: self.nonce() - nonce, held }
    }

    async fn until_over(&self, mut submission: Submission) -> Submission {
        until(async || {
            let standing = self.chain.weight_standing(&submission).await.ok()?;
            if let Next::Stage(stage) = settle(&submission, &standing) {
                submission.stage = stage;
            }
            submission.is_over().then(|| submission.clone())
        })
        .await
    }
}

async fn submissions(chain: usize, spec: Spec) {
    let bed = Bed::boot(spec).await;
    let mut set = 0;
    for turn in (0..SUBMISSIONS).filter(|turn| turn % CHAINS == chain) {
        let fault = FAULTS[turn / 2 % FAULTS.len()];
        let moment = if turn % 2 == 0 { Moment::Before } else { Moment::InThePool };
        let ended = bed.one(turn, fault, moment).await;
        println!("{turn}: {ended}");
        match &ended.submission.stage {
            Stage::InForce { .. } => {
                assert!(ended.held && ended.included == 1, "{ended:?}");
                set += 1;
            }
            Stage::Failed { .. } => assert!(!ended.held && ended.included == 0, "{ended:?}"),
            Stage::Sent | Stage::Committed { .. } => panic!("it has not ended: {ended:?}"),
        }
    }
    println!("{set} of {} were set", SUBMISSIONS / CHAINS);
    assert!(set > SUBMISSIONS / CHAINS / 3, "most faults can be got over: {set}");
    bed.devnet.stop().await;
}

/// Each of them a test of its own, so that they run at the same time.
mod on_a_chain_with {
    use super::{Spec, submissions};

    #[tokio::test]
    async fn epochs_by_number_every_submission_is_set_once_or_known_not_to_be() {
        submissions(0, Spec::V365).await;
    }

    #[tokio::test]
    async fn epochs_by_schedule_every_submission_is_set_once_or_known_not_to_be() {
        submissions(1, Spec::V425).await;
    }

    #[tokio::test]
    async fn epochs_by_number_again_every_submission_is_set_once_or_known_not_to_be() {
        submissions(2, Spec::V365).await;
    }

    #[tokio::test]
    async fn epochs_by_schedule_again_every_submission_is_set_once_or_known_not_to_be() {
        submissions(3, Spec::V425).await;
    }
}
