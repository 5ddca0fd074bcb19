//! A block in the making: the runtime is begun, fed and ended.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parity_scale_codec::Encode;
use sp_core::{Blake2Hasher, H256};
use sp_inherents::InherentData;
use sp_runtime::traits::Header as _;
use sp_runtime::transaction_validity::{InvalidTransaction, TransactionValidityError};
use sp_runtime::{ApplyExtrinsicResult, Digest, OpaqueExtrinsic};
use sp_state_machine::Backend;
use sp_timestamp::INHERENT_IDENTIFIER;

use super::chain::Block;
use super::pool::Waiting;
use super::state::{CallFailed, Overlay, View, execute, execute_for};
use crate::runtime::{Header, UPGRADES_KEY};
use crate::specs::Spec;

/// A block in the making.
#[derive(Debug)]
pub(super) struct Build<'a, 'b> {
    /// Which runtime makes it.
    pub(super) spec: Spec,
    /// Where its changes gather.
    pub(super) overlay: &'a mut Overlay,
    /// The state that it begins with.
    pub(super) view: &'a View<'b>,
    /// When it takes no more transactions.
    pub(super) until: Instant,
    /// Whether it brings the next version of the runtime.
    pub(super) upgrade: bool,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) header: Header,
    pub(super) extrinsics: Vec<Vec<u8>>,
    /// Which transactions are in it.
    pub(super) included: Vec<H256>,
    /// Which can never be.
    pub(super) invalid: Vec<H256>,
}

impl Build<'_, '_> {
    /// Makes the block on top of `parent`, of as many of these transactions as it can.
    pub(super) fn run(
        mut self,
        parent: &Block,
        digest: Digest,
        ready: &[Waiting],
    ) -> Result<Outcome, CallFailed> {
        let zero = H256::zero();
        let number = parent.header.number + 1;
        let header = Header::new(number, zero, zero, parent.hash, digest);
        execute(self.spec, self.overlay, self.view, "Core_initialize_block", &header.encode())?;
        let mut extrinsics = Vec::new();
        for inherent in self.inherents()? {
            let bytes = inherent.encode();
            if let Err(error) = self.apply(&bytes)? {
                return Err(CallFailed::Answer(format!("BlockBuilder_apply_extrinsic: {error:?}")));
            }
            extrinsics.push(bytes);
        }
        let (mut included, mut invalid) = (Vec::new(), Vec::new());
        for waiting in ready {
            if Instant::now() >= self.until {
                break;
            }
            match self.apply(&waiting.bytes) {
                Ok(Ok(_)) => {
                    included.push(waiting.hash);
                    extrinsics.push(waiting.bytes.to_vec());
                }
                // It gets another chance in the next block.
                Ok(Err(TransactionValidityError::Invalid(
                    InvalidTransaction::Future | InvalidTransaction::ExhaustsResources,
                ))) => {}
                Ok(Err(_)) | Err(_) => invalid.push(waiting.hash),
            }
        }
        if self.upgrade {
            // Last of all: what is in this block was signed for the old version.
            let upgrades = self.number_at(UPGRADES_KEY).map_or(0, u32::from_le_bytes);
            let raised = upgrades.saturating_add(1).to_le_bytes();
            self.overlay.set_storage(UPGRADES_KEY.to_vec(), Some(raised.to_vec()));
        }
        let header =
            execute_for(self.spec, self.overlay, self.view, "BlockBuilder_finalize_block", &[])?;
        Ok(Outcome { header, extrinsics, included, invalid })
    }

    fn inherents(&mut self) -> Result<Vec<OpaqueExtrinsic>, CallFailed> {
        let function = "BlockBuilder_inherent_extrinsics";
        let now_key = frame_support::storage::storage_prefix(b"Timestamp", b"Now");
        let last = self.number_at(&now_key).map_or(0, u64::from_le_bytes);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = u64::try_from(clock).unwrap_or(u64::MAX).max(last.saturating_add(1));
        let mut data = InherentData::new();
        data.put_data(INHERENT_IDENTIFIER, &now)
            .map_err(|_| CallFailed::Answer(function.to_owned()))?;
        execute_for(self.spec, self.overlay, self.view, function, &data.encode())
    }

    /// The bytes of a number in the state that the block begins with.
    fn number_at<const N: usize>(&self, key: &[u8]) -> Option<[u8; N]> {
        let stored = Backend::<Blake2Hasher>::storage(self.view, key).ok().flatten()?;
        stored.try_into().ok()
    }

    /// Applies a transaction, or leaves everything as it was.
    fn apply(&mut self, bytes: &[u8]) -> Result<ApplyOutcome, CallFailed> {
        self.overlay.start_transaction();
        let result: Result<ApplyExtrinsicResult, CallFailed> =
            execute_for(self.spec, self.overlay, self.view, "BlockBuilder_apply_extrinsic", bytes);
        let ended = match &result {
            Ok(Ok(_)) => self.overlay.commit_transaction(),
            _ => self.overlay.rollback_transaction(),
        };
        ended.map_err(|_| CallFailed::Panicked("BlockBuilder_apply_extrinsic".to_owned()))?;
        Ok(result?.map(|dispatched| dispatched.is_ok()))
    }
}

/// Whether the call of an included transaction did what it should; or why it was not included.
type ApplyOutcome = Result<bool, TransactionValidityError>;
