//! Error rates from statistics of honest and dishonest answers.

use rand::Rng;
use rand::rngs::StdRng;
use statrs::distribution::{Beta, ContinuousCDF};

/// The area under the ROC curve: how often a dishonest value exceeds an honest one, ties counting half.
pub(super) fn auc(honest: &[f64], dishonest: &[f64]) -> f64 {
    let mut sorted = honest.to_vec();
    sorted.sort_by(f64::total_cmp);
    let wins = |value: &f64| {
        let below = sorted.partition_point(|other| other < value);
        let ties = sorted.partition_point(|other| other <= value) - below;
        below as f64 + 0.5 * ties as f64
    };
    let pairs = (honest.len() * dishonest.len()).max(1) as f64;
    dishonest.iter().map(wins).sum::<f64>() / pairs
}

/// The least threshold that at most a share `rate` of the honest values exceeds.
pub(super) fn threshold(honest: &[f64], rate: f64) -> f64 {
    let mut sorted = honest.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let allowed = (rate * sorted.len() as f64).floor() as usize;
    sorted.get(allowed).copied().unwrap_or(f64::INFINITY)
}

/// The share of values above a threshold.
pub(super) fn share_above(values: &[f64], threshold: f64) -> f64 {
    let above = values.iter().filter(|value| **value > threshold).count();
    above as f64 / values.len().max(1) as f64
}

pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Clopper–Pearson interval of a share, 95 %.
pub(super) fn interval(hits: usize, count: usize) -> [f64; 2] {
    let (hits_f, count_f) = (hits as f64, count as f64);
    let low = match hits {
        0 => 0.0,
        _ => Beta::new(hits_f, count_f - hits_f + 1.0).map_or(0.0, |beta| beta.inverse_cdf(0.025)),
    };
    let high = match hits {
        _ if hits >= count => 1.0,
        _ => Beta::new(hits_f + 1.0, count_f - hits_f).map_or(1.0, |beta| beta.inverse_cdf(0.975)),
    };
    [low, high]
}

/// Groups of `size` out of `0..count`, drawn with replacement.
pub(super) fn groups(
    count: usize,
    size: usize,
    groups: usize,
    rng: &mut StdRng,
) -> Vec<Vec<usize>> {
    if size == 1 {
        return (0..count).map(|index| vec![index]).collect();
    }
    (0..groups).map(|_| (0..size).map(|_| rng.random_range(0..count)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_and_thresholds_of_known_values() {
        assert_eq!(auc(&[1.0, 2.0], &[3.0, 4.0]), 1.0);
        assert_eq!(auc(&[1.0, 2.0], &[1.0, 2.0]), 0.5);
        assert_eq!(auc(&[3.0], &[1.0]), 0.0);
        let honest: Vec<f64> = (0..1000).map(f64::from).collect();
        let limit = threshold(&honest, 1e-2);
        assert_eq!(limit, 989.0);
        assert!((share_above(&honest, limit) - 0.01).abs() < 1e-9);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn intervals_hold_the_share_they_are_of() {
        let [low, high] = interval(0, 1000);
        // The rule of three, two-sided.
        assert!(low == 0.0 && (0.003..0.004).contains(&high), "{high}");
        let [low, high] = interval(50, 100);
        assert!(low < 0.41 && low > 0.39 && high > 0.59 && high < 0.61, "{low} {high}");
    }
}
