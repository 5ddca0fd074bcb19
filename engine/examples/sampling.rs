//! Compares the rate of seeded sampling with that of plain mistral.rs sampling on the same model.
//!
//! `cargo run -p engine --example sampling [MODEL_FOLDER]`. The two alternate answer by answer in one run, so that other work
//! on the machine meets both alike; the ratio of the median rates is printed last.

use std::path::Path;
use std::time::Instant;

use anyhow::bail;
use common::generation::{Generation, Message, Prompt, Role, Sampling};
use engine::{Embedded, EmbeddedConfig, Engine, Purpose};
use mistralrs::{
    ModelDType, RequestBuilder, Response, SamplingParams, TextMessageRole, TextModelBuilder,
};

const ROUNDS: u64 = 150;
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

    let (mut plain_rates, mut our_rates) = (Vec::new(), Vec::new());
    for seed in 0..ROUNDS {
        plain_rates.push(rate_plain(&plain).await?);
        our_rates.push(rate_ours(&ours, seed).await?);
    }
    let (plain, ours) = (median(plain_rates), median(our_rates));
    println!("plain  {plain:6.0} tokens/s (median of {ROUNDS} answers)");
    println!("seeded {ours:6.0} tokens/s");
    println!("ratio  {:.3}", ours / plain);
    Ok(())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Streams an answer of plain temperature sampling; tokens per second.
async fn rate_plain(model: &mistralrs::Model) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let request = RequestBuilder::new().add_message(TextMessageRole::User, QUESTION).set_sampling(
        SamplingParams {
            temperature: Some(1.0),
            max_len: Some(TOKENS as usize),
            ..SamplingParams::neutral()
        },
    );
    let mut stream = model.stream_chat_request(request).await?;
    let mut tokens = 0;
    while let Some(response) = stream.next().await {
        let Response::Chunk(chunk) = response else { bail!("mistral.rs did not answer") };
        // Tokens that give no text come without a chunk of their own.
        tokens = chunk.usage.as_ref().map_or(tokens + 1, |usage| usage.completion_tokens);
        if chunk.usage.is_some() {
            break;
        }
    }
    Ok(tokens as f64 / begun.elapsed().as_secs_f64())
}

/// Streams an answer of seeded sampling; tokens per second.
async fn rate_ours(engine: &Embedded, seed: u64) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let prompt = Prompt::Chat(vec![Message::new(Role::User, QUESTION)]);
    let sampling = Sampling { seed, temperature: 1.0, top_p: 1.0 };
    let generation = Generation::plain(prompt, sampling, TOKENS);
    let tokens = engine.generate(generation).await?.answer().await?.tokens.len();
    Ok(tokens as f64 / begun.elapsed().as_secs_f64())
}
