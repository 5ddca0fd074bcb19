//! What can be wrong with an answer whatever the model thinks of it.

use common::checks::{Check, Finding};
use common::generation::FinishReason;
use common::openai::Asked;
use common::receipt::{Generated, MAX_TOKENS, request_digest};
use engine::{ModelInfo, Reference};

/// How far a log-probability may lie above 0, in nats: the sum under the logarithm is rounded, in f16 to about this.
const ROUNDING: f32 = 2e-3;

/// Longer than the text of any token, in bytes (vocabularies hold runs of up to 128 blanks).
const LONGEST_TOKEN: usize = 128;

/// Findings that need no prefill. The first four are told alone: nothing after them says anything about this miner, or is
/// worth reading.
pub fn examine(check: &Check, asked: &Asked, model: &ModelInfo) -> Vec<Finding> {
    let generated = &check.receipt.generated;
    let limit = asked.generation.max_tokens;
    let longest = generated.tokens.len().max(generated.logprobs.len());
    if longest > MAX_TOKENS {
        return vec![Finding::TooManyTokens { limit, got: as_u32(longest) }];
    }
    if !check.receipt.is_signed_by(&check.miner) {
        return vec![Finding::BadSignature];
    }
    if generated.task != check.task
        || generated.request_digest != request_digest(check.request.as_bytes())
    {
        return vec![Finding::ForeignRequest];
    }
    if generated.tokens.is_empty() {
        return vec![Finding::Empty];
    }
    let mut findings = Vec::new();
    if generated.tokens.len() != generated.logprobs.len() {
        findings.push(Finding::LengthMismatch);
    }
    // 0: the engine does not know its vocabulary.
    let ids = if model.vocabulary == 0 { u32::MAX } else { model.vocabulary };
    let outside = generated.tokens.iter().enumerate().find(|(_, token)| **token >= ids);
    if let Some((position, token)) = outside {
        findings.push(Finding::OutsideVocabulary { position: as_u32(position), token: *token });
    }
    let impossible = generated
        .logprobs
        .iter()
        .position(|logprob| !(logprob.is_finite() && *logprob <= ROUNDING));
    if let Some(position) = impossible {
        findings.push(Finding::ImpossibleLogprob { position: as_u32(position) });
    }
    let got = as_u32(generated.tokens.len());
    if got > limit {
        findings.push(Finding::TooManyTokens { limit, got });
    }
    let before_last = &generated.tokens[..generated.tokens.len() - 1];
    if before_last.iter().any(|token| model.end_tokens.contains(token)) {
        findings.push(Finding::PastTheEnd);
    }
    findings
}

/// Findings that need the text which the tokens decode to.
pub(super) fn compare(
    check: &Check,
    asked: &Asked,
    model: &ModelInfo,
    reference: &Reference,
) -> Vec<Finding> {
    let generated = &check.receipt.generated;
    let stop = first_stop(&reference.text, &asked.generation.stop);
    let mut findings = Vec::new();
    if !is_answer(&check.text, &reference.text, &asked.generation.stop) {
        findings.push(Finding::TextMismatch);
    }
    if stop.as_ref().is_some_and(|stop| reference.text.len() - stop.end > LONGEST_TOKEN) {
        findings.push(Finding::PastTheEnd);
    }
    let ended = stop.is_some() || ends(generated.tokens.last(), model);
    let got = as_u32(generated.tokens.len());
    let full = got >= asked.generation.max_tokens
        // Engines differ by one in when they call their context full.
        || reference.prompt_tokens.saturating_add(got).saturating_add(1) >= model.context;
    let justified = match generated.finish_reason {
        // Which tokens end an answer must be known to deny that it ended.
        FinishReason::Stop | FinishReason::ToolCalls => ended || model.end_tokens.is_empty(),
        FinishReason::Length => full || ended,
    };
    if !justified {
        findings.push(Finding::StoppedEarly);
    }
    findings.extend(reference.outside_grammar.map(|position| Finding::OutsideGrammar { position }));
    findings
}

/// How many of the last tokens may be what ends the answer: an end token, or those of a stop text. 0 for an answer that
/// was cut.
///
/// Which tokens spell a stop text is not known, only that each one adds a byte or more: at most as many as there are
/// bytes from its start on, and an end token, which adds none.
pub(super) fn ending(
    generated: &Generated,
    asked: &Asked,
    model: &ModelInfo,
    reference: &Reference,
) -> usize {
    match first_stop(&reference.text, &asked.generation.stop) {
        Some(stop) => reference.text.len() - stop.start + 1,
        None if generated.finish_reason == FinishReason::Length
            && !ends(generated.tokens.last(), model) =>
        {
            0
        }
        None => 1,
    }
}

/// Where the first stop text to be completed lies.
fn first_stop(text: &str, stops: &[String]) -> Option<std::ops::Range<usize>> {
    stops
        .iter()
        .filter_map(|stop| text.find(stop.as_str()).map(|start| start..start + stop.len()))
        .min_by_key(|found| (found.end, found.start))
}

/// Whether `answer` is what a client gets of `text`. Engines look for stop texts after each token, and differ in which of
/// several they take, so the answer may end where any of them begins.
fn is_answer(answer: &str, text: &str, stops: &[String]) -> bool {
    let mut cuts = stops.iter().filter_map(|stop| text.find(stop.as_str())).peekable();
    match cuts.peek() {
        None => same_text(text, answer),
        Some(_) => cuts.any(|cut| same_text(&text[..cut], answer)),
    }
}

/// A character cut in half by the token limit is shown as a replacement character by some engines, left out by others, and
/// so is white space before a chat's answer.
fn same_text(ours: &str, theirs: &str) -> bool {
    fn shown(text: &str) -> &str {
        text.trim_end_matches('\u{fffd}').trim_start()
    }
    shown(ours) == shown(theirs)
}

fn ends(last: Option<&u32>, model: &ModelInfo) -> bool {
    last.is_some_and(|token| model.end_tokens.contains(token))
}

fn as_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_a_stop_text_begins() {
        // One token can complete several.
        let stops = ["h".to_owned(), "the".to_owned(), "never".to_owned()];
        let text = "over the";
        for (answer, fits) in [("over t", true), ("over ", true), ("over th", false), (text, false)]
        {
            assert_eq!(is_answer(answer, text, &stops), fits, "{answer:?}");
        }
        assert!(is_answer(text, text, &[]) && is_answer(text, text, &stops[2..]));
        assert!(!is_answer("over ", text, &stops[2..]));
    }

    #[test]
    fn white_space_before_an_answer_may_be_left_out_and_nowhere_else() {
        assert!(same_text(" 612 cats", "612 cats") && same_text("cats\u{fffd}", "cats"));
        assert!(!same_text("612 cats", "612cats") && !same_text("cats", "cats "));
    }
}
