//! What to ask whom during one scoring period. Pure: evidence and randomness in, a schedule out.

use std::time::Duration;

use common::{Hotkey, TaskId, Volume};
use rand::Rng;
use rand::seq::SliceRandom;

use crate::tally::Tally;

/// A miner that declared capacity for a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    pub hotkey: Hotkey,
    pub task: TaskId,
    pub volume: Volume,
    /// Work units that one synthetic query of the task typically takes; above 0.
    pub tokens_per_request: f64,
}

/// How much of a declared capacity is probed, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Probing {
    /// Pairs of (share of the capacity, weight of that share in the draw). Drawn anew for each period, so that a miner
    /// cannot know how much will be asked: for queries that come alone for each contender, for bursts once for all.
    pub shares: Vec<(f64, f64)>,
    /// Every contender is asked at least this often, so that there is evidence even of a tiny capacity.
    pub min_queries: u32,
    /// And at most this often, which bounds what a period costs the validator. Where a declared capacity would take more
    /// in a burst, everybody's bursts are shorter.
    pub max_queries: u32,
    /// The part of the queries that come in bursts at the declared rate, `0.0..=1.0`.
    pub burst_share: f64,
}

impl Default for Probing {
    /// The shares of the reference system: a mean of 6.7 %.
    fn default() -> Self {
        Self {
            shares: vec![(0.04, 0.5), (0.08, 0.4), (0.12, 0.095), (0.8, 0.005)],
            min_queries: 3,
            max_queries: 400,
            burst_share: 0.75,
        }
    }
}

/// The largest share of a capacity that comes in bursts. What is drawn beyond it comes alone: everybody is tested at the
/// same time, and users have to wait for so long.
const LONGEST: f64 = 0.12;

/// One synthetic query to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// After the period's start.
    pub at: Duration,
    pub hotkey: Hotkey,
    pub task: TaskId,
    /// Seed of everything random about the query.
    pub seed: u64,
    /// The burst that it belongs to. A name, not a number: it differs from the names of the contender's other bursts,
    /// of this period and of the last.
    pub burst: Option<u32>,
}

/// Plans the probes of a period, in the order of their times.
///
/// Some are sent alone, at independent uniform times: the next one cannot be predicted from the last. The others come
/// in bursts at the rate that the contender declares, so that one that declares more than it has falls behind.
/// Everybody's bursts start at the same few moments and last equally long, drawn anew for each period: hardware that
/// several hotkeys share is asked for everything that they declare on it at once, and none of them finds it idle because
/// another's burst is shorter or at another time. So the validator must be able to take in all declared rates together.
///
/// A burst shows a rate only if it lasts longer than an answer takes. One of few queries, of a small capacity or a
/// short period, is over before its first answer is; what it shows is then the speed of single answers, less than the
/// declared rate of an honest miner that answers many at once.
pub fn schedule(
    contenders: &[Declared],
    probing: &Probing,
    period: Duration,
    rng: &mut impl Rng,
) -> Vec<Probe> {
    let contenders: Vec<_> =
        contenders.iter().filter(|contender| contender.volume.get() > 0.0).collect();
    let exam = common_exam(&contenders, probing, rng);
    // Bursts of the last period may still be under way. Names from a random one onwards keep these apart from them.
    let first_name: u32 = rng.random();
    let mut probes = Vec::new();
    for contender in contenders {
        let (wanted, all) = queries(contender, probing, exam.share, rng);
        let bursts = bursts(contender, wanted, &exam.moments);
        let mut times = Vec::new();
        for burst in &bursts {
            let each = burst.length / f64::from(burst.size);
            times.extend((0..burst.size).map(|k| {
                let at = burst.start + (f64::from(k) + rng.random::<f64>()) * each;
                (at, Some(first_name.wrapping_add(burst.moment)))
            }));
        }
        let alone = all - bursts.iter().map(|burst| burst.size).sum::<u32>();
        times.extend((0..alone).map(|_| (rng.random(), None)));
        probes.extend(times.into_iter().map(|(part, burst)| Probe {
            at: part_of(period, part),
            hotkey: contender.hotkey,
            task: contender.task.clone(),
            seed: rng.random(),
            burst,
        }));
    }
    // Equal times are possible: shuffled first, so that none of two miners is always asked first.
    probes.shuffle(rng);
    probes.sort_by_key(|probe| probe.at);
    probes
}

/// How many synthetic queries a contender may leave unanswered at once: as many as it is sent, at its declared rate,
/// within the time that an answer may take; at least 64. Who leaves more cannot answer them in time, and must not take
/// the others' places.
///
/// `volume` is what it declares for one `period`.
pub fn most_unanswered(
    volume: f64,
    period: Duration,
    tokens_per_request: f64,
    answer_may_take: Duration,
) -> u32 {
    let per_second = volume / period.as_secs_f64() / tokens_per_request;
    let at_once = per_second * answer_may_take.as_secs_f64();
    // A cast saturates, and turns a NaN into 0.
    (at_once.ceil() as u32).max(64)
}

/// How many work units a synthetic query of a task really takes: the median over contenders of what their answers took
/// in the period that ended, `ended` being all their tallies for the task.
///
/// Bursts then come at the declared rate although the catalogue's estimate, `task_default`, is off. A single miner
/// cannot move a median far, and it stays within a quarter and four times the estimate. Without three contenders that
/// have served three queries it is the estimate.
pub fn typical_tokens<'a>(task_default: f64, ended: impl Iterator<Item = &'a Tally>) -> f64 {
    let mut means: Vec<_> = ended
        .filter(|tally| tally.served >= 3)
        .map(|tally| tally.consumed / f64::from(tally.served))
        .filter(|mean| mean.is_finite())
        .collect();
    if means.len() < 3 {
        return task_default;
    }
    means.sort_by(f64::total_cmp);
    let upper = means.len() / 2;
    let lower = (means.len() - 1) / 2;
    let median = match (means.get(lower), means.get(upper)) {
        (Some(lower), Some(upper)) => lower + (upper - lower) / 2.0,
        _ => task_default,
    };
    median.max(task_default / 4.0).min(task_default * 4.0)
}

/// What the bursts of all contenders have in common.
#[derive(Debug, Clone, PartialEq)]
struct Exam {
    /// The share of the declared capacity that is asked for.
    share: f64,
    /// When bursts start, as parts of the period in order, and the part of their queries that belongs to each.
    moments: Vec<(f64, f64)>,
}

fn common_exam(contenders: &[&Declared], probing: &Probing, rng: &mut impl Rng) -> Exam {
    let count = match rng.random::<f64>() {
        draw if draw < 0.5 => 1,
        draw if draw < 0.8 => 2,
        _ => 3,
    };
    let mut moments: Vec<f64> = (0..count).map(|_| rng.random()).collect();
    moments.sort_by(f64::total_cmp);
    let parts: Vec<f64> = moments.iter().map(|_| 0.5 + rng.random::<f64>()).collect();
    let sum: f64 = parts.iter().sum();
    let parts = parts.into_iter().map(|part| part / sum);
    // What the largest capacity can be asked for within the bound.
    let fits = contenders
        .iter()
        .map(|contender| {
            f64::from(probing.max_queries) * contender.tokens_per_request / contender.volume.get()
        })
        .filter(|fits| *fits >= 0.0)
        .fold(f64::INFINITY, f64::min);
    Exam {
        share: drawn_share(&probing.shares, rng).min(fits),
        moments: moments.into_iter().zip(parts).collect(),
    }
}

/// Queries at the declared rate. Times are parts of the period.
#[derive(Debug)]
struct Burst {
    /// Which of the moments.
    moment: u32,
    size: u32,
    start: f64,
    length: f64,
}

/// Deals queries to the moments. What would be a burst of one is left out.
///
/// Bursts start at their moments, unless they would overlap (a contender would be asked for more than it declares) or
/// pass the period's end: then they move by as much as it takes.
fn bursts(contender: &Declared, queries: u32, moments: &[(f64, f64)]) -> Vec<Burst> {
    // Rounded sums, so that nothing is lost.
    let up_to = |part: f64| (f64::from(queries) * part).round() as u32;
    let mut dealt = 0.0;
    let mut bursts: Vec<_> = (0..)
        .zip(moments)
        .map(|(moment, (start, part))| {
            let before = up_to(dealt);
            dealt += part;
            let size = up_to(dealt.min(1.0)).saturating_sub(before);
            Burst { moment, size, start: *start, length: 0.0 }
        })
        .collect();
    bursts.retain(|burst| burst.size >= 2);
    // A period's worth of work takes the period.
    let each = contender.tokens_per_request / contender.volume.get();
    let each = if each.is_finite() { each.max(0.0) } else { 1.0 };
    let total: f64 = bursts.iter().map(|burst| f64::from(burst.size) * each).sum();
    let each = each / total.max(1.0);
    let mut earliest = 0.0_f64;
    for burst in &mut bursts {
        burst.length = f64::from(burst.size) * each;
        burst.start = burst.start.max(earliest);
        earliest = burst.start + burst.length;
    }
    let mut latest = 1.0_f64;
    for burst in bursts.iter_mut().rev() {
        burst.start = burst.start.min(latest - burst.length).max(0.0);
        latest = burst.start;
    }
    bursts
}

fn part_of(period: Duration, part: f64) -> Duration {
    Duration::try_from_secs_f64(period.as_secs_f64() * part).unwrap_or(period).min(period)
}

/// The queries in bursts, for which `share` of the capacity was drawn, and all together.
fn queries(contender: &Declared, probing: &Probing, share: f64, rng: &mut impl Rng) -> (u32, u32) {
    let per_share = contender.volume.get() / contender.tokens_per_request;
    let in_bursts = per_share * probing.burst_share * share.min(LONGEST);
    let alone = per_share
        * (probing.burst_share * (share - LONGEST).max(0.0)
            + (1.0 - probing.burst_share) * drawn_share(&probing.shares, rng));
    let wanted = in_bursts + alone;
    // A cast saturates, and turns a NaN into 0.
    let all = (wanted.round() as u32)
        .clamp(probing.min_queries, probing.max_queries.max(probing.min_queries));
    // What is more than was wanted is more of both; what is less is less of those that come alone.
    let more = (f64::from(all) / wanted).max(1.0);
    let in_bursts = if more.is_finite() { in_bursts * more } else { 0.0 };
    ((in_bursts.round() as u32).min(all), all)
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
    use std::collections::{BTreeMap, BTreeSet};

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

    const PERIOD: Duration = Duration::from_secs(100);

    /// The times of each burst, by contender and name.
    fn bursts_of(probes: &[Probe]) -> BTreeMap<(Hotkey, TaskId, u32), Vec<Duration>> {
        let mut bursts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for probe in probes {
            if let Some(burst) = probe.burst {
                let key = (probe.hotkey, probe.task.clone(), burst);
                bursts.entry(key).or_default().push(probe.at);
            }
        }
        bursts
    }

    #[test]
    fn a_burst_comes_at_the_declared_rate() {
        // 100 queries of 60 units out of 60,000 units in 100 s: 10 a second.
        let probing = Probing { shares: vec![(0.1, 1.0)], burst_share: 0.75, ..Probing::default() };
        for seed in 0..50 {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let probes = schedule(&[contender(1, 60_000.0)], &probing, PERIOD, &mut rng);
            assert_eq!(probes.len(), 100);
            let bursts = bursts_of(&probes);
            assert_eq!(bursts.values().map(Vec::len).sum::<usize>(), 75);
            for times in bursts.values() {
                let lasted = times[times.len() - 1] - times[0];
                let queries = times.len() as f64;
                assert!((lasted.as_secs_f64() * 10.0 - queries).abs() <= 2.0, "{lasted:?}");
            }
        }
    }

    #[test]
    fn bursts_of_one_contender_do_not_overlap() {
        let probing = Probing { shares: vec![(0.9, 1.0)], ..Probing::default() };
        for seed in 0..200 {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let probes = schedule(&[contender(1, 6_000.0)], &probing, PERIOD, &mut rng);
            let mut spans: Vec<_> = bursts_of(&probes)
                .values()
                .map(|times| (times[0], times[times.len() - 1]))
                .collect();
            spans.sort();
            assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0 + Duration::from_nanos(9)));
        }
    }

    #[test]
    fn all_contenders_are_tested_at_the_same_moments() {
        let contenders: Vec<_> = (0..20).map(|name| contender(name, 60_000.0)).collect();
        let probing = Probing { shares: vec![(0.05, 1.0)], ..Probing::default() };
        let mut rng = ChaCha12Rng::seed_from_u64(4);
        let bursts = bursts_of(&schedule(&contenders, &probing, PERIOD, &mut rng));
        let mut starts: BTreeMap<u32, Vec<Duration>> = BTreeMap::new();
        for ((_, _, name), times) in &bursts {
            starts.entry(*name).or_default().push(times[0]);
        }
        assert!(starts.len() <= 3);
        for starts in starts.values() {
            let apart = *starts.iter().max().unwrap() - *starts.iter().min().unwrap();
            // The first of a burst comes within its tenth of a second, unless bursts had to move.
            assert!(apart < Duration::from_secs(4), "{apart:?}");
        }
    }

    #[test]
    fn bursts_last_equally_long_whatever_was_declared() {
        let contenders =
            [contender(1, 600_000.0), contender(2, 600_000.0), contender(3, 200_000.0)];
        for seed in 0..100 {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            // Those that declare most would be asked up to 900 times.
            let probing = Probing { max_queries: 400, ..Probing::default() };
            let probes = schedule(&contenders, &probing, PERIOD, &mut rng);
            let mut lengths: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
            for ((hotkey, _, name), times) in bursts_of(&probes) {
                let share = if hotkey == contenders[2].hotkey { 3.0 } else { 1.0 };
                lengths.entry(name).or_default().push(times.len() as f64 * share);
            }
            for lengths in lengths.values() {
                let most = lengths.iter().copied().fold(0.0, f64::max);
                assert!(lengths.iter().all(|length| most - length <= 4.0), "{lengths:?}");
            }
        }
    }

    #[test]
    fn most_of_a_large_share_comes_alone() {
        let probing =
            Probing { shares: vec![(0.8, 1.0)], max_queries: 10_000, ..Probing::default() };
        let mut rng = ChaCha12Rng::seed_from_u64(7);
        let probes = schedule(&[contender(1, 600_000.0)], &probing, PERIOD, &mut rng);
        assert_eq!(probes.len(), 8_000);
        assert_eq!(probes.iter().filter(|probe| probe.burst.is_some()).count(), 900);
    }

    #[test]
    fn a_large_contender_may_leave_more_unanswered() {
        let of = |volume| most_unanswered(volume, PERIOD, 60.0, Duration::from_secs(30));
        assert_eq!(of(100.0), 64);
        // A thousand queries per second.
        assert_eq!(of(6_000_000.0), 30_000);
    }

    #[test]
    fn names_of_bursts_differ_from_period_to_period() {
        let probing = Probing { shares: vec![(0.1, 1.0)], ..Probing::default() };
        let mut rng = ChaCha12Rng::seed_from_u64(6);
        let mut names = || -> BTreeSet<_> {
            let probes = schedule(&[contender(1, 60_000.0)], &probing, PERIOD, &mut rng);
            probes.iter().filter_map(|probe| probe.burst).collect()
        };
        assert!(names().is_disjoint(&names()));
    }

    #[test]
    fn the_typical_answer_is_the_median_of_the_contenders() {
        let tally = |served, tokens: f64| Tally {
            served,
            consumed: tokens * f64::from(served),
            ..Tally::default()
        };
        let typical = |tallies: &[Tally]| typical_tokens(60.0, tallies.iter());
        assert_eq!(typical(&[tally(3, 90.0), tally(9, 90.0), tally(2, 90.0)]), 60.0);
        assert_eq!(typical(&[tally(3, 80.0), tally(9, 90.0), tally(4, 1e9)]), 90.0);
        assert_eq!(typical(&[tally(3, 80.0), tally(9, 90.0), tally(4, 1e9), tally(3, 0.0)]), 85.0);
        assert_eq!(typical(&[tally(3, 1e9); 3]), 240.0);
        assert_eq!(typical(&[tally(3, 0.0); 3]), 15.0);
    }

    proptest! {
        #[test]
        fn the_typical_answer_is_near_the_estimate(
            estimate in 1e-3..1e6_f64,
            tallies in prop::collection::vec((0..10_u32, prop::num::f64::ANY), 0..9),
        ) {
            let tallies: Vec<_> = tallies
                .into_iter()
                .map(|(served, consumed)| Tally { served, consumed, ..Tally::default() })
                .collect();
            let typical = typical_tokens(estimate, tallies.iter());
            prop_assert!((estimate / 4.0..=estimate * 4.0).contains(&typical));
        }

        #[test]
        fn a_schedule_is_total(
            volume in prop::num::f64::POSITIVE, tokens_per_request in prop::num::f64::ANY,
            burst_share in prop::num::f64::ANY, seconds: u64, seed: u64,
        ) {
            let Ok(volume) = volume.abs().try_into() else { return Ok(()) };
            let contender = Declared { volume, tokens_per_request, ..contender(1, 1.0) };
            let probing = Probing { burst_share, max_queries: 20, ..Probing::default() };
            let period = Duration::from_secs(seconds);
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let probes = schedule(&[contender], &probing, period, &mut rng);
            prop_assert!(probes.len() <= 20);
            prop_assert!(probes.iter().all(|probe| probe.at <= period));
        }

        #[test]
        fn probes_are_in_order_within_the_period_and_bounded(
            volumes in prop::collection::vec(
                prop_oneof![Just(0.0), (0.0..12.0_f64).prop_map(|digits| 10_f64.powf(digits))], 0..20,
            ),
            seed: u64,
        ) {
            let contenders: Vec<_> =
                volumes.iter().zip(0..).map(|(volume, name)| contender(name, *volume)).collect();
            let probing = Probing { max_queries: 50, ..Probing::default() };
            let period = Duration::from_secs(60);
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let probes = schedule(&contenders, &probing, period, &mut rng);
            prop_assert!(probes.is_sorted_by_key(|probe| probe.at));
            prop_assert!(probes.iter().all(|probe| probe.at <= period));
            prop_assert!(bursts_of(&probes).values().all(|times| times.len() >= 2));
            for contender in &contenders {
                let asked = probes.iter().filter(|probe| probe.hotkey == contender.hotkey).count();
                let expected = if contender.volume.get() > 0.0 { 3..=50 } else { 0..=0 };
                prop_assert!(expected.contains(&asked));
            }
        }
    }
}
