//! Faults of providers on demand: what `/admin/chaos/fault` lets befall the gateway's own calls, whoever is called.
//!
//! A fault is a rule with an end: so many times, so long, or until all are cleared. Which calls it hits follows from its
//! seed and the number of the call alone. While there is none, a call costs one look at an empty pointer. What a fault
//! does to a call is the client's affair ([`crate::upstream::client`]); nothing here makes calls.

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Faults at once.
pub const MAX_FAULTS: usize = 32;
const MAX_MS: u64 = 600_000;
const MAX_TOKENS: u32 = 100_000;

/// Ways a call can go wrong, by the names that the chaos endpoint takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// The call is made `ms` later.
    Latency,
    /// It is answered with `status` (500), and nobody is called.
    Error,
    /// As a rate limit: 429 with `retry_after_s`, and nobody is called.
    #[serde(rename = "429")]
    RateLimit,
    /// The connection ends after `after_tokens` pieces of the answer.
    Cut,
    /// Nothing more is heard after `after_tokens` pieces; the call ends when its patience does.
    Stall,
}

impl FaultKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Error => "error",
            Self::RateLimit => "429",
            Self::Cut => "cut",
            Self::Stall => "stall",
        }
    }
}

/// A fault as it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultWish {
    /// A provider, a cloud model, or a local target that is a server.
    pub target: String,
    pub kind: FaultKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_tokens: Option<u32>,
    /// Calls it hits at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// How long it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// Of the calls, above 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Which calls these are.
    #[serde(default)]
    pub seed: u64,
}

/// What is wrong with a wish, and in which field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}")]
pub struct WrongWish {
    pub field: &'static str,
    pub why: String,
}

/// What befalls one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Befalls {
    /// Before the call.
    pub delay: Duration,
    pub mishap: Option<Mishap>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    Refused { status: u16, retry_after: Option<Duration> },
    Cut { after_tokens: u32 },
    Stall { after_tokens: u32 },
}

impl FaultWish {
    /// Every number where it belongs and inside its bound.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), WrongWish> {
        use FaultKind::{Cut, Error, Latency, RateLimit, Stall};
        let wrong = |field, why: &str| Err(WrongWish { field, why: why.to_owned() });
        let kind = self.kind;
        let foreign = [
            ("ms", self.ms.is_some(), kind == Latency),
            ("status", self.status.is_some(), kind == Error),
            ("retry_after_s", self.retry_after_s.is_some(), kind == RateLimit),
            ("after_tokens", self.after_tokens.is_some(), matches!(kind, Cut | Stall)),
        ];
        if let Some((field, ..)) = foreign.into_iter().find(|(_, given, belongs)| *given && !belongs) {
            return wrong(field, &format!("means nothing for {}", kind.name()));
        }
        if kind == Latency && !self.ms.is_some_and(|ms| (1..=MAX_MS).contains(&ms)) {
            return wrong("ms", &format!("must be 1 to {MAX_MS}"));
        }
        if self.status.is_some_and(|status| !(400..=599).contains(&status)) {
            return wrong("status", "must be 400 to 599");
        }
        if self.retry_after_s.is_some_and(|seconds| seconds > MAX_MS / 1000) {
            return wrong("retry_after_s", &format!("must be at most {}", MAX_MS / 1000));
        }
        if self.after_tokens.is_some_and(|tokens| tokens > MAX_TOKENS) {
            return wrong("after_tokens", &format!("must be at most {MAX_TOKENS}"));
        }
        if self.times == Some(0) {
            return wrong("times", "must be at least 1");
        }
        if self.for_ms.is_some_and(|ms| ms == 0 || ms > 24 * 3_600_000) {
            return wrong("for_ms", "must be 1 to 86400000 (a day)");
        }
        if self.share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return wrong("share", "must be above 0 and at most 1");
        }
        Ok(())
    }

    fn mishap(&self) -> Option<Mishap> {
        let after_tokens = self.after_tokens.unwrap_or(0);
        match self.kind {
            FaultKind::Latency => None,
            FaultKind::Error => Some(Mishap::Refused { status: self.status.unwrap_or(500), retry_after: None }),
            FaultKind::RateLimit => {
                Some(Mishap::Refused { status: 429, retry_after: self.retry_after_s.map(Duration::from_secs) })
            }
            FaultKind::Cut => Some(Mishap::Cut { after_tokens }),
            FaultKind::Stall => Some(Mishap::Stall { after_tokens }),
        }
    }

    /// Whether call `number` is among those that are hit.
    fn hits(&self, number: u64) -> bool {
        let Some(share) = self.share else { return true };
        // Into [0, 1) by the upper 53 bits.
        let drawn = (mix(self.seed ^ mix(number)) >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < share
    }
}

/// The finaliser of splitmix64.
const fn mix(bits: u64) -> u64 {
    let mut z = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[derive(Debug)]
struct Fault {
    wish: FaultWish,
    until: Option<Instant>,
    /// Calls that came by.
    seen: AtomicU64,
    hit: AtomicU64,
}

impl Fault {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
            || self.wish.times.is_some_and(|times| self.hit.load(Relaxed) >= times)
    }

    fn strikes(&self, now: Instant) -> bool {
        if self.is_over(now) || !self.wish.hits(self.seen.fetch_add(1, Relaxed)) {
            return false;
        }
        let times = self.wish.times.unwrap_or(u64::MAX);
        // Of two calls at once only one may be the last.
        self.hit.fetch_update(Relaxed, Relaxed, |hit| (hit < times).then_some(hit + 1)).is_ok()
    }
}

/// A fault in force, as `/admin/chaos/faults` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultView {
    #[serde(flatten)]
    pub wish: FaultWish,
    /// Calls that it has hit.
    pub hit: u64,
    pub left_ms: Option<u64>,
}

/// There are [`MAX_FAULTS`] already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The faults in force. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<ArcSwapOption<Vec<Arc<Fault>>>>);

impl Faults {
    /// `wish` must be a checked one.
    ///
    /// # Errors
    /// There are too many.
    pub fn add(&self, wish: FaultWish, now: Instant) -> Result<(), Full> {
        let until = wish.for_ms.map(|ms| now + Duration::from_millis(ms));
        let fault = Arc::new(Fault { wish, until, seen: AtomicU64::new(0), hit: AtomicU64::new(0) });
        let mut full = false;
        self.0.rcu(|faults| {
            let mut faults: Vec<Arc<Fault>> = alive(faults.as_ref(), now).cloned().collect();
            full = faults.len() >= MAX_FAULTS;
            if !full {
                faults.push(Arc::clone(&fault));
            }
            Some(Arc::new(faults))
        });
        if full { Err(Full) } else { Ok(()) }
    }

    /// Ends all of them; returns how many were in force.
    pub fn clear(&self, now: Instant) -> usize {
        alive(self.0.swap(None).as_ref(), now).count()
    }

    pub fn list(&self, now: Instant) -> Vec<FaultView> {
        let left = |fault: &Fault| fault.until.map(|until| until.saturating_duration_since(now).as_millis() as u64);
        let view = |fault: &Arc<Fault>| FaultView {
            wish: fault.wish.clone(),
            hit: fault.hit.load(Relaxed),
            left_ms: left(fault),
        };
        alive(self.0.load().as_ref(), now).map(view).collect()
    }

    /// What befalls a call of a target with these names. Delays add up; of other mishaps the oldest fault's comes.
    pub fn befall(&self, names: &[&str]) -> Option<Befalls> {
        let faults = self.0.load();
        let faults = faults.as_ref()?;
        let now = Instant::now();
        let mut befalls = Befalls::default();
        for fault in faults.iter().filter(|fault| names.contains(&fault.wish.target.as_str())) {
            let mishap = fault.wish.mishap();
            if mishap.is_some() && befalls.mishap.is_some() || !fault.strikes(now) {
                continue;
            }
            befalls.mishap = befalls.mishap.or(mishap);
            befalls.delay += Duration::from_millis(fault.wish.ms.unwrap_or(0));
        }
        Some(befalls).filter(|befalls| *befalls != Befalls::default())
    }
}

fn alive(faults: Option<&Arc<Vec<Arc<Fault>>>>, now: Instant) -> impl Iterator<Item = &Arc<Fault>> {
    faults.into_iter().flat_map(|faults| faults.iter()).filter(move |fault| !fault.is_over(now))
}

#[cfg(test)]
mod tests;
