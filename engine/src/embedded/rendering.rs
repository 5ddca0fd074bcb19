//! Prompts to token ids, by the model's own template and tokenizer inside mistral.rs.

use std::sync::{Mutex, PoisonError};

use common::generation::{Generation, Message, Prompt, Role};
use either::Either;
use mistralrs::core::TokenizationRequest;
use mistralrs::{Request, TextMessageRole, TextMessages};
use tokio::sync::mpsc;

use super::{Inner, REVIVALS};
use crate::api::EngineError;

type Answer = anyhow::Result<Vec<u32>>;

/// Receivers of answers that nobody waits for any more. mistral.rs panics if one is gone before it has answered.
#[derive(Default)]
pub(super) struct Parked(Mutex<Vec<mpsc::Receiver<Answer>>>);

/// A receiver that is parked when its caller goes away.
struct Waiting<'a> {
    receiver: Option<mpsc::Receiver<Answer>>,
    parked: &'a Parked,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            let mut parked = self.parked.0.lock().unwrap_or_else(PoisonError::into_inner);
            parked.retain(|receiver| !receiver.is_closed());
            parked.push(receiver);
        }
    }
}

impl Inner {
    /// The ids of a prompt. A chat template writes its own special tokens; plain text gets those the tokenizer adds.
    pub(super) async fn render(&self, generation: &Generation) -> Result<Vec<u32>, EngineError> {
        let prompt = &generation.prompt;
        if matches!(prompt, Prompt::Chat(_)) && !self.reader.folder.chat_template {
            return Err(EngineError::BadPrompt(format!(
                "{} has no chat template",
                self.reader.info.name
            )));
        }
        if let Prompt::Chat(messages) = prompt
            && self.reader.folder.shows_tools()
            && (generation.tools.is_some() || messages.iter().any(Message::needs_tools))
        {
            return self.reader.render(generation);
        }
        for _ in 0..=REVIVALS {
            let live = self.live().await?;
            let (sender, receiver) = mpsc::channel(1);
            let request = request(prompt, sender);
            let mut waiting = Waiting { receiver: Some(receiver), parked: &self.parked };
            let answer = match (live.requests.send(request).await, waiting.receiver.as_mut()) {
                (Ok(()), Some(receiver)) => receiver.recv().await,
                _ => None,
            };
            waiting.receiver = None;
            match answer {
                Some(Ok(ids)) if ids.is_empty() => {
                    return Err(EngineError::BadPrompt("it has no tokens".to_owned()));
                }
                Some(Ok(ids)) => return Ok(ids),
                Some(Err(error)) => return Err(EngineError::BadPrompt(format!("{error:#}"))),
                None => self.revive(&live).await?,
            }
        }
        Err(EngineError::Failed("it died whenever it was asked to render the prompt".to_owned()))
    }
}

fn request(prompt: &Prompt, response: mpsc::Sender<Answer>) -> Request {
    let (text, add_special_tokens) = match prompt {
        Prompt::Chat(messages) => {
            let texts = messages.iter().fold(TextMessages::new(), |all, message| {
                let role = match message.role {
                    Role::System => TextMessageRole::System,
                    Role::User => TextMessageRole::User,
                    Role::Assistant => TextMessageRole::Assistant,
                    Role::Tool => TextMessageRole::Tool,
                };
                all.add_message(role, &message.content)
            });
            let mut shown: Vec<_> = texts.into();
            for (shown, message) in shown.iter_mut().zip(messages) {
                if let Some(name) = &message.name {
                    shown.insert("name".to_owned(), Either::Left(name.clone()));
                }
            }
            (Either::Left(shown), false)
        }
        Prompt::Text(text) => (Either::Right(text.clone()), true),
    };
    Request::Tokenize(TokenizationRequest {
        text,
        tools: None,
        add_generation_prompt: true,
        add_special_tokens,
        enable_thinking: None,
        reasoning_effort: None,
        response,
    })
}
