//! A Llama-architecture language model with the tensor names and the configuration file that inference engines expect.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::ops::{RotaryTable, causal_softmax, rms_norm, swiglu};

/// The fields of `config.json` that describe a Llama model. Sizes are in elements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub architectures: Vec<String>,
    pub model_type: String,
    pub hidden_act: String,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: f32,
    pub tie_word_embeddings: bool,
    pub bos_token_id: u32,
    pub eos_token_id: u32,
    pub torch_dtype: String,
}

/// The two models that are shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Size {
    /// 4.2 million parameters, every dimension divisible by 256.
    Base,
    /// 1.4 million parameters.
    Sibling,
}

impl Config {
    /// The configuration of a shipped model.
    #[must_use]
    pub fn of(size: Size) -> Self {
        match size {
            Size::Base => Self::llama(256, 768, 4, 4),
            Size::Sibling => Self::llama(128, 512, 4, 4),
        }
    }

    /// A Llama over this crate's vocabulary.
    #[must_use]
    pub fn llama(hidden: usize, intermediate: usize, layers: usize, heads: usize) -> Self {
        Self {
            architectures: vec!["LlamaForCausalLM".into()],
            model_type: "llama".into(),
            hidden_act: "silu".into(),
            hidden_size: hidden,
            intermediate_size: intermediate,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            vocab_size: crate::tokenizer::VOCABULARY,
            max_position_embeddings: 1024,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: false,
            bos_token_id: crate::tokenizer::END_OF_TEXT.0,
            eos_token_id: crate::tokenizer::TURN_END.0,
            torch_dtype: "float16".into(),
        }
    }

    /// Name and shape of every tensor of the model.
    #[must_use]
    pub fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let mut shapes = BTreeMap::from([
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden]),
            ("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ]);
        for layer in 0..self.num_hidden_layers {
            let mut add = |name: &str, shape: Vec<usize>| {
                shapes.insert(format!("model.layers.{layer}.{name}.weight"), shape);
            };
            for projection in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                add(&format!("self_attn.{projection}"), vec![hidden, hidden]);
            }
            add("mlp.gate_proj", vec![inner, hidden]);
            add("mlp.up_proj", vec![inner, hidden]);
            add("mlp.down_proj", vec![hidden, inner]);
            add("input_layernorm", vec![hidden]);
            add("post_attention_layernorm", vec![hidden]);
        }
        shapes
    }

    /// The number of weights.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.tensors().values().map(|shape| shape.iter().product::<usize>()).sum()
    }
}

/// Random weights to start training from, by tensor name.
///
/// Attention begins as copying: a head's output projection is its value projection turned round, and the output layer
/// is the embedding, so that whatever a head looks at becomes likelier, and looking at the right place pays from the
/// first step on.
///
/// # Errors
/// When a tensor cannot be made.
pub fn initial_weights(config: &Config, rng: &mut impl Rng) -> Result<BTreeMap<String, Tensor>> {
    let mut weights = BTreeMap::new();
    for (name, shape) in config.tensors() {
        let count = shape.iter().product();
        let values: Vec<f32> = match shape[..] {
            [_] => vec![1.0; count],
            _ => {
                let width = shape.last().copied().unwrap_or(1) as f32;
                let deviation = if name.contains("embed_tokens") {
                    0.1
                } else if name.contains("down_proj") {
                    // Every block adds to the residual stream: keep its variance from growing with depth.
                    (width * 2.0 * config.num_hidden_layers as f32).sqrt().recip()
                } else {
                    width.sqrt().recip()
                };
                (0..count).map(|_| deviation * normal(rng)).collect()
            }
        };
        weights.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    for layer in 0..config.num_hidden_layers {
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}_proj.weight");
        let value = weights.get(&name("v")).context("no value projection")?;
        let output = (value.t()?.contiguous()? * 0.3)?;
        weights.insert(name("o"), output);
    }
    let embedding = weights.get("model.embed_tokens.weight").context("no embedding")?;
    let head = (embedding * 0.5)?;
    weights.insert("lm_head.weight".to_owned(), head);
    Ok(weights)
}

/// A standard normal draw (Box–Muller).
fn normal(rng: &mut impl Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (std::f32::consts::TAU * rng.random::<f32>()).cos()
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    feed_forward_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

/// A model ready to run. It shares its weights' storage, so it follows an optimiser that changes them.
#[derive(Debug)]
pub struct Model {
    config: Config,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
    rotary: RotaryTable,
}

impl Model {
    /// Puts f32 weights together.
    ///
    /// # Errors
    /// Names the first tensor that is missing or whose shape is not the configuration's.
    pub fn new(config: &Config, weights: &BTreeMap<String, Tensor>) -> Result<Self> {
        ensure!(
            config.num_key_value_heads == config.num_attention_heads
                && config.num_attention_heads > 0
                && config.hidden_size.is_multiple_of(2 * config.num_attention_heads),
            "only as many key as query heads, of an even size, are supported"
        );
        for (name, shape) in config.tensors() {
            let tensor = weights.get(&name).with_context(|| format!("no tensor {name}"))?;
            if tensor.dims() != shape {
                bail!("tensor {name} is {:?}, config.json says {shape:?}", tensor.dims());
            }
        }
        let get = |name: &str| {
            weights.get(&format!("{name}.weight")).cloned().with_context(|| format!("no {name}"))
        };
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let get = |name: &str| get(&format!("model.layers.{layer}.{name}"));
                Ok(Layer {
                    attention_norm: get("input_layernorm")?,
                    query: get("self_attn.q_proj")?,
                    key: get("self_attn.k_proj")?,
                    value: get("self_attn.v_proj")?,
                    output: get("self_attn.o_proj")?,
                    feed_forward_norm: get("post_attention_layernorm")?,
                    gate: get("mlp.gate_proj")?,
                    up: get("mlp.up_proj")?,
                    down: get("mlp.down_proj")?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            embedding: get("model.embed_tokens")?,
            layers,
            norm: get("model.norm")?,
            head: get("lm_head")?,
            rotary: RotaryTable::new(
                config.max_position_embeddings,
                config.hidden_size / config.num_attention_heads,
                config.rope_theta,
            ),
            config: config.clone(),
        })
    }

    /// The sizes it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Logits `[batch · positions, vocabulary]` of the token after each position; `tokens` is u32
    /// `[batch, positions]`. A document does not see the one before it in the same row: otherwise what the other one
    /// says hides that the answer to a question can be found in the question.
    ///
    /// # Errors
    /// When a token is outside the vocabulary or there are more positions than the context holds.
    pub fn forward(&self, tokens: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, positions) = tokens.dims2()?;
        let starts = document_starts(&tokens.to_vec2()?);
        let eps = self.config.rms_norm_eps;
        let mut x = self.embedding.index_select(&tokens.flatten_all()?, 0)?;
        for layer in &self.layers {
            let normed = rms_norm(&x, &layer.attention_norm, eps)?;
            let attended = self.attention(layer, &normed, (batch, positions), &starts)?;
            x = (x + attended)?;
            let normed = rms_norm(&x, &layer.feed_forward_norm, eps)?;
            let inner = swiglu(&normed.matmul(&layer.gate.t()?)?, &normed.matmul(&layer.up.t()?)?)?;
            x = (x + inner.matmul(&layer.down.t()?)?)?;
        }
        rms_norm(&x, &self.norm, eps)?.matmul(&self.head.t()?)
    }

    fn attention(
        &self,
        layer: &Layer,
        x: &Tensor,
        (batch, positions): (usize, usize),
        starts: &Arc<[usize]>,
    ) -> candle_core::Result<Tensor> {
        let heads = self.config.num_attention_heads;
        let size = self.config.hidden_size / heads;
        let split = |weight: &Tensor| {
            x.matmul(&weight.t()?)?
                .reshape((batch, positions, heads, size))?
                .transpose(1, 2)?
                .contiguous()
        };
        let query = self.rotary.rotate(&split(&layer.query)?)?;
        let key = self.rotary.rotate(&split(&layer.key)?)?;
        let value = split(&layer.value)?;
        let scores = query.matmul(&key.t()?)?;
        let attended = causal_softmax(&scores, (size as f32).sqrt().recip(), starts.clone())?
            .matmul(&value)?;
        attended
            .transpose(1, 2)?
            .reshape((batch * positions, heads * size))?
            .matmul(&layer.output.t()?)
    }
}

/// For every token of every row the position at which its document starts.
fn document_starts(rows: &[Vec<u32>]) -> Arc<[usize]> {
    let mut starts = Vec::new();
    for row in rows {
        let mut start = 0;
        for (position, token) in row.iter().enumerate() {
            starts.push(start);
            if *token == crate::tokenizer::END_OF_TEXT.0 {
                start = position + 1;
            }
        }
    }
    starts.into()
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn tiny() -> (Config, BTreeMap<String, Tensor>) {
        let mut config = Config::llama(32, 64, 2, 2);
        config.vocab_size = 40;
        let weights = initial_weights(&config, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        (config, weights)
    }

    fn logits(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
        let tokens = Tensor::from_slice(tokens, (1, tokens.len()), &Device::Cpu).unwrap();
        model.forward(&tokens).unwrap().to_vec2().unwrap()
    }

    fn assert_close(a: &[Vec<f32>], b: &[Vec<f32>]) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
            assert!((a - b).abs() < 1e-3, "{a} against {b}");
        }
    }

    #[test]
    fn a_token_depends_on_those_before_it_only() {
        let (config, weights) = tiny();
        let model = Model::new(&config, &weights).unwrap();
        let (one, other) = (logits(&model, &[5, 6, 7, 8]), logits(&model, &[5, 6, 9, 9]));
        assert_close(&one[..2], &other[..2]);
        assert_ne!(logits(&model, &[5, 6, 7])[2], logits(&model, &[6, 5, 7])[2]);
    }

    #[test]
    fn a_document_does_not_see_the_one_before_it() {
        let (config, weights) = tiny();
        let model = Model::new(&config, &weights).unwrap();
        let end = crate::tokenizer::END_OF_TEXT.0;
        let behind = logits(&model, &[9, 11, end, 5, 6, 7]);
        assert_close(&behind[3..], &logits(&model, &[5, 6, 7]));
    }

    #[test]
    fn rows_of_a_batch_are_independent() {
        let (config, weights) = tiny();
        let model = Model::new(&config, &weights).unwrap();
        let both = Tensor::new(&[[5u32, 6, 7], [8, 9, 10]], &Device::Cpu).unwrap();
        let both = model.forward(&both).unwrap().to_vec2().unwrap();
        assert_close(&both[..3], &logits(&model, &[5, 6, 7]));
        assert_close(&both[3..], &logits(&model, &[8, 9, 10]));
    }

    #[test]
    fn weights_that_do_not_fit_are_named() {
        let (config, mut weights) = tiny();
        let name = "model.layers.1.mlp.up_proj.weight";
        let wrong = Tensor::zeros((64, 31), DType::F32, &Device::Cpu).unwrap();
        weights.insert(name.into(), wrong);
        assert!(Model::new(&config, &weights).unwrap_err().to_string().contains(name));
        weights.remove(name);
        assert!(Model::new(&config, &weights).unwrap_err().to_string().contains(name));
    }

    #[test]
    fn the_models_have_the_promised_sizes() {
        assert_eq!(Config::of(Size::Base).parameters(), 4_196_608);
        assert_eq!(Config::of(Size::Sibling).parameters(), 1_442_944);
    }
}
