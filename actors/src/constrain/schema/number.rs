//! Numbers and their bounds, digit by digit.

use super::{Unfit, Walk, alike::Shape};
use serde_json::{Map, Value};

/// Largest number of 15 digits: exact in every JSON reader.
const LARGEST: f64 = 999_999_999_999_999.0;
/// A fraction that is not zero, so that a number with it lies strictly between two whole ones.
const FRACTION: &str = r#""." [0-9]{0,14} [1-9]"#;

/// Both ends included once `whole` has been asked.
#[derive(Clone, Copy)]
struct Bounds {
    least: f64,
    most: f64,
    above_least: bool,
    below_most: bool,
}

impl Bounds {
    /// Whole numbers inside; none if the first is above the second.
    fn whole(self) -> (i64, i64) {
        let (mut least, mut most) = (self.least.ceil(), self.most.floor());
        if self.above_least && least <= self.least {
            least += 1.0;
        }
        if self.below_most && most >= self.most {
            most -= 1.0;
        }
        (least as i64, most as i64)
    }
}

impl Walk<'_> {
    pub(super) fn integer(&mut self, schema: &Map<String, Value>) -> Result<String, Unfit> {
        let Some(bounds) = bounds(schema)? else { return Ok(self.rules.integer()) };
        let (least, most) = bounds.whole();
        let alternatives = between(least, most);
        if alternatives.is_empty() {
            return Err(Unfit::new("no whole number lies within the bounds"));
        }
        Ok(self.digits_rule(&alternatives))
    }

    pub(super) fn number(&mut self, schema: &Map<String, Value>) -> Result<String, Unfit> {
        let Some(bounds) = bounds(schema)? else { return Ok(self.rules.number()) };
        let (least, most) = bounds.whole();
        let mut alternatives: Vec<String> =
            between(least, most).into_iter().map(|whole| format!(r#"{whole} ".0"?"#)).collect();
        let (floor, ceiling) = (bounds.least.ceil() as i64, bounds.most.floor() as i64);
        for digits in digits(floor.max(0), ceiling - 1) {
            alternatives.push(format!("{digits} {FRACTION}"));
        }
        for digits in digits((-ceiling).max(0), -floor - 1) {
            alternatives.push(format!(r#""-" {digits} {FRACTION}"#));
        }
        if alternatives.is_empty() {
            alternatives.extend(narrow(bounds));
        }
        if alternatives.is_empty() {
            return Err(Unfit::new("the bounds are too close together"));
        }
        Ok(self.digits_rule(&alternatives))
    }

    fn digits_rule(&mut self, alternatives: &[String]) -> String {
        self.shaped(&alternatives.join(" | "), Shape::number(alternatives.len() as u64))
    }
}

/// Bounds that hold no whole number: decimals between them.
fn narrow(bounds: Bounds) -> Option<String> {
    let whole = bounds.least.floor();
    if whole < 0.0 {
        return None;
    }
    [(100.0, 2), (10_000.0, 4), (1_000_000.0, 6)].into_iter().find_map(|(scale, places)| {
        let scaled = |value: f64| (value - whole) * scale;
        let inner = Bounds { least: scaled(bounds.least), most: scaled(bounds.most), ..bounds };
        // A rounding error of one step is kept away from.
        let (least, most) = inner.whole();
        let (least, most) = (least + 1, most - 1);
        (0 < least && least <= most && (most as f64) < scale).then(|| {
            let padded = |number: i64| format!("{number:0places$}").into_bytes();
            format!(r#""{whole}." ({})"#, same_length(&padded(least), &padded(most)))
        })
    })
}

/// `None`: there are none.
fn bounds(schema: &Map<String, Value>) -> Result<Option<Bounds>, Unfit> {
    let number = |word: &str| match schema.get(word) {
        None | Some(Value::Bool(_)) => Ok(None),
        Some(value) => match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(Unfit::new(format!("'{word}' must be a number"))),
        },
    };
    let (minimum, maximum) = (number("minimum")?, number("maximum")?);
    let (above, below) = (number("exclusiveMinimum")?, number("exclusiveMaximum")?);
    if [minimum, maximum, above, below].iter().all(Option::is_none) {
        return Ok(None);
    }
    // In an old draft these are flags.
    let is_set = |word: &str| schema.get(word) == Some(&Value::Bool(true));
    let (least, above_least) = match (minimum, above) {
        (Some(least), Some(above)) if least > above => (least, false),
        (_, Some(above)) => (above, true),
        (Some(least), None) => (least, is_set("exclusiveMinimum")),
        (None, None) => (-LARGEST, false),
    };
    let (most, below_most) = match (maximum, below) {
        (Some(most), Some(below)) if most < below => (most, false),
        (_, Some(below)) => (below, true),
        (Some(most), None) => (most, is_set("exclusiveMaximum")),
        (None, None) => (LARGEST, false),
    };
    if least > LARGEST || most < -LARGEST || least > most {
        return Err(Unfit::new("no number of 15 digits lies within the bounds"));
    }
    Ok(Some(Bounds { least: least.max(-LARGEST), most: most.min(LARGEST), above_least, below_most }))
}

/// Whole numbers from `least` to `most`, as alternatives.
fn between(least: i64, most: i64) -> Vec<String> {
    let mut alternatives = digits(least.max(0), most);
    if least < 0 {
        let negative = digits((-most).max(1), -least);
        alternatives.extend(negative.into_iter().map(|digits| format!(r#""-" {digits}"#)));
    }
    alternatives
}

/// Numbers from 0 on without leading zeros, one alternative for each length.
fn digits(least: i64, most: i64) -> Vec<String> {
    if least > most {
        return Vec::new();
    }
    let length = |number: i64| number.to_string().len();
    (length(least)..=length(most))
        .map(|length| {
            let smallest = if length == 1 { 0 } else { 10_i64.pow(u32::try_from(length).unwrap_or(1) - 1) };
            let largest = "9".repeat(length).parse().unwrap_or(i64::MAX);
            let (from, to) = (least.max(smallest).to_string(), most.min(largest).to_string());
            format!("({})", same_length(from.as_bytes(), to.as_bytes()))
        })
        .collect()
}

/// Digit strings of one length from `from` to `to`.
fn same_length(from: &[u8], to: &[u8]) -> String {
    let ([first, from_rest @ ..], [last, to_rest @ ..]) = (from, to) else { return String::new() };
    let rest = from_rest.len();
    let zeros = |digits: &[u8]| digits.iter().all(|digit| *digit == b'0');
    let nines = |digits: &[u8]| digits.iter().all(|digit| *digit == b'9');
    let class = |from: u8, to: u8| match from == to {
        true => format!("[{}]", char::from(from)),
        false => format!("[{}-{}]", char::from(from), char::from(to)),
    };
    let any = |count: usize| if count == 0 { String::new() } else { format!(" [0-9]{{{count}}}") };
    if rest == 0 || (zeros(from_rest) && nines(to_rest)) {
        return format!("{}{}", class(*first, *last), any(rest));
    }
    if first == last {
        return format!("{} ({})", class(*first, *first), same_length(from_rest, to_rest));
    }
    let (mut low, mut high) = (*first, *last);
    let mut parts = Vec::new();
    if !zeros(from_rest) {
        parts.push(format!("{} ({})", class(low, low), same_length(from_rest, "9".repeat(rest).as_bytes())));
        low += 1;
    }
    if !nines(to_rest) {
        high -= 1;
    }
    if low <= high {
        parts.push(format!("{}{}", class(low, high), any(rest)));
    }
    if !nines(to_rest) {
        parts.push(format!("{} ({})", class(*last, *last), same_length("0".repeat(rest).as_bytes(), to_rest)));
    }
    parts.join(" | ")
}
