//! Which models are computed here, by their `config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::folder;

/// The sizes and habits of a model of the Llama family.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head: usize,
    pub(super) norm_epsilon: f32,
    pub(super) rotary: Rotary,
    /// The output layer is the embedding.
    pub(super) tied: bool,
    /// Queries, keys and values have a bias (Qwen2).
    pub(super) biased: bool,
    /// Queries and keys are normalised by head (Qwen3).
    pub(super) normed: bool,
}

/// Rotary position embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rotary {
    pub(super) theta: f32,
    pub(super) scaling: Option<Llama3>,
}

/// Llama 3's stretching of long wavelengths.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(super) struct Llama3 {
    pub(super) factor: f32,
    pub(super) low_freq_factor: f32,
    pub(super) high_freq_factor: f32,
    pub(super) original_max_position_embeddings: f32,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architectures: Vec<String>,
    hidden_act: Option<String>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    sliding_window: Option<usize>,
    max_position_embeddings: usize,
    quantization_config: Option<Value>,
}

impl Shape {
    /// `None` if the folder's model is of another kind, or has a habit that is not known here.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        let config: Config = folder::json(folder, "config.json").ok()?;
        let [architecture] = config.architectures.as_slice() else { return None };
        let (biased, normed) = match architecture.as_str() {
            "LlamaForCausalLM" | "MistralForCausalLM" => (false, false),
            "Qwen2ForCausalLM" => (true, false),
            "Qwen3ForCausalLM" => (false, true),
            _ => return None,
        };
        let scaling = match config.rope_scaling {
            None | Some(Value::Null) => None,
            Some(scaling) if scaling.get("rope_type").and_then(Value::as_str) == Some("llama3") => {
                Some(Llama3::deserialize(scaling).ok()?)
            }
            Some(_) => return None,
        };
        let strange = config.hidden_act.as_deref() != Some("silu")
            || config.attention_bias == Some(true)
            || config.mlp_bias == Some(true)
            // Engines do not agree on when such a window is in use.
            || config.sliding_window.is_some_and(|window| window < config.max_position_embeddings)
            || config.rope_parameters.is_some()
            || config.quantization_config.is_some();
        let heads = config.num_attention_heads;
        let kv_heads = config.num_key_value_heads.unwrap_or(heads);
        let head = config.head_dim.or_else(|| config.hidden_size.checked_div(heads))?;
        if strange
            || kv_heads == 0
            || !heads.is_multiple_of(kv_heads)
            || head == 0
            || !head.is_multiple_of(2)
        {
            return None;
        }
        Some(Self {
            hidden: config.hidden_size,
            layers: config.num_hidden_layers,
            heads,
            kv_heads,
            head,
            norm_epsilon: config.rms_norm_eps,
            rotary: Rotary { theta: config.rope_theta.unwrap_or(10_000.0), scaling },
            tied: config.tie_word_embeddings,
            biased,
            normed,
        })
    }
}

impl Rotary {
    /// The angle by which each pair of a head's entries turns per position.
    pub(super) fn frequencies(self, head: usize) -> Vec<f32> {
        let plain = (0..head).step_by(2).map(|i| self.theta.powf(-(i as f32) / head as f32));
        let Some(scaling) = self.scaling else { return plain.collect() };
        let wavelength = |frequency: f32| 2.0 * std::f32::consts::PI / frequency;
        let longest = scaling.original_max_position_embeddings / scaling.low_freq_factor;
        let shortest = scaling.original_max_position_embeddings / scaling.high_freq_factor;
        let stretch = |frequency: f32| {
            let wavelength = wavelength(frequency);
            if wavelength < shortest {
                frequency
            } else if wavelength > longest {
                frequency / scaling.factor
            } else {
                let part = (scaling.original_max_position_embeddings / wavelength
                    - scaling.low_freq_factor)
                    / (scaling.high_freq_factor - scaling.low_freq_factor);
                (1.0 - part) * frequency / scaling.factor + part * frequency
            }
        };
        plain.map(stretch).collect()
    }
}
