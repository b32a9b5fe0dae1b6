//! The admin listener: metrics, status, the live tree, health, API keys, chaos, and the console. Reads what is published; asks no
//! actor but the router for its queue.

mod chaos;
mod console;
mod events;
mod guard;
mod health;
mod keys;
mod memory;
mod playground;
mod pulse;
mod requests;
mod status;
mod usage;

use crate::{
    http::error::{ErrorReply, respond},
    serve::reload::{Cause, Reloader},
};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use pulse::Pulse;
use serde_json::{Value, json};
use spillway_actors::{
    domain::{ErrorKind, GatewayError},
    ledger::unix_now,
    observe,
    runtime::{Runtime, bounded_keys},
    task::{self, Owned},
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub struct AdminState {
    pub runtime: Arc<Runtime>,
    pub metrics: PrometheusHandle,
    pub reloader: Arc<Reloader>,
    /// The API's routes, as its own listener serves them.
    api: Router,
    pulse: Pulse,
    /// The listener is about to close.
    stop: CancellationToken,
}

impl AdminState {
    pub fn new(
        runtime: Arc<Runtime>,
        metrics: PrometheusHandle,
        reloader: Arc<Reloader>,
        api: Router,
        stop: CancellationToken,
    ) -> Self {
        Self { runtime, metrics, reloader, api, pulse: Pulse::default(), stop }
    }

    /// Samples what the console draws, as long as what it gives is kept.
    pub fn beat(&self) -> Owned {
        task::owned(pulse::beat(self.clone()))
    }
}

pub fn router(state: AdminState) -> Router {
    let router = Router::new()
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/metrics", get(metrics))
        .route("/admin/status", get(status::status))
        .route("/admin/actors", get(actors))
        .route("/admin/events", get(events::stream))
        .route("/admin/requests", get(requests::newest))
        .route("/admin/health/gpu", get(health::gpu))
        .route("/admin/usage", get(usage::usage))
        .route("/admin/usage/attempts", get(usage::attempts))
        .route("/admin/usage/requests", get(usage::requests))
        .route("/admin/keys", get(keys::list).post(keys::create))
        .route("/admin/keys/{id}", delete(keys::revoke))
        .route("/admin/reload", post(reload))
        .route("/admin/chaos/kill", post(chaos::kill))
        .route("/admin/chaos/fault", post(chaos::fault))
        .route("/admin/chaos/faults", get(chaos::faults).delete(chaos::clear))
        .route("/admin/chaos/memory", post(memory::simulate))
        .route("/admin/playground", post(playground::chat))
        .route("/admin/playground/route", post(playground::route))
        .merge(console::routes())
        .layer(DefaultBodyLimit::max(keys::MAX_WISH_BYTES));
    router
        .fallback(|request: Request| async move {
            ErrorReply::unknown_url(request.method().as_str(), request.uri().path()).into_response()
        })
        .method_not_allowed_fallback(|| async {
            let mut response = respond(&GatewayError::invalid(None, "this path does not take that method"));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response
        })
        .layer(middleware::from_fn_with_state(state.clone(), guard::guard))
        .with_state(state)
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    let services = &state.runtime.services;
    let now = unix_now();
    services.ledger.publish(&bounded_keys(&services.keys, now), now);
    observe::tasks(tokio::runtime::Handle::current().metrics().num_alive_tasks());
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        state.metrics.render() + &observe::process_exposition(),
    )
}

async fn actors(State(state): State<AdminState>) -> Json<Value> {
    Json(json!({"actors": state.runtime.tree.snapshot()}))
}

/// Reads the configuration again. A faulty one is refused with its faults, and the last good one stays.
async fn reload(State(state): State<AdminState>) -> Response {
    let reloader = Arc::clone(&state.reloader);
    let Ok(report) = tokio::task::spawn_blocking(move || reloader.reload(Cause::Admin)).await else {
        return respond(&GatewayError::gateway(ErrorKind::Internal, "reloading failed; the last good one stays"));
    };
    if report.ok {
        return Json(json!(state.reloader.status())).into_response();
    }
    let refusal = GatewayError::invalid(None, "the configuration is faulty; the last good one stays");
    let mut object = ErrorReply::from(&refusal).object();
    object["reload"] = json!(report);
    (StatusCode::BAD_REQUEST, Json(object)).into_response()
}
