//! Setting a subnet up on a running devnet: what people do with their coldkeys and the chain's sudo key.
//!
//! It works on this chain only: calls are built with the runtime's own types.

mod calls;
mod control;
mod submit;

use std::time::Duration;

use common::{Hotkey, Keypair, Netuid, Uid};
use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::ClientT;
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use parity_scale_codec::{Decode, Encode};
use serde_json::Value;
use sp_core::H256;
use sp_runtime::{AccountId32, MultiAddress};
use tokio::sync::Mutex;

pub use calls::{Hyperparameter, hyperparameters};
pub use control::{Control, State};
pub use submit::{Included, signed};

use crate::runtime::subtensor::{self, FirstEmissionBlockNumber};
use crate::runtime::{Runtime, RuntimeCall, sudo};
use crate::specs::{Happening, Spec};
// Its wider numbers also read what older specs answer.
use crate::specs::v425::runtime::subtensor::info::Metagraph;

/// The longest that one request may take.
const REQUEST: Duration = Duration::from_secs(20);

/// The blocks that `start_call` waits for at most.
const START_ATTEMPTS: usize = 60;

/// Why something could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Nobody listens there.
    #[error(
        "no devnet answers at {url}: start one with `devnet run`, or name another with `--endpoint`"
    )]
    Connect {
        /// Where it was looked for.
        url: String,
        /// What happened.
        source: ClientError,
    },
    /// Something else listens there.
    #[error("{url} is no devnet: it runs {found}")]
    Foreign {
        /// Where.
        url: String,
        /// What it says of itself.
        found: String,
    },
    /// A request was not answered.
    #[error("the devnet did not answer while {doing}")]
    Request {
        /// What was going on.
        doing: &'static str,
        /// What happened.
        source: ClientError,
    },
    /// An answer made no sense.
    #[error("the devnet's answer cannot be read while {doing}")]
    Answer {
        /// What was going on.
        doing: &'static str,
    },
    /// The pool did not take a transaction.
    #[error("{call} was refused: {reason}")]
    Refused {
        /// The call.
        call: &'static str,
        /// The node's words, for example `Custom error: 6`.
        reason: String,
    },
    /// A transaction did not take effect.
    #[error("{call} failed: {error}")]
    Failed {
        /// The call.
        call: &'static str,
        /// The error's name, for example `NotEnoughBalanceToStake`.
        error: String,
    },
    /// A transaction did not come into a block.
    #[error("{call} did not come into a block in time")]
    TimedOut {
        /// The call.
        call: &'static str,
    },
    /// There is no such hyperparameter.
    #[error("there is no hyperparameter `{0}`; `devnet --help` lists them")]
    UnknownHyperparameter(String),
    /// A hyperparameter of a subnet, without a subnet.
    #[error("`{0}` belongs to a subnet: name one with `--netuid`")]
    NeedsNetuid(String),
    /// A value that does not fit.
    #[error("{value} is too large for `{name}`")]
    TooLarge {
        /// The hyperparameter.
        name: String,
        /// The value.
        value: u64,
    },
}

/// A subnet in a few words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// Its number.
    pub netuid: Netuid,
    /// How many uids are taken.
    pub neurons: u16,
    /// Blocks between two epochs, less one.
    pub tempo: u16,
    /// Whether weights must be committed first.
    pub commit_reveal: bool,
    /// Whether it takes stake and pays emission.
    pub started: bool,
}

/// A connection to a devnet.
#[derive(Debug)]
pub struct Client {
    rpc: WsClient,
    genesis: H256,
    /// Held from asking for a nonce until the pool has the transaction, so that none is used twice.
    signing: Mutex<()>,
}

/// The chain's sudo key, which is also its faucet.
pub fn sudo_key() -> Keypair {
    Keypair::development("Alice")
}

fn hex_of(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn account(key: Hotkey) -> AccountId32 {
    AccountId32::new(*key.as_bytes())
}

impl Client {
    /// Connects to the devnet at `url`, such as `ws://127.0.0.1:9944`.
    ///
    /// # Errors
    /// If nobody answers there, or something else than a devnet.
    pub async fn connect(url: &str) -> Result<Self, SetupError> {
        let no_answer = |source| SetupError::Connect { url: url.to_owned(), source };
        let rpc = WsClientBuilder::default()
            .connection_timeout(REQUEST)
            .request_timeout(REQUEST)
            .set_tcp_no_delay(true)
            .build(url)
            .await
            .map_err(no_answer)?;
        let version: Value =
            rpc.request("state_getRuntimeVersion", rpc_params![]).await.map_err(no_answer)?;
        let name: String = rpc.request("system_name", rpc_params![]).await.map_err(no_answer)?;
        let number = version["specVersion"].as_u64().and_then(|number| u32::try_from(number).ok());
        if number.and_then(Spec::of_version).is_none() || name != crate::rpc::NODE_NAME {
            let found = format!("{name}, spec {}", version["specVersion"]);
            return Err(SetupError::Foreign { url: url.to_owned(), found });
        }
        let genesis: H256 =
            rpc.request("chain_getBlockHash", rpc_params![0]).await.map_err(no_answer)?;
        Ok(Self { rpc, genesis, signing: Mutex::new(()) })
    }

    /// Sends an account TAO from `//Alice`; the amount is in rao.
    ///
    /// # Errors
    /// If it did not take effect.
    pub async fn faucet(&self, to: Hotkey, rao: u64) -> Result<(), SetupError> {
        let call = pallet_balances::Call::transfer_keep_alive {
            dest: MultiAddress::Id(account(to)),
            value: rao,
        };
        self.submit(&sudo_key(), "transfer_keep_alive", RuntimeCall::Balances(call)).await?;
        Ok(())
    }

    /// Creates a subnet that belongs to `coldkey`; `hotkey` gets its uid 0.
    ///
    /// # Errors
    /// If it did not take effect.
    pub async fn register_network(
        &self,
        coldkey: &Keypair,
        hotkey: Hotkey,
    ) -> Result<Netuid, SetupError> {
        let call = subtensor::Call::register_network { hotkey: account(hotkey) };
        let included = self.subtensor(coldkey, "register_network", call).await?;
        let found = included.events.iter().find_map(|event| match event {
            Happening::NetworkAdded(netuid) => Some(Netuid(*netuid)),
            _ => None,
        });
        found.ok_or(SetupError::Answer { doing: "looking for the number of the new subnet" })
    }

    /// Starts a subnet, as soon as the chain allows it: some blocks after it was created.
    ///
    /// # Errors
    /// If it did not take effect.
    pub async fn start_call(&self, coldkey: &Keypair, netuid: Netuid) -> Result<(), SetupError> {
        let call = subtensor::Call::start_call { netuid: netuid.0 };
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.subtensor(coldkey, "start_call", call.clone()).await {
                Err(SetupError::Failed { error, .. })
                    if error == "NeedWaitingMoreBlocksToStarCall" && attempt < START_ATTEMPTS => {}
                outcome => return outcome.map(|_| ()),
            }
        }
    }

    /// Registers a hotkey of `coldkey` in a subnet; the price is taken from the coldkey.
    ///
    /// # Errors
    /// If it did not take effect.
    pub async fn burned_register(
        &self,
        coldkey: &Keypair,
        netuid: Netuid,
        hotkey: Hotkey,
    ) -> Result<Uid, SetupError> {
        let call = subtensor::Call::burned_register { netuid: netuid.0, hotkey: account(hotkey) };
        let included = self.subtensor(coldkey, "burned_register", call).await?;
        let found = included.events.iter().find_map(|event| match event {
            Happening::NeuronRegistered(uid) => Some(Uid(*uid)),
            _ => None,
        });
        found.ok_or(SetupError::Answer { doing: "looking for the number of the new neuron" })
    }

    /// Stakes TAO of `coldkey` on a hotkey; the amount is in rao.
    ///
    /// # Errors
    /// If it did not take effect.
    pub async fn add_stake(
        &self,
        coldkey: &Keypair,
        hotkey: Hotkey,
        netuid: Netuid,
        rao: u64,
    ) -> Result<(), SetupError> {
        let call = subtensor::Call::add_stake {
            hotkey: account(hotkey),
            netuid: netuid.0,
            amount_staked: rao,
        };
        self.subtensor(coldkey, "add_stake", call).await?;
        Ok(())
    }

    /// Sets a hyperparameter with the sudo key. Names are those of [`hyperparameters`], such as `tempo`; switches take
    /// 0 or 1. A `netuid` is needed for those of a subnet and ignored for the others.
    ///
    /// # Errors
    /// If there is no such hyperparameter, the value does not fit, or it did not take effect.
    pub async fn sudo_set(
        &self,
        name: &str,
        netuid: Option<Netuid>,
        value: u64,
    ) -> Result<(), SetupError> {
        let call = calls::sudo_set(name, netuid, value)?;
        let call = RuntimeCall::Sudo(sudo::Call::sudo { call: Box::new(call) });
        let included = self.submit(&sudo_key(), "sudo", call).await?;
        for event in &included.events {
            if let Happening::SudoFailed(error) = event {
                return Err(SetupError::Failed { call: "sudo", error: error.clone() });
            }
        }
        Ok(())
    }

    /// The number of the runtime's version.
    ///
    /// # Errors
    /// If the devnet does not answer.
    pub async fn version(&self) -> Result<u32, SetupError> {
        const DOING: &str = "asking for the runtime's version";
        let version: Value = self.request(DOING, "state_getRuntimeVersion", rpc_params![]).await?;
        let number = version["specVersion"].as_u64().and_then(|number| u32::try_from(number).ok());
        number.ok_or(SetupError::Answer { doing: DOING })
    }

    /// The height of the newest block.
    ///
    /// # Errors
    /// If the devnet does not answer.
    pub async fn height(&self) -> Result<u32, SetupError> {
        const DOING: &str = "asking for the newest block";
        let header: crate::runtime::Header =
            self.request(DOING, "chain_getHeader", rpc_params![]).await?;
        Ok(header.number)
    }

    /// The subnets that there are, the root network left out.
    ///
    /// # Errors
    /// If the devnet does not answer.
    pub async fn subnets(&self) -> Result<Vec<Subnet>, SetupError> {
        const DOING: &str = "asking for the subnets";
        let unreadable = || SetupError::Answer { doing: DOING };
        let mut found = Vec::new();
        for netuid in 1..=u16::MAX {
            let params =
                rpc_params!["SubnetInfoRuntimeApi_get_metagraph", hex_of(&netuid.encode())];
            let answer: String = self.request(DOING, "state_call", params).await?;
            let bytes = hex::decode(answer.trim_start_matches("0x")).map_err(|_| unreadable())?;
            let metagraph = Option::<Metagraph<AccountId32>>::decode(&mut bytes.as_slice());
            let Some(metagraph) = metagraph.map_err(|_| unreadable())? else { break };
            let key = FirstEmissionBlockNumber::<Runtime>::hashed_key_for(netuid);
            let first: Option<String> =
                self.request(DOING, "state_getStorage", rpc_params![hex_of(&key)]).await?;
            found.push(Subnet {
                netuid: Netuid(netuid),
                neurons: metagraph.num_uids.0,
                tempo: metagraph.tempo.0,
                commit_reveal: metagraph.commit_reveal_weights_enabled,
                started: first.is_some(),
            });
        }
        Ok(found)
    }

    async fn subtensor(
        &self,
        signer: &Keypair,
        name: &'static str,
        call: subtensor::Call<Runtime>,
    ) -> Result<Included, SetupError> {
        self.submit(signer, name, RuntimeCall::SubtensorModule(call)).await
    }

    /// Asks a method.
    async fn request<T: serde::de::DeserializeOwned>(
        &self,
        doing: &'static str,
        method: &str,
        params: jsonrpsee::core::params::ArrayParams,
    ) -> Result<T, SetupError> {
        self.rpc
            .request(method, params)
            .await
            .map_err(|source| SetupError::Request { doing, source })
    }
}
