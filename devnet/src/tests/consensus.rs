//! Two validators of different stake and a liar among them.

use super::played::{at_first_block, blocks, set_tempo, signed, staked, subnet};
use super::tested::runtime::subtensor;
use super::tested::runtime::{Runtime, SubtensorModule};

/// The share of the incentive that the second miner gets, and its consensus, both of 65535, if the smaller validator
/// favours it that much. The larger one says half and half.
fn favoured(lie: [u16; 2]) -> (u16, u16, u16) {
    at_first_block(|| {
        subnet(&["large", "small", "honest", "friend"]);
        subtensor::CommitRevealWeightsEnabled::<Runtime>::insert(1, false);
        set_tempo(1, 5);
        staked(&[("large", 600), ("small", 400)]);
        blocks(12);
        for (name, weights) in [("large", [1, 1]), ("small", lie)] {
            let set =
                SubtensorModule::set_weights(signed(name), 1, vec![3, 4], weights.to_vec(), 0);
            assert_eq!(set, Ok(()));
        }
        blocks(6);
        let incentive = subtensor::Incentive::<Runtime>::get(1);
        let trust = subtensor::ValidatorTrust::<Runtime>::get(1);
        (incentive[4], subtensor::Consensus::<Runtime>::get(1)[4], trust[2])
    })
}

#[test]
fn a_liar_with_less_stake_is_clipped_to_what_the_majority_says() {
    let (truth, agreed, trusted) = favoured([1, 1]);
    assert_eq!((truth, agreed), (32_767, 32_767));
    assert!(trusted > 65_000);
    let (lied, agreed, trusted) = favoured([0, 1]);
    assert_eq!(agreed, 32_767, "the majority's word");
    // Unclipped it would be 0.6 * 0.5 + 0.4 = 0.7. What the liar says too much is cut off; what it withholds from the
    // other miner stays withheld: 0.5 of 0.8.
    assert!(lied.abs_diff(40_959) < 200, "{lied}");
    assert!((32_000..33_500).contains(&trusted), "half of its weights was clipped: {trusted}");
}
