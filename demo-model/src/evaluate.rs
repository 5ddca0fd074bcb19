//! Measuring a model on text that it was not trained on, and letting it write.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokenizers::Tokenizer;

use crate::model::Model;
use crate::tokenizer::{END_OF_TEXT, TURN_END, TURN_START, encode};

/// Sums over tokens, in nats.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    pub tokens: usize,
    loss: f64,
    entropy: f64,
}

impl Tally {
    fn add(&mut self, loss: f64, entropy: f64) {
        self.tokens += 1;
        self.loss += loss;
        self.entropy += entropy;
    }

    /// Mean negative log-probability of the text's tokens.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss / self.tokens.max(1) as f64
    }

    /// Mean entropy of the model's predictions at temperature 1.
    #[must_use]
    pub fn entropy(&self) -> f64 {
        self.entropy / self.tokens.max(1) as f64
    }
}

/// What a model made of documents.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measured {
    /// Over all tokens but a document's first.
    pub all: Tally,
    /// Over the assistant's words only, the end of its turn included.
    pub answers: Tally,
}

/// Reads documents one by one, each from position 0 as an engine would.
///
/// # Errors
/// When the model or the tokenizer fails.
pub fn measure(
    model: &Model,
    tokenizer: &Tokenizer,
    documents: impl Iterator<Item = String>,
) -> Result<Measured> {
    let mut measured = Measured::default();
    let assistant = encode(tokenizer, &format!("{}assistant\n", TURN_START.1))?;
    for document in documents {
        let mut ids = encode(tokenizer, &document)?;
        ids.truncate(model.config().max_position_embeddings);
        if ids.len() < 2 {
            continue;
        }
        let logits = logits(model, &ids[..ids.len() - 1])?;
        let mut in_answer = false;
        for (index, row) in logits.iter().enumerate() {
            let seen = &ids[..=index];
            in_answer =
                (in_answer && seen.last() != Some(&TURN_END.0)) || seen.ends_with(&assistant);
            let (loss, entropy) = loss_and_entropy(row, ids[index + 1] as usize);
            measured.all.add(loss, entropy);
            if in_answer {
                measured.answers.add(loss, entropy);
            }
        }
    }
    Ok(measured)
}

fn logits(model: &Model, ids: &[u32]) -> Result<Vec<Vec<f32>>> {
    let tokens = Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu)?;
    Ok(model.forward(&tokens)?.to_vec2()?)
}

/// Negative log-probability of `target`, and the entropy, under the softmax of a row of logits.
fn loss_and_entropy(row: &[f32], target: usize) -> (f64, f64) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = |x: f32| f64::from(x - largest);
    let total: f64 = row.iter().map(|x| shifted(*x).exp()).sum();
    let weighted: f64 = row.iter().map(|x| shifted(*x).exp() * shifted(*x)).sum();
    (total.ln() - shifted(row[target]), total.ln() - weighted / total)
}

/// Continues a prompt until a turn or the text ends, at most `limit` tokens. Temperature 0 takes the likeliest token.
///
/// # Errors
/// When the model fails or the temperature is negative or not finite.
pub fn sample(
    model: &Model,
    tokenizer: &Tokenizer,
    prompt: &str,
    temperature: f32,
    limit: usize,
    seed: u64,
) -> Result<String> {
    ensure!(temperature >= 0.0 && temperature.is_finite(), "the temperature must be 0 or above");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut ids = encode(tokenizer, prompt)?;
    let start = ids.len();
    let limit = limit.min(model.config().max_position_embeddings.saturating_sub(start));
    for _ in 0..limit {
        // The whole prefix every time: quick enough at this size, and there is no cache to get wrong.
        let Some(row) = logits(model, &ids)?.pop() else { break };
        let id = draw(&row, temperature, &mut rng) as u32;
        if id == TURN_END.0 || id == END_OF_TEXT.0 {
            break;
        }
        ids.push(id);
    }
    crate::tokenizer::decode(tokenizer, &ids[start..])
}

/// The index of the largest `logit / temperature + Gumbel noise`, which is a draw from the softmax.
fn draw(row: &[f32], temperature: f32, rng: &mut impl Rng) -> usize {
    let score = |logit: f32, uniform: f32| {
        if temperature == 0.0 { logit } else { logit / temperature - (-uniform.ln()).ln() }
    };
    let mut best = (0, f32::NEG_INFINITY);
    for (index, logit) in row.iter().enumerate() {
        let score = score(*logit, rng.random_range(f32::MIN_POSITIVE..1.0));
        if score > best.1 {
            best = (index, score);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_entropy_of_a_known_distribution() {
        let row = [0.5f32, 0.25, 0.25].map(|p| 3.0 + p.ln());
        let (loss, entropy) = loss_and_entropy(&row, 1);
        assert!((loss - 4f64.ln()).abs() < 1e-6);
        assert!((entropy - 1.5 * 2f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn draws_follow_the_softmax_and_the_temperature() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let row = [0.7f32, 0.2, 0.1].map(f32::ln);
        let mut share = |temperature| {
            (0..5_000).filter(|_| draw(&row, temperature, &mut rng) == 0).count() as f64 / 5_000.0
        };
        assert!((share(1.0) - 0.7).abs() < 0.03);
        // At half the temperature probabilities are squared.
        assert!((share(0.5) - 0.49 / 0.54).abs() < 0.03);
        assert!(share(0.0) > 0.9999);
    }
}
