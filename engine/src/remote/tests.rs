//! Against servers that speak the protocol well, badly, or not at all.

use std::sync::Mutex;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use common::generation::{Adjustment, Format, Message, Role, Sampling, Tool, ToolChoice, Tools};
use futures::{Stream, stream};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

/// Serves one model and answers every request for text with the same bytes.
#[derive(Clone)]
struct Script {
    status: StatusCode,
    answer: Arc<dyn Fn() -> Body + Send + Sync>,
    requests: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
}

impl Script {
    fn new(answer: impl Fn() -> Body + Send + Sync + 'static) -> Self {
        Self { status: StatusCode::OK, answer: Arc::new(answer), requests: Arc::default() }
    }

    fn events(events: &[Value]) -> Self {
        let text: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        Self::new(move || Body::from(format!(": hello\n\n{text}data: [DONE]\n\n")))
    }

    async fn serve(self) -> (RemoteConfig, tokio::task::JoinHandle<()>) {
        let answer = post(
            |State(script): State<Self>, headers: HeaderMap, Json(body): Json<Value>| async move {
                script.requests.lock().unwrap().push((headers, body));
                (script.status, (script.answer)())
            },
        );
        let models = json!({ "data": [{ "id": "other" }, { "id": "m", "max_model_len": 100 }] });
        let router = Router::new()
            .route("/v1/models", get(|| async move { Json(models) }))
            .route("/v1/chat/completions", answer.clone())
            .route("/v1/completions", answer)
            .with_state(self);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (RemoteConfig::new(url, "m", 4096), server)
    }

    async fn connect(self) -> Remote {
        Remote::connect(self.serve().await.0).await.unwrap()
    }
}

fn ask() -> Generation {
    let sampling = Sampling { seed: u64::MAX, temperature: 0.5, top_p: 0.9 };
    let prompt = Prompt::Chat(vec![Message::new(Role::User, "Hi")]);
    Generation {
        stop: vec!["END".to_owned()],
        top_logprobs: 2,
        ..Generation::plain(prompt, sampling, 8)
    }
}

async fn collect(
    remote: &Remote,
    generation: Generation,
) -> Result<(u32, Vec<Event>), EngineError> {
    let Generating { prompt_tokens, mut events } = remote.generate(generation).await?;
    let mut all = Vec::new();
    while let Some(event) = events.next().await {
        all.push(event?);
    }
    Ok((prompt_tokens, all))
}

async fn problem(script: Script) -> String {
    collect(&script.connect().await, ask()).await.unwrap_err().to_string()
}

fn chat_event(text: &str, id: u32, finish: Option<&str>) -> Value {
    let top =
        json!([{ "token": text, "logprob": -0.5 }, { "token": "token_id:7", "logprob": -1.5 }]);
    json!({ "choices": [{
        "index": 0, "delta": { "content": text }, "finish_reason": finish, "token_ids": [id],
        "logprobs": { "content": [{ "token": text, "logprob": -0.5, "bytes": null, "top_logprobs": top }] },
    }] })
}

#[tokio::test]
async fn a_chat_is_streamed_with_tokens_and_log_probabilities() {
    let opening = json!({ "prompt_token_ids": [1, 2, 3], "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "" } }] });
    let script =
        Script::events(&[opening, chat_event("Hel", 5, None), chat_event("lo", 6, Some("stop"))]);
    let requests = Arc::clone(&script.requests);
    let mut config = script.serve().await.0;
    config.api_key = Some(ApiKey::new("secret"));
    assert!(!format!("{config:?}").contains("secret"));
    let remote = Remote::connect(config).await.unwrap();
    assert_eq!(remote.model().context, 100);

    let (prompt_tokens, events) = collect(&remote, ask()).await.unwrap();
    let token = |id, text: &str| Token {
        id,
        logprob: -0.5,
        text: text.to_owned(),
        top: vec![
            crate::api::Alternative { id: Token::UNKNOWN_ID, text: text.to_owned(), logprob: -0.5 },
            crate::api::Alternative { id: 7, text: "token_id:7".to_owned(), logprob: -1.5 },
        ],
    };
    let piece = |id, text: &str| {
        Event::Piece(Piece { text: text.to_owned(), tokens: vec![token(id, text)] })
    };
    assert_eq!(prompt_tokens, 3);
    assert_eq!(events, [piece(5, "Hel"), piece(6, "lo"), Event::End(FinishReason::Stop)]);

    let (headers, body) = requests.lock().unwrap().pop().unwrap();
    assert_eq!(headers["authorization"], "Bearer secret");
    assert_eq!(
        body,
        json!({
            "model": "m", "stream": true, "stream_options": { "include_usage": true }, "seed": -1,
            "temperature": 0.5, "top_p": 0.9, "max_tokens": 8, "stop": ["END"], "return_token_ids": true,
            "messages": [{ "role": "user", "content": "Hi" }], "logprobs": true, "top_logprobs": 2,
        })
    );
}

#[tokio::test]
async fn a_completion_is_streamed_from_a_server_that_names_tokens_by_id() {
    let event = json!({ "choices": [{
        "text": " two three", "finish_reason": "length",
        "logprobs": {
            "tokens": ["token_id:8", "token_id:9"], "token_logprobs": [-0.25, -2.0],
            "top_logprobs": [{ "token_id:8": -0.25, "token_id:3": -1.75 }, null],
        },
    }] });
    let mut generation = ask();
    generation.prompt = Prompt::Text("one".to_owned());
    let (prompt_tokens, events) =
        collect(&Script::events(&[event]).connect().await, generation).await.unwrap();
    assert_eq!((prompt_tokens, &events[1..]), (0, &[Event::End(FinishReason::Length)][..]));
    let Event::Piece(piece) = &events[0] else { panic!("{events:?}") };
    assert_eq!(piece.text, " two three");
    assert_eq!(
        piece.tokens.iter().map(|token| (token.id, token.logprob)).collect::<Vec<_>>(),
        [(8, -0.25), (9, -2.0)]
    );
    assert_eq!(piece.tokens[0].top.iter().map(|top| top.id).collect::<Vec<_>>(), [8, 3]);
}

#[tokio::test]
async fn a_server_without_log_probabilities_gives_text_alone_to_those_who_need_no_tokens() {
    let event = json!({ "choices": [{ "delta": { "content": "Hi" }, "finish_reason": "stop", "logprobs": null }] });
    let mut config = Script::events(&[event]).serve().await.0;
    config.require_token_ids = false;
    let remote = Remote::connect(config).await.unwrap();
    let (_, events) = collect(&remote, ask()).await.unwrap();
    let piece = Piece { text: "Hi".to_owned(), tokens: vec![] };
    assert_eq!(events, [Event::Piece(piece), Event::End(FinishReason::Stop)]);
}

#[tokio::test]
async fn an_answer_whose_tokens_are_not_told_is_an_error() {
    let no_logprobs =
        json!({ "choices": [{ "delta": { "content": "Hi" }, "finish_reason": "stop" }] });
    let nothing = json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] });
    let mut no_ids = chat_event("Hi", 1, Some("stop"));
    no_ids["choices"][0]["token_ids"] = Value::Null;
    let mut fewer_ids = no_ids.clone();
    fewer_ids["choices"][0]["token_ids"] = json!([]);
    for event in [no_logprobs, nothing, no_ids, fewer_ids] {
        let problem = problem(Script::events(std::slice::from_ref(&event))).await;
        assert!(problem.contains("token ids"), "{event}: {problem}");
    }
    // The last event may tell the reason alone.
    let end = json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] });
    let script = Script::events(&[chat_event("Hi", 1, None), end]);
    assert_eq!(collect(&script.connect().await, ask()).await.unwrap().1.len(), 2);
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    let infinite = json!({ "choices": [{ "delta": {}, "logprobs": { "content": [{ "token": "a", "logprob": 1e39 }] } }] });
    let positive = json!({ "choices": [{ "delta": {}, "logprobs": { "content": [{ "token": "a", "logprob": 0.5 }] } }] });
    let reported = json!({ "error": { "message": "out of memory" } });
    for (script, expected) in [
        (Script::events(&[chat_event("a", 1, None)]), "without a reason"),
        (Script::new(|| Body::from("")), "broke off"),
        (Script::new(|| Body::from("data: {\"choices\": 5}\n\n")), "makes no sense"),
        (Script::new(|| Body::from("data: \u{FFFD}\n\n")), "makes no sense"),
        (Script::new(|| Body::from(vec![b'x'; 3 << 20])), "too long"),
        (Script::events(&[chat_event(&"a".repeat(9000), 1, None)]), "more than was asked for"),
        (Script::events(&[chat_event("a", 1, Some("tool_calls"))]), "tool_calls"),
        (Script::events(&[infinite]), "log-probability"),
        (Script::events(&[positive]), "log-probability"),
        (Script::events(&[reported]), "out of memory"),
    ] {
        let problem = problem(script).await;
        assert!(problem.contains(expected), "{problem} instead of {expected}");
    }
}

/// Keeps sending, and tells when it is dropped.
fn endless(
    part: &'static [u8],
    alive: Arc<()>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    stream::repeat_with(move || {
        let _ = &alive;
        Ok(Bytes::from_static(part))
    })
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off_and_its_connection_closed() {
    let alive = Arc::new(());
    for part in [
        &b"data: {\"choices\": [{\"delta\": {\"content\": \"a\"}}]}\n\n"[..],
        // Nothing but keep-alives until the deadline.
        b": still here\n\n",
    ] {
        let held = Arc::clone(&alive);
        let script = Script::new(move || Body::from_stream(endless(part, Arc::clone(&held))));
        let (mut config, server) = script.serve().await;
        config.require_token_ids = false;
        config.first_token_timeout = Duration::from_millis(300);
        let remote = Remote::connect(config).await.unwrap();
        let problem = collect(&remote, ask()).await.unwrap_err().to_string();
        assert!(
            problem.contains("more than was asked for") || problem.contains("in time"),
            "{problem}"
        );
        // The script holds one, this test the other.
        let closed = async {
            while Arc::strong_count(&alive) > 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), closed)
            .await
            .expect("the connection stays open");
        server.abort();
        let _ = server.await;
    }
}

#[tokio::test]
async fn silence_is_an_error_after_the_deadline_of_the_phase() {
    let silent = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let begun = || {
        let event = Bytes::from(format!("data: {}\n\n", chat_event("a", 1, None)));
        Body::from_stream(stream::iter([Ok::<_, std::io::Error>(event)]).chain(stream::pending()))
    };
    for script in [Script::new(silent), Script::new(begun)] {
        let mut config = script.serve().await.0;
        config.first_token_timeout = Duration::from_secs(2);
        config.idle_timeout = Duration::from_millis(50);
        let remote = Remote::connect(config).await.unwrap();
        let problem = collect(&remote, ask()).await.unwrap_err().to_string();
        assert!(problem.contains("in time"), "{problem}");
    }
}

#[tokio::test]
async fn refusals_of_the_server_are_told_apart() {
    for (status, callers) in [(400, true), (401, false), (429, false), (500, false), (302, false)] {
        let mut script =
            Script::new(|| Body::from("{\"error\": {\"message\": \"no\\u0000 way\"}}"));
        script.status = StatusCode::from_u16(status).unwrap();
        let error = collect(&script.connect().await, ask()).await.unwrap_err();
        assert_eq!(error.is_callers_mistake(), callers, "{error}");
        assert!(error.to_string().contains("no way"), "{error}");
    }
}

#[tokio::test]
async fn servers_without_the_model_or_out_of_reach_are_refused_at_once() {
    let mut config = Script::events(&[]).serve().await.0;
    config.model = "mine".to_owned();
    let problem = Remote::connect(config.clone()).await.unwrap_err().to_string();
    assert!(problem.contains("mine") && problem.contains("other"), "{problem}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    config.base_url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let problem = Remote::connect(config).await.unwrap_err().to_string();
    assert!(problem.contains("refused"), "{problem}");
}

#[tokio::test]
async fn a_remote_engine_has_no_reference_pass() {
    let remote = Script::events(&[]).connect().await;
    let pass = ReferencePass::new(ask(), vec![1]);
    let error = remote.reference(pass).await.unwrap_err();
    assert!(matches!(error, EngineError::Unsupported(_)), "{error}");
}

proptest! {
    #[test]
    fn no_event_makes_the_parser_panic(text in "\\PC{0,80}", event in any::<Option<f32>>()) {
        let _ = wire::error_message(text.as_bytes());
        let chunk = json!({ "choices": [{ "text": text, "logprobs": { "tokens": [text], "token_logprobs": [event] } }] });
        if let Ok(chunk) = serde_json::from_value::<Chunk>(chunk) {
            for choice in chunk.choices {
                let _ = choice.piece();
            }
        }
    }
}

#[tokio::test]
async fn everything_that_was_asked_for_is_passed_on() {
    let script = Script::events(&[chat_event("Hi", 5, Some("stop"))]);
    let requests = Arc::clone(&script.requests);
    let remote = script.connect().await;
    let mut asked = ask();
    asked.adjustment = Adjustment {
        presence_penalty: 0.5,
        frequency_penalty: -0.5,
        bias: vec![(7, -100.0), (9, 1.5)],
    };
    asked.format = Format::JsonObject;
    collect(&remote, asked.clone()).await.unwrap();
    let (_, body) = requests.lock().unwrap().pop().unwrap();
    assert_eq!(body["presence_penalty"], 0.5);
    assert_eq!(body["frequency_penalty"], -0.5);
    assert_eq!(body["logit_bias"], json!({"7": -100.0, "9": 1.5}));
    assert_eq!(body["response_format"], json!({"type": "json_object"}));

    let tool = |parameters: &str| Tool {
        name: "find".to_owned(),
        description: None,
        parameters: Some(serde_json::from_str(parameters).unwrap()),
    };
    let tools = |parameters: &str, choice| {
        Some(Tools { list: vec![tool(parameters)], choice, parallel: true })
    };
    asked.format = Format::Text;
    asked.tools = tools(r#"{"type": "object"}"#, ToolChoice::Auto);
    collect(&remote, asked.clone()).await.unwrap();
    let (_, body) = requests.lock().unwrap().pop().unwrap();
    assert_eq!(
        body["tools"],
        json!([{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}])
    );
    assert_eq!((&body["tool_choice"], body.get("response_format")), (&json!("none"), None));

    asked.tools = tools(r#"{"type": "object"}"#, ToolChoice::Required);
    collect(&remote, asked.clone()).await.unwrap();
    let (_, body) = requests.lock().unwrap().pop().unwrap();
    let schema = &body["response_format"]["json_schema"]["schema"];
    assert_eq!(schema["items"]["anyOf"][0]["properties"]["name"], json!({"const": "find"}));

    asked.tools = tools(r##"{"$ref": "#/$defs/x", "$defs": {"x": {}}}"##, ToolChoice::Required);
    let error = collect(&remote, asked).await.unwrap_err();
    assert!(matches!(error, EngineError::BadParameter { name: "tools", .. }), "{error}");
}
