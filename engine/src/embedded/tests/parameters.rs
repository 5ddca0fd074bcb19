//! Penalties, biases, formats and tools: what they do to answers, and that a reference pass sees the same.

use common::generation::{Adjustment, Format, JsonSchema, Tool, ToolChoice, Tools};
use common::openai::CallReader;

use super::*;

/// What the reference pass says of an answer as if it had been given to `asked`.
async fn checked(reference: &Embedded, asked: &Generation, answer: &Answer) -> Reference {
    let pass = ReferencePass::new(asked.clone(), answer.ids());
    reference.reference(pass).await.unwrap()
}

fn mismatches(reference: &Reference) -> usize {
    reference.tokens.iter().filter(|score| score.deficit > 0.0).count()
}

#[tokio::test]
async fn penalties_and_biases_are_honoured_and_can_be_checked() {
    let (generation, reference) =
        (engine(Purpose::Generation).await, engine(Purpose::Reference).await);
    let mut plain = ask("Tell me a story about a fox.", 0);
    plain.max_tokens = 48;
    let (mut tokens, mut honest, mut ignored) = (0, 0, 0);
    for (seed, temperature) in [(1, 0.0), (2, 0.7), (3, 1.0), (4, 1.2)] {
        plain.sampling = Sampling { seed, temperature, top_p: 0.95 };
        let without = answer(&generation, plain.clone()).await;
        let mut adjusted = plain.clone();
        let often = without.ids()[3];
        adjusted.adjustment = Adjustment {
            presence_penalty: 1.0,
            frequency_penalty: 0.8,
            bias: vec![(often, -100.0)],
        };
        let with = answer(&generation, adjusted.clone()).await;
        assert!(!with.ids().contains(&often), "{with:?}");
        let score = checked(&reference, &adjusted, &with).await;
        honest += mismatches(&score);
        tokens += with.tokens.len();
        for (token, score) in std::iter::zip(&with.tokens, &score.tokens) {
            assert!((token.logprob - score.logprob).abs() < 1e-3, "{token:?} {score:?}");
        }
        // Who ignores them draws what was drawn without them.
        ignored += mismatches(&checked(&reference, &adjusted, &without).await);
    }
    assert!(honest * 100 <= tokens, "{honest} of {tokens}");
    assert!(ignored > 8, "{ignored}");
}

fn schema(text: &str) -> Format {
    let schema = serde_json::from_str(text).unwrap();
    Format::JsonSchema(JsonSchema { name: "answer".to_owned(), schema })
}

/// Small enough that every answer is whole.
const PERSON: &str = r#"{"type": "object", "properties": {"kind": {"enum": ["fox", "owl"]}, "old": {"type": "boolean"},
    "legs": {"type": "integer", "minimum": 0, "maximum": 99}, "name": {"type": "string", "maxLength": 12}},
    "required": ["kind", "old", "legs", "name"], "additionalProperties": false}"#;

#[tokio::test]
async fn answers_follow_a_schema_and_can_be_checked() {
    let (generation, reference) =
        (engine(Purpose::Generation).await, engine(Purpose::Reference).await);
    let mut plain = ask("Tell me about an animal.", 0);
    plain.max_tokens = 120;
    for (seed, temperature, top_p) in [(1, 0.0, 1.0), (2, 0.7, 0.9), (3, 1.0, 1.0), (4, 1.5, 1.0)] {
        plain.sampling = Sampling { seed, temperature, top_p };
        let asked = Generation { format: schema(PERSON), ..plain.clone() };
        let answered = answer(&generation, asked.clone()).await;
        assert_eq!(answered.finish_reason, FinishReason::Stop, "{answered:?}");
        let value: serde_json::Value = serde_json::from_str(&answered.text).unwrap();
        assert!(value["legs"].as_u64().unwrap() < 100 && value["old"].is_boolean(), "{value}");
        assert!(["fox", "owl"].contains(&value["kind"].as_str().unwrap()), "{value}");
        assert!(value["name"].as_str().unwrap().chars().count() <= 12, "{value}");
        assert_eq!(value.as_object().unwrap().len(), 4, "{value}");

        let score = checked(&reference, &asked, &answered).await;
        assert_eq!((mismatches(&score), score.outside_grammar), (0, None), "{score:?}");
        assert_eq!(score.text, answered.text);
        for (token, score) in std::iter::zip(&answered.tokens, &score.tokens) {
            assert!((token.logprob - score.logprob).abs() < 1e-3, "{token:?} {score:?}");
        }
        // Who ignores the format leaves it, at the latest where the answer ends.
        let free = answer(&generation, plain.clone()).await;
        assert!(checked(&reference, &asked, &free).await.outside_grammar.is_some(), "{free:?}");
        // And who ends in the middle of it.
        let mut cut = answered.clone();
        let end = cut.tokens.pop().unwrap();
        cut.tokens.truncate(6);
        cut.tokens.push(end);
        assert_eq!(checked(&reference, &asked, &cut).await.outside_grammar, Some(6));
    }
}

fn tools(choice: ToolChoice, parallel: bool) -> Tools {
    let tool = |name: &str, parameters: &str| Tool {
        name: name.to_owned(),
        description: Some("A tool.".to_owned()),
        parameters: Some(serde_json::from_str(parameters).unwrap()),
    };
    let look = r#"{"type": "object", "properties": {"at": {"enum": ["sea", "moon"]}}, "required": ["at"],
        "additionalProperties": false}"#;
    let wait = r#"{"type": "object", "properties": {"minutes": {"type": "integer", "minimum": 1, "maximum": 60}},
        "required": ["minutes"], "additionalProperties": false}"#;
    Tools { list: vec![tool("look", look), tool("wait", wait)], choice, parallel }
}

#[tokio::test]
async fn calls_that_are_certain_come_and_can_be_checked() {
    let (generation, reference) =
        (engine(Purpose::Generation).await, engine(Purpose::Reference).await);
    let mut asked = ask("What does the sea look like?", 0);
    asked.max_tokens = 400;
    let named = || ToolChoice::Named("wait".to_owned());
    for (seed, choice, parallel) in
        [(1, ToolChoice::Required, false), (2, ToolChoice::Required, true), (3, named(), false)]
    {
        asked.sampling.seed = seed;
        asked.tools = Some(tools(choice.clone(), parallel));
        let answered = answer(&generation, asked.clone()).await;
        assert_eq!(answered.finish_reason, FinishReason::Stop, "{answered:?}");
        let reader = CallReader::new(asked.tools.as_ref(), "x");
        let (message, reason) = reader.whole(&answered.text, answered.finish_reason);
        assert_eq!((message.content.as_str(), reason), ("", FinishReason::ToolCalls));
        for call in &message.tool_calls {
            let arguments: serde_json::Value =
                serde_json::from_str(&call.function.arguments).unwrap();
            match call.function.name.as_str() {
                "look" => assert!(arguments["at"].is_string() && choice == ToolChoice::Required),
                "wait" => assert!((1..=60).contains(&arguments["minutes"].as_u64().unwrap())),
                other => panic!("{other}"),
            }
        }
        assert!(!message.tool_calls.is_empty() && (parallel || message.tool_calls.len() == 1));
        let score = checked(&reference, &asked, &answered).await;
        assert_eq!((mismatches(&score), score.outside_grammar), (0, None), "{score:?}");
        let free = answer(&generation, Generation { tools: None, ..asked.clone() }).await;
        assert!(checked(&reference, &asked, &free).await.outside_grammar.is_some());
    }
}

#[tokio::test]
async fn tools_are_shown_by_templates_that_know_them_and_refused_by_others() {
    let plain = engine(Purpose::Generation).await;
    let mut asked = ask("What does the sea look like?", 1);
    asked.tools = Some(tools(ToolChoice::Auto, true));
    let error = plain.generate(asked.clone()).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, EngineError::BadParameter { name: "tools", .. }), "{error}");
    let result =
        Message { tool_call_id: Some("c".to_owned()), ..Message::new(Role::Tool, "Blue.") };
    let mut told = ask("What does the sea look like?", 1);
    told.prompt = Prompt::Chat(vec![Message::new(Role::User, "Which colour?"), result]);
    let error = plain.generate(told.clone()).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, EngineError::BadParameter { name: "messages", .. }), "{error}");

    let folder = copy();
    let template = folder.path().join("chat_template.jinja");
    std::fs::write(template, crate::template::tests::HERMES).unwrap();
    let load =
        |purpose| Embedded::load(EmbeddedConfig::new(folder.path(), "tools", purpose), |_| ());
    let (generation, reference) =
        (load(Purpose::Generation).await.unwrap(), load(Purpose::Reference).await.unwrap());
    for asked in [asked, told] {
        let generating = generation.generate(asked.clone()).await.unwrap();
        let shown = generating.prompt_tokens;
        drop(generating);
        let answered = answer(&generation, asked.clone()).await;
        let score = checked(&reference, &asked, &answered).await;
        assert_eq!((score.prompt_tokens, mismatches(&score)), (shown, 0));
        let without = Generation { tools: None, ..ask("What does the sea look like?", 1) };
        assert!(shown > generation.generate(without).await.unwrap().prompt_tokens + 10);
    }
}

#[tokio::test]
async fn an_answer_can_be_any_json_object_with_penalties_and_biases() {
    let (generation, reference) =
        (engine(Purpose::Generation).await, engine(Purpose::Reference).await);
    let mut asked = ask("Tell me about an animal.", 5);
    asked.max_tokens = 40;
    asked.format = Format::JsonObject;
    asked.adjustment = Adjustment {
        presence_penalty: 0.5,
        frequency_penalty: 0.5,
        bias: vec![(300, 5.0), (301, -5.0)],
    };
    let answered = answer(&generation, asked.clone()).await;
    assert!(answered.text.starts_with('{'), "{answered:?}");
    assert_eq!(mismatches(&checked(&reference, &asked, &answered).await), 0);
}

#[tokio::test]
async fn a_schema_that_cannot_be_followed_is_refused_by_name() {
    let (generation, reference) =
        (engine(Purpose::Generation).await, engine(Purpose::Reference).await);
    let asked = Generation { format: schema(r#"{"type": "animal"}"#), ..ask("Hello", 1) };
    let pass = ReferencePass::new(asked.clone(), vec![1]);
    for error in [
        generation.generate(asked).await.map(|_| ()).unwrap_err(),
        reference.reference(pass).await.map(|_| ()).unwrap_err(),
    ] {
        assert!(
            matches!(error, EngineError::BadParameter { name: "response_format", .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_bias_outside_the_vocabulary_is_refused_by_name() {
    let (generation, reference) =
        (engine(Purpose::Generation).await, engine(Purpose::Reference).await);
    let mut asked = ask("Hello", 1);
    asked.adjustment.bias = vec![(generation.model().vocabulary, 1.0)];
    let pass = ReferencePass::new(asked.clone(), vec![1]);
    for error in [
        generation.generate(asked).await.map(|_| ()).unwrap_err(),
        reference.reference(pass).await.map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(error, EngineError::BadParameter { name: "logit_bias", .. }), "{error}");
        assert!(error.is_callers_mistake());
    }
}
