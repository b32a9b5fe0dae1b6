//! The policy: in which order the candidates are tried. It moves thresholds, never the score, and removes nobody. Pure.
//!
//! The tier's rule comes first, then every other candidate, cheapest first. What is not serving, too slow, too crowded
//! for a request this hard, or poor of health moves behind what is well.

use super::{
    facts::{Ask, Surroundings},
    plan::{Candidate, Reason},
};
use crate::{
    classify::Basis,
    config::{Rule, RuleTarget},
    domain::{Complexity, ModelChoice, NanoUsd},
    jobs::TargetKey,
};
use serde::Serialize;
use std::time::Duration;

/// Engines that may die under one request before it is better off elsewhere.
pub const DEATHS: usize = 2;

/// How well a candidate could take the request now. Orders from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Ready,
    /// Local, and so full that its places are kept for easier requests.
    Crowded,
    /// Local, and expected wait + first token break the bound.
    Slow,
    /// Degraded, or most of its recent attempts failed; or local, and engines have died under this request.
    Poor,
    /// Local, not serving yet: the request would wait for it.
    Waiting,
}

impl Standing {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Crowded => "crowded",
            Self::Slow => "slow",
            Self::Poor => "poor",
            Self::Waiting => "waiting",
        }
    }

    /// Slow but alive beats failing; failing beats a queue at a dead GPU, which may not come back.
    const fn class(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Crowded | Self::Slow => 1,
            Self::Poor => 2,
            Self::Waiting => 3,
        }
    }
}

/// The tier whose rule applies, and what decides inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    pub complexity: Complexity,
    pub basis: Basis,
}

/// The request's own grade, the one a poor answer raised it to, or the one its conversation has reached: a conversation only escalates while it lasts. Who
/// asks to save money, or names a model, is taken at the word of this request.
pub fn tier(ask: Ask<'_>) -> Tier {
    let grade = ask.grade;
    let own = Tier { complexity: ask.progress.escalated.unwrap_or(grade.complexity), basis: grade.basis };
    let reached = ask.recalled.tier.filter(|reached| *reached > own.complexity);
    match reached {
        Some(complexity) if grade.basis == Basis::Rule && !ask.request.budget_sensitive => Tier { complexity, ..own },
        _ => own,
    }
}

/// The bound on expected wait + first token of this candidate, never beyond the request's deadline; `None` = none.
pub fn bound(candidate: &Candidate, tier: Tier, ask: Ask<'_>, around: Surroundings<'_>) -> Option<Duration> {
    let rule = around.router.rule(tier.complexity);
    let bound = match ask.request.max_latency {
        Some(asked) => Some(asked),
        // Money before time, unless the request says how much time.
        None if tier.basis == Basis::BudgetSensitive => None,
        None if candidate.on_cpu && rule.max_latency_is_default => Some(rule.max_latency_cpu),
        None => Some(rule.max_latency),
    };
    bound.into_iter().chain(ask.time_left).min()
}

/// Orders the candidates and notes on each why it stands where it stands.
pub fn order(candidates: &mut [Candidate], tier: Tier, ask: Ask<'_>, around: Surroundings<'_>) {
    let rule = around.router.rule(tier.complexity);
    let by_rule = matches!(ask.request.model, ModelChoice::Auto) && ask.progress.take_over.is_none();
    let gap = around.router.session.max_queue_gap;
    for candidate in candidates.iter_mut() {
        candidate.standing = standing(candidate, tier, ask, around);
        if by_rule {
            let reason = rank(candidate, tier, rule).1;
            candidate.reason = if ask.request.is_local_only() { Reason::LocalOnly } else { reason };
        }
    }
    candidates.sort_by_cached_key(|candidate| {
        let rank = if by_rule { rank(candidate, tier, rule).0 } else { 0 };
        (candidate.standing.class(), rank, expected_cost(candidate), felt_wait(candidate, gap), crowding(candidate))
    });
}

fn standing(candidate: &Candidate, tier: Tier, ask: Ask<'_>, around: Surroundings<'_>) -> Standing {
    let is_local = matches!(candidate.key, TargetKey::Gpu { .. });
    if !candidate.ready {
        return Standing::Waiting;
    }
    if candidate.health.is_poor() {
        return Standing::Poor;
    }
    if !is_local {
        return Standing::Ready;
    }
    let deaths = ask.progress.tried.iter().filter(|tried| matches!(tried, TargetKey::Gpu { .. })).count();
    if deaths >= DEATHS {
        return Standing::Poor;
    }
    let expected = penalised(candidate.first_token, candidate.health.penalty());
    if bound(candidate, tier, ask, around).is_some_and(|bound| expected > bound) {
        return Standing::Slow;
    }
    let is_full = candidate.load >= around.router.rule(tier.complexity).spill_load;
    if is_full && tier.basis == Basis::Rule && ask.request.max_latency.is_none() {
        return Standing::Crowded;
    }
    Standing::Ready
}

/// Position in the rule, and why.
fn rank(candidate: &Candidate, tier: Tier, rule: &Rule) -> (usize, Reason) {
    let is_local = matches!(candidate.key, TargetKey::Gpu { .. });
    if tier.basis == Basis::BudgetSensitive && is_local {
        return (0, Reason::BudgetSensitive);
    }
    let matches = |target: &RuleTarget| match target {
        RuleTarget::AnyLocal => is_local,
        RuleTarget::Local(name) => is_local && candidate.target == *name,
        RuleTarget::Model(name) => !is_local && candidate.model == *name,
    };
    if let Some(at) = rule.prefer.iter().position(matches) {
        return (1 + at, Reason::Preferred);
    }
    match rule.fallback.iter().position(matches) {
        Some(at) => (1 + rule.prefer.len() + at, Reason::Fallback),
        None => (usize::MAX, Reason::Unlisted),
    }
}

/// Cost until an attempt lands.
fn expected_cost(candidate: &Candidate) -> NanoUsd {
    NanoUsd::new((candidate.cost.get() as f64 * candidate.health.penalty()) as u64)
}

/// Wait as the order counts it: who holds the conversation's cache may be this much busier, and wins a tie.
fn felt_wait(candidate: &Candidate, gap: Duration) -> (Duration, bool) {
    let wait = penalised(candidate.wait, candidate.health.penalty());
    match candidate.cached_tokens {
        Some(_) => (wait.saturating_sub(gap), false),
        None => (wait, true),
    }
}

/// Among equals the emptier one, in hundredths.
fn crowding(candidate: &Candidate) -> u64 {
    (candidate.load * 100.0) as u64
}

fn penalised(time: Duration, penalty: f64) -> Duration {
    Duration::try_from_secs_f64(time.as_secs_f64() * penalty).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
