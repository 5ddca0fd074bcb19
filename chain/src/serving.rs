//! Announcing an axon.

use std::time::Duration;

use common::{BlockNumber, Keypair, Netuid};
use subxt::dynamic::Value;
use subxt::ext::scale_decode::DecodeAsType;
use subxt::ext::scale_value::Composite;
use tokio::time::Instant;

use crate::axon::{Axon, AxonFields};
use crate::client::Chain;
use crate::error::{BlockHash, ChainError};
use crate::preflight::{Preflight, ServeFacts, check_serve};
use crate::signed::{Call, Included, SubmitError, pause_after};
use crate::storage::{At, Key as _, PALLET};

/// How long a chain that goes away just after it took a transaction is awaited, to read back what it took.
pub(crate) const PROOF_PATIENCE: Duration = Duration::from_secs(60);

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The chain has this axon already.
    Skipped,
    /// The chain has it since this finalized block.
    Submitted { block: BlockNumber, hash: BlockHash, extrinsic: BlockHash },
}

/// When an axon was announced, beside what was announced.
#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Announced {
    block: u64,
}

impl Chain {
    /// Announces where the hotkey of `keypair` serves, unless the chain knows already. Returns when the announcement is
    /// in a finalized block and has been read back.
    pub async fn serve_axon(
        &self,
        netuid: Netuid,
        axon: Axon,
        keypair: &Keypair,
    ) -> Result<Served, SubmitError> {
        let _one_at_a_time = self.signing().lock().await;
        let at = self.newest_at().await?;
        let (facts, announced) = serve_facts(&at, netuid, keypair).await?;
        if announced == Some(axon.to_fields()) {
            return Ok(Served::Skipped);
        }
        check_serve(&facts, &axon)?;
        let call = serve_axon_call(netuid, axon);
        let included = self.submit(&call, keypair).await?;
        let Included { block, hash, extrinsic } = included;
        let deadline = Instant::now() + PROOF_PATIENCE;
        let announced = loop {
            match self.announced_in(&included, netuid, keypair).await {
                Ok(announced) => break announced,
                Err(error) => pause_after(error, &included, deadline).await?,
            }
        };
        if announced != Some(axon.to_fields()) {
            return Err(SubmitError::NotApplied { extrinsic, block });
        }
        Ok(Served::Submitted { block, hash, extrinsic })
    }

    /// The newest block, which includes our own transactions that are not final yet.
    pub(crate) async fn newest_at(&self) -> Result<At, ChainError> {
        let connection = self.connection().await?;
        let block = connection.best().await?;
        Ok(At::new(connection, block))
    }

    pub(crate) async fn at_block_of(&self, included: &Included) -> Result<At, ChainError> {
        let connection = self.connection().await?;
        let block = connection.at(included.hash.into(), included.block.0).await?;
        Ok(At::new(connection, block))
    }

    async fn announced_in(
        &self,
        included: &Included,
        netuid: Netuid,
        keypair: &Keypair,
    ) -> Result<Option<AxonFields>, SubmitError> {
        let at = self.at_block_of(included).await?;
        Ok(serve_facts(&at, netuid, keypair).await?.1)
    }
}

pub(crate) fn serve_axon_call(netuid: Netuid, axon: Axon) -> Call {
    let AxonFields { version, ip, port, ip_type, protocol } = axon.to_fields();
    let arguments = [
        ("netuid", netuid.key()),
        ("version", Value::u128(version.into())),
        ("ip", Value::u128(ip)),
        ("port", Value::u128(port.into())),
        ("ip_type", Value::u128(ip_type.into())),
        ("protocol", Value::u128(protocol.into())),
        ("placeholder1", Value::u128(0)),
        ("placeholder2", Value::u128(0)),
    ];
    Call::new(PALLET, "serve_axon", Composite::named(arguments))
}

async fn serve_facts(
    at: &At,
    netuid: Netuid,
    keypair: &Keypair,
) -> Result<(ServeFacts, Option<AxonFields>), SubmitError> {
    let hotkey = keypair.hotkey();
    let mut batch = at.batch("reading the announced axon");
    let exists = batch.add("NetworksAdded", [netuid.key()])?;
    let uid = batch.add("Uids", [netuid.key(), hotkey.key()])?;
    let axon = batch.add("Axons", [netuid.key(), hotkey.key()])?;
    let limit = batch.add("ServingRateLimit", [netuid.key()])?;
    let found = batch.fetch().await?;
    if !found.get_or_default::<bool>(exists)? {
        return Err(Preflight::NoSubnet(netuid).into());
    }
    let facts = ServeFacts {
        netuid,
        hotkey,
        next_block: BlockNumber(at.block().block_number() + 1),
        registered: found.get::<u16>(uid)?.is_some(),
        serving_rate_limit: found.get_or_default(limit)?,
        last_served: BlockNumber(
            found.get::<Announced>(axon)?.map_or(0, |announced| announced.block),
        ),
    };
    Ok((facts, found.get(axon)?))
}
