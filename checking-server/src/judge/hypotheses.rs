//! What a miner may have done instead, and how well each of that explains a token.
//!
//! A hypothesis is a distribution over the tokens that could come at a position, given everything that the checking
//! server knows there: its own logits, the noise of the draw, and the tokens before. A token weighs by the ratio of its
//! probability under the hypothesis to an upper bound `b` of its probability under *any* permitted stack: 1 for the
//! token that the reference draws, [`Survival::bound`] of its deficit for any other one. As `b` is at least the true
//! probability, the expectation of the ratio is at most 1 for every honest miner, whatever its stack, and so is that of
//! the product over an answer.

use engine::TokenScore;

use super::survival::Survival;

/// Something else than honest work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hypothesis {
    /// The model in a coarser format: logits that stray by about so many nats.
    Coarser(f64),
    /// Another temperature: an index into [`engine::OTHER_TEMPERATURES`].
    Temperature(usize),
    /// Tokens of the right distribution, but not drawn with the request's seed.
    Seed,
    /// Something else, which draws the same token with this probability.
    Other(f64),
    /// The model was run without the request's system messages.
    WithoutSystem,
    /// The answer was ended where the model goes on.
    EarlyEnd,
    /// The answer goes on where the model ends it.
    LateEnd,
    /// The answer, or a part of it, was given before.
    Copied,
    /// The reported log-probabilities are not those of a permitted stack.
    Logprobs,
}

/// A hypothesis, its name in evidence, and its share in the average of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suspect {
    pub hypothesis: Hypothesis,
    pub name: &'static str,
    pub share: f64,
}

const fn suspect(name: &'static str, hypothesis: Hypothesis, share: f64) -> Suspect {
    Suspect { hypothesis, name, share }
}

/// The name of [`Hypothesis::WithoutSystem`], which is only tested where a second prefill was computed.
pub const WITHOUT_SYSTEM: &str = "without-system";

/// Everything that is tested for. The shares add up to 1.
pub const SUSPECTS: [Suspect; 17] = [
    suspect("coarser-0.004", Hypothesis::Coarser(0.004), 0.05),
    suspect("coarser-0.015", Hypothesis::Coarser(0.015), 0.08),
    suspect("coarser-0.06", Hypothesis::Coarser(0.06), 0.09),
    suspect("coarser-0.25", Hypothesis::Coarser(0.25), 0.07),
    suspect("greedy", Hypothesis::Temperature(0), 0.04),
    suspect("temperature-0.8", Hypothesis::Temperature(1), 0.04),
    suspect("temperature-0.9", Hypothesis::Temperature(2), 0.06),
    suspect("temperature-1.1", Hypothesis::Temperature(3), 0.06),
    suspect("seed", Hypothesis::Seed, 0.06),
    suspect("copied", Hypothesis::Copied, 0.03),
    suspect("other-0.6", Hypothesis::Other(0.6), 0.05),
    suspect("other-0.9", Hypothesis::Other(0.9), 0.05),
    suspect("other-0.98", Hypothesis::Other(0.98), 0.05),
    suspect(WITHOUT_SYSTEM, Hypothesis::WithoutSystem, 0.04),
    suspect("early-end", Hypothesis::EarlyEnd, 0.06),
    suspect("late-end", Hypothesis::LateEnd, 0.04),
    suspect("logprobs", Hypothesis::Logprobs, 0.13),
];

/// What a hypothesis leaves for tokens that it does not expect, so that a single one does not refute it.
const STRAY: f64 = 1e-3;
/// The same for another temperature or prompt, whose near-ties turn over as well.
const STRAY_TEMPERED: f64 = 0.02;
/// How often an answer that is cut short ends at any one token.
const HAZARD: f64 = 0.03;
/// How often an end that is put off is put off at any one token.
const PUT_OFF: f64 = 0.9;
/// The most that a token can say that neither ends the answer nor stands where it should end, in nats: no single one
/// decides.
const TOKEN_LIMIT: f64 = 6.0;

/// A token of an answer as the checking server sees it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub score: &'a TokenScore,
    /// The model's view without the system messages.
    pub without_system: Option<&'a TokenScore>,
    pub given: u32,
    /// Nats of logits per unit of score: the temperature, or 1 at temperature 0.
    pub scale: f64,
    /// Whether the draw depends on the seed: not at temperature 0.
    pub random: bool,
    /// Whether tokens are drawn with the request's seed. Otherwise only their distribution is known.
    pub seeded: bool,
    /// Whether the temperature is so far above honest noise that this hardly changes how likely a token is.
    pub is_clear: bool,
    /// The part of the distribution that is drawn from, `0.0..=1.0`.
    pub top_p: f64,
    /// Number of token ids.
    pub vocabulary: f64,
    /// Tokens that end an answer.
    pub ends: &'a [u32],
    /// Whether this token is, or belongs to, what ended the answer.
    pub is_ending: bool,
}

impl Seen<'_> {
    /// Whether it is what the reference draws.
    pub fn is_drawn(&self) -> bool {
        self.score.drawn == self.given
    }

    /// By how much the token misses the best score, in nats of logits; 0 for the drawn one.
    pub fn deficit(&self) -> f64 {
        (f64::from(self.score.deficit) * self.scale).max(0.0)
    }

    /// Probability of the token without a look at the seed.
    fn plain(&self) -> f64 {
        f64::from(self.score.tempered).min(0.0).exp()
    }

    /// Logarithm of the ratio of a hypothesis to every permitted stack, in nats.
    pub fn log_ratio(&self, hypothesis: Hypothesis, honest: &Survival) -> f64 {
        let Some(likelihood) = self.likelihood(hypothesis) else { return 0.0 };
        let ratio = (likelihood / self.bound(honest)).ln();
        let should_end = match self.is_drawn_unseen() {
            true => self.score.end > 0.5,
            false => self.ends.contains(&self.score.drawn),
        };
        let decides = self.is_ending || should_end;
        if decides { ratio } else { ratio.min(TOKEN_LIMIT) }
    }

    /// What no permitted stack exceeds in probability; without seeds up to the noise that a calibration's drift stands for.
    pub fn bound(&self, honest: &Survival) -> f64 {
        let by_deficit = |deficit| match self.is_ending || self.ends.contains(&self.given) {
            true => honest.bound_of_end(deficit),
            false => honest.bound(deficit),
        };
        if self.is_drawn_unseen() {
            // What `top_p` leaves is shared out among the others.
            return match self.score.deficit.is_infinite() {
                true => by_deficit(f64::INFINITY),
                false => (self.plain() / self.top_p).clamp(f64::MIN_POSITIVE, 1.0),
            };
        }
        if self.is_drawn() { 1.0 } else { by_deficit(self.deficit()) }
    }

    /// Whether the draw itself cannot be seen.
    fn is_drawn_unseen(&self) -> bool {
        self.random && !self.seeded
    }

    /// Probability of the token under a hypothesis; `None` if that says nothing of tokens here.
    pub fn likelihood(&self, hypothesis: Hypothesis) -> Option<f64> {
        Some(match hypothesis {
            Hypothesis::Logprobs | Hypothesis::Copied => return None,
            Hypothesis::Seed | Hypothesis::Temperature(_) if !self.random => return None,
            _ if self.is_drawn_unseen() => return self.likelihood_unseen(hypothesis),
            Hypothesis::Coarser(noise) => self.mixed(self.coarser(noise), STRAY),
            Hypothesis::Temperature(index) => {
                let drawn = self.score.elsewhere.get(index).copied();
                self.mixed(certain(drawn == Some(self.given)), STRAY_TEMPERED)
            }
            Hypothesis::Seed => self.plain(),
            Hypothesis::Other(same) => {
                same * certain(self.is_drawn())
                    + (1.0 - same) * 0.5 * (self.plain() + 1.0 / self.vocabulary)
            }
            Hypothesis::WithoutSystem => {
                let drawn = self.without_system?.drawn;
                self.mixed(certain(drawn == self.given), STRAY_TEMPERED)
            }
            Hypothesis::EarlyEnd => self.mixed(self.early_end(), STRAY),
            Hypothesis::LateEnd => self.mixed(self.late_end(), STRAY),
        })
    }

    /// The same where only the distribution of tokens is known.
    fn likelihood_unseen(&self, hypothesis: Hypothesis) -> Option<f64> {
        if !self.is_clear {
            return None;
        }
        let plain = self.plain();
        let end = f64::from(self.score.end).clamp(0.0, 1.0);
        let is_end = self.ends.contains(&self.given);
        Some(match hypothesis {
            Hypothesis::Coarser(_)
            | Hypothesis::Seed
            | Hypothesis::Copied
            | Hypothesis::Logprobs => return None,
            Hypothesis::Temperature(index) => {
                let otherwise = self.score.otherwise.as_ref()?.get(index)?;
                self.mixed(f64::from(*otherwise).min(0.0).exp(), STRAY_TEMPERED)
            }
            Hypothesis::Other(same) => same * plain + (1.0 - same) / self.vocabulary,
            Hypothesis::WithoutSystem => {
                let other = f64::from(self.without_system?.tempered);
                self.mixed(other.min(0.0).exp(), STRAY_TEMPERED)
            }
            Hypothesis::EarlyEnd if is_end => {
                (1.0 - HAZARD) * plain + HAZARD / self.ends.len() as f64
            }
            Hypothesis::EarlyEnd => (1.0 - HAZARD) * plain,
            Hypothesis::LateEnd if is_end => (1.0 - PUT_OFF) * plain,
            // What the ends lose, the others get in proportion.
            Hypothesis::LateEnd if end < 1.0 => plain * (1.0 + PUT_OFF * end / (1.0 - end)),
            Hypothesis::LateEnd => plain,
        })
    }

    fn mixed(&self, likelihood: f64, stray: f64) -> f64 {
        (1.0 - stray) * likelihood + stray * self.plain()
    }

    /// Noise in the logits shares the draw among the best, the less the further behind they are.
    fn coarser(&self, noise: f64) -> f64 {
        let weight = |deficit: f64| (-deficit / noise).exp();
        let rivals = self.score.rivals.iter();
        let all = 1.0
            + rivals
                .clone()
                .map(|rival| weight((f64::from(rival.deficit) * self.scale).max(0.0)))
                .sum::<f64>();
        let is_rival = rivals.clone().any(|rival| rival.token == self.given);
        match self.is_drawn() || is_rival {
            true => weight(self.deficit()) / all,
            false => 0.0,
        }
    }

    fn early_end(&self) -> f64 {
        match (self.ends.contains(&self.score.drawn), self.ends.contains(&self.given)) {
            (true, _) => certain(self.is_drawn()),
            (false, true) => HAZARD / self.ends.len() as f64,
            (false, false) => (1.0 - HAZARD) * certain(self.is_drawn()),
        }
    }

    fn late_end(&self) -> f64 {
        if !self.ends.contains(&self.score.drawn) {
            return certain(self.is_drawn());
        }
        let next = self.score.rivals.iter().find(|rival| !self.ends.contains(&rival.token));
        match next {
            Some(next) if next.token == self.given => PUT_OFF,
            Some(_) => (1.0 - PUT_OFF) * certain(self.is_drawn()),
            None => certain(self.is_drawn()),
        }
    }
}

fn certain(it_is: bool) -> f64 {
    if it_is { 1.0 } else { 0.0 }
}
