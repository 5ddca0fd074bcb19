//! The defaults as a schema: which keys there are and what kind of value each takes.

use toml::{Table, Value};

use super::Problems;

/// Removes unknown keys, replaces values of the wrong kind by their defaults, and fills in what list elements leave out.
pub(super) fn check(
    table: &mut Table,
    defaults: &Table,
    required: &[&str],
    problems: &mut Problems,
) {
    check_table(table, defaults, "", "", required, problems);
}

/// `key` is where the table is, with indices; `path` is the same without.
fn check_table(
    table: &mut Table,
    defaults: &Table,
    key: &str,
    path: &str,
    required: &[&str],
    problems: &mut Problems,
) {
    // An empty table in the defaults takes any keys.
    if defaults.is_empty() && !path.is_empty() {
        return;
    }
    let unknown: Vec<String> =
        table.keys().filter(|name| !defaults.contains_key(*name)).cloned().collect();
    for name in unknown {
        table.remove(&name);
        problems.add(join(key, &name), unknown_key(&name, defaults));
    }
    for (name, value) in table.iter_mut() {
        let Some(default) = defaults.get(name) else { continue };
        let (key, path) = (join(key, name), join(path, name));
        match (&mut *value, default) {
            (Value::Table(table), Value::Table(defaults)) => {
                check_table(table, defaults, &key, &path, required, problems);
            }
            (Value::Array(list), Value::Array(defaults)) => {
                if let Some(Value::Table(element)) = defaults.first() {
                    check_list(list, element, &key, &path, required, problems);
                }
            }
            (Value::Integer(number), Value::Float(_)) => *value = Value::Float(*number as f64),
            (found, default) if found.same_type(default) => {}
            (found, default) => {
                problems.add(key, format!("must be {}, got {}", kind(default), shown(found)));
                *value = default.clone();
            }
        }
    }
}

fn check_list(
    list: &mut [Value],
    element: &Table,
    key: &str,
    path: &str,
    required: &[&str],
    problems: &mut Problems,
) {
    for (index, value) in list.iter_mut().enumerate() {
        let key = format!("{key}[{index}]");
        let Value::Table(table) = value else {
            problems.add(key, format!("must be a table, got {}", shown(value)));
            *value = Value::Table(element.clone());
            continue;
        };
        check_table(table, element, &key, path, required, problems);
        fill(table, element, &key, path, required, problems);
    }
}

fn fill(
    table: &mut Table,
    element: &Table,
    key: &str,
    path: &str,
    required: &[&str],
    problems: &mut Problems,
) {
    for (name, default) in element {
        let (key, path) = (join(key, name), join(path, name));
        match (table.get_mut(name), default) {
            (Some(Value::Table(inner)), Value::Table(default)) => {
                fill(inner, default, &key, &path, required, problems);
            }
            (Some(_), _) => {}
            (None, Value::Table(default)) => {
                let mut inner = Table::new();
                fill(&mut inner, default, &key, &path, required, problems);
                table.insert(name.clone(), Value::Table(inner));
            }
            (None, default) => {
                if required.contains(&path.as_str()) {
                    problems.add(key, "is missing");
                }
                table.insert(name.clone(), default.clone());
            }
        }
    }
}

/// Reads the text of a variable or flag as the kind of value that the defaults have at `key`.
pub(super) fn read_text(key: &str, text: &str, defaults: &Table) -> Result<config::Value, String> {
    let mut names = key.split('.').peekable();
    let mut table = defaults;
    let default = loop {
        let Some(name) = names.next() else {
            return Err("is a group of settings, not one".to_owned());
        };
        match (table.get(name), names.peek()) {
            (None, _) => return Err(unknown_key(name, table)),
            (Some(Value::Table(inner)), _) => table = inner,
            (Some(default), None) => break default,
            (Some(_), Some(_)) => return Err("can only be set in the file".to_owned()),
        }
    };
    let wrong = || {
        format!("must be {}, got `{}`", kind(default), text.chars().take(80).collect::<String>())
    };
    let kind: config::ValueKind = match default {
        Value::String(_) | Value::Datetime(_) => text.into(),
        Value::Integer(_) => text.trim().parse::<i64>().map_err(|_| wrong())?.into(),
        Value::Float(_) => text.trim().parse::<f64>().map_err(|_| wrong())?.into(),
        Value::Boolean(_) => match text.trim() {
            "true" | "1" => true.into(),
            "false" | "0" => false.into(),
            _ => return Err(wrong()),
        },
        Value::Array(list) if list.iter().all(Value::is_str) => config::ValueKind::Array(
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| config::Value::new(None, part))
                .collect(),
        ),
        Value::Array(_) | Value::Table(_) => return Err("can only be set in the file".to_owned()),
    };
    Ok(config::Value::new(None, kind))
}

fn join(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

/// Values may be secrets: only those that cannot be are shown.
fn shown(value: &Value) -> String {
    match value {
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => {
            format!("{} ({value})", kind(value))
        }
        _ => kind(value).to_owned(),
    }
}

fn unknown_key(name: &str, known: &Table) -> String {
    let nearest = known
        .keys()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min();
    match nearest {
        Some((_, candidate)) => format!("unknown key, did you mean `{candidate}`?"),
        None => {
            let known: Vec<_> = known.keys().map(String::as_str).collect();
            format!("unknown key, there are: {}", known.join(", "))
        }
    }
}

/// Insertions, deletions and replacements that turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, a) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_textbook() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("port", "port"), 0);
        assert_eq!(distance("", "port"), 4);
    }
}
