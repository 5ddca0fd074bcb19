//! The consensus of an epoch, as a pure function: what everyone's weights make of everyone.
//!
//! This is Yuma in its second version, the one that a subnet with `Yuma3On = false` runs: masks for inactive and
//! permitless validators and for uids that changed hands, stake-weighted median (kappa) and clipping, bonds as an
//! exponential moving average, incentive from ranks, dividends from bonds. Left out: liquid alpha, bond resets, the third
//! version's per-bond averages. Fractions are `f64`; results are rounded down to `u16` as on the real chain.

/// A fraction of 65535.
const U16: f64 = 65_535.0;

/// One neuron before the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Neuron {
    /// Stake weight, in rao.
    pub stake: u64,
    /// The block of its last weights.
    pub last_update: u64,
    /// The block it got its uid in.
    pub registered: u64,
    /// Whether it had a validator permit until now: others' weights do not count.
    pub permit: bool,
}

/// Everything an epoch depends on. `neurons`, `weights` and `bonds` are indexed by uid.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Input {
    /// All neurons.
    pub neurons: Vec<Neuron>,
    /// What each set: uid and weight. Uids that do not exist are ignored.
    pub weights: Vec<Vec<(u16, u16)>>,
    /// What each held: uid and bond.
    pub bonds: Vec<Vec<(u16, u16)>>,
    /// Whose weight on itself counts.
    pub owner: Option<u16>,
    /// The present block.
    pub block: u64,
    /// Blocks since the last epoch: bonds in neurons that are newer are void.
    pub tempo: u16,
    /// Blocks after which a validator without new weights is not counted.
    pub activity_cutoff: u64,
    /// The share of stake, of 65535, that must support a weight.
    pub kappa: u16,
    /// How many permits there are.
    pub max_validators: u16,
    /// Stake weight below which there is no permit, in rao.
    pub stake_threshold: u64,
    /// How much of the old bonds stays, of 1000000.
    pub bonds_moving_average: u64,
    /// How much clipping costs bonds, of 65535.
    pub bonds_penalty: u16,
}

/// What an epoch makes. Every vector has one element per neuron; fractions are of 65535.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Output {
    /// Who set weights lately.
    pub active: Vec<bool>,
    /// Who may set weights from now on.
    pub permits: Vec<bool>,
    /// The weight that enough stake supports.
    pub consensus: Vec<u16>,
    /// The miners' earnings.
    pub incentive: Vec<u16>,
    /// The validators' earnings.
    pub dividends: Vec<u16>,
    /// How much of a validator's weights agreed with the consensus.
    pub validator_trust: Vec<u16>,
    /// What newer specs do not keep.
    pub scores: Scores,
    /// What each holds now.
    pub bonds: Vec<Vec<(u16, u16)>>,
    /// The miners' shares in what is paid; their sum is 1, or 0 if nobody earns.
    pub miner_shares: Vec<f64>,
    /// The validators' shares in what is paid; their sum is 1, or 0 if nobody earns.
    pub validator_shares: Vec<f64>,
}

/// Results of an epoch that older specs keep and newer ones do not. Fractions of 65535, by uid.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scores {
    /// Stake-weighted, clipped weights; the largest is 65535.
    pub rank: Vec<u16>,
    /// The share of the weights that was not clipped; the largest is 65535.
    pub trust: Vec<u16>,
    /// Who is replaced first; the largest is 65535.
    pub pruning: Vec<u16>,
}

/// Sums of shares that should be equal may differ by this.
const ROUNDING: f64 = 1e-12;

/// A sparse matrix: for each row, columns and values.
type Rows = Vec<Vec<(usize, f64)>>;

/// Runs an epoch.
pub fn epoch(input: &Input) -> Output {
    let n = input.neurons.len();
    let active: Vec<bool> = input
        .neurons
        .iter()
        .map(|neuron| neuron.last_update.saturating_add(input.activity_cutoff) >= input.block)
        .collect();
    let stake = filtered_stake(input);
    let permits = strongest(&stake, input.max_validators.into());
    let counted = |uid: usize| active[uid] && input.neurons[uid].permit;
    let mut voice: Vec<f64> =
        (0..n).map(|uid| if counted(uid) { stake[uid] as f64 } else { 0.0 }).collect();
    normalise(&mut voice);

    let weights = valid_weights(input);
    let consensus = consensus(&weights, &voice, f64::from(input.kappa) / U16);
    let clipped: Rows = weights
        .iter()
        .map(|row| row.iter().map(|(uid, weight)| (*uid, weight.min(consensus[*uid]))).collect())
        .collect();
    let before = column_sums(&weights, &voice);
    let ranks = column_sums(&clipped, &voice);
    let validator_trust =
        clipped.iter().map(|row| row.iter().map(|(_, weight)| weight).sum()).collect::<Vec<f64>>();
    let trust: Vec<f64> = (0..n).map(|uid| ratio(ranks[uid], before[uid])).collect();
    let mut incentive = ranks.clone();
    normalise(&mut incentive);

    let bonds = next_bonds(input, &weights, &clipped, &voice);
    let mut dividends: Vec<f64> = bonds
        .iter()
        .map(|row| row.iter().map(|(uid, bond)| bond * incentive[*uid]).sum())
        .collect();
    normalise(&mut dividends);

    // With nothing to go by, the chain pays by stake.
    let idle = incentive.iter().chain(&dividends).all(|share| *share == 0.0);
    let (miner_shares, validator_shares) = if idle {
        let mut by_stake: Vec<f64> = if voice.iter().any(|v| *v > 0.0) {
            voice
        } else {
            stake.iter().map(|s| *s as f64).collect()
        };
        normalise(&mut by_stake);
        (vec![0.0; n], by_stake)
    } else {
        (incentive.clone(), dividends.clone())
    };
    let mut pruning: Vec<f64> =
        (0..n).map(|uid| miner_shares[uid] + validator_shares[uid]).collect();
    normalise(&mut pruning);

    Output {
        active,
        bonds: stored_bonds(bonds, &permits),
        permits,
        consensus: fractions(&consensus),
        incentive: fractions(&incentive),
        dividends: fractions(&dividends),
        validator_trust: fractions(&validator_trust),
        scores: Scores {
            rank: upscaled(&ranks),
            trust: upscaled(&trust),
            pruning: upscaled(&pruning),
        },
        miner_shares,
        validator_shares,
    }
}

/// Stake weights, those below the threshold as 0.
fn filtered_stake(input: &Input) -> Vec<u64> {
    let counts = |stake: &u64| *stake >= input.stake_threshold;
    input.neurons.iter().map(|neuron| Some(neuron.stake).filter(counts).unwrap_or(0)).collect()
}

/// The `k` with the most stake, none of them without any. Of equals the lower uid wins.
fn strongest(stake: &[u64], k: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..stake.len()).filter(|uid| stake[*uid] > 0).collect();
    order.sort_by_key(|uid| (std::cmp::Reverse(stake[*uid]), *uid));
    let mut permits = vec![false; stake.len()];
    for uid in order.into_iter().take(k) {
        permits[uid] = true;
    }
    permits
}

/// The weights that count, each row summing up to 1.
fn valid_weights(input: &Input) -> Rows {
    let n = input.neurons.len();
    let row_of = |uid: usize| {
        let neuron = &input.neurons[uid];
        let mut row: Vec<(usize, f64)> = Vec::new();
        if neuron.permit {
            for (target, weight) in input.weights.get(uid).into_iter().flatten() {
                let target = usize::from(*target);
                let on_itself = target == uid && input.owner.map(usize::from) != Some(uid);
                // A weight that is older than its uid's owner was meant for somebody else.
                let stale = || neuron.last_update <= input.neurons[target].registered;
                if target < n && !on_itself && !stale() && *weight > 0 {
                    row.push((target, f64::from(*weight)));
                }
            }
        }
        let sum: f64 = row.iter().map(|(_, weight)| weight).sum();
        row.into_iter().map(|(target, weight)| (target, ratio(weight, sum))).collect()
    };
    (0..n).map(row_of).collect()
}

/// For each uid the largest weight that `kappa` of the stake gives it at least: a stake-weighted median.
fn consensus(weights: &Rows, voice: &[f64], kappa: f64) -> Vec<f64> {
    let n = voice.len();
    let total: f64 = voice.iter().sum();
    let minority = total - total * kappa + ROUNDING;
    let mut votes: Vec<Vec<(f64, f64)>> = vec![Vec::new(); n];
    for (uid, row) in weights.iter().enumerate() {
        for (target, weight) in row.iter().filter(|_| voice[uid] > 0.0) {
            votes[*target].push((*weight, voice[uid]));
        }
    }
    votes
        .into_iter()
        .map(|mut votes| {
            votes.sort_by(|a, b| a.0.total_cmp(&b.0));
            let named: f64 = votes.iter().map(|(_, stake)| stake).sum();
            // Who names no weight votes for 0.
            let mut below = total - named;
            if below > minority {
                return 0.0;
            }
            for (weight, stake) in votes {
                below += stake;
                if below > minority {
                    return weight;
                }
            }
            0.0
        })
        .collect()
}

/// The moving average of bonds, each column summing up to 1.
fn next_bonds(input: &Input, weights: &Rows, clipped: &Rows, voice: &[f64]) -> Rows {
    let n = voice.len();
    let penalty = f64::from(input.bonds_penalty) / U16;
    let mut bought: Rows = (0..n)
        .map(|uid| {
            let pairs = weights[uid].iter().zip(&clipped[uid]);
            pairs
                .map(|((target, weight), (_, kept))| {
                    (*target, (weight + penalty * (kept - weight)) * voice[uid])
                })
                .collect()
        })
        .collect();
    normalise_columns(&mut bought, n);

    let last_epoch = input.block.saturating_sub(input.tempo.into());
    let mut held: Rows = vec![Vec::new(); n];
    for (uid, row) in input.bonds.iter().enumerate().take(n) {
        for (target, bond) in
            row.iter().map(|(target, bond)| (usize::from(*target), f64::from(*bond)))
        {
            if target < n && input.neurons[target].registered < last_epoch {
                held[uid].push((target, bond));
            }
        }
    }
    normalise_columns(&mut held, n);

    let keep = (input.bonds_moving_average as f64 / 1_000_000.0).clamp(0.0, 1.0);
    let mut next: Rows = (0..n)
        .map(|uid| {
            let mut row = vec![0.0; n];
            for (target, bond) in &held[uid] {
                row[*target] += keep * bond;
            }
            for (target, bond) in &bought[uid] {
                row[*target] += (1.0 - keep) * bond;
            }
            row.into_iter().enumerate().filter(|(_, bond)| *bond > 0.0).collect()
        })
        .collect();
    normalise_columns(&mut next, n);
    next
}

/// Bonds as they are stored: each column's largest is 65535, and who has no permit holds none.
fn stored_bonds(bonds: Rows, permits: &[bool]) -> Vec<Vec<(u16, u16)>> {
    let mut largest = vec![0.0_f64; permits.len()];
    for (target, bond) in bonds.iter().flatten() {
        largest[*target] = largest[*target].max(*bond);
    }
    bonds
        .into_iter()
        .zip(permits)
        .map(|(row, permit)| {
            let row = if *permit { row } else { Vec::new() };
            row.into_iter()
                .map(|(target, bond)| (target as u16, fraction(ratio(bond, largest[target]))))
                .filter(|(_, bond)| *bond > 0)
                .collect()
        })
        .collect()
}

fn column_sums(rows: &Rows, voice: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; voice.len()];
    for (row, voice) in rows.iter().zip(voice) {
        for (target, weight) in row {
            sums[*target] += weight * voice;
        }
    }
    sums
}

fn normalise(values: &mut [f64]) {
    let sum: f64 = values.iter().sum();
    for value in values {
        *value = ratio(*value, sum);
    }
}

fn normalise_columns(rows: &mut Rows, n: usize) {
    let sums = column_sums(rows, &vec![1.0; n]);
    for (target, value) in rows.iter_mut().flatten() {
        *value = ratio(*value, sums[*target]);
    }
}

/// `a / b`, and 0 where that is no number.
fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

/// `0.0..=1.0` as a share of 65535, rounded down.
fn fraction(value: f64) -> u16 {
    // `as` saturates.
    (value * U16) as u16
}

fn fractions(values: &[f64]) -> Vec<u16> {
    values.iter().copied().map(fraction).collect()
}

fn upscaled(values: &[f64]) -> Vec<u16> {
    let largest = values.iter().copied().fold(0.0, f64::max);
    values.iter().map(|value| (ratio(*value, largest) * U16).round() as u16).collect()
}

#[cfg(test)]
mod tests;
