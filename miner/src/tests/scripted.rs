//! A model that says what it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::generation::{FinishReason, Generation};
use engine::{
    Alternative, Engine, EngineError, Event, Generating, ModelInfo, Piece, Reference,
    ReferencePass, SharedEngine, Token,
};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};

/// How a scripted answer ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    Stop,
    Error,
    /// Without a word.
    Vanish,
    /// Never: no more pieces come.
    Hang,
    /// Never: the same pieces over and over.
    Repeat,
}

#[derive(Debug, Clone)]
pub(super) struct Scripted {
    words: Vec<&'static str>,
    ending: Ending,
    info: ModelInfo,
    pub(super) cancelled: Arc<AtomicBool>,
}

impl Scripted {
    pub(super) fn says(words: &[&'static str], ending: Ending) -> Self {
        Self {
            words: words.to_vec(),
            ending,
            info: ModelInfo {
                name: "scripted".into(),
                vocabulary: 100,
                context: 512,
                end_tokens: vec![0],
            },
            cancelled: Arc::default(),
        }
    }

    pub(super) fn shared(self) -> SharedEngine {
        Arc::new(self)
    }

    /// One word as one token; its id is its place.
    pub(super) fn piece(id: u32, word: &str) -> Piece {
        let alternative = Alternative { id: 99, text: "other".into(), logprob: f32::NEG_INFINITY };
        let logprob = -0.5 * (1 + id) as f32;
        let token = Token { id, logprob, top: vec![alternative], text: word.into() };
        Piece { text: word.into(), tokens: vec![token] }
    }
}

/// Tells when a generation was given up before its end.
struct Guard {
    cancelled: Arc<AtomicBool>,
    ended: bool,
}

impl Guard {
    fn see(&mut self, event: &Result<Event, EngineError>) {
        self.ended |= !matches!(event, Ok(Event::Piece(_)));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.cancelled.fetch_or(!self.ended, Ordering::SeqCst);
    }
}

impl Engine for Scripted {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn parallel(&self) -> usize {
        1
    }

    fn generate(&self, generation: Generation) -> BoxFuture<'_, Result<Generating, EngineError>> {
        let words: Vec<_> = (0..)
            .zip(&self.words)
            .map(|(id, word)| Ok(Event::Piece(Self::piece(id, word))))
            .collect();
        let pieces = match self.ending {
            Ending::Repeat => {
                stream::iter(std::iter::repeat_with(|| Ok(Event::Piece(Self::piece(1, "again")))))
                    .boxed()
            }
            _ => stream::iter(words).boxed(),
        };
        let end = match self.ending {
            Ending::Stop => stream::iter([Ok(Event::End(FinishReason::Stop))]).boxed(),
            Ending::Error => {
                stream::iter([Err(EngineError::Failed("secret detail".into()))]).boxed()
            }
            Ending::Vanish | Ending::Repeat => stream::empty().boxed(),
            Ending::Hang => stream::pending().boxed(),
        };
        let mut guard = Guard { cancelled: Arc::clone(&self.cancelled), ended: false };
        let events = pieces.chain(end).inspect(move |event| guard.see(event)).boxed();
        let too_long = generation.max_tokens == 13;
        async move {
            if too_long {
                return Err(EngineError::TooLong { tokens: 500, max_tokens: 13, context: 512 });
            }
            Ok(Generating { prompt_tokens: 7, events })
        }
        .boxed()
    }

    fn reference(&self, _pass: ReferencePass) -> BoxFuture<'_, Result<Reference, EngineError>> {
        async { Err(EngineError::Unsupported("a script has no distributions".into())) }.boxed()
    }
}
