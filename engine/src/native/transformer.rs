//! The forward pass of a model of the Llama family, over several sequences at once and in pieces.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::kv_cache::KvCache;
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};
use candle_nn::rotary_emb::rope;

use common::format::NumericFormat;

use super::config::Shape;

/// Positions by which a cache grows.
const CACHE_STEP: usize = 256;

/// Weights and how to compute with them.
#[derive(Debug)]
pub(super) struct Transformer {
    shape: Shape,
    device: Device,
    arithmetic: Arithmetic,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    output: Linear,
    cosines: Tensor,
    sines: Tensor,
}

#[derive(Debug)]
struct Layer {
    before_attention: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    norms: Option<(Tensor, Tensor)>,
    attended: Linear,
    before_mlp: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

#[derive(Debug)]
struct Linear {
    /// Transposed: inputs × outputs.
    weight: Tensor,
    bias: Option<Tensor>,
    /// The format to which inputs are rounded before a product with quantised weights.
    inputs: Option<GgmlDType>,
}

impl Linear {
    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let product = match self.inputs {
            Some(format) => rounded(input, format)?.matmul(&self.weight)?,
            None => input.matmul(&self.weight)?,
        };
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

/// What is left of numbers in a format of blocks.
fn rounded(tensor: &Tensor, format: GgmlDType) -> Result<Tensor> {
    // A part of a tensor would be read from the beginning of the whole.
    QTensor::quantize(&tensor.force_contiguous()?, format)?.dequantize(tensor.device())
}

/// Keys and values of the positions of one sequence that have been computed.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    layers: Vec<KvCache>,
    length: usize,
}

/// Tokens that follow what a cache holds.
pub(super) struct Part<'a> {
    pub(super) ids: &'a [u32],
    pub(super) cache: &'a mut Cache,
}

struct Loader<'a> {
    tensors: HashMap<String, Tensor>,
    arithmetic: Arithmetic,
    device: &'a Device,
}

impl Loader<'_> {
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let tensor = self.tensors.get(name);
        let tensor =
            tensor.ok_or_else(|| candle_core::Error::Msg(format!("the weights have no {name}")))?;
        let tensor = tensor.to_device(self.device)?.to_dtype(DType::F32)?;
        self.arithmetic.settle(tensor.to_dtype(self.arithmetic.dtype())?)
    }

    fn linear(&self, name: &str, biased: bool) -> Result<Linear> {
        let weight = self.tensor(&format!("{name}.weight"))?;
        let bias = biased.then(|| self.tensor(&format!("{name}.bias"))).transpose()?;
        self.product(&weight, bias)
    }

    /// Products of quantised numbers are those of what is left of them, up to the rounding of f32, and much faster so than
    /// where the CPU's instructions for integers are not used.
    fn product(&self, weight: &Tensor, bias: Option<Tensor>) -> Result<Linear> {
        let (weight, inputs) = match self.arithmetic.quantisation() {
            Some((weights, inputs)) => (rounded(weight, weights)?, Some(inputs)),
            None => (weight.clone(), None),
        };
        Ok(Linear { weight: weight.t()?.contiguous()?, bias, inputs })
    }
}

impl Transformer {
    pub(super) fn load(
        shape: Shape,
        folder: &Path,
        files: &[String],
        context: usize,
        arithmetic: Arithmetic,
        device: Device,
    ) -> Result<Self> {
        let mut tensors = HashMap::new();
        for file in files {
            tensors.extend(candle_core::safetensors::load(folder.join(file), &Device::Cpu)?);
        }
        let loader = Loader { tensors, arithmetic, device: &device };
        let layer = |index: usize| {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            let linear = |part: &str, biased| loader.linear(&name(part), biased);
            let norm = |part: &str| loader.tensor(&name(&format!("{part}.weight")));
            let norms = match shape.normed {
                true => Some((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?)),
                false => None,
            };
            Ok(Layer {
                before_attention: norm("input_layernorm")?,
                query: linear("self_attn.q_proj", shape.biased)?,
                key: linear("self_attn.k_proj", shape.biased)?,
                value: linear("self_attn.v_proj", shape.biased)?,
                norms,
                attended: linear("self_attn.o_proj", false)?,
                before_mlp: norm("post_attention_layernorm")?,
                gate: linear("mlp.gate_proj", false)?,
                up: linear("mlp.up_proj", false)?,
                down: linear("mlp.down_proj", false)?,
            })
        };
        let layers = (0..shape.layers).map(layer).collect::<Result<_>>()?;
        let embedding = loader.tensor("model.embed_tokens.weight")?;
        let output = match shape.tied {
            true => loader.product(&embedding, None)?,
            false => loader.linear("lm_head", false)?,
        };
        let norm = loader.tensor("model.norm.weight")?;

        let frequencies = shape.rotary.frequencies(shape.head);
        let frequencies = Tensor::from_vec(frequencies, (1, shape.head / 2), &device)?;
        let positions = Tensor::arange(0, context as u32, &device)?.to_dtype(DType::F32)?;
        let angles = positions.reshape((context, 1))?.matmul(&frequencies)?;
        let table = |angles: Result<Tensor>| angles?.to_dtype(arithmetic.dtype());
        let (cosines, sines) = (table(angles.cos())?, table(angles.sin())?);
        Ok(Self { shape, arithmetic, embedding, layers, norm, output, cosines, sines, device })
    }

    /// A cache without a position.
    pub(super) fn cache(&self) -> Cache {
        Cache { layers: vec![KvCache::new(1, CACHE_STEP); self.shape.layers], length: 0 }
    }

    /// The last hidden state of every token of all parts, in order: tokens × hidden size.
    pub(super) fn hidden(&self, parts: &mut [Part<'_>]) -> Result<Tensor> {
        let ids: Vec<u32> = parts.iter().flat_map(|part| part.ids).copied().collect();
        let ids = Tensor::from_vec(ids.clone(), ids.len(), &self.device)?;
        let mut state = self.embedding.index_select(&ids, 0)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = self.norm(&state, &layer.before_attention)?;
            let attended = self.attend(layer, index, &normed, parts)?;
            state = self.arithmetic.settle((state + attended)?)?;
            let normed = self.norm(&state, &layer.before_mlp)?;
            let gate = self.linear(&layer.gate, &normed)?;
            let inner =
                self.arithmetic.settle((silu(&gate)? * self.linear(&layer.up, &normed)?)?)?;
            state = self.arithmetic.settle((state + self.linear(&layer.down, &inner)?)?)?;
        }
        for part in parts {
            part.cache.length += part.ids.len();
        }
        self.norm(&state, &self.norm)
    }

    /// The logits of hidden states, in f32: tokens × vocabulary.
    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.linear(&self.output, &hidden.contiguous()?)?.to_dtype(DType::F32)
    }

    fn linear(&self, linear: &Linear, input: &Tensor) -> Result<Tensor> {
        self.arithmetic.settle(linear.forward(input)?)
    }

    fn norm(&self, state: &Tensor, weight: &Tensor) -> Result<Tensor> {
        self.arithmetic.settle(rms_norm(&state.contiguous()?, weight, self.shape.norm_epsilon)?)
    }

    /// What each token takes from those before it. Only here sequences differ: everything else is done for all tokens.
    fn attend(
        &self,
        layer: &Layer,
        index: usize,
        state: &Tensor,
        parts: &mut [Part<'_>],
    ) -> Result<Tensor> {
        let shape = &self.shape;
        let by_head = |linear: &Linear, heads: usize, norm: Option<&Tensor>| {
            let all = self.linear(linear, state)?.reshape(((), heads, shape.head))?;
            match norm {
                Some(weight) => self.norm(&all, weight),
                None => Ok(all),
            }
        };
        let norms = layer.norms.as_ref();
        let queries = by_head(&layer.query, shape.heads, norms.map(|(query, _)| query))?;
        let keys = by_head(&layer.key, shape.kv_heads, norms.map(|(_, key)| key))?;
        let values = by_head(&layer.value, shape.kv_heads, None)?;
        let mut start = 0;
        let mut outputs = Vec::with_capacity(parts.len());
        for part in parts {
            let (count, past) = (part.ids.len(), part.cache.length);
            let own = |all: &Tensor| all.narrow(0, start, count)?.transpose(0, 1)?.contiguous();
            let (cosines, sines) =
                (self.cosines.narrow(0, past, count)?, self.sines.narrow(0, past, count)?);
            let turn = |all: &Tensor| {
                let turned = rope(&own(all)?.unsqueeze(0)?, &cosines, &sines)?.squeeze(0)?;
                self.arithmetic.settle(turned)
            };
            let query = turn(&queries)?;
            let (key, value) = part.cache.layers[index].append(&turn(&keys)?, &own(&values)?)?;
            // The heads that share keys and values, one after the other.
            let shared = shape.heads / shape.kv_heads;
            let query = query.reshape((shape.kv_heads, shared * count, shape.head))?;
            let scores = (query.matmul(&key.t()?)? * (shape.head as f64).powf(-0.5))?;
            let scores = scores.to_dtype(DType::F32)?;
            let scores = match count {
                1 => scores,
                _ => scores
                    .reshape((shape.heads, count, past + count))?
                    .broadcast_add(&causal(past, count, &self.device)?)?
                    .reshape((shape.kv_heads, shared * count, past + count))?,
            };
            let weights = softmax_last_dim(&scores)?.to_dtype(self.arithmetic.dtype())?;
            let weights = self.arithmetic.settle(weights)?;
            let output = weights.matmul(&value.contiguous()?)?;
            let output = output.reshape((shape.heads, count, shape.head))?.transpose(0, 1)?;
            outputs.push(output.reshape((count, shape.heads * shape.head))?);
            start += count;
        }
        let together = self.arithmetic.settle(Tensor::cat(&outputs, 0)?)?;
        self.linear(&layer.attended, &together)
    }
}

/// Keeps a token from looking at those after it.
fn causal(past: usize, count: usize, device: &Device) -> Result<Tensor> {
    let row = |token: usize| {
        (0..past + count)
            .map(move |other| if other > past + token { f32::NEG_INFINITY } else { 0.0 })
    };
    let mask: Vec<f32> = (0..count).flat_map(row).collect();
    Tensor::from_vec(mask, (count, past + count), device)
}

/// A format, and what computing in it means here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arithmetic {
    format: NumericFormat,
    /// The CPU has no products in bf16: they are computed in f32, and every result is rounded.
    rounded: bool,
}

impl Arithmetic {
    pub(super) fn new(format: NumericFormat, device: &Device) -> Self {
        Self { format, rounded: format == NumericFormat::Bf16 && device.is_cpu() }
    }

    /// The format in which tensors are kept.
    fn dtype(self) -> DType {
        match self.format {
            NumericFormat::F16 => DType::F16,
            NumericFormat::Bf16 if !self.rounded => DType::BF16,
            _ => DType::F32,
        }
    }

    /// The format of the weights, and that of what they are multiplied with, as in GGML.
    fn quantisation(self) -> Option<(GgmlDType, GgmlDType)> {
        match self.format {
            NumericFormat::F32 | NumericFormat::F16 | NumericFormat::Bf16 => None,
            NumericFormat::Q8_0 => Some((GgmlDType::Q8_0, GgmlDType::Q8_0)),
            NumericFormat::Q4_0 => Some((GgmlDType::Q4_0, GgmlDType::Q8_0)),
            NumericFormat::Q4K => Some((GgmlDType::Q4K, GgmlDType::Q8K)),
        }
    }

    /// Rounds a result to the format that is computed in.
    fn settle(self, tensor: Tensor) -> Result<Tensor> {
        match self.rounded {
            true => tensor.to_dtype(DType::BF16)?.to_dtype(DType::F32),
            false => Ok(tensor),
        }
    }
}
