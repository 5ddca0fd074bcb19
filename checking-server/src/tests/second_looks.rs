//! How often answers are computed once more without the request's system messages.

use super::*;
use crate::judge::hypotheses::WITHOUT_SYSTEM;

const ANSWERS: usize = 60;

/// Prefills of the engine, and verdicts that rest on a second one.
async fn looks(messages: Value) -> (usize, usize) {
    let engine = Scripted::new(1000);
    let server = Server::start(engine.clone()).await;
    let checks = (0..ANSWERS).map(|id| answered(&id.to_string(), 20, &messages)).collect();
    let results = server.check(checks).await;
    server.stop().await;
    let looked_at = results.iter().filter(|result| {
        let Outcome::Verdict(verdict) = &result.outcome else { panic!("{result:?}") };
        assert_eq!(verdict.quality, 1.0, "{verdict:?}");
        let e_values = &verdict.evidence.e_values;
        e_values.iter().any(|e| e.hypothesis == WITHOUT_SYSTEM && e.log_e != 0.0)
    });
    (engine.passes.load(Ordering::SeqCst), looked_at.count())
}

#[tokio::test]
async fn a_part_of_the_answers_to_requests_with_a_system_message_is_looked_at_twice() {
    let (passes, looked_at) = looks(json!([
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "hi"},
    ]))
    .await;
    assert_eq!(passes, ANSWERS + looked_at);
    // A fifth of the tokens is allowed, and one answer more.
    assert!((1..=ANSWERS / 5 + 1).contains(&looked_at), "{looked_at}");
}

#[tokio::test]
async fn answers_to_requests_without_one_are_looked_at_once() {
    assert_eq!(looks(json!([{"role": "user", "content": "hi"}])).await, (ANSWERS, 0));
}
