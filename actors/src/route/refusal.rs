//! No target passed the gates: what the client is told, and when to come back. Pure.

use super::{
    facts::{Abilities, Ask, CloudFacts, LocalFacts, Size, Surroundings},
    gates::{Gate, Gated, is_tokens, local_is_meant},
};
use crate::{
    domain::{ChatRequest, ErrorKind, GatewayError, ModelChoice},
    gpu::poison::Verdict,
    ledger::Refused,
};
use std::time::Duration;
use tokio::time::Instant;

/// The nearest target decides: one that may be there later counts more than one that can never serve this.
pub(super) fn refusal(gated: &Gated, ask: Ask<'_>, size: Size, around: Surroundings<'_>) -> GatewayError {
    if gated.stopped_any(Gate::State) {
        none_now(gated, ask, around)
    } else if let Some(until) = barred_until(gated, ask) {
        barred(ask.request, until)
    } else if gated.stopped_any(Gate::Tried) {
        unavailable(ask.request, "every target was tried", Duration::from_secs(1))
    } else if gated.stopped_any(Gate::Ledger) {
        Refused::NotWritten.told()
    } else if gated.stopped_any(Gate::Budget) {
        over_budget(around)
    } else if gated.stopped_any(Gate::Context) {
        too_long(gated, ask, size, around)
    } else if gated.stopped_any(Gate::KeyPolicy) || (stays_by_key(ask) && gated.stopped_any(Gate::LocalOnly)) {
        GatewayError::gateway(ErrorKind::Forbidden, "this key may not use any target that can serve the request")
    } else {
        nothing_admissible(gated, ask, around)
    }
}

fn over_budget(around: Surroundings<'_>) -> GatewayError {
    let refused = around.budget.bound.map(|bound| Refused::Budget(bound).told().message);
    let why = refused.unwrap_or_else(|| "no budget covers this request".to_owned());
    GatewayError::gateway(ErrorKind::InsufficientQuota, format!("no local target can serve this request, and {why}"))
}

/// When the bar ends, if it is why no GPU takes the request.
fn barred_until(gated: &Gated, ask: Ask<'_>) -> Option<Instant> {
    match ask.verdict {
        Verdict::Barred { until } if gated.stopped_any(Gate::Barred) => Some(until),
        _ => None,
    }
}

fn barred(request: &ChatRequest, until: Instant) -> GatewayError {
    let after = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let message = format!(
        "the local engine died of this prompt, so it is kept from GPUs for another {} s, and no other target may serve it",
        after.as_secs()
    );
    let kind = if request.is_local_only() { ErrorKind::LocalOnlyUnavailable } else { ErrorKind::Unavailable };
    GatewayError::gateway(kind, message).retry_after(after)
}

fn stays_by_key(ask: Ask<'_>) -> bool {
    ask.request.caller.as_ref().is_some_and(|caller| caller.local_only)
}

fn too_long(gated: &Gated, ask: Ask<'_>, size: Size, around: Surroundings<'_>) -> GatewayError {
    let embeds = ask.request.needs.embeddings;
    let short = |stopped: &Option<Gate>| *stopped == Some(Gate::Context);
    let window = |local: &LocalFacts| if embeds { local.embedding_window } else { local.window };
    let local = gated.locals.iter().zip(around.locals).filter(|(stopped, _)| short(stopped)).map(|(_, l)| window(l));
    let cloud = gated.clouds.iter().zip(around.clouds).filter(|(stopped, _)| short(stopped)).map(|(_, c)| c.window);
    let largest = local.chain(cloud).max().unwrap_or(0);
    let longest = size.longest;
    if embeds {
        let message =
            format!("a text of about {longest} tokens fits no configured target; the longest is {largest} tokens");
        let mut error = GatewayError::gateway(ErrorKind::ContextLengthExceeded, message);
        error.param = Some("input".to_owned());
        return error;
    }
    let message = format!(
        "the prompt (about {longest} tokens) and max_tokens fit no configured target; the largest context is {largest} \
         tokens"
    );
    GatewayError::gateway(ErrorKind::ContextLengthExceeded, message)
}

/// No target is configured for what the request asks.
fn nothing_admissible(gated: &Gated, ask: Ask<'_>, around: Surroundings<'_>) -> GatewayError {
    let request = ask.request;
    let wordless = gated.clouds.iter().zip(around.clouds).filter(|(stopped, _)| **stopped == Some(Gate::Wire));
    if let Some(lacking) = wordless.filter_map(|(_, cloud)| cloud.wire.unmet(request)).next() {
        return GatewayError::invalid(None, format!("no target that may serve this request supports {lacking}"));
    }
    if gated.stopped_any(Gate::Abilities) {
        return unable(gated, ask, around);
    }
    if let ModelChoice::Named(name) = &request.model {
        let in_cloud = around.clouds.iter().any(|cloud| cloud.model == *name);
        let here = around.locals.iter().any(|local| local_is_meant(local, ask));
        if !in_cloud && !here {
            let message = format!("the provider of '{name}' has no API key, so nothing can serve it");
            return GatewayError::gateway(ErrorKind::ModelNotFound, message);
        }
        if in_cloud && request.is_local_only() {
            let message = format!("local_only contradicts the model: '{name}' is served by a cloud provider");
            return GatewayError::invalid("model", message);
        }
    }
    if request.is_local_only() {
        let message = "the request may not leave this machine, and no local target is configured for it";
        return GatewayError::gateway(ErrorKind::LocalOnlyUnavailable, message).retry_after(Duration::from_secs(5));
    }
    unavailable(request, "no target is configured for this request", Duration::from_secs(5))
}

/// Says what is missing at the target that lacks least.
fn unable(gated: &Gated, ask: Ask<'_>, around: Surroundings<'_>) -> GatewayError {
    let request = ask.request;
    let lacks = |stopped: &Option<Gate>| *stopped == Some(Gate::Abilities);
    let locals = gated.locals.iter().zip(around.locals).filter(|(stopped, _)| lacks(stopped));
    let clouds = gated.clouds.iter().zip(around.clouds).filter(|(stopped, _)| lacks(stopped));
    let locals = locals.map(|(_, local)| local.abilities);
    let lacking: Vec<Abilities> = locals.chain(clouds.map(|(_, cloud)| cloud.abilities)).collect();
    if lacking.iter().all(|abilities| !abilities.writes(request)) {
        return wordless(&request.model);
    }
    let able: Vec<Abilities> = lacking.into_iter().filter(|one| one.writes(request) && one.hears(request)).collect();
    if able.is_empty() {
        return GatewayError::invalid("model", "the model takes text completions only, no chats");
    }
    let missing = able.iter().map(|abilities| abilities.missing(request.needs).field_names());
    let least = missing.min_by_key(Vec::len).unwrap_or_default();
    let unmet = able.iter().find_map(|abilities| abilities.unmet(request));
    if let (true, Some(unmet)) = (least.is_empty(), unmet) {
        let mut error = GatewayError::invalid(None, unmet.message.clone());
        error.param = Some(unmet.param.clone());
        return error;
    }
    if least.is_empty() && is_tokens(ask) {
        return GatewayError::invalid("prompt", "a prompt of token ids can only be served locally");
    }
    let message = format!("no target that may serve this request supports {}", least.join(", "));
    GatewayError::invalid(least.first().and_then(|name| field(name)), message)
}

/// Vectors are all that there is to be had.
fn wordless(model: &ModelChoice) -> GatewayError {
    let message = match model {
        ModelChoice::Named(name) => {
            format!("'{name}' is an embedding model: it turns texts into vectors, at /v1/embeddings, and writes none")
        }
        ModelChoice::Auto | ModelChoice::Local => "no target that may serve this request writes text".to_owned(),
    };
    GatewayError::invalid("model", message)
}

/// The field of the body behind the name of a need.
fn field(need: &'static str) -> Option<&'static str> {
    match need {
        "n > 1" => Some("n"),
        "several prompts" => Some("prompt"),
        "embeddings" => Some("model"),
        "image parts" | "audio parts" => None,
        field => Some(field),
    }
}

fn unavailable(request: &ChatRequest, why: &str, after: Duration) -> GatewayError {
    let kind = if request.is_local_only() { ErrorKind::LocalOnlyUnavailable } else { ErrorKind::Unavailable };
    GatewayError::gateway(kind, format!("{why}; retry later")).retry_after(after)
}

/// Targets exist but none can take the request, and waiting here would not help: when will one?
fn none_now(gated: &Gated, ask: Ask<'_>, around: Surroundings<'_>) -> GatewayError {
    let now = Instant::now();
    let rests = |stopped: &Option<Gate>| *stopped == Some(Gate::State);
    let locals = gated.locals.iter().zip(around.locals).filter(|(stopped, _)| rests(stopped)).map(|(_, local)| local);
    let clouds = gated.clouds.iter().zip(around.clouds).filter(|(stopped, _)| rests(stopped)).map(|(_, cloud)| cloud);
    let clouds: Vec<&CloudFacts> = clouds.collect();
    let local_at = locals.filter_map(|local| local.view.state.wakes_at()).min();
    let cloud_at = clouds.iter().filter_map(|cloud| cloud.view.usable_at).min();
    let at = if clouds.is_empty() { local_at } else { cloud_at };
    let after = at.map_or(Duration::from_secs(1), |at| at.saturating_duration_since(now)).max(Duration::from_secs(1));
    if !clouds.is_empty() && clouds.iter().all(|cloud| cloud.view.limited) {
        let message = "every provider limits our rate right now; retry later";
        return GatewayError::gateway(ErrorKind::RateLimited, message).retry_after(after);
    }
    unavailable(ask.request, "no target can serve this request right now", after)
}
