//! How sure a ratio of two means is.

/// The 97.5th percentile of Student's t distribution with `freedom` degrees of freedom, by Cornish and Fisher's expansion
/// around the normal one; good to 1 % from 3 degrees on.
fn t_975(freedom: f64) -> f64 {
    const Z: f64 = 1.959_964;
    let (z3, z5) = (Z.powi(3), Z.powi(5));
    let z7 = Z.powi(7);
    Z + (z3 + Z) / (4.0 * freedom)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * Z) / (96.0 * freedom.powi(2))
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * Z) / (384.0 * freedom.powi(3))
}

/// The mean of the first numbers of the pairs relative to the mean of the second, and its 95 % interval.
///
/// Pairs belong together, so what both have in common cancels out: with r the ratio, the spread is that of `a - r * b`
/// over the pairs, Student's t with one degree of freedom less than there are pairs. With fewer than four the interval
/// is endless upwards.
pub(super) fn ratio_of_means(pairs: &[(f64, f64)]) -> (f64, [f64; 2]) {
    let count = pairs.len() as f64;
    let (a, b) = pairs.iter().fold((0.0, 0.0), |(a, b), pair| (a + pair.0, b + pair.1));
    if b <= 0.0 {
        return (0.0, [0.0, f64::MAX]);
    }
    let ratio = a / b;
    if pairs.len() < 4 {
        return (ratio, [0.0, f64::MAX]);
    }
    let squares: f64 = pairs.iter().map(|(a, b)| (a - ratio * b).powi(2)).sum();
    let error = (squares / (count - 1.0) / count).sqrt() / (b / count);
    let half = t_975(count - 1.0) * error;
    (ratio, [(ratio - half).max(0.0), ratio + half])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn student_s_t_is_near_the_table() {
        for (freedom, expected) in [(3.0, 3.182), (7.0, 2.365), (15.0, 2.131), (100.0, 1.984)] {
            assert!(
                (t_975(freedom) / expected - 1.0).abs() < 0.01,
                "{freedom}: {}",
                t_975(freedom)
            );
        }
    }

    #[test]
    fn what_pairs_have_in_common_cancels_out() {
        let pairs: Vec<_> = (1..20).map(|n| (f64::from(n) * 0.8, f64::from(n))).collect();
        let (ratio, [low, high]) = ratio_of_means(&pairs);
        assert!((ratio - 0.8).abs() < 1e-12 && high - low < 1e-9, "{ratio} {low} {high}");
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_ratio(
            pairs in prop::collection::vec((0.0..1.0_f64, 0.0..1.0_f64), 0..30),
        ) {
            let (ratio, [low, high]) = ratio_of_means(&pairs);
            prop_assert!(0.0 <= low && low <= ratio && ratio <= high && high.is_finite());
        }
    }
}
