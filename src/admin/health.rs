//! Health on the admin listener: the cards as the driver describes them, and what is known of providers.

use super::AdminState;
use axum::{Json, extract::State};
use serde_json::{Value, json};
use spillway_actors::{
    health::{HealthSnapshot, nvml::GpuReading, nvml::Reading},
    runtime::Runtime,
};
use std::time::UNIX_EPOCH;
use tokio::time::Instant;

/// `GET /admin/health/gpu`.
pub(super) async fn gpu(State(state): State<AdminState>) -> Json<Value> {
    Json(cards(&state))
}

/// The cards now.
pub(super) fn cards(state: &AdminState) -> Value {
    let vitals = &state.runtime.vitals;
    let is_fresh = vitals.fresh(Instant::now()).is_some();
    let strained: Vec<String> = state
        .runtime
        .services
        .fleet
        .slots
        .iter()
        .filter_map(|slot| Some(format!("{}: {}", slot.name(), slot.view().state.cause()?)))
        .collect();
    body(&vitals.read(), is_fresh, &strained)
}

/// `strained`: what is wrong with local targets, in words.
fn body(health: &HealthSnapshot, is_fresh: bool, strained: &[String]) -> Value {
    let (status, detail, gpus) = verdict(health, is_fresh, strained);
    let whole = gpus.is_some_and(|gpus| gpus.iter().any(|gpu| gpu.fault.is_none()));
    let sum = |read: fn(&GpuReading) -> Option<u64>| gpus.map(|gpus| gpus.iter().filter_map(read).sum::<u64>());
    let (used, total) = (sum(|gpu| gpu.memory_used_bytes), sum(|gpu| gpu.memory_total_bytes));
    let ratio = |used: Option<u64>, total: Option<u64>| Some(used? as f64 / total.filter(|total| *total > 0)? as f64);
    let system = health.system_memory;
    let timestamp = health.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    json!({
        "status": status,
        "detail": detail,
        "gpu_available": whole,
        "memory_used_bytes": used,
        "memory_total_bytes": total,
        "memory_utilization_ratio": ratio(used, total),
        "gpus": gpus,
        "system_memory": {
            "used_bytes": system.map(|(used, _)| used),
            "total_bytes": system.map(|(_, total)| total),
            "utilization_ratio": ratio(system.map(|(used, _)| used), system.map(|(_, total)| total)),
        },
        "timestamp": timestamp,
    })
}

fn verdict<'a>(
    health: &'a HealthSnapshot,
    is_fresh: bool,
    strained: &[String],
) -> (&'static str, String, Option<&'a [GpuReading]>) {
    match &health.gpus {
        None => ("unknown", "not looked at yet".to_owned(), None),
        Some(_) if !is_fresh => ("unknown", "the last look is too old".to_owned(), None),
        Some(Reading::NoGpu(why)) => ("no GPU", why.clone(), None),
        Some(Reading::Error(why)) => ("error", why.clone(), None),
        Some(Reading::Stuck) => ("degraded", "the driver does not answer".to_owned(), None),
        Some(Reading::Gpus(gpus)) => {
            let faulty = gpus.iter().any(|gpu| gpu.fault.is_some());
            let status = if faulty || !strained.is_empty() { "degraded" } else { "ok" };
            (status, strained.join("; "), Some(gpus))
        }
    }
}

/// Part of `GET /admin/status`: one entry per provider that takes traffic.
pub(super) fn providers(runtime: &Runtime, now: Instant) -> Vec<Value> {
    let vitals = runtime.vitals.read();
    let usable = runtime.services.fleet.providers.iter().enumerate().filter(|(_, each)| each.is_usable());
    usable
        .map(|(at, provider)| {
            let health = vitals.providers.get(at);
            let probe = health.and_then(|health| health.probe.as_ref());
            let models = provider.models().into_iter().map(|(model, config)| {
                let last_minute = runtime.vitals.cloud(at, model, now).score;
                json!({"model": config.name.as_str(), "last_minute": last_minute})
            });
            json!({
                "name": provider.config().name.as_str(),
                "simulated": provider.config().simulated,
                "reachable": health.and_then(|health| health.reachable()),
                "probed_ms_ago": probe.map(|probe| now.duration_since(probe.at).as_millis() as u64),
                "models_listed": probe.and_then(|probe| probe.answer.as_ref().ok()),
                "error": probe.and_then(|probe| probe.answer.as_ref().err()),
                "models": models.collect::<Vec<_>>(),
            })
        })
        .collect()
}
