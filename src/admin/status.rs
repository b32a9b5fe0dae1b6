//! `GET /admin/status`: everything that is published of targets, requests and money, at one moment.

use super::{AdminState, health, keys, memory};
use axum::{Json, extract::State};
use serde_json::{Value, json};
use spillway_actors::{
    cloud::{KeyView, Provider},
    gpu::EngineSlot,
    runtime::Runtime,
};
use std::sync::Arc;
use tokio::time::Instant;

pub(super) async fn status(State(state): State<AdminState>) -> Json<Value> {
    Json(taken(&state).await)
}

/// The status now.
pub(super) async fn taken(state: &AdminState) -> Value {
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
    json!({
        "version": env!("CARGO_PKG_VERSION"),
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
        "chaos": state.runtime.live.load().chaos_enabled,
    })
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
        "engine": engine(slot),
        "engine_pid": view.engine_pid,
        "device": view.info.as_ref().map(|info| info.device.clone()),
        "leases": view.leases,
        "parallel": view.parallel,
        "work": work_status(slot),
        "memory": memory::status(slot, view.info.as_deref()),
        "last_minute": runtime.vitals.local(at, Instant::now()).score,
    })
}

fn engine(slot: &EngineSlot) -> &'static str {
    match (&slot.config().server, slot.config().simulation) {
        (Some(_), _) => "http",
        (None, Some(_)) => "simulated",
        (None, None) => "llama",
    }
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
