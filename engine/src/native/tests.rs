use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use common::format::NumericFormat;
use common::generation::{Generation, Message, Prompt, Role, Sampling};

use super::*;
use crate::api::ReferencePass;
use crate::{Embedded, EmbeddedConfig, Purpose, Quantisation};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo-model/touchstone-demo-4m")
}

fn native(folder: &Path, format: NumericFormat) -> Native {
    let config = NativeConfig {
        folder: folder.to_owned(),
        name: "m".to_owned(),
        format,
        context: Some(256),
    };
    Native::load(&config).unwrap().unwrap()
}

async fn by_mistral(folder: &Path, pass: ReferencePass) -> Reference {
    let config = EmbeddedConfig::new(folder, "m", Purpose::Reference);
    Embedded::load(config, |_| {}).await.unwrap().reference(pass).await.unwrap()
}

fn ask(seed: u64, max_tokens: u32) -> Generation {
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, seed };
    let messages = [
        Message::new(Role::System, "You are kind."),
        Message::new(Role::User, "What is the moon?"),
    ];
    Generation::plain(Prompt::Chat(messages.to_vec()), sampling, max_tokens)
}

/// The demo model's folder with other settings in it.
fn folder_with(change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in demo().read_dir().unwrap().flatten() {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    change(folder.path());
    folder
}

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

fn assert_alike(ours: &Reference, theirs: &Reference, what: &str) {
    assert_eq!(ours.prompt_tokens, theirs.prompt_tokens, "{what}");
    assert_eq!(ours.text, theirs.text, "{what}");
    assert_eq!(ours.tokens.len(), theirs.tokens.len(), "{what}");
    for (ours, theirs) in ours.tokens.iter().zip(&theirs.tokens) {
        assert!((ours.logprob - theirs.logprob).abs() < 1e-3, "{what}: {ours:?} {theirs:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_architecture_scores_as_mistral_does() {
    let weights = |folder: &Path, more: &[(String, usize)]| {
        let path = folder.join("model.safetensors");
        let mut tensors: HashMap<_, _> =
            candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        for (name, size) in more {
            let tensor = Tensor::rand(0.5_f32, 1.5, *size, &Device::Cpu).unwrap();
            let tensor = tensor.to_dtype(candle_core::DType::F16).unwrap();
            tensors.insert(name.clone(), tensor);
        }
        candle_core::safetensors::save(&tensors, &path).unwrap();
    };
    let in_layers = |parts: &[(&str, usize)]| -> Vec<(String, usize)> {
        let name = |layer: usize, part: &str| format!("model.layers.{layer}.self_attn.{part}");
        (0..4)
            .flat_map(|layer| parts.iter().map(move |(part, size)| (name(layer, part), *size)))
            .collect()
    };
    let llama3 = serde_json::json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    let cases = [
        ("LlamaForCausalLM", "llama", vec![], serde_json::json!({"rope_scaling": llama3})),
        ("MistralForCausalLM", "mistral", vec![], serde_json::json!({"sliding_window": null})),
        (
            "Qwen2ForCausalLM",
            "qwen2",
            in_layers(&[("q_proj.bias", 256), ("k_proj.bias", 256), ("v_proj.bias", 256)]),
            serde_json::json!({"use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 4}),
        ),
        (
            "Qwen3ForCausalLM",
            "qwen3",
            in_layers(&[("q_norm.weight", 64), ("k_norm.weight", 64)]),
            serde_json::json!({"head_dim": 64, "use_sliding_window": false, "attention_bias": false, "max_window_layers": 4}),
        ),
    ];
    for (architecture, kind, more, settings) in cases {
        let folder = folder_with(|folder| {
            edit(&folder.join("config.json"), |config| {
                config["architectures"] = serde_json::json!([architecture]);
                config["model_type"] = kind.into();
                for (key, value) in settings.as_object().unwrap() {
                    config[key] = value.clone();
                }
            });
            weights(folder, &more);
        });
        let tokens: Vec<u32> = (0..90).map(|index| 5 + index * 13 % 1500).collect();
        let pass = ReferencePass::new(ask(1, 90), tokens);
        let ours = native(folder.path(), NumericFormat::F32).score(pass.clone()).unwrap();
        assert_alike(&ours, &by_mistral(folder.path(), pass).await, architecture);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_templates_are_rendered_as_by_mistral() {
    let templates = [
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- set date_string = \"26 Jul 2024\" %}\n{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n{{- system_message }}\n{%- for message in messages %}\n    {{- '<|' + message['role'] + '|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}\n{%- endfor %}\n",
        "{%- for message in messages[::-1] %}{{ loop.index0 }} {{ message.content.strip() }}{% endfor %}{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}",
    ];
    for template in templates {
        let folder = folder_with(|folder| {
            edit(&folder.join("tokenizer_config.json"), |config| {
                config["chat_template"] = template.into();
            });
        });
        let pass = ReferencePass::new(ask(1, 3), vec![7, 8, 9]);
        let ours = native(folder.path(), NumericFormat::F32).score(pass.clone()).unwrap();
        assert_alike(&ours, &by_mistral(folder.path(), pass).await, template);
    }
}

#[test]
fn answers_given_together_are_those_given_alone_and_score_as_drawn() {
    let model = native(&demo(), NumericFormat::F32);
    let asked: Vec<_> = (0..12).map(|seed| ask(seed, 24)).collect();
    let together = model.answer(&asked, 5).unwrap();
    assert_eq!(together.len(), asked.len());
    for (asked, together) in asked.iter().zip(&together) {
        let alone = &model.answer(std::slice::from_ref(asked), 1).unwrap()[0];
        let ids = |answer: &Answer| answer.tokens.iter().map(|token| token.id).collect::<Vec<_>>();
        assert_eq!((ids(alone), &alone.text), (ids(together), &together.text));
        let scored = model.score(ReferencePass::new(asked.clone(), ids(together))).unwrap();
        assert_eq!(scored.prompt_tokens, together.prompt_tokens);
        for (score, token) in scored.tokens.iter().zip(&together.tokens) {
            assert_eq!((score.drawn, score.deficit), (token.id, 0.0));
            assert!((score.logprob - token.logprob).abs() < 1e-4);
        }
    }
}

#[test]
fn a_long_answer_is_scored_in_pieces_as_a_whole_one() {
    let model = native(&demo(), NumericFormat::F32);
    let tokens: Vec<u32> = (0..200).map(|index| 5 + index * 7 % 1500).collect();
    let whole = model
        .score(ReferencePass { top: 5, ..ReferencePass::new(ask(1, 200), tokens.clone()) })
        .unwrap();
    assert_eq!(whole.tokens.len(), 200);
    // The start of an answer is scored alike whatever follows.
    let start = model.score(ReferencePass::new(ask(1, 200), tokens[..60].to_vec())).unwrap();
    for (whole, start) in whole.tokens.iter().zip(&start.tokens) {
        assert!((whole.logprob - start.logprob).abs() < 1e-4 && whole.top.len() == 5);
    }
    let long = ReferencePass::new(ask(1, 1), vec![7; 300]);
    assert!(matches!(model.score(long), Err(EngineError::TooLong { .. })));
    let outside = ReferencePass::new(ask(1, 1), vec![7, 1536]);
    assert!(matches!(
        model.score(outside),
        Err(EngineError::OutsideVocabulary { token: 1536, .. })
    ));
}

#[test]
fn other_formats_are_near_and_in_the_known_order() {
    let exact = native(&demo(), NumericFormat::F32);
    let asked: Vec<_> = (0..6).map(|seed| ask(seed, 40)).collect();
    let answers = exact.answer(&asked, 6).unwrap();
    let distance = |format| {
        let model = native(&demo(), format);
        let (mut sum, mut count) = (0.0, 0.0);
        for (asked, answer) in asked.iter().zip(&answers) {
            let tokens = answer.tokens.iter().map(|token| token.id).collect();
            let scored = model.score(ReferencePass::new(asked.clone(), tokens)).unwrap();
            for (score, token) in scored.tokens.iter().zip(&answer.tokens) {
                sum += f64::from((score.logprob - token.logprob).abs());
                count += 1.0;
            }
        }
        sum / count
    };
    let [f32, f16, bf16, q4k] =
        [NumericFormat::F32, NumericFormat::F16, NumericFormat::Bf16, NumericFormat::Q4K]
            .map(distance);
    assert!(
        f32 < 1e-4 && f32 < f16 && f16 < bf16 && bf16 < q4k && q4k < 0.3,
        "{f32} {f16} {bf16} {q4k}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn quantised_weights_score_as_mistral_has_them() {
    let tokens: Vec<u32> = (0..90).map(|index| 5 + index * 13 % 1500).collect();
    let pass = ReferencePass::new(ask(1, 90), tokens);
    for (format, quantisation) in
        [(NumericFormat::Q8_0, Quantisation::Q8_0), (NumericFormat::Q4K, Quantisation::Q4K)]
    {
        let config = EmbeddedConfig {
            quantisation: Some(quantisation),
            ..EmbeddedConfig::new(demo(), "m", Purpose::Reference)
        };
        let theirs = Embedded::load(config, |_| {}).await.unwrap();
        let theirs = theirs.reference(pass.clone()).await.unwrap();
        let ours = native(&demo(), format).score(pass.clone()).unwrap();
        let exact = native(&demo(), NumericFormat::F32).score(pass.clone()).unwrap();
        let distance = |other: &Reference| {
            let pairs = ours.tokens.iter().zip(&other.tokens);
            pairs.map(|(one, other)| (one.logprob - other.logprob).abs()).sum::<f32>() / 90.0
        };
        // Each product is the same; where rounding falls the other way, the next layer's does as well.
        assert!(
            distance(&theirs) < 0.7 * distance(&exact),
            "{format}: {} {}",
            distance(&theirs),
            distance(&exact)
        );
    }
}

#[test]
fn a_model_of_another_kind_is_left_to_mistral() {
    for (key, value) in [
        ("architectures", serde_json::json!(["MixtralForCausalLM"])),
        ("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 2.0})),
        ("hidden_act", serde_json::json!("gelu")),
        ("quantization_config", serde_json::json!({"quant_method": "fp8"})),
    ] {
        let folder = folder_with(|folder| {
            edit(&folder.join("config.json"), |config| config[key] = value);
        });
        let config = NativeConfig {
            folder: folder.path().to_owned(),
            name: "m".to_owned(),
            format: NumericFormat::F32,
            context: None,
        };
        assert!(Native::load(&config).unwrap().is_none(), "{key}");
    }
}
