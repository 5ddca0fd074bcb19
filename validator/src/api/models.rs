//! What is served here: OpenAI's list of models, with what OpenRouter and similar directories of providers ask for.

use common::TaskId;
use common::openai::{Features, Kind};
use serde::Serialize;
use service::http::ApiError;
use tasks::{ModelSource, Task};

use super::Api;

/// The answer of `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Models {
    object: &'static str,
    data: Vec<Model>,
}

/// The answer of `GET /v1/models/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Model {
    id: TaskId,
    object: &'static str,
    /// Unix seconds.
    created: i64,
    owned_by: &'static str,
    name: String,
    description: String,
    /// The weights' name at the model hub, where they are from there.
    hugging_face_id: Option<String>,
    context_length: u32,
    max_output_length: u32,
    input_modalities: [&'static str; 1],
    output_modalities: [&'static str; 1],
    supported_sampling_parameters: &'static [&'static str],
    supported_features: Vec<&'static str>,
    /// The path of the API that serves it.
    endpoint: &'static str,
    /// Whether a miner serves it at the moment.
    is_ready: bool,
}

/// Parameters that every task honours.
const SAMPLING: [&str; 9] = [
    "temperature",
    "top_p",
    "stop",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
];

impl Api {
    pub(super) fn models(&self) -> Models {
        let data = self.catalogue.enabled().map(|(task, _)| self.describe(task)).collect();
        Models { object: "list", data }
    }

    /// # Errors
    /// 404 for a model that is not served here.
    pub(super) fn model(&self, id: &str) -> Result<Model, ApiError> {
        let task = id.parse::<TaskId>().ok().and_then(|id| self.catalogue.task(&id));
        let task = task.filter(|task| task.enabled).ok_or_else(|| {
            let id: String = id.chars().take(64).collect();
            not_served(&id)
        })?;
        Ok(self.describe(task))
    }

    fn describe(&self, task: &Task) -> Model {
        let limits = task.limits();
        Model {
            id: task.id.clone(),
            object: "model",
            created: self.started,
            owned_by: "touchstone",
            name: task.display_name.clone(),
            description: task.description.clone(),
            hugging_face_id: match &task.engine.source {
                ModelSource::Hub(name) => Some(name.clone()),
                ModelSource::Folder(_) => None,
            },
            context_length: task.engine.context,
            max_output_length: limits.max_tokens,
            input_modalities: ["text"],
            output_modalities: ["text"],
            supported_sampling_parameters: &SAMPLING,
            supported_features: features(task),
            endpoint: task.kind.path(),
            is_ready: self.router.serves(&task.id),
        }
    }
}

/// By the names that OpenRouter has for them.
fn features(task: &Task) -> Vec<&'static str> {
    let Features { json_schema, forced_tools: _, tools } = task.features;
    let chat = task.kind == Kind::Chat;
    let named = [
        ("logprobs", true),
        ("json_mode", chat && json_schema),
        ("structured_outputs", chat && json_schema),
        ("tools", chat && tools),
    ];
    named.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

/// A model that nobody serves here.
pub(super) fn not_served(model: &str) -> ApiError {
    ApiError {
        param: Some("model".to_owned()),
        ..ApiError::not_found(format!("the model `{model}` is not served here; see GET /v1/models"))
            .with_code("model_not_found")
    }
}
