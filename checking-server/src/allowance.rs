//! How much may be computed besides the prefills that every check takes.

/// Tokens that may be spent: a share of those that had to be.
///
/// Whether something is spent on an answer depends on earlier ones and on chance alone, never on the answer itself: looking again
/// only at answers that look a certain way would bias what is seen. (But for those that take so long that no time is left.)
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Allowance {
    share: f64,
    left: f64,
}

/// Unspent tokens that are kept: a few long answers' worth, so that quiet hours do not pay for busy ones.
const MOST_LEFT: f64 = 20_000.0;

impl Allowance {
    /// `share` of the tokens that have to be computed, `0.0..=1.0`.
    pub(crate) fn new(share: f64) -> Self {
        Self { share, left: 0.0 }
    }

    /// Whether something may be spent, by a coin that falls on true for every second answer: which ones are looked at again
    /// cannot be foreseen.
    pub(crate) fn allows(&self, coin: bool) -> bool {
        coin && self.left > 0.0
    }

    /// Notes tokens of prompt and answer that had to be computed, and those that are spent.
    pub(crate) fn note(&mut self, needed: u32, spent: u32) {
        let left = self.left + self.share * f64::from(needed) - f64::from(spent);
        self.left = left.min(MOST_LEFT);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_more_than_the_share_is_spent_but_for_one_answer(
            share in 0.0..1.0_f64,
            answers in prop::collection::vec((1_u32..2000, any::<bool>()), 1..200),
        ) {
            let mut allowance = Allowance::new(share);
            let (mut needed, mut all) = (0, 0);
            for (tokens, coin) in answers {
                let spent = if allowance.allows(coin) { tokens } else { 0 };
                allowance.note(tokens, spent);
                needed += tokens;
                all += spent;
                prop_assert!(f64::from(all) <= share * f64::from(needed) + 2000.0);
            }
        }
    }

    #[test]
    fn a_share_is_spent_where_it_can_be() {
        let mut allowance = Allowance::new(0.2);
        let (mut needed, mut all) = (0, 0);
        for answer in 0..1000 {
            let spent = if allowance.allows(answer % 2 == 0) { 80 } else { 0 };
            allowance.note(100, spent);
            needed += 100;
            all += spent;
        }
        let share = f64::from(all) / f64::from(needed);
        assert!((0.19..=0.2).contains(&share), "{share}");
        assert!(!Allowance::new(0.0).allows(true));
    }
}
