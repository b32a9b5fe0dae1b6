//! The gates: what a target must pass before anything is weighed. Hard: only a gate removes a target, a policy reorders.
//! Pure; says for every target which gate stopped it.

use super::facts::{Ask, CloudFacts, LocalFacts, Size, Surroundings};
use crate::{
    config::PrefillStyle,
    domain::{ModelChoice, NanoUsd, Premises},
    gpu::poison::Verdict,
};
use serde::Serialize;

/// Share of a context window that prompt and explicit max_tokens may fill.
const WINDOW_SHARE: f64 = 0.9;

/// The gates in the order in which they are tried. What a target cannot do comes before what it cannot do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// The request names another model, or a take-over needs one that replays or continues a prefix.
    Model,
    /// The request may not leave this machine.
    LocalOnly,
    /// The request's key may not use it.
    KeyPolicy,
    /// It lacks something the request needs: images, token ids, a schema that a grammar can stand for, …
    Abilities,
    /// Its wire format has no words for something the request asks.
    Wire,
    /// The prompt does not fit its window.
    Context,
    /// It costs money, and the ledger cannot be written.
    Ledger,
    /// It costs more than is left.
    Budget,
    /// It was tried for this request already.
    Tried,
    /// An engine died of the request, so no GPU takes it for a while.
    Barred,
    /// It takes no request now, and waiting for it makes no sense.
    State,
    /// The explicit max_tokens does not fit beside the prompt. The softest: with nothing else left, the answer is capped.
    Output,
}

/// The gate that stopped each target, in the order of the facts; `None` = passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gated {
    pub locals: Vec<Option<Gate>>,
    pub clouds: Vec<Option<Gate>>,
}

impl Gated {
    pub fn all(&self) -> impl Iterator<Item = Option<Gate>> {
        self.locals.iter().chain(&self.clouds).copied()
    }

    pub fn stopped_any(&self, gate: Gate) -> bool {
        self.all().any(|stopped| stopped == Some(gate))
    }
}

/// Sends every target through the gates.
pub fn gates(ask: Ask<'_>, size: Size, around: Surroundings<'_>) -> Gated {
    let locals = around.locals.iter().map(|local| stops_local(local, ask, size)).collect();
    let clouds = around.clouds.iter().map(|cloud| stops_cloud(cloud, ask, size, around)).collect();
    let mut gated = Gated { locals, clouds };
    // A local target caps an answer that is asked to be too long: worse than a target that need not, better than none.
    if gated.all().all(|stopped| stopped.is_some()) {
        for stopped in gated.locals.iter_mut().filter(|stopped| **stopped == Some(Gate::Output)) {
            *stopped = None;
        }
    }
    gated
}

fn room(window: u64) -> u64 {
    (window as f64 * WINDOW_SHARE) as u64
}

/// A vector needs no room for an answer.
fn local_room(local: &LocalFacts, ask: Ask<'_>) -> u64 {
    if ask.request.needs.embeddings { local.embedding_window } else { room(local.window) }
}

/// The provider counts better than we estimate.
fn cloud_room(cloud: &CloudFacts, ask: Ask<'_>) -> u64 {
    if ask.request.needs.embeddings { cloud.window.saturating_mul(2) } else { room(cloud.window) }
}

/// The prompt's exact length is counted by the engine, so a local target is given the benefit of the doubt.
fn stops_local(local: &LocalFacts, ask: Ask<'_>, size: Size) -> Option<Gate> {
    let asked = size.asked.map_or(0, u64::from);
    let is_there = local.view.serving || local.view.state.comes_back_soon();
    first_stop([
        (Gate::Model, local_is_meant(local, ask)),
        (Gate::LocalOnly, local.premises == Premises::Own || !ask.request.is_local_only()),
        (Gate::KeyPolicy, ask.may_use_local(local)),
        (Gate::Abilities, local.abilities.serves(ask.request)),
        (Gate::Context, size.prompt_least <= local_room(local, ask)),
        (Gate::Tried, !ask.progress.tried.contains(&local.key())),
        (Gate::Barred, !matches!(ask.verdict, Verdict::Barred { .. })),
        (Gate::State, is_there),
        (Gate::Output, size.prompt_least.saturating_add(asked) <= local_room(local, ask)),
    ])
}

fn stops_cloud(cloud: &CloudFacts, ask: Ask<'_>, size: Size, around: Surroundings<'_>) -> Option<Gate> {
    let asked = size.asked.map_or(0, u64::from);
    let cost = cloud.price.cost(size.prompt, 0, size.output);
    let is_free = cloud.price == crate::domain::Price::default() && !cloud.view.unpriced;
    first_stop([
        (Gate::Model, cloud_is_meant(cloud, ask)),
        (Gate::LocalOnly, !ask.request.is_local_only()),
        (Gate::KeyPolicy, ask.may_use_cloud(cloud)),
        (Gate::Abilities, cloud.abilities.serves(ask.request)),
        (Gate::Wire, cloud.wire.unmet(ask.request).is_none()),
        (Gate::Context, size.longest.saturating_add(asked) <= cloud_room(cloud, ask)),
        (Gate::Ledger, (is_free || around.budget.recordable) && !ask.progress.unrecorded.contains(&cloud.key())),
        (Gate::Budget, is_affordable(cloud, cost, is_free, ask, around)),
        (Gate::Tried, !ask.progress.tried.contains(&cloud.key())),
        (Gate::State, cloud.view.usable),
    ])
}

/// Without a price nobody knows what a budget is charged.
fn is_affordable(cloud: &CloudFacts, cost: NanoUsd, is_free: bool, ask: Ask<'_>, around: Surroundings<'_>) -> bool {
    let unknown = cloud.view.unpriced && around.budget.bound.is_some();
    around.budget.covers(cost, is_free) && !unknown && !ask.progress.unaffordable.contains(&cloud.key())
}

fn first_stop<const N: usize>(tests: [(Gate, bool); N]) -> Option<Gate> {
    tests.into_iter().find_map(|(gate, passed)| (!passed).then_some(gate))
}

pub(super) fn is_tokens(ask: Ask<'_>) -> bool {
    ask.request.has_token_ids()
}

pub(super) fn local_is_meant(local: &LocalFacts, ask: Ask<'_>) -> bool {
    if let Some(cut) = &ask.progress.take_over {
        // An engine of ours replays tokens, a server goes on from the text.
        let replays = !local.view.is_server && cut.replay.as_ref() == Some(&local.model);
        let continues = cut.prefix && local.prefill != PrefillStyle::None;
        if !continues {
            return replays;
        }
    }
    match &ask.request.model {
        ModelChoice::Auto | ModelChoice::Local => true,
        ModelChoice::Named(name) => local.model == *name || local.name.as_str() == name.as_str(),
    }
}

fn cloud_is_meant(cloud: &CloudFacts, ask: Ask<'_>) -> bool {
    match &ask.request.model {
        _ if ask.progress.take_over.as_ref().is_some_and(|cut| !cut.prefix || cloud.prefill == PrefillStyle::None) => {
            false
        }
        // A model without a price is asked for by name only.
        ModelChoice::Auto => !cloud.view.unpriced,
        ModelChoice::Local => false,
        ModelChoice::Named(name) => cloud.model == *name,
    }
}

#[cfg(test)]
mod tests;
