//! What users and validators ask for, and its parsing into a [`Generation`].
//!
//! Requests are read strictly: what cannot be honoured is refused by name, never silently changed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::fields::{self, Fields, ResponseFormat, Stop, WrittenChoice, WrittenTool};
use super::limits::{Features, Limits};
use crate::TaskId;
use crate::generation::{
    Adjustment, Format, Generation, Json, JsonSchema, Message, Prompt, Sampling, Tool, ToolChoice,
    Tools,
};

/// The most messages of one conversation.
pub const MAX_MESSAGES: usize = 256;
/// What a message counts beside its text in [`Limits::max_prompt_bytes`]: chat templates wrap each one in a few tokens.
pub const BYTES_PER_MESSAGE: usize = 16;
/// The most answers to one request, `n`.
pub const MAX_CHOICES: u32 = 8;
/// The most entries of `logit_bias`.
pub const MAX_BIAS: usize = 300;
/// The most functions of one request.
pub const MAX_TOOLS: usize = 128;
/// The largest schema, of an answer or of a function's arguments.
pub const MAX_SCHEMA_BYTES: usize = 32 << 10;

/// Why a request is refused. Shown to the caller as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    pub message: String,
    /// The parameter that is wrong, if it is one.
    pub param: Option<String>,
}

impl BadRequest {
    /// A refusal that names the parameter.
    pub fn of(param: &str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param.to_owned()) }
    }
}

/// Which of the two paths a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Chat,
    Completion,
}

impl Kind {
    /// The path of this kind, the same on miners and validators.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
        }
    }
}

/// A request of either kind, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub task: TaskId,
    /// `sampling.seed` is 0 if the request has none: see [`Asked::has_seed`].
    pub generation: Generation,
    pub has_seed: bool,
    /// How many answers, `1..=`[`MAX_CHOICES`]. Miners are asked for one at a time, with the seeds of
    /// [`choice_seed`](crate::generation::choice_seed).
    pub n: u32,
    pub stream: bool,
    pub include_usage: bool,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
}

/// The task a body asks for, read before its limits are known.
///
/// # Errors
/// If the body is no JSON object with a `model` that is a task id.
pub fn model_of(body: &[u8]) -> Result<TaskId, BadRequest> {
    #[derive(Deserialize)]
    struct Model<'a> {
        #[serde(borrow)]
        model: std::borrow::Cow<'a, str>,
    }
    let Model { model } = serde_json::from_slice(body).map_err(|error| BadRequest {
        message: format!("the body is not a valid request: {error}"),
        param: None,
    })?;
    task_id(&model)
}

/// Reads a request.
///
/// # Errors
/// A [`BadRequest`] that names the parameter: wrong JSON, wrong types, values out of range, unknown parameters.
pub fn parse(kind: Kind, body: &[u8], limits: Limits) -> Result<Asked, BadRequest> {
    parse_with(kind, body, |_| Ok(limits))
}

/// Reads a request in one pass over its body; `limits` are those of the task that it turns out to ask for.
///
/// # Errors
/// As [`parse`], and those of `limits`.
pub fn parse_with<E: From<BadRequest>>(
    kind: Kind,
    body: &[u8],
    limits: impl FnOnce(&TaskId) -> Result<Limits, E>,
) -> Result<Asked, E> {
    let fields = fields::read(kind, body)?;
    let model = fields.model.as_deref().ok_or_else(|| missing("model"))?;
    let task = task_id(model)?;
    let limits = limits(&task)?;
    Ok(check(kind, task, fields, limits)?)
}

fn task_id(model: &str) -> Result<TaskId, BadRequest> {
    model.parse().map_err(|_| {
        BadRequest::of("model", format!("the model `{}` is not served here", short(model)))
    })
}

fn missing(name: &str) -> BadRequest {
    BadRequest::of(name, format!("`{name}` is missing"))
}

fn check(
    kind: Kind,
    task: TaskId,
    mut fields: Fields<'_>,
    limits: Limits,
) -> Result<Asked, BadRequest> {
    if let Some(name) = &fields.unknown {
        let message = format!("the parameter `{}` is not supported", short(name));
        return Err(BadRequest::of(name, message));
    }
    let prompt = match kind {
        Kind::Chat => {
            let messages = fields.messages.take().ok_or_else(|| missing("messages"))?;
            check_messages(&messages, limits.features)?;
            Prompt::Chat(messages)
        }
        Kind::Completion => {
            let prompt = fields.prompt.take().ok_or_else(|| missing("prompt"))?;
            if prompt.is_empty() {
                return Err(BadRequest::of("prompt", "`prompt` must not be empty"));
            }
            Prompt::Text(prompt)
        }
    };
    let tools = read_tools(
        fields.tools.take().unwrap_or_default(),
        fields.tool_choice.take(),
        fields.parallel_tool_calls,
        limits.features,
    )?;
    check_length(&prompt, tools.as_ref(), limits)?;
    let format = read_format(fields.response_format.take(), limits.features)?;
    if format != Format::Text && tools.is_some() {
        let message = "`response_format` and `tools` cannot both decide the form of the answer";
        return Err(BadRequest::of("response_format", message));
    }
    let n = fields.n.unwrap_or(1);
    if !(1..=MAX_CHOICES).contains(&n) {
        let message = format!("`n` must be between 1 and {MAX_CHOICES}, got {n}");
        return Err(BadRequest::of("n", message));
    }
    let (logprobs, top_logprobs) = read_logprobs(kind, &fields)?;
    let stream = fields.stream.unwrap_or(false);
    if fields.stream_options.is_some() && !stream {
        return Err(BadRequest::of("stream_options", "`stream_options` needs `stream`: true"));
    }
    Ok(Asked {
        task,
        generation: Generation {
            prompt,
            sampling: read_sampling(&fields)?,
            max_tokens: read_max_tokens(&fields, limits)?,
            adjustment: read_adjustment(&mut fields)?,
            stop: read_stop(fields.stop)?,
            top_logprobs,
            format,
            tools,
        },
        has_seed: fields.seed.is_some(),
        n,
        stream,
        include_usage: fields.stream_options.is_some_and(|options| options.include_usage),
        logprobs,
    })
}

fn check_messages(messages: &[Message], features: Features) -> Result<(), BadRequest> {
    if messages.is_empty() {
        return Err(BadRequest::of("messages", "`messages` must hold at least one message"));
    }
    if messages.len() > MAX_MESSAGES {
        let message =
            format!("`messages` may hold at most {MAX_MESSAGES} messages, got {}", messages.len());
        return Err(BadRequest::of("messages", message));
    }
    if !features.tools && messages.iter().any(Message::needs_tools) {
        let message = "this model's chat template cannot show calls of tools and their results: leave out messages with \
                       `tool_calls` and those of the role `tool`";
        return Err(BadRequest::of("messages", message));
    }
    Ok(())
}

/// What a prompt counts in [`Limits::max_prompt_bytes`], with the functions that it may show.
pub fn prompt_bytes(prompt: &Prompt, tools: Option<&Tools>) -> usize {
    match prompt {
        Prompt::Chat(messages) => {
            let bytes = messages.iter().map(|message| message.bytes() + BYTES_PER_MESSAGE);
            bytes.sum::<usize>() + tools.map_or(0, Tools::bytes)
        }
        Prompt::Text(text) => text.len(),
    }
}

fn check_length(prompt: &Prompt, tools: Option<&Tools>, limits: Limits) -> Result<(), BadRequest> {
    let bytes = prompt_bytes(prompt, tools);
    if bytes <= limits.max_prompt_bytes {
        return Ok(());
    }
    let param = match prompt {
        Prompt::Chat(_) => "messages",
        Prompt::Text(_) => "prompt",
    };
    let most = limits.max_prompt_bytes;
    let message = format!("the prompt counts {bytes} bytes, this model takes at most {most}");
    Err(BadRequest::of(param, message))
}

fn read_sampling(fields: &Fields<'_>) -> Result<Sampling, BadRequest> {
    let temperature = fields.temperature.unwrap_or(1.0);
    if !(0.0..=2.0).contains(&temperature) {
        let message = format!("`temperature` must be between 0 and 2, got {temperature}");
        return Err(BadRequest::of("temperature", message));
    }
    let top_p = fields.top_p.unwrap_or(1.0);
    if !(top_p > 0.0 && top_p <= 1.0) {
        let message = format!("`top_p` must be above 0 and at most 1, got {top_p}");
        return Err(BadRequest::of("top_p", message));
    }
    Ok(Sampling { seed: fields.seed.map_or(0, |seed| seed.0), temperature, top_p })
}

fn read_max_tokens(fields: &Fields<'_>, limits: Limits) -> Result<u32, BadRequest> {
    let (name, max_tokens) = match (fields.max_completion_tokens, fields.max_tokens) {
        (Some(_), Some(_)) => {
            let message = "give `max_tokens` or `max_completion_tokens`, not both";
            return Err(BadRequest::of("max_tokens", message));
        }
        (Some(max), None) => ("max_completion_tokens", max),
        (None, Some(max)) => ("max_tokens", max),
        (None, None) => return Ok(limits.max_tokens),
    };
    if max_tokens == 0 || max_tokens > limits.max_tokens {
        let message =
            format!("`{name}` must be between 1 and {}, got {max_tokens}", limits.max_tokens);
        return Err(BadRequest::of(name, message));
    }
    Ok(max_tokens)
}

fn read_adjustment(fields: &mut Fields<'_>) -> Result<Adjustment, BadRequest> {
    let penalty = |name: &str, value: Option<f64>| match value.unwrap_or(0.0) {
        penalty if (-2.0..=2.0).contains(&penalty) => Ok(penalty),
        other => {
            let message = format!("`{name}` must be between -2 and 2, got {other}");
            Err(BadRequest::of(name, message))
        }
    };
    let bias = fields.logit_bias.take().unwrap_or_default();
    if bias.len() > MAX_BIAS {
        let message =
            format!("`logit_bias` may hold at most {MAX_BIAS} tokens, got {}", bias.len());
        return Err(BadRequest::of("logit_bias", message));
    }
    if let Some((token, value)) = bias.iter().find(|(_, value)| !(-100.0..=100.0).contains(*value))
    {
        let message =
            format!("`logit_bias` of token {token} must be between -100 and 100, got {value}");
        return Err(BadRequest::of("logit_bias", message));
    }
    Ok(Adjustment {
        presence_penalty: penalty("presence_penalty", fields.presence_penalty)?,
        frequency_penalty: penalty("frequency_penalty", fields.frequency_penalty)?,
        bias: bias.into_iter().collect(),
    })
}

fn read_logprobs(kind: Kind, fields: &Fields<'_>) -> Result<(bool, u8), BadRequest> {
    let (name, wanted) = match kind {
        Kind::Chat => ("top_logprobs", fields.with_logprobs.unwrap_or(false)),
        Kind::Completion => ("logprobs", fields.top_logprobs.is_some()),
    };
    let top = fields.top_logprobs.unwrap_or(0);
    if !wanted && fields.top_logprobs.is_some() {
        return Err(BadRequest::of(name, "`top_logprobs` needs `logprobs`: true"));
    }
    match u8::try_from(top) {
        Ok(top) if top <= 20 => Ok((wanted, top)),
        _ => {
            let message = format!("at most 20 alternatives can be reported, got {top}");
            Err(BadRequest::of(name, message))
        }
    }
}

fn read_stop(stop: Option<Stop>) -> Result<Vec<String>, BadRequest> {
    let Stop(stop) = stop.unwrap_or(Stop(Vec::new()));
    if stop.len() > 4 {
        return Err(BadRequest::of("stop", format!("at most 4 stop texts, got {}", stop.len())));
    }
    if stop.iter().any(|text| text.is_empty() || text.len() > 256) {
        return Err(BadRequest::of("stop", "a stop text must have 1 to 256 bytes"));
    }
    Ok(stop)
}

fn read_format(
    format: Option<ResponseFormat<'_>>,
    features: Features,
) -> Result<Format, BadRequest> {
    let wrong = |message: &str| BadRequest::of("response_format", message);
    let Some(ResponseFormat { kind, json_schema }) = format else { return Ok(Format::Text) };
    let format = match (&*kind, json_schema) {
        ("text", None) => return Ok(Format::Text),
        ("json_object", None) => Format::JsonObject,
        ("json_schema", Some(written)) => {
            let schema = written
                .schema
                .ok_or_else(|| wrong("`response_format.json_schema.schema` is missing"))?;
            check_name(&written.name).map_err(|problem| {
                wrong(&format!("`response_format.json_schema.name` {problem}"))
            })?;
            check_schema(&schema).map_err(|problem| {
                wrong(&format!("`response_format.json_schema.schema` {problem}"))
            })?;
            Format::JsonSchema(JsonSchema { name: written.name, schema })
        }
        ("json_schema", None) => return Err(wrong("`response_format.json_schema` is missing")),
        ("text" | "json_object", Some(_)) => {
            return Err(wrong("`response_format.json_schema` needs `type`: \"json_schema\""));
        }
        _ => {
            return Err(wrong(
                "`response_format.type` must be \"text\", \"json_object\" or \"json_schema\"",
            ));
        }
    };
    if !features.json_schema {
        return Err(wrong("this model answers in plain text only"));
    }
    Ok(format)
}

fn read_tools(
    written: Vec<WrittenTool<'_>>,
    choice: Option<WrittenChoice>,
    parallel: Option<bool>,
    features: Features,
) -> Result<Option<Tools>, BadRequest> {
    let none = written.is_empty();
    let choice = match choice {
        None if none => return Ok(None),
        None => Some(ToolChoice::Auto),
        Some(WrittenChoice::Mode(mode)) => match mode.as_str() {
            "none" => None,
            "auto" if none => return Ok(None),
            "auto" => Some(ToolChoice::Auto),
            "required" => Some(ToolChoice::Required),
            _ => {
                let message =
                    "`tool_choice` must be \"auto\", \"none\", \"required\" or a function";
                return Err(BadRequest::of("tool_choice", message));
            }
        },
        Some(WrittenChoice::Function(name)) => Some(ToolChoice::Named(name)),
    };
    if written.len() > MAX_TOOLS {
        let message = format!("at most {MAX_TOOLS} tools, got {}", written.len());
        return Err(BadRequest::of("tools", message));
    }
    let strict = written.iter().any(|tool| tool.function.strict == Some(true));
    let list = written.into_iter().enumerate().map(|(at, tool)| {
        read_tool(tool)
            .map_err(|problem| BadRequest::of("tools", format!("`tools[{at}]` {problem}")))
    });
    let list = list.collect::<Result<Vec<Tool>, _>>()?;
    let names: BTreeSet<&str> = list.iter().map(|tool| tool.name.as_str()).collect();
    if names.len() < list.len() {
        return Err(BadRequest::of("tools", "two `tools` have the same name"));
    }
    let Some(choice) = choice else { return Ok(None) };
    let parallel = match &choice {
        ToolChoice::Auto if !features.tools => {
            let message = "this model's chat template does not show tools, so it cannot choose among them: \
                           set `tool_choice` to \"required\", to a function, or to \"none\"";
            return Err(BadRequest::of("tools", message));
        }
        ToolChoice::Auto if strict => {
            let message = "`strict` is honoured where a call is certain only: set `tool_choice` to \"required\" or to \
                           a function";
            return Err(BadRequest::of("tools", message));
        }
        ToolChoice::Auto if parallel == Some(false) => {
            let message = "`parallel_tool_calls`: false is honoured where a call is certain only: set `tool_choice` to \
                           \"required\" or to a function";
            return Err(BadRequest::of("parallel_tool_calls", message));
        }
        ToolChoice::Auto => true,
        ToolChoice::Required | ToolChoice::Named(_) if !features.forced_tools => {
            let message = "this model cannot be made to call a function";
            return Err(BadRequest::of("tool_choice", message));
        }
        ToolChoice::Required if none => {
            return Err(BadRequest::of("tool_choice", "`tool_choice` needs `tools`"));
        }
        ToolChoice::Required => parallel.unwrap_or(false),
        ToolChoice::Named(name) if !names.contains(name.as_str()) => {
            let message =
                format!("`tool_choice` names `{}`, which is none of `tools`", short(name));
            return Err(BadRequest::of("tool_choice", message));
        }
        ToolChoice::Named(_) => false,
    };
    Ok(Some(Tools { list, choice, parallel }))
}

fn read_tool(written: WrittenTool<'_>) -> Result<Tool, String> {
    if written.kind != "function" {
        return Err("must have `type`: \"function\"".to_owned());
    }
    let function = written.function;
    check_name(&function.name).map_err(|problem| format!("has a name that {problem}"))?;
    if let Some(parameters) = &function.parameters {
        check_schema(parameters).map_err(|problem| format!("has `parameters` that {problem}"))?;
    }
    let (name, description) = (function.name, function.description);
    Ok(Tool { name, description, parameters: function.parameters })
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err("must have 1 to 64 of a-z, A-Z, 0-9, `_` and `-`")
}

fn check_schema(schema: &Json) -> Result<(), String> {
    let text = schema.get();
    if text.len() > MAX_SCHEMA_BYTES {
        return Err(format!("may have at most {MAX_SCHEMA_BYTES} bytes, got {}", text.len()));
    }
    if !text.starts_with('{') {
        return Err("must be an object".to_owned());
    }
    Ok(())
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests;
