//! `GET /v1/models`: the names that requests may use, as OpenAI's list; and whether a name that is not configured is one.

use super::parse;
use serde_json::{Value, json};
use spillway_actors::{
    config::{CloudConfig, Config, LocalConfig},
    domain::{Caller, ChatRequest, GatewayError, ModelChoice, ModelName, TargetName},
    route::Fleet,
};
use std::sync::Arc;

/// Models that a provider lists and nobody configured.
pub(super) type Found = [(ModelName, TargetName)];

/// Owner of the names that no target has.
const OURS: &str = "spillway";

/// (name, owner) of everything that can serve here, each name once: the reserved words, local targets and their models,
/// models of providers that have a key, aliases, what providers list.
fn entries<'a>(config: &'a Config, found: &'a Found) -> Vec<(&'a str, &'a str)> {
    let mut entries = vec![("auto", OURS)];
    if !config.locals.is_empty() {
        entries.push(("local", OURS));
    }
    for local in &config.locals {
        entries.extend([(local.model.as_str(), "local"), (local.name.as_str(), "local")]);
    }
    for cloud in config.clouds.iter().filter(|cloud| cloud.is_usable()) {
        entries.extend(cloud.models.iter().map(|model| (model.name.as_str(), cloud.name.as_str())));
    }
    let meant = |name: &str| entries.iter().any(|(known, _)| *known == name);
    let aliases: Vec<_> = config.router.aliases.iter().filter(|(_, name)| meant(name)).collect();
    entries.extend(aliases.into_iter().map(|(alias, _)| (alias.as_str(), OURS)));
    entries.extend(found.iter().map(|(model, owner)| (model.as_str(), owner.as_str())));
    let mut seen = std::collections::BTreeSet::new();
    entries.retain(|(name, _)| seen.insert(*name));
    entries
}

fn object((name, owner): (&str, &str), created: u64) -> Value {
    json!({"id": name, "object": "model", "created": created, "owned_by": owner})
}

/// What a caller may see of them; without a key, all.
fn visible<'a>(config: &'a Config, found: &'a Found, caller: Option<&Caller>) -> Vec<(&'a str, &'a str)> {
    let mut entries = entries(config, found);
    if let Some(caller) = caller {
        entries.retain(|(name, _)| may_use(caller, config, found, name));
    }
    entries
}

/// Whether anything that this name means is allowed to the caller. `auto` always is: the gates see to what it becomes.
pub(super) fn may_use(caller: &Caller, config: &Config, found: &Found, name: &str) -> bool {
    let name = config.router.aliases.get(name).map_or(name, String::as_str);
    let here = |local: &Arc<LocalConfig>| {
        let is_meant = name == "local" || local.name.as_str() == name || local.model.as_str() == name;
        is_meant && caller.allows_local(&local.name, &local.model)
    };
    let away = |cloud: &Arc<CloudConfig>| {
        let mut models = cloud.models.iter().filter(|model| model.name.as_str() == name);
        models.any(|model| caller.allows_cloud(&cloud.name, &model.name))
    };
    name == "auto"
        || config.locals.iter().any(here)
        || config.clouds.iter().any(away)
        || found.iter().any(|(model, owner)| model.as_str() == name && caller.allows_cloud(owner, model))
}

/// Every model; `created` is when this gateway started, for want of a better date.
pub(super) fn list(config: &Config, found: &Found, caller: Option<&Caller>, created: u64) -> Value {
    let data: Vec<Value> = visible(config, found, caller).into_iter().map(|entry| object(entry, created)).collect();
    json!({"object": "list", "data": data})
}

/// Every model's name.
pub(super) fn names<'a>(config: &'a Config, found: &'a Found, caller: Option<&Caller>) -> Vec<&'a str> {
    visible(config, found, caller).into_iter().map(|(name, _)| name).collect()
}

/// One model.
pub(super) fn one(
    config: &Config,
    found: &Found,
    caller: Option<&Caller>,
    name: &str,
    created: u64,
) -> Result<Value, GatewayError> {
    let entry = visible(config, found, caller).into_iter().find(|(known, _)| *known == name);
    // Whoever may ask for it may look it up; a key with a list of models may ask for those.
    let any_model = caller.is_none_or(|caller| caller.models.is_none());
    let stand_in = || any_model.then(|| parse::model::stand_in(config)).flatten().map(|_| (name, OURS));
    entry.or_else(stand_in).map(|entry| object(entry, created)).ok_or_else(|| parse::model::not_found(name))
}

/// A request may name what a provider lists, but without a price nobody can say what it would cost.
///
/// # Errors
/// Nobody lists the model, or the request wants its cost watched.
pub(super) fn admit_name(request: &mut ChatRequest, config: &Config, fleet: &Fleet) -> Result<(), GatewayError> {
    let ModelChoice::Named(name) = &request.model else { return Ok(()) };
    if parse::model::is_configured(name.as_str(), config) {
        return Ok(());
    }
    if !fleet.found_models().iter().any(|(found, _)| found == name) {
        // Vectors of another model than the one named are of no use.
        let stand_in = parse::model::stand_in(config).filter(|_| !request.needs.embeddings);
        request.model = stand_in.ok_or_else(|| parse::model::not_found(name.as_str()))?;
        return Ok(());
    }
    if request.budget_sensitive {
        let message = "this model has no configured price: a budget_sensitive request cannot use it";
        return Err(GatewayError::invalid("model", message));
    }
    Ok(())
}
