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

    /// What is left when no id follows: the whole characters of tokens that end in a part of one.
    pub(crate) fn finish(&self, tokenizer: &Tokenizer) -> Result<String, tokenizers::Error> {
        let whole = decode(tokenizer, &self.ids)?;
        Ok(whole.get(self.prefix.len()..).unwrap_or_default().to_owned())
    }
}

/// Holds text back while it may be the beginning of a stop text. Finds the stop text that is complete first, the longest
/// of several: so the result does not depend on the pieces in which the text comes.
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
        let found = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = found.min() {
            self.held.truncate(start);
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
        with_merges(&[])
    }

    /// Every byte is a token, and so is what results from each merge of two.
    fn with_merges(merges: &[[&str; 2]]) -> Tokenizer {
        let alphabet: std::collections::BTreeSet<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        let tokens = alphabet.into_iter().map(|c| c.to_string());
        let vocabulary: serde_json::Map<String, serde_json::Value> = tokens
            .chain(merges.iter().map(|pair| pair.concat()))
            .zip(0..)
            .map(|(token, id)| (token, id.into()))
            .collect();
        let byte_level = serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        });
        let end = serde_json::json!({
            "id": 256 + merges.len(), "content": "<end>", "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        });
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [end], "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": { "type": "BPE", "vocab": vocabulary, "merges": merges },
        });
        json.to_string().parse().unwrap()
    }

    /// A space and the first two bytes of an emoji; the end of a character and the beginning of another.
    const MERGES: [[&str; 2]; 3] = [["Ġ", "ð"], ["Ġð", "Ł"], ["Ģ", "ð"]];
    const MIXED: [&str; 10] = ["Ġ", "ð", "Ł", "ĺ", "Ģ", "Ġð", "ĠðŁ", "Ģð", "a", "<end>"];

    fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut decoder = Decoder::default();
        let mut pieces: Vec<String> =
            ids.iter().map(|&id| decoder.push(tokenizer, id).unwrap()).collect();
        pieces.push(decoder.finish(tokenizer).unwrap());
        pieces
    }

    proptest! {
        #[test]
        fn pieces_are_whole_characters_and_make_the_text(text in "\\PC{0,40}") {
            let tokenizer = bytes();
            let ids = tokenizer.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
            let pieces = pieces(&tokenizer, &ids);
            // The replacement character cannot be told from an unfinished one.
            prop_assert_eq!(pieces.concat(), text.trim_end_matches(BROKEN));
            prop_assert_eq!(decode(&tokenizer, &ids).unwrap(), text.trim_end_matches(BROKEN));
        }

        #[test]
        fn the_pieces_of_any_tokens_make_what_all_of_them_decode_to(
            picks in proptest::collection::vec(0..MIXED.len(), 0..16),
        ) {
            let tokenizer = with_merges(&MERGES);
            let ids: Vec<u32> =
                picks.into_iter().map(|at| tokenizer.token_to_id(MIXED[at]).unwrap()).collect();
            prop_assert_eq!(pieces(&tokenizer, &ids).concat(), decode(&tokenizer, &ids).unwrap());
        }

        #[test]
        fn the_first_stop_text_to_be_complete_cuts_whatever_the_pieces(
            text in "[abc]{0,30}", stops in proptest::collection::vec("[abc]{1,4}", 0..4), size in 1..8_usize,
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
            let found = stops.iter().filter_map(|stop| {
                text.find(stop.as_str()).map(|start| (start + stop.len(), start))
            });
            let cut = found.min().map(|(_, start)| start);
            prop_assert_eq!(stopped, cut.is_some());
            prop_assert_eq!(seen, &text[..cut.unwrap_or(text.len())]);
        }
    }

    #[test]
    fn a_character_cut_off_at_the_end_is_left_out() {
        let tokenizer = bytes();
        let ids = tokenizer.encode_fast("a€", false).unwrap().get_ids().to_vec();
        assert_eq!(decode(&tokenizer, &ids[..2]).unwrap(), "a");
        assert_eq!(pieces(&tokenizer, &ids[..2]), ["a", "", ""]);
    }

    #[test]
    fn the_whole_characters_of_a_last_token_that_ends_in_a_part_of_one_come_at_the_end() {
        let tokenizer = with_merges(&MERGES);
        let ids = tokenizer.encode_fast("a \u{1F600}", false).unwrap().get_ids().to_vec();
        assert_eq!(pieces(&tokenizer, &ids), ["a", "", "", " \u{1F600}", ""]);
        assert_eq!(pieces(&tokenizer, &ids[..2]), ["a", "", " "]);
        assert_eq!(decode(&tokenizer, &ids[..2]).unwrap(), "a ");
    }

    #[test]
    fn special_tokens_give_no_text() {
        let tokenizer = bytes();
        let end = tokenizer.token_to_id("<end>").unwrap();
        let a = tokenizer.token_to_id("a").unwrap();
        assert_eq!(pieces(&tokenizer, &[a, end, a]), ["a", "", "a", ""]);
    }

    #[test]
    fn bytes_that_are_no_character_come_out_with_what_follows() {
        let tokenizer = bytes();
        let broken = tokenizer.encode_fast("€", false).unwrap().get_ids()[1];
        let a = tokenizer.token_to_id("a").unwrap();
        let ids = [broken, broken, a];
        let text = pieces(&tokenizer, &ids);
        assert_eq!(text, ["", "", "\u{FFFD}\u{FFFD}a", ""]);
        assert_eq!(decode(&tokenizer, &ids).unwrap(), text.concat());
    }
}
