//! Setting weights as the validator does: facts, plan, preparation, submission.

use ::chain::{Chain, CommitReveal, Stage, Submission, SubmitError, plan_weights};
use common::{BlockNumber, Keypair, MechanismId, Netuid, Uid};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

/// What to set, where, and how.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) netuid: Netuid,
    pub(crate) mechanism: MechanismId,
    pub(crate) weights: Vec<(Uid, u16)>,
    pub(crate) preference: CommitReveal,
}

impl Wanted {
    /// For the first mechanism, by whichever way the subnet asks for.
    pub(crate) fn new(netuid: Netuid, weights: &[(Uid, u16)]) -> Self {
        Self {
            netuid,
            mechanism: MechanismId(0),
            weights: weights.to_vec(),
            preference: CommitReveal::Auto,
        }
    }

    /// Sends the weights. Returns the submission as it is to be kept, at the stage that it has come to.
    pub(crate) async fn submit(
        &self,
        chain: &Chain,
        key: &Keypair,
    ) -> Result<Submission, SubmitError> {
        let mut submission = None;
        let stage = self.submit_keeping(chain, key, &mut submission).await?;
        Ok(Submission { stage, ..submission.expect("what was sent was kept") })
    }

    /// The same; keeps the submission before it is sent.
    pub(crate) async fn submit_keeping(
        &self,
        chain: &Chain,
        key: &Keypair,
        kept: &mut Option<Submission>,
    ) -> Result<Stage, SubmitError> {
        let facts = chain.weight_facts(self.netuid, self.mechanism, key.hotkey()).await?;
        let plan = plan_weights(&facts, &self.weights, 0, self.preference)?;
        let prepared = plan.prepare(&mut ChaCha12Rng::from_os_rng()).expect("it can be sealed");
        *kept = Some(prepared.submission().clone());
        chain.send_weights(&prepared, key).await
    }
}

/// Sets weights in the open. Returns the block since which they are in force.
pub(crate) async fn set_weights(
    chain: &Chain,
    netuid: Netuid,
    weights: &[(Uid, u16)],
    key: &Keypair,
) -> Result<BlockNumber, SubmitError> {
    match Wanted::new(netuid, weights).submit(chain, key).await?.stage {
        Stage::InForce { block } => Ok(block),
        other => panic!("plain weights are in force at once, not {other:?}"),
    }
}
