//! A key as the admin API and the command line show it. Its secret is in it once, when it is made; its digest never.

use serde_json::{Value, json};
use spillway_actors::{
    domain::NanoUsd,
    keys::{KeyRecord, Secret},
};

/// Times are seconds since 1970, budgets decimal strings of dollars.
pub(crate) fn key(key: &KeyRecord, now: u64) -> Value {
    let (limits, budget) = (key.policy.limits, key.policy.budget_nanousd);
    let usd = |amount: Option<NanoUsd>| amount.map(NanoUsd::to_usd);
    json!({
        "object": "api_key",
        "id": key.id,
        "name": key.name,
        "group": key.group,
        "prefix": key.prefix,
        "state": key.state(now),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "models": key.policy.models,
        "local_only": key.policy.local_only,
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrency": limits.concurrency,
        "budget_usd": {"day": usd(budget.day), "month": usd(budget.month), "total": usd(budget.total)},
        "priority": key.policy.priority,
    })
}

/// A key that was just made.
pub(crate) fn made(record: &KeyRecord, secret: &Secret, now: u64) -> Value {
    let mut shown = key(record, now);
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("secret".to_owned(), secret.expose().into());
    }
    shown
}
