//! How often answers are computed once more without the request's system messages, and what that is worth.

use engine::Purpose;

use super::parameters::{answer, asked, demo};
use super::*;
use crate::judge::hypotheses::WITHOUT_SYSTEM;

const ANSWERS: usize = 60;

fn with_system() -> Value {
    json!([{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "hi"}])
}

fn looked_twice(result: &CheckResult) -> bool {
    let Outcome::Verdict(verdict) = &result.outcome else { panic!("{result:?}") };
    assert_eq!(verdict.quality, 1.0, "{verdict:?}");
    let e_values = &verdict.evidence.e_values;
    e_values.iter().any(|e| e.hypothesis == WITHOUT_SYSTEM && e.log_e != 0.0)
}

/// Prefills of the engine for answers that begin with a token, and verdicts that rest on a second one.
async fn looks(first: u32, messages: Value) -> (usize, usize) {
    let engine = Scripted::new(1000);
    let server = Server::start(engine.clone()).await;
    let checks = (0..ANSWERS).map(|id| answered(&id.to_string(), first, &messages)).collect();
    let results = server.check(checks).await;
    server.stop().await;
    let twice = results.iter().filter(|result| looked_twice(result)).count();
    (engine.passes.load(Ordering::SeqCst), twice)
}

#[tokio::test]
async fn a_part_of_the_answers_to_requests_with_a_system_message_is_looked_at_twice() {
    let (passes, twice) = looks(20, with_system()).await;
    assert_eq!(passes, ANSWERS + twice);
    // A fifth of the tokens is allowed, and one answer more.
    assert!((1..=ANSWERS / 5 + 1).contains(&twice), "{twice}");
}

#[tokio::test]
async fn answers_to_requests_without_one_are_looked_at_once() {
    assert_eq!(looks(20, json!([{"role": "user", "content": "hi"}])).await, (ANSWERS, 0));
}

#[tokio::test]
async fn a_second_look_that_fails_costs_what_it_costs_and_is_only_missing() {
    let (passes, twice) = looks(DIES_WITHOUT_SYSTEM, with_system()).await;
    assert_eq!(twice, 0);
    assert!((ANSWERS + 1..=ANSWERS + ANSWERS / 5 + 1).contains(&passes), "{passes}");
}

#[tokio::test]
async fn a_second_look_is_computed_again_by_whoever_verifies() {
    let catalogue = catalogue();
    let miner = demo(Purpose::Generation).await;
    let engine = Arc::new(demo(Purpose::Reference).await);
    let server = Server::start_of(engine, Duration::from_secs(60), &catalogue).await;
    let mut checks = Vec::new();
    for seed in 0..30 {
        let messages = json!([
            {"role": "system", "content": "Tell a story about a fox."},
            {"role": "user", "content": "Begin, please."},
        ]);
        let (request, drawn) = asked(seed, &json!({"messages": messages, "max_tokens": 20}));
        checks.push(answer(&miner, &request, drawn).await);
    }
    let results = server.check(checks.clone()).await;
    server.stop().await;
    let looked = results.iter().position(looked_twice).expect("one of thirty is looked at twice");
    let telling = |index: usize| {
        let Outcome::Verdict(verdict) = &results[index].outcome else { panic!() };
        Telling { check: checks[index].clone(), verdict: verdict.clone() }
    };
    // The first one is never looked at twice: nothing was saved up for it.
    let mut bundle = bundle(vec![telling(0), telling(looked)]);
    let again = verified(&bundle, &catalogue).await;
    assert!(again.is_confirmed(), "{}", again.text);
    assert_eq!(again.text.matches("chose it for a second look").count(), 1, "{}", again.text);
    // Who makes one up is found out.
    let e_values = &mut bundle.telling[1].verdict.evidence.e_values;
    e_values.iter_mut().find(|e| e.hypothesis == WITHOUT_SYSTEM).unwrap().log_e += 3.0;
    let again = verified(&bundle, &catalogue).await;
    assert_eq!(again.confirmed, 1, "{}", again.text);
    // So is an answer that was judged for something else.
    bundle.telling[0].verdict.evidence.e_values.pop();
    let again = verified(&bundle, &catalogue).await;
    assert!(again.text.contains("other hypotheses than this version's"), "{}", again.text);
}
