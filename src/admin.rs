//! The admin listener: metrics, status, the live tree, health, API keys, chaos. Reads what is published; asks no actor but the
//! router for its queue.

mod health;
mod keys;
mod memory;
mod usage;

use crate::{
    http::{
        error::{ErrorReply, respond},
        origin,
    },
    serve::reload::{Cause, Reloader},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use spillway_actors::{
    cloud::{KeyView, Provider},
    domain::{ErrorKind, GatewayError},
    gpu::EngineSlot,
    ledger::unix_now,
    observe,
    runtime::{ChaosError, KillWay, Runtime},
};
use std::{sync::Arc, time::UNIX_EPOCH};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

#[derive(Clone)]
pub struct AdminState {
    pub runtime: Arc<Runtime>,
    pub metrics: PrometheusHandle,
    pub reloader: Arc<Reloader>,
}

pub fn router(state: AdminState) -> Router {
    let router = Router::new()
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/metrics", get(metrics))
        .route("/admin/status", get(status))
        .route("/admin/actors", get(actors))
        .route("/admin/health/gpu", get(health::gpu))
        .route("/admin/usage", get(usage::usage))
        .route("/admin/usage/attempts", get(usage::attempts))
        .route("/admin/usage/requests", get(usage::requests))
        .route("/admin/keys", get(keys::list).post(keys::create))
        .route("/admin/keys/{id}", delete(keys::revoke))
        .route("/admin/reload", post(reload))
        .route("/admin/chaos/kill", post(kill))
        .route("/admin/chaos/memory", post(memory::simulate))
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
        .layer(middleware::from_fn_with_state(state.clone(), guard))
        .with_state(state)
}

/// Host and token, before anything else: a web page that rebinds its name to loopback gets nothing.
async fn guard(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    let server = &state.runtime.live.load().server;
    if !host_is_known(request.headers(), &server.admin_hosts) {
        let message = "this Host is not in [server] admin_hosts";
        return respond(&GatewayError::gateway(ErrorKind::Forbidden, message));
    }
    if !origin::is_own(request.headers()) {
        return respond(&origin::refusal_of_admin());
    }
    if let Some(token) = &server.admin_token
        && !carries_token(request.headers(), token.expose_secret())
    {
        let message = "the admin listener needs `Authorization: Bearer <admin token>`";
        return respond(&GatewayError::gateway(ErrorKind::Unauthorized, message));
    }
    next.run(request).await
}

fn host_is_known(headers: &HeaderMap, known: &[String]) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    known.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Compares digests in constant time, so that neither length nor content of the token shows in the time it takes.
fn carries_token(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let digest = |text: &[u8]| *blake3::hash(text).as_bytes();
    given.is_some_and(|given| digest(given).ct_eq(&digest(token.as_bytes())).into())
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    state.runtime.services.ledger.publish(unix_now());
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        state.metrics.render() + &observe::process_exposition(),
    )
}

async fn status(State(state): State<AdminState>) -> Json<Value> {
    let services = &state.runtime.services;
    let now = Instant::now();
    let gpus: Vec<Value> =
        services.fleet.slots.iter().enumerate().map(|(at, slot)| gpu_status(&state.runtime, at, slot)).collect();
    let leases: usize = services.fleet.slots.iter().map(|slot| slot.view().leases).sum();
    let breakers: Vec<Value> = services
        .fleet
        .providers
        .iter()
        .flat_map(|provider| {
            let name = provider.config().name.clone();
            provider.breakers(now).into_iter().map(move |(model, state, open_ms)| {
                json!({"target": name.as_str(), "model": model, "state": state, "open_ms": open_ms})
            })
        })
        .collect();
    let keys: Vec<Value> = services.fleet.providers.iter().flat_map(|provider| key_status(provider, now)).collect();
    Json(json!({
        "gpus": gpus,
        "queue": state.runtime.queued().await,
        "leases": leases,
        "breakers": breakers,
        "keys": keys,
        "api_keys": keys::status(&services.keys, services.config.server.require_keys),
        "providers": health::providers(&state.runtime, now),
        "requests": services.jobs.totals(),
        "draining": services.jobs.is_closed(),
        "ledger": services.ledger.snapshot(),
        "config": state.reloader.status(),
    }))
}

/// A provider's keys by their index in the configuration; their text is nobody's business.
fn key_status(provider: &Provider, now: Instant) -> Vec<Value> {
    let target = provider.config().name.as_str();
    let name_of = |model: usize| provider.model(model).map(|model| model.name.to_string());
    let line = |key: KeyView| {
        let resting: Vec<String> = key.resting_models.into_iter().filter_map(name_of).collect();
        json!({
            "target": target, "key": key.index, "state": key.state, "for_ms": key.for_ms, "resting_models": resting,
        })
    };
    provider.keys(now).into_iter().map(line).collect()
}

fn gpu_status(runtime: &Runtime, at: usize, slot: &Arc<EngineSlot>) -> Value {
    let view = slot.view();
    json!({
        "name": slot.name(),
        "model": slot.config().model.as_str(),
        "state": view.state.name(),
        "cause": view.state.cause().map(ToString::to_string),
        "last_death": slot.last_death().map(|death| json!({
            "epoch": death.epoch,
            "cause": death.cause.to_string(),
            "ago_ms": death.at.elapsed().as_millis() as u64,
        })),
        "epoch": view.epoch,
        "serving": view.serving,
        "engine": if view.is_server { "http" } else { "llama" },
        "engine_pid": view.engine_pid,
        "device": view.info.as_ref().map(|info| info.device.clone()),
        "leases": view.leases,
        "parallel": view.parallel,
        "work": work_status(slot),
        "memory": memory::status(slot, view.info.as_deref()),
        "last_minute": runtime.vitals.local(at, Instant::now()).score,
    })
}

/// What the engine has to do right now (its last heartbeat), and what clients that left have cost.
fn work_status(slot: &EngineSlot) -> Value {
    let work = slot.work();
    json!({
        "steps": work.beat.map(|beat| beat.steps),
        "running": work.beat.map(|beat| beat.running),
        "waiting": work.beat.map(|beat| beat.waiting),
        "kv_used": work.beat.map(|beat| beat.kv_used),
        "kv_kept": work.beat.map(|beat| beat.kv_kept),
        "kv_total": work.beat.map(|beat| beat.kv_total),
        "left": work.left,
        "tokens_after_leaving": work.tokens_after_leaving,
        "most_after_leaving": work.most_after_leaving,
    })
}

async fn actors(State(state): State<AdminState>) -> Json<Value> {
    Json(json!({"actors": state.runtime.tree.snapshot()}))
}

/// A longer chaos order is cut, and so is no JSON.
const ORDER_BYTES: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KillOrder {
    actor: String,
    how: String,
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

async fn kill(State(state): State<AdminState>, uri: Uri, body: Result<Bytes, BytesRejection>) -> Response {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_hosts_pass_with_or_without_port() {
        let known = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let passes = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            host_is_known(&headers, &known)
        };
        for good in ["localhost", "LOCALHOST:8081", "127.0.0.1:8081", "[::1]:8081", "[::1]"] {
            assert!(passes(good), "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example:8081", "127.0.0.2", ""] {
            assert!(!passes(bad), "{bad}");
        }
        assert!(!host_is_known(&HeaderMap::new(), &known));
    }

    #[test]
    fn the_token_must_be_exact() {
        let carries = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            carries_token(&headers, "secret")
        };
        assert!(carries("Bearer secret"));
        for bad in ["Bearer secre", "Bearer secrets", "Basic secret", "secret"] {
            assert!(!carries(bad), "{bad}");
        }
    }
}
