//! The records of a journal: length, checksum, JSON.

use std::sync::Arc;

use common::TaskId;
use common::money::Usd;
use serde::{Deserialize, Serialize};

/// Bytes before a record's JSON: its length and its checksum, 32 bits each, little-endian.
const HEAD: usize = 8;
/// A longer one is none.
const MOST: usize = 64 << 10;

/// A settled request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub id: String,
    /// When it was settled, Unix milliseconds.
    pub at_ms: i64,
    pub key: Arc<str>,
    pub task: TaskId,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub amount: Pico,
    /// Of the miner that answered, where one did.
    pub uid: Option<u16>,
    pub hotkey: Option<Arc<str>>,
    /// Miners that were asked.
    pub attempts: u32,
    pub streamed: bool,
}

/// An amount as a number of pico-USD: shorter and quicker than decimal text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pico(pub i64);

impl From<Usd> for Pico {
    fn from(usd: Usd) -> Self {
        Self(usd.pico())
    }
}

/// What a journal says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Money is reserved for a request that begins.
    Opened { id: String, key: Arc<str> },
    /// It is over and was not charged.
    Released { id: String },
    /// It is over and was charged.
    Settled(Entry),
    /// A request was charged, and nothing before says that it began.
    Whole(Entry),
}

impl Record {
    /// As it is written.
    ///
    /// # Errors
    /// If it is longer than any record may be.
    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; HEAD];
        bytes.reserve(320);
        serde_json::to_writer(&mut bytes, self)?;
        let body = bytes.get(HEAD..).unwrap_or_default();
        if body.len() > MOST {
            return Err(std::io::Error::other("the record is too long"));
        }
        let (length, sum) = (u32::try_from(body.len()).unwrap_or(u32::MAX), crc32fast::hash(body));
        for (place, byte) in
            bytes.iter_mut().zip([length.to_le_bytes(), sum.to_le_bytes()].concat())
        {
            *place = byte;
        }
        Ok(bytes)
    }
}

/// The whole records at the start of `bytes`, and how many bytes they are. Ends before the first that is torn or damaged.
pub fn decode(bytes: &[u8]) -> (Vec<Record>, usize) {
    let (mut records, mut read) = (Vec::new(), 0);
    while let Some((record, length)) = bytes.get(read..).and_then(first) {
        records.push(record);
        read += length;
    }
    (records, read)
}

fn first(bytes: &[u8]) -> Option<(Record, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let body = rest.get(..length).filter(|_| length <= MOST)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    Some((serde_json::from_slice(body).ok()?, HEAD + length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(number: usize) -> Record {
        match number % 2 {
            0 => Record::Opened { id: number.to_string(), key: "key_a".into() },
            _ => Record::Released { id: number.to_string() },
        }
    }

    proptest! {
        #[test]
        fn a_torn_or_damaged_tail_loses_nothing_before_it(
            count in 1..20_usize, cut in 0.0..1.0, flip in any::<Option<prop::sample::Index>>(),
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for number in 0..count {
                bytes.extend(record(number).encode().unwrap());
                ends.push(bytes.len());
            }
            let mut whole = (bytes.len() as f64 * cut) as usize;
            bytes.truncate(whole);
            if let (Some(flip), false) = (flip, bytes.is_empty()) {
                let place = flip.index(bytes.len());
                bytes[place] ^= 0x40;
                whole = place;
            }
            let (records, read) = decode(&bytes);
            let expected = ends.iter().filter(|end| **end <= whole).count() - 1;
            prop_assert_eq!(records.len(), expected);
            prop_assert_eq!(read, ends[expected]);
            for (number, found) in records.iter().enumerate() {
                prop_assert_eq!(found, &record(number));
            }
        }
    }
}
