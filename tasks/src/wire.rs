//! The one form in which requests reach miners.
//!
//! Synthetic requests and those of users are written by the same function, with the same fields in the same order, all
//! of them always present: their form tells a miner nothing about where they come from.

use common::TaskId;
use common::generation::{Generation, Message, Prompt};
use common::openai::{Kind, StreamOptions};
use rand::Rng;
use serde::Serialize;

/// Seeds stay below this, so that every JSON reader keeps them exactly.
const SEED_END: u64 = 1 << 53;

/// The path a prompt of this form is sent to.
pub fn kind_of(prompt: &Prompt) -> Kind {
    match prompt {
        Prompt::Chat(_) => Kind::Chat,
        Prompt::Text(_) => Kind::Completion,
    }
}

/// The exact body that a miner is sent for a generation. Its path is that of [`kind_of`] the prompt.
///
/// Miners always stream and always report log-probabilities, whatever the user asked for.
pub fn miner_body(task: &TaskId, generation: &Generation) -> String {
    let sampling = generation.sampling;
    let parameters = Parameters {
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        max_tokens: generation.max_tokens,
        stop: &generation.stop,
        seed: sampling.seed,
        stream: true,
        stream_options: StreamOptions { include_usage: true },
    };
    let model = task.as_str();
    let top_logprobs = generation.top_logprobs;
    let body = match &generation.prompt {
        Prompt::Chat(messages) => serde_json::to_string(&ChatBody {
            model,
            messages,
            parameters,
            logprobs: true,
            top_logprobs,
        }),
        Prompt::Text(prompt) => serde_json::to_string(&CompletionBody {
            model,
            prompt,
            parameters,
            logprobs: top_logprobs,
        }),
    };
    // Structs of strings, finite numbers and lists: there is nothing in them that JSON cannot hold.
    body.unwrap_or_default()
}

/// The seed of a request whose user gave none.
pub fn draw_seed(rng: &mut impl Rng) -> u64 {
    rng.random_range(0..SEED_END)
}

#[derive(Serialize)]
struct ChatBody<'a> {
    model: &'a str,
    messages: &'a [Message],
    #[serde(flatten)]
    parameters: Parameters<'a>,
    logprobs: bool,
    top_logprobs: u8,
}

#[derive(Serialize)]
struct CompletionBody<'a> {
    model: &'a str,
    prompt: &'a str,
    #[serde(flatten)]
    parameters: Parameters<'a>,
    logprobs: u8,
}

#[derive(Serialize)]
struct Parameters<'a> {
    temperature: f64,
    top_p: f64,
    max_tokens: u32,
    stop: &'a [String],
    seed: u64,
    stream: bool,
    stream_options: StreamOptions,
}

#[cfg(test)]
mod tests {
    use common::generation::{Role, Sampling};
    use common::openai::{Limits, parse};
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { max_tokens: 4096, max_prompt_bytes: 100_000 };

    fn task() -> TaskId {
        "chat-demo".parse().unwrap()
    }

    #[test]
    fn a_chat_body_has_every_field_in_a_fixed_order() {
        let message = Message { role: Role::User, content: "Say \"hi\".".into() };
        let generation = Generation {
            prompt: Prompt::Chat(vec![message]),
            sampling: Sampling { seed: 7, temperature: 1.0, top_p: 0.9 },
            max_tokens: 20,
            stop: Vec::new(),
            top_logprobs: 0,
        };
        assert_eq!(
            miner_body(&task(), &generation),
            r#"{"model":"chat-demo","messages":[{"role":"user","content":"Say \"hi\"."}],"temperature":1.0,"top_p":0.9,"max_tokens":20,"stop":[],"seed":7,"stream":true,"stream_options":{"include_usage":true},"logprobs":true,"top_logprobs":0}"#,
        );
    }

    fn prompts() -> impl Strategy<Value = Prompt> {
        let role = prop::sample::select(vec![Role::System, Role::User, Role::Assistant]);
        let message = (role, ".{0,80}").prop_map(|(role, content)| Message { role, content });
        prop_oneof![
            prop::collection::vec(message, 1..6).prop_map(Prompt::Chat),
            ".{1,200}".prop_map(Prompt::Text),
        ]
    }

    prop_compose! {
        fn generations()(
            prompt in prompts(),
            seed: u64, temperature in 0..=200u32, top_p in 1..=100u32,
            max_tokens in 1..=4096u32,
            stop in prop::collection::vec(".{1,20}", 0..=4),
            top_logprobs in 0..=20u8,
        ) -> Generation {
            let sampling =
                Sampling { seed, temperature: f64::from(temperature) / 100.0, top_p: f64::from(top_p) / 100.0 };
            Generation { prompt, sampling, max_tokens, stop, top_logprobs }
        }
    }

    proptest! {
        #[test]
        fn a_miner_reads_exactly_what_was_meant(generation in generations()) {
            let body = miner_body(&task(), &generation);
            let asked = parse(kind_of(&generation.prompt), body.as_bytes(), LIMITS).unwrap();
            prop_assert_eq!(asked.task, task());
            prop_assert!(asked.has_seed && asked.stream && asked.include_usage && asked.logprobs);
            prop_assert_eq!(asked.generation, generation);
        }

        #[test]
        fn a_miner_that_writes_the_body_again_gets_the_same_bytes(generation in generations()) {
            let body = miner_body(&task(), &generation);
            let asked = parse(kind_of(&generation.prompt), body.as_bytes(), LIMITS).unwrap();
            prop_assert_eq!(miner_body(&asked.task, &asked.generation), body);
        }
    }
}
