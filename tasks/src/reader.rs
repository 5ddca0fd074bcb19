//! Takes a TOML document apart and notes every problem with its full key, instead of stopping at the first.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;

use toml::{Table, Value};

/// One thing that is wrong with a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The full key, such as `task[2].weight` (the first task is `task[0]`); empty if it is about the whole file.
    pub key: String,
    /// What is wrong with it, and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            self.what.fmt(f)
        } else {
            write!(f, "{}: {}", self.key, self.what)
        }
    }
}

/// The problems of a document, shared by all its sections.
#[derive(Debug, Default)]
pub(crate) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(crate) fn note(&self, key: impl Into<String>, what: impl Into<String>) {
        self.0.borrow_mut().push(Problem { key: key.into(), what: what.into() });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// A table that is read key by key. What is asked for is known; [`Section::finish`] refuses the rest.
///
/// Every reading method gives `None` after it has noted why.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    path: String,
    table: Table,
    known: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// The table at `path`, which is empty for the document itself.
    pub(crate) fn new(path: impl Into<String>, table: Table, problems: &'a Problems) -> Self {
        Self { path: path.into(), table, known: Vec::new(), problems }
    }

    pub(crate) fn problem(&self, key: &str, what: impl Into<String>) {
        self.problems.note(self.full_key(key), what);
    }

    fn full_key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn missing<T>(&self, key: &str) -> Option<T> {
        self.problem(key, "is missing");
        None
    }

    fn wrong_type<T>(&self, key: &str, wanted: &str, got: &Value) -> Option<T> {
        self.problem(key, format!("must be {wanted}, is {}", shown(got)));
        None
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key) {
            None => self.missing(key),
            Some(Value::String(text)) if text.trim().is_empty() => {
                self.problem(key, "must not be empty");
                None
            }
            Some(Value::String(text)) => Some(text),
            Some(other) => self.wrong_type(key, "a text", &other),
        }
    }

    /// The outer option is `None` if the key is there and wrong.
    pub(crate) fn optional_text(&mut self, key: &'static str) -> Option<Option<String>> {
        if self.has(key) {
            self.text(key).map(Some)
        } else {
            self.known.push(key);
            Some(None)
        }
    }

    pub(crate) fn flag(&mut self, key: &'static str, default: bool) -> Option<bool> {
        match self.take(key) {
            None => Some(default),
            Some(Value::Boolean(flag)) => Some(flag),
            Some(other) => self.wrong_type(key, "true or false", &other),
        }
    }

    /// A finite number for which `valid` holds; `must` says what that is. Missing without a default is a problem.
    pub(crate) fn number(
        &mut self,
        key: &'static str,
        default: Option<f64>,
        valid: impl Fn(f64) -> bool,
        must: &str,
    ) -> Option<f64> {
        let number = match self.take(key) {
            None => return default.or_else(|| self.missing(key)),
            Some(Value::Float(number)) => number,
            Some(Value::Integer(number)) => number as f64,
            Some(other) => return self.wrong_type(key, "a number", &other),
        };
        if number.is_finite() && valid(number) {
            // `+ 0.0` turns a negative zero into zero.
            return Some(number + 0.0);
        }
        self.problem(key, format!("must be {must}, is {number}"));
        None
    }

    /// A whole number in a range. Missing without a default is a problem.
    pub(crate) fn whole(
        &mut self,
        key: &'static str,
        default: Option<u32>,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let number = match self.take(key) {
            None => return default.or_else(|| self.missing(key)),
            Some(Value::Integer(number)) => number,
            Some(other) => return self.wrong_type(key, "a whole number", &other),
        };
        match u32::try_from(number) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.problem(
                    key,
                    format!(
                        "must be a whole number from {} to {}, is {number}",
                        range.start(),
                        range.end()
                    ),
                );
                None
            }
        }
    }

    /// One of a few names. Missing without a default is a problem.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        default: Option<T>,
        names: &[(&str, T)],
    ) -> Option<T> {
        let wanted = || {
            let names: Vec<_> = names.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            names.join(" or ")
        };
        let value = match self.take(key) {
            None => return default.or_else(|| self.missing(key)),
            Some(value) => value,
        };
        let found = names.iter().find(|(name, _)| value.as_str() == Some(name));
        match found {
            Some((_, choice)) => Some(*choice),
            None => self.wrong_type(key, &wanted(), &value),
        }
    }

    /// Some of a few names, each at most once.
    pub(crate) fn choices<T: Copy>(
        &mut self,
        key: &'static str,
        default: &[T],
        names: &[(&str, T)],
    ) -> Option<Vec<T>> {
        let value = match self.take(key) {
            None => return Some(default.to_vec()),
            Some(value) => value,
        };
        let chosen = value.as_array().and_then(|list| {
            let find = |(at, entry): (usize, &Value)| {
                let found = names.iter().find(|(name, _)| entry.as_str() == Some(name));
                found.filter(|_| !list[..at].contains(entry)).map(|(_, choice)| *choice)
            };
            list.iter().enumerate().map(find).collect::<Option<Vec<T>>>()
        });
        if chosen.is_none() {
            let names: Vec<_> = names.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            let problem =
                format!("must be a list of some of {}, each once, is {value}", names.join(", "));
            self.problem(key, problem);
        }
        chosen
    }

    /// A table within this one.
    pub(crate) fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        match self.take(key) {
            None => self.missing(key),
            Some(Value::Table(table)) => {
                Some(Section::new(self.full_key(key), table, self.problems))
            }
            Some(other) => self.wrong_type(key, "a table", &other),
        }
    }

    /// A table within this one; an empty one stands in for a missing one, so that every key takes its default.
    pub(crate) fn optional_section(&mut self, key: &'static str) -> Option<Section<'a>> {
        if self.has(key) {
            self.section(key)
        } else {
            self.known.push(key);
            Some(Section::new(self.full_key(key), Table::new(), self.problems))
        }
    }

    /// The tables of an array `[[key]]`, each with its place in its path.
    pub(crate) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let entries = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(entries)) => entries,
            Some(other) => {
                self.problem(
                    key,
                    format!("must be a list of tables `[[{key}]]`, is {}", shown(&other)),
                );
                return Vec::new();
            }
        };
        let mut sections = Vec::new();
        for (place, entry) in entries.into_iter().enumerate() {
            let path = format!("{}[{place}]", self.full_key(key));
            match entry {
                Value::Table(table) => sections.push(Section::new(path, table, self.problems)),
                other => self.problems.note(path, format!("must be a table, is {}", shown(&other))),
            }
        }
        sections
    }

    /// Refuses keys that nobody asked for.
    pub(crate) fn finish(self) {
        for key in self.table.keys() {
            self.problem(
                key,
                format!("is not a known key; known here are {}", self.known.join(", ")),
            );
        }
    }
}

/// A value in an error message, short.
fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => {
            let text = other.to_string();
            if text.chars().count() <= 60 {
                text
            } else {
                text.chars().take(57).chain("...".chars()).collect()
            }
        }
    }
}
