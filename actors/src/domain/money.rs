//! Money as whole nano-dollars (1 USD = 1,000,000,000), never a float on the way.

use serde::{Deserialize, Serialize};
use std::{fmt, iter::Sum, ops::Add};

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
        write!(f, "${}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// What a model costs, in nano-dollars per million tokens (1 USD per million = 1,000 nano-dollars per token).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    pub input_per_mtok: NanoUsd,
    pub cached_per_mtok: NanoUsd,
    pub output_per_mtok: NanoUsd,
}

impl Price {
    /// Cost of a request, each part rounded up to a whole nano-dollar. `cached` is the part of `prompt` read from a cache.
    pub fn cost(&self, prompt: u64, cached: u64, completion: u64) -> NanoUsd {
        let part = |tokens: u64, per_mtok: NanoUsd| {
            let nano = (u128::from(tokens) * u128::from(per_mtok.0)).div_ceil(1_000_000);
            NanoUsd(u64::try_from(nano).unwrap_or(u64::MAX))
        };
        let cached = cached.min(prompt);
        part(prompt - cached, self.input_per_mtok)
            + part(cached, self.cached_per_mtok)
            + part(completion, self.output_per_mtok)
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
            output_per_mtok: NanoUsd::new(420_000_000),
        };
        assert_eq!(price.cost(60_000, 0, 40_000), NanoUsd::new(42_000_000));
        assert_eq!(price.cost(1, 0, 0), NanoUsd::new(420));
        assert_eq!(price.cost(1, 9, 0), NanoUsd::new(42), "cached tokens are never more than the prompt");
    }

    #[test]
    fn an_absurd_price_saturates() {
        let price = Price { input_per_mtok: NanoUsd::new(u64::MAX), ..Price::default() };
        assert_eq!(price.cost(u64::MAX, 0, 0), NanoUsd::new(u64::MAX));
    }
}
