use std::sync::atomic::Ordering;

use common::capacity::Declaration;
use common::generation::{FinishReason, Role};
use common::openai::Answer;
use common::receipt::request_digest;
use common::session::{self, Opener};
use common::{Keypair, TaskId, Volume};
use futures::StreamExt;
use serde_json::json;

use super::scripted::{Ending, Scripted};
use super::*;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn hello() -> Scripted {
    Scripted::says(&["hel", "lo", " there"], Ending::Stop)
}

fn chat(more: Value) -> Value {
    let mut body = json!({"model": "chat-demo", "messages": [{"role": "user", "content": "hi"}], "stream": true});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn completion() -> Value {
    json!({"model": "complete-demo", "prompt": "hi"})
}

#[tokio::test]
async fn a_streamed_chat_has_role_text_usage_and_a_signed_receipt() {
    let world = World::start(hello(), |_| {}).await;
    let body = chat(json!({"seed": 5, "logprobs": true, "top_logprobs": 1,
                           "stream_options": {"include_usage": true}}));
    let response = world.post(CHAT, &body).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    let events = events(&text);
    assert_eq!(events.last(), Some(&"[DONE]"));
    let chunks: Vec<_> = events[..events.len() - 1].iter().map(|event| chunk(event)).collect();

    let first = chunks[0].choices[0].delta.clone().unwrap();
    assert_eq!(first.role, Some(Role::Assistant));
    let said: String =
        chunks.iter().flat_map(|chunk| &chunk.choices).map(|c| c.added_text()).collect();
    assert_eq!(said, "hello there");
    let logprobs = chunks[2].choices[0].logprobs.clone().unwrap();
    assert_eq!(
        logprobs,
        json!({"content": [{
            "token": "lo", "logprob": -1.0, "bytes": [108, 111],
            "top_logprobs": [{"token": "other", "logprob": -9999.0, "bytes": [111, 116, 104, 101, 114]}],
        }]})
    );
    let [.., finish, usage, receipt] = &chunks[..] else { panic!("too few events: {text}") };
    assert_eq!(finish.choices[0].finish_reason, Some(FinishReason::Stop));
    assert_eq!(usage.usage.unwrap().total_tokens, 10);
    assert!(receipt.choices.is_empty());
    let receipt = receipt.receipt.clone().unwrap();
    assert!(receipt.is_signed_by(&world.miner));
    assert_eq!(receipt.generated.request_digest, request_digest(body.to_string().as_bytes()));
    assert_eq!(receipt.generated.tokens, [0, 1, 2]);
    assert_eq!(receipt.generated.logprobs, [-0.5, -1.0, -1.5]);
    let timings = receipt.generated.timings;
    assert!(
        timings.queued_us <= timings.first_token_us && timings.first_token_us <= timings.total_us
    );
    world.eventually(r#"miner_requests_total{task="chat-demo",outcome="Answered"} 1"#).await;
    world.eventually(r#"miner_capacity_used_tokens{task="chat-demo"} 3.0"#).await;
    world.stop().await;
}

#[tokio::test]
async fn a_stream_without_wishes_has_only_text_and_the_receipt() {
    let world = World::start(hello(), |_| {}).await;
    let text = world.post(CHAT, &chat(json!({}))).await.text().await.unwrap();
    assert_eq!(
        events(&text).len(),
        1 + 3 + 1 + 1 + 1,
        "role, words, finish, receipt, [DONE]: {text}"
    );
    assert!(!text.contains("\"usage\"") && !text.contains("top_logprobs"));
    world.stop().await;
}

#[tokio::test]
async fn a_whole_completion_carries_the_receipt_beside_the_text() {
    let world = World::start(hello(), |_| {}).await;
    let body = json!({"model": "complete-demo", "prompt": "hi", "logprobs": 1});
    let response = world.post(COMPLETIONS, &body).await;
    assert_eq!(response.status(), 200);
    let answer: Answer = response.json().await.unwrap();
    assert_eq!(answer.object, "text_completion");
    assert_eq!(answer.choices[0].text.as_deref(), Some("hello there"));
    let logprobs = answer.choices[0].logprobs.clone().unwrap();
    assert_eq!(logprobs["tokens"], json!(["hel", "lo", " there"]));
    assert_eq!(logprobs["token_logprobs"], json!([-0.5, -1.0, -1.5]));
    assert_eq!(logprobs["text_offset"], json!([0, 3, 5]));
    assert_eq!(logprobs["top_logprobs"][0], json!({"other": -9999.0}));
    assert!(answer.receipt.unwrap().is_signed_by(&world.miner));

    let response = world.post(CHAT, &chat(json!({"stream": false}))).await;
    let answer: Answer = response.json().await.unwrap();
    assert_eq!(answer.choices[0].message.as_ref().unwrap().content, "hello there");
    assert!(answer.id.starts_with("chatcmpl-"));
    world.stop().await;
}

#[tokio::test]
async fn only_requests_that_are_signed_for_this_miner_and_new_are_answered() {
    let world = World::start(hello(), |_| {}).await;
    let body = completion().to_string();
    let verdict = async |signed| {
        let (status, error) =
            error_of(world.send(Method::POST, COMPLETIONS, &body, signed).await).await;
        (status, error["code"].as_str().unwrap_or_default().to_owned())
    };
    let sign = |body: &str, receiver: &str, nonce| {
        let request =
            btauth::Request { method: "POST", target: COMPLETIONS, body: body.as_bytes() };
        let receiver = Keypair::development(receiver).hotkey();
        btauth::sign(&request, &world.validator, Some(&receiver), nonce)
    };
    let unsigned = world.client.post(format!("{}{COMPLETIONS}", world.url)).body(body.clone());
    let (status, error) = error_of(unsigned.send().await.unwrap()).await;
    assert_eq!((status, error["code"].as_str()), (401, Some("MalformedAuth")));
    let day = 86_400_000_000_000;
    assert_eq!(verdict(sign(&body, "Eve", now_ns())).await, (401, "WrongReceiver".to_owned()));
    assert_eq!(verdict(sign(&body, "Bob", now_ns() - day)).await, (401, "StaleRequest".to_owned()));
    assert_eq!(verdict(sign("{}", "Bob", now_ns())).await, (401, "BadSignature".to_owned()));

    let signed = world.signed(&world.validator, &Method::POST, COMPLETIONS, &body);
    let once = world.send(Method::POST, COMPLETIONS, &body, signed.clone()).await;
    assert_eq!(once.status(), 200);
    assert_eq!(verdict(signed).await, (401, "ReplayedRequest".to_owned()));
    world.eventually(r#"miner_requests_total{task="",outcome="Unauthenticated"} 5"#).await;
    world.stop().await;
}

#[tokio::test]
async fn who_may_not_call_is_told_so_before_the_body_has_arrived() {
    let world = World::start(hello(), |_| {}).await;
    let verdict = async |signed: Option<btauth::Headers>| {
        let never = futures::stream::pending::<std::io::Result<Vec<u8>>>();
        let never = reqwest::Body::wrap_stream(never);
        let mut request = world.client.post(format!("{}{COMPLETIONS}", world.url)).body(never);
        for (name, value) in signed.into_iter().flatten() {
            request = request.header(name, value);
        }
        let answer = tokio::time::timeout(Duration::from_secs(5), request.send()).await;
        answer.expect("before the body's deadline").unwrap().status().as_u16()
    };
    let sign = |who: &str, receiver: &str| {
        let request = btauth::Request { method: "POST", target: COMPLETIONS, body: b"{}" };
        let receiver = Keypair::development(receiver).hotkey();
        Some(btauth::sign(&request, &Keypair::development(who), Some(&receiver), now_ns()))
    };
    assert_eq!(verdict(None).await, 401);
    assert_eq!(verdict(sign("Alice", "Eve")).await, 401);
    assert_eq!(verdict(sign("Ferdie", "Bob")).await, 403);
    assert_eq!(verdict(sign("Eve", "Bob")).await, 403);
    world.stop().await;
}

#[tokio::test]
async fn what_was_signed_before_the_start_is_stale() {
    let before = now_ns();
    let world = World::start(hello(), |_| {}).await;
    let request = btauth::Request { method: "GET", target: "/capacity", body: b"" };
    let signed = btauth::sign(&request, &world.validator, Some(&world.miner), before);
    let answer = world.send(Method::GET, "/capacity", "", signed).await;
    assert_eq!(error_of(answer).await.1["code"], "StaleRequest");
    world.stop().await;
}

#[tokio::test]
async fn validators_without_permit_and_strangers_are_forbidden_unless_allowed() {
    let eve = Keypair::development("Eve");
    let world = World::start(hello(), |config| {
        config.access.allow = vec![Keypair::development("Dave").hotkey()];
    })
    .await;
    for (who, reason) in [("Ferdie", "no validator permit"), ("Eve", "not registered")] {
        let (status, error) =
            error_of(world.get_as(&Keypair::development(who), "/capacity").await).await;
        assert_eq!(status, 403, "{who}: {error}");
        assert!(error["message"].as_str().unwrap().contains(reason), "{error}");
    }
    assert_eq!(world.get_as(&Keypair::development("Dave"), "/capacity").await.status(), 200);
    assert_eq!(world.get_as(&eve, "/v1/models").await.status(), 403);
    let models: Value = world.get_as(&world.validator, "/v1/models").await.json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "chat-demo");
    let health: Value =
        reqwest::get(format!("{}/health", world.url)).await.unwrap().json().await.unwrap();
    assert_eq!(health["ok"], true);
    world.stop().await;
}

#[tokio::test]
async fn each_validator_is_declared_its_share_and_refused_beyond_it() {
    let world = World::start(hello(), |config| {
        config.period = Duration::from_secs(3600);
        for task in &mut config.tasks {
            task.capacity = Volume::from(6);
        }
    })
    .await;
    let charlie = Keypair::development("Charlie");
    let task: TaskId = "complete-demo".parse().unwrap();
    for (who, volume) in [(&world.validator, 4), (&charlie, 1)] {
        let declared: Declaration = world.get_as(who, "/capacity").await.json().await.unwrap();
        assert_eq!(declared.tasks[&task].volume, Volume::from(volume));
        assert_eq!(declared.period_s, 3600.0);
    }
    // Three tokens each: the share of four is used up by two requests.
    for _ in 0..2 {
        let response = world.post(COMPLETIONS, &completion()).await;
        assert_eq!(response.status(), 200);
        response.bytes().await.unwrap();
    }
    let refused = world.post(COMPLETIONS, &completion()).await;
    assert_eq!(refused.status(), 429);
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3600).contains(&wait));
    assert_eq!(
        world.post(CHAT, &chat(json!({}))).await.status(),
        200,
        "the other task has its own share"
    );
    world.stop().await;
}

#[tokio::test]
async fn beyond_the_concurrency_limit_requests_are_refused_and_a_client_that_leaves_frees_its_place()
 {
    let engine = Scripted::says(&["wait"], Ending::Hang);
    let cancelled = engine.cancelled.clone();
    let world = World::start(engine, |config| config.limits.waiting = 0).await;
    let mut hanging = world.post(CHAT, &chat(json!({}))).await.bytes_stream();
    hanging.next().await.unwrap().unwrap();

    let refused = world.post(COMPLETIONS, &completion()).await;
    assert_eq!(refused.status(), 429, "both tasks share the engine's one place");
    assert_eq!(refused.headers()["retry-after"], "1");

    drop(hanging);
    world.eventually(r#"miner_requests_total{task="chat-demo",outcome="Cancelled"} 1"#).await;
    assert!(cancelled.load(Ordering::SeqCst), "the engine was told");
    world.eventually(r#"miner_in_flight{task="chat-demo"} 0"#).await;
    // Its one token was counted, and the place is free again.
    world.eventually(r#"miner_capacity_used_tokens{task="chat-demo"} 1.0"#).await;
    let response = world.post(CHAT, &chat(json!({}))).await;
    assert_eq!(response.status(), 200);
    drop(response);
    world.stop().await;
}

#[tokio::test]
async fn an_engine_that_fails_ends_the_stream_with_an_error_and_nothing_of_its_cause() {
    for (ending, words) in [(Ending::Error, 1), (Ending::Vanish, 1), (Ending::Repeat, 0)] {
        let world = World::start(Scripted::says(&["well"], ending), |_| {}).await;
        let text = world.post(CHAT, &chat(json!({"max_tokens": 5}))).await.text().await.unwrap();
        let events = events(&text);
        assert!(events.len() >= 2 + words, "{text}");
        let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert_eq!(last["error"]["type"], "server_error", "{ending:?}: {text}");
        assert!(!text.contains("secret detail") && !text.contains("receipt"));

        let whole = json!({"model": "complete-demo", "prompt": "hi", "max_tokens": 5});
        assert_eq!(error_of(world.post(COMPLETIONS, &whole).await).await.0, 500);
        world.stop().await;
    }
}

#[tokio::test]
async fn an_engine_that_makes_no_progress_is_given_up() {
    let world = World::start(Scripted::says(&["well"], Ending::Hang), |config| {
        config.limits.stall = Duration::from_millis(20);
    })
    .await;
    let text = world.post(CHAT, &chat(json!({}))).await.text().await.unwrap();
    assert!(events(&text).last().unwrap().contains("server_error"), "{text}");
    world.eventually(r#"miner_requests_total{task="chat-demo",outcome="Failed"} 1"#).await;
    world.stop().await;
}

#[tokio::test]
async fn wrong_requests_are_explained() {
    let world = World::start(hello(), |config| config.limits.body_bytes = 2000).await;
    let cases = [
        (CHAT, chat(json!({"model": "nobody"})), 404, json!(null)),
        (CHAT, chat(json!({"model": "complete-demo"})), 400, json!("model")),
        (CHAT, chat(json!({"temperature": 9})), 400, json!("temperature")),
        (CHAT, chat(json!({"tools": [7]})), 400, json!("tools")),
        (CHAT, chat(json!({"n": 2})), 400, json!("n")),
        (COMPLETIONS, json!({"model": "complete-demo"}), 400, json!("prompt")),
        (COMPLETIONS, json!([1]), 400, json!(null)),
        (CHAT, chat(json!({"max_tokens": 13})), 400, json!(null)),
        (CHAT, chat(json!({"user": "x".repeat(3000)})), 413, json!(null)),
    ];
    for (path, body, status, param) in cases {
        let (got, error) = error_of(world.post(path, &body).await).await;
        assert_eq!((got, &error["param"]), (status, &param), "{body}: {error}");
        let too_long = body["max_tokens"] == 13;
        assert_eq!(error["code"] == "context_length_exceeded", too_long, "{body}: {error}");
    }
    world.stop().await;
}

#[tokio::test]
async fn stopping_waits_for_no_client_for_ever() {
    let world = World::start(Scripted::says(&["wait"], Ending::Hang), |_| {}).await;
    let mut hanging = world.post(CHAT, &chat(json!({}))).await.bytes_stream();
    hanging.next().await.unwrap().unwrap();
    world.stop().await;
    while let Some(Ok(_)) = hanging.next().await {}
}

#[tokio::test]
async fn a_session_takes_the_place_of_signatures() {
    let world = World::start(hello(), |_| {}).await;
    let opener = Opener::new([1; 32]);
    let opening = serde_json::to_value(opener.opening()).unwrap();
    let accepted = world.post(session::PATH, &opening).await;
    assert_eq!(accepted.status(), 200);
    let accepted = accepted.json().await.unwrap();
    let own = world.validator.hotkey();
    let session = opener.complete(&own, &world.miner, &accepted).unwrap();

    let body = chat(json!({})).to_string();
    let send = async |path: &str, counter| {
        let signed = btauth::Request { method: "POST", target: path, body: body.as_bytes() };
        let mut request = world.client.post(format!("{}{path}", world.url)).body(body.clone());
        for (name, value) in session.headers(&signed, counter) {
            request = request.header(name, value);
        }
        request.send().await.unwrap()
    };
    let text = send(CHAT, 0).await.text().await.unwrap();
    let chunks = events(&text);
    let receipt = chunk(chunks[chunks.len() - 2]).receipt.unwrap();
    assert!(receipt.is_signed_by(&world.miner), "the signature is for everybody else");
    let tag = receipt.tag.unwrap();
    assert!(session.is_receipt_tag(0, &receipt.generated.digest(), &tag));

    let (status, error) = error_of(send(CHAT, 0).await).await;
    assert_eq!((status, error["code"].as_str()), (401, Some("ReplayedRequest")));
    let (status, error) = error_of(send(session::PATH, 1).await).await;
    assert_eq!((status, error["type"].as_str()), (400, Some("invalid_request_error")));
    assert_eq!(send(CHAT, 2).await.status(), 200);
    world.stop().await;
}

#[tokio::test]
async fn only_who_may_ask_opens_sessions() {
    let world = World::start(hello(), |_| {}).await;
    let body = serde_json::to_string(&Opener::new([1; 32]).opening()).unwrap();
    let without_permit = Keypair::development("Ferdie");
    let signed = world.signed(&without_permit, &Method::POST, session::PATH, &body);
    let refused = world.send(Method::POST, session::PATH, &body, signed).await;
    assert_eq!(refused.status(), 403);
    for body in [json!({}), json!({"version": 2, "key": "00"}), json!({"version": 1, "key": "00"})]
    {
        assert_eq!(world.post(session::PATH, &body).await.status(), 400, "{body}");
    }
    world.stop().await;
}
