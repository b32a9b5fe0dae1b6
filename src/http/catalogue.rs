//! `GET /v1/models`: the names that requests may use, as OpenAI's list.

use super::parse;
use serde_json::{Value, json};
use spillway_actors::{config::Config, domain::GatewayError};

/// (name, owner) of everything that can serve here, each name once: the reserved words, local targets and their models,
/// models of providers that have a key, aliases.
fn entries(config: &Config) -> Vec<(&str, &str)> {
    const OURS: &str = "spillway";
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
    let mut seen = std::collections::BTreeSet::new();
    entries.retain(|(name, _)| seen.insert(*name));
    entries
}

fn object((name, owner): (&str, &str), created: u64) -> Value {
    json!({"id": name, "object": "model", "created": created, "owned_by": owner})
}

/// Every model; `created` is when this gateway started, for want of a better date.
pub(super) fn list(config: &Config, created: u64) -> Value {
    let data: Vec<Value> = entries(config).into_iter().map(|entry| object(entry, created)).collect();
    json!({"object": "list", "data": data})
}

/// One model.
pub(super) fn one(config: &Config, name: &str, created: u64) -> Result<Value, GatewayError> {
    let found = entries(config).into_iter().find(|(known, _)| *known == name);
    found.map(|entry| object(entry, created)).ok_or_else(|| parse::model::not_found(name))
}
