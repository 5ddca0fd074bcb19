//! A miner's answer as it comes in: bounded, timed, and in the end judged by its form.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::Hotkey;
use common::generation::FinishReason;
use common::openai::ErrorBody;
use common::receipt::{Generated, MAX_TOKENS, Receipt, request_digest};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Body;
use serde::{Deserialize, de};
use serde_json::value::RawValue;
use tokio::time::timeout_at;

use super::outcome::{Failure, Outcome, Served, Trouble, whose};
use super::sessions::Proof;
use super::{HeldBack, Query, Timeouts, Watch, plain};
use crate::lag::distorts;
use crate::sse::{EventData, Events};

/// What a stream may hold besides [`BYTES_PER_TOKEN`] for each token: chunks without text and the receipt's frame.
const BASE_BYTES: usize = 64 << 10;
/// A chunk of one token with 20 alternatives, its share of the receipt included, stays below this.
const BYTES_PER_TOKEN: usize = 4 << 10;
/// No vocabulary has longer tokens.
const TEXT_BYTES_PER_TOKEN: usize = 512;

/// What one event of an answer adds, as slices of what the miner sent: users get these bytes, nothing is parsed that only
/// passes through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Piece {
    /// The added text as a JSON string, quotes included. `None` if there is none, or an empty one.
    pub text: Option<Bytes>,
    /// JSON.
    pub logprobs: Option<Bytes>,
    pub finish_reason: Option<FinishReason>,
}

/// The parts of a miner's event that are read.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
    #[serde(borrow, default)]
    receipt: Option<TellsReceipt<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    logprobs: Option<&'a RawValue>,
    #[serde(default)]
    finish_reason: Option<FinishReason>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

/// A [`Receipt`] whose hotkey is still text.
#[derive(Deserialize)]
struct TellsReceipt<'a> {
    generated: Generated,
    #[serde(borrow)]
    hotkey: Cow<'a, str>,
    signature: String,
    #[serde(default)]
    tag: Option<String>,
}

/// An answer under way.
pub struct AnswerStream {
    body: UnsyncBoxBody<Bytes, hyper::Error>,
    events: Events,
    proof: Proof,
    query: Arc<Query>,
    watch: Watch,
    first_token: Option<Duration>,
    received: usize,
    text: String,
    /// The sum over the bytes of the text of when each arrived, in seconds.
    arrivals: f64,
    receipt: Option<Receipt>,
    done: bool,
}

impl fmt::Debug for AnswerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerStream").field("query", &self.query).finish_non_exhaustive()
    }
}

impl AnswerStream {
    pub(super) fn new(
        body: impl Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
        proof: Proof,
        query: Arc<Query>,
        watch: Watch,
    ) -> Self {
        Self {
            body: body.boxed_unsync(),
            events: Events::default(),
            proof,
            query,
            watch,
            first_token: None,
            received: 0,
            text: String::new(),
            arrivals: 0.0,
            receipt: None,
            done: false,
        }
    }

    /// The next part of the answer, or `None` at its end. The receipt is kept, not returned.
    ///
    /// # Errors
    /// If the miner breaks a deadline, a limit or the format, or we cannot listen.
    pub async fn next(&mut self) -> Result<Option<Piece>, Trouble> {
        loop {
            match self.events.next() {
                Err(error) => return Err(Failure::Garbage(error.to_string()).into()),
                Ok(Some(EventData::Done)) => {
                    self.done = true;
                    return Ok(None);
                }
                Ok(Some(EventData::Json(json))) => {
                    if let Some(piece) = self.read(&json)? {
                        return Ok(Some(piece));
                    }
                }
                Ok(None) => {
                    if !self.receive().await? {
                        return if self.receipt.is_some() {
                            self.done = true;
                            Ok(None)
                        } else {
                            Err(Failure::Broken("it ended without `[DONE]`".to_owned()).into())
                        };
                    }
                }
            }
        }
    }

    /// Returns false at the end of the body.
    async fn receive(&mut self) -> Result<bool, Trouble> {
        let Timeouts { first_token, total } = self.query.timeouts;
        let (limit, overdue) = match self.first_token {
            None => (first_token.min(total), Failure::NoFirstToken(first_token)),
            Some(_) => (total, Failure::NoEnd(total)),
        };
        let frame = match timeout_at(self.watch.started + limit, self.body.frame()).await {
            Err(_) => return Err(self.watch.ran_out(limit, overdue)),
            Ok(None) => return Ok(false),
            Ok(Some(Err(error))) => return Err(whose(&error, &self.query.url, Failure::Broken)),
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers say nothing that is asked for.
        let part = frame.into_data().unwrap_or_default();
        // A miner that always has one more byte ready would never let the timer above be looked at.
        if self.watch.started.elapsed() > total {
            return Err(self.watch.ran_out(total, Failure::NoEnd(total)));
        }
        self.received += part.len();
        let limit = BASE_BYTES + BYTES_PER_TOKEN * (self.query.max_tokens as usize).min(MAX_TOKENS);
        if self.received > limit {
            return Err(Failure::TooMuch { bytes: limit }.into());
        }
        self.events.push(&part);
        Ok(true)
    }

    /// `None` if the event adds nothing.
    fn read(&mut self, json: &Bytes) -> Result<Option<Piece>, Failure> {
        let garbage = |error: serde_json::Error| Failure::Garbage(error.to_string());
        let Told { choices, receipt } = serde_json::from_slice(json).map_err(|error| {
            let reported = serde_json::from_slice::<ErrorBody>(json);
            match reported {
                Ok(body) => Failure::Broken(plain(&body.error.message)),
                Err(_) => garbage(error),
            }
        })?;
        if let Some(receipt) = receipt {
            self.receipt = Some(self.receipt_of(receipt).map_err(garbage)?);
            return Ok(None);
        }
        let Some(choice) = choices.into_iter().next() else { return Ok(None) };
        let text = choice.text.or_else(|| choice.delta.and_then(|delta| delta.content));
        let added = match text {
            Some(text) => self.take_text(text.get()).map_err(garbage)?,
            None => false,
        };
        let part = |raw: &RawValue| json.slice_ref(raw.get().as_bytes());
        let piece = Piece {
            text: text.filter(|_| added).map(part),
            logprobs: choice.logprobs.map(part),
            finish_reason: choice.finish_reason,
        };
        Ok((piece != Piece::default()).then_some(piece))
    }

    fn receipt_of(&self, told: TellsReceipt<'_>) -> Result<Receipt, serde_json::Error> {
        let TellsReceipt { generated, hotkey, signature, tag } = told;
        let hotkey = match &self.proof {
            Proof::Session(session, _) if session.receiver() == hotkey => self.query.miner,
            Proof::Session(..) | Proof::Signature => hotkey.parse().map_err(de::Error::custom)?,
        };
        Ok(Receipt { generated, hotkey, signature, tag })
    }

    /// Takes note of text that has come, a JSON string. Returns whether it is any.
    fn take_text(&mut self, json: &str) -> Result<bool, serde_json::Error> {
        let before = self.text.len();
        match json.strip_prefix('"').and_then(|json| json.strip_suffix('"')) {
            // Valid JSON without an escape is the text itself.
            Some(plain) if !plain.contains('\\') => self.text.push_str(plain),
            _ => self.text.push_str(&serde_json::from_str::<String>(json)?),
        }
        let added = self.text.len() - before;
        if added > 0 {
            let now = self.watch.started.elapsed();
            self.first_token.get_or_insert(now);
            self.arrivals += added as f64 * now.as_secs_f64();
        }
        Ok(added > 0)
    }

    /// Where to note that what had come was not taken for a while.
    pub fn held_back(&self) -> HeldBack {
        self.watch.held_back.clone()
    }

    /// Judges the whole answer. Call it when [`next`](Self::next) has returned `None`.
    pub fn finish(self) -> Outcome {
        if !self.done {
            return Outcome::Failed(Failure::Broken("it was not read to its end".to_owned()));
        }
        let total = self.watch.started.elapsed();
        let held_up = self.watch.lags.worst_since(self.watch.started);
        let Some(mut receipt) = self.receipt else { return Outcome::Failed(Failure::NoReceipt) };
        let tag = receipt.tag.take();
        let generated = &receipt.generated;
        let digest = generated.digest();
        let foreign = if generated.task != self.query.task {
            Some("is for another task")
        } else if generated.request_digest != request_digest(&self.query.body) {
            Some("is for another request")
        } else if !is_proved(&receipt, &digest, tag.as_deref(), &self.query.miner, &self.proof) {
            Some("is not signed by the miner's hotkey")
        } else if generated.tokens.len() > self.query.max_tokens as usize {
            Some("holds more tokens than were asked for")
        } else if generated.logprobs.len() != generated.tokens.len() {
            Some("has not one log-probability for each token")
        } else if !generated.logprobs.iter().all(|logprob| logprob.is_finite()) {
            // JSON has no such number, so the answer could never be checked.
            Some("has log-probabilities that are no numbers")
        } else if self.text.len() > TEXT_BYTES_PER_TOKEN * generated.tokens.len() {
            Some("holds too few tokens for its text")
        } else {
            None
        };
        if let Some(why) = foreign {
            return Outcome::Failed(Failure::ForeignReceipt(why));
        }
        Outcome::Served(Box::new(Served {
            // An answer of end tokens only has no text; then the end is when it was there.
            first_token: self.first_token.unwrap_or(total),
            mean_arrival: match self.text.len() {
                0 => total,
                bytes => Duration::from_secs_f64(self.arrivals / bytes as f64),
            },
            text: self.text,
            total,
            digest,
            receipt,
            distorted: self.watch.held_back.was() || distorts(held_up, total),
        }))
    }
}

/// Whether the receipt is the miner's. In a session its tag shows that as well as the signature, and much faster; a bad
/// signature of an answer that is checked comes to light then.
fn is_proved(
    receipt: &Receipt,
    digest: &[u8; 32],
    tag: Option<&str>,
    miner: &Hotkey,
    proof: &Proof,
) -> bool {
    if let (Proof::Session(session, counter), Some(tag)) = (proof, tag)
        && receipt.hotkey == *miner
        && session.is_receipt_tag(*counter, digest, tag)
    {
        return true;
    }
    receipt.is_signed(digest, miner)
}

#[cfg(test)]
mod tests {
    use common::Keypair;
    use common::generation::FinishReason;
    use common::openai::Kind;
    use common::receipt::Timings;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::lag::Lags;

    /// A whole answer, during which this process was held up.
    async fn served(held_up: Option<Duration>) -> Box<Served> {
        let bob = Keypair::development("Bob");
        let generated = Generated {
            task: "chat-demo".parse().unwrap(),
            request_digest: request_digest(b"{}"),
            prompt_tokens: 1,
            tokens: vec![1],
            logprobs: vec![-0.1],
            finish_reason: FinishReason::Stop,
            timings: Timings::default(),
        };
        let text = json!({"choices": [{"delta": {"content": "hi"}}]});
        let last = json!({"choices": [], "receipt": generated.sign(&bob)});
        let body = format!("data: {text}\n\ndata: {last}\n\ndata: [DONE]\n\n");
        let query = Query {
            miner: bob.hotkey(),
            url: "http://127.0.0.1:9".parse().unwrap(),
            task: "chat-demo".parse().unwrap(),
            kind: Kind::Chat,
            body: Bytes::from_static(b"{}"),
            max_tokens: 8,
            timeouts: Timeouts {
                first_token: Duration::from_secs(60),
                total: Duration::from_secs(60),
            },
            cut_short: false,
        };
        let lags = Arc::new(Lags::default());
        let watch = Watch {
            started: Instant::now(),
            cut_short: false,
            held_back: HeldBack::default(),
            lags: Arc::clone(&lags),
        };
        let body = http_body_util::Full::new(Bytes::from(body)).map_err(|never| match never {});
        let mut stream = AnswerStream::new(body, Proof::Signature, Arc::new(query), watch);
        while stream.next().await.unwrap().is_some() {
            held_up.into_iter().for_each(|by| lags.held_up(by));
        }
        match stream.finish() {
            Outcome::Served(served) => served,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_answer_during_which_we_were_held_up_says_so() {
        assert!(!served(None).await.distorted);
        assert!(served(Some(Duration::from_secs(40))).await.distorted);
    }
}
