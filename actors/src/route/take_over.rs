//! Where a stream goes on that was cut after its client had text. Pure; the gates have removed what could not take it: a
//! GPU of another model, a cloud model that continues no prefix, whatever was tried.
//!
//! In this order, whatever fits the deadline: another GPU that serves the same model now (tokens are replayed; a server of
//! the operator's goes on from the text), another model that continues a prefix (plain text only), the same model on a GPU
//! that is full or restarting. With none of them the stream ends with an error; whether one of them failed is the flight's
//! to know.

use super::{
    facts::{Ask, LocalFacts, Surroundings},
    plan::{Candidate, Plan, Reason},
};
use crate::{
    config::RuleTarget,
    domain::{ErrorKind, GatewayError},
    jobs::{TakeOver, TargetKey},
};
use std::time::Duration;
use tokio::time::Instant;

/// The ways on, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    WarmGpu,
    /// Another model, with its place in the tier's rule.
    OtherModel(usize),
    /// A GPU that is full, loading or about to restart.
    PatientGpu,
}

/// Every candidate that may go on with the stream in time, best first.
///
/// # Errors
/// There is none.
pub(super) fn plan(
    candidates: Vec<Candidate>,
    ask: Ask<'_>,
    cut: &TakeOver,
    around: Surroundings<'_>,
    now: Instant,
) -> Result<Plan, GatewayError> {
    let left = cut.deadline.saturating_duration_since(now);
    let in_time = candidates.into_iter().filter(|candidate| ready_in(candidate, around, now) < left);
    let mut ways: Vec<(Way, Candidate)> = in_time.map(|candidate| way(candidate, ask, cut, around)).collect();
    ways.sort_by_key(|(way, candidate)| (*way, candidate.cost, candidate.first_token));
    let candidates: Vec<Candidate> = ways.into_iter().map(|(_, candidate)| candidate).collect();
    let Some(first) = candidates.first() else {
        let message = "nothing can go on in time with the stream that was cut; retry later";
        return Err(GatewayError::gateway(ErrorKind::Unavailable, message).retry_after(Duration::from_secs(1)));
    };
    let reasoning = sentence(first, ask, around);
    Ok(Plan { candidates, complexity: ask.grade.complexity, confidence: ask.grade.confidence, reasoning })
}

/// How long until its first token may be expected.
fn ready_in(candidate: &Candidate, around: Surroundings<'_>, now: Instant) -> Duration {
    match local_of(candidate, around) {
        Some(local) if !local.view.serving => {
            local.view.state.wakes_at().map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
        }
        _ => candidate.first_token,
    }
}

fn local_of<'a>(candidate: &Candidate, around: Surroundings<'a>) -> Option<&'a LocalFacts> {
    let is_it = |slot: usize| matches!(candidate.key, TargetKey::Gpu { slot: its, .. } if its == slot);
    around.locals.iter().find(|local| is_it(local.slot))
}

fn is_server(candidate: &Candidate, around: Surroundings<'_>) -> bool {
    local_of(candidate, around).is_some_and(|local| local.view.is_server)
}

fn way(candidate: Candidate, ask: Ask<'_>, cut: &TakeOver, around: Surroundings<'_>) -> (Way, Candidate) {
    let candidate = Candidate { reason: Reason::TakeOver, ..candidate };
    let is_local = matches!(candidate.key, TargetKey::Gpu { .. });
    let is_same = is_local && candidate.model == cut.model;
    let way = if is_same {
        let is_free = candidate.ready && candidate.wait.is_zero();
        if is_free { Way::WarmGpu } else { Way::PatientGpu }
    } else {
        let rule = around.router.rule(ask.grade.complexity);
        let named = |target: &RuleTarget| match target {
            RuleTarget::Model(model) => !is_local && *model == candidate.model,
            RuleTarget::Local(name) => is_local && *name == candidate.target,
            RuleTarget::AnyLocal => is_local,
        };
        Way::OtherModel(rule.prefer.iter().chain(&rule.fallback).position(named).unwrap_or(usize::MAX))
    };
    // Replayed tokens count towards the cap, a text that goes on does not know of it.
    let replays = is_local && !is_server(&candidate, around);
    let output_cap = if replays { candidate.output_cap } else { left_of(candidate.output_cap, cut.sent_tokens) };
    (way, Candidate { output_cap, ..candidate })
}

/// What remains of an output cap; one token at least, so that the continuation can say that it has ended.
fn left_of(cap: u32, sent: u64) -> u32 {
    cap.saturating_sub(u32::try_from(sent).unwrap_or(u32::MAX)).max(1)
}

fn sentence(first: &Candidate, ask: Ask<'_>, around: Surroundings<'_>) -> String {
    let how = match first.key {
        TargetKey::Gpu { .. } if !is_server(first, around) => "replayed there",
        _ => "continued there from the text already sent",
    };
    let (complexity, confidence, reason) = (ask.grade.complexity, ask.grade.confidence, first.reason.label());
    format!(
        "{complexity} (p={confidence:.2}), {reason}: the stream was cut; {how}: {} at {}",
        first.model, first.target
    )
}

#[cfg(test)]
mod tests;
