//! The form that an answer must have: schemas and functions as people write them.

use common::generation::{Format, Json, JsonSchema, Tool, ToolChoice, Tools};
use common::openai::{Features, Kind};
use rand::Rng;
use rand::seq::IndexedRandom;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::draw::weighted;

/// Requests for a JSON object, for a schema, for a certain call, and with functions that may be called, per thousand.
const JSON_OBJECT: u32 = 6;
const JSON_SCHEMA: u32 = 14;
const FORCED: u32 = 8;
const AUTO: u32 = 12;

/// What is asked of the answer: nothing, nearly always.
pub(super) fn form(kind: Kind, features: Features, rng: &mut impl Rng) -> (Format, Option<Tools>) {
    #[derive(Clone, Copy)]
    enum Form {
        Text,
        JsonObject,
        JsonSchema,
        Forced,
        Auto,
    }
    let chat = kind == Kind::Chat;
    let share = |permitted: bool, share: u32| if chat && permitted { share } else { 0 };
    let forms = [
        (960, Form::Text),
        (share(features.json_schema, JSON_OBJECT), Form::JsonObject),
        (share(features.json_schema, JSON_SCHEMA), Form::JsonSchema),
        (share(features.forced_tools, FORCED), Form::Forced),
        (share(features.tools, AUTO), Form::Auto),
    ];
    match weighted(&forms, rng).copied().unwrap_or(Form::Text) {
        Form::Text => (Format::Text, None),
        Form::JsonObject => (Format::JsonObject, None),
        Form::JsonSchema => (schema(rng), None),
        Form::Forced => (Format::Text, functions(true, rng)),
        Form::Auto => (Format::Text, functions(false, rng)),
    }
}

fn schema(rng: &mut impl Rng) -> Format {
    const NAMES: [&str; 8] =
        ["response", "answer", "result", "output", "extraction", "item", "summary", "analysis"];
    let name = NAMES.choose(rng).copied().unwrap_or("response").to_owned();
    let fields = rng.random_range(1..=5);
    match as_json(&object(fields, rng)) {
        Some(schema) => Format::JsonSchema(JsonSchema { name, schema }),
        None => Format::JsonObject,
    }
}

fn functions(forced: bool, rng: &mut impl Rng) -> Option<Tools> {
    const FUNCTIONS: [(&str, &str); 10] = [
        ("get_weather", "Get the current weather for a place."),
        ("search", "Search the web and return the best results."),
        ("get_current_time", "Get the current time in a time zone."),
        ("send_email", "Send an email to a person."),
        ("create_event", "Put an event into the calendar."),
        ("lookup_order", "Look up the state of an order."),
        ("convert_currency", "Convert an amount from one currency to another."),
        ("calculate", "Evaluate an arithmetic expression."),
        ("find_recipe", "Find a recipe with given ingredients."),
        ("book_table", "Book a table at a restaurant."),
    ];
    let count = weighted(&[(6, 1), (3, 2), (2, 3)], rng).copied().unwrap_or(1);
    let chosen: Vec<(&str, &str)> = FUNCTIONS.choose_multiple(rng, count).copied().collect();
    let list = chosen.into_iter().map(|(name, description)| Tool {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        parameters: as_json(&arguments(rng)),
    });
    let list: Vec<Tool> = list.collect();
    let name = list.choose(rng)?.name.clone();
    let (choice, parallel) = match (forced, rng.random_bool(0.5)) {
        (false, _) => (ToolChoice::Auto, true),
        (true, true) => (ToolChoice::Required, rng.random_bool(0.3)),
        (true, false) => (ToolChoice::Named(name), false),
    };
    Some(Tools { list, choice, parallel })
}

/// A schema of arguments: a few plain fields.
fn arguments(rng: &mut impl Rng) -> Value {
    let fields = weighted(&[(5, 1), (3, 2), (1, 3)], rng).copied().unwrap_or(1);
    object(fields, rng)
}

/// An object with so many fields, all of them required.
fn object(fields: usize, rng: &mut impl Rng) -> Value {
    const FIELDS: [&str; 20] = [
        "title",
        "summary",
        "name",
        "description",
        "category",
        "reason",
        "answer",
        "language",
        "author",
        "city",
        "score",
        "count",
        "year",
        "confidence",
        "is_valid",
        "is_positive",
        "tags",
        "keywords",
        "steps",
        "sentiment",
    ];
    let names: Vec<&str> = FIELDS.choose_multiple(rng, fields).copied().collect();
    let properties: Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), field(name))).collect();
    json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
}

fn field(name: &str) -> Value {
    match name {
        "score" | "confidence" => json!({"type": "number"}),
        "count" | "year" => json!({"type": "integer"}),
        "is_valid" | "is_positive" => json!({"type": "boolean"}),
        "tags" | "keywords" | "steps" => json!({"type": "array", "items": {"type": "string"}}),
        "sentiment" => json!({"type": "string", "enum": ["positive", "neutral", "negative"]}),
        _ => json!({"type": "string"}),
    }
}

fn as_json(value: &impl Serialize) -> Option<Json> {
    serde_json::from_str(&serde_json::to_string(value).ok()?).ok()
}
