//! A model behind an OpenAI-compatible server, such as vLLM or `mistralrs serve`.
//!
//! The server draws the tokens with its own sampler: the seed is passed on, what it does with it is its matter. Nothing that
//! it sends is trusted: lines, tokens and time are bounded, numbers are checked.

mod lines;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use common::generation::{FinishReason, Generation, Prompt};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::api::{
    Engine, EngineError, Event, Generating, ModelInfo, Piece, Reference, ReferencePass, Token,
};
use lines::Lines;
use wire::Chunk;

/// Larger answers to small questions are refused.
const MOST_BODY: usize = 1 << 20;
/// Text of one token. Real ones stay below 256 bytes.
const MOST_TOKEN_BYTES: usize = 1024;
const NO_TOKENS: &str = "the server does not report token ids and log-probabilities, which receipts need; \
    it must know `return_token_ids`, as vLLM does";

/// Where a model is served.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// Up to and including the version, for example `http://127.0.0.1:8000/v1`.
    pub base_url: Url,
    /// The model's name on that server.
    pub model: String,
    pub api_key: Option<ApiKey>,
    /// The most tokens of prompt and answer together. The server's own limit wins if it is lower and the server tells it.
    pub context: u32,
    /// Requests at once; more wait.
    pub parallel: usize,
    /// Asks for token ids by vLLM's `return_token_ids`. Strict servers refuse requests with fields they do not know.
    pub token_ids: bool,
    /// Makes an answer without token ids or log-probabilities an error. Receipts need both.
    pub require_token_ids: bool,
    pub connect_timeout: Duration,
    /// From the request to the first token.
    pub first_token_timeout: Duration,
    /// From one piece of the answer to the next.
    pub idle_timeout: Duration,
    /// From the request to the end of the answer.
    pub total_timeout: Duration,
}

impl RemoteConfig {
    /// Usual limits, for a server that knows `return_token_ids`.
    pub fn new(base_url: Url, model: impl Into<String>, context: u32) -> Self {
        Self {
            base_url,
            model: model.into(),
            api_key: None,
            context,
            parallel: 64,
            token_ids: true,
            require_token_ids: true,
            connect_timeout: Duration::from_secs(5),
            first_token_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            total_timeout: Duration::from_secs(600),
        }
    }
}

/// A secret that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

/// A connection to an OpenAI-compatible server.
#[derive(Debug)]
pub struct Remote {
    config: RemoteConfig,
    info: ModelInfo,
    client: Client,
    permits: Arc<Semaphore>,
}

impl Remote {
    /// Asks the server for its models.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if the server cannot be reached or does not serve the model.
    pub async fn connect(config: RemoteConfig) -> Result<Self, EngineError> {
        let client = Client::builder()
            .connect_timeout(config.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .build()
            .map_err(|error| EngineError::Failed(causes(&error)))?;
        let mut remote = Self {
            info: ModelInfo {
                name: config.model.clone(),
                vocabulary: 0,
                context: config.context,
                end_tokens: Vec::new(),
            },
            permits: Arc::new(Semaphore::new(config.parallel.max(1))),
            client,
            config,
        };
        let deadline = Instant::now() + remote.config.first_token_timeout;
        let request = remote.client.get(remote.address("models"));
        let body = body(remote.send(request, deadline).await?, deadline).await?;
        let models: wire::Models = serde_json::from_slice(&body).map_err(|error| {
            EngineError::Failed(format!("the list of models makes no sense: {error}"))
        })?;
        let Some(model) = models.data.iter().find(|model| model.id == remote.config.model) else {
            let names: Vec<&str> =
                models.data.iter().take(20).map(|model| model.id.as_str()).collect();
            return Err(EngineError::Failed(format!(
                "the server has no model {:?}, it has {names:?}",
                remote.config.model
            )));
        };
        if let Some(limit) = model.max_model_len {
            remote.info.context = remote.info.context.min(limit);
        }
        Ok(remote)
    }

    fn address(&self, path: &str) -> Url {
        let mut url = self.config.base_url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        url
    }

    async fn send(
        &self,
        request: RequestBuilder,
        deadline: Instant,
    ) -> Result<Response, EngineError> {
        let request = match &self.config.api_key {
            Some(ApiKey(key)) => request.bearer_auth(key),
            None => request,
        };
        let response = timeout_at(deadline, request.send())
            .await
            .map_err(|_| EngineError::Failed("the server did not answer in time".to_owned()))?
            .map_err(|error| EngineError::Failed(causes(&error.without_url())))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = body(response, deadline).await.unwrap_or_default();
        let message = wire::error_message(&body);
        Err(match status {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                EngineError::BadPrompt(message)
            }
            _ => EngineError::Failed(format!("the server answered {status}: {message}")),
        })
    }

    async fn start(&self, generation: Generation) -> Result<Generating, EngineError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|error| EngineError::Failed(error.to_string()))?;
        let path = match generation.prompt {
            Prompt::Chat(_) => "chat/completions",
            Prompt::Text(_) => "completions",
        };
        let body = wire::request(&self.config.model, &generation, self.config.token_ids)?;
        let begun = Instant::now();
        let first = begun + self.config.first_token_timeout;
        let response = self.send(self.client.post(self.address(path)).json(&body), first).await?;
        let mut answer = Answer {
            lines: Lines::new(response.bytes_stream().boxed()),
            idle: self.config.idle_timeout,
            end: begun + self.config.total_timeout,
            budget: generation.max_tokens as usize,
            tokens: if self.config.require_token_ids { Tokens::Missing } else { Tokens::Optional },
            phase: Phase::Text,
            _permit: permit,
        };
        let first = answer.chunk(first.min(answer.end)).await?;
        // In a first chunk that carries text already there may be usage as well, so it is looked at before.
        let prompt_tokens = first.prompt_tokens().unwrap_or(0);
        let state = (Some(first), answer);
        let events = futures::stream::unfold(state, |(first, mut answer)| async move {
            let event = answer.next(first).await?;
            Some((event, (None, answer)))
        });
        Ok(Generating { prompt_tokens, events: events.boxed() })
    }
}

impl Engine for Remote {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn parallel(&self) -> usize {
        self.config.parallel.max(1)
    }

    fn generate(&self, generation: Generation) -> BoxFuture<'_, Result<Generating, EngineError>> {
        self.start(generation).boxed()
    }

    fn reference(&self, _pass: ReferencePass) -> BoxFuture<'_, Result<Reference, EngineError>> {
        let problem =
            format!("{} runs on a remote server, which shows no distributions", self.info.name);
        futures::future::ready(Err(EngineError::Unsupported(problem))).boxed()
    }
}

/// An answer under way. Dropping it closes the connection, which makes servers stop.
struct Answer {
    lines: Lines,
    idle: Duration,
    end: Instant,
    /// Tokens that may still come.
    budget: usize,
    tokens: Tokens,
    phase: Phase,
    _permit: OwnedSemaphorePermit,
}

/// What the caller needs to know about tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tokens {
    Optional,
    /// Needed, and none has come yet.
    Missing,
    /// Needed, and there are some.
    Reported,
}

enum Phase {
    Text,
    Ending(FinishReason),
    Over,
}

impl Answer {
    async fn next(&mut self, mut first: Option<Chunk>) -> Option<Result<Event, EngineError>> {
        loop {
            match self.phase {
                Phase::Over => return None,
                Phase::Ending(reason) => {
                    self.phase = Phase::Over;
                    return Some(Ok(Event::End(reason)));
                }
                Phase::Text => {}
            }
            let chunk = match first.take() {
                Some(chunk) => Ok(chunk),
                None => self.chunk(self.end.min(Instant::now() + self.idle)).await,
            };
            match chunk.and_then(|chunk| self.piece(chunk)) {
                Ok(piece) if piece == Piece::default() => {}
                Ok(piece) => return Some(Ok(Event::Piece(piece))),
                Err(error) => {
                    self.phase = Phase::Over;
                    return Some(Err(error));
                }
            }
        }
    }

    fn piece(&mut self, chunk: Chunk) -> Result<Piece, EngineError> {
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(Piece::default()) };
        if let Some(reason) = &choice.finish_reason {
            self.phase = Phase::Ending(match reason.as_str() {
                "stop" => FinishReason::Stop,
                "length" => FinishReason::Length,
                other => {
                    let problem =
                        format!("the server ended the answer for another reason: {other:.50}");
                    return Err(EngineError::Failed(problem));
                }
            });
        }
        let piece = choice.piece().map_err(EngineError::Failed)?;
        if self.tokens != Tokens::Optional {
            if !piece.tokens.is_empty() {
                self.tokens = Tokens::Reported;
            }
            let unnamed = piece.tokens.iter().any(|token| token.id == Token::UNKNOWN_ID);
            let untold = piece.tokens.is_empty() && !piece.text.is_empty();
            let ended = matches!(self.phase, Phase::Ending(_));
            if unnamed || untold || (ended && self.tokens == Tokens::Missing) {
                return Err(EngineError::Failed(NO_TOKENS.to_owned()));
            }
        }
        // A server that reports no tokens spends at least one with each piece of text.
        let spent = piece.tokens.len().max(usize::from(!piece.text.is_empty()));
        let sensible = piece.text.len() <= MOST_TOKEN_BYTES * spent;
        self.budget = match self.budget.checked_sub(spent) {
            Some(left) if sensible => left,
            _ => {
                return Err(EngineError::Failed(
                    "the server sent more than was asked for".to_owned(),
                ));
            }
        };
        Ok(piece)
    }

    async fn chunk(&mut self, deadline: Instant) -> Result<Chunk, EngineError> {
        let failed = |problem: &str| EngineError::Failed(format!("the server's answer {problem}"));
        loop {
            let line = timeout_at(deadline, self.lines.next())
                .await
                .map_err(|_| failed("did not come in time"))?
                .map_err(|problem| failed(&problem))?
                .ok_or_else(|| failed("broke off"))?;
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = data.trim_ascii();
            if data == b"[DONE]" {
                return Err(failed("ended without a reason"));
            }
            let chunk: Chunk = serde_json::from_slice(data)
                .map_err(|error| failed(&format!("makes no sense: {error}")))?;
            if chunk.error.is_some() {
                return Err(EngineError::Failed(wire::error_message(data)));
            }
            return Ok(chunk);
        }
    }
}

async fn body(mut response: Response, deadline: Instant) -> Result<Vec<u8>, EngineError> {
    let mut body = Vec::new();
    loop {
        let part = timeout_at(deadline, response.chunk())
            .await
            .map_err(|_| EngineError::Failed("the server did not answer in time".to_owned()))?
            .map_err(|error| EngineError::Failed(causes(&error.without_url())))?;
        let Some(part) = part else { return Ok(body) };
        if body.len() + part.len() > MOST_BODY {
            return Err(EngineError::Failed("the server's answer is too large".to_owned()));
        }
        body.extend_from_slice(&part);
    }
}

/// An error and what caused it: reqwest's own text is only "error sending request".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
