//! Answers that were given before, to requests with other seeds.
//!
//! Runs of token ids are kept as hashes. An honest answer repeats a run that is kept only by chance: if a run of
//! probability `p` under the reference is found again among `k` that are kept, at one of `n` positions, then `1 / (p k n)`
//! is an e-value, as the chance to find any is at most the sum of their probabilities. It may be longer than a run by as
//! many tokens as there are, which divides by `n` once more.

use std::collections::{HashMap, VecDeque};

use common::checks::Repeated;
use common::openai::Asked;
use common::receipt::Generated;

/// Tokens of a run. Shorter ones are phrases that everybody uses.
const RUN: usize = 12;
/// Runs that are kept of each task: about 2,000 answers of 100 tokens, in about 15 MB.
const MOST: usize = 200_000;

/// The runs of one task's answers.
#[derive(Debug, Default)]
pub(crate) struct Index {
    runs: HashMap<u64, Place>,
    oldest_first: VecDeque<u64>,
    answers: u64,
}

/// Where a run is kept from.
#[derive(Debug, Clone, Copy)]
struct Place {
    origin: Origin,
    answer: u64,
    position: u32,
}

/// Where a run was given first: the request's seed, or the whole request if it has none.
///
/// An engine may well draw with the seeds of requests, though not as the checking server does. It then repeats itself, and
/// other miners' engines repeat it, where a user repeats a seed: that is no copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Origin(u64);

impl Origin {
    fn of(asked: &Asked, generated: &Generated) -> Self {
        match asked.has_seed {
            true => Self(asked.generation.sampling.seed),
            false => Self(hash(generated.request_digest.as_bytes())),
        }
    }
}

impl Index {
    /// Finds what of an answer was given before, if anything, and keeps the rest. The same answer sent for checking again is
    /// itself.
    pub(crate) fn look(&mut self, asked: &Asked, generated: &Generated) -> Option<Repeated> {
        let own = Origin::of(asked, generated);
        let kept = self.runs.len() as u64;
        self.answers += 1;
        let mut spans: Vec<(u32, u32)> = Vec::new();
        let mut last: Option<Place> = None;
        for (position, run) in (0..).zip(generated.tokens.windows(RUN)) {
            let bytes: Vec<u8> = run.iter().flat_map(|token| token.to_le_bytes()).collect();
            let key = hash(&bytes);
            let found = self.runs.get(&key).copied();
            if found.is_none() {
                self.keep(key, Place { origin: own, answer: self.answers, position });
            }
            let before = last.take();
            let Some(place) = found.filter(|place| place.origin != own) else { continue };
            let end = position + RUN as u32;
            let goes_on = before.is_some_and(|before| {
                (before.answer, before.position + 1) == (place.answer, place.position)
            });
            match spans.last_mut() {
                Some(span) if goes_on => span.1 = end,
                // Another coincidence, of the tokens that are new.
                Some(span) => {
                    let start = position.max(span.1);
                    spans.push((start, end));
                }
                None => spans.push((position, end)),
            }
            last = Some(place);
        }
        (!spans.is_empty()).then_some(Repeated { spans, kept })
    }

    fn keep(&mut self, key: u64, place: Place) {
        self.runs.insert(key, place);
        self.oldest_first.push_back(key);
        if self.oldest_first.len() > MOST
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.runs.remove(&oldest);
        }
    }
}

/// Eight bytes of BLAKE3: among the runs that are kept, another one is met by chance once in 10^13 lookups.
fn hash(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use common::generation::{FinishReason, Generation, Prompt, Sampling};
    use common::receipt::{Timings, request_digest};

    use super::*;

    fn look(index: &mut Index, seed: Option<u64>, tokens: &[u32]) -> Option<Repeated> {
        let prompt = Prompt::Text("Once".to_owned());
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, seed: seed.unwrap_or(0) };
        let asked = Asked {
            task: "chat-demo".parse().unwrap(),
            generation: Generation::plain(prompt, sampling, 100),
            has_seed: seed.is_some(),
            n: 1,
            stream: true,
            include_usage: false,
            logprobs: true,
        };
        let generated = Generated {
            task: "chat-demo".parse().unwrap(),
            request_digest: request_digest(format!("{seed:?}").as_bytes()),
            prompt_tokens: 1,
            tokens: tokens.to_vec(),
            logprobs: vec![-1.0; tokens.len()],
            finish_reason: FinishReason::Stop,
            timings: Timings::default(),
        };
        index.look(&asked, &generated)
    }

    fn spans(repeated: Option<Repeated>) -> Vec<(u32, u32)> {
        repeated.map_or(Vec::new(), |repeated| repeated.spans)
    }

    #[test]
    fn a_copy_is_found_and_the_same_seed_again_is_none() {
        let mut index = Index::default();
        let tokens: Vec<u32> = (0..40).collect();
        assert_eq!(look(&mut index, Some(1), &tokens), None);
        assert_eq!(look(&mut index, Some(1), &tokens), None);
        let copied = look(&mut index, Some(2), &tokens);
        assert_eq!(copied, Some(Repeated { spans: vec![(0, 40)], kept: 29 }));
        // Without a seed only the same request is the same.
        assert_eq!(spans(look(&mut index, None, &tokens)), [(0, 40)]);
    }

    #[test]
    fn only_what_is_repeated_is_told() {
        let mut index = Index::default();
        let tokens: Vec<u32> = (0..60).collect();
        look(&mut index, Some(1), &tokens);
        let mut mixed: Vec<u32> = (100..120).collect();
        mixed.extend(&tokens[10..30]);
        mixed.extend(&tokens[45..]);
        assert_eq!(spans(look(&mut index, Some(2), &mixed)), [(20, 40), (40, 55)]);
        // What overlaps by chance is no longer copy.
        let mut two: Vec<u32> = tokens[..12].to_vec();
        look(&mut index, Some(4), &[11, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80]);
        two.extend(70..81);
        assert_eq!(spans(look(&mut index, Some(5), &two)), [(0, 12), (12, 23)]);
        // Too short to be no chance.
        assert_eq!(look(&mut index, Some(3), &tokens[..RUN - 1]), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut index = Index::default();
        let tokens: Vec<u32> = (0..(MOST as u32 + 5_000)).collect();
        look(&mut index, Some(1), &tokens);
        assert_eq!((index.runs.len(), index.oldest_first.len()), (MOST, MOST));
    }
}
