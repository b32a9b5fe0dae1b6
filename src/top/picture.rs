//! What the admin listener publishes, as far as it is shown. Lenient: what a gateway of another version leaves out is empty, what it
//! adds is passed over. Shapes only.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// One second; sums are since the gateway's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Sample {
    pub(super) at_ms: u64,
    pub(super) local: u64,
    pub(super) cloud: u64,
    pub(super) failed: u64,
    pub(super) left: u64,
    pub(super) tokens_local: u64,
    pub(super) tokens_cloud: u64,
    pub(super) running: u64,
    pub(super) queue: Option<u64>,
    pub(super) p50_ms: Option<f64>,
    pub(super) p95_ms: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Picture {
    pub(super) sample: Sample,
    pub(super) latency: Latency,
    pub(super) status: Status,
    pub(super) actors: Vec<Actor>,
    pub(super) cards: Cards,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Latency {
    pub(super) seconds: u64,
    pub(super) all: Times,
    pub(super) local: Times,
    pub(super) cloud: Times,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Times {
    pub(super) answers: u64,
    pub(super) first_token_ms: Quantiles,
    pub(super) whole_ms: Quantiles,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Quantiles {
    pub(super) p50: Option<f64>,
    pub(super) p95: Option<f64>,
    pub(super) p99: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) gpus: Vec<Target>,
    pub(super) queue: Option<u64>,
    pub(super) leases: u64,
    pub(super) breakers: Vec<Breaker>,
    pub(super) keys: Vec<ProviderKey>,
    pub(super) providers: Vec<Provider>,
    pub(super) draining: bool,
    pub(super) ledger: Books,
    pub(super) config: Configuration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) model: String,
    pub(super) state: String,
    pub(super) cause: Option<String>,
    pub(super) last_death: Option<Death>,
    pub(super) epoch: u64,
    pub(super) serving: bool,
    pub(super) engine: String,
    pub(super) engine_pid: Option<u32>,
    pub(super) device: Option<String>,
    pub(super) leases: u64,
    pub(super) parallel: u64,
    pub(super) work: Work,
    pub(super) memory: Memory,
    pub(super) last_minute: Score,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Death {
    pub(super) cause: String,
    pub(super) ago_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Work {
    pub(super) running: Option<u64>,
    pub(super) waiting: Option<u64>,
    pub(super) kv_used: Option<u64>,
    pub(super) kv_total: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    pub(super) rung: u64,
    pub(super) given_up: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Score {
    pub(super) attempts: u64,
    pub(super) success_ratio: Option<f64>,
    pub(super) recent_success_ratio: Option<f64>,
    pub(super) first_token_ms: Option<f64>,
    pub(super) inter_token_ms: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Breaker {
    pub(super) target: String,
    pub(super) model: String,
    pub(super) state: String,
    pub(super) open_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ProviderKey {
    pub(super) target: String,
    pub(super) key: u64,
    pub(super) state: String,
    pub(super) for_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Provider {
    pub(super) name: String,
    pub(super) simulated: bool,
    pub(super) reachable: Option<bool>,
    pub(super) error: Option<String>,
    pub(super) models: Vec<Model>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Model {
    pub(super) model: String,
    pub(super) last_minute: Score,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Books {
    pub(super) up: bool,
    pub(super) waits_because: Option<String>,
    pub(super) reserved_nanousd: f64,
    pub(super) cost_nanousd: f64,
    pub(super) by_model: BTreeMap<String, Spent>,
    pub(super) budget: BTreeMap<String, Budget>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Spent {
    pub(super) attempts: u64,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) cost_nanousd: f64,
    pub(super) baseline_nanousd: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Budget {
    pub(super) limit_nanousd: Option<f64>,
    pub(super) posted_nanousd: f64,
    pub(super) reserved_nanousd: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Configuration {
    pub(super) last: Option<Reading>,
    pub(super) needs_restart: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reading {
    pub(super) ok: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Actor {
    pub(super) name: String,
    pub(super) parent: Option<String>,
    pub(super) state: String,
    pub(super) restarts: u64,
    pub(super) uptime_s: f64,
    pub(super) last_exit_cause: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Cards {
    pub(super) status: String,
    pub(super) detail: String,
    pub(super) gpus: Option<Vec<Card>>,
    pub(super) system_memory: SystemMemory,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Card {
    pub(super) index: u64,
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) fault: Option<Value>,
    pub(super) slowdown: Option<Value>,
    pub(super) memory_used_bytes: Option<f64>,
    pub(super) memory_total_bytes: Option<f64>,
    pub(super) utilization_ratio: Option<f64>,
    pub(super) temperature_celsius: Option<f64>,
    pub(super) power_watts: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SystemMemory {
    pub(super) used_bytes: Option<f64>,
    pub(super) total_bytes: Option<f64>,
}

/// One of the newest requests.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Request {
    pub(super) key_name: Option<String>,
    pub(super) at: u64,
    pub(super) outcome: String,
    pub(super) first_token_ms: Option<f64>,
    pub(super) took_ms: Option<f64>,
    pub(super) usage: Tokens,
    pub(super) routing: Routing,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tokens {
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Routing {
    pub(super) target: String,
    pub(super) model: String,
    pub(super) complexity: String,
    pub(super) attempts: Vec<Attempt>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Attempt {
    pub(super) cost_usd: f64,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    Note,
    Warn,
    Bad,
}
