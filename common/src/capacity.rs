//! What a miner says it can serve.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{TaskId, Volume};

/// The most declarations that are read from one miner; the rest are refused.
const MAX_TASKS: usize = 256;
/// The most complaints about one answer that are told one by one: they are logged, and a stranger wrote it.
const MAX_COMPLAINTS: usize = 4;

/// The answer to `GET /capacity`, as a miner sends it: `{"period_s": 1800, "tasks": {"chat-demo": {"volume": 60000}}}`.
///
/// The volumes are this validator's share for one scoring period.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Declaration {
    /// What the miner takes for the subnet's scoring period, in seconds: finite and above 0.
    pub period_s: f64,
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
    /// The period that the volumes are for, in seconds, finite and above 0; `None` if the miner did not say (validly).
    pub period_s: Option<f64>,
    pub tasks: BTreeMap<TaskId, Volume>,
    /// At most five; foreign text in them is escaped.
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
    if let Some(period) = body.get("period_s") {
        reading.period_s = period.as_f64().filter(|period| period.is_finite() && *period > 0.0);
        if reading.period_s.is_none() {
            reading.refused.push("`period_s` is no number above 0".to_owned());
        }
    }
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
    let more = reading.refused.len().saturating_sub(MAX_COMPLAINTS);
    if more > 0 {
        reading.refused.truncate(MAX_COMPLAINTS);
        reading.refused.push(format!("and {more} more"));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(body: &Value) -> Reading {
        let known: TaskId = "chat-demo".parse().unwrap();
        read(body.to_string().as_bytes(), |task| (*task == known).then(|| Volume::from(1000)))
            .unwrap()
    }

    #[test]
    fn what_a_miner_declares_is_read_up_to_the_ceiling() {
        let volume = Volume::from(5000);
        let tasks = [("chat-demo".parse().unwrap(), Declared { volume })].into();
        let declared = serde_json::to_value(Declaration { period_s: 1800.0, tasks }).unwrap();
        let reading = reading(&declared);
        assert_eq!(reading.period_s, Some(1800.0));
        assert_eq!(reading.tasks[&"chat-demo".parse().unwrap()], Volume::from(1000));
        assert_eq!(reading.refused, Vec::<String>::new());
    }

    #[test]
    fn a_period_that_is_none_costs_nothing_else() {
        for period in [json!(0), json!(-1), json!("20"), json!(null)] {
            let reading =
                reading(&json!({"period_s": period, "tasks": {"chat-demo": {"volume": 1}}}));
            assert_eq!((reading.period_s, reading.tasks.len()), (None, 1), "{period}");
            assert_eq!(reading.refused.len(), 1, "{period}");
        }
        let silent = reading(&json!({"tasks": {}}));
        assert_eq!((silent.period_s, silent.refused.len()), (None, 0));
    }

    #[test]
    fn complaints_are_few_and_hold_no_control_characters() {
        let tasks: serde_json::Map<_, _> =
            (0..300).map(|n| (format!("{n:03}\n\u{1b}[31mERROR"), json!({}))).collect();
        let reading = reading(&json!({ "tasks": tasks }));
        assert_eq!(reading.refused.len(), MAX_COMPLAINTS + 1);
        assert_eq!(reading.refused[MAX_COMPLAINTS], "and 253 more");
        assert!(reading.refused.iter().all(|why| !why.contains(char::is_control)), "{reading:?}");
    }
}
