//! From token ids to text, piece by piece: whole characters only, and nothing that belongs to a stop text.

use tokenizers::Tokenizer;

/// What the tokenizer writes for bytes that are no whole character.
const BROKEN: char = '\u{FFFD}';

/// Text of an answer, special tokens left out, and an unfinished character at the end as well.
pub(crate) fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, tokenizers::Error> {
    let mut text = tokenizer.decode(ids, true)?;
    text.truncate(text.trim_end_matches(BROKEN).len());
    Ok(text)
}

/// Turns ids into text as they come. The parts together are what [`decode`] makes of all ids.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The last ids that gave text, then those that gave none yet. How a token reads can depend on the one before it.
    ids: Vec<u32>,
    /// How many of them gave text.
    read: usize,
    /// What those decode to.
    prefix: String,
}

impl Decoder {
    /// The text that became certain with this id.
    pub(crate) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        id: u32,
    ) -> Result<String, tokenizers::Error> {
        self.ids.push(id);
        let whole = tokenizer.decode(&self.ids, true)?;
        if whole.ends_with(BROKEN) || whole.len() <= self.prefix.len() {
            return Ok(String::new());
        }
        // The prefix can read differently with what follows it only in tokenizers that clean up spaces; then the part
        // that agrees is what has been given out.
        let new = whole.get(self.prefix.len()..).unwrap_or_default().to_owned();
        self.ids.drain(..self.read);
        self.read = self.ids.len();
        self.prefix = tokenizer.decode(&self.ids, true)?;
        Ok(new)
    }
}

/// Holds text back while it may be the beginning of a stop text.
#[derive(Debug)]
pub(crate) struct StopWatch {
    stops: Vec<String>,
    held: String,
}

/// What [`StopWatch::push`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// Text that is certain not to belong to a stop text.
    Text(String),
    /// The text before the stop text.
    Stopped(String),
}

impl StopWatch {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    pub(crate) fn push(&mut self, text: String) -> Watched {
        if self.stops.is_empty() {
            return Watched::Text(text);
        }
        self.held.push_str(&text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Watched::Stopped(std::mem::take(&mut self.held));
        }
        let keep = self.stops.iter().map(|stop| beginning(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Watched::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back when the answer ended otherwise.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that begins `stop`.
fn beginning(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(at, _)| at)
        .rev()
        .find(|&length| text.ends_with(&stop[..length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every byte is a token, so that every character of several bytes is split.
    fn bytes() -> Tokenizer {
        let alphabet: std::collections::BTreeSet<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        let vocabulary: serde_json::Map<String, serde_json::Value> =
            alphabet.into_iter().zip(0..).map(|(c, id)| (c.to_string(), id.into())).collect();
        let byte_level = serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        });
        let end = serde_json::json!({
            "id": 256, "content": "<end>", "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        });
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [end], "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
        });
        json.to_string().parse().unwrap()
    }

    proptest! {
        #[test]
        fn pieces_are_whole_characters_and_make_the_text(text in "\\PC{0,40}") {
            let tokenizer = bytes();
            let ids = tokenizer.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
            let mut decoder = Decoder::default();
            let pieces: Vec<String> =
                ids.iter().map(|&id| decoder.push(&tokenizer, id).unwrap()).collect();
            // The replacement character cannot be told from an unfinished one.
            prop_assert_eq!(pieces.concat(), text.trim_end_matches(BROKEN));
            prop_assert_eq!(decode(&tokenizer, &ids).unwrap(), text.trim_end_matches(BROKEN));
        }

        #[test]
        fn stop_texts_cut_where_they_first_occur(
            text in "[ab]{0,30}", stops in proptest::collection::vec("[ab]{1,4}", 0..4), size in 1..5_usize,
        ) {
            let mut watch = StopWatch::new(stops.clone());
            let mut seen = String::new();
            let mut stopped = false;
            for chunk in text.as_bytes().chunks(size) {
                match watch.push(String::from_utf8(chunk.to_vec()).unwrap()) {
                    Watched::Text(text) => seen.push_str(&text),
                    Watched::Stopped(text) => {
                        seen.push_str(&text);
                        stopped = true;
                        break;
                    }
                }
            }
            if !stopped {
                seen.push_str(&watch.finish());
            }
            let cut = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
            prop_assert_eq!(stopped, cut.is_some());
            if stopped {
                // Which of two overlapping stop texts is complete first can depend on the pieces.
                prop_assert!(stops.iter().any(|stop| text[seen.len()..].starts_with(stop.as_str())));
            } else {
                prop_assert_eq!(seen, text);
            }
        }
    }

    #[test]
    fn a_character_cut_off_at_the_end_is_left_out() {
        let tokenizer = bytes();
        let ids = tokenizer.encode_fast("a€", false).unwrap().get_ids().to_vec();
        assert_eq!(decode(&tokenizer, &ids[..2]).unwrap(), "a");
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(&tokenizer, ids[0]).unwrap(), "a");
        assert_eq!(decoder.push(&tokenizer, ids[1]).unwrap(), "");
    }

    #[test]
    fn special_tokens_give_no_text() {
        let tokenizer = bytes();
        let end = tokenizer.token_to_id("<end>").unwrap();
        let a = tokenizer.token_to_id("a").unwrap();
        let mut decoder = Decoder::default();
        let pieces: Vec<_> =
            [a, end, a].iter().map(|&id| decoder.push(&tokenizer, id).unwrap()).collect();
        assert_eq!(pieces, ["a", "", "a"]);
    }

    #[test]
    fn bytes_that_are_no_character_come_out_with_what_follows() {
        let tokenizer = bytes();
        let broken = tokenizer.encode_fast("€", false).unwrap().get_ids()[1];
        let a = tokenizer.token_to_id("a").unwrap();
        let mut decoder = Decoder::default();
        let ids = [broken, broken, a];
        let text: Vec<String> =
            ids.iter().map(|&id| decoder.push(&tokenizer, id).unwrap()).collect();
        assert_eq!(text, ["", "", "\u{FFFD}\u{FFFD}a"]);
        assert_eq!(decode(&tokenizer, &ids).unwrap(), text.concat());
    }
}
