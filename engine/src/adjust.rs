//! Penalties and biases: what is added to logits before the draw. Pure functions of logits and of the answer so far.
//!
//! For a token that the answer holds `n` times already, with everything in binary64 and in this order, rounded to
//! binary32 at the end:
//!
//! `adjusted = logit + bias − frequency_penalty · n − (presence_penalty if n > 0)`
//!
//! It is the formula of OpenAI's API reference, and what vLLM computes (`apply_penalties` in
//! `vllm/model_executor/layers/utils.py`, after `LogitBiasLogitsProcessor`): only tokens of the answer count, not those
//! of the prompt. A token that cannot come (`-inf`) stays so.

use std::collections::BTreeMap;

use common::generation::Adjustment;

/// The adjustment of one answer, token by token.
#[derive(Debug, Clone, Default)]
pub struct Adjuster {
    adjustment: Adjustment,
    /// How often the answer holds each of its tokens.
    counts: BTreeMap<u32, u32>,
}

impl Adjuster {
    /// For an answer that is still empty.
    pub fn new(adjustment: Adjustment) -> Self {
        Self { adjustment, counts: BTreeMap::new() }
    }

    /// Whether the logits stay what they are.
    pub fn is_idle(&self) -> bool {
        self.adjustment.is_none()
    }

    /// Adjusts the logits of the next token. Ids outside of them are passed over.
    pub fn apply(&self, logits: &mut [f32]) {
        let Adjustment { presence_penalty, frequency_penalty, bias } = &self.adjustment;
        let mut biased = bias.iter().copied().peekable();
        let mut counted = self.counts.iter().map(|(token, count)| (*token, *count)).peekable();
        // Both are in ascending order: each token that either one names is met once.
        loop {
            let next =
                [biased.peek().map(|(token, _)| *token), counted.peek().map(|(token, _)| *token)];
            let Some(token) = next.into_iter().flatten().min() else { return };
            let bias = biased.next_if(|(other, _)| *other == token).map_or(0.0, |(_, bias)| bias);
            let count = counted.next_if(|(other, _)| *other == token).map_or(0, |(_, count)| count);
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            let presence = if count > 0 { *presence_penalty } else { 0.0 };
            let adjusted =
                f64::from(*logit) + bias - frequency_penalty * f64::from(count) - presence;
            *logit = adjusted as f32;
        }
    }

    /// The answer goes on with this token.
    pub fn push(&mut self, token: u32) {
        if self.adjustment.presence_penalty != 0.0 || self.adjustment.frequency_penalty != 0.0 {
            *self.counts.entry(token).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_adjustment() -> impl Strategy<Value = Adjustment> {
        let bias = prop::collection::btree_map(0..40_u32, -100.0..=100.0_f64, 0..8);
        (-2.0..=2.0_f64, -2.0..=2.0_f64, bias).prop_map(|(presence, frequency, bias)| Adjustment {
            presence_penalty: presence,
            frequency_penalty: frequency,
            bias: bias.into_iter().collect(),
        })
    }

    fn any_logits() -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![9 => -20.0..20.0_f32, 1 => Just(f32::NEG_INFINITY)];
        prop::collection::vec(logit, 1..32)
    }

    fn adjusted(adjustment: &Adjustment, answer: &[u32], logits: &[f32]) -> Vec<f32> {
        let mut adjuster = Adjuster::new(adjustment.clone());
        answer.iter().for_each(|token| adjuster.push(*token));
        let mut logits = logits.to_vec();
        adjuster.apply(&mut logits);
        logits
    }

    proptest! {
        #[test]
        fn every_logit_is_what_the_formula_says(
            adjustment in any_adjustment(), answer in prop::collection::vec(0..40_u32, 0..20), logits in any_logits(),
        ) {
            let result = adjusted(&adjustment, &answer, &logits);
            for (token, (before, after)) in (0..).zip(std::iter::zip(&logits, &result)) {
                let n = answer.iter().filter(|other| **other == token).count();
                let bias: f64 =
                    adjustment.bias.iter().filter(|(other, _)| *other == token).map(|(_, bias)| bias).sum();
                let presence = if n > 0 { adjustment.presence_penalty } else { 0.0 };
                let expected =
                    (f64::from(*before) + bias - adjustment.frequency_penalty * n as f64 - presence) as f32;
                prop_assert_eq!(expected.to_bits(), after.to_bits());
            }
        }

        #[test]
        fn the_order_of_the_answer_does_not_matter(
            adjustment in any_adjustment(), mut answer in prop::collection::vec(0..40_u32, 0..20), logits in any_logits(),
        ) {
            let before = adjusted(&adjustment, &answer, &logits);
            answer.reverse();
            prop_assert_eq!(adjusted(&adjustment, &answer, &logits), before);
        }

        #[test]
        fn nothing_asked_changes_nothing(answer in prop::collection::vec(0..40_u32, 0..20), logits in any_logits()) {
            prop_assert!(Adjuster::default().is_idle());
            prop_assert_eq!(adjusted(&Adjustment::default(), &answer, &logits), logits);
        }
    }
}
