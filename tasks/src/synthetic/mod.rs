//! Makes the requests that miners are probed with.
//!
//! Everything comes from the random numbers that are handed in: who knows them can make the same request again, who does
//! not cannot guess it. What a miner sees has the form and the ranges of a user's request: see [`wire`](crate::wire).

mod draw;
mod form;
mod grammar;

use common::generation::{Adjustment, Generation, Message, Prompt, Role, Sampling};
use common::openai::{Kind, prompt_bytes};
use rand::Rng;

use crate::wire::miner_body;
use crate::{Prompts, Task};
use grammar::{Memory, expand};

/// What a word takes at most with the white space behind it: prompts are bounded in words, requests in bytes.
pub(crate) const BYTES_PER_WORD: u32 = 16;
/// The most messages of a made-up conversation.
pub(crate) const MOST_MESSAGES: usize = 5;

/// A request made up by the validator.
#[derive(Debug, Clone, PartialEq)]
pub struct Synthetic {
    /// Exactly what a miner is sent.
    pub body: String,
    /// The same, parsed.
    pub generation: Generation,
}

/// Makes up a request for a task; the same one for the same random numbers.
pub fn request(task: &Task, rng: &mut impl Rng) -> Synthetic {
    let prompts = &task.prompts;
    let words = draw::words(prompts.words, rng) as usize;
    let prompt = match task.kind {
        Kind::Chat => Prompt::Chat(conversation(prompts, words, rng)),
        Kind::Completion => Prompt::Text(beginning(words, prompts.words.max as usize, rng)),
    };
    let (format, tools) = form::form(task.kind, task.features, rng);
    // They count among the prompt's bytes, and the prompt may have used these up.
    let room = task.limits.max_prompt_bytes as usize;
    let tools = tools.filter(|tools| prompt_bytes(&prompt, Some(tools)) <= room);
    let generation = Generation {
        prompt,
        sampling: Sampling {
            seed: draw::seed(rng),
            temperature: draw::temperature(prompts.temperature, rng),
            top_p: draw::top_p(rng),
        },
        max_tokens: draw::max_tokens(prompts.max_tokens, task.limits.max_tokens, rng),
        stop: stop_texts(task.kind, rng),
        top_logprobs: draw::top_logprobs(rng),
        adjustment: Adjustment {
            presence_penalty: draw::penalty(rng),
            frequency_penalty: draw::penalty(rng),
            bias: draw::bias(rng),
        },
        format,
        tools,
    };
    Synthetic { body: miner_body(&task.id, &generation), generation }
}

/// One to five messages of about so many words, the last one by the user.
fn conversation(prompts: &Prompts, words: usize, rng: &mut impl Rng) -> Vec<Message> {
    let mut memory = Memory::new();
    let exchanges = draw::weighted(&[(6, 1), (3, 2)], rng).copied().unwrap_or(1);
    let dialogue = expand("dialogue", &mut memory, rng);
    let (question, answer) = dialogue.split_once(" => ").unwrap_or((&dialogue, ""));
    let mut messages = vec![(Role::User, question.to_owned())];
    if exchanges == 2 {
        messages.push((Role::Assistant, answer.to_owned()));
        messages.push((Role::User, expand("follow", &mut memory, rng)));
        // Sometimes once more.
        if rng.random_bool(0.3) {
            messages.push((Role::Assistant, expand("reply", &mut memory, rng)));
            messages.push((Role::User, expand("follow", &mut memory, rng)));
        }
    }
    // The assistant writes correctly, people do not always.
    for (_, text) in messages.iter_mut().filter(|(role, _)| *role == Role::User) {
        *text = as_typed(std::mem::take(text), rng);
    }
    let so_far: usize = messages.iter().map(|(_, text)| count_words(text)).sum();
    if words > so_far + 20 {
        // A question that has been answered already stays.
        let replace = exchanges == 1 && rng.random_bool(0.6);
        add_notes(&mut messages[0].1, words - so_far, replace, &mut memory, rng);
    }
    if messages.len() < MOST_MESSAGES && rng.random_bool(prompts.system_share) {
        messages.insert(0, (Role::System, expand("system", &mut memory, rng)));
    }
    shorten(&mut messages, prompts.words.max as usize);
    messages.into_iter().map(|(role, content)| Message::new(role, content)).collect()
}

/// Makes a message long as people do: by putting a text before it, with the question as it is or one about the text.
fn add_notes(
    question: &mut String,
    words: usize,
    replace: bool,
    memory: &mut Memory,
    rng: &mut impl Rng,
) {
    let mut text = expand("notes_lead", memory, rng);
    text.push_str("\n\n");
    text.push_str(&sentences(words.saturating_sub(count_words(&text)), memory, rng));
    text.push_str("\n\n");
    text.push_str(&if replace {
        expand("notes_task", memory, rng)
    } else {
        std::mem::take(question)
    });
    *question = text;
}

/// The beginning of a text, of about so many words.
fn beginning(words: usize, most: usize, rng: &mut impl Rng) -> String {
    let mut memory = Memory::new();
    let opening = expand("opening", &mut memory, rng);
    let missing = words.saturating_sub(count_words(&opening));
    if missing <= 8 {
        return first_words(&opening, most);
    }
    let mut text = sentences(missing, &mut memory, rng);
    if opening.ends_with('.') {
        text = format!("{opening} {text}");
        // Left in the middle of a sentence, or not.
        if rng.random_bool(0.5) {
            let kept = count_words(&text) - rng.random_range(1..=5).min(missing - 1);
            text = first_words(&text, kept);
        }
    } else {
        text = format!("{text}\n\n{opening}");
    }
    first_words(&text, most)
}

/// At least so many words in whole sentences, with a paragraph here and there.
fn sentences(words: usize, memory: &mut Memory, rng: &mut impl Rng) -> String {
    let mut text = expand("sentence", memory, rng);
    let mut count = count_words(&text);
    while count < words {
        let sentence = expand("sentence", memory, rng);
        text.push_str(if rng.random_bool(0.1) { "\n\n" } else { " " });
        count += count_words(&sentence);
        text.push_str(&sentence);
    }
    text
}

/// Leaves out the oldest messages, then the end of the last one, until there are at most so many words.
fn shorten(messages: &mut Vec<(Role, String)>, most: usize) {
    let count = |messages: &[(Role, String)]| {
        messages.iter().map(|(_, text)| count_words(text)).sum::<usize>()
    };
    while count(messages) > most && messages.len() > 1 {
        messages.remove(0);
        // A conversation does not start with an answer.
        while messages.len() > 1 && messages[0].0 == Role::Assistant {
            messages.remove(0);
        }
    }
    if count(messages) > most {
        for (_, text) in messages.iter_mut() {
            *text = first_words(text, most);
        }
    }
}

fn count_words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// The text up to the end of its n-th word.
fn first_words(text: &str, n: usize) -> String {
    let mut end = 0;
    let mut rest = text;
    for _ in 0..n {
        let start = rest.len() - rest.trim_start().len();
        let word = rest[start..].find(char::is_whitespace).unwrap_or(rest.len() - start);
        end += start + word;
        rest = &rest[start + word..];
    }
    // A text with no more words keeps the white space at its end.
    if rest.trim().is_empty() { text.to_owned() } else { text[..end].to_owned() }
}

/// People do not always write carefully.
fn as_typed(text: String, rng: &mut impl Rng) -> String {
    match rng.random_range(0..14) {
        0 => text.to_lowercase().trim_end_matches(['.', '?']).to_owned(),
        1 => text.trim_end_matches(['.', '?']).to_owned(),
        2 => format!("{text} "),
        _ => text,
    }
}

fn stop_texts(kind: Kind, rng: &mut impl Rng) -> Vec<String> {
    const USUAL: [(u32, &[&str]); 5] =
        [(3, &["\n\n"]), (3, &["\n"]), (1, &["###"]), (1, &["END"]), (1, &["User:", "\n\n"])];
    let share = if kind == Kind::Chat { 0.03 } else { 0.12 };
    if !rng.random_bool(share) {
        return Vec::new();
    }
    let texts = draw::weighted(&USUAL, rng).copied().unwrap_or_default();
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use common::generation::Format;
    use common::openai::{BYTES_PER_MESSAGE, Features, parse};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{Catalogue, Span};

    fn catalogue(name: &str) -> Catalogue {
        Catalogue::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name))
            .unwrap()
    }

    fn seeded(task: &Task, seed: u64) -> Synthetic {
        request(task, &mut ChaCha8Rng::seed_from_u64(seed))
    }

    fn text_of(prompt: &Prompt) -> String {
        match prompt {
            Prompt::Chat(messages) => messages
                .iter()
                .map(|message| message.content.as_str())
                .collect::<Vec<_>>()
                .join("\n"),
            Prompt::Text(text) => text.clone(),
        }
    }

    #[test]
    fn prompts_of_two_thousand_requests_are_hardly_ever_the_same() {
        for task in catalogue("tasks.toml").tasks() {
            let distinct: BTreeSet<String> =
                (0..2000).map(|seed| text_of(&seeded(task, seed).generation.prompt)).collect();
            assert!(distinct.len() > 1980, "{}: {} of 2000", task.id, distinct.len());
        }
    }

    #[test]
    fn conversations_have_one_to_five_messages_and_end_with_the_user() {
        let catalogue = catalogue("tasks.toml");
        let mut lengths = BTreeSet::new();
        let mut with_system = 0;
        for seed in 0..1000 {
            let Prompt::Chat(messages) = seeded(&catalogue.tasks()[0], seed).generation.prompt
            else {
                panic!("a conversation");
            };
            lengths.insert(messages.len());
            with_system += u32::from(messages[0].role == Role::System);
            assert_eq!(messages.last().unwrap().role, Role::User);
            let spoken: Vec<_> =
                messages.iter().filter(|message| message.role != Role::System).collect();
            assert!(spoken.windows(2).all(|pair| pair[0].role != pair[1].role));
            assert!(messages.iter().all(|message| !message.content.trim().is_empty()));
        }
        assert_eq!(lengths, BTreeSet::from([1, 2, 3, 4, 5]));
        assert!((250..450).contains(&with_system), "{with_system}");
    }

    #[test]
    fn some_requests_have_the_max_tokens_of_a_user_s_request_without_one() {
        for task in catalogue("tasks.toml").tasks() {
            let plain = match task.kind {
                Kind::Chat => r#""messages": [{"role": "user", "content": "hi"}]"#,
                Kind::Completion => r#""prompt": "hi""#,
            };
            let body = format!(r#"{{"model": "{}", {plain}}}"#, task.id);
            let left_out =
                parse(task.kind, body.as_bytes(), task.limits()).unwrap().generation.max_tokens;
            let drawn = |seed| seeded(task, seed).generation.max_tokens;
            let same = (0..1000).filter(|seed| drawn(*seed) == left_out).count();
            assert!((150..350).contains(&same), "{}: {same} of 1000", task.id);
        }
    }

    #[test]
    fn a_few_requests_ask_for_json_or_for_calls_where_the_task_can() {
        let catalogue = catalogue("tasks.toml");
        let made = |features| {
            let task = Task { features, ..catalogue.tasks()[0].clone() };
            let all = (0..3000).map(|seed| seeded(&task, seed).generation);
            let form = |generation: Generation| {
                (
                    generation.format != Format::Text,
                    generation.tools.is_some(),
                    generation.is_constrained(),
                )
            };
            let all: Vec<_> = all.map(form).collect();
            let count = |form| all.iter().filter(|other| **other == form).count();
            [count((true, false, true)), count((false, true, true)), count((false, true, false))]
        };
        let [json, forced, auto] = made(Features::ALL);
        assert!((25..110).contains(&json), "{json}");
        assert!((5..60).contains(&forced) && (10..80).contains(&auto), "{forced} {auto}");
        assert_eq!(made(Features::NONE), [0, 0, 0]);
        let completion = &catalogue.tasks()[1];
        assert!((0..1000).all(|seed| !seeded(completion, seed).generation.is_constrained()));
    }

    #[test]
    fn lengths_spread_over_the_task_s_range() {
        let catalogue = catalogue("tasks.subnet19.toml");
        for task in &catalogue.tasks()[..2] {
            let words: Vec<usize> = (0..200)
                .map(|seed| count_words(&text_of(&seeded(task, seed).generation.prompt)))
                .collect();
            assert!(words.iter().any(|n| *n < 60) && words.iter().any(|n| *n > 1500), "{words:?}");
        }
    }

    #[test]
    fn no_word_is_longer_than_prompts_are_planned_for() {
        for task in catalogue("tasks.toml").tasks() {
            for seed in 0..1000 {
                let text = text_of(&seeded(task, seed).generation.prompt);
                let longest = text.split_whitespace().map(str::len).max().unwrap();
                assert!(longest < BYTES_PER_WORD as usize, "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_request_is_valid_for_its_task(
            seed: u64, least in 1..60u32, more in 0..100u32, max_tokens in 1..256u32,
        ) {
            for task in catalogue("tasks.toml").tasks() {
                let mut task = task.clone();
                task.prompts.words = Span { min: least, max: least + more };
                task.prompts.max_tokens = Span { min: 1, max: max_tokens };
                let messages = MOST_MESSAGES * BYTES_PER_MESSAGE;
                task.limits.max_prompt_bytes = (least + more) * BYTES_PER_WORD + messages as u32;
                let made = seeded(&task, seed);
                let asked = parse(task.kind, made.body.as_bytes(), task.limits()).unwrap();
                prop_assert_eq!(&asked.task, &task.id);
                prop_assert!(asked.has_seed && asked.stream && asked.logprobs);
                let drawn = asked.generation.max_tokens;
                prop_assert!(drawn <= max_tokens || drawn == task.limits.max_tokens);
                prop_assert!(count_words(&text_of(&made.generation.prompt)) <= (least + more) as usize);
                prop_assert_eq!(&asked.generation, &made.generation);
                // Whoever knows the random numbers makes the same request again.
                prop_assert_eq!(seeded(&task, seed), made);
            }
        }

        #[test]
        fn cutting_keeps_whole_words(text in "[a-z \n]{0,60}", n in 0..20usize) {
            let cut = first_words(&text, n);
            prop_assert!(text.starts_with(&cut));
            prop_assert_eq!(count_words(&cut), count_words(&text).min(n));
        }
    }
}
