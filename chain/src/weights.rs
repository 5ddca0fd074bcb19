//! Turning scores into the 16-bit weights that the chain stores.
//!
//! Pure arithmetic, equal to that of the official Python SDK 11.3, so that both give the chain the same numbers.

use std::collections::BTreeSet;

use common::Uid;

/// The largest weight; an encoded vector always contains it, for best precision.
pub const MAX_WEIGHT: u16 = u16::MAX;

/// Keeps the clipping formula stable when the cut is close to a value; the constant of the SDK.
const EPSILON: f64 = 1e-7;

/// Why scores cannot become weights.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum BadWeights {
    #[error("the score {score} of uid {uid} is not a finite number that is zero or more")]
    NotANumber { uid: u16, score: f64 },
    #[error("uid {0} appears twice")]
    DuplicateUid(u16),
    #[error("all scores are zero: there is nothing to set")]
    AllZero,
    #[error("the scores are too large: their sum is not finite")]
    Overflow,
}

/// Scales `scores` so that the largest becomes 65535, rounds half to even, drops zeros, and sorts by uid.
///
/// Only the ratios matter: the chain scales again. Refuses what the chain or the SDK would refuse: NaN, infinite and
/// negative scores, a uid twice, nothing above zero.
pub fn encode(scores: &[(u16, f64)]) -> Result<Vec<(Uid, u16)>, BadWeights> {
    let largest = checked_max(scores)?;
    let mut weights: Vec<(Uid, u16)> = scores
        .iter()
        // The quotient is in 0..=1, so the product is in range and the cast exact.
        .map(|&(uid, score)| {
            (Uid(uid), (score / largest * f64::from(MAX_WEIGHT)).round_ties_even() as u16)
        })
        .filter(|&(_, weight)| weight > 0)
        .collect();
    weights.sort_unstable_by_key(|&(uid, _)| uid);
    Ok(weights)
}

/// As [`encode`], after the clipping that a subnet with `MaxWeightsLimit` below 65535 asks for.
///
/// A single weight is left alone: it can only be a self-weight, which the limit does not bind.
pub fn encode_within(
    scores: &[(u16, f64)],
    max_weights_limit: u16,
) -> Result<Vec<(Uid, u16)>, BadWeights> {
    if max_weights_limit == MAX_WEIGHT || scores.len() == 1 {
        return encode(scores);
    }
    checked_max(scores)?;
    let values: Vec<f64> = scores.iter().map(|&(_, score)| score).collect();
    let clipped =
        clip_to_max_weight(&values, f64::from(max_weights_limit) / f64::from(MAX_WEIGHT))?;
    let clipped: Vec<(u16, f64)> =
        scores.iter().zip(clipped).map(|(&(uid, _), share)| (uid, share)).collect();
    encode(&clipped)
}

/// Normalises `scores` to a sum of 1 with no share above `limit` (a fraction): what is above the cut is cut, and the
/// rest scaled up. When `limit` leaves no room (at most `1 / n`), or all are zero, the result is uniform.
///
/// The formula is `normalize_max_weight` of the SDK, with sums taken in the same order.
pub fn clip_to_max_weight(scores: &[f64], limit: f64) -> Result<Vec<f64>, BadWeights> {
    let n = scores.len();
    if n == 0 {
        return Ok(Vec::new());
    }
    let sum: f64 = scores.iter().sum();
    if !sum.is_finite() {
        return Err(BadWeights::Overflow);
    }
    if sum == 0.0 || n as f64 * limit <= 1.0 {
        return Ok(vec![1.0 / n as f64; n]);
    }
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let sorted_sum: f64 = sorted.iter().sum();
    let shares: Vec<f64> = sorted.iter().map(|value| value / sorted_sum).collect();
    if shares.last().is_some_and(|&largest| largest <= limit) {
        return Ok(scores.iter().map(|score| score / sum).collect());
    }
    let cumulative: Vec<f64> = shares
        .iter()
        .scan(0.0, |total, share| {
            *total += share;
            Some(*total)
        })
        .collect();
    // How many values stay below the cut: those that keep to the limit if everything above were cut down to them.
    let kept = shares
        .iter()
        .zip(&cumulative)
        .enumerate()
        .filter(|&(i, (share, below))| {
            share / ((n - i - 1) as f64 * share + below + EPSILON) < limit
        })
        .count();
    let below = kept.checked_sub(1).map_or(0.0, |last| cumulative[last]);
    let cut = (limit * below - EPSILON) / (1.0 - limit * (n - kept) as f64) * sorted_sum;
    let clipped: Vec<f64> = scores.iter().map(|&score| score.min(cut)).collect();
    let clipped_sum: f64 = clipped.iter().sum();
    // A limit so close to 1/n that the cut is not positive leaves nothing to scale.
    if clipped_sum.is_nan() || clipped_sum <= 0.0 {
        return Ok(vec![1.0 / n as f64; n]);
    }
    Ok(clipped.iter().map(|value| value / clipped_sum).collect())
}

fn checked_max(scores: &[(u16, f64)]) -> Result<f64, BadWeights> {
    let mut seen = BTreeSet::new();
    let mut largest = 0.0_f64;
    for &(uid, score) in scores {
        if !score.is_finite() || score < 0.0 {
            return Err(BadWeights::NotANumber { uid, score });
        }
        if !seen.insert(uid) {
            return Err(BadWeights::DuplicateUid(uid));
        }
        largest = largest.max(score);
    }
    if largest == 0.0 { Err(BadWeights::AllZero) } else { Ok(largest) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scores() -> impl Strategy<Value = Vec<(u16, f64)>> {
        prop::collection::btree_map(
            any::<u16>(),
            prop_oneof![Just(0.0), 0.0..1.0, 0.0..1e300],
            1..64,
        )
        .prop_map(|map| map.into_iter().collect())
    }

    #[test]
    fn ties_round_to_the_even_neighbour() {
        // 65535 / 2 = 32767.5, which Python's round makes 32768.
        assert_eq!(encode(&[(3, 1.0), (1, 0.5)]), Ok(vec![(Uid(1), 32768), (Uid(3), 65535)]));
    }

    #[test]
    fn bad_scores_are_refused_with_their_uid() {
        for score in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1] {
            let refused = encode(&[(0, 1.0), (7, score)]);
            assert!(
                matches!(refused, Err(BadWeights::NotANumber { uid: 7, .. })),
                "{score}: {refused:?}"
            );
        }
        assert_eq!(encode(&[(4, 1.0), (4, 0.5)]), Err(BadWeights::DuplicateUid(4)));
        assert_eq!(encode(&[(4, 0.0), (5, -0.0)]), Err(BadWeights::AllZero));
        assert_eq!(encode(&[]), Err(BadWeights::AllZero));
        assert_eq!(
            encode_within(&[(1, f64::MAX), (2, f64::MAX), (3, 1.0)], 40000),
            Err(BadWeights::Overflow)
        );
    }

    #[test]
    fn a_single_weight_is_never_clipped() {
        assert_eq!(encode_within(&[(9, 0.3)], 655), Ok(vec![(Uid(9), 65535)]));
    }

    proptest! {
        #[test]
        fn encoded_weights_are_sorted_positive_and_contain_the_maximum(scores in scores()) {
            if let Ok(weights) = encode(&scores) {
                prop_assert!(weights.is_sorted_by(|a, b| a.0 < b.0));
                prop_assert!(weights.iter().all(|&(_, weight)| weight > 0));
                prop_assert!(weights.iter().any(|&(_, weight)| weight == MAX_WEIGHT));
            } else {
                prop_assert!(scores.iter().all(|&(_, score)| score == 0.0));
            }
        }

        #[test]
        fn a_higher_score_never_gets_a_lower_weight(scores in scores()) {
            let Ok(weights) = encode(&scores) else { return Ok(()) };
            let weight_of = |uid| weights.iter().find(|(u, _)| u.0 == uid).map_or(0, |&(_, weight)| weight);
            let mut ordered = scores;
            ordered.sort_by(|a, b| a.1.total_cmp(&b.1));
            prop_assert!(ordered.is_sorted_by_key(|&(uid, _)| weight_of(uid)));
        }

        #[test]
        fn no_clipped_share_exceeds_the_limit(
            scores in prop::collection::vec(0.0..1.0_f64, 1..64), limit in 0.0..1.0_f64,
        ) {
            let shares = clip_to_max_weight(&scores, limit).unwrap();
            let bound = limit.max(1.0 / scores.len() as f64) + 1e-6;
            prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(shares.iter().all(|&share| share.is_finite() && share <= bound), "{shares:?}");
        }
    }
}
