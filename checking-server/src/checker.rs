//! From a batch of checks to their results: read, examine, queue, judge.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::TaskId;
use common::checks::{Check, CheckResult, Finding, Outcome, Repeated, Verdict};
use common::openai::{self, Asked, Kind, Limits};
use engine::ReferencePass;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::duplicates::Index;
use crate::judge::{self, Known, Standard};
use crate::metrics::{CheckLabels, Metrics};
use crate::queue::{Looks, NoReference, Passes, Queue};

/// What checking one task takes.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) kind: Kind,
    pub(crate) limits: Limits,
    pub(crate) standard: Standard,
    /// Index into [`Checker::queues`].
    pub(crate) queue: usize,
}

/// Checks answers of all tasks.
#[derive(Debug)]
pub(crate) struct Checker {
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) metrics: Metrics,
    /// Of tasks without seeds: what was answered lately.
    pub(crate) indices: Mutex<BTreeMap<TaskId, Index>>,
}

/// A batch that does not fit into the queues now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy {
    pub(crate) retry_after: Duration,
}

/// A check whose form is right as far as that can be seen without the model.
struct Open<'a> {
    check: Check,
    asked: Asked,
    task: &'a Task,
    /// What it has in common with answers that were sent before it.
    repeated: Option<Repeated>,
}

/// A result, and its task if that is known here.
type Judged = (Option<TaskId>, CheckResult);

/// Where the reference of an [`Open`] check will come from.
type Pending = oneshot::Receiver<Result<Looks, NoReference>>;

/// An [`Open`] check that waits in its queue, or one that is judged already.
type Submitted<'a> = Result<(Open<'a>, Pending), Judged>;

impl Checker {
    /// Judges a batch, in order. One bad check costs that check only.
    ///
    /// # Errors
    /// If a queue has no room for all of it: nothing was queued then.
    pub(crate) async fn check(&self, batch: Vec<Value>) -> Result<Vec<CheckResult>, Busy> {
        let examined: Vec<_> = batch.into_iter().map(|item| self.examine(item)).collect();
        let submitted = self.submit(examined).inspect_err(|_| {
            self.metrics.refused_batches.inc();
        })?;
        let results = join_all(submitted.into_iter().map(|step| async {
            match step {
                Ok((open, pending)) => self.finish(open, pending).await,
                Err(result) => result,
            }
        }))
        .await;
        for (task, result) in &results {
            let outcome = match &result.outcome {
                Outcome::Verdict(verdict) if verdict.quality >= 1.0 => "full",
                Outcome::Verdict(verdict) if verdict.quality > 0.0 => "reduced",
                Outcome::Verdict(_) => "zero",
                Outcome::Unchecked { .. } => "unchecked",
            };
            let task = task.as_ref().map_or("unknown", TaskId::as_str).to_owned();
            self.metrics.checks.get_or_create(&CheckLabels { task, outcome }).inc();
        }
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    /// What can be said without the model, or that it is needed.
    fn examine(&self, item: Value) -> Result<Open<'_>, Judged> {
        let check = read(item).map_err(|result| (None, result))?;
        let Some(task) = self.tasks.get(&check.task) else {
            let reason = format!("the task `{}` is not checked here", check.task);
            return Err((None, unchecked(check.id, reason, false)));
        };
        let asked = match openai::parse(task.kind, check.request.as_bytes(), task.limits) {
            Ok(asked) => asked,
            Err(error) => {
                let reason = format!("the request is not one that this task takes: {error}");
                return Err((Some(check.task), unchecked(check.id, reason, false)));
            }
        };
        if let Some(reason) = cannot_be_repeated(&check, &asked, task.standard.seeded) {
            return Err((Some(check.task), unchecked(check.id, reason, false)));
        }
        let findings = judge::examine(&check, &asked, self.queues[task.queue].model());
        if !findings.is_empty() {
            let outcome = Outcome::Verdict(judge::refuse(findings));
            return Err((Some(check.task), CheckResult { id: check.id, outcome }));
        }
        Ok(Open { check, asked, task, repeated: None })
    }

    /// Queues every open check, or none if one of their queues has no room.
    fn submit<'a>(
        &self,
        examined: Vec<Result<Open<'a>, Judged>>,
    ) -> Result<Vec<Submitted<'a>>, Busy> {
        let mut wanted = vec![0; self.queues.len()];
        for open in examined.iter().flatten() {
            wanted[open.task.queue] += 1;
        }
        let mut places = Vec::new();
        for (queue, count) in self.queues.iter().zip(wanted) {
            places.push(queue.reserve(count).map_err(|retry_after| Busy { retry_after })?);
        }
        let mut submit = |mut open: Open<'a>| {
            // In the order in which answers are sent, oldest first: whoever copies comes after whom was copied.
            open.repeated = self.repeated(&open);
            let tokens = open.check.receipt.generated.tokens.clone();
            let sampling = open.asked.generation.sampling;
            let second_look = judge::second_look(&open.asked.generation, &tokens)
                .filter(|_| open.task.standard.sees_tokens(sampling.temperature));
            let needed = ReferencePass {
                likelihoods: !open.task.standard.seeded,
                ..ReferencePass::new(open.asked.generation.clone(), tokens)
            };
            let pending = places[open.task.queue].submit(Passes { needed, second_look });
            (open, pending)
        };
        Ok(examined.into_iter().map(|step| step.map(&mut submit)).collect())
    }

    /// What the answer has in common with earlier ones, where that matters.
    fn repeated(&self, Open { check, asked, task, .. }: &Open<'_>) -> Option<Repeated> {
        if task.standard.seeded || asked.generation.sampling.temperature == 0.0 {
            return None;
        }
        let mut indices = self.indices.lock().unwrap_or_else(PoisonError::into_inner);
        indices.entry(check.task.clone()).or_default().look(asked, &check.receipt.generated)
    }

    async fn finish(&self, open: Open<'_>, pending: Pending) -> Judged {
        let Open { check, asked, task, repeated } = open;
        let outcome = match pending.await.unwrap_or(Err(NoReference::Closing)) {
            Ok(Looks { reference, second_look }) => {
                let model = self.queues[task.queue].model();
                let known =
                    Known { reference: &reference, without_system: second_look.as_ref(), repeated };
                match judge::judge(&check, &asked, model, known, &task.standard) {
                    Ok(verdict) => Outcome::Verdict(verdict),
                    Err(error) => Outcome::Unchecked { reason: error.to_string(), retry: true },
                }
            }
            Err(error) => {
                Outcome::Unchecked { reason: error.to_string(), retry: error.is_retryable() }
            }
        };
        (Some(check.task), CheckResult { id: check.id, outcome })
    }
}

/// Why an answer to this request cannot be re-computed, whoever gave it.
fn cannot_be_repeated(check: &Check, asked: &Asked, seeded: bool) -> Option<String> {
    if asked.task != check.task {
        return Some(format!("the request asks for `{}`, not for `{}`", asked.task, check.task));
    }
    if asked.n != 1 {
        return Some("the request asks for several answers, a receipt is about one".to_owned());
    }
    if seeded && !asked.has_seed && asked.generation.sampling.temperature > 0.0 {
        return Some("the request has no seed, so its tokens cannot be re-computed".to_owned());
    }
    None
}

/// Reads one check of a batch.
///
/// JSON has no infinities: a validator that relays a receipt holding one sends `null`. Such a receipt is judged, or a
/// miner could escape every check by it.
fn read(item: Value) -> Result<Check, CheckResult> {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    let error = match Check::deserialize(&item) {
        Ok(check) => return Ok(check),
        Err(error) => error,
    };
    let id = Id::deserialize(&item).map(|Id { id }| id).unwrap_or_default();
    let logprobs = item.pointer("/receipt/generated/logprobs").and_then(Value::as_array);
    let position = logprobs.and_then(|logprobs| logprobs.iter().position(Value::is_null));
    Err(match position.and_then(|position| u32::try_from(position).ok()) {
        Some(position) => {
            let verdict: Verdict = judge::refuse(vec![Finding::ImpossibleLogprob { position }]);
            CheckResult { id, outcome: Outcome::Verdict(verdict) }
        }
        None => unchecked(id, format!("the check cannot be read: {error}"), false),
    })
}

fn unchecked(id: String, reason: String, retry: bool) -> CheckResult {
    CheckResult { id, outcome: Outcome::Unchecked { reason, retry } }
}
