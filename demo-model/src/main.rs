//! Command line: train a demo model, look at its text, measure it and let it write.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use demo_model::corpus::Corpus;
use demo_model::evaluate::{measure, sample};
use demo_model::model::{Config, Size};
use demo_model::tokenizer::chat_prompt;
use demo_model::train::{Plan, train};
use demo_model::{folder, tokenizer};

/// Trains and tries the small language models that ship with Touchstone.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model from nothing and write its folder.
    Train {
        /// Folder to write; it also gets intermediate versions.
        #[arg(long)]
        out: PathBuf,
        #[arg(long, value_enum)]
        size: Size,
        /// Seed of the initial weights and of the training text.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many tokens to train on.
        #[arg(long, default_value_t = 2_500_000)]
        tokens: usize,
        /// Tokens in one step, divisible by 512.
        #[arg(long, default_value_t = 1024)]
        batch: usize,
        /// Highest learning rate of the schedule.
        #[arg(long, default_value_t = 3e-3)]
        learning_rate: f64,
    },
    /// Print documents of the training text.
    Corpus {
        #[arg(long, default_value_t = 5)]
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Measure a model on text that is never trained on.
    Evaluate {
        #[arg(long)]
        model: PathBuf,
        /// Number of documents.
        #[arg(long, default_value_t = 200)]
        count: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Let a model answer a question, or continue a text.
    Sample {
        #[arg(long)]
        model: PathBuf,
        /// The user's question, or with --raw the beginning of a text.
        prompt: String,
        #[arg(long)]
        system: Option<String>,
        #[arg(long)]
        raw: bool,
        #[arg(long, default_value_t = 0.7)]
        temperature: f32,
        #[arg(long, default_value_t = 200)]
        max_tokens: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn progress(line: String) {
    eprintln!("{line}");
}

fn main() -> Result<()> {
    let mut out = std::io::stdout().lock();
    match Cli::parse().command {
        Command::Train { out, size, seed, tokens, batch, learning_rate } => {
            let corpus = Corpus::new()?;
            progress("learning the tokenizer".into());
            let tokenizer = tokenizer::train(&corpus)?;
            let config = Config::of(size);
            progress(format!("training {} parameters", config.parameters()));
            let plan = Plan {
                config,
                seed,
                tokens,
                batch,
                peak_learning_rate: learning_rate,
                max_gradient: 1.0,
            };
            train(plan, &corpus, &tokenizer, &out, progress)?;
        }
        Command::Corpus { count, seed } => {
            for document in Corpus::new()?.training(seed).take(count) {
                writeln!(out, "{document}\n")?;
            }
        }
        Command::Evaluate { model, count, seed } => {
            let (model, tokenizer) = folder::read(&model)?;
            let documents = Corpus::new()?;
            let measured = measure(&model, &tokenizer, documents.held_out(seed).take(count))?;
            for (name, tally) in [("all text", measured.all), ("answers", measured.answers)] {
                writeln!(
                    out,
                    "{name}: {} tokens, loss {:.4}, entropy {:.4} nats per token",
                    tally.tokens,
                    tally.loss(),
                    tally.entropy()
                )?;
            }
        }
        Command::Sample { model, prompt, system, raw, temperature, max_tokens, seed } => {
            let (model, tokenizer) = folder::read(&model)?;
            let prompt = if raw {
                prompt
            } else {
                let system = system.iter().map(|text| ("system", text.as_str()));
                chat_prompt(&system.chain([("user", prompt.as_str())]).collect::<Vec<_>>())
            };
            let text = sample(&model, &tokenizer, &prompt, temperature, max_tokens, seed)?;
            writeln!(out, "{text}")?;
        }
    }
    Ok(())
}
