//! What a miner says it can serve.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{TaskId, Volume};

/// The most declarations that are read from one miner; the rest are refused.
const MAX_TASKS: usize = 256;

/// The answer to `GET /capacity`, as a miner sends it: `{"period_s": 1800, "tasks": {"chat-demo": {"volume": 60000}}}`.
///
/// The volumes are this validator's share for one scoring period.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Declaration {
    pub tasks: BTreeMap<TaskId, Declared>,
}

/// One task's part of a [`Declaration`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Declared {
    /// Work per scoring period in the task's unit.
    pub volume: Volume,
}

/// A [`Declaration`] read from an untrusted miner: what is usable, and a sentence for each thing that is not.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reading {
    pub tasks: BTreeMap<TaskId, Volume>,
    pub refused: Vec<String>,
}

/// Reads the body of a miner's answer. One bad entry costs that entry only.
///
/// `ceiling` gives the largest volume of a task per period, or `None` for a task this validator does not know.
///
/// # Errors
/// A sentence, if the body is no JSON object with an object `tasks`.
pub fn read(body: &[u8], ceiling: impl Fn(&TaskId) -> Option<Volume>) -> Result<Reading, String> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| format!("the capacity is not valid JSON: {error}"))?;
    let Some(tasks) = body.get("tasks").and_then(Value::as_object) else {
        return Err("the capacity has no object `tasks`".to_owned());
    };
    let mut reading = Reading::default();
    for (name, entry) in tasks.iter().take(MAX_TASKS) {
        match read_one(name, entry, &ceiling) {
            Ok((task, volume)) => {
                reading.tasks.insert(task, volume);
            }
            Err(why) => reading.refused.push(why),
        }
    }
    if tasks.len() > MAX_TASKS {
        reading.refused.push(format!("{} tasks declared, only {MAX_TASKS} were read", tasks.len()));
    }
    Ok(reading)
}

fn read_one(
    name: &str,
    entry: &Value,
    ceiling: impl Fn(&TaskId) -> Option<Volume>,
) -> Result<(TaskId, Volume), String> {
    let task: TaskId = name.parse().map_err(|error| format!("{error}"))?;
    let Some(ceiling) = ceiling(&task) else {
        return Err(format!("task `{task}` is not in this validator's catalogue"));
    };
    let Some(volume) = entry.get("volume").and_then(Value::as_f64) else {
        return Err(format!("`{task}` has no number `volume`"));
    };
    let volume = Volume::try_from(volume).map_err(|error| format!("`{task}`: {error}"))?;
    // A declaration of 1e300 is a mistake or an attack, one a little above the ceiling is a miner with a larger machine.
    if volume.get() > 1000.0 * ceiling.get() {
        return Err(format!("`{task}`: {volume} is absurd, the task's maximum is {ceiling}"));
    }
    Ok((task, volume.min(ceiling)))
}
