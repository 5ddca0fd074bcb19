//! The training text: chats, stories and short articles drawn from a grammar, endless and repeatable from a seed.

use anyhow::Result;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::grammar::{Grammar, Memory, capitalised};
use crate::tokenizer::{END_OF_TEXT, turn};

const GRAMMAR: [&str; 4] = [
    include_str!("../grammar/tables.txt"),
    include_str!("../grammar/words.txt"),
    include_str!("../grammar/stories.txt"),
    include_str!("../grammar/dialogues.txt"),
];

/// The order of the style table's first rows.
const PLAIN: usize = 0;
const PIRATE: usize = 1;
const BRIEF: usize = 10;
const LIST: usize = 11;
const BULLETS: usize = 12;

/// One document in so many is kept for measuring and never trained on.
const HELD_OUT_SHARE: u64 = 50;

/// Makes documents.
#[derive(Debug)]
pub struct Corpus {
    grammar: Grammar,
}

impl Corpus {
    /// Reads the grammar that is compiled in and tries it once.
    ///
    /// # Errors
    /// When the grammar refers to something that does not exist.
    pub fn new() -> Result<Self> {
        let corpus = Self { grammar: Grammar::parse(&GRAMMAR)? };
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for _ in 0..2_000 {
            corpus.document(&mut rng)?;
        }
        Ok(corpus)
    }

    /// Endless training documents; the same for the same seed.
    pub fn training(&self, seed: u64) -> impl Iterator<Item = String> {
        self.documents(seed).filter(|document| !is_held_out(document))
    }

    /// Endless documents none of which occurs in any training text; the same for the same seed.
    pub fn held_out(&self, seed: u64) -> impl Iterator<Item = String> {
        self.documents(seed).filter(|document| is_held_out(document))
    }

    fn documents(&self, seed: u64) -> impl Iterator<Item = String> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // The grammar was tried when it was read, so that a document that fails is only left out.
        std::iter::repeat_with(move || self.document(&mut rng)).filter_map(Result::ok)
    }

    fn document(&self, rng: &mut impl Rng) -> Result<String> {
        let text = if rng.random_bool(0.2) {
            let text = self.grammar.expand("{raw}", &mut numbers(rng), rng)?;
            tidy(&text)
        } else {
            self.chat(rng)?
        };
        Ok(text + END_OF_TEXT.1)
    }

    fn chat(&self, rng: &mut impl Rng) -> Result<String> {
        let styles = self.grammar.rows("style");
        let (style, with_system) = match rng.random_range(0..10) {
            0..3 => (PLAIN, false),
            3..5 => (PLAIN, true),
            _ => (rng.random_range(1..styles), true),
        };
        let mut chat = String::new();
        let mut memory = numbers(rng);
        memory.set_row("style", style);
        if with_system {
            let system = self.grammar.expand("{style.system}", &mut memory, rng)?;
            chat.push_str(&turn("system", &tidy(&system)));
        }
        let dialogues = 1 + usize::from(rng.random_bool(0.25)) + usize::from(rng.random_bool(0.1));
        for _ in 0..dialogues {
            let mut memory = numbers(rng);
            memory.set_row("style", style);
            let dialogue = self.grammar.expand("{dialogue}", &mut memory, rng)?;
            for (index, text) in dialogue.split(" => ").enumerate() {
                if index % 2 == 0 {
                    chat.push_str(&turn("user", &casual(tidy(text), rng)));
                } else {
                    let answer = self.styled(text, style, &mut memory, rng)?;
                    chat.push_str(&turn("assistant", &answer));
                }
            }
        }
        Ok(chat)
    }

    fn styled(
        &self,
        answer: &str,
        style: usize,
        memory: &mut Memory,
        rng: &mut impl Rng,
    ) -> Result<String> {
        let mut whole = String::new();
        if rng.random_bool(0.85) {
            whole += &self.grammar.expand("{style.open}", memory, rng)?;
        }
        whole += answer;
        if rng.random_bool(0.6) {
            whole += " ";
            whole += &self.grammar.expand("{style.close}", memory, rng)?;
        }
        let tidied = tidy(&whole);
        Ok(match style {
            PIRATE => pirate(&tidied),
            BRIEF => tidied
                .split_inclusive(['.', '!', '?'])
                .find(|sentence| sentence.trim().len() > 2)
                .map_or_else(|| tidied.clone(), |sentence| sentence.trim().to_owned()),
            LIST => itemised(&tidied, |index| format!("{}. ", index + 1)),
            BULLETS => itemised(&tidied, |_| "- ".to_owned()),
            _ => tidied,
        })
    }
}

/// Two small numbers and what can be computed from them, as variables of a document.
fn numbers(rng: &mut impl Rng) -> Memory {
    let first = rng.random_range(1..=20u32);
    let second = rng.random_range(1..=10u32);
    let mut memory = Memory::default();
    for (name, value) in [
        ("n1", first),
        ("n2", second),
        ("sum", first + second),
        ("bigger", first + second),
        ("product", first * second),
        ("double", first * 2),
        ("n2x2", second * 2),
        ("next", first + 1),
        ("n1+1", first + 1),
        ("n1+2", first + 2),
        ("n1+3", first + 3),
    ] {
        memory.set(name, value);
    }
    memory
}

/// Whether a document is kept for measuring: decided by its text (FNV-1a), so that it can never be trained on.
fn is_held_out(document: &str) -> bool {
    let hash = document.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash >> 32).is_multiple_of(HELD_OUT_SHARE)
}

/// Repairs what joining templates leaves: spaces, "a" before a vowel, small letters at the start of sentences.
fn tidy(text: &str) -> String {
    let text = text.replace("\\n", "\n");
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            for index in 1..words.len() {
                let vowel = words[index].starts_with(['a', 'e', 'i', 'o', 'u'])
                    || words[index].starts_with("hono")
                    || words[index].starts_with("hones")
                    || words[index].starts_with("hour");
                if vowel && matches!(words[index - 1].as_str(), "a" | "A") {
                    words[index - 1].push('n');
                }
            }
            words.join(" ")
        })
        .collect();
    let mut text = lines.join("\n").trim().to_owned();
    for (from, to) in [(" ,", ","), (" .", "."), (" ?", "?"), (" !", "!")] {
        text = text.replace(from, to);
    }
    let mut out = String::with_capacity(text.len());
    let mut starts = true;
    let mut previous = ' ';
    for c in text.chars() {
        if c.is_whitespace() {
            starts |= matches!(previous, '.' | '!' | '?') && !out.ends_with("...");
        } else if starts && c.is_alphabetic() {
            out.extend(c.to_uppercase());
            starts = false;
            previous = c;
            continue;
        } else if !matches!(c, '"' | '-' | '.') {
            starts = false;
        }
        out.push(c);
        previous = c;
    }
    out
}

/// People do not always write carefully.
fn casual(text: String, rng: &mut impl Rng) -> String {
    match rng.random_range(0..12) {
        0 => text.to_lowercase().trim_end_matches(['.', '?', '!']).to_owned(),
        1 => text.trim_end_matches(['.', '?']).to_owned(),
        _ => text,
    }
}

fn pirate(text: &str) -> String {
    const WORDS: [(&str, &str); 12] = [
        ("you", "ye"),
        ("your", "yer"),
        ("my", "me"),
        ("yes", "aye"),
        ("is", "be"),
        ("are", "be"),
        ("hello", "ahoy"),
        ("and", "an'"),
        ("of", "o'"),
        ("small", "wee"),
        ("never", "ne'er"),
        ("for", "fer"),
    ];
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        let lower = word.to_lowercase();
        match WORDS.iter().find(|(plain, _)| *plain == lower) {
            Some((_, said)) if *word == lower => out.push_str(said),
            Some((_, said)) => out.push_str(&capitalised(said)),
            None => out.push_str(word),
        }
        word.clear();
    };
    for c in text.chars() {
        if c.is_alphabetic() || c == '\'' {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            out.push(c);
        }
    }
    flush(&mut word, &mut out);
    out
}

/// Every sentence on a line of its own, behind a mark.
fn itemised(text: &str, mark: impl Fn(usize) -> String) -> String {
    let mut sentences: Vec<String> = Vec::new();
    for line in text.lines() {
        let line = line.trim_start_matches(|c: char| c.is_numeric() || c == '.' || c == ' ');
        for part in line.split_inclusive(['.', '!', '?']) {
            let part = part.trim();
            match sentences.last_mut() {
                // A closing quote or dots belong to the sentence before.
                Some(last) if part.chars().filter(|c| c.is_alphanumeric()).count() == 0 => {
                    last.push_str(part);
                }
                _ if part.is_empty() => {}
                _ => sentences.push(part.to_owned()),
            }
        }
    }
    let lines: Vec<String> = sentences
        .iter()
        .enumerate()
        .map(|(index, sentence)| mark(index) + &capitalised(sentence))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_text() {
        let corpus = Corpus::new().unwrap();
        let take = |seed| corpus.training(seed).take(50).collect::<Vec<_>>();
        assert_eq!(take(3), take(3));
        assert_ne!(take(3), take(4));
    }

    #[test]
    fn documents_hardly_repeat() {
        let corpus = Corpus::new().unwrap();
        let different: HashSet<_> = corpus.training(5).take(2_000).collect();
        assert!(different.len() > 1_900, "{} of 2000", different.len());
    }

    #[test]
    fn held_out_documents_are_never_trained_on() {
        let corpus = Corpus::new().unwrap();
        let held_out: HashSet<_> = corpus.held_out(7).take(100).collect();
        // The same seed, so that the two streams come from the very same draws.
        assert!(corpus.training(7).take(5_000).all(|document| !held_out.contains(&document)));
    }

    #[test]
    fn no_template_syntax_is_left_in_the_text() {
        let corpus = Corpus::new().unwrap();
        for document in corpus.training(9).take(3_000) {
            let plain = document.replace("<|", "").replace("|>", "");
            assert!(!plain.contains(['{', '}', '[', ']', '|', '\\']), "{document}");
            assert!(!plain.contains("=>") && !plain.contains("  "), "{document}");
            assert!(document.ends_with(END_OF_TEXT.1));
        }
    }

    #[test]
    fn sentences_are_tidied() {
        assert_eq!(tidy("it is  a owl . 3 plus 4 is 7 ."), "It is an owl. 3 plus 4 is 7.");
        assert_eq!(tidy("1. cook. \\n2. an hour"), "1. Cook.\n2. An hour");
    }

    #[test]
    fn the_system_prompt_shapes_the_answer() {
        assert_eq!(pirate("Is your cat small? Yes."), "Be yer cat wee? Aye.");
        assert_eq!(itemised("One. Two!", |index| format!("{}. ", index + 1)), "1. One.\n2. Two!");
    }
}
