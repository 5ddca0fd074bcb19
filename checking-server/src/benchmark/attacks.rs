//! The catalogue of attacks: what a dishonest miner gives for an answer.

use std::collections::BTreeMap;

use common::generation::{FinishReason, Generation, Prompt, Sampling};
use engine::{Engine, EngineError, Native, ReferencePass};
use rand::Rng;
use rand::rngs::StdRng;

use crate::judge::without_system;
use crate::traffic::{Given, Request, answers, each, threads};

/// Answers shorter than this cannot be cut or lengthened in a way that means anything, in tokens.
const SHORTEST: usize = 4;
/// Tokens that padding adds at most.
const PADDING: u32 = 40;
/// Answers among which the likeliest is chosen.
const CHOICES: u64 = 4;

/// The models that miners run, and chance.
pub(super) struct Workshop<'a> {
    pub(super) claimed: &'a Native,
    pub(super) sibling: &'a Native,
    pub(super) rng: StdRng,
}

/// What a model in a coarser format answers to all requests.
pub(super) struct Coarse {
    pub(super) name: &'static str,
    pub(super) forged: &'static str,
    /// Of an attack that mixes a tenth of these answers into honest ones, if it is tried.
    pub(super) mixed: Option<&'static str>,
    pub(super) given: Vec<Given>,
}

/// An attack, and the requests and answers that it was tried on.
pub(super) struct Tried {
    pub(super) name: &'static str,
    /// What the answers are copies of, and was given before.
    pub(super) copied_from: Option<(Vec<Request>, Vec<Given>)>,
    pub(super) requests: Vec<Request>,
    pub(super) given: Vec<Given>,
}

impl Tried {
    fn of(name: &'static str, requests: Vec<Request>, given: Vec<Given>) -> Self {
        Self { name, copied_from: None, requests, given }
    }
}

impl Workshop<'_> {
    /// Every attack on its share of the requests. `honest` holds what an honest miner answers to them.
    pub(super) fn all(
        &mut self,
        requests: &[Request],
        honest: &[Given],
        coarse: Vec<Coarse>,
        mut done: impl FnMut(Tried) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let plain = |asked: Generation| asked;
        let at = |factor: f64| {
            move |asked: Generation| {
                let sampling = asked.sampling;
                let temperature = sampling.temperature * factor;
                Generation { sampling: Sampling { temperature, ..sampling }, ..asked }
            }
        };
        let mut run = |name, given: Vec<Given>| done(Tried::of(name, requests.to_vec(), given));

        for Coarse { name, forged, mixed, given } in coarse {
            run(forged, self.forge(requests, &given)?)?;
            if let Some(mixed) = mixed {
                let pairs = honest.iter().zip(&given).enumerate();
                let tenth = pairs.map(|(at, (good, bad))| if at % 10 == 0 { bad } else { good });
                run(mixed, tenth.cloned().collect())?;
            }
            run(name, given)?;
        }
        let cheap = answers(self.sibling, requests, plain)?;
        run("sibling; forged log-probabilities", self.forge(requests, &cheap)?)?;
        run("sibling", cheap)?;
        for (name, factor) in [
            ("temperature × 0.8", 0.8),
            ("temperature × 0.9", 0.9),
            ("temperature × 1.1", 1.1),
            ("greedy", 0.0),
        ] {
            run(name, answers(self.claimed, requests, at(factor))?)?;
        }
        let top_p = |asked: Generation| {
            let sampling = Sampling { top_p: 0.9, ..asked.sampling };
            Generation { sampling, ..asked }
        };
        run("top_p 0.9 instead of 1", answers(self.claimed, requests, top_p)?)?;
        let other_seed = |asked: Generation| {
            let sampling = Sampling { seed: asked.sampling.seed ^ 0x5EED, ..asked.sampling };
            Generation { sampling, ..asked }
        };
        let reseeded = answers(self.claimed, requests, other_seed)?;
        run("wrong seed", reseeded.clone())?;
        run("best of 4 by likelihood", self.best(requests)?)?;
        run("constant log-probabilities", honest.iter().map(constant).collect())?;
        let cheap = self.by(self.sibling, requests, honest)?;
        run("log-probabilities of the sibling", cheap)?;

        let name = "cached replay: the answer to another request";
        let replayed = Tried::of(name, requests.to_vec(), rotated(honest));
        done(Tried { copied_from: Some((requests.to_vec(), honest.to_vec())), ..replayed })?;
        let mut earlier = requests.to_vec();
        for request in &mut earlier {
            request.asked.generation = other_seed(request.asked.generation.clone());
        }
        let name = "copy of an earlier answer to the same prompt";
        let copied = Tried::of(name, requests.to_vec(), reseeded.clone());
        done(Tried { copied_from: Some((earlier, reseeded)), ..copied })?;
        self.changed(requests, honest, &mut done)
    }

    /// Attacks that change the prompt or the answer, and so apply to some requests only.
    fn changed(
        &mut self,
        requests: &[Request],
        honest: &[Given],
        done: &mut impl FnMut(Tried) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let with_system: Vec<_> = requests
            .iter()
            .filter(|request| without_system(&request.asked.generation).is_some())
            .cloned()
            .collect();
        let stripped = |asked: Generation| without_system(&asked).unwrap_or(asked);
        let given = answers(self.claimed, &with_system, stripped)?;
        let forged = self.forge(&with_system, &given)?;
        let name = "system prompt stripped; forged log-probabilities";
        done(Tried::of(name, with_system.clone(), forged))?;
        done(Tried::of("system prompt stripped", with_system, given))?;
        let truncated = |asked: Generation| shortened(&asked);
        let given = answers(self.claimed, requests, truncated)?;
        done(Tried::of("context truncated to its second half", requests.to_vec(), given))?;

        type Change<'a> =
            (&'static str, &'a dyn Fn(&mut Workshop<'_>, &Request, &Given) -> Option<Given>);
        let changes: [Change<'_>; 4] = [
            ("early stop at half", &|shop, request, given| shop.cut(request, given)),
            ("padding: the end put off", &|shop, request, given| shop.padded(request, given)),
            ("garbage tail of a fifth", &|shop, request, given| shop.with_garbage(request, given)),
            ("token count inflated: tokens split", &|shop, request, given| {
                shop.split(request, given)
            }),
        ];
        for (name, change) in changes {
            let tried = requests.iter().zip(honest);
            let (requests, given) = tried
                .filter_map(|(request, given)| {
                    Some((request.clone(), change(self, request, given)?))
                })
                .unzip();
            done(Tried::of(name, requests, given))?;
        }
        Ok(())
    }

    /// The same tokens with the log-probabilities that the claimed model gives them: one prefill.
    fn forge(&self, requests: &[Request], given: &[Given]) -> Result<Vec<Given>, EngineError> {
        self.by(self.claimed, requests, given)
    }

    /// The same tokens with the log-probabilities of a model.
    fn by(
        &self,
        model: &Native,
        requests: &[Request],
        given: &[Given],
    ) -> Result<Vec<Given>, EngineError> {
        let pairs: Vec<_> = requests.iter().zip(given).collect();
        each(&pairs, threads(), |(request, given)| scored(model, request, (*given).clone()))
    }

    /// The likeliest of several honest answers with other seeds.
    fn best(&self, requests: &[Request]) -> Result<Vec<Given>, EngineError> {
        let mut best: BTreeMap<usize, (f64, Given)> = BTreeMap::new();
        for choice in 0..CHOICES {
            let seeded = |asked: Generation| {
                let seed = asked.sampling.seed.wrapping_add(choice);
                Generation { sampling: Sampling { seed, ..asked.sampling }, ..asked }
            };
            for (index, given) in answers(self.claimed, requests, seeded)?.into_iter().enumerate() {
                let sum: f64 = given.logprobs.iter().map(|logprob| f64::from(*logprob)).sum();
                let mean = sum / given.tokens.len().max(1) as f64;
                let known = best.entry(index).or_insert_with(|| (f64::NEG_INFINITY, given.clone()));
                if mean > known.0 {
                    *known = (mean, given);
                }
            }
        }
        Ok(best.into_values().map(|(_, given)| given).collect())
    }

    fn end(&self) -> u32 {
        self.claimed.model().end_tokens.first().copied().unwrap_or(0)
    }

    fn cut(&mut self, request: &Request, given: &Given) -> Option<Given> {
        let half = given.tokens.len() / 2;
        if half < SHORTEST {
            return None;
        }
        let mut tokens = given.tokens[..half].to_vec();
        tokens.push(self.end());
        self.told(request, tokens, FinishReason::Stop)
    }

    fn padded(&mut self, request: &Request, given: &Given) -> Option<Given> {
        let ended = given.finish_reason == FinishReason::Stop;
        let length = given.tokens.len() as u32 + PADDING;
        if !ended || length > request.asked.generation.max_tokens {
            return None;
        }
        let mut asked = request.asked.generation.clone();
        asked.adjustment.bias =
            self.claimed.model().end_tokens.iter().map(|end| (*end, -100.0)).collect();
        asked.max_tokens = length;
        let longer = self.claimed.answer(&[asked], 1).ok()?.pop().map(Given::from)?;
        let mut tokens = longer.tokens;
        tokens.push(self.end());
        self.told(request, tokens, FinishReason::Stop)
    }

    fn with_garbage(&mut self, request: &Request, given: &Given) -> Option<Given> {
        let count = given.tokens.len();
        let tail = count / 5;
        if tail < SHORTEST || given.finish_reason != FinishReason::Stop {
            return None;
        }
        let mut tokens = given.tokens.clone();
        let vocabulary = self.claimed.model().vocabulary;
        for token in &mut tokens[count - 1 - tail..count - 1] {
            *token = self.rng.random_range(5..vocabulary);
        }
        self.told(request, tokens, given.finish_reason)
    }

    /// Tokens in pieces that give the same text: more of them to be paid for.
    fn split(&mut self, request: &Request, given: &Given) -> Option<Given> {
        let mut tokens = Vec::with_capacity(2 * given.tokens.len());
        for &token in &given.tokens {
            let pieces = self.claimed.pieces(token);
            if pieces.is_empty() || !self.rng.random_bool(0.3) {
                tokens.push(token);
            } else {
                tokens.extend(pieces);
            }
        }
        let longer = tokens.len() > given.tokens.len()
            && tokens.len() as u32 <= request.asked.generation.max_tokens;
        let told = self.told(request, tokens, given.finish_reason).filter(|_| longer)?;
        (told.text == given.text).then_some(told)
    }

    /// An answer of these tokens as the claimed model would report it.
    fn told(
        &self,
        request: &Request,
        tokens: Vec<u32>,
        finish_reason: FinishReason,
    ) -> Option<Given> {
        let given = Given {
            prompt_tokens: 0,
            text: String::new(),
            tokens,
            logprobs: Vec::new(),
            top: Vec::new(),
            finish_reason,
        };
        scored(self.claimed, request, given).ok()
    }
}

/// An answer with the text, the counts and the log-probabilities that a model gives its tokens.
fn scored(model: &Native, request: &Request, mut given: Given) -> Result<Given, EngineError> {
    let generation = request.asked.generation.clone();
    let pass = ReferencePass { top: 20, ..ReferencePass::new(generation, given.tokens.clone()) };
    let reference = model.score(pass)?;
    given.prompt_tokens = reference.prompt_tokens;
    given.text = reference.text;
    given.logprobs = reference.tokens.iter().map(|score| score.logprob).collect();
    given.top = reference.tokens.into_iter().map(|score| score.top).collect();
    Ok(given)
}

fn constant(given: &Given) -> Given {
    Given { logprobs: vec![-0.5; given.tokens.len()], ..given.clone() }
}

/// Everybody gives the next one's answer.
fn rotated(given: &[Given]) -> Vec<Given> {
    given.iter().cycle().skip(1).take(given.len()).cloned().collect()
}

/// The second half of the last message.
fn shortened(asked: &Generation) -> Generation {
    let half = |text: &str| {
        let words: Vec<_> = text.split(' ').collect();
        words[words.len() / 2..].join(" ")
    };
    let prompt = match &asked.prompt {
        Prompt::Text(text) => Prompt::Text(half(text)),
        Prompt::Chat(messages) => {
            let last = messages.last().cloned();
            Prompt::Chat(
                last.into_iter()
                    .map(|mut message| {
                        message.content = half(&message.content);
                        message
                    })
                    .collect(),
            )
        }
    };
    Generation { prompt, ..asked.clone() }
}
