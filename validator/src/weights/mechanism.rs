//! The weights of one mechanism, from scores to the proof that the chain holds them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chain::{
    Failure, LIFETIME_BLOCKS, Next, Stage, Standing, Submission, SubmitError, Turn, WeightsPlan,
    settle,
};
use common::{BlockNumber, MechanismId, TaskId};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Committed, LONGEST_PAUSE, NamedWeights, Plan, Said, TRY_AGAIN, Wake, WeightSetter, plan,
    weights_of,
};
use crate::clock::unix_ms;
use crate::judge::Judgement;
use crate::store::{KeptSubmission, ScoringId};

/// Blocks between two attempts to reveal, where the chain has refused one.
const BLOCKS_BETWEEN_REVEALS: u64 = 3;

#[derive(Debug)]
pub(super) struct Mechanism<'a> {
    setter: &'a WeightSetter,
    id: MechanismId,
    tasks: BTreeSet<TaskId>,
    judgement: watch::Receiver<Option<Arc<Judgement>>>,
    /// What was submitted and has not come to an end, oldest first.
    open: Vec<KeptSubmission>,
    /// What has come to an end that the store does not know of yet.
    unsaved: Vec<KeptSubmission>,
    /// The scores for which there is nothing more to do.
    done: Option<ScoringId>,
    /// Attempts to send in a row that came to nothing, and attempts to read the chain.
    failures: u32,
    unread: u32,
    said_of_sending: Said,
    said_of_open: Said,
    said_of_reveals: Said,
}

impl<'a> Mechanism<'a> {
    pub(super) fn new(
        setter: &'a WeightSetter,
        id: MechanismId,
        tasks: BTreeSet<TaskId>,
        open: Vec<KeptSubmission>,
    ) -> Self {
        Self {
            setter,
            id,
            tasks,
            judgement: setter.judgement.clone(),
            open,
            unsaved: Vec::new(),
            done: None,
            failures: 0,
            unread: 0,
            said_of_sending: Said::default(),
            said_of_open: Said::default(),
            said_of_reveals: Said::default(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.publish();
        loop {
            let wake = self.settle_all().await;
            let wake = wake.earlier(self.send_if_due().await);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.judgement.changed() => if changed.is_err() { return },
                () = self.setter.until(wake) => {}
            }
        }
    }

    /// Finds out what became of everything that was submitted.
    async fn settle_all(&mut self) -> Wake {
        let mut wake = Wake::Never;
        for kept in std::mem::take(&mut self.unsaved) {
            if !self.keep(&kept).await {
                self.unsaved.push(kept);
                wake = wake.earlier(Wake::After(TRY_AGAIN));
            }
        }
        for mut kept in std::mem::take(&mut self.open) {
            wake = wake.earlier(self.settle(&mut kept).await);
            if !kept.submission.is_over() {
                self.open.push(kept);
            }
        }
        self.publish();
        wake
    }

    async fn settle(&mut self, kept: &mut KeptSubmission) -> Wake {
        let standing = match self.setter.chain.weight_standing(&kept.submission).await {
            Ok(standing) => standing,
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                if self.said_of_open.once(&error) {
                    warn!(
                        "what became of the weights of mechanism {} cannot be seen: {error}",
                        self.id
                    );
                }
                return pause(&mut self.unread);
            }
        };
        self.said_of_open.forget();
        self.unread = 0;
        if kept.submission.stage == Stage::Sent && kept.submission.open_until.is_none() {
            // It was about to be sent when the last run ended. Whatever was signed then was signed for a block before this.
            let newest = standing.facts.head.max(kept.submission.made_at);
            let end = newest.0.saturating_add(LIFETIME_BLOCKS);
            kept.submission.open_until = Some(BlockNumber(end));
            self.keep(kept).await;
        }
        loop {
            match settle(&kept.submission, &standing) {
                Next::Wait(block) => return Wake::Block(block),
                Next::Stage(stage) => {
                    self.come_to(kept, stage).await;
                    if kept.submission.is_over() {
                        return Wake::Never;
                    }
                }
                Next::Reveal => return self.reveal(kept, &standing).await,
            }
        }
    }

    /// Reveals what was committed by its hash. While the commit waits, `open_until` is the last block in which an earlier
    /// attempt to reveal it may come.
    async fn reveal(&mut self, kept: &mut KeptSubmission, standing: &Standing) -> Wake {
        let head = standing.facts.head;
        let after = |blocks: u64| BlockNumber(head.0.saturating_add(blocks));
        if kept.submission.hotkey != self.setter.keypair.hotkey() {
            let why = format!("only the hotkey {} can reveal it", kept.submission.hotkey);
            if self.said_of_reveals.once(&why) {
                warn!("a commit of mechanism {} cannot be revealed: {why}", self.id);
            }
            return Wake::Block(after(BLOCKS_BETWEEN_REVEALS));
        }
        if let Some(end) = kept.submission.open_until.filter(|end| *end > head) {
            return Wake::Block(end);
        }
        kept.submission.open_until = Some(after(LIFETIME_BLOCKS));
        if !self.keep(kept).await {
            kept.submission.open_until = None;
            return Wake::After(TRY_AGAIN);
        }
        match self.setter.chain.reveal_weights(&kept.submission, &self.setter.keypair).await {
            Ok(stage) => {
                self.said_of_reveals.forget();
                self.come_to(kept, stage).await;
                Wake::Never
            }
            Err(error) => {
                kept.submission.open_until = match &error {
                    SubmitError::Unknown { end, .. } => Some(*end),
                    _ => None,
                };
                let not_before = error.not_before();
                let error = format!("{:#}", anyhow::Error::from(error));
                if self.said_of_reveals.once(&error) {
                    warn!("the weights of mechanism {} are not revealed: {error}", self.id);
                }
                kept.error = Some(error);
                self.keep(kept).await;
                Wake::Block(not_before.unwrap_or(after(BLOCKS_BETWEEN_REVEALS)))
            }
        }
    }

    /// Sends weights if there are new scores and nothing is in the way.
    async fn send_if_due(&mut self) -> Wake {
        let Some(judgement) = self.judgement.borrow_and_update().clone() else {
            return Wake::Never;
        };
        if self.done == Some(judgement.scoring) || self.tasks.is_empty() {
            return Wake::Never;
        }
        let wake = self.send(&judgement).await;
        self.publish();
        wake
    }

    async fn send(&mut self, judgement: &Judgement) -> Wake {
        let setter = self.setter;
        let hotkey = setter.keypair.hotkey();
        // Before anything is read: another mechanism's transaction may take many blocks.
        let turn = setter.chain.turn().await;
        let metagraph = match setter.chain.metagraph(setter.netuid).await {
            Ok(metagraph) => metagraph,
            Err(error) => return self.cannot_send(error.into()),
        };
        let weights = match weights_of(&judgement.scores, &self.tasks, &metagraph) {
            Ok(weights) => weights,
            Err(why) => {
                if self.said_of_sending.once(&why) {
                    info!("no weights to set for mechanism {}: {why}", self.id);
                }
                self.done = Some(judgement.scoring);
                return Wake::Never;
            }
        };
        let facts = match setter.chain.weight_facts(setter.netuid, self.id, hotkey).await {
            Ok(facts) => facts,
            Err(error) => {
                // What the node has trouble with now it may know in a moment; what the subnet lacks it will lack.
                if matches!(error, SubmitError::Preflight(_)) && error.not_before().is_none() {
                    self.done = Some(judgement.scoring);
                }
                return self.cannot_send(error);
            }
        };
        self.unread = 0;
        let open = self.open.iter().map(|kept| &kept.submission);
        let chosen = setter.config;
        match plan(&facts, open, &weights, chosen.version_key, chosen.commit_reveal) {
            Plan::Send(plan) => {
                self.submit(&turn, &plan, weights, facts.block_time, judgement.scoring).await
            }
            Plan::Wait(reason) => {
                let text = reason.to_string();
                if !self.said_of_sending.once(&text) {
                    debug!("the weights of mechanism {} still wait: {text}", self.id);
                } else if reason.passes() {
                    info!("the weights of mechanism {} wait: {text}", self.id);
                } else {
                    setter.metrics.weights("failed");
                    warn!("the weights of mechanism {} are not set: {text}", self.id);
                }
                if !reason.passes() {
                    self.is_in_trouble(text);
                }
                match reason.until() {
                    Some(block) => Wake::Block(block),
                    // What is open is settled first. What only a person can mend is tried again with the next scores.
                    None => {
                        if !reason.passes() {
                            self.done = Some(judgement.scoring);
                        }
                        Wake::Never
                    }
                }
            }
        }
    }

    async fn submit(
        &mut self,
        turn: &Turn<'_>,
        plan: &WeightsPlan,
        weights: NamedWeights,
        block_time: Duration,
        scoring: ScoringId,
    ) -> Wake {
        let setter = self.setter;
        let prepared = match plan.prepare(&mut ChaCha12Rng::from_os_rng()) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.done = Some(scoring);
                warn!("the weights of mechanism {} cannot be sealed: {error}", self.id);
                return Wake::Never;
            }
        };
        let submission = prepared.submission().clone();
        let mut kept =
            KeptSubmission::new(unix_ms(), submission, weights, Some(scoring), block_time);
        match setter.store.keep_submission(&kept).await {
            Ok(id) => kept.id = id,
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                if self.said_of_sending.once(&error) {
                    warn!("weights wait for the store, what is not kept is not sent: {error}");
                }
                return pause(&mut self.failures);
            }
        }
        self.done = Some(scoring);
        match setter.chain.send_weights_in(turn, &prepared, &setter.keypair).await {
            Ok(stage) => {
                self.failures = 0;
                self.said_of_sending.forget();
                self.come_to(&mut kept, stage).await;
                if kept.submission.is_over() {
                    return Wake::Never;
                }
                self.open.push(kept);
                // When to look at it next is found out by looking at it.
                Wake::After(Duration::ZERO)
            }
            Err(error) => self.not_sent(kept, error).await,
        }
    }

    async fn not_sent(&mut self, mut kept: KeptSubmission, error: SubmitError) -> Wake {
        if let SubmitError::Dispatch { extrinsic, .. }
        | SubmitError::Expired { extrinsic, .. }
        | SubmitError::NotApplied { extrinsic, .. }
        | SubmitError::Unknown { extrinsic, .. } = &error
        {
            kept.extrinsic = Some(extrinsic.to_string());
        }
        let (scoring, retry, not_before) = (kept.scoring, error.is_retryable(), error.not_before());
        match Failure::after(&error) {
            Some(why) => {
                self.come_to(&mut kept, Stage::Failed { why }).await;
                if !retry {
                    self.done = scoring;
                    return Wake::Never;
                }
                not_before.map_or_else(|| pause(&mut self.failures), Wake::Block)
            }
            None => {
                kept.submission.open_until = not_before;
                let error = anyhow::Error::from(error);
                kept.error = Some(format!("{error:#}"));
                self.setter.metrics.weights("unknown");
                warn!("the weights of mechanism {} were sent: {error:#}", self.id);
                self.keep(&kept).await;
                self.open.push(kept);
                pause(&mut self.failures)
            }
        }
    }

    /// Takes note of a stage: in the store, in the log, and for everybody who looks.
    async fn come_to(&mut self, kept: &mut KeptSubmission, stage: Stage) {
        let setter = self.setter;
        kept.come_to(unix_ms(), stage);
        let (id, count) = (self.id, kept.weights.len());
        match &kept.submission.stage {
            Stage::Sent => {}
            Stage::Committed { block, .. } => {
                // From now on it is about the reveal.
                kept.submission.open_until = None;
                setter.metrics.weights("committed");
                match kept.submission.reveal() {
                    Some(reveal) => info!(
                        %block,
                        "{count} weights of mechanism {id} are committed in block {block}; revealed from block {}",
                        reveal.first
                    ),
                    None => {
                        info!(%block, "{count} weights of mechanism {id} are committed in block {block}")
                    }
                }
            }
            Stage::InForce { block } => {
                setter.metrics.weights("confirmed");
                info!(%block, "{count} weights of mechanism {id} are on chain since block {block}");
            }
            Stage::Failed { why } => {
                setter.metrics.weights(outcome(why));
                // The newest scores are due again.
                self.done = None;
                let text = why.to_string();
                // Refusals may follow each other quickly; of the others there is one an epoch at most.
                let quick = matches!(why, Failure::Refused { .. } | Failure::NeverIncluded);
                if self.said_of_sending.once(&text) || !quick {
                    warn!("weights of mechanism {id} have no effect: {text}");
                }
                self.is_in_trouble(text);
            }
        }
        if !self.keep(kept).await && kept.submission.is_over() {
            self.unsaved.push(kept.clone());
        }
        if let Some(set) = kept.on_chain().filter(|_| self.is_ours(&kept.submission)) {
            let set = Arc::new(set);
            setter.progress.send_modify(|progress| {
                let mechanism = progress.entry(id).or_default();
                (mechanism.in_force, mechanism.trouble) = (Some(Arc::clone(&set)), None);
            });
            setter.confirmed.send_replace(Some(set));
        }
    }

    /// Returns whether the store has it.
    async fn keep(&self, kept: &KeptSubmission) -> bool {
        let stored = self.setter.store.update_submission(kept).await;
        let error = stored.map_err(|error| format!("{:#}", anyhow::Error::from(error))).err();
        if let Some(error) = &error {
            self.setter.metrics.store_failed();
            warn!(
                "what became of the weights of mechanism {} is not in the store: {error}",
                self.id
            );
        }
        error.is_none()
    }

    fn cannot_send(&mut self, error: SubmitError) -> Wake {
        let not_before = error.not_before();
        let needs_a_person = matches!(error, SubmitError::Preflight(_)) && not_before.is_none();
        let error = format!("{:#}", anyhow::Error::from(error));
        if self.said_of_sending.once(&error) {
            self.setter.metrics.weights("failed");
            warn!("the weights of mechanism {} are not set: {error}", self.id);
        }
        if needs_a_person {
            self.is_in_trouble(error);
        }
        not_before.map_or_else(|| pause(&mut self.unread), Wake::Block)
    }

    /// For everybody who looks, until weights take effect.
    fn is_in_trouble(&self, why: String) {
        self.setter.progress.send_modify(|progress| {
            progress.entry(self.id).or_default().trouble = Some(why);
        });
    }

    /// Whether a submission is about the weights that are set now: the same store may hold those of another hotkey or
    /// subnet, whose fate is looked up and is nobody's news.
    fn is_ours(&self, submission: &Submission) -> bool {
        submission.netuid == self.setter.netuid && submission.hotkey == self.setter.keypair.hotkey()
    }

    fn publish(&self) {
        let ours = self.open.iter().filter(|kept| self.is_ours(&kept.submission));
        let committed = Committed::newest(ours);
        self.setter.progress.send_if_modified(|progress| {
            let mechanism = progress.entry(self.id).or_default();
            let changed = mechanism.committed != committed;
            mechanism.committed = committed;
            changed
        });
    }
}

/// Twice as long each time in a row.
fn pause(in_a_row: &mut u32) -> Wake {
    let pause = TRY_AGAIN.saturating_mul(1 << (*in_a_row).min(16)).min(LONGEST_PAUSE);
    *in_a_row = in_a_row.saturating_add(1);
    Wake::After(pause)
}

/// A failure in one word, for metrics.
fn outcome(why: &Failure) -> &'static str {
    match why {
        Failure::NeverIncluded => "never_included",
        Failure::Refused { .. } => "refused",
        Failure::Dropped { .. } => "dropped",
        Failure::Missed { .. } => "missed",
        Failure::Unproven => "unproven",
    }
}
