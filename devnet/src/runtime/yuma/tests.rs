//! What the consensus must hold for any subnet, and a few that are worked out by hand.

use proptest::prelude::*;

use super::*;

/// `validators` with a stake each, then two miners; weights are what each validator gives the two.
fn subnet(validators: &[(u64, [u16; 2])]) -> Input {
    let first = validators.len() as u16;
    let mut input = Input {
        block: 1000,
        tempo: 99,
        activity_cutoff: 5000,
        kappa: 32_767,
        max_validators: 64,
        bonds_moving_average: 900_000,
        bonds_penalty: u16::MAX,
        ..Input::default()
    };
    for (stake, weights) in validators {
        input.neurons.push(Neuron { stake: *stake, last_update: 990, registered: 1, permit: true });
        input.weights.push(vec![(first, weights[0]), (first + 1, weights[1])]);
    }
    input.neurons.extend([Neuron { last_update: 2, registered: 1, ..Neuron::default() }; 2]);
    input
}

#[test]
fn agreeing_validators_split_the_incentive_as_they_say() {
    let out = epoch(&subnet(&[(100, [3, 1]), (100, [3, 1])]));
    assert_eq!(out.incentive, [0, 0, 49_151, 16_383]);
    assert_eq!(out.dividends, [32_767, 32_767, 0, 0]);
    assert_eq!(out.validator_trust, [65_535, 65_535, 0, 0]);
    assert_eq!(out.permits, [true, true, false, false]);
    assert_eq!(out.active, [true; 4]);
}

#[test]
fn a_lying_minority_is_clipped_and_loses_dividends() {
    let honest = epoch(&subnet(&[(60, [1, 1]), (40, [1, 1])]));
    let lied = epoch(&subnet(&[(60, [1, 1]), (40, [0, 1])]));
    assert_eq!(honest.incentive[3], 32_767);
    assert!(lied.incentive[2] <= 32_767, "its own miner's rival keeps the majority's weight");
    assert!(lied.consensus[3] <= honest.consensus[3]);
    let share = |out: &Output| f64::from(out.dividends[1]) / f64::from(out.dividends[0]);
    assert!(share(&lied) < share(&honest));
}

#[test]
fn weights_without_a_permit_or_older_than_their_target_do_not_count() {
    let mut input = subnet(&[(100, [3, 1])]);
    input.neurons[0].permit = false;
    assert_eq!(epoch(&input).incentive, [0, 0, 0]);

    let mut input = subnet(&[(100, [3, 1])]);
    input.neurons[1].registered = 995;
    assert_eq!(epoch(&input).incentive, [0, 0, 65_535]);
}

#[test]
fn a_weight_on_itself_counts_for_the_owner_only() {
    let mut input = subnet(&[(100, [0, 0])]);
    input.weights[0] = vec![(0, 1)];
    assert_eq!(epoch(&input).incentive, [0, 0, 0]);
    input.owner = Some(0);
    assert_eq!(epoch(&input).incentive, [65_535, 0, 0]);
}

#[test]
fn without_weights_the_stake_earns() {
    let mut input = subnet(&[(300, [0, 0]), (100, [0, 0])]);
    input.weights.clear();
    let out = epoch(&input);
    assert_eq!(out.validator_shares, [0.75, 0.25, 0.0, 0.0]);
    assert_eq!(out.miner_shares, [0.0; 4]);
}

#[test]
fn permits_go_to_the_most_stake_above_the_threshold() {
    let mut input = subnet(&[(5, [1, 1]), (30, [1, 1]), (20, [1, 1]), (30, [1, 1])]);
    input.max_validators = 2;
    assert_eq!(epoch(&input).permits, [false, true, false, true, false, false]);
    input.max_validators = 64;
    input.stake_threshold = 20;
    assert_eq!(epoch(&input).permits, [false, true, true, true, false, false]);
}

#[test]
fn bonds_grow_towards_the_stake() {
    let mut input = subnet(&[(75, [1, 1]), (25, [1, 1])]);
    input.bonds = vec![vec![(2, 1), (3, 1)], vec![(2, 1), (3, 1)]];
    let mut last = 0.5;
    for _ in 0..30 {
        let out = epoch(&input);
        assert!(out.validator_shares[0] >= last - 1e-3);
        last = out.validator_shares[0];
        input.bonds = out.bonds;
    }
    assert!((last - 0.75).abs() < 0.02, "{last}");
}

fn any_input() -> impl Strategy<Value = Input> {
    let neuron = (any::<u64>(), 0..2000_u64, 0..2000_u64, any::<bool>()).prop_map(
        |(stake, last_update, registered, permit)| Neuron {
            stake,
            last_update,
            registered,
            permit,
        },
    );
    (1..12_usize).prop_flat_map(move |n| {
        let row = || prop::collection::vec((0..14_u16, any::<u16>()), 0..12);
        (
            prop::collection::vec(neuron.clone(), n),
            prop::collection::vec(row(), 0..=n),
            prop::collection::vec(row(), 0..=n),
            (
                any::<u16>(),
                any::<u16>(),
                any::<u16>(),
                any::<u64>(),
                any::<u64>(),
                prop::option::of(0..12_u16),
            ),
        )
            .prop_map(
                |(
                    neurons,
                    weights,
                    bonds,
                    (kappa, max_validators, penalty, threshold, average, owner),
                )| {
                    Input {
                        neurons,
                        weights,
                        bonds,
                        owner,
                        block: 1500,
                        tempo: 100,
                        activity_cutoff: 1000,
                        kappa,
                        max_validators,
                        stake_threshold: threshold,
                        bonds_moving_average: average,
                        bonds_penalty: penalty,
                    }
                },
            )
    })
}

proptest! {
    #[test]
    fn any_subnet_has_finite_shares_that_sum_up_to_at_most_one(input in any_input()) {
        let out = epoch(&input);
        let n = input.neurons.len();
        for shares in [&out.miner_shares, &out.validator_shares] {
            prop_assert_eq!(shares.len(), n);
            prop_assert!(shares.iter().all(|share| share.is_finite() && *share >= 0.0));
            prop_assert!(shares.iter().sum::<f64>() <= 1.0 + 1e-9);
        }
        prop_assert_eq!(out.bonds.len(), n);
        prop_assert!(out.incentive.iter().map(|i| u64::from(*i)).sum::<u64>() <= 65_535);
        prop_assert!(out.permits.iter().filter(|p| **p).count() <= usize::from(input.max_validators));
    }

    /// Whatever a minority of the stake says, the target it pushes does not earn more than the majority gives it.
    #[test]
    fn a_minority_cannot_raise_an_incentive(minority in 1..49_u64, honest in 1..1000_u16, lie in any::<[u16; 2]>()) {
        let majority = 100 - minority;
        let out = epoch(&subnet(&[(majority, [1000, honest]), (minority, lie)]));
        let truth = epoch(&subnet(&[(majority, [1000, honest])]));
        prop_assert!(out.consensus[3] <= truth.consensus[2]);
        prop_assert!(out.consensus[2] <= truth.consensus[1]);
    }
}
