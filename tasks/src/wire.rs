//! The one form in which requests reach miners.
//!
//! Synthetic requests and those of users are written by the same function, with the same fields in the same order, all
//! of them always present: their form tells a miner nothing about where they come from.

use common::TaskId;
use common::generation::{Format, Generation, Message, Prompt, ToolChoice, ToolObject};
use common::openai::{Kind, StreamOptions};
use rand::Rng;
use serde::{Serialize, Serializer};

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
        presence_penalty: generation.adjustment.presence_penalty,
        frequency_penalty: generation.adjustment.frequency_penalty,
        logit_bias: Bias(&generation.adjustment.bias),
        stream: true,
        stream_options: StreamOptions { include_usage: true },
    };
    let model = task.as_str();
    let top_logprobs = generation.top_logprobs;
    let tools = generation.tools.as_ref();
    let body = match &generation.prompt {
        Prompt::Chat(messages) => serde_json::to_string(&ChatBody {
            model,
            messages,
            parameters,
            logprobs: true,
            top_logprobs,
            response_format: &generation.format,
            tools: tools
                .map_or(&[][..], |tools| &tools.list)
                .iter()
                .map(ToolObject::from)
                .collect(),
            tool_choice: Choice(tools.map(|tools| &tools.choice)),
            parallel_tool_calls: tools.is_some_and(|tools| tools.parallel),
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
    response_format: &'a Format,
    tools: Vec<ToolObject<'a>>,
    tool_choice: Choice<'a>,
    parallel_tool_calls: bool,
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
    presence_penalty: f64,
    frequency_penalty: f64,
    logit_bias: Bias<'a>,
    stream: bool,
    stream_options: StreamOptions,
}

/// An object with token ids as names.
struct Bias<'a>(&'a [(u32, f64)]);

impl Serialize for Bias<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, bias)| (token, bias)))
    }
}

/// Without tools none is called.
struct Choice<'a>(Option<&'a ToolChoice>);

impl Serialize for Choice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_str("none"),
            Some(choice) => choice.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::generation::{Adjustment, Json, JsonSchema, Role, Sampling, Tool, ToolCall, Tools};
    use common::openai::{Limits, parse};
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits::new(4096, 100_000);

    fn task() -> TaskId {
        "chat-demo".parse().unwrap()
    }

    #[test]
    fn a_chat_body_has_every_field_in_a_fixed_order() {
        let prompt = Prompt::Chat(vec![Message::new(Role::User, "Say \"hi\".")]);
        let sampling = Sampling { seed: 7, temperature: 1.0, top_p: 0.9 };
        assert_eq!(
            miner_body(&task(), &Generation::plain(prompt, sampling, 20)),
            r#"{"model":"chat-demo","messages":[{"role":"user","content":"Say \"hi\"."}],"temperature":1.0,"top_p":0.9,"max_tokens":20,"stop":[],"seed":7,"presence_penalty":0.0,"frequency_penalty":0.0,"logit_bias":{},"stream":true,"stream_options":{"include_usage":true},"logprobs":true,"top_logprobs":0,"response_format":{"type":"text"},"tools":[],"tool_choice":"none","parallel_tool_calls":false}"#,
        );
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let role = prop::sample::select(vec![Role::System, Role::User, Role::Assistant]);
        let text = (role, ".{0,80}", prop::option::weighted(0.1, "[a-z]{1,8}"))
            .prop_map(|(role, content, name)| Message { name, ..Message::new(role, content) });
        let calls = (".{0,10}", ".{0,10}").prop_map(|(id, arguments)| Message {
            tool_calls: vec![ToolCall::new(id, "f".to_owned(), arguments)],
            ..Message::new(Role::Assistant, "")
        });
        let result = ".{0,10}"
            .prop_map(|id| Message { tool_call_id: Some(id), ..Message::new(Role::Tool, "done") });
        prop_oneof![8 => text, 1 => calls, 1 => result]
    }

    fn json(text: &str) -> Json {
        serde_json::from_str(text).unwrap()
    }

    /// The form of the answer, of chats only.
    fn any_form() -> impl Strategy<Value = (Format, Option<Tools>)> {
        let schema = JsonSchema { name: "s".to_owned(), schema: json(r#"{"b": 1.0, "a":[ ]}"#) };
        let formats = vec![Format::Text, Format::JsonObject, Format::JsonSchema(schema)];
        let tool = |name: &str, parameters: Option<Json>, description: Option<&str>| Tool {
            name: name.to_owned(),
            description: description.map(str::to_owned),
            parameters,
        };
        let list = vec![tool("f", None, Some("does f")), tool("g", Some(json("{ }")), None)];
        let choices = vec![
            (ToolChoice::Auto, true),
            (ToolChoice::Required, true),
            (ToolChoice::Required, false),
            (ToolChoice::Named("g".to_owned()), false),
        ];
        let tools = prop::sample::select(choices).prop_map(move |(choice, parallel)| Tools {
            list: list.clone(),
            choice,
            parallel,
        });
        prop_oneof![
            prop::sample::select(formats).prop_map(|format| (format, None)),
            tools.prop_map(|tools| (Format::Text, Some(tools))),
        ]
    }

    prop_compose! {
        fn generations()(
            messages in prop::option::of(prop::collection::vec(any_message(), 1..6)),
            text in ".{1,200}",
            form in any_form(),
            seed: u64, temperature in 0..=200u32, top_p in 1..=100u32,
            presence in -20..=20i32, frequency in -20..=20i32,
            bias in prop::collection::btree_map(any::<u32>(), -1000..=1000i32, 0..5),
            max_tokens in 1..=4096u32,
            stop in prop::collection::vec(".{1,20}", 0..=4),
            top_logprobs in 0..=20u8,
        ) -> Generation {
            let hundredths = |number: u32| f64::from(number) / 100.0;
            let (prompt, (format, tools)) = match messages {
                Some(messages) => (Prompt::Chat(messages), form),
                None => (Prompt::Text(text), (Format::Text, None)),
            };
            Generation {
                prompt,
                sampling: Sampling { seed, temperature: hundredths(temperature), top_p: hundredths(top_p) },
                adjustment: Adjustment {
                    presence_penalty: f64::from(presence) / 10.0,
                    frequency_penalty: f64::from(frequency) / 10.0,
                    bias: bias.into_iter().map(|(token, bias)| (token, f64::from(bias) / 10.0)).collect(),
                },
                max_tokens, stop, top_logprobs, format, tools,
            }
        }
    }

    proptest! {
        #[test]
        fn a_miner_reads_exactly_what_was_meant(generation in generations()) {
            let body = miner_body(&task(), &generation);
            let asked = parse(kind_of(&generation.prompt), body.as_bytes(), LIMITS).unwrap();
            prop_assert_eq!(asked.task, task());
            prop_assert!(asked.n == 1 && asked.has_seed && asked.stream && asked.include_usage && asked.logprobs);
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
