//! What one request comes to: reserved before, charged for what was delivered.

use common::generation::{Generation, Prompt, Tools};
use common::openai::{BYTES_PER_MESSAGE, Usage};

use crate::clock::unix_ms;
use crate::keys::{Denied, Reservation, Used};

/// No chat template puts more tokens around a whole conversation.
const TEMPLATE_TOKENS: u64 = 64;
/// Bytes that a token has on average; for answers whose miner never said how many there were.
const BYTES_PER_TOKEN: u64 = 4;

/// Money that is set aside for a request. Dropped before it is settled, it charges for what was delivered until then.
#[derive(Debug)]
pub(super) struct Tab {
    reservation: Option<Reservation>,
    /// What is charged for the prompt if nobody says how many tokens it had.
    prompt_estimate: u64,
    /// Pieces of the answer that the user was given; each has a token at least.
    pieces: u64,
    used: Used,
}

impl Tab {
    pub(super) fn new(reservation: Reservation, prompt_bytes: u64, used: Used) -> Self {
        let prompt_estimate = prompt_bytes.div_ceil(BYTES_PER_TOKEN);
        Self { reservation: Some(reservation), prompt_estimate, pieces: 0, used }
    }

    /// The user is given so many more pieces.
    pub(super) fn deliver(&mut self, pieces: u64) {
        self.pieces += pieces;
    }

    /// Charges the request, before the user gets the end of the answer. Without a usage, what was delivered counts.
    ///
    /// # Errors
    /// If it cannot be written down.
    pub(super) fn settle(&mut self, usage: Option<Usage>) -> Result<(), Denied> {
        let Some(reservation) = self.reservation.take() else { return Ok(()) };
        let (prompt_tokens, completion_tokens) = match usage {
            Some(usage) => (usage.prompt_tokens.into(), usage.completion_tokens.into()),
            None => (self.prompt_estimate, self.pieces),
        };
        let used = std::mem::take(&mut self.used);
        let used = Used { prompt_tokens, completion_tokens, ..used };
        reservation.settle(used, unix_ms()).map(|_| ())
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        // The user left, or the answer broke off. What could not be written down is said by the ledger.
        if self.pieces > 0 {
            let _ = self.settle(None);
        }
    }
}

/// The bytes that the model may be shown, and the most tokens that they can be: every token has a byte at least.
pub(super) fn prompt_size(generation: &Generation) -> (u64, u64) {
    let bytes = match &generation.prompt {
        Prompt::Chat(messages) => {
            messages.iter().map(|message| message.bytes() + BYTES_PER_MESSAGE).sum()
        }
        Prompt::Text(text) => text.len(),
    };
    let bytes = (bytes + generation.tools.as_ref().map_or(0, Tools::bytes)) as u64;
    (bytes, bytes + TEMPLATE_TOKENS)
}
