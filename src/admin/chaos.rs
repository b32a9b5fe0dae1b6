//! Deaths and faults on demand, only with `[chaos] enabled`.

use super::AdminState;
use crate::http::error::{ErrorReply, respond};
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use spillway_actors::{
    chaos::faults::FaultWish,
    domain::{ErrorKind, GatewayError},
    observe,
    runtime::{ChaosError, KillWay},
};
use std::time::UNIX_EPOCH;
use tokio::time::Instant;

/// A longer chaos order is cut, and so is no JSON.
const ORDER_BYTES: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KillOrder {
    actor: String,
    how: String,
}

pub(super) async fn kill(State(state): State<AdminState>, uri: Uri, body: Result<Bytes, BytesRejection>) -> Response {
    let order: KillOrder = match ordered(&state, &uri, body, "{\"actor\", \"how\"}") {
        Ok(order) => order,
        Err(refusal) => return *refusal,
    };
    let done = order.how.parse::<KillWay>().and_then(|how| state.runtime.kill(&order.actor, how));
    match done {
        Ok(()) => {
            let at = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            let at = u64::try_from(at).unwrap_or(u64::MAX);
            observe::chaos_ordered(&order.actor, &order.how);
            Json(json!({"ok": true, "actor": order.actor, "how": order.how, "unix_ns": at})).into_response()
        }
        Err(error) => refuse(&error),
    }
}

/// `POST /admin/chaos/fault`: from now on this befalls the gateway's own calls of that target.
pub(super) async fn fault(State(state): State<AdminState>, uri: Uri, body: Result<Bytes, BytesRejection>) -> Response {
    let wish: FaultWish = match ordered(&state, &uri, body, "{\"target\", \"kind\", …}") {
        Ok(wish) => wish,
        Err(refusal) => return *refusal,
    };
    match state.runtime.inject(wish.clone()) {
        Ok(()) => {
            observe::chaos_ordered(&wish.target, wish.kind.name());
            Json(json!({"ok": true, "fault": wish})).into_response()
        }
        Err(error) => refuse(&error),
    }
}

/// `GET /admin/chaos/faults`: those in force.
pub(super) async fn faults(State(state): State<AdminState>, method: Method, uri: Uri) -> Response {
    if let Some(refusal) = off(&state, &method, &uri) {
        return refusal;
    }
    Json(json!({"data": state.runtime.services.faults.list(Instant::now())})).into_response()
}

/// `DELETE /admin/chaos/faults`: ends them all.
pub(super) async fn clear(State(state): State<AdminState>, method: Method, uri: Uri) -> Response {
    if let Some(refusal) = off(&state, &method, &uri) {
        return refusal;
    }
    let cleared = state.runtime.services.faults.clear(Instant::now());
    tracing::warn!(cleared, "chaos: all faults are over");
    Json(json!({"ok": true, "cleared": cleared})).into_response()
}

/// Without `[chaos] enabled` there is no such place.
fn off(state: &AdminState, method: &Method, uri: &Uri) -> Option<Response> {
    let is_on = state.runtime.live.load().chaos_enabled;
    (!is_on).then(|| ErrorReply::unknown_url(method.as_str(), uri.path()).into_response())
}

/// The order in a body, or the answer to one that is none.
pub(super) fn ordered<T: DeserializeOwned>(
    state: &AdminState,
    uri: &Uri,
    body: Result<Bytes, BytesRejection>,
    shape: &str,
) -> Result<T, Box<Response>> {
    if let Some(refusal) = off(state, &Method::POST, uri) {
        return Err(Box::new(refusal));
    }
    let Ok(body) = body.map(|body| body.slice(..body.len().min(ORDER_BYTES))) else {
        let error = GatewayError::gateway(ErrorKind::TooLarge, "a chaos order is one small JSON object");
        return Err(Box::new(respond(&error)));
    };
    serde_json::from_slice(&body)
        .map_err(|error| Box::new(respond(&GatewayError::invalid(None, format!("want {shape}: {error}")))))
}

fn refuse(error: &ChaosError) -> Response {
    let (param, status) = match error {
        ChaosError::NotAlive(_) => ("actor", Some(StatusCode::CONFLICT)),
        ChaosError::UnknownWay(_) | ChaosError::ForeignEngine(_) => ("how", None),
        ChaosError::UnknownTarget(_) | ChaosError::OwnEngine(_) => ("target", None),
        ChaosError::WrongFault(wrong) => (wrong.field, None),
        ChaosError::TooManyFaults => ("target", Some(StatusCode::CONFLICT)),
        ChaosError::UnknownActor(_) | ChaosError::NoEngine(_) => ("actor", None),
    };
    let mut response = respond(&GatewayError::invalid(param, error.to_string()));
    if let Some(status) = status {
        *response.status_mut() = status;
    }
    response
}
