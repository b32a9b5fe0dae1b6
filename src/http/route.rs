//! `POST /v1/route`: what would become of a chat request that came now, every step of the decision, nothing run. Not
//! admitted, not leased, not reserved, not remembered; the prompt is not shown back.

use super::routes::EdgeState;
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use spillway_actors::{
    domain::ChatRequest,
    flight::Shared,
    ledger::unix_now,
    route::{actor::queued, explain::explain},
};
use tokio::time::Instant;

/// The decision over `request` as it would be made now.
pub(super) async fn explained(state: &EdgeState, request: &ChatRequest) -> Response {
    let (config, Shared { fleet, router, ledger, .. }) = (&state.services.config, &*state.services);
    let budget = ledger.purchasing(request.caller.as_deref(), unix_now()).into();
    let queued = queued(router).await.unwrap_or(0);
    Json(explain(request, config, fleet, budget, queued, Instant::now())).into_response()
}
