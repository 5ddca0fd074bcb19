//! What an answer says about the limits of its key.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue};

use super::bucket::{Bucket, Level};
use super::live::KeyState;

/// Tells how much of a key's limits is left.
#[derive(Debug)]
pub struct Levels {
    pub(super) key: Arc<KeyState>,
    /// Processes that the limits are divided by.
    pub(super) nodes: u32,
}

impl Levels {
    /// At this time. What is left in this process stands for all of them.
    pub fn headers(&self, now_ms: i64) -> Headers {
        let (spec, used) = (&self.key.spec, self.key.live.used());
        let level = |bucket: Bucket, limit: u32| {
            let part = bucket.level(limit.div_ceil(self.nodes), now_ms);
            let remaining = part.remaining.saturating_mul(self.nodes).min(limit);
            Level { limit, remaining, ..part }
        };
        Headers {
            requests: spec.requests_per_minute.map(|limit| level(used.requests, limit)),
            tokens: spec.tokens_per_minute.map(|limit| level(used.tokens, limit)),
        }
    }
}

/// The `x-ratelimit-…` headers of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers {
    pub requests: Option<Level>,
    pub tokens: Option<Level>,
}

impl Headers {
    /// Writes them, where the key has the limit.
    pub fn write(&self, headers: &mut HeaderMap) {
        for (level, names) in [
            (self.requests, ["limit-requests", "remaining-requests", "reset-requests"]),
            (self.tokens, ["limit-tokens", "remaining-tokens", "reset-tokens"]),
        ] {
            let Some(level) = level else { continue };
            let texts = [
                level.limit.to_string(),
                level.remaining.to_string(),
                format!("{}ms", level.reset_ms),
            ];
            for (name, text) in names.into_iter().zip(texts) {
                let name = format!("x-ratelimit-{name}");
                if let (Ok(name), Ok(value)) =
                    (name.parse::<axum::http::HeaderName>(), HeaderValue::try_from(text))
                {
                    headers.insert(name, value);
                }
            }
        }
    }
}
