//! From a graded request and the fleet as it is now to ordered candidates, each with cost, latency and reason. Pure.
//!
//! Order: gates (explicit model, local_only, abilities, context, already tried) → the tier's rule → policy (what is not
//! serving, or too slow, moves behind what is). A policy reorders; only a gate removes.

use crate::{
    classify::{Basis, Classification},
    cloud::CloudView,
    config::{RouterConfig, Rule, RuleTarget, Wire},
    domain::{ChatRequest, Complexity, ErrorKind, GatewayError, ModelChoice, ModelName, NanoUsd, Price, TargetName},
    gpu::{SlotView, slot::SlotStats},
    jobs::{Progress, TargetKey},
};
use std::time::Duration;

/// Share of a context window that prompt and explicit max_tokens may fill.
const WINDOW_SHARE: f64 = 0.9;
/// Output tokens assumed for estimates when the request names none.
const EXPECTED_OUTPUT: u64 = 256;
/// Assumed time per output token of a cloud model, before the ledger has better.
const CLOUD_TOKEN: Duration = Duration::from_millis(10);

/// A local target as it is now.
#[derive(Debug, Clone)]
pub struct LocalFacts {
    pub slot: usize,
    pub name: TargetName,
    pub model: ModelName,
    pub view: SlotView,
    /// What of its measurements is still to be believed; `view.stats` are the last known.
    pub believed: SlotStats,
    /// Requests waiting for it already.
    pub queued: usize,
    /// Most tokens of one request, prompt and output.
    pub window: u64,
    pub default_output: u32,
    pub max_output: u32,
}

/// A cloud model as it is now.
#[derive(Debug, Clone)]
pub struct CloudFacts {
    pub provider: usize,
    pub model_index: usize,
    pub provider_name: TargetName,
    pub model: ModelName,
    /// What can be asked of it.
    pub wire: Wire,
    pub window: u64,
    pub price: Price,
    pub view: CloudView,
}

/// Everything a plan is made from besides the request.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    pub locals: &'a [LocalFacts],
    pub clouds: &'a [CloudFacts],
    pub router: &'a RouterConfig,
    /// Output cap of a paid request without max_tokens.
    pub default_output: u32,
}

/// Why a candidate stands where it stands; the label is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Explicit,
    BudgetSensitive,
    Preferred,
    Fallback,
    Other,
    TakeOver,
}

impl Reason {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::BudgetSensitive => "budget_sensitive",
            Self::Preferred => "preferred",
            Self::Fallback => "fallback",
            Self::Other => "other",
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
}

/// The ordered candidates and the story of the decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub candidates: Vec<Candidate>,
    pub complexity: Complexity,
    pub confidence: f64,
    pub reasoning: String,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub request: &'a ChatRequest,
    pub grade: &'a Classification,
    pub progress: &'a Progress,
}

/// Orders every target that may serve the request.
///
/// # Errors
/// No configured target can serve it (the client's fault), or none can now (retry_after says when).
pub fn plan(ask: Ask<'_>, around: Surroundings<'_>) -> Result<Plan, GatewayError> {
    let mut candidates = gated(ask, around)?;
    let rule = around.router.rule(ask.grade.complexity);
    if matches!(ask.request.model, ModelChoice::Auto) && ask.progress.take_over.is_none() {
        order_by_rule(&mut candidates, rule, ask);
    }
    let ready = |candidate: &Candidate| candidate.ready && !too_slow(candidate, ask, rule, around);
    candidates.sort_by_key(|candidate| match (candidate.key, candidate.ready, ready(candidate)) {
        (_, _, true) => 0,
        // Slow but alive beats down; a cloud that rests comes back by itself, a queue at a dead GPU may not.
        (TargetKey::Gpu { .. }, true, false) => 1,
        (TargetKey::Gpu { .. }, false, _) => 2,
        (TargetKey::Cloud { .. }, ..) => 3,
    });
    let confidence = ask.grade.confidence;
    let reasoning = reasoning(&candidates, ask, around, confidence);
    Ok(Plan { candidates, complexity: ask.grade.complexity, confidence, reasoning })
}

fn stays_local_for_budget(ask: Ask<'_>) -> bool {
    ask.grade.basis == Basis::BudgetSensitive
}

/// Everything that passes the hard gates, or why nothing does.
fn gated(ask: Ask<'_>, around: Surroundings<'_>) -> Result<Vec<Candidate>, GatewayError> {
    let named: Vec<Candidate> = locals(ask, around).chain(clouds(ask, around)).collect();
    if named.is_empty() {
        return Err(nothing_admissible(ask, around));
    }
    let fitting: Vec<Candidate> = named.into_iter().filter(|candidate| fits(candidate, ask, around)).collect();
    if fitting.is_empty() {
        return Err(GatewayError::gateway(
            ErrorKind::ContextLengthExceeded,
            format!(
                "the prompt (about {} tokens) and max_tokens fit no configured target; the largest context is {} tokens",
                ask.request.estimated_prompt_tokens(),
                largest_window(ask.request, around)
            ),
        ));
    }
    let untried: Vec<Candidate> =
        fitting.into_iter().filter(|candidate| !ask.progress.tried.contains(&candidate.key)).collect();
    if untried.is_empty() {
        return Err(unavailable(ask.request, "every target was tried", Duration::from_secs(1)));
    }
    let hopeful = |candidate: &Candidate| candidate.ready || waits(candidate, around);
    if !untried.iter().any(hopeful) {
        return Err(none_now(ask.request, &untried, around));
    }
    Ok(untried.into_iter().filter(hopeful).collect())
}

fn locals<'a>(ask: Ask<'a>, around: Surroundings<'a>) -> impl Iterator<Item = Candidate> + 'a {
    let able = !ask.request.needs.any();
    around
        .locals
        .iter()
        .filter(move |local| able && local_is_meant(local, ask))
        .map(move |local| local_candidate(local, ask))
}

fn local_is_meant(local: &LocalFacts, ask: Ask<'_>) -> bool {
    if let Some(model) = &ask.progress.take_over {
        return local.model == *model;
    }
    match &ask.request.model {
        ModelChoice::Auto | ModelChoice::Local => true,
        ModelChoice::Named(name) => local.model == *name || local.name.as_str() == name.as_str(),
    }
}

fn clouds<'a>(ask: Ask<'a>, around: Surroundings<'a>) -> impl Iterator<Item = Candidate> + 'a {
    let open = !ask.request.local_only && ask.progress.take_over.is_none() && !is_tokens(ask.request);
    around
        .clouds
        .iter()
        .filter(move |cloud| open && cloud_is_meant(cloud, ask) && cloud.wire.unmet(ask.request).is_none())
        .map(move |cloud| cloud_candidate(cloud, ask, around.default_output))
}

/// Token ids mean something to the local tokenizer only.
fn is_tokens(request: &ChatRequest) -> bool {
    matches!(request.input, crate::domain::Input::Tokens(_))
}

fn cloud_is_meant(cloud: &CloudFacts, ask: Ask<'_>) -> bool {
    match &ask.request.model {
        ModelChoice::Auto => !cloud.view.unpriced,
        ModelChoice::Local => false,
        ModelChoice::Named(name) => cloud.model == *name,
    }
}

fn expected_output(request: &ChatRequest) -> u64 {
    request.max_tokens.map_or(EXPECTED_OUTPUT, u64::from).min(1024)
}

fn local_candidate(local: &LocalFacts, ask: Ask<'_>) -> Candidate {
    let prompt = ask.request.estimated_prompt_tokens();
    let stats = &local.believed;
    let wait = if local.view.free() > local.queued {
        Duration::ZERO
    } else {
        stats.expected_wait(local.queued, local.view.parallel)
    };
    let first_token = wait.saturating_add(stats.expected_first_token(prompt));
    let known = &local.view.stats;
    let tokens = Duration::try_from_secs_f64(known.pace.decode_step * expected_output(ask.request) as f64);
    let generating = known.expected_first_token(prompt).saturating_add(tokens.unwrap_or(Duration::MAX));
    Candidate {
        key: TargetKey::Gpu { slot: local.slot, epoch: local.view.epoch },
        target: local.name.clone(),
        model: local.model.clone(),
        reason: if ask.progress.take_over.is_some() { Reason::TakeOver } else { Reason::Explicit },
        ready: local.view.serving,
        wait,
        first_token,
        latency: wait.saturating_add(generating),
        cost: NanoUsd::ZERO,
        cost_per_1k: 0.0,
        output_cap: ask.request.max_tokens.unwrap_or(local.default_output).min(local.max_output),
        price: Price::default(),
    }
}

fn cloud_candidate(cloud: &CloudFacts, ask: Ask<'_>, default_output: u32) -> Candidate {
    let prompt = ask.request.estimated_prompt_tokens();
    let output = expected_output(ask.request);
    let cost = cloud.price.cost(prompt, 0, output);
    let first_token = cloud.view.expected_first_token;
    let tokens = CLOUD_TOKEN.saturating_mul(u32::try_from(output).unwrap_or(u32::MAX));
    Candidate {
        key: TargetKey::Cloud { provider: cloud.provider, model: cloud.model_index },
        target: cloud.provider_name.clone(),
        model: cloud.model.clone(),
        reason: Reason::Explicit,
        ready: cloud.view.usable,
        wait: Duration::ZERO,
        first_token,
        latency: first_token.saturating_add(tokens),
        cost,
        cost_per_1k: cost.as_usd() * 1000.0 / (prompt + output).max(1) as f64,
        output_cap: ask.request.max_tokens.unwrap_or(default_output),
        price: cloud.price,
    }
}

fn window_of(candidate: &Candidate, around: Surroundings<'_>) -> u64 {
    match candidate.key {
        TargetKey::Gpu { slot, .. } => around.locals.iter().find(|local| local.slot == slot).map_or(0, |l| l.window),
        TargetKey::Cloud { provider, model } => around
            .clouds
            .iter()
            .find(|cloud| cloud.provider == provider && cloud.model_index == model)
            .map_or(0, |cloud| cloud.window),
    }
}

/// Whether the prompt and an *explicit* max_tokens fit. The estimate of prompt tokens may be twice the truth, so a local
/// target, whose tokenizer will count exactly, is given the benefit of the doubt.
fn fits(candidate: &Candidate, ask: Ask<'_>, around: Surroundings<'_>) -> bool {
    let room = (window_of(candidate, around) as f64 * WINDOW_SHARE) as u64;
    let prompt = ask.request.estimated_prompt_tokens();
    match candidate.key {
        TargetKey::Gpu { .. } => prompt / 2 <= room,
        TargetKey::Cloud { .. } => prompt + u64::from(ask.request.max_tokens.unwrap_or(0)) <= room,
    }
}

fn largest_window(request: &ChatRequest, around: Surroundings<'_>) -> u64 {
    let local = around.locals.iter().map(|local| local.window);
    let cloud = around.clouds.iter().filter(|_| !request.local_only).map(|cloud| cloud.window);
    local.chain(cloud).max().unwrap_or(0)
}

/// Whether waiting in the queue for it makes sense.
fn waits(candidate: &Candidate, around: Surroundings<'_>) -> bool {
    matches!(candidate.key, TargetKey::Gpu { slot, .. }
        if around.locals.iter().any(|local| local.slot == slot && local.view.state.comes_back_soon()))
}

/// No target is configured for what the request asks.
fn nothing_admissible(ask: Ask<'_>, around: Surroundings<'_>) -> GatewayError {
    let request = ask.request;
    let meant = || around.clouds.iter().filter(|cloud| !request.local_only && cloud_is_meant(cloud, ask));
    if let Some(lacking) = meant().find_map(|cloud| cloud.wire.unmet(request)) {
        return GatewayError::invalid(None, format!("no target that may serve this request supports {lacking}"));
    }
    if request.needs.any() && (request.local_only || around.clouds.is_empty() || request.model == ModelChoice::Local) {
        let message = format!(
            "no target that may serve this request supports {}; local targets do not in this version",
            request.needs.field_names().join(", ")
        );
        return GatewayError::invalid(None, message);
    }
    if let ModelChoice::Named(name) = &request.model {
        let in_cloud = around.clouds.iter().any(|cloud| cloud.model == *name);
        let here = around.locals.iter().any(|local| local_is_meant(local, ask));
        if !in_cloud && !here {
            let message = format!("the provider of '{name}' has no API key, so nothing can serve it");
            return GatewayError::gateway(ErrorKind::ModelNotFound, message);
        }
        if in_cloud && request.local_only {
            let message = format!("local_only contradicts the model: '{name}' is served by a cloud provider");
            return GatewayError::invalid("model", message);
        }
    }
    if is_tokens(request) && (around.locals.is_empty() || matches!(request.model, ModelChoice::Named(_))) {
        return GatewayError::invalid("prompt", "a prompt of token ids can only be served locally");
    }
    if request.local_only {
        let message = "the request may not leave this machine, and no local target is configured for it";
        return GatewayError::gateway(ErrorKind::LocalOnlyUnavailable, message).retry_after(Duration::from_secs(5));
    }
    unavailable(request, "no target is configured for this request", Duration::from_secs(5))
}

fn unavailable(request: &ChatRequest, why: &str, after: Duration) -> GatewayError {
    let kind = if request.local_only { ErrorKind::LocalOnlyUnavailable } else { ErrorKind::Unavailable };
    GatewayError::gateway(kind, format!("{why}; retry later")).retry_after(after)
}

/// Targets exist but none can take the request, and waiting here would not help: when will one?
fn none_now(request: &ChatRequest, candidates: &[Candidate], around: Surroundings<'_>) -> GatewayError {
    let now = tokio::time::Instant::now();
    let local_at = around.locals.iter().filter_map(|local| local.view.state.wakes_at());
    let is_meant = |cloud: &&CloudFacts| {
        let key = TargetKey::Cloud { provider: cloud.provider, model: cloud.model_index };
        candidates.iter().any(|candidate| candidate.key == key)
    };
    let clouds: Vec<&CloudFacts> = around.clouds.iter().filter(is_meant).collect();
    let cloud_at = clouds.iter().filter_map(|cloud| cloud.view.usable_at).min();
    let at = if clouds.is_empty() { local_at.min() } else { cloud_at };
    let after = at.map_or(Duration::from_secs(1), |at| at.saturating_duration_since(now));
    let after = after.max(Duration::from_secs(1));
    if !clouds.is_empty() && clouds.iter().all(|cloud| cloud.view.limited) {
        let message = "every provider limits our rate right now; retry later";
        return GatewayError::gateway(ErrorKind::RateLimited, message).retry_after(after);
    }
    unavailable(request, "no target can serve this request right now", after)
}

/// The tier's rule first, then whatever else passed the gates, cheapest first.
fn order_by_rule(candidates: &mut [Candidate], rule: &Rule, ask: Ask<'_>) {
    let budget = stays_local_for_budget(ask);
    let rank = |candidate: &Candidate| -> (usize, Reason) {
        let is_local = matches!(candidate.key, TargetKey::Gpu { .. });
        if budget && is_local {
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
            None => (usize::MAX, Reason::Other),
        }
    };
    for candidate in candidates.iter_mut() {
        candidate.reason = rank(candidate).1;
    }
    candidates.sort_by_key(|candidate| (rank(candidate).0, candidate.cost, candidate.wait));
}

/// Whether expected wait and first token break the bound. Only local targets are held to it: the bound decides between
/// waiting here and spilling.
fn too_slow(candidate: &Candidate, ask: Ask<'_>, rule: &Rule, around: Surroundings<'_>) -> bool {
    let TargetKey::Gpu { slot, .. } = candidate.key else { return false };
    let on_cpu = around
        .locals
        .iter()
        .find(|local| local.slot == slot)
        .and_then(|local| local.view.info.as_ref())
        .is_some_and(|info| !info.on_gpu);
    let configured = if on_cpu && rule.max_latency_is_default { rule.max_latency_cpu } else { rule.max_latency };
    candidate.first_token > ask.request.max_latency.unwrap_or(configured)
}

/// One readable sentence.
fn reasoning(candidates: &[Candidate], ask: Ask<'_>, around: Surroundings<'_>, confidence: f64) -> String {
    let Some(first) = candidates.first() else { return String::new() };
    let state = match first.key {
        TargetKey::Gpu { slot, .. } => {
            let state = around.locals.iter().find(|l| l.slot == slot).map_or("unknown", |l| l.view.state.name());
            format!("{} is {state}, expected wait {} ms", first.target, first.wait.as_millis())
        }
        TargetKey::Cloud { .. } => {
            let because = passed_over(candidates, ask, around);
            let ms = first.first_token.as_millis();
            format!("{because}{} at {} answers, expected first token {ms} ms", first.model, first.target)
        }
    };
    format!("{} (p={confidence:.2}), {}: {state}", ask.grade.complexity, first.reason.label())
}

/// Why no local target comes first although one is there.
fn passed_over(candidates: &[Candidate], ask: Ask<'_>, around: Surroundings<'_>) -> String {
    let Some(local) = around.locals.iter().find(|_| ask.request.model == ModelChoice::Auto) else {
        return String::new();
    };
    let rule = around.router.rule(ask.grade.complexity);
    let slow = |candidate: &&Candidate| {
        matches!(candidate.key, TargetKey::Gpu { .. }) && too_slow(candidate, ask, rule, around)
    };
    let name = &local.name;
    if !local.view.serving {
        format!("{name} is {}, so ", local.view.state.name())
    } else if ask.request.needs.any() {
        format!("{name} does not take {}, so ", ask.request.needs.field_names().join(", "))
    } else if let Some(slow) = candidates.iter().find(slow) {
        format!("{name} would take {} ms to the first token, so ", slow.first_token.as_millis())
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests;
