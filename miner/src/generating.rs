//! One answer under way: takes events from the engine, signs the receipt, counts what was written.
//!
//! The engine is read by a task of its own, so that a client that reads slowly or goes away can hold a place for a
//! bounded time only.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use common::generation::FinishReason;
use common::openai::Usage;
use common::receipt::{Generated, Receipt, Timings};
use common::session;
use common::{Hotkey, Keypair, TaskId};
use engine::{EngineError, Event, Generating, Piece};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::config::Limits;
use crate::ledger::Ledger;
use crate::metrics::{Metrics, Outcome};

/// Steps that a client may lag behind the engine.
pub(crate) const LAG: usize = 256;
/// Stands for a log-probability that is not finite, as in OpenAI's answers.
const IMPOSSIBLE: f32 = -9999.0;

/// What the client is sent, in order: pieces, then one of the others.
#[derive(Debug)]
pub(crate) enum Step {
    Piece(Piece),
    Done(Box<Done>),
    /// The cause is in the log.
    Failed(&'static str),
}

/// The end of an answer.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) finish_reason: FinishReason,
    pub(crate) usage: Usage,
    pub(crate) receipt: Receipt,
}

/// Everything an answer needs beside the engine's events.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) validator: Hotkey,
    pub(crate) session: Option<session::Claim>,
    pub(crate) task: TaskId,
    pub(crate) request_digest: String,
    pub(crate) max_tokens: u32,
    pub(crate) arrived: Instant,
    /// When its place was free.
    pub(crate) started: Instant,
    pub(crate) limits: Limits,
    pub(crate) keypair: Keypair,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) metrics: Arc<Metrics>,
    /// Held to the end.
    pub(crate) place: OwnedSemaphorePermit,
}

/// What came out so far.
#[derive(Debug, Default)]
struct Written {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    first_token: Option<Instant>,
}

/// Why an answer has no good end.
#[derive(Debug)]
enum Trouble {
    /// The client went away or does not read.
    Gone,
    Engine(EngineError),
    Stalled,
    TooLong,
    /// The engine ended without saying why, or wrote on and on.
    Protocol(&'static str),
}

impl Work {
    /// Runs to the end of the answer. Dropping the receiver of `steps` cancels the generation.
    pub(crate) async fn run(self, generating: Generating, steps: mpsc::Sender<Step>) {
        let mut written = Written::default();
        let total = self.limits.total;
        let following = timeout(total, self.follow(generating, &steps, &mut written));
        let end = match following.await {
            Ok(end) => end,
            Err(_) => Err(Trouble::TooLong),
        };
        let tokens = written.tokens.len() as u64;
        self.ledger.record(&self.validator, &self.task, tokens, Instant::now());
        let first = written.first_token.map(|first| first - self.arrived);
        let (outcome, last) = match end {
            Ok((finish_reason, prompt_tokens)) => {
                let done = self.done(written, finish_reason, prompt_tokens);
                (Outcome::Answered, Some(Step::Done(Box::new(done))))
            }
            Err(trouble) => self.explain(&trouble),
        };
        self.metrics.finished(&self.task, outcome, tokens, first, self.arrived.elapsed());
        if let Some(step) = last {
            // A client that is gone now is no trouble of ours.
            let _ = timeout(self.limits.stall, steps.send(step)).await;
        }
        drop(self.place);
    }

    /// To the end of the engine's events; gives the reason and the tokens of the prompt.
    async fn follow(
        &self,
        generating: Generating,
        steps: &mpsc::Sender<Step>,
        written: &mut Written,
    ) -> Result<(FinishReason, u32), Trouble> {
        let Generating { prompt_tokens, events } = generating;
        let mut events = pin!(events);
        loop {
            let event = tokio::select! {
                biased;
                () = steps.closed() => return Err(Trouble::Gone),
                event = timeout(self.limits.stall, events.next()) => event,
            };
            let mut piece = match event {
                Err(_) => return Err(Trouble::Stalled),
                Ok(None) => return Err(Trouble::Protocol("it ended without a reason")),
                Ok(Some(Err(error))) => return Err(Trouble::Engine(error)),
                Ok(Some(Ok(Event::End(reason)))) => return Ok((reason, prompt_tokens)),
                Ok(Some(Ok(Event::Piece(piece)))) => piece,
            };
            written.take(&mut piece);
            if written.tokens.len() > self.max_tokens as usize {
                return Err(Trouble::Protocol("it wrote more tokens than were asked for"));
            }
            match timeout(self.limits.stall, steps.send(Step::Piece(piece))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Trouble::Gone),
            }
        }
    }

    fn done(&self, written: Written, finish_reason: FinishReason, prompt_tokens: u32) -> Done {
        let micros = |instant: Instant| (instant - self.arrived).as_micros() as u64;
        let completion_tokens = u32::try_from(written.tokens.len()).unwrap_or(u32::MAX);
        let now = Instant::now();
        let generated = Generated {
            task: self.task.clone(),
            request_digest: self.request_digest.clone(),
            prompt_tokens,
            tokens: written.tokens,
            logprobs: written.logprobs,
            finish_reason,
            timings: Timings {
                queued_us: micros(self.started),
                first_token_us: micros(written.first_token.unwrap_or(now)),
                total_us: micros(now),
            },
        };
        let usage = Usage::new(prompt_tokens, completion_tokens);
        let session = self.session.as_ref();
        let tag = session.map(|session| session.receipt_tag(&generated.digest()));
        Done { finish_reason, usage, receipt: Receipt { tag, ..generated.sign(&self.keypair) } }
    }

    /// Logs a failure, once, and says what is left to tell the client.
    fn explain(&self, trouble: &Trouble) -> (Outcome, Option<Step>) {
        let (validator, task) = (&self.validator, &self.task);
        match trouble {
            Trouble::Gone => {
                debug!(%validator, %task, "the validator went away before the end of the answer");
                return (Outcome::Cancelled, None);
            }
            Trouble::Engine(error) => {
                warn!(%validator, %task, error = %service::run::Chain(error), "the engine failed");
            }
            Trouble::Stalled => warn!(%validator, %task, "the engine makes no progress, gave up"),
            Trouble::TooLong => warn!(%validator, %task, "the answer took too long, gave up"),
            Trouble::Protocol(what) => {
                warn!(%validator, %task, what, "the engine misbehaved: {what}")
            }
        }
        (Outcome::Failed, Some(Step::Failed("the answer could not be finished")))
    }
}

impl Written {
    fn take(&mut self, piece: &mut Piece) {
        if !piece.tokens.is_empty() && self.first_token.is_none() {
            self.first_token = Some(Instant::now());
        }
        for token in &mut piece.tokens {
            // JSON has no infinities, and a receipt must survive it.
            if !token.logprob.is_finite() {
                token.logprob = IMPOSSIBLE;
            }
            self.tokens.push(token.id);
            self.logprobs.push(token.logprob);
        }
    }
}
