//! Sending weights, and looking at what the chain has made of them.

use common::{BlockNumber, Keypair};
use subxt::dynamic::Value;
use tokio::time::Instant;

use super::settle::{Standing, same_ratios};
use super::{Digest, Failure, Kind, LATE_EPOCHS, Prepared, Stage, Submission, calls};
use crate::client::Chain;
use crate::epochs::{EpochClock, EpochRule};
use crate::error::ChainError;
use crate::preflight::{WeightFacts, reveal_call_name};
use crate::serving::PROOF_PATIENCE;
use crate::signed::{Included, SubmitError, pause_after};
use crate::storage::{At, Key as _, index_key};
use crate::weight_facts::{self, HashedCommit, TIMELOCKED, own_commits};

/// The right to sign the next transaction of a hotkey. Dropping it passes it on.
#[derive(Debug)]
pub struct Turn<'a> {
    _one_at_a_time: tokio::sync::MutexGuard<'a, ()>,
}

impl Chain {
    /// Sends weights that were decided on and kept. Returns when what was sent is in a finalized block and has been read
    /// back: the stage is then [`Stage::InForce`] for plain weights and [`Stage::Committed`] for others.
    ///
    /// # Errors
    /// After [`SubmitError::Unknown`] the submission stays at [`Stage::Sent`], with `open_until` the error's `end`; after
    /// any other error it has failed, see [`Failure::after`].
    pub async fn send_weights(
        &self,
        prepared: &Prepared,
        keypair: &Keypair,
    ) -> Result<Stage, SubmitError> {
        let turn = self.turn().await;
        self.send_weights_in(&turn, prepared, keypair).await
    }

    /// Waits until nothing else is being signed: what is decided on from then on is not out of date when it is sent.
    pub async fn turn(&self) -> Turn<'_> {
        Turn { _one_at_a_time: self.signing().lock().await }
    }

    /// [`Chain::send_weights`] for who has waited for the turn before deciding.
    ///
    /// # Errors
    /// As there.
    pub async fn send_weights_in(
        &self,
        _turn: &Turn<'_>,
        prepared: &Prepared,
        keypair: &Keypair,
    ) -> Result<Stage, SubmitError> {
        let included = self.submit(&prepared.call, keypair).await?;
        let standing = self.standing_in(&included, &prepared.submission).await?;
        let block = included.block;
        let stage = match prepared.submission.kind {
            Kind::Plain => {
                let there = standing.facts.last_update == block
                    && same_ratios(&prepared.submission.weights, &standing.stored);
                there.then_some(Stage::InForce { block })
            }
            Kind::Timelocked { .. } | Kind::Hashed { .. } => {
                standing.waiting.map(|(_, epoch)| Stage::Committed { block, epoch })
            }
        };
        stage.ok_or(SubmitError::NotApplied { extrinsic: included.extrinsic, block })
    }

    /// Reveals weights that were committed by their hash. Returns when they are in force in a finalized block.
    ///
    /// # Errors
    /// [`SubmitError::Preflight`] when the runtime has no call for it, or what [`Chain::send_weights`] gives. Weights of
    /// another way are left alone, with [`SubmitError::Chain`].
    pub async fn reveal_weights(
        &self,
        submission: &Submission,
        keypair: &Keypair,
    ) -> Result<Stage, SubmitError> {
        let Kind::Hashed { salt, .. } = &submission.kind else {
            let why = "only weights that were committed by their hash are revealed by hand";
            return Err(ChainError::unexpected("revealing weights", why).into());
        };
        let _one_at_a_time = self.signing().lock().await;
        let at = self.newest_at().await?;
        let facts = read_facts(&at, submission).await?;
        let name = reveal_call_name(submission.mechanism, &facts.calls)?;
        let included = self.submit(&calls::reveal(submission, salt, name), keypair).await?;
        let standing = self.standing_in(&included, submission).await?;
        let (extrinsic, block) = (included.extrinsic, included.block);
        if same_ratios(&submission.weights, &standing.stored) {
            Ok(Stage::InForce { block })
        } else {
            Err(SubmitError::NotApplied { extrinsic, block })
        }
    }

    /// What the chain shows of a submission at the newest finalized block, for [`settle`](super::settle).
    ///
    /// # Errors
    /// If the chain cannot be asked, or the subnet or the mechanism is gone.
    pub async fn weight_standing(&self, submission: &Submission) -> Result<Standing, SubmitError> {
        read(&self.finalized_at().await?, submission).await
    }

    /// The same in the block that contains the transaction; waits for a chain that has just gone away.
    async fn standing_in(
        &self,
        included: &Included,
        submission: &Submission,
    ) -> Result<Standing, SubmitError> {
        let deadline = Instant::now() + PROOF_PATIENCE;
        loop {
            let standing = async { read(&self.at_block_of(included).await?, submission).await };
            match standing.await {
                Ok(standing) => return Ok(standing),
                Err(error) => pause_after(error, included, deadline).await?,
            }
        }
    }
}

impl Failure {
    /// What an error of [`Chain::send_weights`] comes to; `None` when it is not known whether the transaction comes.
    pub fn after(error: &SubmitError) -> Option<Self> {
        match error {
            SubmitError::Unknown { .. } => None,
            SubmitError::Expired { .. } => Some(Self::NeverIncluded),
            error => {
                let mut reason = error.to_string();
                let mut cause = std::error::Error::source(error);
                while let Some(source) = cause {
                    reason = format!("{reason}: {source}");
                    cause = source.source();
                }
                Some(Self::Refused { reason })
            }
        }
    }
}

async fn read_facts(at: &At, submission: &Submission) -> Result<WeightFacts, SubmitError> {
    weight_facts::read(at, submission.netuid, submission.mechanism, submission.hotkey).await
}

async fn read(at: &At, submission: &Submission) -> Result<Standing, SubmitError> {
    let facts = read_facts(at, submission).await?;
    let stored = match facts.uid {
        Some(uid) => at.weights(submission.netuid, submission.mechanism, uid).await?,
        None => Vec::new(),
    };
    let (waiting, pulse) = match &submission.kind {
        Kind::Plain => (None, None),
        Kind::Timelocked { reveal, round, digest } => {
            // A change of the tempo may have renumbered the epochs; the one that was foreseen is looked at in any case.
            let latest = reveal.commit_epoch.saturating_add(LATE_EPOCHS);
            let current = facts.clock.epoch().unwrap_or(0).clamp(reveal.commit_epoch, latest);
            let epochs = reveal.commit_epoch.saturating_sub(1)..=current;
            sealed(at, submission, epochs, *round, digest).await?
        }
        Kind::Hashed { digest, .. } => (hashed(at, submission, &facts.clock, digest).await?, None),
    };
    Ok(Standing { facts, stored, waiting, pulse })
}

type Waiting = Option<(BlockNumber, u64)>;

/// Looks for a time-locked commit in these epochs, and for the signature that opens it.
async fn sealed(
    at: &At,
    submission: &Submission,
    epochs: impl Iterator<Item = u64>,
    round: u64,
    digest: &Digest,
) -> Result<(Waiting, Option<bool>), SubmitError> {
    let mut batch = at.batch("looking for a commit");
    let pulse = batch.add_of("Drand", "Pulses", [Value::u128(round.into())])?;
    let mut slots = Vec::new();
    for epoch in epochs {
        let index = index_key(submission.netuid, submission.mechanism)?;
        slots.push((epoch, batch.add(TIMELOCKED, [index, Value::u128(epoch.into())])?));
    }
    let found = batch.fetch().await?;
    let pulse = found.is_stored(pulse);
    for (epoch, slot) in slots {
        for (_, block, commit, _) in own_commits(&found, Some(slot), submission.hotkey)? {
            if Digest::of(&commit) == *digest {
                return Ok((Some((BlockNumber(block), epoch)), Some(pulse)));
            }
        }
    }
    Ok((None, Some(pulse)))
}

/// Looks for a commit by its hash.
async fn hashed(
    at: &At,
    submission: &Submission,
    clock: &EpochClock,
    digest: &Digest,
) -> Result<Waiting, SubmitError> {
    let mut batch = at.batch("looking for a commit");
    let index = index_key(submission.netuid, submission.mechanism)?;
    let commits = batch.add("WeightCommits", [index, submission.hotkey.key()])?;
    let found = batch.fetch().await?;
    let commits: Vec<HashedCommit> = found.get_or_default(commits)?;
    let own = commits.into_iter().find(|(hash, ..)| *hash == digest.0);
    Ok(own.and_then(|(_, first, second, _)| match clock.rule {
        // The block, then the blocks between which it can be revealed.
        EpochRule::Modulo => Some((BlockNumber(first), clock.epoch_of(BlockNumber(first))?)),
        // The epoch, then the block.
        EpochRule::Scheduler(_) => Some((BlockNumber(second), first)),
    }))
}
