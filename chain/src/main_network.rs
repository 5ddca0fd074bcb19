//! What this crate sends and reads, against the main network's metadata where a file with it is at hand.

use std::collections::BTreeSet;

use common::{Keypair, MechanismId, Netuid, Uid};
use rand::SeedableRng;
use rand::rngs::StdRng;
use subxt::config::substrate::SpecVersionForRange;
use subxt::dynamic::Value;
use subxt::{Metadata, OfflineClient, SubstrateConfig};
use tokio_util::sync::CancellationToken;

use crate::commitments::commit_call;
use crate::network::{ChainConfig, Network};
use crate::preflight::examples::facts;
use crate::serving::serve_axon_call;
use crate::signed::Call;
use crate::storage::PALLET;
use crate::submission::calls;
use crate::{Axon, Chain, CommitReveal, Digest, Kind, WeightFacts, WeightsPlan, plan_weights};

/// What every runtime so far has.
const ITEMS_OF_SUBNET: [&str; 18] = [
    "NetworksAdded",
    "SubnetworkN",
    "SubnetOwnerHotkey",
    "Tempo",
    "WeightsSetRateLimit",
    "WeightsVersionKey",
    "MinAllowedWeights",
    "MaxWeightsLimit",
    "CommitRevealWeightsEnabled",
    "ServingRateLimit",
    "ImmunityPeriod",
    "ActivityCutoff",
    "ValidatorPermit",
    "Active",
    "LastUpdate",
    "Incentive",
    "Consensus",
    "Dividends",
];

#[test]
fn every_request_can_run_in_a_task_of_its_own() {
    fn is_send<T: Send>(_: T) {}
    let chain = Chain::new(ChainConfig::new(Network::Local)).unwrap();
    let alice = Keypair::development("Alice");
    let second = MechanismId(1);
    is_send(chain.weight_facts(Netuid(1), second, alice.hotkey()));
    let prepared = plan(&BTreeSet::new()).prepare(&mut StdRng::seed_from_u64(1)).unwrap();
    is_send(chain.send_weights(&prepared, &alice));
    is_send(chain.reveal_weights(prepared.submission(), &alice));
    is_send(chain.weight_standing(prepared.submission()));
    is_send(chain.serve_axon(Netuid(1), Axon::local(1), &alice));
    is_send(chain.commit(Netuid(1), &alice, &[]));
    is_send(chain.commitments(Netuid(1)));
    is_send(chain.metagraph(Netuid(1)));
    is_send(chain.follow(CancellationToken::new()));
}

/// A plan for a subnet with or without commit-reveal, on a runtime without the calls whose names contain these words.
fn plan_by(commit_reveal: bool, preference: CommitReveal, without: &BTreeSet<&str>) -> WeightsPlan {
    let calls = facts().calls.into_iter();
    let calls = calls.filter(|call| !without.iter().any(|word| call.contains(word))).collect();
    let facts =
        WeightFacts { commit_reveal_enabled: commit_reveal, calls, neurons: 300, ..facts() };
    plan_weights(&facts, &[(Uid(258), 65535), (Uid(259), 1)], 5, preference).unwrap()
}

fn plan(without: &BTreeSet<&str>) -> WeightsPlan {
    plan_by(false, CommitReveal::Auto, without)
}

/// Every call by which weights reach the chain, as bytes.
fn weight_calls_fit(without: &BTreeSet<&str>, data: impl Fn(Call) -> Vec<u8>) {
    let older = !without.is_empty();
    let place = |index: u8, older_index: u8| match older {
        true => vec![7, older_index, 19, 0],
        false => vec![7, index, 19, 0, 0],
    };
    let columns = [8, 2, 1, 3, 1, 8, 0xff, 0xff, 1, 0];
    let version = [5, 0, 0, 0, 0, 0, 0, 0];
    let mut rng = StdRng::seed_from_u64(1);

    let set = data(plan(without).prepare(&mut rng).unwrap().call);
    assert_eq!(set, [place(119, 0), columns.to_vec(), version.to_vec()].concat());

    let hashed = plan_by(true, CommitReveal::Hashed, without).prepare(&mut rng).unwrap();
    let Kind::Hashed { digest, salt, .. } = &hashed.submission.kind else { panic!("{hashed:?}") };
    assert_eq!(data(hashed.call.clone()), [place(115, 96), digest.0.to_vec()].concat());
    let name = if older { "reveal_weights" } else { "reveal_mechanism_weights" };
    let reveal = data(calls::reveal(&hashed.submission, salt, name));
    let mut salted = vec![32];
    salted.extend(salt.iter().flat_map(|number| number.to_le_bytes()));
    let expected = [place(116, 97), columns.to_vec(), salted, version.to_vec()].concat();
    assert_eq!(reveal, expected);

    let sealed = plan_by(true, CommitReveal::Timelocked, without).prepare(&mut rng).unwrap();
    let Kind::Timelocked { round, digest, .. } = sealed.submission.kind else {
        panic!("{sealed:?}")
    };
    let call = data(sealed.call.clone());
    let (head, rest) = call.split_at(place(118, 113).len());
    assert_eq!(head, place(118, 113));
    let (commit, rest) = rest.split_at(rest.len() - 8 - 2);
    // A compact length of two bytes.
    assert_eq!(Digest::of(&commit[2..]), digest);
    assert_eq!(rest, [round.to_le_bytes().to_vec(), vec![4, 0]].concat());
}

/// Checks what this crate sends and reads against the main network's metadata, when a file with it is at hand.
#[test]
fn calls_and_storage_fit_the_main_network() {
    let Some(path) = std::env::var_os("TOUCHSTONE_FINNEY_METADATA") else { return };
    let metadata = Metadata::decode_from(&std::fs::read(path).unwrap()).unwrap();
    let ranges =
        SpecVersionForRange { block_range: 0..1, spec_version: 365, transaction_version: 1 };
    let config = SubstrateConfig::builder()
        .set_spec_version_for_block_ranges([ranges])
        .set_metadata_for_spec_versions([(365, metadata.arc())])
        .build();
    let at = OfflineClient::new_with_config(config).at_block(0_u64).unwrap();

    let data = |call: Call| at.transactions().call_data(&call).unwrap();
    for without in [BTreeSet::new(), BTreeSet::from(["mechanism"])] {
        weight_calls_fit(&without, data);
    }
    let mut serve_axon = vec![7, 4, 19, 0, 1, 0, 0, 0, 8, 8, 8, 8];
    serve_axon.extend([0; 12]);
    serve_axon.extend([0x9b, 0x1f, 4, 4, 0, 0]);
    assert_eq!(
        data(serve_axon_call(Netuid(19), Axon::at(([8, 8, 8, 8], 8091).into()))),
        serve_axon
    );
    let commitment = [18, 0, 19, 0, 4, 4, 1, 2, 3];
    assert_eq!(data(commit_call(Netuid(19), &[1, 2, 3])), commitment);

    let number = || Value::u128(1);
    let account = || Value::from_bytes([1; 32]);
    let has_in = |pallet: &str, item: &str, keys: Vec<Value>| {
        let entry =
            at.storage().entry(subxt::dynamic::storage::<Vec<Value>, Value>(pallet, item)).unwrap();
        entry.fetch_key(keys).unwrap_or_else(|error| panic!("{item}: {error}"));
    };
    let has = |item: &str, keys: Vec<Value>| has_in(PALLET, item, keys);
    for item in ITEMS_OF_SUBNET {
        has(item, vec![number()]);
    }
    for item in ["TaoWeight", "StakeThreshold", "CommitRevealWeightsVersion"] {
        has(item, vec![]);
    }
    for item in ["RevealPeriodEpochs", "MechanismCountCurrent", "BlocksSinceLastStep"] {
        has(item, vec![number()]);
    }
    for item in ["Keys", "BlockAtRegistration", "Weights", "TimelockedWeightCommits"] {
        has(item, vec![number(), number()]);
    }
    for item in ["Axons", "Uids", "WeightCommits"] {
        has(item, vec![number(), account()]);
    }
    has("TotalHotkeyAlpha", vec![account(), number()]);
    has("Owner", vec![account()]);
    has_in("Commitments", "CommitmentOf", vec![number(), account()]);
    has_in("Drand", "Pulses", vec![number()]);
    for item in ["BeaconConfig", "LastStoredRound"] {
        has_in("Drand", item, vec![]);
    }
    has_in("Timestamp", "Now", vec![]);
}
