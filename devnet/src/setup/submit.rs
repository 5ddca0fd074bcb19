//! Signing, sending, and reading what came of it.

use std::time::Duration;

use common::Keypair;
use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::{ClientT, Subscription, SubscriptionClientT};
use jsonrpsee::rpc_params;
use parity_scale_codec::Encode;
use serde_json::Value;
use sp_core::H256;
use sp_runtime::generic::{Era, SignedPayload};
use sp_runtime::traits::{BlakeTwo256, Hash};
use sp_runtime::{MultiAddress, MultiSignature};
use tokio::time::timeout;

use super::{Client, SetupError, account, hex_of};
use crate::runtime::extensions::{
    ChargeTransactionPayment, CheckMetadataHash, CheckNonce, DrandPriority,
    SubtensorTransactionExtension, SudoTransactionExtension,
};
use crate::runtime::{Runtime, RuntimeCall, TxExtensions, UncheckedExtrinsic, VERSION};
use crate::specs::{Happening, Spec};

/// How long a transaction may take into a block.
const INCLUSION: Duration = Duration::from_secs(60);

/// A transaction that took effect.
#[derive(Debug)]
pub struct Included {
    /// The block that it is in.
    pub block: H256,
    /// What happened in it.
    pub events: Vec<Happening>,
}

/// A signed transaction that lives for ever, as submitted. All specs have the same bytes: where they have other
/// extensions, these are empty. `version` is the number of the chain's runtime.
pub fn signed(
    signer: &Keypair,
    nonce: u32,
    genesis: H256,
    version: u32,
    call: RuntimeCall,
) -> Vec<u8> {
    let extensions: TxExtensions = (
        frame_system::CheckNonZeroSender::new(),
        frame_system::CheckSpecVersion::new(),
        frame_system::CheckTxVersion::new(),
        frame_system::CheckGenesis::new(),
        frame_system::CheckMortality::from(Era::Immortal),
        CheckNonce(nonce),
        frame_system::CheckWeight::<Runtime>::new(),
        ChargeTransactionPayment(0),
        SudoTransactionExtension,
        SubtensorTransactionExtension,
        DrandPriority,
        CheckMetadataHash::default(),
    );
    let implicit = (
        (),
        version,
        VERSION.transaction_version,
        genesis,
        genesis,
        (),
        (),
        (),
        (),
        (),
        (),
        None::<[u8; 32]>,
    );
    let payload = SignedPayload::from_raw(call.clone(), extensions.clone(), implicit);
    let signature = payload.using_encoded(|bytes| signer.sign(bytes));
    let signature = MultiSignature::Sr25519(sp_core::sr25519::Signature::from_raw(signature));
    let address = MultiAddress::Id(account(signer.hotkey()));
    UncheckedExtrinsic::new_signed(call, address, signature, extensions).encode()
}

impl Client {
    /// Signs and sends a call, and waits until it is in a final block and took effect. `name` is for errors.
    ///
    /// # Errors
    /// If the pool refuses it, it does not come into a block, or it fails there.
    pub async fn submit(
        &self,
        signer: &Keypair,
        name: &'static str,
        call: RuntimeCall,
    ) -> Result<Included, SetupError> {
        let (hash, mut updates, spec) = {
            let _turn = self.signing.lock().await;
            let version = self.version().await?;
            let who = signer.hotkey().to_string();
            let nonce: u32 = self
                .request("asking for a nonce", "system_accountNextIndex", rpc_params![who])
                .await?;
            let bytes = signed(signer, nonce, self.genesis, version, call);
            (BlakeTwo256::hash(&bytes), self.send(name, &bytes).await?, Spec::of_version(version))
        };
        let block = timeout(INCLUSION, finalized(&mut updates))
            .await
            .map_err(|_| SetupError::TimedOut { call: name })??
            .ok_or(SetupError::TimedOut { call: name })?;
        let events = self.events_of(block, hash, spec.unwrap_or_default()).await?;
        for event in &events {
            if let Happening::Failed(error) = event {
                return Err(SetupError::Failed { call: name, error: error.clone() });
            }
        }
        Ok(Included { block, events })
    }

    /// Sends a signed transaction and does not wait for a block.
    ///
    /// # Errors
    /// If the pool refuses it.
    pub async fn send_only(&self, bytes: &[u8]) -> Result<H256, SetupError> {
        let sent = self.rpc.request("author_submitExtrinsic", rpc_params![hex_of(bytes)]).await;
        sent.map_err(|error| refused("the transaction", error))
    }

    async fn send(
        &self,
        call: &'static str,
        bytes: &[u8],
    ) -> Result<Subscription<Value>, SetupError> {
        let params = rpc_params![hex_of(bytes)];
        let (method, end) = ("author_submitAndWatchExtrinsic", "author_unwatchExtrinsic");
        self.rpc.subscribe(method, params, end).await.map_err(|error| refused(call, error))
    }

    /// What a transaction did in its block.
    async fn events_of(
        &self,
        block: H256,
        extrinsic: H256,
        spec: Spec,
    ) -> Result<Vec<Happening>, SetupError> {
        const DOING: &str = "reading what a transaction did";
        let unreadable = || SetupError::Answer { doing: DOING };
        let body: Value = self.request(DOING, "chain_getBlock", rpc_params![block]).await?;
        let extrinsics = body["block"]["extrinsics"].as_array().ok_or_else(unreadable)?;
        let is_it = |text: &Value| {
            let bytes =
                text.as_str().and_then(|text| hex::decode(text.trim_start_matches("0x")).ok());
            bytes.is_some_and(|bytes| BlakeTwo256::hash(&bytes) == extrinsic)
        };
        let place = extrinsics.iter().position(is_it).ok_or_else(unreadable)?;
        let place = u32::try_from(place).map_err(|_| unreadable())?;
        let key = frame_support::storage::storage_prefix(b"System", b"Events");
        let key = hex_of(&key);
        let events: String =
            self.request(DOING, "state_getStorage", rpc_params![key, block]).await?;
        let events = hex::decode(events.trim_start_matches("0x")).map_err(|_| unreadable())?;
        let all = spec.happenings(&events).ok_or_else(unreadable)?.into_iter();
        Ok(all.filter(|(by, _)| *by == Some(place)).map(|(_, event)| event).collect())
    }
}

fn refused(call: &'static str, error: ClientError) -> SetupError {
    match error {
        ClientError::Call(answer) => {
            let data = answer.data().map_or("", |data| data.get()).trim_matches('"');
            let reason = if data.is_empty() { answer.message() } else { data };
            SetupError::Refused { call, reason: reason.to_owned() }
        }
        source => SetupError::Request { doing: "sending a transaction", source },
    }
}

/// The final block of a transaction, or `None` if the pool let go of it.
async fn finalized(updates: &mut Subscription<Value>) -> Result<Option<H256>, SetupError> {
    const DOING: &str = "waiting for a transaction";
    while let Some(update) = updates.next().await {
        let update = update.map_err(|_| SetupError::Answer { doing: DOING })?;
        if let Some(block) = update.get("finalized") {
            let block = serde_json::from_value(block.clone());
            return block.map(Some).map_err(|_| SetupError::Answer { doing: DOING });
        }
    }
    Ok(None)
}
