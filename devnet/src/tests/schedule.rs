//! What only newer specs have: a schedule of epochs, and layouts of their own.

use parity_scale_codec::Decode;
use subxt::Metadata;

use super::super::{Genesis, Spec};
use super::played::{at_first_block, begin_block, blocks, now, set_tempo, signed, subnet};
use super::tested::runtime::subtensor::{self, Error};
use super::tested::runtime::{Runtime, SubtensorModule};
use crate::node::chain::Chain;

fn ran(netuid: u16) -> u64 {
    subtensor::SubnetEpochIndex::<Runtime>::get(netuid)
}

#[test]
fn a_block_runs_two_epochs_and_the_others_wait_for_the_next() {
    at_first_block(|| {
        for _ in 0..5 {
            SubtensorModule::register_network(signed("Alice"), super::super::account("owner"))
                .unwrap();
        }
        (1..=5).for_each(|netuid| set_tempo(netuid, 10));
        blocks(9);
        let indices = || (1..=5).map(ran).collect::<Vec<_>>();
        assert_eq!(indices(), [0; 5]);
        begin_block();
        assert_eq!(indices(), [1, 1, 0, 0, 0]);
        let next = now() + 1;
        assert_eq!(subtensor::PendingEpochAt::<Runtime>::get(3), next);
        assert_eq!(SubtensorModule::next_epoch_start(3), Some(now()));
        begin_block();
        assert_eq!(indices(), [1, 1, 1, 1, 0]);
        begin_block();
        assert_eq!(indices(), [1; 5]);
        assert_eq!(subtensor::LastEpochBlock::<Runtime>::get(5), now());
        assert_eq!(subtensor::PendingEpochAt::<Runtime>::get(5), 0);
        assert_eq!(SubtensorModule::next_epoch_start(5), Some(now() + 10));
        set_tempo(5, 0);
        assert_eq!(SubtensorModule::next_epoch_start(5), None);
    });
}

#[test]
fn an_epoch_comes_when_it_was_asked_for_and_after_the_longest_idleness() {
    at_first_block(|| {
        subnet(&[]);
        set_tempo(1, u16::MAX);
        subtensor::PendingEpochAt::<Runtime>::insert(1, now() + 3);
        blocks(2);
        assert_eq!(ran(1), 0);
        blocks(1);
        assert_eq!(ran(1), 1);
        subtensor::BlocksSinceLastStep::<Runtime>::insert(1, 50_399);
        blocks(1);
        assert_eq!(ran(1), 1);
        blocks(1);
        assert_eq!(ran(1), 2);
    });
}

#[test]
fn the_activity_cutoff_follows_the_tempo() {
    at_first_block(|| {
        subnet(&[]);
        set_tempo(1, 360);
        assert_eq!(SubtensorModule::activity_cutoff(1), 5000);
        SubtensorModule::put_activity_cutoff(1, 720);
        assert_eq!(subtensor::ActivityCutoffFactorMilli::<Runtime>::get(1), 2000);
        set_tempo(1, 10);
        assert_eq!(SubtensorModule::metagraph(1).unwrap().activity_cutoff.0, 20_u64);
        assert_eq!(SubtensorModule::metagraph(1).unwrap().rank.len(), 1);
    });
}

#[test]
fn the_metadata_has_the_layouts_of_its_spec_in_every_version() {
    let metadata = |spec, version: u8| {
        let genesis = Genesis { spec, ..Genesis::default() };
        let chain = Chain::open(None, std::time::Duration::from_secs(12), &genesis).unwrap();
        let function = "Metadata_metadata_at_version";
        let answer = chain.query(&chain.head(), function, &[version, 0, 0, 0]).unwrap();
        let bytes = Option::<Vec<u8>>::decode(&mut answer.as_slice()).unwrap().unwrap();
        Metadata::decode_from(&bytes).unwrap()
    };
    for version in [14, 15, 16] {
        let [old, new] = Spec::ALL.map(|spec| metadata(spec, version));
        let has = |metadata: &Metadata, item: &str| {
            let pallet = metadata.pallet_by_name("SubtensorModule").unwrap();
            pallet.storage().unwrap().entry_by_name(item).is_some()
        };
        for item in
            ["Rank", "Trust", "PruningScores", "ActivityCutoff", "Alpha", "TotalHotkeyShares"]
        {
            assert_eq!((has(&old, item), has(&new, item)), (true, false), "{item}");
        }
        for item in [
            "LastEpochBlock",
            "PendingEpochAt",
            "SubnetEpochIndex",
            "MaxEpochsPerBlock",
            "ActivityCutoffFactorMilli",
            "AlphaV2",
            "TotalHotkeySharesV2",
        ] {
            assert_eq!((has(&old, item), has(&new, item)), (false, true), "{item}");
        }
        let index = |metadata: &Metadata, name: &str| {
            let pallet = metadata.pallet_by_name("SubtensorModule").unwrap();
            let mut errors = pallet.error_variants().unwrap().iter();
            errors.find(|error| error.name == name).map(|error| error.index)
        };
        assert_eq!(
            [&old, &new].map(|of| index(of, "IncorrectCommitRevealVersion")),
            [109, 110].map(Some)
        );
        assert_eq!([&old, &new].map(|of| index(of, "InvalidRevealRound")), [None, Some(111)]);
        let has_function = |metadata: &Metadata| {
            let found = metadata.runtime_api_trait_by_name("SubnetInfoRuntimeApi");
            found.is_some_and(|of| of.method_by_name("get_next_epoch_start_block").is_some())
        };
        // The oldest metadata tells of no functions.
        assert_eq!((has_function(&old), has_function(&new)), (false, version > 14));
        let extensions = |metadata: &Metadata| {
            let version = metadata.extrinsic().transaction_extension_version_to_use_for_encoding();
            let all = metadata.extrinsic().transaction_extensions_by_version(version).unwrap();
            all.map(|extension| extension.identifier().to_owned()).collect::<Vec<_>>()
        };
        let (mut old, new) = (extensions(&old), extensions(&new));
        assert_eq!(old[8..10], ["SudoTransactionExtension", "SubtensorTransactionExtension"]);
        old.insert(9, "CheckShieldedTxValidity".to_owned());
        assert_eq!(new, old);
    }
}

#[test]
fn errors_have_the_indices_of_their_spec() {
    let index = |error: Error<Runtime>| parity_scale_codec::Encode::encode(&error)[0];
    assert_eq!(index(Error::NeuronNoValidatorPermit), 15);
    assert_eq!(index(Error::SettingWeightsTooFast), 29);
    assert_eq!(index(Error::CommittingWeightsTooFast), 81);
    assert_eq!(index(Error::InvalidRevealRound), 111);
}
