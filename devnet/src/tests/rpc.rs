//! A whole devnet on a port, used by subxt and by the set-up client.

use std::time::Instant;

use common::Netuid;
use subxt::config::substrate::{AccountId32 as SubxtAccount, MultiSignature};
use subxt::dynamic::Value;
use subxt::{OnlineClient, SubstrateConfig};

use super::*;
use sp_core::H256;

use crate::runtime::{Runtime, RuntimeCall, subtensor};
use crate::setup::{Client, SetupError, sudo_key};

struct Signer(Keypair);

impl subxt::tx::Signer<SubstrateConfig> for Signer {
    fn account_id(&self) -> SubxtAccount {
        SubxtAccount(*self.0.hotkey().as_bytes())
    }

    fn sign(&self, payload: &[u8]) -> MultiSignature {
        MultiSignature::Sr25519(self.0.sign(payload))
    }
}

/// A started subnet of `//owner`, `//validator` (with stake) and `//miner`, where weights may be set at once.
async fn prepared(client: &Client) -> Netuid {
    let alice = sudo_key();
    let netuid = client.register_network(&alice, hotkey("owner")).await.unwrap();
    for (name, value) in [("tempo", 5), ("weights_set_rate_limit", 0), ("commit_reveal", 0)] {
        client.sudo_set(name, Some(netuid), value).await.unwrap();
    }
    for name in ["validator", "miner"] {
        client.burned_register(&alice, netuid, hotkey(name)).await.unwrap();
    }
    client.start_call(&alice, netuid).await.unwrap();
    client.add_stake(&alice, hotkey("validator"), netuid, 1000 * genesis::TAO).await.unwrap();
    netuid
}

/// Reads a storage item of one subnet until it is as wanted.
async fn until(
    api: &OnlineClient<SubstrateConfig>,
    item: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let at = api.at_current_block().await.unwrap();
        let address = subxt::dynamic::storage::<Vec<Value>, Value>("SubtensorModule", item);
        let value =
            at.storage().fetch(address, vec![Value::u128(1)]).await.unwrap().decode().unwrap();
        if wanted(&value) {
            return value;
        }
        assert!(Instant::now() < deadline, "{item} is {value} for too long");
    }
}

#[tokio::test]
async fn subxt_sets_weights_and_sees_what_an_epoch_makes_of_them() {
    let devnet = Running::start(quick(None), |_| {}).await;
    let client = Client::connect(&devnet.url).await.unwrap();
    prepared(&client).await;

    let api = OnlineClient::<SubstrateConfig>::from_insecure_url(&devnet.url).await.unwrap();
    let has = |uid: usize, wanted: bool| {
        move |list: &Value| {
            format!("{list}")
                .split(',')
                .nth(uid)
                .is_some_and(|flag| flag.contains("true") == wanted)
        }
    };
    until(&api, "ValidatorPermit", has(1, true)).await;
    let at = api.at_current_block().await.unwrap();
    let slot = subxt::dynamic::constant::<u64>("Aura", "SlotDuration");
    assert_eq!(at.constants().entry(slot).unwrap(), 20, "clients learn the block time");
    let arguments = vec![
        Value::u128(1),
        Value::u128(0),
        Value::unnamed_composite([Value::u128(2)]),
        Value::unnamed_composite([Value::u128(7)]),
        Value::u128(0),
    ];
    let call = subxt::dynamic::transaction("SubtensorModule", "set_mechanism_weights", arguments);
    let signer = Signer(Keypair::development("validator"));
    let progress =
        at.transactions().sign_and_submit_then_watch_default(&call, &signer).await.unwrap();
    progress.wait_for_finalized_success().await.unwrap();

    let at = api.at_current_block().await.unwrap();
    let address =
        subxt::dynamic::storage::<Vec<Value>, Vec<(u16, u16)>>("SubtensorModule", "Weights");
    let weights = at.storage().fetch(address, vec![Value::u128(1), Value::u128(1)]).await.unwrap();
    assert_eq!(weights.decode().unwrap(), [(2, 65_535)]);
    until(&api, "Incentive", |list| format!("{list}").contains("65535")).await;
    let metagraph = subxt::dynamic::runtime_api_call::<_, Value>(
        "SubnetInfoRuntimeApi",
        "get_selective_metagraph",
        vec![Value::u128(1), Value::unnamed_composite([Value::u128(52)])],
    );
    let metagraph = format!("{}", at.runtime_apis().call(metagraph).await.unwrap());
    assert!(metagraph.contains("hotkeys: Some"), "{metagraph}");
    devnet.stop().await;
}

#[tokio::test]
async fn what_would_fail_is_refused_by_the_pool_with_the_real_numbers() {
    let devnet = Running::start(quick(None), |_| {}).await;
    let client = Client::connect(&devnet.url).await.unwrap();
    let netuid = prepared(&client).await.0;
    let weights = || subtensor::Call::<Runtime>::set_weights {
        netuid,
        dests: vec![1],
        weights: vec![1],
        version_key: 0,
    };
    let axon = |ip: u128, port: u16, ip_type: u8| subtensor::Call::<Runtime>::serve_axon {
        netuid,
        version: 1,
        ip,
        port,
        ip_type,
        protocol: 4,
        placeholder1: 0,
        placeholder2: 0,
    };
    let send = async |signer: &str, call: subtensor::Call<Runtime>| {
        let call = RuntimeCall::SubtensorModule(call);
        match client.submit(&Keypair::development(signer), "the call", call).await {
            Ok(_) => "ok".to_owned(),
            Err(SetupError::Refused { reason, .. }) => reason,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(send("stranger", weights()).await, "Custom error: 19");
    assert_eq!(send("stranger", axon(1, 1, 4)).await, "Custom error: 10");
    assert_eq!(send("miner", axon(0x7f00_0001, 1, 4)).await, "Custom error: 11");
    assert_eq!(send("miner", axon(1, 0, 4)).await, "Custom error: 13");
    assert_eq!(send("miner", axon(1, 1, 5)).await, "Custom error: 255");
    // A hotkey holds nothing and still may serve.
    assert_eq!(send("miner", axon(1, 1, 4)).await, "ok");
    assert_eq!(send("miner", axon(1, 2, 4)).await, "Custom error: 12");
    client.sudo_set("weights_rate_limit", Some(Netuid(netuid)), 1_000_000).await.unwrap();
    assert_eq!(send("validator", weights()).await, "Custom error: 6");
    client.sudo_set("stake_threshold", None, u64::MAX).await.unwrap();
    assert_eq!(send("validator", weights()).await, "Custom error: 1");
    let transfer =
        pallet_balances::Call::transfer_keep_alive { dest: account("Bob").into(), value: 1 };
    let poor = client
        .submit(&Keypair::development("poor"), "a transfer", RuntimeCall::Balances(transfer))
        .await;
    assert!(
        matches!(poor, Err(SetupError::Refused { reason, .. }) if reason.contains("Inability to pay"))
    );
    let remark = RuntimeCall::System(frame_system::Call::remark { remark: vec![] });
    let sudo = RuntimeCall::Sudo(crate::runtime::sudo::Call::sudo { call: Box::new(remark) });
    let sudo = client.submit(&Keypair::development("Bob"), "sudo", sudo).await;
    assert!(
        matches!(sudo, Err(SetupError::Refused { reason, .. }) if reason == "Invalid signing address")
    );
    devnet.stop().await;
}

#[tokio::test]
async fn a_restarted_devnet_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let devnet = Running::start(quick(Some(folder.path())), |_| {}).await;
    let client = Client::connect(&devnet.url).await.unwrap();
    let netuid = prepared(&client).await;
    let (height, subnets) = (client.height().await.unwrap(), client.subnets().await.unwrap());
    drop(client);
    devnet.stop().await;

    // Twice: the first start writes the file anew.
    for _ in 0..2 {
        let devnet = Running::start(quick(Some(folder.path())), |_| {}).await;
        let client = Client::connect(&devnet.url).await.unwrap();
        assert!(client.height().await.unwrap() >= height);
        assert_eq!(client.subnets().await.unwrap(), subnets);
        let again = client.burned_register(&sudo_key(), netuid, hotkey("miner")).await;
        let Err(SetupError::Failed { error, .. }) = again else { panic!("{again:?}") };
        assert_eq!(
            error, "HotKeyAlreadyRegisteredInSubNet",
            "the nonce is right, the state is there"
        );
        drop(client);
        devnet.stop().await;
    }

    let file = folder.path().join("chain.log");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = App::build(quick(Some(folder.path()))).await.unwrap_err().to_string();
    assert!(error.contains("chain.log is damaged"), "{error}");
}

#[tokio::test]
async fn blocks_can_be_stopped_and_the_node_be_made_unreachable() {
    let devnet = Running::start(quick(None), Controls::pause_blocks).await;
    let client = Client::connect(&devnet.url).await.unwrap();
    let paid = client.faucet(hotkey("poor"), genesis::TAO);
    tokio::pin!(paid);
    tokio::select! {
        biased;
        paid = &mut paid => panic!("{paid:?}"),
        height = client.height() => assert_eq!(height.unwrap(), 0),
    }
    devnet.controls.resume_blocks();
    paid.await.unwrap();

    devnet.controls.set_reachable(false);
    let deadline = Instant::now() + PATIENCE;
    while client.height().await.is_ok() {
        assert!(Instant::now() < deadline, "the connection is cut");
    }
    assert!(matches!(Client::connect(&devnet.url).await, Err(SetupError::Connect { .. })));
    devnet.controls.set_reachable(true);
    let again = Client::connect(&devnet.url).await.unwrap();
    assert!(again.height().await.unwrap() > 0);
    devnet.stop().await;
}

#[tokio::test]
async fn nonsense_is_answered_with_an_error_and_nothing_breaks() {
    use jsonrpsee::core::client::ClientT;
    use jsonrpsee::rpc_params;
    use jsonrpsee::ws_client::WsClientBuilder;

    let devnet = Running::start(quick(None), |_| {}).await;
    let rpc = WsClientBuilder::default().build(&devnet.url).await.unwrap();
    let ask =
        async |method: &str, params| rpc.request::<serde_json::Value, _>(method, params).await;
    assert!(ask("no_such", rpc_params![]).await.is_err());
    assert!(ask("state_call", rpc_params!["No_such", "0x"]).await.is_err());
    assert!(ask("state_call", rpc_params!["AccountNonceApi_account_nonce", "0x00"]).await.is_err());
    assert!(ask("author_submitExtrinsic", rpc_params!["0x0badc0de"]).await.is_err());
    assert!(ask("author_submitExtrinsic", rpc_params!["zz"]).await.is_err());
    assert!(ask("state_getStorage", rpc_params![[1, 2]]).await.is_err());
    let unknown = format!("0x{}", "11".repeat(32));
    assert!(ask("state_getStorage", rpc_params!["0x00", &unknown]).await.is_err());
    assert!(ask("chain_getHeader", rpc_params![&unknown]).await.unwrap().is_null());
    assert!(ask("chain_getBlockHash", rpc_params![4_000_000_000_u64]).await.unwrap().is_null());
    assert!(ask("chain_getHeader", rpc_params![]).await.unwrap()["number"].is_string());
    devnet.stop().await;
}

#[tokio::test]
async fn time_locked_weights_go_through_the_pool_and_appear_under_every_spec() {
    for spec in crate::Spec::ALL {
        weights_are_committed_and_revealed(spec).await;
    }
}

async fn weights_are_committed_and_revealed(spec: crate::Spec) {
    use rand::SeedableRng;

    let devnet = Running::start(Config { spec, ..quick(None) }, |_| {}).await;
    let client = Client::connect(&devnet.url).await.unwrap();
    let netuid = prepared(&client).await;
    client.sudo_set("commit_reveal", Some(netuid), 1).await.unwrap();
    let api = OnlineClient::<SubstrateConfig>::from_insecure_url(&devnet.url).await.unwrap();
    until(&api, "ValidatorPermit", |list| format!("{list}").contains("true")).await;
    // Two seconds at least: the round below comes within one.
    client.sudo_set("tempo", Some(netuid), 100).await.unwrap();

    let weights = [(common::Uid(2), 9), (common::Uid(0), 3)];
    let payload = timelock::WeightsPayload::new(&hotkey("validator"), &weights, 0);
    let key = crate::runtime::drand::beacon_key();
    let beacon = key.beacon(timelock::QUICKNET_GENESIS_S, std::num::NonZeroU64::MIN).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let round = beacon.round_known_at(now) + 2;
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let commit = payload.seal(&beacon, round, &mut rng).unwrap();
    let call = |round, version| {
        RuntimeCall::SubtensorModule(subtensor::Call::commit_timelocked_mechanism_weights {
            netuid: netuid.0,
            mecid: 0,
            commit: commit.clone().try_into().unwrap(),
            reveal_round: round,
            commit_reveal_version: version,
        })
    };
    let signer = Keypair::development("validator");
    let wrong = client.submit(&signer, "the commitment", call(round, 3)).await;
    let Err(SetupError::Failed { error, .. }) = wrong else { panic!("{wrong:?}") };
    assert_eq!(error, "IncorrectCommitRevealVersion");
    let old = client.submit(&signer, "the commitment", call(1, 4)).await;
    match spec {
        crate::Spec::V365 => assert!(old.is_ok(), "{old:?}"),
        crate::Spec::V425 => {
            let Err(SetupError::Refused { reason, .. }) = old else { panic!("{old:?}") };
            assert_eq!(reason, "Custom error: 15");
        }
    }
    client.submit(&signer, "the commitment", call(round, 4)).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let at = api.at_current_block().await.unwrap();
        let address =
            subxt::dynamic::storage::<Vec<Value>, Vec<(u16, u16)>>("SubtensorModule", "Weights");
        let key = vec![Value::u128(1), Value::u128(1)];
        let found = at.storage().fetch(address, key).await.unwrap().decode().unwrap();
        if found == [(2, 65_535), (0, 21_845)] {
            break;
        }
        assert!(Instant::now() < deadline, "spec {spec}: the weights are {found:?}");
    }
    devnet.stop().await;
}

#[tokio::test]
async fn commitments_that_would_fail_are_refused_by_the_pool_with_the_real_numbers() {
    let devnet = Running::start(quick(None), |_| {}).await;
    let client = Client::connect(&devnet.url).await.unwrap();
    let netuid = prepared(&client).await.0;
    client.sudo_set("commit_reveal", Some(Netuid(netuid)), 1).await.unwrap();
    client.sudo_set("weights_rate_limit", Some(Netuid(netuid)), 1_000_000).await.unwrap();
    let send = async |call: subtensor::Call<Runtime>| {
        let signer = Keypair::development("validator");
        match client.submit(&signer, "the call", RuntimeCall::SubtensorModule(call)).await {
            Ok(_) => "ok".to_owned(),
            Err(SetupError::Refused { reason, .. }) => reason,
            Err(SetupError::Failed { error, .. }) => error,
            Err(error) => panic!("{error}"),
        }
    };
    let commit_hash = H256::zero();
    assert_eq!(
        send(subtensor::Call::commit_weights { netuid, commit_hash }).await,
        "Custom error: 6"
    );
    let locked = subtensor::Call::commit_timelocked_weights {
        netuid,
        commit: vec![1].try_into().unwrap(),
        reveal_round: u64::MAX,
        commit_reveal_version: 4,
    };
    assert_eq!(send(locked).await, "CommittingWeightsTooFast", "the pool does not look");
    let reveal = || subtensor::Call::reveal_weights {
        netuid,
        uids: vec![2],
        values: vec![1],
        salt: vec![7],
        version_key: 0,
    };
    assert_eq!(send(reveal()).await, "Custom error: 16");
    client.sudo_set("weights_rate_limit", Some(Netuid(netuid)), 0).await.unwrap();
    let commit_hash =
        SubtensorModule::hash_of_weights(&account("validator"), netuid, &[2], &[1], &[7], 0);
    client.sudo_set("tempo", Some(Netuid(netuid)), 1000).await.unwrap();
    assert_eq!(send(subtensor::Call::commit_weights { netuid, commit_hash }).await, "ok");
    assert_eq!(send(reveal()).await, "Custom error: 17");
    let unequal = subtensor::Call::batch_commit_weights {
        netuids: vec![1_u16.into()],
        commit_hashes: Vec::new(),
    };
    assert_eq!(send(unequal).await, "Custom error: 18");
    devnet.stop().await;
}

#[tokio::test]
async fn owners_pay_for_their_hotkeys_where_the_chain_wants_it() {
    let devnet = Running::start(Config { fees: crate::Fees::Owner, ..quick(None) }, |_| {}).await;
    let client = Client::connect(&devnet.url).await.unwrap();
    let netuid = prepared(&client).await;
    let api = OnlineClient::<SubstrateConfig>::from_insecure_url(&devnet.url).await.unwrap();
    let balance = async |name: &str| {
        let at = api.at_current_block().await.unwrap();
        let address = subxt::dynamic::storage::<Vec<Value>, Value>("System", "Account");
        let key = vec![Value::from_bytes(account(name))];
        let found = at.storage().fetch(address, key).await.unwrap().decode().unwrap();
        let text = format!("{found}");
        let digits = text.split("free: ").nth(1).unwrap();
        digits.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
    };
    let axon = || {
        RuntimeCall::SubtensorModule(subtensor::Call::serve_axon {
            netuid: netuid.0,
            version: 1,
            ip: 1,
            port: 1,
            ip_type: 4,
            protocol: 4,
            placeholder1: 0,
            placeholder2: 0,
        })
    };
    let before = balance("Alice").await;
    client.submit(&Keypair::development("miner"), "serve_axon", axon()).await.unwrap();
    let fee = before - balance("Alice").await;
    assert!((1..1_000_000).contains(&fee), "{fee}");

    // A hotkey of somebody who has nothing left.
    let bob = Keypair::development("Bob");
    client.burned_register(&bob, netuid, hotkey("poor")).await.unwrap();
    let all =
        pallet_balances::Call::transfer_all { dest: account("Alice").into(), keep_alive: false };
    client.submit(&bob, "transfer_all", RuntimeCall::Balances(all)).await.unwrap();
    let refused = client.submit(&Keypair::development("poor"), "serve_axon", axon()).await;
    let Err(SetupError::Refused { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("Inability to pay some fees"), "{reason}");
    devnet.stop().await;
}

#[tokio::test]
async fn an_upgrade_raises_the_version_and_the_chain_goes_on() {
    let devnet = Running::start(quick(None), |_| {}).await;
    let client = Client::connect(&devnet.url).await.unwrap();
    assert_eq!(client.version().await.unwrap(), 365);
    let items = vec![(crate::runtime::UPGRADES_KEY.to_vec(), 2_u32.to_le_bytes().to_vec())];
    let call = RuntimeCall::System(frame_system::Call::set_storage { items });
    let call = RuntimeCall::Sudo(crate::runtime::sudo::Call::sudo { call: Box::new(call) });
    client.submit(&sudo_key(), "the upgrade", call).await.unwrap();
    assert_eq!(client.version().await.unwrap(), 367);
    client.faucet(hotkey("poor"), genesis::TAO).await.unwrap();
    devnet.stop().await;
}

#[tokio::test]
async fn a_folder_is_not_continued_with_another_kind_of_chain() {
    let folder = tempfile::tempdir().unwrap();
    let newer = Config { spec: crate::Spec::V425, ..quick(Some(folder.path())) };
    Running::start(newer.clone(), |_| {}).await.stop().await;
    let error = App::build(quick(Some(folder.path()))).await.unwrap_err().to_string();
    assert!(error.contains("begun with `--spec 425 --fees free --beacon local"), "{error}");
    Running::start(newer, |_| {}).await.stop().await;
}
