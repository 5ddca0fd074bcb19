//! The miner's signed statement of what it generated.
//!
//! A receipt binds token ids, log-probabilities and timings to one request and one miner, so that a checking server can
//! re-compute the answer and a miner cannot deny it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::generation::FinishReason;
use crate::{Hotkey, Keypair, TaskId};

/// Separates these signatures from every other use of the hotkey.
const DOMAIN: &[u8] = b"touchstone/receipt/1";

/// The most tokens a receipt may hold. No task may ask for more, and checking servers refuse longer ones unread.
pub const MAX_TOKENS: usize = 131_072;

/// What was generated, before it is signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    pub task: TaskId,
    /// SHA-256 of the request's exact body, lowercase hex.
    pub request_digest: String,
    /// Tokens of the prompt after the chat template.
    pub prompt_tokens: u32,
    /// The answer's token ids, an end token included if one was drawn.
    pub tokens: Vec<u32>,
    /// Natural-log probability of each token under the model at temperature 1, before noise and penalties.
    pub logprobs: Vec<f32>,
    pub finish_reason: FinishReason,
    pub timings: Timings,
}

/// How long the miner says it took, in microseconds from the request's arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timings {
    pub queued_us: u64,
    pub first_token_us: u64,
    pub total_us: u64,
}

/// A signed [`Generated`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub generated: Generated,
    pub hotkey: Hotkey,
    /// sr25519 over [`Generated::digest`], `0x` and lowercase hex.
    pub signature: String,
    /// In a session: proves to the one who asked, and to nobody else, what the signature proves to everybody, and is quicker
    /// to check. See [`crate::session`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// SHA-256 of a request's body, lowercase hex.
pub fn request_digest(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

impl Generated {
    /// The 32 bytes that are signed: SHA-256 over a canonical encoding.
    ///
    /// Every part is preceded by its length in bytes (u64, little endian); numbers are little endian; log-probabilities
    /// are their IEEE-754 bits. So no two receipts share an encoding, and every language can make it.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(DOMAIN);
        part(self.task.as_str().as_bytes());
        part(self.request_digest.as_bytes());
        part(&self.prompt_tokens.to_le_bytes());
        part(&self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<_>>());
        part(
            &self
                .logprobs
                .iter()
                .flat_map(|logprob| logprob.to_bits().to_le_bytes())
                .collect::<Vec<_>>(),
        );
        part(&[match self.finish_reason {
            FinishReason::Stop => 0,
            FinishReason::Length => 1,
            FinishReason::ToolCalls => 2,
        }]);
        part(&self.timings.queued_us.to_le_bytes());
        part(&self.timings.first_token_us.to_le_bytes());
        part(&self.timings.total_us.to_le_bytes());
        hash.finalize().into()
    }

    /// Signs with the miner's hotkey.
    pub fn sign(self, keypair: &Keypair) -> Receipt {
        let signature = format!("0x{}", hex::encode(keypair.sign(&self.digest())));
        Receipt { generated: self, hotkey: keypair.hotkey(), signature, tag: None }
    }
}

impl Receipt {
    /// Whether `miner` signed exactly this.
    pub fn is_signed_by(&self, miner: &Hotkey) -> bool {
        self.is_signed(&self.generated.digest(), miner)
    }

    /// The same, with [`Generated::digest`] at hand.
    pub fn is_signed(&self, digest: &[u8; 32], miner: &Hotkey) -> bool {
        let mut signature = [0; 64];
        let hex = self.signature.strip_prefix("0x").unwrap_or(&self.signature);
        self.hotkey == *miner
            && hex::decode_to_slice(hex, &mut signature).is_ok()
            && miner.verifies(digest, &signature)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn generated() -> Generated {
        Generated {
            task: "chat-demo".parse().unwrap(),
            request_digest: request_digest(b"{}"),
            prompt_tokens: 7,
            tokens: vec![1, 2, 3],
            logprobs: vec![-0.1, -0.2, -0.3],
            finish_reason: FinishReason::Stop,
            timings: Timings { queued_us: 1, first_token_us: 2, total_us: 3 },
        }
    }

    #[test]
    fn a_receipt_survives_json_bit_by_bit() {
        let alice = Keypair::development("Alice");
        let receipt = generated().sign(&alice);
        let json = serde_json::to_vec(&receipt).unwrap();
        let read: Receipt = serde_json::from_slice(&json).unwrap();
        assert_eq!(read, receipt);
        assert!(read.is_signed_by(&alice.hotkey()));
    }

    #[test]
    fn nobody_else_can_claim_a_receipt() {
        let (alice, bob) = (Keypair::development("Alice"), Keypair::development("Bob"));
        let mut receipt = generated().sign(&alice);
        assert!(!receipt.is_signed_by(&bob.hotkey()));
        receipt.hotkey = bob.hotkey();
        assert!(!receipt.is_signed_by(&bob.hotkey()));
    }

    #[test]
    fn changing_any_part_changes_what_is_signed() {
        let original = generated().digest();
        let changes: [fn(&mut Generated); 8] = [
            |g| g.task = "chat-other".parse().unwrap(),
            |g| g.request_digest = request_digest(b"{ }"),
            |g| g.prompt_tokens = 8,
            |g| g.tokens[2] = 4,
            |g| g.logprobs[0] = -0.10001,
            |g| g.finish_reason = FinishReason::Length,
            |g| g.timings.first_token_us = 1,
            |g| {
                g.tokens.pop();
            },
        ];
        for change in changes {
            let mut changed = generated();
            change(&mut changed);
            assert_ne!(changed.digest(), original, "{changed:?}");
        }
    }

    proptest! {
        #[test]
        fn every_finite_logprob_survives_json(logprobs in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL, 0..64)) {
            let alice = Keypair::development("Alice");
            let receipt = Generated { tokens: vec![0; logprobs.len()], logprobs, ..generated() }.sign(&alice);
            let json = serde_json::to_string(&receipt).unwrap();
            let read: Receipt = serde_json::from_str(&json).unwrap();
            prop_assert!(read.is_signed_by(&alice.hotkey()));
        }
    }
}
