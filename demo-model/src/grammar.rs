//! A small context-free grammar with tables and memory, read from text.
//!
//! `rule NAME` is followed by indented alternatives, one of which is drawn, `N* ` in front gives a weight. `table NAME:
//! COLUMN, ..` is followed by rows whose columns are separated by `::`. In an alternative, `[a|b]` draws one part,
//! `{name}` expands a rule or a variable, `{key:name}` draws once in a document and repeats that, `{table.column}`
//! reads the row drawn for the document, `{table#2.column}` another row. `{^..}` writes the first letter large.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;
use rand::seq::IndexedRandom;

/// Nesting limit: a rule that expands itself is a mistake, not a way to fill the stack.
const MAX_DEPTH: usize = 40;

#[derive(Debug)]
struct Alternative {
    weight: u32,
    text: String,
}

#[derive(Debug)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Rules and tables by name.
#[derive(Debug, Default)]
pub struct Grammar {
    rules: HashMap<String, Vec<Alternative>>,
    tables: HashMap<String, Table>,
}

/// What a document has drawn so far: table rows and named expansions.
#[derive(Debug, Default, Clone)]
pub struct Memory {
    rows: HashMap<String, usize>,
    texts: HashMap<String, String>,
}

impl Memory {
    /// Gives a variable its text.
    pub fn set(&mut self, name: &str, text: impl ToString) {
        self.texts.insert(name.to_owned(), text.to_string());
    }

    /// Fixes the row of a table.
    pub fn set_row(&mut self, table: &str, row: usize) {
        self.rows.insert(table.to_owned(), row);
    }
}

enum Open<'a> {
    Rule(&'a mut Vec<Alternative>),
    Table(&'a mut Table),
}

impl Grammar {
    /// Reads grammar texts, and checks that everything which they refer to exists.
    ///
    /// # Errors
    /// Names the line that cannot be read, or the rule with an unknown reference.
    pub fn parse(texts: &[&str]) -> Result<Self> {
        let mut grammar = Self::default();
        for text in texts {
            grammar.read(text)?;
        }
        Ok(grammar)
    }

    fn read(&mut self, text: &str) -> Result<()> {
        let mut open = None;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(name) = line.strip_prefix("rule ") {
                open = Some(Open::Rule(self.rules.entry(name.trim().to_owned()).or_default()));
            } else if let Some(head) = line.strip_prefix("table ") {
                let (name, columns) = head.split_once(':').with_context(|| line.to_owned())?;
                let columns = columns.split("::").map(|column| column.trim().to_owned()).collect();
                let table = self.tables.entry(name.trim().to_owned());
                open = Some(Open::Table(table.or_insert(Table { columns, rows: Vec::new() })));
            } else {
                let entry =
                    line.strip_prefix("  ").with_context(|| format!("not indented: {line}"))?;
                match &mut open {
                    Some(Open::Rule(alternatives)) => alternatives.push(weighted(entry)),
                    Some(Open::Table(table)) => {
                        let row: Vec<_> = format!("{entry} ")
                            .split(":: ")
                            .map(|cell| cell.trim().to_owned())
                            .collect();
                        ensure!(
                            row.len() == table.columns.len(),
                            "wrong number of columns: {line}"
                        );
                        table.rows.push(row);
                    }
                    None => bail!("outside of a rule or table: {line}"),
                }
            }
        }
        Ok(())
    }

    /// The number of rows of a table, 0 when there is none of that name.
    #[must_use]
    pub fn rows(&self, table: &str) -> usize {
        self.tables.get(table).map_or(0, |table| table.rows.len())
    }

    /// Expands a template. What it draws under a name stays in `memory`.
    ///
    /// # Errors
    /// On a reference to nothing, an unclosed bracket, or endless nesting.
    pub fn expand(
        &self,
        template: &str,
        memory: &mut Memory,
        rng: &mut impl Rng,
    ) -> Result<String> {
        let mut out = String::new();
        self.expand_into(template, memory, rng, 0, &mut out)
            .with_context(|| format!("in the template {template:?}"))?;
        Ok(out)
    }

    fn expand_into(
        &self,
        template: &str,
        memory: &mut Memory,
        rng: &mut impl Rng,
        depth: usize,
        out: &mut String,
    ) -> Result<()> {
        ensure!(depth < MAX_DEPTH, "nested too deeply");
        let mut rest = template;
        while let Some(at) = rest.find(['[', '{']) {
            out.push_str(&rest[..at]);
            let bracket = &rest[at..];
            let end = matching_end(bracket).with_context(|| format!("unclosed: {bracket}"))?;
            let inside = &bracket[1..end];
            if bracket.starts_with('[') {
                let parts = split_alternatives(inside);
                let part = parts.choose(rng).copied().unwrap_or_default();
                self.expand_into(part, memory, rng, depth + 1, out)?;
            } else {
                self.reference(inside, memory, rng, depth + 1, out)?;
            }
            rest = &bracket[end + 1..];
        }
        out.push_str(rest);
        Ok(())
    }

    fn reference(
        &self,
        reference: &str,
        memory: &mut Memory,
        rng: &mut impl Rng,
        depth: usize,
        out: &mut String,
    ) -> Result<()> {
        if let Some(reference) = reference.strip_prefix('^') {
            let mut text = String::new();
            self.reference(reference, memory, rng, depth, &mut text)?;
            out.push_str(&capitalised(&text));
            return Ok(());
        }
        if let Some((key, name)) = reference.split_once(':') {
            if !memory.texts.contains_key(key) {
                let mut text = String::new();
                self.reference(name, memory, rng, depth, &mut text)?;
                memory.texts.insert(key.to_owned(), text);
            }
            out.push_str(&memory.texts[key]);
            return Ok(());
        }
        if let Some((key, column)) = reference.split_once('.') {
            let name = key.split('#').next().unwrap_or(key);
            let table = self.tables.get(name).with_context(|| format!("no table {name}"))?;
            let column = table.columns.iter().position(|c| c == column);
            let column = column.with_context(|| format!("no column {reference}"))?;
            let row = match memory.rows.get(key) {
                Some(row) => *row,
                None => {
                    let row = other_row(name, key, table.rows.len(), memory, rng)?;
                    memory.rows.insert(key.to_owned(), row);
                    row
                }
            };
            let cell = &table.rows[row][column];
            return self.expand_into(cell, memory, rng, depth, out);
        }
        if let Some(text) = memory.texts.get(reference) {
            out.push_str(text);
            return Ok(());
        }
        let rule = self.rules.get(reference).with_context(|| format!("no rule {reference}"))?;
        let chosen = rule.choose_weighted(rng, |alternative| alternative.weight);
        let chosen = chosen.with_context(|| format!("rule {reference} is empty"))?;
        self.expand_into(&chosen.text, memory, rng, depth, out)
    }
}

/// Draws a row that no other key of the same table holds.
fn other_row(
    table: &str,
    key: &str,
    rows: usize,
    memory: &Memory,
    rng: &mut impl Rng,
) -> Result<usize> {
    let taken: Vec<usize> = (memory.rows.iter())
        .filter(|(other, _)| *other != key && other.split('#').next() == Some(table))
        .map(|(_, row)| *row)
        .collect();
    let free: Vec<usize> = (0..rows).filter(|row| !taken.contains(row)).collect();
    free.choose(rng).copied().with_context(|| format!("no row left in table {table}"))
}

fn weighted(entry: &str) -> Alternative {
    if let Some((weight, text)) = entry.split_once("* ").or_else(|| entry.split_once('*'))
        && let Ok(weight) = weight.parse()
    {
        return Alternative { weight, text: text.to_owned() };
    }
    Alternative { weight: 1, text: entry.to_owned() }
}

/// Where the bracket that opens the text closes.
fn matching_end(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Splits at the bars that are in no inner bracket.
fn split_alternatives(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'|' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The text with its first letter large.
#[must_use]
pub fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const TEXT: &str = "\
table animal: name :: food
  cat :: fish
  cow :: grass
rule who
  3* {animal.name}
  1* [big|small] {animal.name}
rule endless
  {endless}
";

    fn expand(template: &str, seed: u64) -> Result<String> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Grammar::parse(&[TEXT])?.expand(template, &mut Memory::default(), &mut rng)
    }

    #[test]
    fn a_document_keeps_the_row_that_it_drew() {
        for seed in 0..20 {
            let text = expand("{animal.name} {animal.food} {animal#2.name}", seed).unwrap();
            assert!(["cat fish cow", "cow grass cat"].contains(&text.as_str()), "{text}");
        }
    }

    #[test]
    fn a_key_repeats_what_was_drawn_first() {
        for seed in 0..20 {
            let text = expand("{^x:who}, {x:who}", seed).unwrap();
            let (first, second) = text.split_once(", ").unwrap();
            assert_eq!(first, capitalised(second));
        }
    }

    #[test]
    fn all_alternatives_are_drawn() {
        let drawn: std::collections::HashSet<_> =
            (0..60).map(|seed| expand("[a|b[c|d]|]", seed).unwrap()).collect();
        assert_eq!(drawn, ["a", "bc", "bd", ""].map(str::to_owned).into());
    }

    #[test]
    fn mistakes_are_errors() {
        for template in [
            "{nobody}",
            "{animal.colour}",
            "[open",
            "{endless}",
            "{animal#3.name}{animal#4.name}{animal.name}",
        ] {
            assert!(expand(template, 1).is_err(), "{template}");
        }
        assert!(Grammar::parse(&["  an alternative of nothing"]).is_err());
        assert!(Grammar::parse(&["table t: a :: b\n  only one"]).is_err());
    }
}
