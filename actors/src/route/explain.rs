//! A decision laid open, step by step, without running it: nothing is leased, reserved or remembered. Uses the functions
//! RouterActor uses. Never shows the prompt.

use super::{
    classifier::grade,
    facts::{Abilities, Ask, Budget, CloudFacts, LocalFacts, Surroundings},
    fleet::Fleet,
    gates::{Gate, is_tokens},
    plan::{ATTEMPTS, Candidate, Steps, plan, steps},
    policy::{self, Standing, Tier},
};
use crate::{
    classify::Basis,
    cloud::Provider,
    config::Config,
    domain::{ChatRequest, Complexity, GatewayError},
    gpu::{EngineSlot, life::GpuState, poison::Poison},
    jobs::{Progress, TargetKey},
};
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// What would become of a request that came now.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// Always "route".
    pub object: &'static str,
    pub gates: Vec<GateStep>,
    pub score: ScoreStep,
    pub policy: PolicyStep,
    /// `null` when no target passed the gates.
    pub plan: Option<PlanStep>,
    /// Why there is no plan.
    pub refusal: Option<Refusal>,
}

/// One target before the gates.
#[derive(Debug, Clone, Serialize)]
pub struct GateStep {
    pub target: String,
    pub model: String,
    pub is_local: bool,
    pub passed: bool,
    /// The gate that stopped it.
    pub stopped_by: Option<Gate>,
    pub why: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct ScoreStep {
    pub complexity: Complexity,
    pub confidence: f64,
    /// What decides the target: `named_model`, `named_local`, `budget_sensitive` or `rule`.
    pub basis: &'static str,
    pub signals: Vec<String>,
    /// Estimated.
    pub prompt_tokens: u64,
    /// Assumed for cost and latency.
    pub output_tokens: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct PolicyStep {
    /// The tier whose rule was applied.
    pub tier: Complexity,
    /// The hardest tier the conversation has reached, if one is known.
    pub conversation: Option<Complexity>,
    pub order: Vec<OrderStep>,
}

/// One candidate's place in the order.
#[derive(Debug, Clone, Serialize)]
pub struct OrderStep {
    pub target: String,
    pub model: String,
    pub reason: &'static str,
    pub standing: Standing,
    /// Bound on expected wait + first token; `null` = none.
    pub bound_ms: Option<f64>,
    /// Requests on it and before it, in shares of its places.
    pub load: f64,
    pub holds_cache: bool,
    pub success_ratio: Option<f64>,
    pub why: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct PlanStep {
    pub candidates: Vec<CandidateStep>,
    pub max_attempts: usize,
    pub reasoning: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct CandidateStep {
    pub target: String,
    pub model: String,
    pub reason: &'static str,
    pub expected_wait_ms: f64,
    pub expected_first_token_ms: f64,
    pub estimated_latency_ms: f64,
    pub estimated_cost_usd: f64,
    pub estimated_cost_per_1k: f64,
    pub cached_tokens: u64,
    pub max_output_tokens: u32,
}

#[derive(Debug, Clone, Serialize)]
pub struct Refusal {
    pub kind: &'static str,
    pub message: String,
    pub retry_after_ms: Option<f64>,
}

/// What a request would meet if it came now with `queued` others waiting.
pub fn explain(
    request: &ChatRequest,
    config: &Config,
    fleet: &Fleet,
    budget: Budget,
    queued: usize,
    now: Instant,
) -> Explanation {
    weighed(request, config, fleet, budget, queued, now, laid_open)
}

/// Where a request would go first if it came now with `queued` others waiting; `None` = it would be refused.
pub fn first_target(
    request: &ChatRequest,
    config: &Config,
    fleet: &Fleet,
    budget: Budget,
    queued: usize,
    now: Instant,
) -> Option<TargetKey> {
    let first = |ask: Ask<'_>, around: Surroundings<'_>| plan(ask, around).ok()?.candidates.first().map(|one| one.key);
    weighed(request, config, fleet, budget, queued, now, first)
}

fn weighed<T>(
    request: &ChatRequest,
    config: &Config,
    fleet: &Fleet,
    budget: Budget,
    queued: usize,
    now: Instant,
    weigh: impl FnOnce(Ask<'_>, Surroundings<'_>) -> T,
) -> T {
    let (locals, clouds) = (fleet.locals(queued, now), fleet.clouds(now));
    let around = Surroundings { budget, ..surroundings(config, &locals, &clouds) };
    let recalled = fleet.sessions.recall(&fleet.sessions.conversation(request), now);
    let (grade, progress) = (grade(request, config.router.classifier), Progress::default());
    weigh(Ask { recalled, ..Ask::new(request, &grade, &progress) }, around)
}

/// As [`explain`] without a running gateway: every local target is taken to be warm and idle, every provider with a key
/// to be well.
///
/// # Errors
/// A provider's client cannot be built.
pub fn explain_at_rest(request: &ChatRequest, config: &Config, now: Instant) -> Result<Explanation, GatewayError> {
    let slots = config
        .locals
        .iter()
        .map(|local| EngineSlot::new(Arc::clone(local), config.supervision.gpu, Poison::default()))
        .collect();
    let providers = config.clouds.iter().map(|cloud| Provider::new(Arc::clone(cloud))).collect::<Result<_, _>>()?;
    let fleet = Fleet { slots, providers, ..Fleet::default() };
    let (mut locals, clouds) = (fleet.locals(0, now), fleet.clouds(now));
    for local in &mut locals {
        local.view.state = GpuState::Warm;
        local.view.serving = true;
    }
    let (grade, progress) = (grade(request, config.router.classifier), Progress::default());
    Ok(laid_open(Ask::new(request, &grade, &progress), surroundings(config, &locals, &clouds)))
}

fn surroundings<'a>(config: &'a Config, locals: &'a [LocalFacts], clouds: &'a [CloudFacts]) -> Surroundings<'a> {
    let default_output = config.ledger.default_output_tokens;
    Surroundings { locals, clouds, router: &config.router, default_output, budget: Budget::default() }
}

/// Every step of one decision.
pub fn laid_open(ask: Ask<'_>, around: Surroundings<'_>) -> Explanation {
    let steps = steps(ask, around);
    let (plan, refusal) = match &steps.plan {
        Ok(plan) => (Some(plan), None),
        Err(error) => (None, Some(refusal(error))),
    };
    let candidates = plan.map_or(&[][..], |plan| plan.candidates.as_slice());
    let order = candidates.iter().map(|candidate| order_step(candidate, steps.tier, ask, around)).collect();
    Explanation {
        object: "route",
        gates: gate_steps(&steps, ask, around),
        score: score_step(&steps, ask),
        policy: PolicyStep { tier: steps.tier.complexity, conversation: ask.recalled.tier, order },
        plan: plan.map(|plan| PlanStep {
            candidates: candidates.iter().map(candidate_step).collect(),
            max_attempts: ATTEMPTS,
            reasoning: plan.reasoning.clone(),
        }),
        refusal,
    }
}

fn gate_steps(steps: &Steps, ask: Ask<'_>, around: Surroundings<'_>) -> Vec<GateStep> {
    let locals = around.locals.iter().zip(&steps.gated.locals).map(|(local, stopped)| {
        let state = format!("is {}", local.view.state.name());
        let passed = format!("{state}, {} of {} places taken", local.view.leases, local.view.parallel);
        let why = stopped.map_or(passed, |gate| why_stopped(gate, ask, local.abilities, local.window, &state));
        gate_step(local.name.as_str(), local.model.as_str(), true, *stopped, why)
    });
    let clouds = around.clouds.iter().zip(&steps.gated.clouds).map(|(cloud, stopped)| {
        let state = if cloud.view.limited { "limits our rate" } else { "is left alone after failures" };
        let why = stopped.map_or_else(
            || "takes requests".to_owned(),
            |gate| why_stopped(gate, ask, cloud.abilities, cloud.window, state),
        );
        gate_step(cloud.provider_name.as_str(), cloud.model.as_str(), false, *stopped, why)
    });
    locals.chain(clouds).collect()
}

fn gate_step(target: &str, model: &str, is_local: bool, stopped_by: Option<Gate>, why: String) -> GateStep {
    let (target, model) = (target.to_owned(), model.to_owned());
    GateStep { target, model, is_local, passed: stopped_by.is_none(), stopped_by, why }
}

fn why_stopped(gate: Gate, ask: Ask<'_>, abilities: Abilities, window: u64, state: &str) -> String {
    match gate {
        Gate::Model => "the request names another model".to_owned(),
        Gate::LocalOnly => "the request may not leave this machine".to_owned(),
        Gate::KeyPolicy => "the request's key may not use it".to_owned(),
        Gate::Abilities => why_unable(abilities, ask),
        Gate::Wire => "its wire format has no words for what the request asks".to_owned(),
        Gate::Context => format!("the prompt is too long for its {window} tokens"),
        Gate::Ledger => "costs money, and the ledger cannot be written".to_owned(),
        Gate::Budget => "costs more than is left of the budget".to_owned(),
        Gate::Tried => "was tried already".to_owned(),
        Gate::Barred => "an engine died of this prompt lately".to_owned(),
        Gate::State => state.to_owned(),
        Gate::Output => {
            format!("max_tokens {} does not fit its {window} tokens", ask.request.max_tokens.unwrap_or_default())
        }
    }
}

fn why_unable(abilities: Abilities, ask: Ask<'_>) -> String {
    let missing = abilities.missing(ask.request.needs);
    if !abilities.writes(ask.request) {
        return "turns texts into vectors and writes none".to_owned();
    }
    if !abilities.hears(ask.request) {
        return "takes text completions only, no chats".to_owned();
    }
    if missing.any() {
        return format!("does not take {}", missing.field_names().join(", "));
    }
    let why = if is_tokens(ask) { "cannot read token ids" } else { "no grammar stands for the schema asked for" };
    why.to_owned()
}

fn score_step(steps: &Steps, ask: Ask<'_>) -> ScoreStep {
    let grade = ask.grade;
    ScoreStep {
        complexity: grade.complexity,
        confidence: grade.confidence,
        basis: match grade.basis {
            Basis::NamedModel => "named_model",
            Basis::NamedLocal => "named_local",
            Basis::BudgetSensitive => "budget_sensitive",
            Basis::Rule => "rule",
        },
        signals: grade.signals.iter().map(ToString::to_string).collect(),
        prompt_tokens: steps.size.prompt,
        output_tokens: steps.size.output,
    }
}

fn order_step(candidate: &Candidate, tier: Tier, ask: Ask<'_>, around: Surroundings<'_>) -> OrderStep {
    let is_local = matches!(candidate.key, TargetKey::Gpu { .. });
    let bound = policy::bound(candidate, tier, ask, around).filter(|_| is_local);
    let first_token = ms(candidate.first_token);
    OrderStep {
        target: candidate.target.to_string(),
        model: candidate.model.to_string(),
        reason: candidate.reason.label(),
        standing: candidate.standing,
        bound_ms: bound.map(ms),
        load: candidate.load,
        holds_cache: candidate.cached_tokens.is_some(),
        success_ratio: candidate.health.success_ratio,
        why: match candidate.standing {
            Standing::Ready => format!("first token expected in {first_token:.0} ms"),
            Standing::Crowded => format!("its places are kept for easier requests than {}", tier.complexity),
            Standing::Slow => {
                format!(
                    "first token expected in {first_token:.0} ms, above its bound of {:.0} ms",
                    bound.map_or(0.0, ms)
                )
            }
            Standing::Poor => "degraded, or most of its recent attempts failed".to_owned(),
            Standing::Waiting => "not serving yet; the request would wait for it".to_owned(),
        },
    }
}

fn candidate_step(candidate: &Candidate) -> CandidateStep {
    CandidateStep {
        target: candidate.target.to_string(),
        model: candidate.model.to_string(),
        reason: candidate.reason.label(),
        expected_wait_ms: ms(candidate.wait),
        expected_first_token_ms: ms(candidate.first_token),
        estimated_latency_ms: ms(candidate.latency),
        estimated_cost_usd: candidate.cost.as_usd(),
        estimated_cost_per_1k: candidate.cost_per_1k,
        cached_tokens: candidate.cached_tokens.unwrap_or(0),
        max_output_tokens: candidate.output_cap,
    }
}

fn refusal(error: &GatewayError) -> Refusal {
    let (kind, message) = (error.kind.label(), error.message.clone());
    Refusal { kind, message, retry_after_ms: error.retry_after.map(ms) }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests;
