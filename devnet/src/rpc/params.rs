//! Reading parameters as lenient as Substrate does, and its error codes.

use std::sync::Arc;

use jsonrpsee::types::{ErrorObjectOwned, Params, ParamsSequence};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sp_core::H256;

use crate::node::chain::{Block, Chain};
use crate::node::state::CallFailed;

const INVALID_PARAMS: i32 = -32602;
const UNKNOWN_BLOCK: i32 = 4003;
const CALL_FAILED: i32 = 4003;

/// An answer or an error for the client.
pub(super) type Answer<T> = Result<T, ErrorObjectOwned>;

/// Bytes as hexadecimal text. The `0x` may be missing, which is how the Python SDK sends them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl TryFrom<String> for Bytes {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, hex::FromHexError> {
        hex::decode(text.strip_prefix("0x").unwrap_or(&text)).map(Self)
    }
}

/// A number, also as hexadecimal text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Number {
    Plain(u64),
    Text(String),
}

impl Number {
    pub(super) fn get(&self) -> Option<u64> {
        match self {
            Self::Plain(number) => Some(*number),
            Self::Text(text) => match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => text.parse().ok(),
            },
        }
    }
}

/// Reads the next parameter.
pub(super) fn next<T: DeserializeOwned>(params: &mut ParamsSequence<'_>) -> Answer<T> {
    params.next().map_err(|error| invalid(error.to_string()))
}

/// Reads the next parameter, if there is one that is not null.
pub(super) fn optional<T: DeserializeOwned>(params: &mut ParamsSequence<'_>) -> Answer<Option<T>> {
    params.optional_next().map_err(|error| invalid(error.to_string()))
}

/// The block that the next parameter names; the newest one without it.
pub(super) fn block(params: &mut ParamsSequence<'_>, chain: &Chain) -> Answer<Arc<Block>> {
    match optional::<H256>(params)? {
        None => Ok(chain.head()),
        Some(hash) => chain.at_hash(&hash).ok_or_else(|| unknown_block(hash)),
    }
}

/// As [`block`], for methods that answer null instead of an error.
pub(super) fn block_if_known(params: &Params<'_>, chain: &Chain) -> Answer<Option<Arc<Block>>> {
    Ok(match optional::<H256>(&mut params.sequence())? {
        None => Some(chain.head()),
        Some(hash) => chain.at_hash(&hash),
    })
}

pub(super) fn invalid(why: String) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(INVALID_PARAMS, why, None::<()>)
}

fn unknown_block(hash: H256) -> ErrorObjectOwned {
    let why = format!("Client error: UnknownBlock: State already discarded for {hash:?}");
    ErrorObjectOwned::owned(UNKNOWN_BLOCK, why, None::<()>)
}

pub(super) fn call_failed(error: &CallFailed) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(
        CALL_FAILED,
        format!("Client error: Execution failed: {error}"),
        None::<()>,
    )
}

/// Bytes as hexadecimal text with `0x`.
pub(super) fn hex_of(bytes: impl AsRef<[u8]>) -> String {
    format!("0x{}", hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_numbers_are_read_in_both_notations() {
        let read = |text: &str| serde_json::from_str::<Bytes>(text).map(|bytes| bytes.0).ok();
        assert_eq!(read("\"0x0a0b\""), Some(vec![10, 11]));
        assert_eq!(read("\"0a0b\""), Some(vec![10, 11]));
        assert_eq!(read("\"0x0\""), None);
        let number = |text: &str| serde_json::from_str::<Number>(text).unwrap().get();
        assert_eq!(number("16"), Some(16));
        assert_eq!(number("\"0x10\""), Some(16));
        assert_eq!(number("\"x\""), None);
    }
}
