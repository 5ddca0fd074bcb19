//! What an answer says about the limits of its key.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

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

/// Names of the limit, of what remains, and of when it is whole again.
type Names = [HeaderName; 3];

const REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

impl Headers {
    /// Writes them, where the key has the limit.
    pub fn write(&self, headers: &mut HeaderMap) {
        for (level, [limit, remaining, reset]) in [(self.requests, REQUESTS), (self.tokens, TOKENS)]
        {
            let Some(level) = level else { continue };
            headers.insert(limit, level.limit.into());
            headers.insert(remaining, level.remaining.into());
            let whole_again = HeaderValue::try_from(format!("{}ms", level.reset_ms));
            if let Ok(whole_again) = whole_again {
                headers.insert(reset, whole_again);
            }
        }
    }
}
