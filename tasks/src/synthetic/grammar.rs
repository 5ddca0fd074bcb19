//! Expands the rules of `grammar.txt` into English.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use rand::Rng;

use super::draw::weighted;

/// Compiled in and never changed; a test makes sure that all its references exist.
static GRAMMAR: LazyLock<Grammar> = LazyLock::new(|| Grammar::read(include_str!("grammar.txt")));

/// Rules expand into others at most this deeply, so that a rule that contains itself ends.
const MAX_DEPTH: u32 = 16;

/// Alternatives with their weights, by rule.
#[derive(Debug)]
struct Grammar(BTreeMap<&'static str, Vec<(u32, &'static str)>>);

/// What `{key:name}` has drawn so far: one for each conversation.
pub(super) type Memory = BTreeMap<String, String>;

/// Draws from a rule.
pub(super) fn expand(rule: &str, memory: &mut Memory, rng: &mut impl Rng) -> String {
    let mut out = String::new();
    GRAMMAR.expand_reference(rule, memory, rng, 0, &mut out);
    with_articles(out.trim())
}

impl Grammar {
    fn read(text: &'static str) -> Self {
        let mut rules: BTreeMap<&str, Vec<(u32, &str)>> = BTreeMap::new();
        let mut current = "";
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let alternatives = match line.split_once(" = ") {
                Some((name, alternatives)) if !line.starts_with('|') => {
                    current = name;
                    alternatives
                }
                _ => line.trim_start_matches('|'),
            };
            rules.entry(current).or_default().extend(alternatives.split('|').map(weight_and_text));
        }
        Self(rules)
    }

    fn expand_text(
        &self,
        text: &str,
        memory: &mut Memory,
        rng: &mut impl Rng,
        depth: u32,
        out: &mut String,
    ) {
        let mut rest = text;
        while let Some(start) = rest.find(['{', '(']) {
            let (before, bracket) = rest.split_at(start);
            out.push_str(before);
            let closing = if bracket.starts_with('{') { '}' } else { ')' };
            let Some(end) = bracket.find(closing) else { break };
            let inside = &bracket[1..end];
            if closing == '}' {
                self.expand_reference(inside, memory, rng, depth, out);
            } else {
                let parts: Vec<_> = inside.split('/').collect();
                let part = parts[rng.random_range(0..parts.len())];
                self.expand_text(part, memory, rng, depth, out);
            }
            rest = &bracket[end + 1..];
        }
        out.push_str(rest);
    }

    fn expand_reference(
        &self,
        reference: &str,
        memory: &mut Memory,
        rng: &mut impl Rng,
        depth: u32,
        out: &mut String,
    ) {
        if depth > MAX_DEPTH {
            return;
        }
        if let Some(reference) = reference.strip_prefix('^') {
            let start = out.len();
            self.expand_reference(reference, memory, rng, depth, out);
            if let Some(first) = out.get_mut(start..start + 1) {
                first.make_ascii_uppercase();
            }
            return;
        }
        if let Some((key, name)) = reference.split_once(':') {
            if !memory.contains_key(key) {
                let mut text = String::new();
                self.expand_reference(name, memory, rng, depth + 1, &mut text);
                memory.insert(key.to_owned(), text);
            }
            out.push_str(&memory[key]);
            return;
        }
        let number = match reference {
            "small" => Some(rng.random_range(2..=12)),
            "medium" => Some(rng.random_range(13..=99)),
            "large" => Some(rng.random_range(100..=999)),
            _ => None,
        };
        if let Some(number) = number {
            out.push_str(&format!("{number}"));
        } else if let Some(alternatives) = self.0.get(reference) {
            let text = weighted(alternatives, rng).copied().unwrap_or_default();
            self.expand_text(text, memory, rng, depth + 1, out);
        }
    }
}

/// `3* text` has weight 3, `text` has weight 1.
fn weight_and_text(alternative: &'static str) -> (u32, &'static str) {
    let alternative = alternative.trim();
    match alternative.split_once('*').map(|(weight, text)| (weight.parse(), text)) {
        Some((Ok(weight), text)) => (weight, text.trim()),
        _ => (1, alternative),
    }
}

/// Writes line breaks, and "an" for "a" where a vowel follows.
fn with_articles(text: &str) -> String {
    let text = text.replace("\\n", "\n");
    let mut out = String::with_capacity(text.len() + 16);
    let mut words = text.split(' ').peekable();
    while let Some(word) = words.next() {
        out.push_str(word);
        let Some(next) = words.peek() else { break };
        let bare = word.trim_start_matches(|c: char| !c.is_alphanumeric());
        let vowel = next.starts_with(['a', 'e', 'i', 'o', 'u']) && !next.starts_with("use");
        if vowel && matches!(bare, "a" | "A") {
            out.push('n');
        }
        out.push(' ');
    }
    out
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn references(text: &str) -> impl Iterator<Item = &str> {
        text.split('{').skip(1).map(|part| {
            let reference = part.split('}').next().unwrap();
            let reference = reference.trim_start_matches('^');
            reference.split_once(':').map_or(reference, |(_, name)| name)
        })
    }

    #[test]
    fn everything_the_grammar_refers_to_exists() {
        for (rule, alternatives) in &GRAMMAR.0 {
            for (_, text) in alternatives {
                for reference in references(text) {
                    assert!(
                        GRAMMAR.0.contains_key(reference)
                            || ["small", "medium", "large"].contains(&reference),
                        "{rule} refers to {reference}, which does not exist",
                    );
                }
            }
        }
    }

    #[test]
    fn no_expansion_leaves_a_bracket_or_a_double_space() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for rule in GRAMMAR.0.keys() {
            for _ in 0..200 {
                let text = expand(rule, &mut Memory::new(), &mut rng);
                assert!(!text.contains(['{', '}', '(', ')', '|', '\\']), "{rule}: {text}");
                assert!(!text.contains("  "), "{rule}: {text}");
            }
        }
    }

    #[test]
    fn what_has_a_key_is_the_same_everywhere_in_a_conversation() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut memory = Memory::new();
        let first = expand("topic:animal", &mut memory, &mut rng);
        assert!((0..50).all(|_| expand("topic:animal", &mut memory, &mut rng) == first));
    }

    #[test]
    fn vowels_get_their_article() {
        assert_eq!(
            with_articles("a owl saw \"a apple\" and a useful a"),
            "an owl saw \"an apple\" and a useful a"
        );
    }
}
