//! Money as whole nano-dollars (1 USD = 1,000,000,000), never a float on the way.

use super::event::TokenUsage;
use serde::{Deserialize, Serialize};
use std::{fmt, iter::Sum, ops::Add};

const NANO_PER_USD: u64 = 1_000_000_000;

/// A non-negative amount in nano-dollars. Arithmetic saturates: an absurd price can block, never wrap to cheap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NanoUsd(u64);

impl NanoUsd {
    pub const ZERO: Self = Self(0);

    pub const fn new(nano: u64) -> Self {
        Self(nano)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// An amount in dollars from its digits: `1.50` is 1,500,000,000 nano-dollars. Digits and one point only.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn from_usd(digits: &str) -> Result<Self, &'static str> {
        const MALFORMED: &str = "must be written as a plain decimal number, such as 0.42";
        if digits.starts_with('-') {
            return Err("must not be negative");
        }
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
            return Err(MALFORMED);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 9 {
            return Err("must have at most 9 decimal places");
        }
        let nano: u64 = format!("{fraction:0<9}").parse().map_err(|_| MALFORMED)?;
        let whole = whole.parse::<u64>().ok().and_then(|dollars| dollars.checked_mul(NANO_PER_USD));
        whole.and_then(|whole| whole.checked_add(nano)).map(Self).ok_or("is too large")
    }

    /// The amount in dollars, as [`NanoUsd::from_usd`] reads it, without needless zeros.
    pub fn to_usd(self) -> String {
        let (whole, nano) = (self.0 / NANO_PER_USD, self.0 % NANO_PER_USD);
        if nano == 0 {
            return whole.to_string();
        }
        format!("{whole}.{nano:09}").trim_end_matches('0').to_owned()
    }

    /// For display and JSON only.
    pub fn as_usd(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl Add for NanoUsd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}.{:09}", self.0 / NANO_PER_USD, self.0 % NANO_PER_USD)
    }
}

/// What a model costs, in nano-dollars per million tokens (1 USD per million = 1,000 nano-dollars per token).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    pub input_per_mtok: NanoUsd,
    pub cached_per_mtok: NanoUsd,
    /// Input that the provider also writes into a cache.
    pub written_per_mtok: NanoUsd,
    pub output_per_mtok: NanoUsd,
}

impl Price {
    /// Cost of a request, each part rounded up to a whole nano-dollar. `cached` is the part of `prompt` read from a cache.
    pub fn cost(&self, prompt: u64, cached: u64, completion: u64) -> NanoUsd {
        let usage = TokenUsage {
            prompt_tokens: prompt,
            cached_tokens: cached,
            completion_tokens: completion,
            ..TokenUsage::default()
        };
        self.cost_of(&usage)
    }

    /// As [`cost`](Self::cost), of what was counted.
    pub fn cost_of(&self, usage: &TokenUsage) -> NanoUsd {
        let part = |tokens: u64, per_mtok: NanoUsd| {
            let nano = (u128::from(tokens) * u128::from(per_mtok.0)).div_ceil(1_000_000);
            NanoUsd(u64::try_from(nano).unwrap_or(u64::MAX))
        };
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let written = usage.written_tokens.min(usage.prompt_tokens - cached);
        part(usage.prompt_tokens - cached - written, self.input_per_mtok)
            + part(cached, self.cached_per_mtok)
            + part(written, self.written_per_mtok)
            + part(usage.completion_tokens, self.output_per_mtok)
    }
}

impl NanoUsd {
    /// A quarter more, rounded up.
    #[must_use]
    pub const fn and_a_quarter(self) -> Self {
        Self(self.0.saturating_add(self.0.div_ceil(4)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_deepseek_tokens_cost_four_point_two_cents() {
        let price = Price {
            input_per_mtok: NanoUsd::new(420_000_000),
            cached_per_mtok: NanoUsd::new(42_000_000),
            written_per_mtok: NanoUsd::new(525_000_000),
            output_per_mtok: NanoUsd::new(420_000_000),
        };
        let usage = TokenUsage { prompt_tokens: 10, cached_tokens: 3, written_tokens: 5, ..TokenUsage::default() };
        assert_eq!(price.cost_of(&usage), NanoUsd::new(2 * 420 + 3 * 42 + 5 * 525));
        let odd = TokenUsage { written_tokens: 99, ..usage };
        assert_eq!(price.cost_of(&odd), NanoUsd::new(3 * 42 + 7 * 525), "never more than the prompt");
        assert_eq!(NanoUsd::new(420_000_001).and_a_quarter(), NanoUsd::new(525_000_002));
        assert_eq!(price.cost(60_000, 0, 40_000), NanoUsd::new(42_000_000));
        assert_eq!(price.cost(1, 0, 0), NanoUsd::new(420));
        assert_eq!(price.cost(1, 9, 0), NanoUsd::new(42), "cached tokens are never more than the prompt");
    }

    #[test]
    fn dollars_are_read_and_written_without_a_float() {
        for (text, nano) in [
            ("0", 0),
            ("5", 5_000_000_000),
            ("1.50", 1_500_000_000),
            ("0.000000001", 1),
            ("18446744073.709551615", u64::MAX),
        ] {
            let amount = NanoUsd::from_usd(text).unwrap();
            assert_eq!(amount, NanoUsd::new(nano), "{text}");
            assert_eq!(NanoUsd::from_usd(&amount.to_usd()), Ok(amount));
        }
        assert_eq!(NanoUsd::new(1_500_000_000).to_usd(), "1.5");
        for text in [
            "",
            ".",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1_000",
            "1,5",
            " 1",
            "0.0000000001",
            "18446744073.709551616",
            "NaN",
            "$1",
        ] {
            assert!(NanoUsd::from_usd(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_absurd_price_saturates() {
        let price = Price { input_per_mtok: NanoUsd::new(u64::MAX), ..Price::default() };
        assert_eq!(price.cost(u64::MAX, 0, 0), NanoUsd::new(u64::MAX));
    }
}
