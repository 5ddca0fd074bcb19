//! What every HTTP server of a service shares: the accept loop, errors in OpenAI's shape, request ids, `/health` and
//! `/metrics`.

mod error;
mod layers;
mod server;
mod tls;

pub use error::ApiError;
pub use layers::{Health, RequestId, layers, operations};
pub use server::{Limits, serve, serve_with};
pub use tls::{Tls, TlsError};
