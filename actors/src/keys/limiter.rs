//! How much of each key's limits is left. One trait, so that gateways may one day share limits; what every implementation
//! must do is written down as tests in `conformance`. Only recognised keys get here, so strangers create no state.

#[cfg(test)]
mod conformance;
mod embedded;

pub use embedded::EmbeddedLimiter;

use crate::domain::KeyId;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};
use tokio::time::Instant;

/// `None` = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub requests_per_minute: Option<u32>,
    pub tokens_per_minute: Option<u32>,
    /// Requests at once.
    pub concurrency: Option<u32>,
}

/// Which limit stands in the way, and when asking again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Requests {
        wait: Duration,
    },
    Tokens {
        wait: Duration,
    },
    /// More tokens than a minute ever has.
    TokensNever {
        limit: u32,
    },
    Concurrency {
        limit: u32,
    },
}

impl Refusal {
    /// The bounded metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Requests { .. } => "requests_limited",
            Self::Tokens { .. } | Self::TokensNever { .. } => "tokens_limited",
            Self::Concurrency { .. } => "concurrency_limited",
        }
    }
}

/// One limit, as response headers tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    pub limit: u32,
    pub remaining: u64,
    /// Until all of it is there again.
    pub reset: Duration,
}

/// How a key stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    pub requests: Option<Meter>,
    pub tokens: Option<Meter>,
    pub running: u32,
}

pub type Verdict<'a> = BoxFuture<'a, Result<(), Refusal>>;

/// What is set aside is always ended, once: `enter` by `count` and `leave`, `reserve` by `settle`. Ending never waits and
/// never fails: an implementation that must tell somebody else does so in the background. [`super::Pass`] and
/// [`super::Hold`] see to it.
pub trait Limiter: Send + Sync + fmt::Debug {
    /// One request more: takes a place among those at once and sets one request aside. Refused, it changes nothing.
    fn enter<'a>(&'a self, key: &'a KeyId, limits: Limits, now: Instant) -> Verdict<'a>;

    /// The request that was set aside counts, or is given back.
    fn count(&self, key: &KeyId, limits: Limits, counts: bool, now: Instant);

    /// The request's place is free.
    fn leave(&self, key: &KeyId);

    /// Sets tokens aside. Refused, it changes nothing.
    fn reserve<'a>(&'a self, key: &'a KeyId, limits: Limits, tokens: u64, now: Instant) -> Verdict<'a>;

    /// Of `reserved` tokens `used` were used; the rest is given back. More than `reserved` is owed.
    fn settle(&self, key: &KeyId, limits: Limits, reserved: u64, used: u64, now: Instant);

    fn standing(&self, key: &KeyId, limits: Limits, now: Instant) -> Standing;

    /// Forgets every key but these.
    fn retain(&self, keep: &dyn Fn(&KeyId) -> bool);
}
