//! Faults on command, as clients see them.

use std::time::Instant;

use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::{ClientT, Subscription, SubscriptionClientT};
use jsonrpsee::core::params::ArrayParams;
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use serde_json::{Value, json};

use super::*;
use crate::node::faults::Fault;
use crate::runtime::RuntimeCall;
use crate::setup::{Control, signed};

/// How long a test waits for an answer that should not come.
const MOMENT: Duration = Duration::from_millis(300);

async fn connect(url: &str) -> Result<WsClient, ClientError> {
    WsClientBuilder::default().request_timeout(PATIENCE).build(url).await
}

async fn ask(client: &WsClient, method: &str, params: ArrayParams) -> Result<Value, ClientError> {
    client.request(method, params).await
}

/// Asks until the answer is as wanted.
async fn until(
    client: &WsClient,
    method: &str,
    params: ArrayParams,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask(client, method, params.clone()).await.unwrap();
        if wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{method} answers {answer} for too long");
    }
}

fn number_of(header: &Value) -> u32 {
    let text = header["number"].as_str().unwrap();
    u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
}

async fn best(client: &WsClient) -> u32 {
    number_of(&ask(client, "chain_getHeader", rpc_params![]).await.unwrap())
}

/// Waits for so many more blocks.
async fn more_blocks(client: &WsClient, count: u32) {
    let before = best(client).await;
    until(client, "chain_getHeader", rpc_params![], |header| number_of(header) >= before + count)
        .await;
}

/// A transaction of `//Alice`, as submitted.
async fn remark(client: &WsClient, nonce: u32) -> String {
    let genesis = ask(client, "chain_getBlockHash", rpc_params![0]).await.unwrap();
    let genesis = serde_json::from_value(genesis).unwrap();
    let call = RuntimeCall::System(frame_system::Call::remark { remark: vec![] });
    let version = ask(client, "state_getRuntimeVersion", rpc_params![]).await.unwrap();
    let version = version["specVersion"].as_u64().unwrap() as u32;
    let bytes = signed(&Keypair::development("Alice"), nonce, genesis, version, call);
    format!("0x{}", hex::encode(bytes))
}

async fn watch(client: &WsClient, bytes: &str) -> Result<Subscription<Value>, ClientError> {
    let (method, end) = ("author_submitAndWatchExtrinsic", "author_unwatchExtrinsic");
    client.subscribe(method, rpc_params![bytes], end).await
}

async fn next(updates: &mut Subscription<Value>) -> Value {
    tokio::time::timeout(PATIENCE, updates.next()).await.unwrap().unwrap().unwrap()
}

async fn nonce(client: &WsClient) -> Value {
    let alice = hotkey("Alice").to_string();
    ask(client, "system_accountNextIndex", rpc_params![alice]).await.unwrap()
}

/// A devnet, a client, and a connection for orders.
async fn devnet(finality: u32) -> (Running, WsClient, Control) {
    let devnet = Running::start(Config { finality, ..quick(None) }, |_| {}).await;
    let client = connect(&devnet.url).await.unwrap();
    let control = Control::connect(&devnet.url).await.unwrap();
    (devnet, client, control)
}

#[tokio::test]
async fn a_watcher_sees_its_transaction_move_to_another_branch_and_become_final() {
    let (devnet, client, control) = devnet(0).await;
    devnet.controls.stall_finality();
    let mut updates = watch(&client, &remark(&client, 0).await).await.unwrap();
    assert_eq!(next(&mut updates).await, "ready");
    let old = next(&mut updates).await["inBlock"].clone();
    devnet.controls.pause_blocks();
    let mut heads: Subscription<Value> = client
        .subscribe("chain_subscribeNewHeads", rpc_params![], "chain_unsubscribeNewHeads")
        .await
        .unwrap();
    let head = number_of(&next(&mut heads).await);
    let block = ask(&client, "chain_getHeader", rpc_params![&old]).await.unwrap();
    let depth = head - number_of(&block) + 1;
    devnet.controls.reorg(depth, false).unwrap();
    let state = control.state().await.unwrap();
    assert!(state.faults.contains(&Fault::Reorg { depth, drop_transactions: false }));
    devnet.controls.resume_blocks();

    assert_eq!(next(&mut updates).await, json!({ "retracted": old }));
    assert_eq!(next(&mut updates).await, "ready");
    let new = next(&mut updates).await["inBlock"].clone();
    assert_ne!(new, old);
    // A block may have been made between asking for the newest and ordering; then the branch begins one higher.
    let first = number_of(&next(&mut heads).await);
    assert!(first <= head + 1, "the branch begins at {first}, the old one ended at {head}");
    devnet.controls.resume();
    assert_eq!(next(&mut updates).await, json!({ "finalized": new }));
    assert_eq!(nonce(&client).await, 1);
    devnet.stop().await;
}

#[tokio::test]
async fn a_replaced_transaction_can_vanish() {
    let (devnet, client, control) = devnet(0).await;
    devnet.controls.stall_finality();
    let mut updates = watch(&client, &remark(&client, 0).await).await.unwrap();
    assert_eq!(next(&mut updates).await, "ready");
    let old = next(&mut updates).await["inBlock"].clone();
    let state = control.order(&Fault::Reorg { depth: 64, drop_transactions: true }).await.unwrap();
    assert_eq!(state.faults.len(), 2);
    assert_eq!(next(&mut updates).await, json!({ "retracted": old }));
    assert_eq!(nonce(&client).await, 0);
    assert_eq!(ask(&client, "author_pendingExtrinsics", rpc_params![]).await.unwrap(), json!([]));
    control.order(&Fault::Resume).await.unwrap();
    assert!(tokio::time::timeout(MOMENT, updates.next()).await.is_err(), "no word comes after it");
    devnet.stop().await;
}

#[tokio::test]
async fn finality_lags_as_configured_and_stalls_on_command() {
    let (devnet, client, control) = devnet(4).await;
    let mut finals: Subscription<Value> = client
        .subscribe(
            "chain_subscribeFinalizedHeads",
            rpc_params![],
            "chain_unsubscribeFinalizedHeads",
        )
        .await
        .unwrap();
    for number in 0..5 {
        let seen = number_of(&next(&mut finals).await);
        assert!(seen >= number);
        assert!(best(&client).await >= seen + 4 || seen == 0);
    }
    let state = control.order(&Fault::StallFinality).await.unwrap();
    let head = ask(&client, "chain_getFinalizedHead", rpc_params![]).await.unwrap();
    more_blocks(&client, 6).await;
    // One more may have become final while it was ordered.
    let stalled = control.state().await.unwrap();
    assert!(stalled.finalized <= state.finalized + 1, "{stalled:?}, {state:?}");
    assert!(stalled.best > stalled.finalized + 4);
    control.order(&Fault::Resume).await.unwrap();
    until(&client, "chain_getFinalizedHead", rpc_params![], |now| *now != head).await;
    devnet.stop().await;
}

#[tokio::test]
async fn a_stalled_node_answers_and_says_that_it_is_behind() {
    let (devnet, client, control) = devnet(0).await;
    control.order(&Fault::Stall { blocks: None }).await.unwrap();
    until(&client, "system_health", rpc_params![], |health| health["isSyncing"] == true).await;
    let height = best(&client).await;
    until(&client, "system_syncState", rpc_params![], |state| {
        state["highestBlock"].as_u64() > Some(u64::from(height) + 8)
    })
    .await;
    assert_eq!(best(&client).await, height);
    control.order(&Fault::Resume).await.unwrap();
    more_blocks(&client, 2).await;
    assert_eq!(ask(&client, "system_health", rpc_params![]).await.unwrap()["isSyncing"], false);

    control.order(&Fault::Stall { blocks: Some(3) }).await.unwrap();
    more_blocks(&client, 2).await;
    assert_eq!(control.state().await.unwrap().faults, []);
    devnet.stop().await;
}

#[tokio::test]
async fn answers_come_late_not_at_all_or_as_refusals_and_orders_always_get_through() {
    let (devnet, client, control) = devnet(0).await;
    control.order(&Fault::Slow { by_ms: 200 }).await.unwrap();
    let asked = Instant::now();
    best(&client).await;
    assert!(asked.elapsed() >= Duration::from_millis(200));

    control.order(&Fault::Silent).await.unwrap();
    assert!(tokio::time::timeout(MOMENT, best(&client)).await.is_err());
    // Over an ordinary connection as well.
    ask(&client, "devnet_fault", rpc_params![json!({ "fault": "resume" })]).await.unwrap();
    best(&client).await;

    let state = control.order(&Fault::Refuse { for_ms: 3_600_000 }).await.unwrap();
    assert_eq!(state.faults, [Fault::Refuse { for_ms: 3_600_000 }]);
    let Err(ClientError::Call(refused)) = ask(&client, "system_name", rpc_params![]).await else {
        panic!("it is refused")
    };
    assert_eq!(refused.code(), -32005);
    let handshake = connect(&devnet.url).await.unwrap_err();
    assert!(format!("{handshake:?}").contains("429"), "{handshake:?}");
    control.order(&Fault::Refuse { for_ms: 1 }).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while ask(&client, "system_name", rpc_params![]).await.is_err() {
        assert!(Instant::now() < deadline, "a refusal ends by itself");
    }
    connect(&devnet.url).await.unwrap();

    let nonsense =
        ask(&client, "devnet_fault", rpc_params![json!({ "fault": "reorg", "depth": 0 })]);
    let Err(ClientError::Call(nonsense)) = nonsense.await else { panic!("it is refused") };
    assert_eq!(nonsense.message(), "a reorganisation replaces 1 to 64 blocks, not 0");
    devnet.stop().await;
}

#[tokio::test]
async fn connections_are_cut_once_or_again_and_again() {
    let (devnet, client, control) = devnet(0).await;
    control.order(&Fault::DropConnections { every_ms: None }).await.unwrap();
    tokio::time::timeout(PATIENCE, client.on_disconnect()).await.unwrap();
    assert_eq!(control.state().await.unwrap().faults, []);
    let client = connect(&devnet.url).await.unwrap();
    more_blocks(&client, 2).await;
    assert!(client.is_connected());

    control.order(&Fault::DropConnections { every_ms: Some(50) }).await.unwrap();
    tokio::time::timeout(PATIENCE, client.on_disconnect()).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..2 {
        // The cut may come while it connects.
        let client = loop {
            if let Ok(client) = connect(&devnet.url).await {
                break client;
            }
            assert!(Instant::now() < deadline);
        };
        tokio::time::timeout(PATIENCE, client.on_disconnect()).await.unwrap();
    }
    control.order(&Fault::Resume).await.unwrap();
    let client = connect(&devnet.url).await.unwrap();
    more_blocks(&client, 6).await;
    devnet.stop().await;
}

#[tokio::test]
async fn a_node_can_claim_heads_that_it_cannot_serve() {
    let (devnet, client, control) = devnet(0).await;
    control.order(&Fault::LieHeight { by: 40 }).await.unwrap();
    let head = ask(&client, "chain_getFinalizedHead", rpc_params![]).await.unwrap();
    let header = ask(&client, "chain_getHeader", rpc_params![&head]).await.unwrap();
    let truth = control.state().await.unwrap();
    assert!(number_of(&header) >= 40 && truth.best < number_of(&header));
    assert!(ask(&client, "chain_getBlock", rpc_params![&head]).await.unwrap().is_null());
    let Err(ClientError::Call(error)) =
        ask(&client, "state_getStorage", rpc_params!["0x00", &head]).await
    else {
        panic!("there is no such state")
    };
    assert!(error.message().contains("UnknownBlock"), "{error:?}");
    control.order(&Fault::Resume).await.unwrap();
    let head = ask(&client, "chain_getFinalizedHead", rpc_params![]).await.unwrap();
    assert!(!ask(&client, "chain_getBlock", rpc_params![&head]).await.unwrap().is_null());
    devnet.stop().await;
}

#[tokio::test]
async fn an_answer_gets_lost_while_the_transaction_comes_into_a_block() {
    let (devnet, client, control) = devnet(0).await;
    control.order(&Fault::LoseAnswers).await.unwrap();
    let bytes = remark(&client, 0).await;
    assert!(watch(&client, &bytes).await.is_err());
    control.order(&Fault::Resume).await.unwrap();
    let client = connect(&devnet.url).await.unwrap();
    let alice = hotkey("Alice").to_string();
    until(&client, "system_accountNextIndex", rpc_params![alice], |nonce| *nonce == 1).await;
    // Sending it again blindly is refused in the words of the real pool.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(ClientError::Call(error)) = watch(&client, &bytes).await else { panic!("refused") };
        if error.code() == 1012 {
            assert_eq!(error.message(), "Transaction is temporarily banned");
            break;
        }
        assert_eq!(error.code(), 1013);
        assert!(Instant::now() < deadline);
    }
    devnet.stop().await;
}

#[tokio::test]
async fn transactions_are_forgotten_or_refused_in_the_words_of_the_real_pool() {
    let (devnet, client, control) = devnet(0).await;
    control.order(&Fault::DropTransactions).await.unwrap();
    let mut updates = watch(&client, &remark(&client, 0).await).await.unwrap();
    assert_eq!(next(&mut updates).await, "ready");
    more_blocks(&client, 3).await;
    assert_eq!(nonce(&client).await, 0);
    assert!(tokio::time::timeout(MOMENT, updates.next()).await.is_err(), "no word comes after it");
    control.order(&Fault::Resume).await.unwrap();

    let texts = [
        (6, 1010, "Invalid Transaction", Some("Custom error: 6")),
        (1010, 1010, "Invalid Transaction", Some("Transaction has a bad signature")),
        (1012, 1012, "Transaction is temporarily banned", None),
        (1013, 1013, "Transaction Already Imported", Some("0x")),
        (
            1014,
            1014,
            "Priority is too low: (0 vs 0)",
            Some(
                "The transaction has too low priority to replace another transaction already in the pool.",
            ),
        ),
        (
            1016,
            1016,
            "Immediately Dropped",
            Some("The transaction couldn't enter the pool because of the limit"),
        ),
    ];
    for (order, code, message, data) in texts {
        control.order(&Fault::RejectTransactions { code: order }).await.unwrap();
        let bytes = remark(&client, 0).await;
        let Err(ClientError::Call(error)) = watch(&client, &bytes).await else {
            panic!("{order} is not refused")
        };
        assert_eq!((error.code(), error.message()), (code, message));
        let found = error.data().map(|data| data.get().to_owned());
        assert_eq!(found.is_some(), data.is_some(), "{found:?}");
        assert!(found.unwrap_or_default().contains(data.unwrap_or_default()));
    }
    control.order(&Fault::Resume).await.unwrap();
    watch(&client, &remark(&client, 0).await).await.unwrap();
    devnet.stop().await;
}

#[tokio::test]
async fn the_pool_tells_what_is_twice_there_and_what_was_invalid() {
    let (devnet, client, control) = devnet(0).await;
    control.order(&Fault::Stall { blocks: None }).await.unwrap();
    let code = |result: Result<Value, ClientError>| match result {
        Err(ClientError::Call(error)) => error.code(),
        other => panic!("{other:?}"),
    };
    let submit =
        async |bytes: &str| ask(&client, "author_submitExtrinsic", rpc_params![bytes]).await;
    let (first, rival) = (remark(&client, 0).await, remark(&client, 0).await);
    submit(&first).await.unwrap();
    assert_eq!(code(submit(&first).await), 1013);
    assert_eq!(code(submit(&rival).await), 1014);
    control.order(&Fault::DropTransactions).await.unwrap();
    control.order(&Fault::Resume).await.unwrap();
    submit(&rival).await.unwrap();
    let alice = hotkey("Alice").to_string();
    until(&client, "author_pendingExtrinsics", rpc_params![], |all| *all == json!([])).await;
    assert_eq!(nonce(&client).await, 1, "{alice}");
    assert_eq!(code(submit(&first).await), 1010, "outdated");
    assert_eq!(code(submit(&first).await), 1012, "and not looked at again");
    devnet.stop().await;
}

#[tokio::test]
async fn an_upgrade_of_the_runtime_is_announced_and_old_signatures_are_refused() {
    let (devnet, client, control) = devnet(0).await;
    let (method, end) = ("state_subscribeRuntimeVersion", "state_unsubscribeRuntimeVersion");
    let mut versions: Subscription<Value> =
        client.subscribe(method, rpc_params![], end).await.unwrap();
    let before = next(&mut versions).await["specVersion"].as_u64().unwrap();
    let old = remark(&client, 0).await;
    control.order(&Fault::UpgradeRuntime).await.unwrap();
    assert_eq!(next(&mut versions).await["specVersion"], before + 1);
    assert_eq!(control.state().await.unwrap().faults, []);
    let key = format!("0x{}", hex::encode(crate::runtime::UPGRADES_KEY));
    let raised = ask(&client, "state_getStorage", rpc_params![key]).await.unwrap();
    assert_eq!(raised, "0x01000000");
    let Err(ClientError::Call(error)) = watch(&client, &old).await else { panic!("refused") };
    assert_eq!(error.code(), 1010);
    assert_eq!(error.data().unwrap().get(), "\"Transaction has a bad signature\"");
    watch(&client, &remark(&client, 0).await).await.unwrap();
    // The commands go on as well.
    let set_up = crate::setup::Client::connect(&devnet.url).await.unwrap();
    set_up.faucet(hotkey("poor"), genesis::TAO).await.unwrap();
    devnet.stop().await;
}
