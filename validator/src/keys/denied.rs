//! Why a request is not let in, as the caller sees it.

use std::time::Duration;

use axum::http::StatusCode;
use common::TaskId;
use common::money::Usd;
use service::http::ApiError;

/// When a caller may come again that has to wait for other requests to end.
const SOON: Duration = Duration::from_secs(1);

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("send your API key as `Authorization: Bearer KEY`")]
    NoKey,
    #[error("this API key is not known")]
    Unknown,
    #[error("this API key was revoked")]
    Revoked,
    #[error("this API key has expired")]
    Expired,
    #[error("too many requests at once: this API key may have {limit} under way")]
    Parallel { limit: u32 },
    #[error("too many requests at once")]
    Full,
    #[error("too many requests at once: other keys need their part, this one holds {held}")]
    Share { held: usize },
    #[error("this API key may send {limit} requests per minute")]
    Requests { limit: u32, wait: Duration },
    #[error("this API key may use {limit} tokens per minute; this request may need {needs}")]
    Tokens { limit: u32, needs: u64, wait: Duration },
    #[error(
        "this request may need {needs} tokens, and this API key may use {limit} per minute: lower `max_tokens`"
    )]
    TooLarge { limit: u32, needs: u64 },
    #[error("this API key may not use the model `{0}`")]
    Model(TaskId),
    #[error("this request may cost {needs} USD, and {left} USD are left of this API key's budget")]
    Budget { needs: Usd, left: Usd },
    #[error("what requests cost cannot be written down at the moment")]
    NoLedger,
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let message = denied.to_string();
        match denied {
            Denied::NoKey => Self::unauthenticated(message),
            Denied::Unknown | Denied::Revoked | Denied::Expired => {
                Self::unauthenticated(message).with_code("invalid_api_key")
            }
            Denied::Parallel { .. } | Denied::Full | Denied::Share { .. } => {
                Self::too_many(message, SOON)
            }
            Denied::Requests { wait, .. } | Denied::Tokens { wait, .. } => {
                Self::too_many(message, wait)
            }
            Denied::TooLarge { .. } => {
                Self { status: StatusCode::TOO_MANY_REQUESTS, ..Self::bad_request(message) }
                    .with_code("rate_limit_exceeded")
            }
            Denied::Model(_) => Self::forbidden(message).with_code("model_not_allowed"),
            // As OpenAI has it: waiting does not help, so there is no Retry-After.
            Denied::Budget { .. } => Self {
                kind: "insufficient_quota",
                retry_after: None,
                ..Self::too_many(message, SOON)
            }
            .with_code("insufficient_quota"),
            Denied::NoLedger => Self::unavailable(message, Duration::from_secs(10)),
        }
    }
}
