//! What each target would cost and how long it would take. Pure: rolling measurements in, one candidate out.

use super::{
    facts::{Ask, CloudFacts, LocalFacts, Size, Surroundings},
    gates::Gated,
    plan::{Candidate, Reason},
    policy::Standing,
};
use crate::{
    domain::{CloudBound, NanoUsd, Price},
    gpu::poison::Verdict,
};
use std::time::Duration;

/// Assumed time per output token of a cloud model that was not measured yet.
const CLOUD_TOKEN: Duration = Duration::from_millis(10);

/// A candidate for every target that passed. Cloud ones need the proof that the request may leave this machine.
pub(super) fn candidates(gated: &Gated, ask: Ask<'_>, size: Size, around: Surroundings<'_>) -> Vec<Candidate> {
    let mut candidates = Vec::with_capacity(around.locals.len() + around.clouds.len());
    let locals = gated.locals.iter().zip(around.locals).filter(|(stopped, _)| stopped.is_none());
    candidates.extend(locals.map(|(_, local)| local_candidate(local, ask, size)));
    if let Some(bound) = CloudBound::new(ask.request) {
        let clouds = gated.clouds.iter().zip(around.clouds).filter(|(stopped, _)| stopped.is_none());
        let candidate = |(_, cloud)| cloud_candidate(cloud, bound, ask, size, around.default_output);
        candidates.extend(clouds.map(candidate));
    }
    candidates
}

pub(super) fn local_candidate(local: &LocalFacts, ask: Ask<'_>, size: Size) -> Candidate {
    let key = local.key();
    let cached = ask.recalled.cached_at(key).map(|tokens| tokens.min(size.prompt));
    let fresh = size.prompt - cached.filter(|_| local.abilities.prefix_cache).unwrap_or(0);
    let stats = &local.believed;
    let wait = if ask.verdict == Verdict::Alone && local.view.leases > 0 {
        // Until the last of those who run there has ended.
        stats.expected_wait(0, 1)
    } else if local.view.free() > local.queued {
        Duration::ZERO
    } else {
        stats.expected_wait(local.queued, local.view.parallel)
    };
    let first_token = wait.saturating_add(stats.expected_first_token(fresh));
    let known = &local.view.stats;
    let tokens = Duration::try_from_secs_f64(known.pace.decode_step * size.output as f64);
    let generating = known.expected_first_token(fresh).saturating_add(tokens.unwrap_or(Duration::MAX));
    Candidate {
        key,
        target: local.name.clone(),
        model: local.model.clone(),
        reason: if ask.progress.take_over.is_some() { Reason::TakeOver } else { Reason::Explicit },
        standing: if local.view.serving { Standing::Ready } else { Standing::Waiting },
        ready: local.view.serving,
        wait,
        first_token,
        latency: wait.saturating_add(generating),
        cost: NanoUsd::ZERO,
        cost_per_1k: 0.0,
        output_cap: ask.request.max_tokens.unwrap_or(local.default_output).min(local.max_output),
        price: Price::default(),
        cached_tokens: cached,
        load: local.load(),
        on_cpu: local.view.info.as_ref().is_some_and(|info| !info.on_gpu),
        health: local.health,
    }
}

pub(super) fn cloud_candidate(
    cloud: &CloudFacts,
    bound: CloudBound<'_>,
    ask: Ask<'_>,
    size: Size,
    default_output: u32,
) -> Candidate {
    let key = cloud.key();
    let cached = ask.recalled.cached_at(key).map(|tokens| tokens.min(size.prompt));
    let read_before = cached.filter(|_| cloud.abilities.prefix_cache).unwrap_or(0);
    let cost = cloud.price.cost(size.prompt, read_before, size.output);
    let first_token = cloud.view.expected_first_token;
    let between = cloud.health.inter_token.unwrap_or(CLOUD_TOKEN);
    let tokens = between.saturating_mul(u32::try_from(size.output).unwrap_or(u32::MAX));
    Candidate {
        key,
        target: cloud.provider_name.clone(),
        model: cloud.model.clone(),
        reason: Reason::Explicit,
        standing: Standing::Ready,
        ready: cloud.view.usable,
        wait: Duration::ZERO,
        first_token,
        latency: first_token.saturating_add(tokens),
        cost,
        cost_per_1k: cost.as_usd() * 1000.0 / (size.prompt + size.output).max(1) as f64,
        output_cap: bound.request().max_tokens.unwrap_or(default_output),
        price: cloud.price,
        cached_tokens: cached,
        load: 0.0,
        on_cpu: false,
        health: cloud.health,
    }
}
