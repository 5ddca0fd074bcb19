//! Finds out at load whether requests may run together: prompts alone and together must give the same tokens.

use std::sync::Arc;

use common::generation::{Generation, Prompt, Sampling};
use futures::future::try_join_all;
use tokio::sync::Semaphore;

use super::Inner;
use super::generating::Job;
use crate::api::EngineError;

/// Requests at once where they may run together.
const TOGETHER: usize = 16;
const PROMPTS: u32 = 4;
/// Prompts of equal length are decoded in one batch.
const PROMPT_TOKENS: u32 = 12;
const ANSWER_TOKENS: u32 = 6;

/// How many requests may run at once.
pub(super) async fn run(inner: &Inner) -> Result<usize, EngineError> {
    let jobs: Vec<Job> = (0..PROMPTS).map(|i| job(i, inner.reader.info.vocabulary)).collect();
    let one = Arc::new(Semaphore::new(1));
    let mut alone = Vec::new();
    for job in &jobs {
        alone.push(draw(inner, job, &one).await?);
    }
    if alone.iter().all(|tokens| tokens.len() < 3) {
        // Nothing was decoded that could have gone wrong.
        return Ok(1);
    }
    let all = Arc::new(Semaphore::new(jobs.len()));
    let together = try_join_all(jobs.iter().map(|job| draw(inner, job, &all))).await?;
    Ok(if together == alone { TOGETHER } else { 1 })
}

/// Different ids in each prompt, spread over the vocabulary.
fn job(number: u32, vocabulary: u32) -> Job {
    let ids = (0..PROMPT_TOKENS).map(|i| (number * 7919 + i * 104_729 + 5) % vocabulary).collect();
    let sampling = Sampling { seed: u64::from(number) + 1, temperature: 1.0, top_p: 1.0 };
    let prompt = Prompt::Text(String::new());
    let generation = Generation::plain(prompt, sampling, ANSWER_TOKENS);
    Job { ids, generation, grammar: None }
}

async fn draw(inner: &Inner, job: &Job, permits: &Arc<Semaphore>) -> Result<Vec<u32>, EngineError> {
    let mut running = inner.start(job, permits).await?;
    let mut tokens = Vec::new();
    while let Some(step) = running.steps.recv().await {
        tokens.extend(step?.piece.tokens.into_iter().map(|token| token.id));
    }
    Ok(tokens)
}
