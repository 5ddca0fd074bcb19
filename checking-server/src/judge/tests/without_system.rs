//! Answers of a model that was run without the system messages.

use super::super::hypotheses::WITHOUT_SYSTEM;
use super::super::without_system;
use super::*;

#[test]
fn an_answer_without_the_system_message_is_told_from_one_with_it() {
    let case = Case::honest(60).mismatching(9, 0.4);
    let mut without = case.reference.clone();
    let honest = Case::honest(60);
    let mut ignored = honest.reference.clone();
    for ((score, given), other) in
        without.tokens.iter_mut().zip(&case.generated.tokens).zip(&mut ignored.tokens)
    {
        score.drawn = *given;
        score.deficit = 0.0;
        (score.tempered, other.tempered) = (-0.4, -1.6);
    }
    let e_value = |verdict: &Verdict| -> f64 {
        let e_values = &verdict.evidence.e_values;
        e_values.iter().find(|e| e.hypothesis == WITHOUT_SYSTEM).unwrap().log_e
    };
    let looked_again = |case: &Case, other: &Reference, standard: &Standard| {
        let known = Known { without_system: Some(other), ..Known::of(&case.reference) };
        case.judged(known, standard)
    };
    let verdict = looked_again(&case, &without, &standard());
    assert_eq!(verdict.quality, 0.0, "{verdict:?}");
    assert!(verdict.reasons[0].contains("without its system message"), "{verdict:?}");
    assert_eq!(e_value(&case.verdict()), 0.0, "nothing was looked at");

    // Without seeds by how likely the tokens are.
    let unseeded = standard().without_seeds();
    let verdict = looked_again(&case, &without, &unseeded);
    assert_eq!(verdict.quality, 0.0, "{verdict:?}");
    assert!(verdict.reasons[0].contains("without its system message"), "{verdict:?}");

    // Tokens that are at least as likely with the system message say nothing against anybody.
    for standard in [standard(), unseeded] {
        let verdict = looked_again(&honest, &ignored, &standard);
        assert_eq!(verdict.quality, 1.0, "{verdict:?}");
        assert!(e_value(&verdict) < 0.0, "{verdict:?}");
    }
    ignored.tokens.pop();
    let known = Known { without_system: Some(&ignored), ..Known::of(&honest.reference) };
    let error = judge(&honest.check(), &honest.asked_for(), &model(), known, &standard());
    assert_eq!(error, Err(BadReference::Length { expected: 60, got: 59 }));
}

#[test]
fn only_system_messages_are_left_out() {
    let chat = |messages: &str| {
        let limits = Limits::new(256, 1000);
        let body = format!(r#"{{"model":"chat-demo","messages":[{messages}]}}"#);
        parse(Kind::Chat, body.as_bytes(), limits).unwrap().generation
    };
    let (system, user) =
        (r#"{"role":"system","content":"Rhyme."}"#, r#"{"role":"user","content":"hi"}"#);
    let shorter = without_system(&chat(&format!("{system},{user}"))).unwrap();
    assert_eq!(shorter.prompt, chat(user).prompt);
    assert_eq!(without_system(&chat(user)), None);
    assert_eq!(without_system(&chat(system)), None);
}
