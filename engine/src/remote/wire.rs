//! What OpenAI-compatible servers are asked and answer, as far as it is needed.

use common::generation::{Format, Generation, Prompt, Tool, ToolObject, Tools};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::{Alternative, EngineError, Piece, Token};
use crate::grammar;

/// Longer messages of a server are cut.
const MOST_MESSAGE: usize = 300;

/// The body of a request.
///
/// # Errors
/// If the functions that must be called cannot be described to a server.
pub(super) fn request(
    model: &str,
    generation: &Generation,
    token_ids: bool,
) -> Result<Value, EngineError> {
    let Generation { prompt, sampling, adjustment, max_tokens, stop, top_logprobs, format, tools } =
        generation;
    let mut body = json!({
        "model": model,
        "stream": true,
        "stream_options": { "include_usage": true },
        // Servers take signed numbers only.
        "seed": sampling.seed.cast_signed(),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": max_tokens,
    });
    if !stop.is_empty() {
        body["stop"] = json!(stop);
    }
    if adjustment.presence_penalty != 0.0 {
        body["presence_penalty"] = adjustment.presence_penalty.into();
    }
    if adjustment.frequency_penalty != 0.0 {
        body["frequency_penalty"] = adjustment.frequency_penalty.into();
    }
    if !adjustment.bias.is_empty() {
        let bias = adjustment.bias.iter().map(|(token, bias)| (token.to_string(), json!(bias)));
        body["logit_bias"] = Value::Object(bias.collect());
    }
    if token_ids {
        body["return_token_ids"] = true.into();
    }
    if *format != Format::Text {
        body["response_format"] = json!(format);
    }
    if let Some(tools) = tools {
        // The server shows them to the model and leaves the answer's text as it is: receipts are about that.
        body["tools"] = tools.list.iter().map(|tool| json!(ToolObject::from(tool))).collect();
        body["tool_choice"] = "none".into();
        if tools.are_forced() {
            let schema = calls(tools).map_err(|problem| grammar::refusal(generation, &problem))?;
            body["response_format"] = json!({
                "type": "json_schema",
                "json_schema": { "name": "calls", "schema": schema, "strict": true },
            });
        }
    }
    match prompt {
        Prompt::Chat(messages) => {
            body["messages"] = json!(messages);
            body["logprobs"] = true.into();
            body["top_logprobs"] = (*top_logprobs).into();
        }
        Prompt::Text(text) => {
            body["prompt"] = text.as_str().into();
            body["logprobs"] = (*top_logprobs).into();
        }
    }
    Ok(body)
}

/// The schema of an answer that calls functions.
fn calls(tools: &Tools) -> Result<Value, String> {
    let call = |tool: &Tool| {
        let arguments = grammar::arguments_of(tool)?;
        // They are relative to the whole schema, of which the arguments are a part.
        if arguments.to_string().contains("\"$ref\"") {
            let problem =
                "references in the parameters of functions are not supported by this engine";
            return Err(problem.to_owned());
        }
        Ok(json!({
            "type": "object",
            "properties": { "name": { "const": tool.name }, "arguments": arguments },
            "required": ["name", "arguments"],
            "additionalProperties": false,
        }))
    };
    let calls = tools.callable().map(call).collect::<Result<Vec<Value>, String>>()?;
    let call = json!({ "anyOf": calls });
    Ok(match tools.parallel {
        true => {
            json!({ "type": "array", "items": call, "minItems": 1, "maxItems": grammar::MOST_CALLS })
        }
        false => call,
    })
}

/// The message of an error body, cut to a sensible length.
pub(super) fn error_message(body: &[u8]) -> String {
    let message = |value: &Value| {
        let error = value.get("error").unwrap_or(value);
        error.get("message").unwrap_or(error).as_str().map(str::to_owned)
    };
    let text = serde_json::from_slice::<Value>(body).ok().as_ref().and_then(message);
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.chars().filter(|c| !c.is_control()).take(MOST_MESSAGE).collect()
}

#[derive(Deserialize)]
pub(super) struct Models {
    pub(super) data: Vec<Model>,
}

#[derive(Deserialize)]
pub(super) struct Model {
    pub(super) id: String,
    pub(super) max_model_len: Option<u32>,
}

/// One event of the stream, of either kind of request.
#[derive(Deserialize)]
pub(super) struct Chunk {
    #[serde(default)]
    pub(super) choices: Vec<Choice>,
    pub(super) error: Option<Value>,
    usage: Option<Usage>,
    prompt_token_ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u32,
}

#[derive(Deserialize)]
pub(super) struct Choice {
    pub(super) finish_reason: Option<String>,
    delta: Option<Delta>,
    text: Option<String>,
    logprobs: Option<Logprobs>,
    token_ids: Option<Vec<u32>>,
    prompt_token_ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

/// Of a chat, or of a plain completion.
#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Entry>>,
    tokens: Option<Vec<String>>,
    token_logprobs: Option<Vec<Option<f32>>>,
    top_logprobs: Option<Vec<Option<std::collections::BTreeMap<String, f32>>>>,
}

#[derive(Deserialize)]
struct Entry {
    token: String,
    logprob: f32,
    #[serde(default)]
    top_logprobs: Vec<Top>,
}

#[derive(Deserialize)]
struct Top {
    token: String,
    logprob: f32,
}

impl Chunk {
    /// Tokens of the prompt, if this event tells.
    pub(super) fn prompt_tokens(&self) -> Option<u32> {
        let ids = self.choices.first().and_then(|choice| choice.prompt_token_ids.as_ref());
        let ids =
            ids.or(self.prompt_token_ids.as_ref()).and_then(|ids| u32::try_from(ids.len()).ok());
        ids.or_else(|| self.usage.as_ref().map(|usage| usage.prompt_tokens))
    }
}

impl Choice {
    /// Text and tokens of this event. Tokens without log-probabilities are not reported.
    pub(super) fn piece(self) -> Result<Piece, String> {
        let text =
            self.text.or_else(|| self.delta.and_then(|delta| delta.content)).unwrap_or_default();
        let entries = self.logprobs.map(Logprobs::entries).transpose()?.unwrap_or_default();
        let ids = self.token_ids.filter(|ids| ids.len() == entries.len());
        let tokens = entries.into_iter().enumerate().map(|(at, entry)| {
            let (id, text) = named(entry.token);
            let top = entry.top_logprobs.into_iter().map(|top| {
                let (id, text) = named(top.token);
                Ok(Alternative { id, text, logprob: logprob(top.logprob)? })
            });
            Ok(Token {
                id: ids.as_ref().and_then(|ids| ids.get(at).copied()).unwrap_or(id),
                logprob: logprob(entry.logprob)?,
                top: top.collect::<Result<_, String>>()?,
                text,
            })
        });
        Ok(Piece { text, tokens: tokens.collect::<Result<_, String>>()? })
    }
}

impl Logprobs {
    fn entries(self) -> Result<Vec<Entry>, String> {
        if let Some(content) = self.content {
            return Ok(content);
        }
        let (tokens, logprobs) =
            (self.tokens.unwrap_or_default(), self.token_logprobs.unwrap_or_default());
        if tokens.len() != logprobs.len() {
            return Err(
                "the server sent tokens and log-probabilities of different number".to_owned()
            );
        }
        let mut tops = self.top_logprobs.unwrap_or_default().into_iter();
        let entries = std::iter::zip(tokens, logprobs).map(|(token, logprob)| {
            let top = tops.next().flatten().unwrap_or_default().into_iter();
            let mut top_logprobs: Vec<Top> =
                top.map(|(token, logprob)| Top { token, logprob }).collect();
            top_logprobs.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
            let logprob = logprob.ok_or("the server left out a log-probability")?;
            Ok(Entry { token, logprob, top_logprobs })
        });
        entries.collect()
    }
}

/// vLLM can name tokens by id.
fn named(token: String) -> (u32, String) {
    let id = token.strip_prefix("token_id:").and_then(|id| id.parse().ok());
    (id.unwrap_or(Token::UNKNOWN_ID), token)
}

/// A log-probability is finite and not above 0, but for rounding.
fn logprob(value: f32) -> Result<f32, String> {
    if value.is_finite() && value <= 1e-3 {
        return Ok(value.min(0.0));
    }
    Err(format!("the server sent {value} as a log-probability"))
}
