//! What the embedded engine promises, tried on the demo model.

mod parameters;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::generation::{FinishReason, Message, Prompt, Role, Sampling};
use futures::StreamExt;
use futures::future::join_all;
use mistralrs::Request;

use super::*;
use crate::api::Answer;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo-model/touchstone-demo-4m")
}

async fn engine(purpose: Purpose) -> Embedded {
    Embedded::load(EmbeddedConfig::new(demo(), "demo", purpose), |_| ()).await.unwrap()
}

fn chat(text: &str) -> Prompt {
    Prompt::Chat(vec![Message::new(Role::User, text)])
}

fn ask(text: &str, seed: u64) -> Generation {
    Generation::plain(chat(text), Sampling { seed, temperature: 1.0, top_p: 1.0 }, 24)
}

fn pass(text: &str, tokens: Vec<u32>) -> ReferencePass {
    ReferencePass::new(ask(text, 1), tokens)
}

async fn answer(engine: &Embedded, generation: Generation) -> Answer {
    engine.generate(generation).await.unwrap().answer().await.unwrap()
}

/// Waits until no sequence is left in the engine.
async fn idle(engine: &Embedded) {
    let all = u32::try_from(engine.parallel()).unwrap();
    let permits = engine.inner.permits.acquire_many(all);
    drop(tokio::time::timeout(Duration::from_secs(30), permits).await.expect("the engine is busy"));
}

async fn current(engine: &Embedded) -> Arc<Live> {
    Arc::clone(engine.inner.slot.lock().await.live.as_ref().unwrap())
}

#[tokio::test]
async fn the_same_seed_gives_the_same_tokens_alone_repeated_together_and_with_shared_prefixes() {
    let engine = engine(Purpose::Generation).await;
    let prompts = [
        "Tell me about the moon.",
        "Tell me about the moon and the sea.",
        "Tell me",
        "What is 3 + 4?",
    ];
    let asks: Vec<Generation> = (5..).zip(prompts).map(|(seed, text)| ask(text, seed)).collect();
    let mut alone = Vec::new();
    for generation in &asks {
        alone.push(answer(&engine, generation.clone()).await);
    }
    let repeated = answer(&engine, asks[0].clone()).await;
    assert_eq!(repeated, alone[0]);
    let together =
        join_all(asks.iter().map(|generation| answer(&engine, generation.clone()))).await;
    assert_eq!(together, alone);
}

#[tokio::test]
async fn other_seeds_give_other_answers_and_temperature_zero_needs_none() {
    let engine = engine(Purpose::Generation).await;
    let mut answers = Vec::new();
    for seed in 0..4 {
        answers.push(answer(&engine, ask("Tell me a story.", seed)).await.ids());
    }
    answers.sort();
    answers.dedup();
    assert!(answers.len() >= 3, "{answers:?}");

    let greedy = |seed| {
        let mut greedy = ask("Tell me a story.", seed);
        greedy.sampling.temperature = 0.0;
        greedy
    };
    assert_eq!(answer(&engine, greedy(1)).await, answer(&engine, greedy(2)).await);
}

#[tokio::test]
async fn a_reference_pass_finds_the_tokens_drawn_and_their_probabilities() {
    let (generation, reference) =
        (engine(Purpose::Generation).await, engine(Purpose::Reference).await);
    let mut ask = ask("Tell me a story about a fox.", 0);
    ask.max_tokens = 64;
    ask.top_logprobs = 3;
    let (mut tokens, mut same) = (0, 0);
    for (seed, temperature, top_p) in [(1, 1.0, 1.0), (2, 0.7, 0.9), (3, 1.3, 0.95), (4, 0.0, 1.0)]
    {
        ask.sampling = Sampling { seed, temperature, top_p };
        let answer = answer(&generation, ask.clone()).await;
        let pass = ReferencePass::new(ask.clone(), answer.ids());
        let checked = reference.reference(pass).await.unwrap();
        assert_eq!(checked.text, answer.text);
        assert_eq!(checked.tokens.len(), answer.tokens.len());
        for (token, score) in std::iter::zip(&answer.tokens, &checked.tokens) {
            assert!((token.logprob - score.logprob).abs() < 1e-3, "{token:?} {score:?}");
            assert!(token.top.len() == 3 && token.top[0].logprob >= token.top[1].logprob);
            assert!((score.rank == 0) == (token.top[0].id == token.id), "{token:?} {score:?}");
            tokens += 1;
            same += u32::from(score.deficit == 0.0 && score.drawn == token.id);
        }
    }
    assert!(tokens > 40 && same * 100 >= tokens * 98, "{same} of {tokens} tokens");
}

#[tokio::test]
async fn tokens_that_the_seed_did_not_draw_have_deficits() {
    let reference = engine(Purpose::Reference).await;
    let pass = pass("Hello", (10..40).collect());
    let checked = reference.reference(pass).await.unwrap();
    let large = checked.tokens.iter().filter(|score| score.deficit > 1.0).count();
    assert!(large > 20, "{checked:?}");
    assert!(checked.tokens.iter().all(|score| score.logprob < 0.0 && score.gap() >= 0.0));
}

#[tokio::test]
async fn a_stop_text_ends_the_answer_and_is_no_part_of_it() {
    let engine = engine(Purpose::Generation).await;
    let whole = answer(&engine, ask("Tell me a story.", 11)).await;
    let stop: String = whole.text.chars().skip(whole.text.chars().count() / 2).take(4).collect();
    let mut generation = ask("Tell me a story.", 11);
    generation.stop = vec!["never said".to_owned(), stop.clone()];
    let stopped = answer(&engine, generation).await;
    let at = whole.text.find(&stop).unwrap();
    assert_eq!(
        (stopped.text.as_str(), stopped.finish_reason),
        (&whole.text[..at], FinishReason::Stop)
    );
    assert_eq!(stopped.tokens, whole.tokens[..stopped.tokens.len()]);
    let said: String = stopped.tokens.iter().map(|token| token.text.as_str()).collect();
    assert!(said.contains(&stop), "the token that completed the stop text is missing: {said:?}");
}

#[tokio::test]
async fn the_answer_ends_at_the_limit_of_tokens_or_with_the_end_token() {
    let engine = engine(Purpose::Generation).await;
    let ends = &engine.model().end_tokens;
    let mut generation = ask("Tell me a story.", 3);
    for (limit, seed) in (1..6).zip(3..) {
        (generation.max_tokens, generation.sampling.seed) = (limit, seed);
        let answer = answer(&engine, generation.clone()).await;
        let ended = answer.tokens.last().is_some_and(|token| ends.contains(&token.id));
        match answer.finish_reason {
            FinishReason::Length => {
                assert!(answer.tokens.len() == limit as usize && !ended, "{answer:?}")
            }
            FinishReason::Stop => {
                assert!(answer.tokens.len() <= limit as usize && ended, "{answer:?}")
            }
            FinishReason::ToolCalls => panic!("engines write text"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_nobody_listens_to_is_not_continued() {
    let engine = engine(Purpose::Generation).await;
    let live = current(&engine).await;
    for taken in 0..4 {
        let mut generation = ask("Tell me a story.", 1);
        generation.max_tokens = 200;
        let mut events = engine.generate(generation).await.unwrap().events;
        for _ in 0..taken {
            events.next().await.unwrap().unwrap();
        }
        drop(events);
        idle(&engine).await;
    }
    answer(&engine, ask("Hello", 1)).await;
    assert!(Arc::ptr_eq(&live, &current(&engine).await), "the engine died");
}

#[tokio::test]
async fn a_hundred_reference_passes_at_once_do_not_kill_the_engine() {
    let engine = engine(Purpose::Reference).await;
    let live = current(&engine).await;
    // Equal lengths are what mistral.rs would batch.
    let pass = |first: u32| pass("Hello", (first..first + 16).collect());
    let expected = engine.reference(pass(20)).await.unwrap();
    let all = join_all((0..100).map(|i| engine.reference(pass(20 + i % 5)))).await;
    for (i, checked) in all.into_iter().enumerate() {
        assert_eq!(checked.unwrap() == expected, i % 5 == 0, "pass {i}");
    }
    assert!(Arc::ptr_eq(&live, &current(&engine).await), "the engine died");
}

#[tokio::test]
async fn a_reference_pass_given_up_half_way_does_no_harm() {
    let engine = engine(Purpose::Reference).await;
    let live = current(&engine).await;
    let pass = pass("Hello", (10..200).collect());
    for micros in [0, 100, 500, 2_000, 10_000] {
        let _ = tokio::time::timeout(Duration::from_micros(micros), engine.reference(pass.clone()))
            .await;
    }
    idle(&engine).await;
    engine.reference(pass).await.unwrap();
    assert!(Arc::ptr_eq(&live, &current(&engine).await), "the engine died");
}

#[tokio::test]
async fn a_dead_engine_is_loaded_again_and_the_request_answered() {
    let engine = engine(Purpose::Generation).await;
    let before = answer(&engine, ask("Hello", 1)).await;
    let live = current(&engine).await;
    live.requests.send(Request::Terminate).await.unwrap();
    // The request may reach the dying engine or find it dead.
    assert_eq!(answer(&engine, ask("Hello", 1)).await, before);
    assert!(!Arc::ptr_eq(&live, &current(&engine).await));
}

#[tokio::test]
async fn a_reload_goes_on_when_its_callers_go_away() {
    let engine = engine(Purpose::Generation).await;
    let before = answer(&engine, ask("Hello", 1)).await;
    let live = current(&engine).await;
    for _ in 0..3 {
        assert!(engine.inner.revive(&live).now_or_never().is_none());
    }
    let mut slot = engine.inner.slot.lock().await;
    assert!(slot.live.is_none() && slot.loading.len() == 1);
    let loaded = slot.loading.join_next().await.unwrap().unwrap().unwrap();
    let requests = loaded.requests.clone();
    slot.loading.spawn(std::future::ready(Ok(loaded)));
    drop(slot);

    assert_eq!(answer(&engine, ask("Hello", 1)).await, before);
    assert!(current(&engine).await.requests.same_channel(&requests), "it was loaded again");
}

#[tokio::test]
async fn logits_that_are_no_numbers_are_an_error_and_no_reason_to_load_again() {
    let folder = copy();
    let file = folder.path().join("model.safetensors");
    let mut weights = std::fs::read(&file).unwrap();
    // The last tensor is the norm before the logits; these bytes are no number in any format.
    let end = weights.len() - 64;
    weights[end..].fill(0xff);
    std::fs::write(&file, weights).unwrap();
    let config = EmbeddedConfig::new(folder.path(), "spoilt", Purpose::Reference);
    let engine = Embedded::load(config, |_| ()).await.unwrap();
    let live = current(&engine).await;
    let pass = pass("Hello", vec![10, 11]);
    let error = engine.reference(pass).await.unwrap_err();
    assert!(matches!(error, EngineError::Failed(_)), "{error}");
    assert!(Arc::ptr_eq(&live, &current(&engine).await), "it was loaded again");
}

#[tokio::test]
async fn requests_that_cannot_be_served_are_the_callers_mistake() {
    let (generation, reference) =
        (engine(Purpose::Generation).await, engine(Purpose::Reference).await);
    let mut long = ask("Hello", 1);
    long.max_tokens = generation.model().context;
    let error = generation.generate(long).await.unwrap_err();
    assert!(matches!(error, EngineError::TooLong { .. }) && error.is_callers_mistake(), "{error}");

    let mut empty = ask("", 1);
    empty.prompt = Prompt::Text(String::new());
    let error = generation.generate(empty).await.unwrap_err();
    assert!(matches!(error, EngineError::BadPrompt(_)), "{error}");

    let pass = |tokens| pass("Hello", tokens);
    let vocabulary = reference.model().vocabulary;
    let error = reference.reference(pass(vec![1, vocabulary])).await.unwrap_err();
    assert!(
        matches!(error, EngineError::OutsideVocabulary { token, .. } if token == vocabulary),
        "{error}"
    );
    let error =
        reference.reference(pass(vec![1; reference.model().context as usize])).await.unwrap_err();
    assert!(matches!(error, EngineError::TooLong { .. }), "{error}");
    assert_eq!(reference.reference(pass(vec![])).await.unwrap().tokens, []);

    for error in [
        reference.generate(ask("Hello", 1)).await.map(|_| ()).unwrap_err(),
        generation.reference(pass(vec![1])).await.map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(error, EngineError::Unsupported(_)), "{error}");
    }
}

/// A copy of the demo model that one test may spoil.
fn copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in demo().read_dir().unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

async fn load_problem(folder: &Path) -> String {
    let config = EmbeddedConfig::new(folder, "spoilt", Purpose::Generation);
    let error = Embedded::load(config, |_| ()).await.unwrap_err();
    assert!(matches!(error, EngineError::Load { .. }), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_spoilt_folder_is_an_error_that_names_the_file() {
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        let folder = copy();
        let file = folder.path().join(name);
        let bytes = std::fs::read(&file).unwrap();
        // The last byte of a text file may be a line end.
        for length in [bytes.len() - 2, bytes.len() / 2, 3, 0] {
            std::fs::write(&file, &bytes[..length]).unwrap();
            let problem = load_problem(folder.path()).await;
            assert!(problem.contains(name), "{length} bytes of {name}: {problem}");
        }
        std::fs::remove_file(&file).unwrap();
        let problem = load_problem(folder.path()).await;
        assert!(
            problem.contains(name) || problem.contains("*.safetensors"),
            "without {name}: {problem}"
        );
    }
    let problem = load_problem(Path::new("/nonexistent/model")).await;
    assert!(problem.contains("/nonexistent/model"), "{problem}");
}

#[tokio::test]
async fn weights_that_do_not_fit_the_configuration_are_an_error() {
    let folder = copy();
    let file = folder.path().join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["intermediate_size"] = 4096.into();
    std::fs::write(&file, config.to_string()).unwrap();
    load_problem(folder.path()).await;
    std::fs::write(&file, b"{\"vocab_size\": 2048, \"max_position_embeddings\": 512}").unwrap();
    load_problem(folder.path()).await;
}

#[tokio::test]
async fn every_token_at_which_the_engine_stops_counts_as_an_end() {
    let folder = copy();
    std::fs::remove_file(folder.path().join("generation_config.json")).unwrap();
    for (name, key, value) in [
        ("config.json", "eos_token_id", serde_json::Value::Null),
        ("tokenizer_config.json", "eos_token", "<|endoftext|>".into()),
    ] {
        let file = folder.path().join(name);
        let mut json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        json[key] = value;
        std::fs::write(&file, json.to_string()).unwrap();
    }
    let config = EmbeddedConfig::new(folder.path(), "other ends", Purpose::Generation);
    let other = Embedded::load(config, |_| ()).await.unwrap();
    let usual = engine(Purpose::Generation).await;
    // The chat template names one, the configuration the other.
    assert_eq!(other.model().end_tokens, usual.model().end_tokens);
    let ask = ask("What is 3 + 4?", 2);
    assert_eq!(answer(&other, ask.clone()).await, answer(&usual, ask).await);
}

#[tokio::test]
async fn quantised_copies_draw_nearly_the_same_tokens() {
    let reference = engine(Purpose::Reference).await;
    for (number_format, quantisation, least) in [
        (NumberFormat::F16, None, 97),
        (NumberFormat::F32, Some(Quantisation::Q8_0), 97),
        (NumberFormat::F32, Some(Quantisation::Q4_0), 85),
        (NumberFormat::F32, Some(Quantisation::Q4K), 85),
    ] {
        let config = EmbeddedConfig {
            number_format,
            quantisation,
            ..EmbeddedConfig::new(demo(), "copy", Purpose::Generation)
        };
        let copy = Embedded::load(config, |_| ()).await.unwrap();
        let (mut tokens, mut same) = (0, 0);
        for seed in 0..6 {
            let ask = ask("Tell me a story.", seed);
            let tokens_drawn = answer(&copy, ask.clone()).await.ids();
            let pass = ReferencePass::new(ask, tokens_drawn);
            let checked = reference.reference(pass).await.unwrap();
            tokens += checked.tokens.len();
            same += checked.tokens.iter().filter(|score| score.deficit == 0.0).count();
        }
        let what = format!("{number_format:?} {quantisation:?}: {same} of {tokens} tokens");
        assert!(tokens > 50 && same * 100 >= tokens * least, "{what}");
    }
}

#[tokio::test]
async fn loading_tells_how_far_it_is() {
    let seen = std::sync::Mutex::new(Vec::new());
    let config = EmbeddedConfig {
        number_format: NumberFormat::F16,
        context: Some(64),
        ..EmbeddedConfig::new(demo(), "demo", Purpose::Generation)
    };
    let engine =
        Embedded::load(config, |progress| seen.lock().unwrap().push(progress)).await.unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(
        matches!(
            seen[..],
            [
                Progress::Checking,
                Progress::Loading { .. },
                Progress::Testing,
                Progress::Ready { .. }
            ]
        ),
        "{seen:?}"
    );
    assert_eq!(engine.model().context, 64);
    answer(&engine, ask("Hello", 1)).await;
}
