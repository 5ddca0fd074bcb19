//! Draws numbers as people choose them.

use std::collections::BTreeSet;

use rand::Rng;
use statrs::distribution::{ContinuousCDF, Gamma, Normal};

use crate::Span;

/// One of the entries, each as often as its weight says; nothing if there is none with weight.
pub(super) fn weighted<'a, T>(entries: &'a [(u32, T)], rng: &mut impl Rng) -> Option<&'a T> {
    let total: u32 = entries.iter().map(|(weight, _)| weight).sum();
    let mut left = if total == 0 { return None } else { rng.random_range(0..total) };
    entries.iter().find_map(|(weight, entry)| {
        if left < *weight {
            return Some(entry);
        }
        left -= weight;
        None
    })
}

/// A quantile of a distribution, drawn. The far tails are cut off.
fn quantile(rng: &mut impl Rng) -> f64 {
    rng.random_range(0.001..0.999)
}

fn gamma(shape: f64, mean: f64, rng: &mut impl Rng) -> f64 {
    Gamma::new(shape, shape / mean).map_or(mean, |gamma| gamma.inverse_cdf(quantile(rng)))
}

fn normal(mean: f64, deviation: f64, rng: &mut impl Rng) -> f64 {
    Normal::new(mean, deviation).map_or(mean, |normal| normal.inverse_cdf(quantile(rng)))
}

/// How many words a prompt has: mostly short ones, some of middling length, a few long ones.
///
/// The reference's mixture, `0.3 N(1000, 850) + 0.7 Gamma(0.5, mean 1000)` below 5,000 words, scaled to the range.
pub(super) fn words(span: Span<u32>, rng: &mut impl Rng) -> u32 {
    let width = f64::from(span.max - span.min);
    if width == 0.0 {
        return span.min;
    }
    for _ in 0..8 {
        let above =
            if rng.random_bool(0.3) { normal(0.2, 0.17, rng) } else { gamma(0.5, 0.2, rng) }
                * width;
        if (0.0..=width).contains(&above) {
            return span.min + above.round() as u32;
        }
    }
    span.min
}

/// A `max_tokens`: a quarter leaves it out and gets `left_out`, the others choose round numbers, more often small ones.
pub(super) fn max_tokens(span: Span<u32>, left_out: u32, rng: &mut impl Rng) -> u32 {
    if rng.random_bool(0.25) {
        return left_out;
    }
    let raw = gamma(2.0, 0.4 * f64::from(span.max), rng);
    (round(raw, rng.random_bool(0.3)) as u32).clamp(span.min, span.max)
}

/// To a power of two, or to a number with few digits: 5, 20, 150, 800.
fn round(raw: f64, to_power_of_two: bool) -> f64 {
    let raw = raw.max(1.0);
    if to_power_of_two {
        return raw.log2().round().exp2();
    }
    let step = if raw < 20.0 { 5.0 } else { 10f64.powf(raw.log10().floor()) / 2.0 };
    ((raw / step).round() * step).max(5.0)
}

/// A temperature: the few values that nearly everybody uses, or something with one decimal.
pub(super) fn temperature(span: Span<f64>, rng: &mut impl Rng) -> f64 {
    const USUAL: [(u32, f64); 8] =
        [(30, 1.0), (25, 0.7), (10, 0.0), (6, 0.5), (6, 0.8), (4, 0.2), (3, 0.3), (3, 0.9)];
    let temperature = if rng.random_bool(0.87) {
        weighted(&USUAL, rng).copied().unwrap_or(1.0)
    } else {
        (normal(0.75, 0.3, rng) * 10.0).round() / 10.0
    };
    temperature.clamp(span.min, span.max)
}

/// A `top_p`: nearly everybody leaves it alone.
pub(super) fn top_p(rng: &mut impl Rng) -> f64 {
    const USUAL: [(u32, f64); 5] = [(80, 1.0), (9, 0.9), (8, 0.95), (2, 0.8), (1, 0.5)];
    weighted(&USUAL, rng).copied().unwrap_or(1.0)
}

/// A `top_logprobs`: few want to see alternatives.
pub(super) fn top_logprobs(rng: &mut impl Rng) -> u8 {
    const USUAL: [(u32, u8); 7] = [(88, 0), (2, 1), (2, 2), (2, 3), (4, 5), (1, 10), (1, 20)];
    weighted(&USUAL, rng).copied().unwrap_or(0)
}

/// A presence or frequency penalty: hardly anybody uses one, and those who do choose a round number.
pub(super) fn penalty(rng: &mut impl Rng) -> f64 {
    const USUAL: [(u32, f64); 7] =
        [(92, 0.0), (2, 0.5), (2, 0.2), (1, 0.1), (1, 0.3), (1, 1.0), (1, -0.5)];
    weighted(&USUAL, rng).copied().unwrap_or(0.0)
}

/// A `logit_bias`: one request in a hundred bans or favours a few tokens. Every vocabulary has ids this small.
pub(super) fn bias(rng: &mut impl Rng) -> Vec<(u32, f64)> {
    const USUAL: [(u32, f64); 5] = [(6, -100.0), (1, -10.0), (1, -1.0), (1, 1.0), (1, 5.0)];
    if !rng.random_bool(0.01) {
        return Vec::new();
    }
    let value = weighted(&USUAL, rng).copied().unwrap_or(-100.0);
    let count = rng.random_range(1..=4);
    let tokens: BTreeSet<u32> = (0..count).map(|_| rng.random_range(3..256)).collect();
    tokens.into_iter().map(|token| (token, value)).collect()
}

/// A seed: few users give one, and those who do give a small number.
pub(super) fn seed(rng: &mut impl Rng) -> u64 {
    const FAVOURITES: [(u32, u64); 7] =
        [(6, 42), (3, 0), (3, 1), (2, 123), (1, 7), (1, 1234), (1, 1337)];
    if rng.random_bool(0.92) {
        crate::wire::draw_seed(rng)
    } else if rng.random_bool(0.6) {
        weighted(&FAVOURITES, rng).copied().unwrap_or(0)
    } else {
        rng.random_range(0..100_000)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    proptest! {
        #[test]
        fn every_draw_stays_in_its_range(seed: u64, a in 1..5000u32, b in 1..5000u32, t in 0.0..=2.0, u in 0.0..=2.0) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let span = Span { min: a.min(b), max: a.max(b) };
            prop_assert!((span.min..=span.max).contains(&words(span, &mut rng)));
            let max_tokens = max_tokens(span, 9999, &mut rng);
            prop_assert!((span.min..=span.max).contains(&max_tokens) || max_tokens == 9999);
            let span = Span { min: f64::min(t, u), max: f64::max(t, u) };
            prop_assert!((span.min..=span.max).contains(&temperature(span, &mut rng)));
            let top_p = top_p(&mut rng);
            prop_assert!(top_p > 0.0 && top_p <= 1.0);
            prop_assert!(top_logprobs(&mut rng) <= 20);
            prop_assert!((-2.0..=2.0).contains(&penalty(&mut rng)));
            prop_assert!(bias(&mut rng).is_sorted_by(|a, b| a.0 < b.0));
        }
    }

    #[test]
    fn most_prompts_are_short_and_some_are_long() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let span = Span { min: 5, max: 205 };
        let drawn: Vec<u32> = (0..2000).map(|_| words(span, &mut rng)).collect();
        let share = |from: u32, to: u32| {
            drawn.iter().filter(|n| (from..to).contains(*n)).count() as f64 / 2000.0
        };
        assert!(share(5, 50) > 0.5, "{}", share(5, 50));
        assert!(share(100, 206) > 0.02, "{}", share(100, 206));
    }

    #[test]
    fn people_choose_round_limits() {
        assert_eq!(
            [3.0, 17.0, 44.0, 160.0, 777.0].map(|raw| round(raw, false)),
            [5.0, 15.0, 45.0, 150.0, 800.0]
        );
        assert_eq!([3.0, 44.0, 777.0].map(|raw| round(raw, true)), [4.0, 32.0, 1024.0]);
    }
}
