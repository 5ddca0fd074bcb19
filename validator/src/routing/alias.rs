//! Drawing by weight in constant time.

use rand::Rng;

/// Vose's form of Walker's alias method (Vose 1991, "A linear algorithm for generating random numbers with a given
/// distribution"): linear to build, one draw costs one random number.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Alias(Vec<Column>);

/// The entry itself with probability `keep`, the other one otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Column {
    keep: f64,
    other: u32,
}

impl Alias {
    /// Weights that are not positive numbers count as the least weight above zero; without any, all are drawn alike.
    pub(super) fn new(weights: &[f64]) -> Self {
        let usable = |weight: f64| weight.is_finite() && weight > 0.0;
        let least = weights.iter().copied().filter(|w| usable(*w)).fold(f64::INFINITY, f64::min);
        let least = if least.is_finite() { least } else { 1.0 };
        let weights: Vec<f64> =
            weights.iter().map(|&weight| if usable(weight) { weight } else { least }).collect();
        let largest = weights.iter().copied().fold(0.0, f64::max);
        // Divided first, so that no sum overflows.
        let mean =
            weights.iter().map(|weight| weight / largest).sum::<f64>() / weights.len() as f64;
        let mut columns: Vec<Column> = (0..)
            .zip(&weights)
            .map(|(index, weight)| Column { keep: weight / largest / mean, other: index })
            .collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..columns.len()).partition(|&index| columns[index].keep < 1.0);
        while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
            columns[less].other = more as u32;
            columns[more].keep -= 1.0 - columns[less].keep;
            if columns[more].keep < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        // What is left differs from 1 by rounding only.
        for index in small.into_iter().chain(large) {
            columns[index].keep = 1.0;
        }
        Self(columns)
    }

    /// An index in proportion to its weight; `None` if there are none.
    pub(super) fn draw(&self, rng: &mut impl Rng) -> Option<usize> {
        if self.0.is_empty() {
            return None;
        }
        let index = rng.random_range(0..self.0.len());
        let column = self.0[index];
        Some(if rng.random::<f64>() < column.keep { index } else { column.other as usize })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;

    /// The probability of each index, read off the table.
    fn probabilities(alias: &Alias) -> Vec<f64> {
        let n = alias.0.len() as f64;
        let mut p = vec![0.0; alias.0.len()];
        for (index, column) in alias.0.iter().enumerate() {
            p[index] += column.keep.min(1.0) / n;
            p[column.other as usize] += (1.0 - column.keep).max(0.0) / n;
        }
        p
    }

    proptest! {
        #[test]
        fn the_table_has_the_weights_proportions(weights in prop::collection::vec(1e-6..1e6_f64, 1..300)) {
            let total: f64 = weights.iter().sum();
            for (p, weight) in probabilities(&Alias::new(&weights)).into_iter().zip(&weights) {
                prop_assert!((p - weight / total).abs() < 1e-9, "{} of {}", p, weight / total);
            }
        }

        #[test]
        fn no_weights_make_it_panic(weights in prop::collection::vec(any::<f64>(), 0..50), seed: u64) {
            let alias = Alias::new(&weights);
            let drawn = alias.draw(&mut ChaCha12Rng::seed_from_u64(seed));
            prop_assert_eq!(drawn.is_some(), !weights.is_empty());
            prop_assert!(drawn.unwrap_or(0) < weights.len().max(1));
        }
    }

    #[test]
    fn weights_that_are_none_count_as_the_least() {
        let p = probabilities(&Alias::new(&[4.0, f64::NAN, -1.0, 2.0, 0.0]));
        for (p, expected) in p.into_iter().zip([4.0, 2.0, 2.0, 2.0, 2.0]) {
            assert!((p - expected / 12.0).abs() < 1e-12);
        }
        assert_eq!(probabilities(&Alias::new(&[0.0, 0.0])), [0.5, 0.5]);
    }
}
