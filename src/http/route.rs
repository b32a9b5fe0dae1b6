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
    let mut explanation = explain(request, config, fleet, budget, queued, Instant::now());
    if let Some(caller) = &request.caller {
        // A key held to some models learns nothing of others, here as little as in the list of models.
        explanation.gates.retain(|step| {
            let (target, model) = (step.target.as_str().into(), step.model.as_str().into());
            if step.is_local { caller.allows_local(&target, &model) } else { caller.allows_cloud(&target, &model) }
        });
    }
    Json(explanation).into_response()
}
