//! What the model thinks of a given token, from the row of logits before it.

use common::generation::{Generation, Sampling};

use crate::adjust::Adjuster;
use crate::api::{OTHER_TEMPERATURES, RIVALS, ReferencePass, Rival, TokenScore};
use crate::grammar::Grammar;
use crate::noise::Noise;
use crate::sampler::{BadLogits, Distribution, Edge};

/// A token this little beyond the edge of `top_p`, in probability mass, may be inside it for a machine that rounds
/// differently or uses another permitted number format.
const EDGE_TOLERANCE: f64 = 0.02;

/// Weights below `exp` of this are left out of sums.
const NEGLIGIBLE: f64 = -60.0;

/// Scores, and the position of the first token outside the grammar.
pub(crate) type Scored = (Vec<TokenScore>, Option<u32>);

/// How the tokens are said to have been drawn.
pub(crate) struct Rule {
    sampling: Sampling,
    adjuster: Adjuster,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    /// Up to the first token that it forbids, and to the end of the answer.
    grammar: Option<Grammar>,
    pub(crate) outside: Option<u32>,
    top: usize,
    likelihoods: bool,
}

impl Rule {
    pub(crate) fn new(pass: &ReferencePass, ends: Vec<u32>, grammar: Option<Grammar>) -> Self {
        let Generation { sampling, adjustment, .. } = &pass.generation;
        let adjuster = Adjuster::new(adjustment.clone());
        let (top, likelihoods) = (pass.top, pass.likelihoods);
        Self { sampling: *sampling, adjuster, ends, grammar, outside: None, top, likelihoods }
    }

    /// Scores the next token of the answer.
    pub(crate) fn score(
        &mut self,
        row: &[f32],
        given: u32,
        position: u32,
    ) -> Result<TokenScore, String> {
        let bad = |error: BadLogits| error.to_string();
        let model = Distribution::new(row).map_err(bad)?;
        if self.adjuster.is_idle() && self.grammar.is_none() {
            return Ok(self.judge(&model, &model, given, position));
        }
        let mut adjusted = row.to_vec();
        self.adjuster.apply(&mut adjusted);
        self.adjuster.push(given);
        if let Some(mut grammar) = self.grammar.take() {
            let inside = grammar.mask().and_then(|mask| {
                mask.apply(&mut adjusted);
                match mask.allows(given) {
                    true if self.ends.contains(&given) => Ok(()),
                    true => grammar.push(given),
                    false => Err("the grammar forbids the token".to_owned()),
                }
            });
            // A mask that takes too much work stops honest engines here as well.
            match inside {
                Ok(()) => self.grammar = Some(grammar).filter(|_| !self.ends.contains(&given)),
                Err(_) => self.outside = Some(position),
            }
        }
        let adjusted = Distribution::new(&adjusted).map_err(bad)?;
        Ok(self.judge(&model, &adjusted, given, position))
    }
    /// `drawn_from` is what penalties, biases and the grammar have made of the model's prediction.
    fn judge(
        &self,
        model: &Distribution<'_>,
        drawn_from: &Distribution<'_>,
        given: u32,
        position: u32,
    ) -> TokenScore {
        let Sampling { temperature, .. } = self.sampling;
        let contest = Contest::new(drawn_from, &self.sampling, position);
        let plain = Moments::of(model, 1.0);
        // The same distribution in most cases, and the pass over it is the larger part of the work.
        let tempered = match temperature {
            _ if temperature == 1.0 && std::ptr::eq(model, drawn_from) => plain,
            _ if temperature > 0.0 => Moments::of(drawn_from, temperature),
            _ => Moments::of(drawn_from, 1.0),
        };
        let scale = if temperature > 0.0 { temperature } else { 1.0 };
        let tempered_logprob = |token| drawn_from.relative(token) / scale - tempered.log_sum;
        let logit = model.logit(given);
        TokenScore {
            logprob: model.logprob(given),
            log_sum_exp: model.log_sum_exp() as f32,
            rank: model.logits().iter().filter(|&&other| other > logit).count() as u32,
            entropy: plain.entropy as f32,
            variance: plain.variance as f32,
            collision: plain.collision as f32,
            drawn: contest.drawn,
            deficit: contest.deficit(drawn_from, given, &self.sampling) as f32,
            rivals: contest.rivals(),
            elsewhere: OTHER_TEMPERATURES
                .map(|factor| drawn_at(drawn_from, &self.sampling, factor, position)),
            tempered: tempered_logprob(given) as f32,
            otherwise: self.likelihoods.then(|| {
                OTHER_TEMPERATURES.map(|factor| likelihood_at(drawn_from, scale * factor, given))
            }),
            tempered_entropy: tempered.entropy as f32,
            tempered_variance: tempered.variance as f32,
            end: self.ends.iter().map(|&end| tempered_logprob(end).exp()).sum::<f64>() as f32,
            top: model
                .top(self.top)
                .into_iter()
                .map(|token| (token, model.logprob(token)))
                .collect(),
        }
    }
}

/// Log-probability of a token at a temperature.
fn likelihood_at(from: &Distribution<'_>, temperature: f64, given: u32) -> f32 {
    if temperature > 0.0 {
        let moments = Moments::of(from, temperature);
        return (from.relative(given) / temperature - moments.log_sum) as f32;
    }
    if given == from.mode() { 0.0 } else { f32::NEG_INFINITY }
}

/// What would be drawn at another temperature with the same noise.
fn drawn_at(from: &Distribution<'_>, sampling: &Sampling, factor: f64, position: u32) -> u32 {
    from.draw(&Sampling { temperature: sampling.temperature * factor, ..*sampling }, position)
}

/// The best scores at a position.
struct Contest {
    drawn: u32,
    leaders: Vec<(u32, f64)>,
    edge: Option<Edge>,
    noise: Option<Noise>,
}

impl Contest {
    fn new(from: &Distribution<'_>, sampling: &Sampling, position: u32) -> Self {
        let count = RIVALS + 1;
        let (leaders, edge, noise) = if sampling.temperature > 0.0 {
            let (edge, noise) = (from.edge(sampling), Noise::at(sampling.seed, position));
            let leaders = from.leaders(sampling.temperature, edge.as_ref(), noise, count);
            (leaders, edge, Some(noise))
        } else {
            let top = from.top(count).into_iter();
            (top.map(|token| (token, from.relative(token))).collect(), None, None)
        };
        let drawn = leaders.first().map_or(from.mode(), |&(token, _)| token);
        Self { drawn, leaders, edge, noise }
    }

    fn best(&self) -> f64 {
        self.leaders.first().map_or(0.0, |&(_, score)| score)
    }

    fn rivals(&self) -> Vec<Rival> {
        let behind =
            |&(token, score): &(u32, f64)| Rival { token, deficit: (self.best() - score) as f32 };
        self.leaders.iter().skip(1).map(behind).collect()
    }

    /// How far a token is behind; 0 for the drawn one alone.
    fn deficit(&self, from: &Distribution<'_>, given: u32, sampling: &Sampling) -> f64 {
        if given == self.drawn {
            return 0.0;
        }
        let Some(noise) = self.noise else { return 0.0 - from.relative(given) };
        let temperature = sampling.temperature;
        let behind = self.best() - (from.relative(given) / temperature + noise.of(given));
        match &self.edge {
            Some(edge) if !edge.admits(given, from.logit(given)) => {
                let beyond = from.mass_before(given, temperature) - sampling.top_p;
                // Never 0: that is for the drawn token alone.
                if beyond <= EDGE_TOLERANCE {
                    behind.max(0.0) + beyond.max(1e-6)
                } else {
                    f64::INFINITY
                }
            }
            _ => behind,
        }
    }
}

/// Sums over a whole distribution at one temperature.
#[derive(Debug, Clone, Copy)]
struct Moments {
    /// Of `exp((logit - largest) / temperature)`.
    log_sum: f64,
    entropy: f64,
    variance: f64,
    collision: f64,
}

impl Moments {
    fn of(distribution: &Distribution<'_>, temperature: f64) -> Self {
        let largest = f64::from(distribution.logit(distribution.mode()));
        let (mut sum, mut first, mut second, mut squares) = (0.0, 0.0, 0.0, 0.0);
        for &logit in distribution.logits() {
            let relative = (f64::from(logit) - largest) / temperature;
            // What is left out is below 1e-17 of the whole.
            if relative < NEGLIGIBLE {
                continue;
            }
            let weight = relative.exp();
            sum += weight;
            first += weight * relative;
            second += weight * relative * relative;
            squares += weight * weight;
        }
        let (log_sum, mean) = (sum.ln(), first / sum);
        Self {
            log_sum,
            entropy: (log_sum - mean).max(0.0),
            variance: (second / sum - mean * mean).max(0.0),
            collision: squares / (sum * sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::generation::Prompt;
    use proptest::prelude::*;

    use super::*;
    use crate::sampler::tests::{any_logits, any_sampling, plain_scores, sampling};

    fn score(logits: &[f32], given: u32, sampling: &Sampling, position: u32) -> TokenScore {
        let prompt = Prompt::Text(String::new());
        let generation = Generation::plain(prompt, *sampling, 1);
        let pass =
            ReferencePass { top: 3, likelihoods: true, ..ReferencePass::new(generation, vec![]) };
        let mut rule = Rule::new(&pass, vec![0], None);
        rule.score(logits, given, position).unwrap()
    }

    proptest! {
        #[test]
        fn scores_agree_with_the_definition(
            logits in any_logits(), sampling in any_sampling(), position in any::<u32>(), pick in any::<prop::sample::Index>(),
        ) {
            let distribution = Distribution::new(&logits).unwrap();
            let given = pick.index(logits.len()) as u32;
            let judged = score(&logits, given, &sampling, position);
            let plain = plain_scores(&logits, &sampling, position);
            prop_assert_eq!(judged.drawn, plain[0].0);
            prop_assert_eq!(judged.drawn, distribution.draw(&sampling, position));
            prop_assert_eq!(judged.deficit == 0.0, judged.drawn == given);
            prop_assert!(judged.deficit >= 0.0 && judged.gap() >= 0.0 && judged.entropy >= 0.0);
            if let Some((_, own)) = plain.iter().find(|(token, _)| *token == given) {
                prop_assert_eq!(judged.deficit, (plain[0].1 - own) as f32);
            }
            if let Some((_, second)) = plain.get(1) {
                prop_assert_eq!(judged.gap(), (plain[0].1 - second) as f32);
            }
            prop_assert_eq!(judged.rank == 0, logits.iter().all(|logit| *logit <= logits[given as usize]));
        }

    }

    #[test]
    fn a_token_just_outside_top_p_is_unlikely_and_one_far_outside_impossible() {
        let p = [0.5_f64, 0.395, 0.1, 0.005];
        let logits: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        for seed in 0..100 {
            let near = score(&logits, 2, &sampling(seed, 1.0, 0.89), 0);
            assert!(near.deficit.is_finite() && near.deficit > 0.0, "{near:?}");
            assert_eq!(score(&logits, 3, &sampling(seed, 1.0, 0.89), 0).deficit, f32::INFINITY);
        }
    }

    #[test]
    fn temperature_zero_takes_the_lowest_of_the_most_likely_tokens() {
        let logits = [1.0, 3.0, 2.5, 3.0];
        let distribution = Distribution::new(&logits).unwrap();
        let greedy = sampling(9, 0.0, 0.5);
        assert_eq!(distribution.draw(&greedy, 0), 1);
        let judged = score(&logits, 2, &greedy, 0);
        assert_eq!((judged.drawn, judged.deficit, judged.gap(), judged.rank), (1, 0.5, 0.0, 2));
    }

    #[test]
    fn sums_are_those_of_known_distributions() {
        let uniform = score(&[0.5; 8], 0, &sampling(0, 1.0, 1.0), 0);
        assert!((uniform.entropy - 8.0_f32.ln()).abs() < 1e-6);
        assert!(uniform.variance < 1e-9 && (uniform.collision - 0.125).abs() < 1e-6);
        assert!((uniform.log_sum_exp - (0.5 + 8.0_f32.ln())).abs() < 1e-6);
        assert!((uniform.end - 0.125).abs() < 1e-6);
        let certain = score(&[0.0, f32::NEG_INFINITY], 0, &sampling(0, 1.0, 1.0), 0);
        assert_eq!((certain.entropy, certain.collision, certain.gap()), (0.0, 1.0, f32::INFINITY));
        // p = 1/3 and 2/3: ln 2 apart.
        let two = score(&[0.0, 2.0_f32.ln()], 1, &sampling(0, 0.5, 1.0), 0);
        assert!((two.variance - 2.0 / 9.0 * 2.0_f32.ln().powi(2)).abs() < 1e-6);
        // At temperature 0.5 they are 1/5 and 4/5.
        assert!((two.tempered - 0.8_f32.ln()).abs() < 1e-6 && (two.end - 0.2).abs() < 1e-6);
        let [greedy, cooler, _, warmer] = two.otherwise.unwrap();
        assert!(greedy == 0.0 && cooler > two.tempered && warmer < two.tempered);
        assert_eq!(two.top, [(1, two.logprob), (0, two.logprob - 2.0_f32.ln())]);
    }
}
