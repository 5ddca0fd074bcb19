//! The byte-level BPE tokenizer and the chat format.

use anyhow::{Result, anyhow};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, Tokenizer, TokenizerBuilder,
};

use crate::corpus::Corpus;

/// Number of tokens. Divisible by 256, so that the output layer can be quantised in blocks of 256 as well.
pub const VOCABULARY: usize = 1536;
/// Begins a chat message: id and text.
pub const TURN_START: (u32, &str) = (0, "<|im_start|>");
/// Ends a chat message: id and text.
pub const TURN_END: (u32, &str) = (1, "<|im_end|>");
/// Ends a document: id and text.
pub const END_OF_TEXT: (u32, &str) = (2, "<|endoftext|>");

/// Both models share one tokenizer, whatever seed they are trained with.
const SAMPLE_SEED: u64 = 1;
const SAMPLE_DOCUMENTS: usize = 12_000;

/// The chat template that `tokenizer_config.json` carries.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n\
    {{ message['content'] }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Learns the merges from a sample of the corpus.
///
/// # Errors
/// When training fails or yields another vocabulary size.
pub fn train(corpus: &Corpus) -> Result<Tokenizer> {
    let specials: Vec<AddedToken> =
        [TURN_START, TURN_END, END_OF_TEXT].map(|(_, text)| AddedToken::from(text, true)).to_vec();
    let mut tokenizer = TokenizerBuilder::<
        ModelWrapper,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::default()
    .with_model(ModelWrapper::BPE(BPE::default()))
    .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false).into()))
    .with_decoder(Some(ByteLevel::default().into()))
    .build()
    .map_err(boxed)?;
    let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
        .vocab_size(VOCABULARY)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(specials)
        .build()
        .into();
    let texts = corpus.training(SAMPLE_SEED).take(SAMPLE_DOCUMENTS).map(|document| {
        [TURN_START, TURN_END, END_OF_TEXT]
            .iter()
            .fold(document, |text, (_, special)| text.replace(special, "\n"))
    });
    tokenizer.train(&mut trainer, texts).map_err(boxed)?;
    let tokenizer: Tokenizer = tokenizer.into();
    let size = tokenizer.get_vocab_size(true);
    anyhow::ensure!(size == VOCABULARY, "the corpus gave {size} tokens, not {VOCABULARY}");
    Ok(tokenizer)
}

/// Token ids of a text that may contain the special tokens.
///
/// # Errors
/// When the tokenizer fails.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer.encode_fast(text, false).map_err(boxed)?.get_ids().to_vec())
}

/// The text of token ids, special tokens left out.
///
/// # Errors
/// When the tokenizer fails.
pub fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String> {
    tokenizer.decode(ids, true).map_err(boxed)
}

pub(crate) fn boxed(error: tokenizers::Error) -> anyhow::Error {
    anyhow!(error)
}

/// The prompt of a chat, ready for the assistant's answer. Each message is a role and its text.
#[must_use]
pub fn chat_prompt(messages: &[(&str, &str)]) -> String {
    let mut prompt = String::new();
    for (role, text) in messages {
        prompt.push_str(&turn(role, text));
    }
    prompt.push_str(&format!("{}assistant\n", TURN_START.1));
    prompt
}

/// One message in the chat format.
#[must_use]
pub fn turn(role: &str, text: &str) -> String {
    format!("{}{role}\n{text}{}\n", TURN_START.1, TURN_END.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_survives_the_round_trip() {
        let corpus = Corpus::new().unwrap();
        let tokenizer = train(&corpus).unwrap();
        let strange = ["", " two  spaces ", "Zürich, 東京, 🦀\n\ttabs\0", "don't [stop]"];
        let documents: Vec<String> = corpus
            .held_out(3)
            .take(30)
            .map(|text| text.replace("<|", "<").replace("|>", ">"))
            .collect();
        for text in strange.into_iter().chain(documents.iter().map(String::as_str)) {
            let ids = encode(&tokenizer, text).unwrap();
            assert_eq!(decode(&tokenizer, &ids).unwrap(), text);
        }
        let ids = encode(&tokenizer, &chat_prompt(&[("user", "Hello!")])).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == TURN_START.0).count(), 2);
        assert_eq!(ids.iter().filter(|id| **id == TURN_END.0).count(), 1);
        assert_eq!(encode(&tokenizer, END_OF_TEXT.1).unwrap(), [END_OF_TEXT.0]);
    }
}
