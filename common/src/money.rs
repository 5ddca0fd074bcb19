//! Amounts of money as exact integers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const PICO: i128 = 1_000_000_000_000;
/// Decimal places of a dollar that are kept.
const PLACES: usize = 12;

/// An amount in pico-USD (1e-12 USD), up to about 9.2 million USD. Written and read as decimal USD, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Usd(i64);

/// Why a text is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no amount of USD: write a decimal number such as 12.50, at most 9000000, with at most 12 decimals"
)]
pub struct BadUsd(String);

impl Usd {
    pub const ZERO: Self = Self(0);

    /// This many pico-USD.
    pub const fn from_pico(pico: i64) -> Self {
        Self(pico)
    }

    /// In pico-USD.
    pub const fn pico(self) -> i64 {
        self.0
    }

    /// The sum; what is out of range is the nearest amount.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference; what is out of range is the nearest amount.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl FromStr for Usd {
    type Err = BadUsd;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadUsd(text.to_owned());
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) || whole.len() > 8 || fraction.len() > PLACES {
            return Err(bad());
        }
        let whole: i128 = whole.parse().map_err(|_| bad())?;
        let fraction: i128 = format!("{fraction:0<PLACES$}").parse().map_err(|_| bad())?;
        let pico = whole * PICO + fraction;
        i64::try_from(if negative { -pico } else { pico }).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Usd {
    /// With at least two decimals, and as many as there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pico = i128::from(self.0);
        let (whole, fraction) = (pico.abs() / PICO, pico.abs() % PICO);
        let digits = format!("{fraction:0PLACES$}");
        let shown = digits.trim_end_matches('0').len().max(2);
        let sign = if pico < 0 { "-" } else { "" };
        write!(f, "{sign}{whole}.{}", digits.get(..shown).unwrap_or(&digits))
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What tokens cost, in pico-USD per token: the same number as micro-USD per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Price {
    /// Per token of the prompt.
    pub prompt: u32,
    /// Per token of the answer.
    pub completion: u32,
}

impl Price {
    /// What a request costs. Out of range, the largest amount: no request of this protocol is.
    pub fn of(self, prompt_tokens: u64, completion_tokens: u64) -> Usd {
        let pico = u128::from(self.prompt) * u128::from(prompt_tokens)
            + u128::from(self.completion) * u128::from(completion_tokens);
        Usd(i64::try_from(pico).unwrap_or(i64::MAX))
    }

    /// Whether nothing costs anything.
    pub fn is_free(self) -> bool {
        self == Self::default()
    }
}

/// Reads USD per million tokens as pico-USD per token.
///
/// # Errors
/// If it is no amount, negative, above 4,000 USD, or not a whole number of millionths of a dollar.
pub fn per_million(text: &str) -> Result<u32, BadUsd> {
    let bad = || BadUsd(text.to_owned());
    let pico = text.parse::<Usd>()?.pico();
    if pico % 1_000_000 != 0 || pico > 4_000_000_000_000_000 {
        return Err(bad());
    }
    u32::try_from(pico / 1_000_000).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_amount_is_read_as_it_was_written(pico in i64::MIN..=i64::MAX) {
            let usd = Usd::from_pico(pico);
            prop_assert_eq!(usd.to_string().parse::<Usd>(), Ok(usd));
        }

        #[test]
        fn no_text_is_a_panic(text in ".{0,30}") {
            if let Ok(usd) = text.parse::<Usd>() {
                prop_assert_eq!(usd.to_string().parse::<Usd>(), Ok(usd));
            }
        }

        #[test]
        fn what_is_paid_in_parts_is_what_is_paid_at_once(
            price in (0..=u32::MAX, 0..=u32::MAX), a in 0..1_000_000_u64, b in 0..1_000_000_u64,
        ) {
            let price = Price { prompt: price.0 / 10_000, completion: price.1 / 10_000 };
            prop_assert_eq!(price.of(a, 0).plus(price.of(0, b)), price.of(a, b));
        }
    }

    #[test]
    fn amounts_are_decimal() {
        assert_eq!("12.5".parse(), Ok(Usd::from_pico(12_500_000_000_000)));
        assert_eq!(Usd::from_pico(1).to_string(), "0.000000000001");
        assert_eq!(Usd::from_pico(12_500_000_000_000).to_string(), "12.50");
        for bad in ["", "1.", ".5", "1e3", "+1", "1,5", "99999999", "0.0000000000001", "-"] {
            assert!(bad.parse::<Usd>().is_err(), "{bad}");
        }
        assert_eq!(per_million("0.15"), Ok(150_000));
        assert!(per_million("0.0000001").is_err());
        assert!(per_million("-1").is_err());
    }
}
