//! The chain client against a running devnet: what it reads, what it sets, and what it does when the chain fails.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::chain::{
    Axon, Chain, ChainConfig, ChainError, Metagraph, Network, Preflight, Served, SubmitError,
};
use ::devnet::setup::Client;
use ::devnet::{App, Config, Controls};
use common::{Keypair, MechanismId, Netuid, Uid};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::submit::{Wanted, set_weights};

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const TAO: u64 = 1_000_000_000;
const BLOCK_TIME: Duration = Duration::from_millis(50);

/// A devnet of its own, stopped when dropped.
pub(crate) struct Devnet {
    address: SocketAddr,
    pub(crate) controls: Controls,
    inside: Arc<::devnet::node::chain::Chain>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Devnet {
    pub(crate) async fn boot() -> Self {
        Self::boot_with(Config::default()).await
    }

    async fn boot_at(listen: SocketAddr, data: Option<PathBuf>) -> Self {
        Self::boot_with(Config { listen, data, ..Config::default() }).await
    }

    /// With quick blocks; the default port stands for any.
    pub(crate) async fn boot_with(config: Config) -> Self {
        let listen = match config.listen == Config::default().listen {
            true => ([127, 0, 0, 1], 0).into(),
            false => config.listen,
        };
        let config = Config { listen, block_time: BLOCK_TIME, ..config };
        let app = App::build(config).await.unwrap();
        let (address, controls, inside) = (app.local_addr(), app.controls(), app.chain());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let running = tokio::spawn(async { app.run_until(stopped).await.unwrap() });
        Self { address, controls, inside, stop, running }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub(crate) fn config(&self) -> ChainConfig {
        ChainConfig {
            deadline: Duration::from_secs(5),
            longest_pause: Duration::from_millis(500),
            ..ChainConfig::new(self.url().parse().unwrap())
        }
    }

    pub(crate) async fn client(&self) -> Chain {
        Chain::connect(self.config()).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.running).await.unwrap().unwrap();
    }
}

/// A subnet with a validator (uid 0, `//Bob`) and two miners (`//Charlie`, `//Dave`), all of them //Alice's.
pub(crate) struct Subnet {
    pub(crate) netuid: Netuid,
    pub(crate) people: Client,
    pub(crate) coldkey: Keypair,
    pub(crate) validator: Keypair,
    pub(crate) miners: [Keypair; 2],
}

impl Subnet {
    pub(crate) async fn set_up(devnet: &Devnet) -> Self {
        let people = Client::connect(&devnet.url()).await.unwrap();
        let [coldkey, validator, charlie, dave] =
            ["Alice", "Bob", "Charlie", "Dave"].map(Keypair::development);
        // The owner may do anything, so the owner's hotkey is none of those under test.
        let owner = Keypair::development("Owner");
        let netuid = people.register_network(&coldkey, owner.hotkey()).await.unwrap();
        people.start_call(&coldkey, netuid).await.unwrap();
        // A registration counts as setting weights, so a rate limit would be in the way of the first ones.
        for (name, value) in [
            ("tempo", 4),
            ("commit_reveal", 0),
            ("weights_rate_limit", 0),
            ("min_allowed_weights", 1),
        ] {
            people.sudo_set(name, Some(netuid), value).await.unwrap();
        }
        for hotkey in [&validator, &charlie, &dave] {
            people.burned_register(&coldkey, netuid, hotkey.hotkey()).await.unwrap();
        }
        people.add_stake(&coldkey, validator.hotkey(), netuid, 1000 * TAO).await.unwrap();
        Self { netuid, people, coldkey, validator, miners: [charlie, dave] }
    }

    /// The metagraph once the validator has its permit.
    pub(crate) async fn with_permit(&self, chain: &Chain) -> Metagraph {
        until(async || {
            let metagraph = chain.metagraph(self.netuid).await.unwrap();
            metagraph.neuron(&self.validator.hotkey())?.validator_permit.then_some(metagraph)
        })
        .await
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let answer = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, answer).await.expect("it did not happen in time")
}

pub(crate) fn uids(metagraph: &Metagraph, keys: &[Keypair]) -> Vec<Uid> {
    keys.iter().map(|key| metagraph.neuron(&key.hotkey()).unwrap().uid).collect()
}

#[tokio::test]
async fn the_metagraph_shows_the_subnet_as_it_was_set_up() {
    let devnet = Devnet::boot().await;
    let subnet = Subnet::set_up(&devnet).await;
    let chain = devnet.client().await;
    let metagraph = subnet.with_permit(&chain).await;

    assert_eq!(metagraph.netuid, subnet.netuid);
    assert_eq!(metagraph.neurons.len(), 4);
    for (index, neuron) in metagraph.neurons.iter().enumerate() {
        assert_eq!(usize::from(neuron.uid.0), index);
        assert_eq!(neuron.coldkey, Some(subnet.coldkey.hotkey()));
        assert_eq!(neuron.axon, None);
        assert!(neuron.registered_at.0 > 0);
    }
    let validator = metagraph.neuron(&subnet.validator.hotkey()).unwrap();
    assert!(validator.stake > 900.0, "{}", validator.stake);
    let miner = metagraph.neuron(&subnet.miners[0].hotkey()).unwrap();
    assert!(!miner.validator_permit);
    assert_eq!(miner.stake, 0.0);
    assert_eq!(metagraph.params.tempo, 4);
    assert_eq!(metagraph.params.weights_rate_limit, 0);
    assert_eq!(metagraph.params.min_allowed_weights, 1);
    assert!(!metagraph.params.commit_reveal_enabled);
    assert_eq!(metagraph.owner, Some(Keypair::development("Owner").hotkey()));
    let next = metagraph.next_epoch.unwrap();
    assert!(
        next > metagraph.block && next.0 <= metagraph.block.0 + 5,
        "{next} after {}",
        metagraph.block
    );
    assert_eq!(chain.block_time().await.unwrap(), BLOCK_TIME);

    let nowhere = chain.metagraph(Netuid(77)).await.unwrap_err();
    assert!(matches!(nowhere, ChainError::NoSubnet(Netuid(77))), "{nowhere}");
    devnet.stop().await;
}

#[tokio::test]
async fn weights_are_set_read_back_and_not_set_again_too_soon() {
    let devnet = Devnet::boot().await;
    let subnet = Subnet::set_up(&devnet).await;
    let chain = devnet.client().await;
    let metagraph = subnet.with_permit(&chain).await;
    let miners = uids(&metagraph, &subnet.miners);
    let weights = ::chain::weights::encode(&[(miners[0].0, 0.9), (miners[1].0, 0.3)]).unwrap();

    let block = set_weights(&chain, subnet.netuid, &weights, &subnet.validator).await.unwrap();
    let own = metagraph.neuron(&subnet.validator.hotkey()).unwrap().uid;
    assert_eq!(chain.weights(subnet.netuid, MechanismId(0), own).await.unwrap(), weights);
    let after = chain.metagraph(subnet.netuid).await.unwrap();
    assert_eq!(after.neuron(&subnet.validator.hotkey()).unwrap().last_update, block);

    subnet.people.sudo_set("weights_rate_limit", Some(subnet.netuid), 40).await.unwrap();
    let again = set_weights(&chain, subnet.netuid, &weights, &subnet.validator).await.unwrap_err();
    assert_eq!(again.not_before().map(|block| block.0), Some(block.0 + 40), "{again}");
    assert!(again.to_string().contains(&format!("from block {}", block.0 + 40)), "{again}");

    // What validators say, the next epoch makes count.
    let paid = until(async || {
        let metagraph = chain.metagraph(subnet.netuid).await.unwrap();
        let miner = metagraph.neuron(&subnet.miners[0].hotkey())?;
        (miner.incentive > 0.0).then_some(metagraph.clone())
    })
    .await;
    let incentive = |key: &Keypair| paid.neuron(&key.hotkey()).unwrap().incentive;
    assert!(incentive(&subnet.miners[0]) > incentive(&subnet.miners[1]));
    devnet.stop().await;
}

#[tokio::test]
async fn what_the_chain_would_refuse_is_not_sent() {
    let devnet = Devnet::boot().await;
    let subnet = Subnet::set_up(&devnet).await;
    let chain = devnet.client().await;
    let metagraph = subnet.with_permit(&chain).await;
    let weights: Vec<_> =
        uids(&metagraph, &subnet.miners).into_iter().map(|uid| (uid, u16::MAX)).collect();
    let refusal = async |key: &Keypair, weights: &[(Uid, u16)]| match set_weights(
        &chain,
        subnet.netuid,
        weights,
        key,
    )
    .await
    .unwrap_err()
    {
        SubmitError::Preflight(reason) => reason,
        other => panic!("{other}"),
    };
    let stranger = Keypair::development("Stranger");
    assert!(matches!(refusal(&stranger, &weights).await, Preflight::NotRegistered { .. }));
    assert!(matches!(
        refusal(&subnet.miners[0], &weights).await,
        Preflight::NoPermit { next_epoch: Some(_) }
    ));
    let unknown = [(Uid(9), 1)];
    assert_eq!(
        refusal(&subnet.validator, &unknown).await,
        Preflight::UnknownUid { uid: Uid(9), neurons: 4 }
    );

    subnet.people.sudo_set("stake_threshold", None, 5000 * TAO).await.unwrap();
    assert!(matches!(refusal(&subnet.validator, &weights).await, Preflight::TooLittleStake { .. }));
    subnet.people.sudo_set("stake_threshold", None, 0).await.unwrap();
    subnet.people.sudo_set("weights_version_key", Some(subnet.netuid), 7).await.unwrap();
    assert_eq!(
        refusal(&subnet.validator, &weights).await,
        Preflight::OldVersion { given: 0, required: 7 }
    );
    let second = Wanted { mechanism: MechanismId(1), ..Wanted::new(subnet.netuid, &weights) };
    let refused = second.submit(&chain, &subnet.validator).await.unwrap_err();
    assert!(
        matches!(refused, SubmitError::Preflight(Preflight::NoMechanism { count: 1, .. })),
        "{refused}"
    );
    devnet.stop().await;
}

#[tokio::test]
async fn an_axon_is_announced_once() {
    let devnet = Devnet::boot().await;
    let subnet = Subnet::set_up(&devnet).await;
    let chain = devnet.client().await;
    let [miner, _] = &subnet.miners;
    let axon = Axon::local(8091);

    let first = chain.serve_axon(subnet.netuid, axon, miner).await.unwrap();
    let Served::Submitted { block, .. } = first else { panic!("{first:?}") };
    assert_eq!(chain.serve_axon(subnet.netuid, axon, miner).await.unwrap(), Served::Skipped);
    let metagraph = chain.metagraph(subnet.netuid).await.unwrap();
    assert_eq!(metagraph.neuron(&miner.hotkey()).unwrap().axon, Some(axon));

    let elsewhere = Axon::at(([203, 0, 113, 7], 8091).into());
    let too_soon = chain.serve_axon(subnet.netuid, elsewhere, miner).await.unwrap_err();
    assert_eq!(too_soon.not_before().map(|allowed| allowed.0), Some(block.0 + 50), "{too_soon}");
    subnet.people.sudo_set("serving_rate_limit", Some(subnet.netuid), 0).await.unwrap();
    let moved = chain.serve_axon(subnet.netuid, elsewhere, miner).await.unwrap();
    assert!(matches!(moved, Served::Submitted { .. }));

    let loopback = Axon::at(([127, 0, 0, 1], 8091).into());
    let refused = chain.serve_axon(subnet.netuid, loopback, miner).await.unwrap_err();
    assert!(matches!(refused, SubmitError::Preflight(Preflight::BadAddress(_))), "{refused}");
    let stranger = Keypair::development("Stranger");
    let refused = chain.serve_axon(subnet.netuid, axon, &stranger).await.unwrap_err();
    assert!(
        matches!(refused, SubmitError::Preflight(Preflight::NotRegistered { .. })),
        "{refused}"
    );
    devnet.stop().await;
}

#[tokio::test]
async fn a_chain_that_goes_away_is_found_again() {
    let devnet = Devnet::boot().await;
    let subnet = Subnet::set_up(&devnet).await;
    let chain = devnet.client().await;
    let cancel = CancellationToken::new();
    let feed = tokio::spawn({
        let (chain, cancel) = (chain.clone(), cancel.clone());
        async move { chain.follow(cancel).await }
    });
    let mut blocks = chain.blocks();
    timeout(PATIENCE, blocks.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert!(chain.is_connected());

    devnet.controls.set_reachable(false);
    let error = until(async || chain.metagraph(subnet.netuid).await.err()).await;
    assert!(error.is_retryable(), "{error}");
    let last = *blocks.borrow_and_update();
    for _ in 0..20 {
        let error = chain.finalized_block().await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        tokio::time::sleep(error.retry_in().unwrap_or_default()).await;
    }
    assert!(!chain.is_connected());
    assert_eq!(*blocks.borrow(), last);

    devnet.controls.set_reachable(true);
    timeout(PATIENCE, blocks.wait_for(|head| *head > last)).await.unwrap().unwrap();
    assert_eq!(chain.metagraph(subnet.netuid).await.unwrap().neurons.len(), 4);
    cancel.cancel();
    timeout(PATIENCE, feed).await.unwrap().unwrap();
    devnet.stop().await;
}

#[tokio::test]
async fn the_fate_of_a_transaction_is_found_out_after_the_connection_was_lost() {
    let devnet = Devnet::boot().await;
    let subnet = Subnet::set_up(&devnet).await;
    let chain = devnet.client().await;
    let metagraph = subnet.with_permit(&chain).await;
    let weights: Vec<_> =
        uids(&metagraph, &subnet.miners).into_iter().map(|uid| (uid, u16::MAX)).collect();

    devnet.controls.pause_blocks();
    let setting = tokio::spawn({
        let (chain, validator) = (chain.clone(), subnet.validator.clone());
        let (netuid, weights) = (subnet.netuid, weights.clone());
        async move { set_weights(&chain, netuid, &weights, &validator).await }
    });
    until(async || (devnet.inside.pending_len() == 1).then_some(())).await;
    devnet.controls.set_reachable(false);
    devnet.controls.resume_blocks();
    until(async || (devnet.inside.pending_len() == 0).then_some(())).await;
    devnet.controls.set_reachable(true);
    let block = timeout(PATIENCE, setting).await.unwrap().unwrap().unwrap();
    let after = chain.metagraph(subnet.netuid).await.unwrap();
    assert_eq!(after.neuron(&subnet.validator.hotkey()).unwrap().last_update, block);
    devnet.stop().await;
}

#[tokio::test]
async fn a_transaction_that_the_node_forgot_is_known_to_be_void_when_its_time_is_over() {
    let data = tempfile::tempdir().unwrap();
    let any_port = ([127, 0, 0, 1], 0).into();
    let devnet = Devnet::boot_at(any_port, Some(data.path().to_owned())).await;
    let subnet = Subnet::set_up(&devnet).await;
    let chain = devnet.client().await;
    let metagraph = subnet.with_permit(&chain).await;
    let weights: Vec<_> =
        uids(&metagraph, &subnet.miners).into_iter().map(|uid| (uid, u16::MAX)).collect();

    devnet.controls.pause_blocks();
    let setting = tokio::spawn({
        let (chain, validator) = (chain.clone(), subnet.validator.clone());
        let (netuid, weights) = (subnet.netuid, weights.clone());
        async move { set_weights(&chain, netuid, &weights, &validator).await }
    });
    until(async || (devnet.inside.pending_len() == 1).then_some(())).await;
    // Blocks are kept in the folder, waiting transactions are not.
    let address = devnet.address;
    devnet.stop().await;
    let devnet = Devnet::boot_at(address, Some(data.path().to_owned())).await;
    let error = timeout(PATIENCE, setting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, SubmitError::Expired { .. }), "{error}");
    assert!(error.is_retryable());
    set_weights(&chain, subnet.netuid, &weights, &subnet.validator).await.unwrap();
    devnet.stop().await;
}

#[tokio::test]
async fn a_refusal_in_the_block_has_the_name_of_its_error() {
    let devnet = Devnet::boot().await;
    let subnet = Subnet::set_up(&devnet).await;
    let chain = devnet.client().await;
    let metagraph = subnet.with_permit(&chain).await;
    let weights: Vec<_> =
        uids(&metagraph, &subnet.miners).into_iter().map(|uid| (uid, u16::MAX)).collect();

    // The owner changes the rules in the very block that the weights come into, just before them.
    devnet.controls.pause_blocks();
    let rules = tokio::spawn(async move {
        subnet.people.sudo_set("commit_reveal", Some(subnet.netuid), 1).await.unwrap();
    });
    until(async || (devnet.inside.pending_len() == 1).then_some(())).await;
    let setting = tokio::spawn({
        let chain = chain.clone();
        async move { set_weights(&chain, subnet.netuid, &weights, &subnet.validator).await }
    });
    until(async || (devnet.inside.pending_len() == 2).then_some(())).await;
    devnet.controls.resume_blocks();
    timeout(PATIENCE, rules).await.unwrap().unwrap();
    let error = timeout(PATIENCE, setting).await.unwrap().unwrap().unwrap_err();
    assert!(
        matches!(&error, SubmitError::Dispatch { error, .. } if error == "CommitRevealEnabled"),
        "{error}"
    );
    devnet.stop().await;
}

#[tokio::test]
async fn two_programs_with_the_same_hotkey_set_weights_once() {
    let devnet = Devnet::boot().await;
    let subnet = Subnet::set_up(&devnet).await;
    let (one, other) = (devnet.client().await, devnet.client().await);
    let metagraph = subnet.with_permit(&one).await;
    let registered = metagraph.neuron(&subnet.validator.hotkey()).unwrap().registered_at.0;
    subnet.people.sudo_set("weights_rate_limit", Some(subnet.netuid), 40).await.unwrap();
    until(async || (one.finalized_block().await.unwrap().number.0 > registered + 40).then_some(()))
        .await;
    let weights: Vec<_> =
        uids(&metagraph, &subnet.miners).into_iter().map(|uid| (uid, u16::MAX)).collect();
    let (first, second) = tokio::join!(
        set_weights(&one, subnet.netuid, &weights, &subnet.validator),
        set_weights(&other, subnet.netuid, &weights, &subnet.validator),
    );
    assert!(first.is_ok() != second.is_ok(), "{first:?}, {second:?}");
    devnet.stop().await;
}

#[tokio::test]
async fn another_chain_behind_a_familiar_name_is_refused() {
    let devnet = Devnet::boot().await;
    let config = ChainConfig {
        network: Network::Finney,
        endpoint: Some(devnet.url().parse().unwrap()),
        ..devnet.config()
    };
    let error = Chain::connect(config).await.unwrap_err();
    assert!(matches!(error, ChainError::WrongChain { .. }), "{error}");
    assert!(!error.is_retryable());
    devnet.stop().await;
}
