//! `GET /admin/requests?limit=N`: the newest requests that ended in this process, newest first, at most 256, each with why it went
//! where it went: `{"requests": [{"request", "key", "key_name", "at" (ms since 1970), "stream", "outcome", "asked" (the model),
//! "why" (there was no answer, where it was no target that said so), "first_token_ms", "took_ms", "usage", "routing"}]}`. `/admin/usage/requests` has those of before, without reasons.

use super::AdminState;
use crate::http::{
    error::respond,
    render::{ms, routing},
};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use spillway_actors::{domain::GatewayError, flight::Ended};
use std::collections::HashMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Page {
    limit: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: usize::MAX }
    }
}

pub(super) async fn newest(State(state): State<AdminState>, page: Result<Query<Page>, QueryRejection>) -> Response {
    let Ok(Query(page)) = page else { return respond(&GatewayError::invalid(None, "want a number: ?limit=N")) };
    let services = &state.runtime.services;
    let ended = services.recent.newest(page.limit);
    let keys = if ended.iter().any(|ended| ended.key.is_some()) { services.keys.all() } else { Vec::new() };
    let names = keys.iter().map(|key| (key.record.id.as_str(), key.record.name.as_str())).collect();
    let requests: Vec<Value> = ended.iter().map(|ended| shown(ended, &names)).collect();
    Json(json!({"requests": requests})).into_response()
}

fn shown(ended: &Ended, names: &HashMap<&str, &str>) -> Value {
    let key = ended.key.as_ref().map(|key| key.as_str());
    json!({
        "request": ended.request.to_string(),
        "key": key,
        "key_name": key.and_then(|key| names.get(key)),
        "at": ended.at,
        "stream": ended.stream,
        "outcome": ended.outcome,
        "asked": ended.asked,
        "why": ended.why,
        "first_token_ms": ended.first_token.map(ms),
        "took_ms": ms(ended.report.actual_latency),
        "usage": ended.report.usage,
        "routing": routing(&ended.report),
    })
}
