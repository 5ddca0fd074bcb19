//! Answers of the demo model to requests that change how tokens are drawn, honest ones and others.

use std::path::Path;

use common::generation::Generation;
use common::openai::{Kind, Limits, parse};
use engine::{Embedded, EmbeddedConfig, Purpose};

use super::*;

pub(super) async fn demo(purpose: Purpose) -> Embedded {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo-model/touchstone-demo-4m");
    Embedded::load(EmbeddedConfig::new(folder, "demo", purpose), |_| {}).await.unwrap()
}

/// A request with these parameters, and its parsed form.
pub(super) fn asked(seed: u64, parameters: &Value) -> (String, Generation) {
    let mut body = json!({
        "model": "chat-demo", "messages": [{"role": "user", "content": "Tell me a story about a fox."}],
        "seed": seed, "max_tokens": 60, "temperature": 0.9,
    });
    body.as_object_mut().unwrap().extend(parameters.as_object().unwrap().clone());
    let body = body.to_string();
    let asked = parse(Kind::Chat, body.as_bytes(), Limits::new(256, 2048)).unwrap();
    (body, asked.generation)
}

/// The check of an answer to `request` by a miner that ran `ran`.
pub(super) async fn answer(miner: &Embedded, request: &str, ran: Generation) -> Check {
    let answer = miner.generate(ran).await.unwrap().answer().await.unwrap();
    let mut check = check("", 20);
    let mut generated = check.receipt.generated;
    generated.prompt_tokens = answer.prompt_tokens;
    generated.request_digest = request_digest(request.as_bytes());
    generated.tokens = answer.ids();
    generated.logprobs = answer.tokens.iter().map(|token| token.logprob).collect();
    generated.finish_reason = answer.finish_reason;
    check.text = answer.text;
    check.request = request.to_owned();
    check.receipt = generated.sign(&Keypair::development("Alice"));
    check
}

/// The verdicts on honest answers to requests with these parameters, and on those of a miner that ignores them.
async fn verdicts(parameters: &Value) -> (Vec<CheckResult>, Vec<CheckResult>) {
    let miner = demo(Purpose::Generation).await;
    let server = Server::start(Arc::new(demo(Purpose::Reference).await)).await;
    let (mut honest, mut ignorant) = (Vec::new(), Vec::new());
    for seed in 1..=4 {
        let (request, generation) = asked(seed, parameters);
        let (_, plain) = asked(seed, &json!({}));
        honest.push(answer(&miner, &request, generation).await);
        ignorant.push(answer(&miner, &request, plain).await);
    }
    let (honest, ignorant) = (server.check(honest).await, server.check(ignorant).await);
    server.stop().await;
    (honest, ignorant)
}

/// Honest answers match token by token. The mean quality of the others is at most `most`.
async fn only_honest_answers_pass(parameters: Value, most: f64) {
    let (honest, ignorant) = verdicts(&parameters).await;
    for result in &honest {
        let Outcome::Verdict(verdict) = &result.outcome else { panic!("{result:?}") };
        assert_eq!(verdict.quality, 1.0, "{verdict:?}");
        assert_eq!(verdict.evidence.mean_deficit, 0.0, "{verdict:?}");
    }
    let sum: f64 = ignorant.iter().map(|result| short(result).unwrap()).sum();
    assert!(sum / ignorant.len() as f64 <= most, "{ignorant:?}");
}

#[tokio::test]
async fn who_ignores_penalties_is_caught() {
    // An answer that hardly repeats itself is the same with and without.
    only_honest_answers_pass(json!({"presence_penalty": 2, "frequency_penalty": 2}), 0.5).await;
}

#[tokio::test]
async fn who_ignores_a_bias_is_caught() {
    let bias: serde_json::Map<String, Value> =
        (200..420).map(|token: u32| (token.to_string(), json!(-100))).collect();
    only_honest_answers_pass(json!({ "logit_bias": bias }), 0.0).await;
}

#[tokio::test]
async fn who_ignores_a_schema_is_caught() {
    let schema = json!({"type": "object", "properties": {
        "animal": {"enum": ["fox", "owl"]}, "age": {"type": "integer", "minimum": 0, "maximum": 20}},
        "required": ["animal", "age"]});
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "animal", "schema": schema}});
    let parameters = json!({"response_format": format, "frequency_penalty": 0.5});
    only_honest_answers_pass(parameters, 0.0).await;
}

#[tokio::test]
async fn who_does_not_call_a_function_that_must_be_called_is_caught() {
    let function = |name: &str| {
        let properties = json!({"at": {"enum": ["sea", "moon"]}});
        let parameters = json!({"type": "object", "properties": properties, "required": ["at"]});
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    let tools = [function("look"), function("listen")];
    only_honest_answers_pass(json!({"tools": tools, "tool_choice": "required"}), 0.0).await;
}
