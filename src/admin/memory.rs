//! Memory on the admin listener: what a local target is loaded with, what it had to give up, and, for tests, how much
//! memory its engine pretends to have.

use super::{AdminState, chaos};
use crate::http::error::respond;
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::Uri,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use spillway_actors::{
    domain::GatewayError,
    gpu::{EngineSlot, frame::LoadedInfo},
    observe,
};
use tokio::time::Instant;

/// Part of `GET /admin/status`.
pub(super) fn status(slot: &EngineSlot, info: Option<&LoadedInfo>) -> Value {
    let ladder = slot.ladder();
    let takes_back_ms = ladder.climbs_at.map(|at| at.saturating_duration_since(Instant::now()).as_millis() as u64);
    json!({
        "rung": ladder.rung,
        "given_up": ladder.given_up,
        "exhausted": ladder.exhausted,
        "takes_back_in_ms": takes_back_ms,
        "plan": {
            "file": ladder.plan.model_path.file_name().map(|name| name.to_string_lossy()),
            "context_tokens": ladder.plan.context_tokens,
            "parallel": ladder.plan.parallel,
            "ubatch_tokens": ladder.plan.ubatch_tokens,
            "embedding_tokens": ladder.plan.embedding_tokens,
            "kv_type_k": ladder.plan.kv_type_k,
            "kv_type_v": ladder.plan.kv_type_v,
            "gpu_layers": ladder.plan.gpu_layers,
        },
        "layers": info.map(|info| info.layers),
        "layers_on_gpu": info.map(|info| info.gpu_layers),
        "computes_on": info.map(|info| if info.on_gpu { "gpu" } else { "cpu" }),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    gpu: String,
    /// `null`: as much as there is.
    bytes: Option<u64>,
}

/// `POST /admin/chaos/memory {"gpu", "bytes"}`: from its next load on the engine counts as if the CPU were a GPU of so many
/// bytes. There only with `[chaos] enabled`.
pub(super) async fn simulate(
    State(state): State<AdminState>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let order: Order = match chaos::ordered(&state, &uri, body, "{\"gpu\", \"bytes\"}") {
        Ok(order) => order,
        Err(refusal) => return *refusal,
    };
    let slots = &state.runtime.services.fleet.slots;
    let Some(slot) = slots.iter().find(|slot| slot.name() == order.gpu) else {
        return respond(&GatewayError::invalid("gpu", format!("no local target is called {}", order.gpu)));
    };
    slot.simulate_memory(order.bytes);
    observe::chaos_ordered(&format!("gpu/{}", order.gpu), "memory");
    tracing::warn!(gpu = order.gpu, bytes = order.bytes, "chaos: memory is SIMULATED from the next load on");
    Json(json!({"ok": true, "gpu": order.gpu, "bytes": order.bytes})).into_response()
}
