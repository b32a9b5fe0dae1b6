//! `GET /ready`: whether a request sent now would be served.

use serde_json::{Value, json};
use spillway_actors::flight::Services;
use tokio::time::Instant;

/// Whether anything serves.
pub(crate) fn is_ready(services: &Services, now: Instant) -> bool {
    readiness(services, now, false).0
}

/// Whether anything serves, and the JSON that says why or why not; `names`: by which targets.
pub(super) fn readiness(services: &Services, now: Instant, names: bool) -> (bool, Value) {
    let locals = services.fleet.slots.iter().map(|slot| {
        let view = slot.view();
        let name = slot.config().name.to_string();
        json!({"target": name, "ready": view.serving, "state": view.state.name()})
    });
    let clouds = services.fleet.clouds(now).into_iter().map(|cloud| {
        let state = if cloud.view.usable { "usable" } else { "resting" };
        json!({"target": cloud.provider_name, "model": cloud.model, "ready": cloud.view.usable, "state": state})
    });
    let targets: Vec<Value> = locals.chain(clouds).collect();
    let is_draining = services.jobs.is_closed();
    let serves = targets.iter().any(|target| target["ready"] == true);
    let mut reasons = Vec::new();
    if is_draining {
        reasons.push("draining: the gateway is shutting down".to_owned());
    }
    if targets.is_empty() {
        reasons.push("no target: no [[local]] is configured and no provider has a key".to_owned());
    } else if !serves && !names {
        reasons.push("no target can serve now".to_owned());
    } else if !serves {
        let state = |target: &Value| {
            let part = |name: &str| target.get(name).and_then(Value::as_str);
            let name = part("model").or_else(|| part("target")).unwrap_or_default();
            format!("{name} is {}", part("state").unwrap_or_default())
        };
        reasons.extend(targets.iter().map(state));
    }
    let is_ready = serves && !is_draining;
    let status = if is_ready { "ready" } else { "not_ready" };
    let mut object = json!({"status": status, "reasons": reasons});
    if names {
        object["targets"] = targets.into();
    }
    (is_ready, object)
}
