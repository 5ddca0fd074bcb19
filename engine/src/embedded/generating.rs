//! Drawing tokens inside mistral.rs, and the stream of them.
//!
//! mistral.rs has no seed per request, so a logits processor does the drawing: it sees the logits of every step, draws,
//! reports, and returns logits whose argmax is the drawn token. It also decides when the answer ends, by returning the end
//! token, so no step is computed in vain after a stop text or after the consumer went away.

use std::sync::{Arc, Mutex, PoisonError};

use common::generation::{FinishReason, Generation};
use futures::StreamExt;
use mistralrs::{CustomLogitsProcessor, Response, Tensor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::loading::Live;
use super::{Inner, Purpose, REVIVALS};
use crate::api::{EngineError, Event, Generating};
use crate::drawing::{Drawing, Step};
use crate::grammar::Grammar;

pub(super) async fn generate(
    inner: Arc<Inner>,
    generation: Generation,
) -> Result<Generating, EngineError> {
    inner.unless(Purpose::Generation, "generation")?;
    inner.reader.check(&generation)?;
    let grammar = inner.reader.grammar(&generation).await?;
    let ids = inner.render(&generation).await?;
    let tokens = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let (max_tokens, context) = (generation.max_tokens, inner.reader.info.context);
    if tokens.saturating_add(max_tokens) > context {
        return Err(EngineError::TooLong { tokens, max_tokens, context });
    }
    let job = Job { ids, generation, grammar };
    let run = Run { job, inner, phase: Phase::Start, retries: REVIVALS };
    let events = futures::stream::unfold(run, |mut run| async { Some((run.next().await?, run)) });
    Ok(Generating { prompt_tokens: tokens, events: events.boxed() })
}

/// A generation with its prompt rendered.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) ids: Vec<u32>,
    pub(super) generation: Generation,
    /// At its beginning.
    pub(super) grammar: Option<Grammar>,
}

/// A job in the engine.
pub(super) struct Running {
    /// Closed when the engine has dropped the sequence.
    pub(super) steps: mpsc::UnboundedReceiver<Result<Step, EngineError>>,
    responses: Responses,
    live: Arc<Live>,
}

/// Where mistral.rs answers. Shared with the processor, because the engine panics if the receiver is gone before it.
type Responses = Arc<Mutex<mpsc::Receiver<Response>>>;

impl Inner {
    /// Hands a job to the engine as soon as one of `permits` is free. The sequence keeps the permit until it has left the
    /// engine, however it ends.
    pub(super) async fn start(
        &self,
        job: &Job,
        permits: &Arc<Semaphore>,
    ) -> Result<Running, EngineError> {
        let permit = Arc::clone(permits).acquire_owned().await;
        let permit = permit.map_err(|error| EngineError::Failed(error.to_string()))?;
        let live = self.live().await?;
        // Bounded by the number of tokens asked for.
        let (out, steps) = mpsc::unbounded_channel();
        let (sender, receiver) = mpsc::channel(4);
        let responses = Arc::new(Mutex::new(receiver));
        let drawing =
            Drawing::new(Arc::clone(&self.reader), job.generation.clone(), job.grammar.clone());
        let processor = SeededSampler {
            state: Mutex::new(State { drawing, out }),
            end: self.reader.folder.ends.engine,
            _responses: Arc::clone(&responses),
            _permit: permit,
        };
        let max_tokens = job.generation.max_tokens as usize;
        let request = self.request(job.ids.clone(), max_tokens, false, Arc::new(processor), sender);
        // If the engine is gone, dropping the request closes `steps`, which says the same.
        let _ = live.requests.send(request).await;
        Ok(Running { steps, responses, live })
    }
}

impl Running {
    /// Why the engine ended the sequence without a last token, if it said so.
    fn refusal(&self) -> Option<EngineError> {
        let mut responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        match responses.try_recv().ok()?.as_result() {
            Ok(_) => Some(EngineError::Failed("it ended the answer by itself".to_owned())),
            Err(error) => Some(EngineError::Failed(error.to_string())),
        }
    }
}

/// A generation as a stream.
struct Run {
    job: Job,
    inner: Arc<Inner>,
    phase: Phase,
    retries: usize,
}

enum Phase {
    Start,
    Running { running: Running, emitted: bool },
    Ending(FinishReason),
    Over,
}

impl Run {
    async fn next(&mut self) -> Option<Result<Event, EngineError>> {
        loop {
            match &mut self.phase {
                Phase::Start => match self.inner.start(&self.job, &self.inner.permits).await {
                    Ok(running) => self.phase = Phase::Running { running, emitted: false },
                    Err(error) => return self.fail(error),
                },
                Phase::Running { running, emitted } => match running.steps.recv().await {
                    Some(Ok(step)) => {
                        *emitted = true;
                        if let Some(reason) = step.end {
                            self.phase = Phase::Ending(reason);
                        }
                        return Some(Ok(Event::Piece(step.piece)));
                    }
                    Some(Err(error)) => return self.fail(error),
                    None => {
                        if let Some(error) = running.refusal() {
                            return self.fail(error);
                        }
                        let (live, emitted) = (Arc::clone(&running.live), *emitted);
                        if emitted || self.retries == 0 {
                            let when = if emitted {
                                "in the middle of an answer"
                            } else {
                                "again and again"
                            };
                            return self.fail(EngineError::Failed(format!("it died {when}")));
                        }
                        self.retries -= 1;
                        self.phase = Phase::Start;
                        if let Err(error) = self.inner.revive(&live).await {
                            return self.fail(error);
                        }
                    }
                },
                Phase::Ending(reason) => {
                    let reason = *reason;
                    self.phase = Phase::Over;
                    return Some(Ok(Event::End(reason)));
                }
                Phase::Over => return None,
            }
        }
    }

    fn fail(&mut self, error: EngineError) -> Option<Result<Event, EngineError>> {
        self.phase = Phase::Over;
        Some(Err(error))
    }
}

/// Draws the tokens of one sequence.
struct SeededSampler {
    state: Mutex<State>,
    end: u32,
    _responses: Responses,
    _permit: OwnedSemaphorePermit,
}

struct State {
    drawing: Drawing,
    out: mpsc::UnboundedSender<Result<Step, EngineError>>,
}

impl CustomLogitsProcessor for SeededSampler {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> mistralrs::Result<Tensor> {
        let logits = logits.to_vec1::<f32>()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let next = if state.out.is_closed() {
            None
        } else {
            let step = state.drawing.step(&logits);
            let next = match &step {
                Ok(Step { piece, end: None }) => piece.tokens.last().map(|token| token.id),
                _ => None,
            };
            // Nobody may be listening any more: the next step sees that.
            let _ = state.out.send(step);
            next
        };
        let mut chosen = vec![0.0_f32; logits.len()];
        if let Some(score) = chosen.get_mut(next.unwrap_or(self.end) as usize) {
            *score = 1.0;
        }
        Tensor::from_vec(chosen, logits.len(), &mistralrs::Device::Cpu)
    }
}
