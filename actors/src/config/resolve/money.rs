//! Prices from their digits as written: 0.42 is 420,000,000 nano-dollars, with no float on the way.

use crate::{
    config::{raw::Value, schema::Kind, section::Section},
    domain::NanoUsd,
};

/// Highest amount taken (a price: per million tokens): above $100,000, a slip of the decimal point is likelier.
const MAX: NanoUsd = NanoUsd::new(100_000_000_000_000);
/// The same as a schema says it.
const NUMBER: Kind = Kind::Decimal(0.0, 100_000.0);

/// A price in USD per million tokens; a fault when absent or no such number.
pub(super) fn price(section: &Section<'_>, key: &'static str) -> Option<NanoUsd> {
    section.learn(key, NUMBER);
    read(section, key, "must be a number, in USD per million tokens")
}

/// An amount in USD; a fault when absent or no such number.
pub(super) fn amount(section: &Section<'_>, key: &'static str) -> Option<NanoUsd> {
    section.learn(key, NUMBER);
    read(section, key, "must be a number, in USD")
}

/// An amount in USD or the given word, which stands for `None`.
pub(super) fn amount_or(section: &Section<'_>, key: &'static str, word: &str) -> Option<Option<NanoUsd>> {
    section.learn(key, Kind::or_word(word, NUMBER));
    if let Value::Text(text) = &section.need(key)?.value
        && text == word
    {
        return Some(None);
    }
    read(section, key, "must be a number, in USD, or \"unlimited\"").map(Some)
}

fn read(section: &Section<'_>, key: &'static str, wanted: &'static str) -> Option<NanoUsd> {
    let node = section.need(key)?;
    let parsed = match &node.value {
        Value::Integer(Some(dollars)) => nano_usd(&dollars.to_string()),
        Value::Float(digits) => nano_usd(digits),
        _ => Err(wanted),
    };
    parsed.map_err(|why| section.refuse(key, &node.origin, why)).ok()
}

/// TOML allows a sign and underscores.
fn nano_usd(digits: &str) -> Result<NanoUsd, &'static str> {
    let digits = digits.replace('_', "");
    let amount = NanoUsd::from_usd(digits.strip_prefix('+').unwrap_or(&digits))?;
    if amount > MAX { Err("must be at most 100000") } else { Ok(amount) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prices_are_exact() {
        for (digits, nano) in [
            ("0.42", 420_000_000),
            ("0.042", 42_000_000),
            ("15", 15_000_000_000),
            ("8.00", 8_000_000_000),
            ("+1_0.5", 10_500_000_000),
        ] {
            assert_eq!(nano_usd(digits), Ok(NanoUsd::new(nano)), "{digits}");
        }
        for digits in ["-1", "1e3", "inf", "nan", "0.0000000001", "100001", "", ".", "99999999999999999999"] {
            assert!(nano_usd(digits).is_err(), "{digits}");
        }
    }

    proptest! {
        #[test]
        fn every_nano_dollar_survives(nano in 0u64..100_000_000_000_000) {
            let digits = format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
            prop_assert_eq!(nano_usd(&digits), Ok(NanoUsd::new(nano)));
        }
    }
}
