//! Answers of the demo model to a task whose miners draw in their own way.

use engine::Purpose;

use super::parameters::{answer, asked, demo};
use super::*;

#[tokio::test]
async fn answers_are_checked_whatever_seed_they_were_drawn_with_and_copies_are_found() {
    let catalogue = catalogue().replace("seeded = true", "seeded = false");
    let miner = demo(Purpose::Generation).await;
    let engine = Arc::new(demo(Purpose::Reference).await);
    let server = Server::start_of(engine, Duration::from_secs(60), &catalogue).await;
    let (mut honest, mut greedy, mut copied) = (Vec::new(), Vec::new(), Vec::new());
    let (_, other) = asked(100, &json!({"max_tokens": 100, "temperature": 1}));
    for seed in 1..=4 {
        let (request, _) = asked(seed, &json!({"max_tokens": 100, "temperature": 1}));
        let (_, drawn) = asked(seed + 100, &json!({"max_tokens": 100, "temperature": 1}));
        let (_, certain) = asked(seed, &json!({"max_tokens": 100, "temperature": 0}));
        honest.push(answer(&miner, &request, drawn).await);
        greedy.push(answer(&miner, &request, certain).await);
        copied.push(answer(&miner, &request, other.clone()).await);
    }
    // A request without a seed is one more.
    let mut unseeded: Value = serde_json::from_str(&honest[0].request).unwrap();
    unseeded.as_object_mut().unwrap().remove("seed");
    let (_, drawn) = asked(105, &json!({"max_tokens": 100, "temperature": 1}));
    honest.push(answer(&miner, &unseeded.to_string(), drawn).await);

    for result in server.check(honest).await {
        assert_eq!(short(&result), Ok(1.0), "{result:?}");
    }
    for result in server.check(greedy).await {
        assert!(short(&result).unwrap() < 0.6, "{result:?}");
    }
    // The first one to give it has it from nobody.
    let results = server.check(vec![copied.remove(0)]).await;
    assert_eq!(short(&results[0]), Ok(1.0), "{results:?}");
    let mut telling = Vec::new();
    for (check, result) in copied.iter().zip(server.check(copied.clone()).await) {
        let Outcome::Verdict(verdict) = result.outcome else { panic!("{result:?}") };
        assert_eq!(verdict.quality, 0.0, "{verdict:?}");
        assert!(verdict.reasons[0].contains("was given before"), "{verdict:?}");
        telling.push(Telling { check: check.clone(), verdict });
    }
    server.stop().await;

    // Who computes the evidence again has to believe what was given before, and is told so.
    let mut bundle = bundle(telling);
    let again = verified(&bundle, &catalogue).await;
    assert!(again.is_confirmed(), "{}", again.text);
    assert_eq!(again.text.matches("the validator's word alone").count(), 3, "{}", again.text);
    // A verdict that does not follow from what it says was given before is found out.
    bundle.telling[1].verdict.evidence.repeated.as_mut().unwrap().spans.clear();
    let again = verified(&bundle, &catalogue).await;
    assert_eq!(again.confirmed, 2, "{}", again.text);
}
