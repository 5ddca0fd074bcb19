//! The reference pass: one prefill that returns the logits of every position.
//!
//! mistral.rs keeps a raw sequence for one more step after it has answered. A second request in that time can be batched
//! with it, which kills the engine, so the permit stays with the sequence until that is gone.

use std::sync::Arc;

use futures::TryFutureExt;
use mistralrs::{CustomLogitsProcessor, DType, Response, Tensor};
use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc};

use super::{Inner, Purpose, REVIVALS};
use crate::api::{EngineError, Reference, ReferencePass};
use crate::scoring::{Rule, Scored};

pub(super) async fn reference(
    inner: &Arc<Inner>,
    pass: ReferencePass,
) -> Result<Reference, EngineError> {
    inner.unless(Purpose::Reference, "checks")?;
    inner.reader.check_tokens(&pass.tokens)?;
    inner.reader.check(&pass.generation)?;
    let grammar = inner.reader.grammar(&pass.generation).await?;
    let mut ids = inner.render(&pass.generation).await?;
    let length = |ids: &[u32]| u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let (tokens, max_tokens, context) =
        (length(&ids), length(&pass.tokens), inner.reader.info.context);
    if tokens.saturating_add(max_tokens) > context {
        return Err(EngineError::TooLong { tokens, max_tokens, context });
    }
    let prompt = ids.len();
    ids.extend(&pass.tokens);
    let rule = Rule::new(&pass, inner.reader.info.end_tokens.clone(), grammar);
    let (scores, outside_grammar) = match pass.tokens.is_empty() {
        true => (Vec::new(), None),
        false => score(inner, ids, prompt, rule).await?,
    };
    let text = inner.reader.text(&pass.tokens)?;
    Ok(Reference { prompt_tokens: tokens, tokens: scores, text, outside_grammar })
}

async fn score(
    inner: &Inner,
    ids: Vec<u32>,
    prompt: usize,
    rule: Rule,
) -> Result<Scored, EngineError> {
    let ids: Arc<[u32]> = ids.into();
    for _ in 0..=REVIVALS {
        let permit = Arc::clone(&inner.permits).acquire_owned().await;
        let permit = permit.map_err(|error| EngineError::Failed(error.to_string()))?;
        let live = inner.live().await?;
        let (sender, receiver) = mpsc::channel(4);
        let receiver = Arc::new(Mutex::new(receiver));
        let held = Arc::new(Held { _receiver: Arc::clone(&receiver), _permit: permit });
        // The length is of no account: a raw request ends after the prefill.
        let request = inner.request(ids.to_vec(), 1, true, held, sender);
        // If the engine is gone, the channel of answers is closed, which says the same.
        let _ = live.requests.send(request).await;
        let answer = receiver.lock().await.recv().await;
        // An engine that answers is alive, whatever it answers: another one would answer the same.
        let Some(response) = answer else {
            inner.revive(&live).await?;
            continue;
        };
        let problem = match response {
            Response::Raw { logits_chunks, tokens } if *tokens == *ids => {
                let reduce = move || reduce(&logits_chunks, &ids, prompt, rule);
                let reduced =
                    tokio::task::spawn_blocking(reduce).map_err(|error| error.to_string());
                return reduced.await.flatten().map_err(EngineError::Failed);
            }
            response => match response.as_result() {
                Ok(_) => "it answered something else than the logits".to_owned(),
                Err(error) => error.to_string(),
            },
        };
        return Err(EngineError::Failed(problem));
    }
    Err(EngineError::Failed("it died whenever it was asked to score tokens".to_owned()))
}

/// Scores each token after the prompt from the row of logits before it. The only place that sees whole rows.
fn reduce(chunks: &[Tensor], ids: &[u32], prompt: usize, mut rule: Rule) -> Result<Scored, String> {
    let mut scores = Vec::with_capacity(ids.len() - prompt);
    let mut next = 1;
    for chunk in chunks {
        let (rows, width) = chunk.dims2().map_err(|error| error.to_string())?;
        for row in 0..rows {
            if let Some(&given) = ids.get(next)
                && next >= prompt
            {
                if given as usize >= width {
                    return Err(format!("it answered logits of {width} tokens only"));
                }
                let row = chunk.get(row).and_then(|row| row.to_dtype(DType::F32)?.to_vec1::<f32>());
                let row = row.map_err(|error| error.to_string())?;
                scores.push(rule.score(&row, given, (next - prompt) as u32)?);
            }
            next += 1;
        }
    }
    match next == ids.len() + 1 {
        true => Ok((scores, rule.outside)),
        false => Err(format!("it answered {} rows of logits for {} tokens", next - 1, ids.len())),
    }
}

/// Keeps what must outlive the sequence. Raw requests are never sampled.
struct Held {
    _receiver: Arc<Mutex<mpsc::Receiver<Response>>>,
    _permit: OwnedSemaphorePermit,
}

impl CustomLogitsProcessor for Held {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> mistralrs::Result<Tensor> {
        Ok(logits.clone())
    }
}
