//! What to ask whom during one scoring period. Pure: evidence and randomness in, a schedule out.

use std::time::Duration;

use common::{Hotkey, TaskId, Volume};
use rand::Rng;
use rand::seq::SliceRandom;

/// A miner that declared capacity for a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    pub hotkey: Hotkey,
    pub task: TaskId,
    pub volume: Volume,
    /// Work units that one synthetic query of the task typically takes; above 0.
    pub tokens_per_request: f64,
}

/// How much of a declared capacity is probed.
#[derive(Debug, Clone, PartialEq)]
pub struct Probing {
    /// Pairs of (share of the capacity, weight of that share in the draw). Drawn anew for each contender and period, so
    /// that a miner cannot know how much will be asked.
    pub shares: Vec<(f64, f64)>,
    /// Every contender is asked at least this often, so that there is evidence even of a tiny capacity.
    pub min_queries: u32,
    /// And at most this often, which bounds what a period costs the validator.
    pub max_queries: u32,
}

impl Default for Probing {
    /// The shares of the reference system: a mean of 6.7 %.
    fn default() -> Self {
        Self {
            shares: vec![(0.04, 0.5), (0.08, 0.4), (0.12, 0.095), (0.8, 0.005)],
            min_queries: 3,
            max_queries: 400,
        }
    }
}

/// One synthetic query to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// After the period's start.
    pub at: Duration,
    pub hotkey: Hotkey,
    pub task: TaskId,
    /// Seed of everything random about the query.
    pub seed: u64,
}

/// Spreads the probes of a period at independent uniform times: the next one cannot be predicted from the last.
pub fn schedule(
    contenders: &[Declared],
    probing: &Probing,
    period: Duration,
    rng: &mut impl Rng,
) -> Vec<Probe> {
    let mut probes = Vec::new();
    for contender in contenders.iter().filter(|contender| contender.volume.get() > 0.0) {
        for _ in 0..queries(contender, probing, rng) {
            probes.push(Probe {
                at: period.mul_f64(rng.random::<f64>()),
                hotkey: contender.hotkey,
                task: contender.task.clone(),
                seed: rng.random(),
            });
        }
    }
    // Equal times are possible: shuffled first, so that none of two miners is always asked first.
    probes.shuffle(rng);
    probes.sort_by_key(|probe| probe.at);
    probes
}

fn queries(contender: &Declared, probing: &Probing, rng: &mut impl Rng) -> u32 {
    let wanted =
        contender.volume.get() * drawn_share(&probing.shares, rng) / contender.tokens_per_request;
    // A cast saturates, and turns a NaN into 0.
    (wanted.round() as u32).clamp(probing.min_queries, probing.max_queries.max(probing.min_queries))
}

fn drawn_share(shares: &[(f64, f64)], rng: &mut impl Rng) -> f64 {
    let total: f64 = shares.iter().map(|(_, weight)| weight).sum();
    let mut left = rng.random::<f64>() * total;
    for (share, weight) in shares {
        left -= weight;
        if left < 0.0 {
            return *share;
        }
    }
    shares.last().map_or(0.0, |(share, _)| *share)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;

    fn contender(name: u8, volume: f64) -> Declared {
        Declared {
            hotkey: Hotkey::from_bytes([name; 32]),
            task: "chat-demo".parse().unwrap(),
            volume: volume.try_into().unwrap(),
            tokens_per_request: 60.0,
        }
    }

    #[test]
    fn a_miner_without_capacity_is_not_asked() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let contenders = [contender(1, 0.0), contender(2, 100.0)];
        let probes = schedule(&contenders, &Probing::default(), Duration::from_secs(60), &mut rng);
        assert!(probes.iter().all(|probe| probe.hotkey == contenders[1].hotkey));
        assert_eq!(probes.len(), 3);
    }

    #[test]
    fn the_mean_share_is_the_reference_systems() {
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let shares = Probing::default().shares;
        let mean = (0..200_000).map(|_| drawn_share(&shares, &mut rng)).sum::<f64>() / 200_000.0;
        assert!((mean - 0.0674).abs() < 0.001, "{mean}");
    }

    proptest! {
        #[test]
        fn probes_are_in_order_within_the_period_and_bounded(
            volumes in prop::collection::vec(0.0..1e12_f64, 0..20), seed: u64,
        ) {
            let contenders: Vec<_> =
                volumes.iter().zip(0..).map(|(volume, name)| contender(name, *volume)).collect();
            let probing = Probing { max_queries: 50, ..Probing::default() };
            let period = Duration::from_secs(60);
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let probes = schedule(&contenders, &probing, period, &mut rng);
            prop_assert!(probes.is_sorted_by_key(|probe| probe.at));
            prop_assert!(probes.iter().all(|probe| probe.at <= period));
            for contender in &contenders {
                let asked = probes.iter().filter(|probe| probe.hotkey == contender.hotkey).count();
                let expected = if contender.volume.get() > 0.0 { 3..=50 } else { 0..=0 };
                prop_assert!(expected.contains(&asked));
            }
        }
    }
}
