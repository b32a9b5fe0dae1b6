//! Where a stream goes on that was cut after its client had text. Pure.
//!
//! In this order, whatever fits the request and its deadline: another GPU that serves the same model now (tokens are
//! replayed), a cloud model that continues a prefix (plain text only), the same model on a GPU that is full or restarting.
//! With none of them the stream ends with an error; whether one of them failed is the flight's to know.

use super::plan::{
    Ask, Candidate, CloudFacts, LocalFacts, Plan, Reason, Surroundings, WINDOW_SHARE, cloud_candidate, cloud_is_meant,
    is_tokens, local_candidate, unavailable,
};
use crate::{
    config::{PrefillStyle, RuleTarget},
    domain::{GatewayError, NanoUsd},
    jobs::{TakeOver, TargetKey},
};
use std::time::Duration;
use tokio::time::Instant;

/// The ways on, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    WarmGpu,
    /// With its place in the tier's rule.
    CloudPrefix(usize),
    /// A GPU that is full, loading or about to restart.
    PatientGpu,
}

/// Every target that may go on with the stream, best first.
///
/// # Errors
/// There is none.
pub fn plan(ask: Ask<'_>, cut: &TakeOver, around: Surroundings<'_>, now: Instant) -> Result<Plan, GatewayError> {
    let left = cut.deadline.saturating_duration_since(now);
    let locals = around.locals.iter().filter_map(|local| replay(local, ask, cut, left, now));
    let clouds = around.clouds.iter().filter_map(|cloud| prefix(cloud, ask, cut, around, left));
    let mut ways: Vec<(Way, Candidate)> = locals.chain(clouds).collect();
    ways.sort_by_key(|(way, candidate)| (*way, candidate.cost, candidate.first_token));
    let candidates: Vec<Candidate> = ways.into_iter().map(|(_, candidate)| candidate).collect();
    let Some(first) = candidates.first() else {
        return Err(unavailable(ask.request, "nothing can go on with the stream that was cut", Duration::from_secs(1)));
    };
    let how = match first.key {
        TargetKey::Gpu { .. } => "replayed there",
        TargetKey::Cloud { .. } => "continued there from the text already sent",
    };
    let reasoning = format!(
        "{} (p={:.2}), {}: the stream was cut; {} at {}, {how}",
        ask.grade.complexity,
        ask.grade.confidence,
        first.reason.label(),
        first.model,
        first.target
    );
    Ok(Plan { candidates, complexity: ask.grade.complexity, confidence: ask.grade.confidence, reasoning })
}

/// The same local model: what the client has came from it.
fn replay(local: &LocalFacts, ask: Ask<'_>, cut: &TakeOver, left: Duration, now: Instant) -> Option<(Way, Candidate)> {
    let candidate = local_candidate(local, ask);
    if cut.replay.as_ref() != Some(&local.model) || ask.progress.tried.contains(&candidate.key) {
        return None;
    }
    let state = &local.view.state;
    let (way, ready_in) = if local.view.serving {
        let way = if candidate.wait.is_zero() { Way::WarmGpu } else { Way::PatientGpu };
        (way, candidate.first_token)
    } else if state.comes_back_soon() {
        (Way::PatientGpu, state.wakes_at().map_or(Duration::ZERO, |at| at.saturating_duration_since(now)))
    } else {
        return None;
    };
    (ready_in < left).then_some((way, Candidate { reason: Reason::TakeOver, ..candidate }))
}

/// A cloud model that was tried out to continue what another one began.
fn prefix(
    cloud: &CloudFacts,
    ask: Ask<'_>,
    cut: &TakeOver,
    around: Surroundings<'_>,
    left: Duration,
) -> Option<(Way, Candidate)> {
    let may = cut.prefix && cloud.prefill != PrefillStyle::None && cloud.view.usable;
    let meant = !ask.request.local_only && !is_tokens(ask.request) && cloud_is_meant(cloud, ask);
    let candidate = cloud_candidate(cloud, ask, around.default_output);
    if !may || !meant || ask.progress.tried.contains(&candidate.key) || candidate.first_token >= left {
        return None;
    }
    let output_cap = left_of(candidate.output_cap, cut.sent_tokens);
    let prompt = ask.request.estimated_prompt_tokens() + cut.sent_tokens;
    let needed = prompt + ask.request.max_tokens.map_or(0, |_| u64::from(output_cap));
    if needed > (cloud.window as f64 * WINDOW_SHARE) as u64 {
        return None;
    }
    let rule = around.router.rule(ask.grade.complexity);
    let named = |target: &RuleTarget| matches!(target, RuleTarget::Model(model) if *model == cloud.model);
    let place = rule.prefer.iter().chain(&rule.fallback).position(named).unwrap_or(usize::MAX);
    let cost: NanoUsd = cloud.price.cost(prompt, 0, u64::from(output_cap));
    Some((Way::CloudPrefix(place), Candidate { reason: Reason::TakeOver, output_cap, cost, ..candidate }))
}

/// What remains of an output cap; one token at least, so that the continuation can say that it has ended.
fn left_of(cap: u32, sent: u64) -> u32 {
    cap.saturating_sub(u32::try_from(sent).unwrap_or(u32::MAX)).max(1)
}

#[cfg(test)]
mod tests;
