//! The model folders that the repository ships.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use demo_model::corpus::Corpus;
use demo_model::evaluate::{Measured, measure, sample};
use demo_model::folder;
use demo_model::model::{Config, Size};
use demo_model::tokenizer::{CHAT_TEMPLATE, chat_prompt, encode};

const FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn base() -> PathBuf {
    path("touchstone-demo-4m")
}

fn sibling() -> PathBuf {
    path("touchstone-demo-1m")
}

#[test]
fn the_folders_are_complete_and_small() {
    let mut bytes = 0;
    for folder in [base(), sibling()] {
        for file in FILES {
            bytes += fs::metadata(folder.join(file)).unwrap().len();
        }
    }
    assert!(bytes <= 16_000_000, "{bytes} bytes");
}

#[test]
fn the_tensors_are_those_of_the_configuration() {
    for (folder, size) in [(base(), Size::Base), (sibling(), Size::Sibling)] {
        let config: Config =
            serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        assert_eq!(config, Config::of(size));
        let tensors =
            candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
        let expected = config.tensors();
        assert_eq!(tensors.len(), expected.len());
        for (name, shape) in expected {
            assert_eq!(tensors[&name].dims(), shape, "{name}");
            assert_eq!(tensors[&name].dtype(), DType::F16, "{name}");
        }
    }
}

#[test]
fn the_base_model_can_be_quantised_in_blocks_of_256() {
    for (name, shape) in Config::of(Size::Base).tensors() {
        assert!(shape.iter().all(|size| size % 256 == 0), "{name}: {shape:?}");
    }
}

#[test]
fn both_models_share_tokenizer_and_chat_format() {
    let read = |folder: &Path, file| fs::read_to_string(folder.join(file)).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(read(&base(), file), read(&sibling(), file), "{file}");
    }
    let settings: serde_json::Value =
        serde_json::from_str(&read(&base(), "tokenizer_config.json")).unwrap();
    assert_eq!(settings["chat_template"], CHAT_TEMPLATE);
}

#[test]
fn the_base_model_predicts_new_text_better_than_its_sibling() {
    let corpus = Corpus::new().unwrap();
    let measured = |folder: PathBuf| -> Measured {
        let (model, tokenizer) = folder::read(&folder).unwrap();
        measure(&model, &tokenizer, corpus.held_out(11).take(40)).unwrap()
    };
    let (base, sibling) = (measured(base()), measured(sibling()));
    assert!(base.all.tokens > 1_000 && base.all.tokens == sibling.all.tokens);
    assert!(base.all.loss() < 0.7, "base: {}", base.all.loss());
    assert!(sibling.all.loss() < 0.8, "sibling: {}", sibling.all.loss());
    assert!(base.all.loss() < sibling.all.loss());
    assert!(base.answers.entropy() > 0.3, "the answers leave nothing open");
}

/// The words of a text in small letters.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

#[test]
fn the_base_model_answers_in_english_and_stops() {
    let corpus = Corpus::new().unwrap();
    let documents: Vec<String> = corpus.training(1).take(3_000).collect();
    let english: HashSet<String> = documents.iter().flat_map(|text| words(text)).collect();
    let (model, tokenizer) = folder::read(&base()).unwrap();
    for (question, limit) in
        [("Hello!", 60), ("How do I make pancakes?", 80), ("Tell me a story about a fox.", 250)]
    {
        let prompt = chat_prompt(&[("user", question)]);
        let answer = sample(&model, &tokenizer, &prompt, 0.0, limit, 1).unwrap();
        let length = encode(&tokenizer, &answer).unwrap().len();
        assert!((4..limit).contains(&length), "{question} {answer}");
        for word in words(&answer) {
            assert!(english.contains(&word), "{question} {answer}");
        }
    }
}

#[test]
fn a_broken_folder_is_an_error_that_names_the_file() {
    let message = folder::read(Path::new("no/such/folder")).unwrap_err().to_string();
    assert!(message.contains("config.json"), "{message}");
}
