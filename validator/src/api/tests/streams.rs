//! Answers as streams: what users see of them, and what happens when they do not read.

use prometheus_client::encoding::text::encode;
use tokio::time::Instant;

use super::*;

/// An answer whose body is not read yet.
async fn streamed(world: &World) -> Response {
    let body = json!({"model": "chat-demo", "stream": true,
                      "messages": [{"role": "user", "content": "hi"}]});
    let request = Request::builder().method("POST").uri(Kind::Chat.path());
    let request = request.body(Body::from(body.to_string())).unwrap();
    Arc::clone(&world.api).answer(Kind::Chat, request).await
}

#[tokio::test]
async fn a_stream_has_the_role_first_the_usage_near_the_end_and_done_last() {
    let world = world(&[("Bob", Conduct::Answers)], open()).await;
    let extra = json!({"stream": true, "stream_options": {"include_usage": true}});
    let (_, body) = world.ask(extra, None).await;
    let events: Vec<_> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let parsed: Vec<Value> =
        events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    assert_eq!(parsed[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(parsed.last().unwrap()["usage"]["completion_tokens"], 3);
    assert_eq!(events.last(), Some(&"[DONE]"));
    let text: String = parsed
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "hello there");
    assert!(!body.contains("receipt"), "{body}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_an_error_event_and_no_second_answer() {
    let miners = [("Bob", Conduct::BreaksOff), ("Charlie", Conduct::BreaksOff)];
    let world = world(&miners, open()).await;
    let (_, body) = world.ask(json!({"stream": true}), None).await;
    let last = body.lines().rfind(|line| line.starts_with("data: ")).unwrap();
    assert!(last.contains("\"error\""), "{body}");
    assert_eq!(body.matches("hello").count(), 1, "{body}");
    let failed = |name: &str| world.tally(name).failed.broken;
    assert_eq!(failed("Bob") + failed("Charlie"), 1);
    assert_eq!(world.ask(json!({}), None).await.0, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn what_was_under_way_for_a_user_who_went_away_is_released() {
    let world = world(&[("Bob", Conduct::FallsSilent)], open()).await;
    let response = streamed(&world).await;
    // 256 of 300 tokens are under way: one more request of 60 is refused for good reason.
    assert_eq!(world.refuses("Bob").refused_within, 0);
    drop(response);
    assert_eq!(world.refuses("Bob").refused_within, 1);
    let tally = world.tally("Bob");
    assert_eq!((tally.asked(), tally.void), (tally.refused(), 0));
}

#[tokio::test]
async fn a_user_who_does_not_read_for_a_while_is_not_held_against_the_miner() {
    let world = world(&[("Bob", Conduct::WaitsForLeave)], open()).await;
    let mut events = streamed(&world).await.into_body().into_data_stream();
    let mut text = String::new();
    let mut take = |part: Bytes| {
        text.push_str(std::str::from_utf8(&part).unwrap());
        text.contains("hello")
    };
    while !take(events.next().await.unwrap().unwrap()) {}
    let read = Instant::now();
    while read.elapsed() <= relay::SLOW {
        tokio::task::yield_now().await;
    }
    LEAVE.add_permits(1);
    while let Some(part) = events.next().await {
        take(part.unwrap());
    }
    assert!(text.ends_with("[DONE]\n\n"), "{text}");
    assert_eq!(world.tally("Bob").served, 1);
    let mut metrics = String::new();
    encode(&mut metrics, &world.registry).unwrap();
    assert!(metrics.contains("outcome=\"distorted\""), "{metrics}");
}
