//! Reads a catalogue's tables and notes every problem.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use common::format::NumericFormat;
use common::money::{self, Price};
use common::openai::{BYTES_PER_MESSAGE, Features, Kind};
use common::receipt::MAX_TOKENS;
use common::{MechanismId, TaskId, Volume};
use toml::Table;

use super::{Checking, Dtype, Engine, ModelSource, Prompts, Span, Task, TaskLimits, Timeouts};
use crate::reader::{Problems, Section};
use crate::synthetic::{BYTES_PER_WORD, MOST_MESSAGES};

/// A miner's declaration names at most this many tasks, so a larger catalogue could not be served whole.
const MAX_TASKS: usize = 256;
/// The chain numbers a subnet's mechanisms from 0 and has room for 16.
const LAST_MECHANISM: u32 = 15;

pub(super) fn read_tasks(document: Table, problems: &Problems) -> Vec<Task> {
    let mut document = Section::new("", document, problems);
    let sections = document.sections("task");
    document.finish();
    if sections.is_empty() && problems.is_empty() {
        problems.note("task", "there is no task; each one starts with a line `[[task]]`");
    }
    if sections.len() > MAX_TASKS {
        problems.note(
            "task",
            format!("there are {} tasks, at most {MAX_TASKS} can be served", sections.len()),
        );
        return Vec::new();
    }
    let mut first_place = BTreeMap::new();
    let mut tasks = Vec::new();
    for (place, section) in sections.into_iter().enumerate() {
        tasks.extend(read_task(section, |section, id| {
            if let Some(first) = first_place.get(id) {
                section.problem("id", format!("`{id}` is already the id of task[{first}]"));
            } else {
                first_place.insert(id.clone(), place);
            }
        }));
    }
    tasks
}

fn read_task(mut section: Section<'_>, seen: impl FnOnce(&Section<'_>, &TaskId)) -> Option<Task> {
    let id: Option<TaskId> = section.text("id").and_then(|text| match text.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            section.problem("id", format!("{error}"));
            None
        }
    });
    if let Some(id) = &id {
        seen(&section, id);
    }
    let kind =
        section.choice("kind", None, &[("chat", Kind::Chat), ("completion", Kind::Completion)]);
    let display_name = section.optional_text("display_name");
    let description = section.optional_text("description");
    let model = section.text("model");
    let enabled = section.flag("enabled", true);
    let mechanism = section.whole("mechanism", Some(0), 0..=LAST_MECHANISM);
    let weight =
        section.number("weight", None, |weight| (0.0..=1e9).contains(&weight), "between 0 and 1e9");
    let max_capacity = section.number("max_capacity", None, is_volume, "above 0 and at most 1e15");
    let tokens_per_request =
        section.number("tokens_per_request", None, is_volume, "above 0 and at most 1e15");
    if let (Some(capacity), Some(tokens)) = (max_capacity, tokens_per_request)
        && tokens > capacity
    {
        section.problem(
            "tokens_per_request",
            format!("must be at most max_capacity ({capacity}), is {tokens}"),
        );
    }
    let price = section.optional_section("price").and_then(read_price);
    let engine = section.section("engine").and_then(read_engine);
    let limits = section.section("limits").and_then(read_limits);
    if let (Some(engine), Some(limits)) = (&engine, &limits)
        && limits.max_tokens >= engine.context
    {
        section.problem(
            "limits.max_tokens",
            format!(
                "must leave room for a prompt in engine.context ({}), is {}",
                engine.context, limits.max_tokens
            ),
        );
    }
    let features = read_features(&mut section);
    let timeouts = section.section("timeouts").and_then(read_timeouts);
    let checking = section.optional_section("checking").and_then(read_checking);
    let prompts = match limits {
        Some(limits) => section
            .optional_section("prompts")
            .and_then(|prompts| read_prompts(prompts, kind, limits)),
        // Not judged without its limits; taken, so that it does not look unknown.
        None => section.optional_section("prompts").and(None),
    };
    section.finish();
    let id = id?;
    Some(Task {
        display_name: display_name?.unwrap_or_else(|| id.to_string()),
        description: description?.unwrap_or_default(),
        id,
        kind: kind?,
        model: model?,
        enabled: enabled?,
        mechanism: MechanismId(u8::try_from(mechanism?).ok()?),
        weight: weight?,
        max_capacity: Volume::try_from(max_capacity?).ok()?,
        tokens_per_request: tokens_per_request?,
        price: price?,
        limits: limits?,
        features: features?,
        timeouts: timeouts?,
        engine: engine?,
        checking: checking?,
        prompts: prompts?,
    })
}

fn is_volume(amount: f64) -> bool {
    amount > 0.0 && amount <= 1e15
}

/// Amounts are texts: a TOML float would not be exact.
fn read_price(mut section: Section<'_>) -> Option<Price> {
    let mut per_million = |key: &'static str| {
        match section.optional_text(key)? {
        None => Some(0),
        Some(text) => money::per_million(&text)
            .map_err(|_| {
                section.problem(
                    key,
                    format!(
                        "must be USD per million tokens as a text, such as \"0.15\": 0 to 4000, with at most 6 \
                         decimals; is `{text}`"
                    ),
                );
            })
            .ok(),
    }
    };
    let (prompt, completion) = (per_million("prompt"), per_million("completion"));
    section.finish();
    Some(Price { prompt: prompt?, completion: completion? })
}

fn read_limits(mut section: Section<'_>) -> Option<TaskLimits> {
    let max_tokens = section.whole("max_tokens", None, 1..=MAX_TOKENS as u32);
    let max_prompt_bytes = section.whole("max_prompt_bytes", None, 96..=16_000_000);
    section.finish();
    Some(TaskLimits { max_tokens: max_tokens?, max_prompt_bytes: max_prompt_bytes? })
}

fn read_features(section: &mut Section<'_>) -> Option<Features> {
    #[derive(Clone, Copy, PartialEq)]
    enum Feature {
        JsonSchema,
        ForcedTools,
        Tools,
    }
    use Feature::{ForcedTools, JsonSchema, Tools};
    let names = [("json_schema", JsonSchema), ("forced_tools", ForcedTools), ("tools", Tools)];
    let chosen = section.choices("features", &[JsonSchema, ForcedTools], &names)?;
    Some(Features {
        json_schema: chosen.contains(&JsonSchema),
        forced_tools: chosen.contains(&ForcedTools),
        tools: chosen.contains(&Tools),
    })
}

fn read_timeouts(mut section: Section<'_>) -> Option<Timeouts> {
    let is_timeout = |seconds: f64| seconds > 0.0 && seconds <= 3600.0;
    let first_token_s =
        section.number("first_token_s", None, is_timeout, "above 0 and at most 3600");
    let total_s = section.number("total_s", None, is_timeout, "above 0 and at most 3600");
    if let (Some(first), Some(total)) = (first_token_s, total_s)
        && first > total
    {
        section.problem("first_token_s", format!("must be at most total_s ({total}), is {first}"));
    }
    section.finish();
    Some(Timeouts { first_token_s: first_token_s?, total_s: total_s? })
}

fn read_engine(mut section: Section<'_>) -> Option<Engine> {
    let (has_folder, has_hub) = (section.has("folder"), section.has("hub"));
    let folder = section.optional_text("folder");
    let hub = section.optional_text("hub");
    let tokenizer = section.optional_text("tokenizer");
    let dtypes =
        [("auto", Dtype::Auto), ("f32", Dtype::F32), ("f16", Dtype::F16), ("bf16", Dtype::Bf16)];
    let dtype = section.choice("dtype", Some(Dtype::Auto), &dtypes);
    let context = section.whole("context", None, 2..=10_000_000);
    if has_folder == has_hub {
        section.problem(
            "folder",
            "give `folder` (a folder of this machine) or `hub` (a hub repository), one of them",
        );
    }
    section.finish();
    let source = match (folder?, hub?) {
        (Some(folder), None) => ModelSource::Folder(folder.into()),
        (None, Some(hub)) => ModelSource::Hub(hub),
        _ => return None,
    };
    Some(Engine { source, tokenizer: tokenizer?, dtype: dtype?, context: context? })
}

fn read_checking(mut section: Section<'_>) -> Option<Checking> {
    use NumericFormat::{Bf16, F16, F32, Q8_0};
    let is_share = |share: f64| (0.0..=1.0).contains(&share);
    let share = section.number("share", Some(0.25), is_share, "between 0 and 1");
    let names = [F32, F16, Bf16, Q8_0].map(|format| (format.as_str(), format));
    let formats = section.choices("formats", &[F32, F16, Bf16], &names);
    if formats.as_ref().is_some_and(Vec::is_empty) {
        section.problem("formats", "must name a format at least");
    }
    let seeded = section.flag("seeded", true);
    section.finish();
    let formats: BTreeSet<_> = formats?.into_iter().collect();
    Some(Checking { share: share?, formats: formats.into_iter().collect(), seeded: seeded? })
}

fn read_prompts(
    mut section: Section<'_>,
    kind: Option<Kind>,
    limits: TaskLimits,
) -> Option<Prompts> {
    let messages = if kind == Some(Kind::Chat) { MOST_MESSAGES * BYTES_PER_MESSAGE } else { 0 };
    let for_words = limits.max_prompt_bytes.saturating_sub(messages as u32);
    let most_words = (for_words / BYTES_PER_WORD).max(1);
    let system_share = section.number(
        "system_share",
        Some(0.4),
        |share| (0.0..=1.0).contains(&share),
        "between 0 and 1",
    );
    let words = Span { min: 5.min(most_words), max: 200.min(most_words) };
    let words =
        section.optional_section("words").and_then(|span| read_span(span, words, 1..=most_words));
    let temperature = section.optional_section("temperature").and_then(|mut span| {
        let is_temperature = |temperature: f64| (0.0..=2.0).contains(&temperature);
        let min = span.number("min", Some(0.0), is_temperature, "between 0 and 2");
        let max = span.number("max", Some(1.0), is_temperature, "between 0 and 2");
        ordered(span, min, max)
    });
    let max_tokens = Span { min: 16.min(limits.max_tokens), max: limits.max_tokens };
    let max_tokens = section
        .optional_section("max_tokens")
        .and_then(|span| read_span(span, max_tokens, 1..=limits.max_tokens));
    section.finish();
    Some(Prompts {
        system_share: system_share?,
        words: words?,
        temperature: temperature?,
        max_tokens: max_tokens?,
    })
}

fn read_span(
    mut section: Section<'_>,
    default: Span<u32>,
    range: RangeInclusive<u32>,
) -> Option<Span<u32>> {
    let min = section.whole("min", Some(default.min), range.clone());
    let max = section.whole("max", Some(default.max), range);
    ordered(section, min, max)
}

fn ordered<T: PartialOrd + fmt::Display>(
    section: Section<'_>,
    min: Option<T>,
    max: Option<T>,
) -> Option<Span<T>> {
    if let (Some(min), Some(max)) = (&min, &max)
        && min > max
    {
        section.problem("min", format!("must be at most max ({max}), is {min}"));
    }
    section.finish();
    Some(Span { min: min?, max: max? })
}
