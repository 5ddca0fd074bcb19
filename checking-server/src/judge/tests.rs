mod properties;
mod without_system;

use common::checks::{Check, Finding, Repeated, Verdict};
use common::format::NumericFormat;
use common::generation::FinishReason;
use common::openai::{Asked, Kind, Limits, parse};
use common::receipt::{Generated, MAX_TOKENS, Timings, request_digest};
use common::{Keypair, TaskId};
use engine::{ModelInfo, Reference, Rival, TokenScore};

use super::hypotheses::{SUSPECTS, Seen, Suspect};
use super::survival::Survival;
use super::{BadReference, Known, Standard, examine, judge};

fn standard() -> Standard {
    Standard::assumed(&[NumericFormat::F32, NumericFormat::F16])
}

const END: u32 = 2;

/// An answer, its reference and what was asked for; honest until changed.
#[derive(Debug, Clone)]
struct Case {
    request: String,
    text: String,
    generated: Generated,
    reference: Reference,
    signer: Keypair,
}

impl Case {
    /// An honest answer of `count` tokens, the last of them an end token.
    fn honest(count: usize) -> Self {
        Self::asked(count, "")
    }

    fn asked(count: usize, extra: &str) -> Self {
        let request = format!(
            r#"{{"model":"chat-demo","messages":[{{"role":"user","content":"hi"}}],"seed":7,"max_tokens":200{extra}}}"#
        );
        let mut tokens: Vec<u32> = (0..count).map(|index| 10 + index as u32 % 50).collect();
        tokens[count - 1] = END;
        let scores = tokens.iter().map(|token| score(*token)).collect();
        let generated = Generated {
            task: "chat-demo".parse::<TaskId>().unwrap(),
            request_digest: request_digest(request.as_bytes()),
            prompt_tokens: 5,
            logprobs: vec![-1.0; count],
            tokens,
            finish_reason: FinishReason::Stop,
            timings: Timings::default(),
        };
        let text = "Hello there.".to_owned();
        let reference = Reference {
            prompt_tokens: 5,
            tokens: scores,
            text: text.clone(),
            outside_grammar: None,
        };
        Self { request, text, generated, reference, signer: Keypair::development("Alice") }
    }

    fn asked_for(&self) -> Asked {
        let limits = Limits::new(256, 1000);
        parse(Kind::Chat, self.request.as_bytes(), limits).unwrap()
    }

    fn check(&self) -> Check {
        Check {
            id: "1".to_owned(),
            task: "chat-demo".parse().unwrap(),
            miner: Keypair::development("Alice").hotkey(),
            request: self.request.clone(),
            text: self.text.clone(),
            receipt: self.generated.clone().sign(&self.signer),
        }
    }

    fn examined(&self) -> Vec<Finding> {
        examine(&self.check(), &self.asked_for(), &model())
    }

    fn verdict(&self) -> Verdict {
        assert_eq!(self.examined(), []);
        self.judged(Known::of(&self.reference), &standard())
    }

    /// As a task without seeds judges it.
    fn without_seeds(&self, repeated: Option<Repeated>) -> Verdict {
        let known = Known { repeated, ..Known::of(&self.reference) };
        self.judged(known, &standard().without_seeds())
    }

    fn judged(&self, known: Known<'_>, standard: &Standard) -> Verdict {
        judge(&self.check(), &self.asked_for(), &model(), known, standard).unwrap()
    }

    /// Makes every `every`th token a mismatch with this deficit.
    fn mismatching(mut self, every: usize, deficit: f32) -> Self {
        for score in self.reference.tokens.iter_mut().skip(every / 2).step_by(every) {
            miss(score, deficit);
        }
        self
    }

    /// Makes the last token a mismatch with this deficit.
    fn forged_end(mut self, deficit: f32) -> Self {
        miss(self.reference.tokens.last_mut().unwrap(), deficit);
        self
    }
}

/// A token that is drawn, with one rival far behind.
fn score(token: u32) -> TokenScore {
    TokenScore {
        logprob: -1.0,
        log_sum_exp: 9.0,
        rank: 0,
        entropy: 1.1,
        variance: 0.8,
        collision: 0.3,
        drawn: token,
        deficit: 0.0,
        rivals: vec![Rival { token: 98, deficit: 1.0 }],
        elsewhere: [token; 4],
        tempered: -1.0,
        otherwise: None,
        tempered_entropy: 1.1,
        tempered_variance: 0.8,
        end: 0.01,
        top: Vec::new(),
    }
}

/// The same token, given though another one is drawn.
fn miss(score: &mut TokenScore, deficit: f32) {
    let given = std::mem::replace(&mut score.drawn, 99);
    score.deficit = deficit;
    score.elsewhere = [99; 4];
    score.rivals = vec![Rival { token: given, deficit }];
}

fn model() -> ModelInfo {
    ModelInfo {
        name: "touchstone-demo-4m".to_owned(),
        vocabulary: 100,
        context: 1000,
        end_tokens: vec![END],
    }
}

#[test]
fn an_honest_answer_gets_everything_and_no_reason() {
    let verdict = Case::honest(60).verdict();
    assert_eq!((verdict.quality, verdict.reasons), (1.0, Vec::new()));
    assert_eq!(verdict.evidence.seeded_agreement, 1.0);
    assert_eq!(verdict.evidence.tokens, 60);
    assert!(verdict.evidence.log_e < 0.0 && !verdict.evidence.calibrated);
    let shares: f64 = verdict.evidence.e_values.iter().map(|e| e.share).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
}

#[test]
fn an_answer_signed_with_another_key_is_refused() {
    let case = Case { signer: Keypair::development("Bob"), ..Case::honest(5) };
    assert_eq!(case.examined(), [Finding::BadSignature]);
}

#[test]
fn an_answer_that_leaves_its_grammar_is_worth_nothing() {
    let mut case = Case::asked(40, r#","response_format":{"type":"json_object"}"#);
    case.reference.outside_grammar = Some(3);
    let verdict = case.verdict();
    assert_eq!(verdict.quality, 0.0);
    assert_eq!(verdict.evidence.findings, [Finding::OutsideGrammar { position: 3 }]);
    assert!(verdict.reasons[0].starts_with("token 3 "), "{verdict:?}");
}

#[test]
fn a_receipt_changed_after_signing_is_refused() {
    let case = Case::honest(5);
    let mut check = case.check();
    check.receipt.generated.tokens[0] += 1;
    assert_eq!(examine(&check, &case.asked_for(), &model()), [Finding::BadSignature]);
}

#[test]
fn a_receipt_of_another_request_or_task_is_refused() {
    let mut case = Case::honest(5);
    case.generated.request_digest = request_digest(b"{}");
    assert_eq!(case.examined(), [Finding::ForeignRequest]);
    let mut case = Case::honest(5);
    case.generated.task = "chat-other".parse().unwrap();
    assert_eq!(case.examined(), [Finding::ForeignRequest]);
}

#[test]
fn an_empty_answer_is_refused() {
    let mut case = Case::honest(5);
    case.generated.tokens.clear();
    case.generated.logprobs.clear();
    assert_eq!(case.examined(), [Finding::Empty]);
}

#[test]
fn logprobs_that_are_missing_or_impossible_are_found() {
    let mut case = Case::honest(5);
    case.generated.logprobs.pop();
    assert_eq!(case.examined(), [Finding::LengthMismatch]);
    for impossible in [0.1, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut case = Case::honest(5);
        case.generated.logprobs[3] = impossible;
        assert_eq!(case.examined(), [Finding::ImpossibleLogprob { position: 3 }], "{impossible}");
    }
    let mut case = Case::honest(5);
    case.generated.logprobs[3] = 1e-6;
    assert_eq!(case.examined(), [], "a rounding error is no lie");
}

#[test]
fn token_ids_outside_the_vocabulary_are_found() {
    let mut case = Case::honest(5);
    case.generated.tokens[1] = 100;
    assert_eq!(case.examined(), [Finding::OutsideVocabulary { position: 1, token: 100 }]);
}

#[test]
fn more_tokens_than_asked_for_are_found_an_end_token_counts() {
    assert_eq!(Case::honest(200).examined(), []);
    assert_eq!(Case::honest(201).examined(), [Finding::TooManyTokens { limit: 200, got: 201 }]);
}

#[test]
fn a_receipt_beyond_all_bounds_is_not_read() {
    let mut case = Case::honest(5);
    case.generated.logprobs = vec![f32::NAN; MAX_TOKENS + 1];
    let got = MAX_TOKENS as u32 + 1;
    assert_eq!(case.examined(), [Finding::TooManyTokens { limit: 200, got }]);
}

#[test]
fn tokens_after_an_end_token_are_found() {
    let mut case = Case::honest(5);
    case.generated.tokens[1] = END;
    assert_eq!(case.examined(), [Finding::PastTheEnd]);
}

#[test]
fn text_that_the_tokens_do_not_say_is_found() {
    let mut case = Case::honest(5);
    case.text = "Hello here.".to_owned();
    let verdict = case.verdict();
    assert_eq!(verdict.evidence.findings, [Finding::TextMismatch]);
    assert_eq!(verdict.quality, 0.0);
    assert!(verdict.reasons[0].contains("do not decode"), "{:?}", verdict.reasons);
}

#[test]
fn a_character_cut_by_the_limit_is_no_mismatch() {
    let mut case = Case::honest(5);
    case.reference.text.push_str("\u{fffd}\u{fffd}");
    assert_eq!(case.verdict().quality, 1.0);
}

#[test]
fn a_stop_text_ends_an_answer_and_is_cut_from_it() {
    let mut case = Case::asked(5, r#","stop":["STOP","END"]"#);
    case.generated.tokens[4] = 11;
    case.reference.tokens[4].drawn = 11;
    case.reference.text = "Hello there.END, or".to_owned();
    assert_eq!(case.verdict().quality, 1.0);
    case.text = case.reference.text.clone();
    assert_eq!(case.verdict().evidence.findings, [Finding::TextMismatch]);
}

#[test]
fn hidden_tokens_after_a_stop_text_are_found() {
    let mut case = Case::asked(5, r#","stop":"END""#);
    case.reference.text = format!("Hello there.END{}", " and on".repeat(40));
    assert_eq!(case.verdict().evidence.findings, [Finding::PastTheEnd]);
}

#[test]
fn an_answer_that_just_breaks_off_is_found() {
    for reason in [FinishReason::Stop, FinishReason::Length] {
        let mut case = Case::honest(5);
        case.generated.tokens[4] = 11;
        case.reference.tokens[4].drawn = 11;
        case.generated.finish_reason = reason;
        assert_eq!(case.verdict().evidence.findings, [Finding::StoppedEarly], "{reason:?}");
    }
}

#[test]
fn the_limit_or_a_full_context_ends_an_answer() {
    let mut case = Case::honest(200);
    case.generated.tokens[199] = 11;
    case.reference.tokens[199].drawn = 11;
    case.generated.finish_reason = FinishReason::Length;
    assert_eq!(case.verdict().quality, 1.0);

    let mut case = Case::honest(20);
    case.generated.tokens[19] = 11;
    case.reference.tokens[19].drawn = 11;
    case.generated.finish_reason = FinishReason::Length;
    case.reference.prompt_tokens = 980;
    assert_eq!(case.verdict().quality, 1.0);
}

#[test]
fn honest_noise_costs_nothing_however_short_the_answer() {
    for (count, every) in [(1, 1), (2, 2), (5, 5), (10, 10), (60, 30), (200, 50)] {
        let verdict = Case::honest(count).mismatching(every, 0.004).verdict();
        assert_eq!(verdict.quality, 1.0, "{count} tokens: {verdict:?}");
    }
    // Even where one token is far off: numeric noise has heavy tails.
    for count in [10, 200] {
        let verdict = Case::honest(count).mismatching(count, 9.0).verdict();
        assert_eq!(verdict.quality, 1.0, "{count} tokens: {verdict:?}");
    }
    // The end is judged more strictly, with room for noise.
    for count in [1, 2, 10, 60, 200] {
        let verdict = Case::honest(count).forged_end(0.1).verdict();
        assert_eq!(verdict.quality, 1.0, "{count} tokens: {verdict:?}");
    }
}

#[test]
fn an_end_token_that_the_model_does_not_draw_costs_an_answer_most() {
    for (count, most) in [(1, 0.0), (2, 0.0), (10, 0.0), (40, 0.3), (60, 0.5)] {
        for reason in [FinishReason::Stop, FinishReason::Length] {
            let mut case = Case::honest(count).forged_end(3.0);
            case.generated.finish_reason = reason;
            let verdict = case.verdict();
            assert!(verdict.quality <= most, "{count} tokens, {reason:?}: {verdict:?}");
            assert!(verdict.reasons[0].contains("ends where"), "{verdict:?}");
        }
    }
}

#[test]
fn an_end_that_is_put_off_is_found() {
    let mut case = Case::honest(60);
    miss(&mut case.reference.tokens[30], 2.0);
    case.reference.tokens[30].drawn = END;
    let verdict = case.verdict();
    assert!(verdict.quality < 0.8, "{verdict:?}");
    assert!(verdict.reasons[0].contains("goes on where"), "{verdict:?}");
}

#[test]
fn what_another_temperature_or_seed_draws_is_called_so() {
    let mut case = Case::honest(60).mismatching(9, 0.4);
    for (score, given) in case.reference.tokens.iter_mut().zip(&case.generated.tokens) {
        score.elsewhere = [99, 99, *given, 99];
    }
    let verdict = case.verdict();
    assert_eq!(verdict.quality, 0.0, "{verdict:?}");
    assert!(verdict.reasons[0].contains("as 0.9 times the temperature"), "{verdict:?}");

    let verdict = Case::honest(60).mismatching(2, 2.0).verdict();
    assert!(verdict.reasons[0].contains("not those of the request's seed"), "{verdict:?}");
}

#[test]
fn a_forged_stop_text_costs_quality_even_with_a_token_after_it() {
    // Text, or an end token, after the stop text hides nothing.
    for (after, last, forged) in [("", 11, 9), (" on", 11, 8), ("", END, 8)] {
        let mut case = Case::asked(10, r#","stop":"\n\n""#);
        case.generated.tokens[9] = last;
        case.reference.tokens[9].drawn = last;
        case.reference.text = format!("Hello there.\n\n{after}");
        let honest = case.verdict();
        assert_eq!(honest.quality, 1.0, "{honest:?}");
        miss(&mut case.reference.tokens[forged], 9.0);
        let verdict = case.verdict();
        assert!(verdict.quality < 1.0, "{verdict:?}");
    }
}

#[test]
fn the_last_token_of_an_answer_that_was_cut_is_one_like_the_others() {
    let mut case = Case::honest(200).forged_end(9.0);
    case.generated.tokens[199] = 11;
    case.generated.finish_reason = FinishReason::Length;
    assert_eq!(case.verdict().quality, 1.0);
}

#[test]
fn another_models_tokens_are_worth_nothing_even_with_forged_logprobs() {
    let verdict = Case::honest(60).mismatching(9, 1.3).verdict();
    assert_eq!(verdict.quality, 0.0, "{verdict:?}");
    assert_eq!(verdict.evidence.logprob_distance, 0.0);
    assert!(
        verdict.reasons[0]
            .starts_with("7 of 60 tokens are not what touchstone-demo-4m draws with this seed")
    );
    assert!(verdict.reasons[0].contains("another model"), "{verdict:?}");
}

#[test]
fn a_foreign_tail_is_not_hidden_by_an_honest_beginning() {
    let mut case = Case::honest(200);
    for score in case.reference.tokens.iter_mut().skip(180).step_by(4) {
        miss(score, 2.0);
    }
    assert_eq!(case.verdict().quality, 0.0);
}

#[test]
fn foreign_logprobs_are_worth_nothing_even_with_the_right_tokens() {
    let mut case = Case::honest(60);
    case.generated.logprobs.iter_mut().step_by(2).for_each(|logprob| *logprob -= 3.0);
    let verdict = case.verdict();
    assert_eq!(verdict.quality, 0.0, "{verdict:?}");
    assert!((verdict.evidence.logprob_distance - 1.5).abs() < 1e-6);
    assert!(verdict.reasons[0].contains("log-probabilities stray"), "{verdict:?}");
}

#[test]
fn logprobs_of_another_numeric_format_cost_nothing() {
    let mut case = Case::honest(60);
    case.generated.logprobs.iter_mut().for_each(|logprob| *logprob += 0.005);
    assert_eq!(case.verdict().quality, 1.0);
}

#[test]
fn without_seeds_likely_tokens_are_honest_and_unlikely_ones_are_not() {
    let judged = |case: &Case| case.without_seeds(None);
    // Half of the tokens are not those of the seed.
    let mut case = Case::honest(60).mismatching(2, 2.0);
    for score in &mut case.reference.tokens {
        score.otherwise = Some([f32::NEG_INFINITY, -1.1, -1.05, -0.97]);
    }
    assert_eq!(judged(&case).quality, 1.0, "{:?}", judged(&case));
    let mut foreign = case.clone();
    for score in foreign.reference.tokens.iter_mut().step_by(6) {
        score.tempered = -14.0;
    }
    let verdict = judged(&foreign);
    assert_eq!(verdict.quality, 0.0, "{verdict:?}");
    assert!(verdict.reasons[0].contains("are not what touchstone-demo-4m writes"), "{verdict:?}");
    // What is always the likeliest is no draw.
    for score in &mut case.reference.tokens {
        score.otherwise = Some([0.0, -0.8, -0.9, -1.1]);
    }
    let verdict = judged(&case);
    assert!(verdict.quality < 0.5, "{verdict:?}");
    assert!(verdict.reasons[0].contains("always taking the most likely"), "{verdict:?}");
    // At temperature 0 there is no chance, with seeds or without.
    let greedy = Case::asked(60, r#","temperature":0"#).mismatching(6, 1.0);
    assert_eq!(judged(&greedy).quality, 0.0);
}

#[test]
fn an_answer_that_was_given_before_is_worth_nothing_unless_its_seed_draws_it() {
    let case = Case::honest(60);
    let repeated = Some(Repeated { spans: vec![(10, 60)], kept: 1_000 });
    let known = Known { repeated: repeated.clone(), ..Known::of(&case.reference) };
    let seeded = case.judged(known, &standard());
    assert_eq!(seeded.quality, 1.0);
    let verdict = case.without_seeds(repeated.clone());
    assert_eq!(verdict.quality, 0.0, "{verdict:?}");
    assert!(verdict.reasons[0].contains("was given before"), "{verdict:?}");
    assert_eq!(verdict.evidence.repeated, repeated);
}

#[test]
fn what_top_p_makes_likely_is_no_copy() {
    let mut case = Case::asked(60, r#","temperature":1,"top_p":0.05"#);
    // Each token is the only one that may be drawn.
    for score in &mut case.reference.tokens {
        score.tempered = 0.06_f32.ln();
    }
    let repeated = Some(Repeated { spans: vec![(0, 60)], kept: 1_000 });
    let verdict = case.without_seeds(repeated);
    assert_eq!(verdict.quality, 1.0, "{verdict:?}");
}

#[test]
fn near_the_noise_of_honest_stacks_a_temperature_says_nothing_without_seeds() {
    let quality = |temperature: f64| {
        let mut case = Case::asked(60, &format!(r#","temperature":{temperature}"#));
        // A near-tie that another stack sees the other way round.
        for score in case.reference.tokens.iter_mut().step_by(6) {
            score.tempered = -15.0;
        }
        case.without_seeds(None).quality
    };
    assert_eq!((quality(0.01), quality(1.0)), (1.0, 0.0));
}

#[test]
fn an_end_that_is_put_off_is_found_without_seeds() {
    let mut case = Case::honest(60);
    for score in case.reference.tokens.iter_mut().skip(40) {
        // The model ends the answer at each of the last tokens, all but certainly.
        (score.end, score.tempered) = (0.95, 0.05_f32.ln());
    }
    let verdict = case.without_seeds(None);
    assert_eq!(verdict.quality, 0.0, "{verdict:?}");
}

#[test]
fn a_span_that_an_answer_does_not_have_says_nothing() {
    let case = Case::honest(60);
    let repeated = Some(Repeated { spans: vec![(50, 90), (30, 20)], kept: u64::MAX });
    let verdict = case.without_seeds(repeated);
    assert_eq!(verdict.quality, 1.0, "{verdict:?}");
}

#[test]
fn at_temperature_zero_the_most_likely_token_counts() {
    let case = Case::asked(60, r#","temperature":0"#).mismatching(6, 1.0);
    let verdict = case.verdict();
    assert_eq!(verdict.quality, 0.0);
    assert!(verdict.reasons[0].contains("finds most likely"), "{verdict:?}");
}

#[test]
fn a_low_temperature_does_not_make_honest_noise_look_large() {
    let case = Case::asked(60, r#","temperature":0.05"#).mismatching(30, 0.4);
    assert_eq!(case.verdict().quality, 1.0);
}

#[test]
fn a_miner_is_told_when_it_reads_another_prompt() {
    let mut case = Case::honest(60).mismatching(9, 2.6);
    case.generated.prompt_tokens = 3;
    let verdict = case.verdict();
    assert!(verdict.reasons[1].contains("counts 3 tokens of prompt"), "{verdict:?}");
}

#[test]
fn a_reference_that_does_not_fit_is_the_engines_fault() {
    let mut case = Case::honest(5);
    case.reference.tokens.pop();
    let judged =
        judge(&case.check(), &case.asked_for(), &model(), Known::of(&case.reference), &standard());
    assert_eq!(judged, Err(BadReference::Length { expected: 5, got: 4 }));
    let mut case = Case::honest(5);
    case.reference.tokens[2].deficit = f32::NAN;
    let judged =
        judge(&case.check(), &case.asked_for(), &model(), Known::of(&case.reference), &standard());
    assert_eq!(judged, Err(BadReference::NotANumber { position: 2 }));
}
