//! Reads a stream of server-sent events from an untrusted miner.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

/// The largest single event: the receipt of a long answer.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// Splits bytes into the data of events. Bounded: a miner that never ends a line is an error, not a full memory.
#[derive(Debug, Default)]
pub struct Events {
    buffer: BytesMut,
    /// Bytes of the buffer that hold no line end.
    searched: usize,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventData {
    Json(Bytes),
    /// `data: [DONE]`
    Done,
}

/// An event that exceeds [`MAX_EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {MAX_EVENT_BYTES} bytes")]
pub struct TooLarge;

impl Events {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete event, or `None` until more bytes come. Comments and other fields are passed over.
    ///
    /// # Errors
    /// If the event under way is too large.
    pub fn next(&mut self) -> Result<Option<EventData>, TooLarge> {
        loop {
            let Some(end) = memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return if self.searched > MAX_EVENT_BYTES { Err(TooLarge) } else { Ok(None) };
            };
            let end = self.searched + end;
            self.searched = 0;
            if end > MAX_EVENT_BYTES {
                return Err(TooLarge);
            }
            let mut line = self.buffer.split_to(end).freeze();
            self.buffer.advance(1);
            if line.ends_with(b"\r") {
                line.truncate(line.len() - 1);
            }
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = line.slice_ref(data.trim_ascii());
            return Ok(Some(if data.as_ref() == b"[DONE]" {
                EventData::Done
            } else {
                EventData::Json(data)
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(events: &mut Events) -> Vec<EventData> {
        std::iter::from_fn(|| events.next().unwrap()).collect()
    }

    #[test]
    fn events_are_found_however_the_bytes_are_cut() {
        let stream =
            b": hello\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:{\"b\":2}\n\ndata: [DONE]\n\n";
        let expected = vec![
            EventData::Json(Bytes::from_static(b"{\"a\":1}")),
            EventData::Json(Bytes::from_static(b"{\"b\":2}")),
            EventData::Done,
        ];
        for cut in 0..stream.len() {
            let mut events = Events::default();
            events.push(&stream[..cut]);
            let mut found = all(&mut events);
            events.push(&stream[cut..]);
            found.extend(all(&mut events));
            assert_eq!(found, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut events = Events::default();
        events.push(b"data: ");
        let refused = (0..100).any(|_| {
            events.push(&vec![b'x'; 1 << 17]);
            events.next().is_err()
        });
        assert!(refused);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut events = Events::default();
            for chunk in chunks {
                events.push(&chunk);
                while let Ok(Some(_)) = events.next() {}
            }
        }
    }
}
