use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const LIMITS: Limits = Limits::new(256, 1000);

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
}

fn chat(extra: Value) -> Result<Asked, BadRequest> {
    let mut body = json!({"model": "chat-demo", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    parse(Kind::Chat, body.to_string().as_bytes(), LIMITS)
}

#[test]
fn a_plain_request_gets_the_defaults() {
    let asked = chat(json!({})).unwrap();
    assert_eq!(asked.generation.max_tokens, 256);
    assert_eq!(asked.generation.sampling, Sampling { seed: 0, temperature: 1.0, top_p: 1.0 });
    assert!(!asked.stream && !asked.has_seed && !asked.logprobs);
}

#[test]
fn each_wrong_parameter_is_refused_by_its_name() {
    let cases = [
        ("temperature", json!({"temperature": -0.1})),
        ("temperature", json!({"temperature": 2.1})),
        ("top_p", json!({"top_p": 0})),
        ("max_tokens", json!({"max_tokens": 0})),
        ("max_tokens", json!({"max_tokens": 257})),
        ("max_completion_tokens", json!({"max_completion_tokens": 257})),
        ("max_tokens", json!({"max_completion_tokens": 1, "max_tokens": 1})),
        ("stop", json!({"stop": ["a", "b", "c", "d", "e"]})),
        ("stop", json!({"stop": ""})),
        ("logprobs", json!({"logprobs": 3})),
        ("top_logprobs", json!({"top_logprobs": 3})),
        ("top_logprobs", json!({"logprobs": true, "top_logprobs": 21})),
        ("stream_options", json!({"stream_options": {"include_usage": true}})),
        ("n", json!({"n": 0})),
        ("n", json!({"n": 9})),
        ("n", json!({"n": 1.5})),
        ("seed", json!({"seed": "seven"})),
        ("presence_penalty", json!({"presence_penalty": 2.1})),
        ("frequency_penalty", json!({"frequency_penalty": -2.1})),
        ("logit_bias", json!({"logit_bias": {"1": 101}})),
        ("logit_bias", json!({"logit_bias": {"one": 1}})),
        ("logit_bias", json!({"logit_bias": {"-1": 1}})),
        ("response_format", json!({"response_format": {"type": "xml"}})),
        ("response_format", json!({"response_format": {"type": "json_schema"}})),
        (
            "response_format",
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}),
        ),
        (
            "response_format",
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": true}}}),
        ),
        (
            "response_format",
            json!({"response_format": {"type": "json_object"}, "tools": [tool("f")]}),
        ),
        ("tools", json!({"tools": [tool("f"), tool("f")]})),
        ("tools", json!({"tools": [tool("no blanks")]})),
        ("tools", json!({"tools": [{"type": "retrieval", "function": {"name": "f"}}]})),
        (
            "tools",
            json!({"tools": [{"type": "function", "function": {"name": "f", "strict": true}}]}),
        ),
        ("tool_choice", json!({"tools": [tool("f")], "tool_choice": "always"})),
        (
            "tool_choice",
            json!({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
        ),
        ("tool_choice", json!({"tool_choice": "required"})),
        ("parallel_tool_calls", json!({"tools": [tool("f")], "parallel_tool_calls": false})),
        ("echo", json!({"echo": true})),
        ("functions", json!({"functions": []})),
        ("store", json!({"store": true})),
        ("user", json!({"user": 7})),
        ("messages", json!({"messages": []})),
        ("messages", json!({"messages": [{"role": "user", "content": "x".repeat(985)}]})),
        ("messages", json!({"messages": vec![json!({"role": "user", "content": ""}); 63]})),
        ("model", json!({"model": "No Such"})),
    ];
    for (param, extra) in cases {
        let error = chat(extra.clone()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{extra}: {error}");
    }
}

#[test]
fn a_conversation_has_a_bounded_number_of_messages() {
    let limits = Limits { max_prompt_bytes: 1 << 20, ..LIMITS };
    let parsed = |count: usize| {
        let messages = vec![json!({"role": "user", "content": ""}); count];
        let body = json!({"model": "chat-demo", "messages": messages}).to_string();
        parse(Kind::Chat, body.as_bytes(), limits).map_err(|error| error.param)
    };
    assert!(parsed(MAX_MESSAGES).is_ok());
    assert_eq!(parsed(MAX_MESSAGES + 1), Err(Some("messages".to_owned())));
}

#[test]
fn parameters_that_change_nothing_are_let_through() {
    let extra = json!({"n": 1, "presence_penalty": 0, "user": "me", "tools": null, "metadata": {"a": "b"},
        "logit_bias": {}, "response_format": {"type": "text"}, "tool_choice": "none", "parallel_tool_calls": true,
        "store": false, "service_tier": "auto", "functions": null});
    assert_eq!(chat(extra).unwrap().generation, chat(json!({})).unwrap().generation);
    let body =
        json!({"model": "a", "prompt": "b", "echo": false, "best_of": 1, "suffix": ""}).to_string();
    assert!(parse(Kind::Completion, body.as_bytes(), LIMITS).is_ok());
}

proptest! {
    #[test]
    fn no_body_makes_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(Kind::Chat, &body, LIMITS);
        let _ = parse(Kind::Completion, &body, LIMITS);
    }
}

#[test]
fn what_changes_logits_is_read() {
    let extra = json!({"presence_penalty": -0.5, "frequency_penalty": 2, "logit_bias": {"50": -100, "7": 1.5}, "n": 3});
    let asked = chat(extra).unwrap();
    let expected = Adjustment {
        presence_penalty: -0.5,
        frequency_penalty: 2.0,
        bias: vec![(7, 1.5), (50, -100.0)],
    };
    assert_eq!((asked.generation.adjustment, asked.n), (expected, 3));
    let bias: serde_json::Map<String, Value> =
        (0..301).map(|token: u32| (token.to_string(), json!(1))).collect();
    assert_eq!(chat(json!({"logit_bias": bias})).unwrap_err().param.as_deref(), Some("logit_bias"));
}

#[test]
fn seeds_have_a_sign_or_none() {
    let seed =
        |seed: Value| chat(json!({ "seed": seed })).map(|asked| asked.generation.sampling.seed);
    assert_eq!(seed(json!(u64::MAX)), Ok(u64::MAX));
    assert_eq!(seed(json!(-1)), Ok(u64::MAX));
    assert_eq!(seed(json!(i64::MIN)), Ok(1 << 63));
    assert!(seed(json!(1.5)).is_err());
}

#[test]
fn a_schema_keeps_its_bytes() {
    let body = r#"{"model": "chat-demo", "messages": [{"role": "user", "content": "hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": {"b": 1.0,  "a": 2}}}}"#;
    let asked = parse(Kind::Chat, body.as_bytes(), LIMITS).unwrap();
    let Format::JsonSchema(schema) = asked.generation.format else { panic!("a schema") };
    assert_eq!(schema.schema.get(), r#"{"b": 1.0,  "a": 2}"#);
}

#[test]
fn tools_are_called_by_choice_or_for_certain() {
    let named = json!({"type": "function", "function": {"name": "g"}});
    let cases = [
        (json!({}), Some((ToolChoice::Auto, true))),
        (
            json!({"tool_choice": "auto", "parallel_tool_calls": true}),
            Some((ToolChoice::Auto, true)),
        ),
        (json!({"tool_choice": "required"}), Some((ToolChoice::Required, false))),
        (
            json!({"tool_choice": "required", "parallel_tool_calls": true}),
            Some((ToolChoice::Required, true)),
        ),
        (
            json!({"tool_choice": named, "parallel_tool_calls": true}),
            Some((ToolChoice::Named("g".into()), false)),
        ),
        (json!({"tool_choice": "none"}), None),
    ];
    for (mut extra, expected) in cases {
        extra["tools"] = json!([tool("f"), tool("g")]);
        let tools = chat(extra.clone()).unwrap().generation.tools;
        let read = tools.map(|tools| (tools.choice, tools.parallel));
        assert_eq!(read, expected, "{extra}");
    }
}

#[test]
fn what_a_task_does_not_support_is_refused_by_name() {
    let limits = Limits { features: Features::NONE, ..LIMITS };
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let cases = [
        ("response_format", json!({"response_format": {"type": "json_object"}})),
        ("tools", json!({"tools": [tool("f")]})),
        ("tool_choice", json!({"tools": [tool("f")], "tool_choice": "required"})),
        (
            "messages",
            json!({"messages": [{"role": "assistant", "content": null, "tool_calls": [call]}]}),
        ),
    ];
    for (param, extra) in cases {
        let mut body =
            json!({"model": "chat-demo", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let error = parse(Kind::Chat, body.to_string().as_bytes(), limits).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{extra}: {error}");
        assert!(chat(extra).is_ok());
    }
}

#[test]
fn a_body_is_one_object_whose_parameters_come_once() {
    let hi = r#""messages": [{"role": "user", "content": "hi"}]"#;
    for (body, param) in [
        (format!(r#"{{"model": "a", "model": "b", {hi}}}"#), Some("model")),
        (format!(r#"{{"model": "a", {hi}}} {{}}"#), None),
        (format!(r#"{{"model": "a", {hi}"#), None),
        ("[]".to_owned(), None),
        (r#"{"model": "a", "messages": 7}"#.to_owned(), Some("messages")),
        (format!(r#"{{"model": "a", {hi}, "top_p": 1e999}}"#), Some("top_p")),
        (format!(r#"{{"model": "a", {hi},}}"#), None),
    ] {
        let error = parse(Kind::Chat, body.as_bytes(), LIMITS).unwrap_err();
        assert_eq!(error.param.as_deref(), param, "{body}: {error}");
    }
}

#[test]
fn the_limits_may_depend_on_the_task() {
    let body =
        br#"{"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "model": "small"}"#;
    let limits = |task: &TaskId| match task.as_str() {
        "small" => Ok(Limits::new(8, 100)),
        _ => Err(BadRequest::of("model", "unknown")),
    };
    let error = parse_with(Kind::Chat, body, limits).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("max_tokens"));
}
