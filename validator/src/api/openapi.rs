//! The description of the API that programs read, made from what is served: `GET /openapi.json`.

use common::openai::{Kind, MAX_MESSAGES};
use serde_json::{Value, json};

use super::{Api, MAX_BODY_BYTES};

impl Api {
    /// An OpenAPI 3.1 document.
    pub(super) fn openapi(&self) -> Value {
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Touchstone",
                "version": env!("CARGO_PKG_VERSION"),
                "description": format!(
                    "Language models of an inference subnet, in OpenAI's shapes. Requests are read strictly: what cannot \
                     be honoured is refused with 400, and `error.param` names it. At most {MAX_BODY_BYTES} bytes are read."
                ),
            },
            "security": [{"key": []}],
            "paths": {
                (Kind::Chat.path()): {"post": self.asking(Kind::Chat)},
                (Kind::Completion.path()): {"post": self.asking(Kind::Completion)},
                "/v1/models": {"get": getting("listModels", "What is served here.", "Models", &[], false)},
                "/v1/models/{id}": {"get": getting("getModel", "One model.", "Model", &["id"], false)},
                "/v1/receipts/{id}": {"get": getting(
                    "getReceipt",
                    "Who gave an answer, what the miner has signed, and what came of checking it. The newest answers are remembered.",
                    "Receipt",
                    &["id"],
                    true,
                )},
            },
            "components": {
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
                "schemas": schemas(),
            },
        })
    }

    fn asking(&self, kind: Kind) -> Value {
        let models: Vec<&str> = self
            .catalogue
            .enabled()
            .map(|(task, _)| task)
            .filter(|task| task.kind == kind)
            .map(|task| task.id.as_str())
            .collect();
        let (name, answer, what) = match kind {
            Kind::Chat => ("createChatCompletion", "ChatCompletion", "Answers a conversation."),
            Kind::Completion => ("createCompletion", "Completion", "Continues a text."),
        };
        let mut responses = refusals(true);
        responses["200"] = json!({
            "description": "The answer; with `stream`: true as server-sent events that end with `data: [DONE]`.",
            "headers": {
                "x-request-id": header("Names the request in logs."),
                "x-miner-uid": header("The miners that answer, one for each choice."),
                "x-routing-attempts": header("How many miners were asked."),
            },
            "content": {
                "application/json": {"schema": reference(answer)},
                "text/event-stream": {},
            },
        });
        json!({
            "operationId": name,
            "summary": what,
            "requestBody": {"required": true, "content": {"application/json": {"schema": asked(kind, &models)}}},
            "responses": responses,
        })
    }
}

fn header(description: &str) -> Value {
    json!({"description": description, "schema": {"type": "string"}})
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn getting(name: &str, summary: &str, answer: &str, parameters: &[&str], keyed: bool) -> Value {
    let parameter = |name: &&str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    let mut responses = refusals(keyed);
    responses["200"] = json!({
        "description": summary,
        "content": {"application/json": {"schema": reference(answer)}},
    });
    json!({
        "operationId": name,
        "summary": summary,
        "security": if keyed { json!([{"key": []}]) } else { json!([]) },
        "parameters": parameters.iter().map(parameter).collect::<Vec<_>>(),
        "responses": responses,
    })
}

fn refusals(keyed: bool) -> Value {
    let refusal = |what: &str| {
        json!({
            "description": what,
            "content": {"application/json": {"schema": reference("Error")}},
        })
    };
    let mut all = json!({
        "404": refusal("There is no such model, answer or path."),
        "405": refusal("The path does not take this method."),
    });
    if keyed {
        for (status, what) in [
            ("400", "The request is not acceptable; `error.param` names what is wrong."),
            ("401", "The API key is missing or not known."),
            ("403", "The API key may not do this."),
            ("408", "The request did not arrive in time."),
            ("413", "The request is too large."),
            (
                "429",
                "Too many requests, and `Retry-After` says when to try again; or the API key's budget does not cover the request.",
            ),
            ("502", "The miner broke off its answer."),
            ("503", "No miner answers at the moment; `Retry-After` says when to try again."),
        ] {
            all[status] = refusal(what);
        }
    }
    all
}

/// The body of a request.
fn asked(kind: Kind, models: &[&str]) -> Value {
    let nullable = |schema: Value| json!({"anyOf": [schema, {"type": "null"}]});
    let number = |least: f64, most: f64| {
        nullable(json!({"type": "number", "minimum": least, "maximum": most}))
    };
    let whole = |least: u32| nullable(json!({"type": "integer", "minimum": least}));
    let text = json!({"type": "string", "minLength": 1, "maxLength": 256});
    let mut properties = json!({
        "model": {"type": "string", "enum": models},
        "temperature": number(0.0, 2.0),
        "top_p": nullable(json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1})),
        "max_tokens": whole(1),
        "stop": nullable(json!({"anyOf": [text, {"type": "array", "items": text, "maxItems": 4}]})),
        "seed": nullable(json!({"type": "integer"})),
        "n": nullable(json!({"type": "integer", "minimum": 1, "maximum": 8})),
        "presence_penalty": number(-2.0, 2.0),
        "frequency_penalty": number(-2.0, 2.0),
        "logit_bias": nullable(json!({
            "type": "object",
            "maxProperties": 300,
            "propertyNames": {"pattern": "^[0-9]+$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        })),
        "stream": nullable(json!({"type": "boolean"})),
        "stream_options": nullable(json!({
            "type": "object",
            "properties": {"include_usage": {"type": "boolean"}},
            "additionalProperties": false,
        })),
        "user": {"description": "Carries no wish."},
        "metadata": {"description": "Carries no wish."},
    });
    let required = match kind {
        Kind::Chat => {
            properties["messages"] = json!({
                "type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": reference("Message"),
            });
            properties["max_completion_tokens"] = whole(1);
            properties["logprobs"] = nullable(json!({"type": "boolean"}));
            properties["top_logprobs"] =
                nullable(json!({"type": "integer", "minimum": 0, "maximum": 20}));
            properties["response_format"] = nullable(reference("ResponseFormat"));
            properties["tools"] = nullable(json!({
                "type": "array", "maxItems": 128, "items": reference("Tool"),
            }));
            properties["tool_choice"] = nullable(json!({"anyOf": [
                {"type": "string", "enum": ["auto", "none", "required"]},
                {"type": "object"},
            ]}));
            properties["parallel_tool_calls"] = nullable(json!({"type": "boolean"}));
            ["model", "messages"]
        }
        Kind::Completion => {
            properties["prompt"] = json!({"type": "string", "minLength": 1});
            properties["logprobs"] =
                nullable(json!({"type": "integer", "minimum": 0, "maximum": 20}));
            ["model", "prompt"]
        }
    };
    json!({"type": "object", "required": required, "properties": properties})
}

fn schemas() -> Value {
    let text = json!({"type": "string"});
    let whole = json!({"type": "integer", "minimum": 0});
    let object = |required: &[&str], properties: Value| json!({"type": "object", "required": required, "properties": properties});
    let reason = json!({"type": "string", "enum": ["stop", "length", "tool_calls"]});
    let answer = |object_name: &str, says: &str, schema: Value| {
        object(
            &["id", "object", "created", "model", "choices", "usage"],
            json!({
                "id": text, "object": {"const": object_name}, "created": whole, "model": text,
                "usage": reference("Usage"),
                "choices": {"type": "array", "items": object(
                    &["index", says, "finish_reason"],
                    json!({"index": whole, (says): schema, "finish_reason": reason,
                           "logprobs": {"type": ["object", "null"]}}),
                )},
            }),
        )
    };
    json!({
        "Error": object(&["error"], json!({"error": object(
            &["message", "type", "param", "code"],
            json!({"message": text, "type": text, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}),
        )})),
        "Usage": object(
            &["prompt_tokens", "completion_tokens", "total_tokens"],
            json!({"prompt_tokens": whole, "completion_tokens": whole, "total_tokens": whole}),
        ),
        "Message": object(&["role"], json!({
            "role": {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": {"anyOf": [text, {"type": "null"}, {"type": "array", "items": object(
                &["type", "text"], json!({"type": {"const": "text"}, "text": text}),
            )}]},
            "name": text,
            "tool_calls": {"type": "array", "items": reference("ToolCall")},
            "tool_call_id": text,
        })),
        "ToolCall": object(&["id", "type", "function"], json!({
            "id": text, "type": {"const": "function"},
            "function": object(&["name", "arguments"], json!({"name": text, "arguments": text})),
        })),
        "Tool": object(&["type", "function"], json!({
            "type": {"const": "function"},
            "function": object(&["name"], json!({
                "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
                "description": text,
                "parameters": {"type": "object"},
            })),
        })),
        "ResponseFormat": object(&["type"], json!({
            "type": {"type": "string", "enum": ["text", "json_object", "json_schema"]},
            "json_schema": {"type": "object"},
        })),
        "ChatCompletion": answer("chat.completion", "message", reference("Message")),
        "Completion": answer("text_completion", "text", text.clone()),
        "Model": object(&["id", "object", "created", "owned_by"], json!({
            "id": text, "object": {"const": "model"}, "created": whole, "owned_by": text, "name": text,
            "description": text, "hugging_face_id": {"type": ["string", "null"]}, "context_length": whole,
            "max_output_length": whole, "is_ready": {"type": "boolean"},
        })),
        "Models": object(&["object", "data"], json!({
            "object": {"const": "list"}, "data": {"type": "array", "items": reference("Model")},
        })),
        "Receipt": object(&["id", "object", "model", "choices"], json!({
            "id": text, "object": {"const": "receipt"}, "model": text,
            "choices": {"type": "array", "items": object(
                &["index", "miner", "prompt_tokens", "completion_tokens", "receipt_digest", "signature", "verification"],
                json!({
                    "index": whole,
                    "miner": object(&["uid", "hotkey"], json!({"uid": whole, "hotkey": text})),
                    "prompt_tokens": whole, "completion_tokens": whole, "receipt_digest": text, "signature": text,
                    "verification": object(&["state"], json!({
                        "state": {"type": "string", "enum": ["not_checked", "waiting", "checked"]},
                        "quality": {"type": "number", "minimum": 0, "maximum": 1},
                        "reasons": {"type": "array", "items": text},
                    })),
                }),
            )},
        })),
    })
}
