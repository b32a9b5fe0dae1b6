//! Deaths on demand, only with `[chaos] enabled`.

use super::AdminState;
use crate::http::error::{ErrorReply, respond};
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;
use spillway_actors::{
    domain::{ErrorKind, GatewayError},
    observe,
    runtime::{ChaosError, KillWay},
};
use std::time::UNIX_EPOCH;

/// A longer chaos order is cut, and so is no JSON.
const ORDER_BYTES: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KillOrder {
    actor: String,
    how: String,
}

pub(super) async fn kill(State(state): State<AdminState>, uri: Uri, body: Result<Bytes, BytesRejection>) -> Response {
    if !state.runtime.live.load().chaos_enabled {
        return ErrorReply::unknown_url("POST", uri.path()).into_response();
    }
    let Ok(body) = body.map(|body| body.slice(..body.len().min(ORDER_BYTES))) else {
        return respond(&GatewayError::gateway(ErrorKind::TooLarge, "a chaos order is one small JSON object"));
    };
    let order: KillOrder = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return respond(&GatewayError::invalid(None, format!("want {{\"actor\", \"how\"}}: {error}"))),
    };
    let done = order.how.parse::<KillWay>().and_then(|how| state.runtime.kill(&order.actor, how));
    match done {
        Ok(()) => {
            let at = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            let at = u64::try_from(at).unwrap_or(u64::MAX);
            observe::chaos_ordered(&order.actor, &order.how);
            Json(json!({"ok": true, "actor": order.actor, "how": order.how, "unix_ns": at})).into_response()
        }
        Err(error @ ChaosError::NotAlive(_)) => {
            let mut response = respond(&GatewayError::invalid("actor", error.to_string()));
            *response.status_mut() = StatusCode::CONFLICT;
            response
        }
        Err(error) => {
            let param =
                if matches!(error, ChaosError::UnknownWay(_) | ChaosError::ForeignEngine(_)) { "how" } else { "actor" };
            respond(&GatewayError::invalid(param, error.to_string()))
        }
    }
}
