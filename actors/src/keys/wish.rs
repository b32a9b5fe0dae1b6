//! What somebody wants of a new key, from the command line or the admin API, and what of it cannot be.

use super::{limiter::Limits, record::KeyPolicy};
use crate::domain::{BudgetLimits, DEFAULT_GROUP, NanoUsd, Priority};
use serde::{Deserialize, Serialize};

const MAX_NAME: usize = 64;
const MAX_GROUP: usize = 32;
const MAX_MODELS: usize = 64;
const MAX_MODEL: usize = 256;
const MAX_PER_MINUTE: u32 = 1_000_000_000;
const MAX_CONCURRENCY: u32 = 100_000;
/// Ten years: longer is "never", which can be said by leaving it out.
const MAX_LIFE_S: u64 = 10 * 366 * 86_400;

/// Left out = no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyWish {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    pub local_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    pub budget_usd: BudgetWish,
    pub priority: Priority,
}

/// Dollars as decimal strings: a JSON number would be a float to most programs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetWish {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<String>,
}

/// The field at fault, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{field}' {why}")]
pub struct WishFault {
    pub field: &'static str,
    pub why: String,
}

fn fault<T>(field: &'static str, why: impl Into<String>) -> Result<T, WishFault> {
    Err(WishFault { field, why: why.into() })
}

/// A wish that can be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) life_s: Option<u64>,
    pub(super) policy: KeyPolicy,
}

impl KeyWish {
    /// Its first fault, or the key to be. Names of models are taken as they are: what they mean is configuration's.
    pub(super) fn judge(self) -> Result<Granted, WishFault> {
        let life_s = within("expires_in_s", self.expires_in_s, MAX_LIFE_S)?;
        let limits = Limits {
            requests_per_minute: within("requests_per_minute", self.requests_per_minute, MAX_PER_MINUTE)?,
            tokens_per_minute: within("tokens_per_minute", self.tokens_per_minute, MAX_PER_MINUTE)?,
            concurrency: within("concurrency", self.concurrency, MAX_CONCURRENCY)?,
        };
        let budget = BudgetLimits {
            day: dollars("budget_usd.day", self.budget_usd.day)?,
            month: dollars("budget_usd.month", self.budget_usd.month)?,
            total: dollars("budget_usd.total", self.budget_usd.total)?,
        };
        let policy = KeyPolicy {
            models: self.models.map(models).transpose()?,
            local_only: self.local_only,
            limits,
            budget_nanousd: budget,
            priority: self.priority,
        };
        Ok(Granted { name: name(self.name)?, group: group(self.group)?, life_s, policy })
    }
}

fn name(name: String) -> Result<String, WishFault> {
    let name = name.trim();
    if !(1..=MAX_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return fault("name", format!("must be 1 to {MAX_NAME} characters on one line"));
    }
    Ok(name.to_owned())
}

fn group(group: Option<String>) -> Result<String, WishFault> {
    let Some(group) = group else { return Ok(DEFAULT_GROUP.to_owned()) };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=MAX_GROUP).contains(&group.len()) || !group.bytes().all(good) {
        return fault("group", format!("must be 1 to {MAX_GROUP} letters, digits, dots, dashes or underscores"));
    }
    Ok(group)
}

fn models(models: Vec<String>) -> Result<Vec<String>, WishFault> {
    if !(1..=MAX_MODELS).contains(&models.len()) {
        return fault("models", format!("must name 1 to {MAX_MODELS} models; leave it out to allow all"));
    }
    if models.iter().any(|model| model == "auto") {
        return fault("models", "names 'auto', which every key may ask for: name what it may be answered by");
    }
    if models.iter().any(|model| !(1..=MAX_MODEL).contains(&model.len()) || model.chars().any(char::is_control)) {
        return fault("models", format!("must hold names of 1 to {MAX_MODEL} bytes"));
    }
    Ok(models)
}

fn within<T: PartialOrd + From<u8> + Copy + std::fmt::Display>(
    field: &'static str,
    value: Option<T>,
    most: T,
) -> Result<Option<T>, WishFault> {
    match value {
        Some(value) if value < T::from(1) || value > most => fault(field, format!("must be from 1 to {most}")),
        value => Ok(value),
    }
}

fn dollars(field: &'static str, digits: Option<String>) -> Result<Option<NanoUsd>, WishFault> {
    let Some(digits) = digits else { return Ok(None) };
    // What does not fit a signed 64-bit integer does not fit most stores.
    let most = NanoUsd::new(i64::MAX.unsigned_abs());
    match NanoUsd::from_usd(&digits) {
        Ok(amount) if amount <= most => Ok(Some(amount)),
        Ok(_) => fault(field, "is too large"),
        Err(why) => fault(field, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> KeyWish {
        KeyWish { name: "ci".into(), ..KeyWish::default() }
    }

    #[test]
    fn a_plain_wish_is_a_key_without_limits() {
        let granted = named().judge().unwrap();
        assert_eq!((granted.name.as_str(), granted.group.as_str(), granted.life_s), ("ci", "default", None));
        assert_eq!(granted.policy, KeyPolicy::default());
    }

    #[test]
    fn money_is_exact_to_the_nano_dollar() {
        let budget_usd =
            BudgetWish { day: Some("0.1".into()), month: Some("3".into()), total: Some("0.000000001".into()) };
        let budget = KeyWish { budget_usd, ..named() }.judge().unwrap().policy.budget_nanousd;
        let nano = |amount: Option<NanoUsd>| amount.unwrap().get();
        assert_eq!((nano(budget.day), nano(budget.month), nano(budget.total)), (100_000_000, 3_000_000_000, 1));
    }

    #[test]
    fn every_fault_names_its_field() {
        let budget = |day: &str| KeyWish {
            budget_usd: BudgetWish { day: Some(day.into()), ..BudgetWish::default() },
            ..named()
        };
        let models = |names: &[&str]| KeyWish { models: Some(names.iter().map(|n| (*n).into()).collect()), ..named() };
        for (wish, field) in [
            (KeyWish::default(), "name"),
            (KeyWish { name: "a\nb".into(), ..named() }, "name"),
            (KeyWish { name: "x".repeat(65), ..named() }, "name"),
            (KeyWish { group: Some(String::new()), ..named() }, "group"),
            (KeyWish { group: Some("a b".into()), ..named() }, "group"),
            (models(&[]), "models"),
            (models(&["auto"]), "models"),
            (models(&[""]), "models"),
            (KeyWish { expires_in_s: Some(0), ..named() }, "expires_in_s"),
            (KeyWish { requests_per_minute: Some(0), ..named() }, "requests_per_minute"),
            (KeyWish { tokens_per_minute: Some(u32::MAX), ..named() }, "tokens_per_minute"),
            (KeyWish { concurrency: Some(0), ..named() }, "concurrency"),
            (budget("1,5"), "budget_usd.day"),
            (budget("-1"), "budget_usd.day"),
            (budget("9999999999999"), "budget_usd.day"),
        ] {
            assert_eq!(wish.clone().judge().unwrap_err().field, field, "{wish:?}");
        }
    }
}
