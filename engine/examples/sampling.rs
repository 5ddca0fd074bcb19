//! Compares the rate of seeded sampling with that of plain mistral.rs sampling on the same model.
//!
//! `cargo run -p engine --example sampling [MODEL_FOLDER]`. The two alternate in one run; the median ratio is printed last.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use common::generation::{Generation, Message, Prompt, Role, Sampling};
use engine::{Embedded, EmbeddedConfig, Engine, Event, Purpose};
use futures::StreamExt;
use mistralrs::{
    ModelDType, RequestBuilder, Response, SamplingParams, TextMessageRole, TextModelBuilder,
};

const ROUNDS: u64 = 15;
const ANSWERS: u64 = 12;
const TOKENS: u32 = 160;
const QUESTION: &str = "Tell me a story.";

#[expect(clippy::print_stdout, reason = "a program whose result is what it prints")]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo-model/touchstone-demo-4m");
    let folder = std::env::args().nth(1).map_or(demo, Into::into);
    let ours =
        Embedded::load(EmbeddedConfig::new(&folder, "model", Purpose::Generation), |_| ()).await?;
    let plain = TextModelBuilder::new(folder.display())
        .with_force_cpu()
        .with_dtype(ModelDType::F32)
        .with_prefix_cache_n(None)
        .build()
        .await?;

    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let (plain, ours) = (rate_plain(&plain).await?, rate_ours(&ours, round).await?);
        println!(
            "plain {plain:7.0} tokens/s   seeded {ours:7.0} tokens/s   ratio {:.3}",
            ours / plain
        );
        ratios.push(ours / plain);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.3}", ratios[ratios.len() / 2]);
    Ok(())
}

/// Streams answers of plain temperature sampling; tokens per second.
async fn rate_plain(model: &mistralrs::Model) -> anyhow::Result<f64> {
    let (begun, mut tokens) = (Instant::now(), 0);
    for _ in 0..ANSWERS {
        let request = RequestBuilder::new()
            .add_message(TextMessageRole::User, QUESTION)
            .set_sampling(SamplingParams {
                temperature: Some(1.0),
                max_len: Some(TOKENS as usize),
                ..SamplingParams::neutral()
            });
        let mut stream = model.stream_chat_request(request).await?;
        let mut answer = 0;
        while let Some(response) = stream.next().await {
            let Response::Chunk(chunk) = response else { bail!("mistral.rs did not answer") };
            // Tokens that give no text come without a chunk of their own.
            answer = chunk.usage.as_ref().map_or(answer + 1, |usage| usage.completion_tokens);
            if chunk.usage.is_some() {
                break;
            }
        }
        tokens += answer;
    }
    Ok(tokens as f64 / begun.elapsed().as_secs_f64())
}

/// Streams answers of seeded sampling; tokens per second.
async fn rate_ours(engine: &Embedded, round: u64) -> anyhow::Result<f64> {
    let (begun, mut tokens) = (Instant::now(), 0);
    for answer in 0..ANSWERS {
        let generation = Generation {
            prompt: Prompt::Chat(vec![Message { role: Role::User, content: QUESTION.to_owned() }]),
            sampling: Sampling { seed: round * ANSWERS + answer, temperature: 1.0, top_p: 1.0 },
            max_tokens: TOKENS,
            stop: Vec::new(),
            top_logprobs: 0,
        };
        let mut events = engine.generate(generation).await?.events;
        loop {
            match events.next().await.context("the stream broke off")?? {
                Event::Piece(piece) => tokens += piece.tokens.len(),
                Event::End(_) => break,
            }
        }
    }
    Ok(tokens as f64 / begun.elapsed().as_secs_f64())
}
