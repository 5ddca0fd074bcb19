//! Training: AdamW with warm-up and a cosine schedule on rows of whole documents.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokenizers::Tokenizer;

use crate::corpus::Corpus;
use crate::folder;
use crate::model::{Config, Model, initial_weights};
use crate::ops::cross_entropy;
use crate::tokenizer::encode;

/// What a training run is told.
#[derive(Debug, Clone)]
pub struct Plan {
    pub config: Config,
    /// Of the initial weights and of the training text.
    pub seed: u64,
    /// Training ends when so many tokens were seen.
    pub tokens: usize,
    /// Tokens in one step of the optimiser; divisible by 512.
    pub batch: usize,
    pub peak_learning_rate: f64,
    /// Norm above which a gradient is scaled down.
    pub max_gradient: f64,
}

impl Plan {
    fn steps(&self) -> usize {
        self.tokens.div_ceil(self.batch).max(1)
    }
}

/// Length of the rows of a step in tokens: mostly short, at times long, so that later positions are trained as well.
fn row_length(step: usize) -> usize {
    if step % 4 == 3 { 512 } else { 256 }
}

/// Share of the peak learning rate at a step: up in a line, then down along a cosine to a twentieth.
fn schedule(step: usize, steps: usize) -> f64 {
    let warm_up = (steps / 20).clamp(1, 100);
    if step < warm_up {
        return (step + 1) as f64 / warm_up as f64;
    }
    let progress = (step - warm_up) as f64 / (steps - warm_up).max(1) as f64;
    0.05 + 0.95 * 0.5 * (1.0 + (PI * progress).cos())
}

/// Weights in training.
#[derive(Debug)]
pub struct Trainer {
    plan: Plan,
    variables: BTreeMap<String, Var>,
    model: Model,
    optimiser: AdamW,
    step: usize,
}

impl Trainer {
    /// Draws the initial weights.
    ///
    /// # Errors
    /// When the plan's sizes do not fit together.
    pub fn new(plan: Plan) -> Result<Self> {
        ensure!(
            plan.batch > 0 && plan.batch.is_multiple_of(512),
            "the batch must be divisible by 512"
        );
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
        let variables = initial_weights(&plan.config, &mut rng)?
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), Var::from_tensor(tensor)?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        let tensors =
            variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let model = Model::new(&plan.config, &tensors)?;
        let optimiser = AdamW::new(
            variables.values().cloned().collect(),
            ParamsAdamW { lr: 0.0, beta2: 0.95, weight_decay: 0.05, ..ParamsAdamW::default() },
        )?;
        Ok(Self { plan, variables, model, optimiser, step: 0 })
    }

    /// One step on rows of equal length, each one token longer than what is predicted. Returns the loss before it in
    /// nats per token.
    ///
    /// # Errors
    /// When rows differ in length or hold unknown tokens.
    pub fn step(&mut self, rows: &[Vec<u32>]) -> Result<f32> {
        let length = rows.first().map_or(0, Vec::len);
        ensure!(length > 1 && rows.iter().all(|row| row.len() == length), "rows must be equal");
        let tensor = |from: usize| {
            let ids = rows.iter().flat_map(|row| row[from..from + length - 1].to_vec()).collect();
            Tensor::from_vec::<_, u32>(ids, (rows.len(), length - 1), &Device::Cpu)
        };
        let logits = self.model.forward(&tensor(0)?)?;
        let loss = cross_entropy(&logits, &tensor(1)?.flatten_all()?)?;
        let mut gradients = loss.backward()?;
        self.clip(&mut gradients)?;
        let share = schedule(self.step, self.plan.steps());
        self.optimiser.set_learning_rate(self.plan.peak_learning_rate * share);
        self.optimiser.step(&gradients)?;
        self.step += 1;
        Ok(loss.to_scalar()?)
    }

    fn clip(&self, gradients: &mut GradStore) -> Result<()> {
        let mut square = 0f64;
        for variable in self.variables.values() {
            if let Some(gradient) = gradients.get(variable) {
                square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
        }
        let norm = square.sqrt();
        if norm > self.plan.max_gradient {
            for variable in self.variables.values() {
                if let Some(gradient) = gradients.remove(variable) {
                    gradients.insert(variable, (gradient * (self.plan.max_gradient / norm))?);
                }
            }
        }
        Ok(())
    }

    /// The weights as they are now.
    #[must_use]
    pub fn weights(&self) -> BTreeMap<String, Tensor> {
        self.variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
    }
}

/// Endless rows of training tokens.
#[derive(Debug)]
pub struct Rows<'a, I> {
    tokenizer: &'a Tokenizer,
    documents: I,
}

impl<'a, I: Iterator<Item = String>> Rows<'a, I> {
    /// Rows from documents.
    pub fn new(tokenizer: &'a Tokenizer, documents: I) -> Self {
        Self { tokenizer, documents }
    }

    /// The next row of so many tokens. It begins with a document, as prompts do; what no longer fits of its last one
    /// is dropped.
    ///
    /// # Errors
    /// When the tokenizer fails or the documents end.
    pub fn next_row(&mut self, length: usize) -> Result<Vec<u32>> {
        let mut row = Vec::with_capacity(length + 256);
        while row.len() < length {
            let document = self.documents.next();
            let document = document.ok_or_else(|| anyhow::anyhow!("the documents have ended"))?;
            row.extend(encode(self.tokenizer, &document)?);
        }
        row.truncate(length);
        Ok(row)
    }
}

/// Trains a model and writes its folder, at times in between too. `report` gets a line now and then.
///
/// # Errors
/// When the folder cannot be written or training fails.
pub fn train(
    plan: Plan,
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    out: &Path,
    mut report: impl FnMut(String),
) -> Result<()> {
    let (steps, batch, seed) = (plan.steps(), plan.batch, plan.seed);
    let mut rows = Rows::new(tokenizer, corpus.training(seed.wrapping_add(1_000)));
    let mut trainer = Trainer::new(plan.clone())?;
    let start = Instant::now();
    let mut average = None;
    for step in 0..steps {
        let length = row_length(step);
        let rows =
            (0..batch / length).map(|_| rows.next_row(length + 1)).collect::<Result<Vec<_>>>()?;
        let loss = trainer.step(&rows)?;
        let smooth = average.map_or(loss, |average: f32| 0.95 * average + 0.05 * loss);
        average = Some(smooth);
        let done = step + 1;
        if done % 20 == 0 || done == steps {
            let seconds = start.elapsed().as_secs_f64();
            let tokens = done * batch;
            let rate = tokens as f64 / seconds;
            report(format!(
                "step {done}/{steps}, {tokens} tokens, {rate:.0} tokens/s, {seconds:.0} s, loss {smooth:.4}"
            ));
        }
        if done % 200 == 0 || done == steps {
            folder::write(out, &plan.config, tokenizer, &trainer.weights())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Plan {
        let mut config = Config::llama(32, 64, 2, 2);
        config.vocab_size = 40;
        config.max_position_embeddings = 64;
        Plan {
            config,
            seed: 1,
            tokens: 60 * 512,
            batch: 512,
            peak_learning_rate: 1e-2,
            max_gradient: 1.0,
        }
    }

    #[test]
    fn a_tiny_model_learns_a_row_by_heart() {
        let mut trainer = Trainer::new(tiny()).unwrap();
        let rows: Vec<Vec<u32>> =
            (0..4).map(|row| (0..33).map(|i| (i * i * (row + 2) + i) % 40).collect()).collect();
        let first = trainer.step(&rows).unwrap();
        let mut last = first;
        for _ in 0..59 {
            last = trainer.step(&rows).unwrap();
        }
        assert!((first - 40f32.ln()).abs() < 0.2, "an untrained model knows nothing: {first}");
        assert!(last < 0.5, "the loss only fell to {last}");
    }

    #[test]
    fn every_weight_is_trained() {
        let mut trainer = Trainer::new(tiny()).unwrap();
        let before: BTreeMap<_, _> =
            trainer.weights().iter().map(|(name, t)| (name.clone(), t.copy().unwrap())).collect();
        trainer.step(&[(0..33).collect()]).unwrap();
        for (name, after) in trainer.weights() {
            let change = (after - &before[&name]).unwrap().abs().unwrap().max_all().unwrap();
            assert!(change.to_scalar::<f32>().unwrap() > 0.0, "{name}");
        }
    }

    #[test]
    fn the_same_seed_trains_the_same_weights() {
        let loss = |seed| {
            let mut trainer = Trainer::new(Plan { seed, ..tiny() }).unwrap();
            (0..3).map(|_| trainer.step(&[(0..33).collect()]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(loss(1), loss(1));
        assert_ne!(loss(1), loss(2));
    }

    #[test]
    fn unequal_rows_and_unknown_tokens_are_refused() {
        let mut trainer = Trainer::new(tiny()).unwrap();
        assert!(trainer.step(&[]).is_err());
        assert!(trainer.step(&[vec![1, 2, 3], vec![1, 2]]).is_err());
        assert!(trainer.step(&[vec![1, 2, 40]]).is_err());
    }

    #[test]
    fn the_learning_rate_rises_and_falls() {
        assert!(schedule(0, 1_000) < 0.05);
        assert!((schedule(49, 1_000) - 1.0).abs() < 1e-9);
        assert!(schedule(500, 1_000) < 1.0);
        assert!((schedule(1_000, 1_000) - 0.05).abs() < 1e-9);
    }
}
