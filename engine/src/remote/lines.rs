//! Lines of a byte stream, of bounded length.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;

/// Twenty alternatives for each of a few tokens fit many times.
const MOST_LINE: usize = 1 << 20;

pub(super) struct Lines {
    bytes: BoxStream<'static, reqwest::Result<Bytes>>,
    buffer: BytesMut,
    /// Bytes known to hold no end of line.
    scanned: usize,
}

impl Lines {
    pub(super) fn new(bytes: BoxStream<'static, reqwest::Result<Bytes>>) -> Self {
        Self { bytes, buffer: BytesMut::new(), scanned: 0 }
    }

    /// The next line without its end; `None` at the end of the stream.
    ///
    /// # Errors
    /// What is wrong with the stream, as the end of a sentence.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n') {
                let mut line = self.buffer.split_to(self.scanned + at + 1);
                self.scanned = 0;
                line.truncate(line.trim_ascii_end().len());
                return Ok(Some(line.freeze()));
            }
            self.scanned = self.buffer.len();
            if self.scanned > MOST_LINE {
                return Err("has a line that is too long".to_owned());
            }
            match self.bytes.next().await {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(format!("broke off: {}", error.without_url())),
                None => return Ok(None),
            }
        }
    }
}
