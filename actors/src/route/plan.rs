//! From a graded request and the fleet as it is now to ordered candidates, each with cost, latency and reason. Pure: gates
//! remove, estimates price, the policy orders, and one sentence says why.

use super::{
    estimate,
    facts::{Ask, Size, Surroundings, TargetHealth},
    gates::{self, Gated},
    policy::{self, Standing, Tier},
    refusal::refusal,
    sentence::sentence,
    take_over,
};
use crate::{
    domain::{Complexity, GatewayError, ModelName, NanoUsd, Price, TargetName},
    jobs::TargetKey,
};
use std::time::Duration;

/// Candidates that may fail by their own fault before the request does; each is tried once.
pub const ATTEMPTS: usize = 3;

/// Why a candidate stands where it stands; the label is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Explicit,
    /// The request, or its key, stays on this machine.
    LocalOnly,
    BudgetSensitive,
    Preferred,
    Fallback,
    /// In no list of the tier's rule: it is what can serve when none of those can.
    Unlisted,
    TakeOver,
}

impl Reason {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::LocalOnly => "local_only",
            Self::BudgetSensitive => "budget_sensitive",
            Self::Preferred => "preferred",
            Self::Fallback => "fallback",
            Self::Unlisted => "unlisted",
            Self::TakeOver => "take_over",
        }
    }
}

/// One place the request may go to.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub key: TargetKey,
    pub target: TargetName,
    pub model: ModelName,
    pub reason: Reason,
    pub standing: Standing,
    /// Can take the request now (a local target: serving, though perhaps after a wait).
    pub ready: bool,
    /// Expected wait for a lease.
    pub wait: Duration,
    /// Expected time from now to the first token.
    pub first_token: Duration,
    /// Expected time from now to the last token.
    pub latency: Duration,
    pub cost: NanoUsd,
    /// US dollars per 1,000 tokens, blended over expected prompt and completion.
    pub cost_per_1k: f64,
    /// Most output tokens the target may be asked for.
    pub output_cap: u32,
    pub price: Price,
    /// Tokens of the conversation it has read before; `None` = the conversation was not here.
    pub cached_tokens: Option<u64>,
    /// Requests on it and before it, in shares of its places; a cloud model has no places of its own.
    pub load: f64,
    /// A local target without a GPU.
    pub on_cpu: bool,
    pub health: TargetHealth,
}

/// The ordered candidates and the story of the decision. At most [`ATTEMPTS`] of them are tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub candidates: Vec<Candidate>,
    /// The tier whose rule was applied.
    pub complexity: Complexity,
    pub confidence: f64,
    pub reasoning: String,
}

/// Every step of one decision, for those who want to see it.
#[derive(Debug, Clone)]
pub struct Steps {
    pub size: Size,
    pub gated: Gated,
    pub tier: Tier,
    pub plan: Result<Plan, GatewayError>,
}

/// Orders every target that may serve the request.
///
/// # Errors
/// No configured target can serve it (the client's fault), or none can now (retry_after says when).
pub fn plan(ask: Ask<'_>, around: Surroundings<'_>) -> Result<Plan, GatewayError> {
    steps(ask, around).plan
}

/// As [`plan`], with the way to it.
pub fn steps(ask: Ask<'_>, around: Surroundings<'_>) -> Steps {
    let size = Size::of(ask.request);
    let gated = gates::gates(ask, size, around);
    let tier = policy::tier(ask);
    let mut candidates = estimate::candidates(&gated, ask, size, around);
    let plan = if candidates.is_empty() {
        Err(refusal(&gated, ask, size, around))
    } else if let Some(cut) = &ask.progress.take_over {
        take_over::plan(candidates, ask, cut, around, tokio::time::Instant::now())
    } else {
        policy::order(&mut candidates, tier, ask, around);
        let reasoning = sentence(&candidates, tier, ask, around);
        Ok(Plan { candidates, complexity: tier.complexity, confidence: ask.grade.confidence, reasoning })
    };
    Steps { size, gated, tier, plan }
}

#[cfg(test)]
mod tests;
