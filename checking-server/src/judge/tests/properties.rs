//! What holds for any answer.

use proptest::prelude::*;

use super::*;

fn any_score() -> impl Strategy<Value = TokenScore> {
    let number = prop_oneof![
        -20.0f32..1.0,
        prop::num::f32::NORMAL
            | prop::num::f32::ZERO
            | prop::num::f32::INFINITE
            | prop::num::f32::NEGATIVE,
    ];
    (number.clone(), number.clone(), -5.0..5.0f32, 0u32..100, number.clone(), number).prop_map(
        |(logprob, collision, entropy, drawn, deficit, tempered)| TokenScore {
            logprob,
            collision,
            entropy,
            deficit,
            tempered,
            rivals: vec![Rival { token: drawn / 2, deficit: tempered.abs() }],
            ..score(drawn)
        },
    )
}

proptest! {
    /// Whatever is likely at a position: the mean over honest draws is no more than 1 for each hypothesis.
    #[test]
    fn without_seeds_honest_draws_gain_nothing_on_average(
        weights in prop::collection::vec(1e-6..1.0_f64, 6), top_p in 0.3..1.0_f64,
    ) {
        let tempered = |factor: f64| -> Vec<f64> {
            let most = weights.iter().copied().fold(0.0, f64::max);
            let powers: Vec<f64> =
                weights.iter().map(|weight| (weight / most).powf(1.0 / factor)).collect();
            let sum: f64 = powers.iter().sum();
            powers.into_iter().map(|power| power / sum).collect()
        };
        let plain = tempered(1.0);
        let others = [1e-3, 0.8, 0.9, 1.1].map(tempered);
        // The likeliest tokens that together reach `top_p`.
        let mut order: Vec<usize> = (0..6).collect();
        order.sort_by(|a, b| plain[*b].total_cmp(&plain[*a]));
        let mut mass = 0.0;
        order.retain(|&token| {
            let takes_part = mass < top_p;
            mass += if takes_part { plain[token] } else { 0.0 };
            takes_part
        });
        let survival = Survival::assumed(0.01);
        for Suspect { hypothesis, name, .. } in SUSPECTS {
            let mean: f64 = order.iter().map(|&token| {
                let mut score = score(token as u32);
                score.tempered = plain[token].ln() as f32;
                score.otherwise = Some(others.each_ref().map(|other| other[token].ln() as f32));
                score.end = plain[2] as f32;
                // As after another prompt.
                let mut other = score.clone();
                other.tempered = plain[(token + 1) % 6].ln() as f32;
                let seen = Seen {
                    score: &score, without_system: Some(&other), given: token as u32, scale: 1.0, random: true, seeded: false,
                    is_clear: true, top_p, vocabulary: 6.0, ends: &[END], is_ending: token == 2,
                };
                plain[token] / mass * seen.log_ratio(hypothesis, &survival).exp()
            }).sum();
            prop_assert!(mean <= 1.0 + 1e-4, "{name}: {mean}");
        }
    }

    #[test]
    fn every_verdict_is_a_number_between_zero_and_one(
        scores in prop::collection::vec((any_score(), 0u32..100, -1e30f32..0.0), 1..120),
        temperature in 0.0..2.0_f64,
    ) {
        let mut case = Case::asked(scores.len(), &format!(r#","temperature":{temperature}"#));
        case.generated.tokens = scores.iter().map(|score| score.1).collect();
        case.generated.logprobs = scores.iter().map(|score| score.2).collect();
        case.reference.tokens = scores.into_iter().map(|score| score.0).collect();
        let verdict = case.judged(Known::of(&case.reference), &standard());
        prop_assert!((0.0..=1.0).contains(&verdict.quality));
        let evidence = &verdict.evidence;
        for number in [
            evidence.seeded_agreement,
            evidence.mean_deficit,
            evidence.logprob_distance,
            evidence.mean_entropy,
            evidence.log_e,
        ] {
            prop_assert!(number.is_finite(), "{evidence:?}");
        }
    }
}
