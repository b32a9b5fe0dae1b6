//! One function per occurrence, which writes both the metric and the log line; `catalogue` has every metric's help, unit and
//! buckets. Labels come from configuration or from closed enums; anything else is `other`. No prompt, key or client text
//! passes through here. A counter or histogram that somebody may be alarmed by begins at 0 and not with its first event,
//! because `increase()` does not see a series begin.

mod catalogue;
mod known;
mod process;

pub use catalogue::{CATALOGUE, Kind, Metric, buckets};
pub use process::exposition as process_exposition;

use crate::domain::{TraceId, Who};
use known::Known;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use parking_lot::RwLock;
use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
    time::Duration,
};
use tracing::field::DisplayValue;

/// Model names that may be labels: those of the configurations of this process. Empty: no configuration was told.
static MODELS: RwLock<BTreeSet<String>> = RwLock::new(BTreeSet::new());

/// Lets these models have labels of their own; any other is `other`.
pub fn label_models(names: impl IntoIterator<Item = String>) {
    MODELS.write().extend(names);
}

fn model_label(name: &str) -> &str {
    let known = MODELS.read();
    let own = known.is_empty() || known.contains(name) || name == "none";
    if own { name } else { "other" }
}

macro_rules! known {
    ($($handle:ident: $kind:ident $name:literal $labels:expr;)+) => {
        $(static $handle: LazyLock<Known<kind!($kind), { $labels.len() }>> = LazyLock::new(|| Known::$kind($name, $labels));)+
    };
}

macro_rules! kind {
    (counter) => {
        Counter
    };
    (gauge) => {
        Gauge
    };
    (histogram) => {
        Histogram
    };
}

const NO_LABELS: [&str; 0] = [];

// What every request or token touches.
known! {
    REQUESTS: counter "spillway_requests_total" ["target", "model", "complexity", "outcome"];
    REFUSED: counter "spillway_requests_refused_total" ["reason", "priority"];
    DURATION: histogram "spillway_request_duration_seconds" ["target"];
    DECISIONS: counter "spillway_route_decisions_total" ["complexity", "target", "reason"];
    ATTEMPTS: counter "spillway_attempts_total" ["target", "outcome"];
    FIRST_TOKEN: histogram "spillway_time_to_first_token_seconds" ["target"];
    NEXT_PIECE: histogram "spillway_inter_token_latency_seconds" ["target"];
    TOKENS: counter "spillway_tokens_total" ["target", "model", "direction"];
    PREFIX_HITS: counter "spillway_prefix_cache_hit_tokens_total" ["target", "model"];
    COST: counter "spillway_cost_nanousd_total" ["model"];
    BREAKER: gauge "spillway_breaker_state" ["target"];
    KEY_REQUESTS: counter "spillway_key_requests_total" ["key_group", "outcome"];
    QUEUE_DEPTH: gauge "spillway_queue_depth" NO_LABELS;
    QUEUE_WAIT: histogram "spillway_queue_wait_seconds" NO_LABELS;
    RUNNING: gauge "spillway_requests_running" NO_LABELS;
    OVERHEAD: histogram "spillway_overhead_seconds" NO_LABELS;
    SAVED: counter "spillway_saved_nanousd_total" NO_LABELS;
    LEDGER_COMMIT: histogram "spillway_ledger_commit_seconds" NO_LABELS;
}

const DEATH_CAUSES: [&str; 4] = ["killed", "stopped", "panic", "error"];

/// A death cause is free text; as a label it is one of [`DEATH_CAUSES`].
fn cause_label(cause: &str) -> &'static str {
    match cause {
        "killed" => "killed",
        "stopped" | "chaos stop" => "stopped",
        text if text.contains("panic") => "panic",
        _ => "error",
    }
}

/// Once, after the recorder is installed.
pub fn begin(version: &'static str) {
    catalogue::describe();
    build_info(version);
    let zero = |name: &'static str, label: &'static str, values: &[&'static str]| {
        for value in values {
            counter!(name, label => *value).increment(0);
        }
    };
    for reason in ["full", "shutting_down"] {
        for priority in ["low", "normal", "high"] {
            counter!("spillway_requests_refused_total", "reason" => reason, "priority" => priority).increment(0);
        }
    }
    zero("spillway_config_reloads_total", "outcome", &["ok", "refused"]);
    zero("spillway_streams_broken_total", "cause", &STREAM_ENDS);
    zero("spillway_streams_resumed_total", "how", &["replay", "local_prefill", "cloud_prefill"]);
    zero("spillway_hedges_total", "outcome", &["won", "lost", "failed", "capped"]);
    zero("spillway_connections_cut_total", "cause", &["header", "stalled_reader", "tls", "address_full"]);
    for reason in ["empty", "truncated", "refused", "invalid", "unsure"] {
        for outcome in ["escalated", "kept"] {
            counter!("spillway_cascades_total", "reason" => reason, "outcome" => outcome).increment(0);
        }
    }
    for stage in ["detect", "redispatch", "first_token"] {
        drop(histogram!("spillway_failover_seconds", "stage" => stage));
    }
    counter!("spillway_retries_refused_total").increment(0);
    counter!("spillway_ledger_rows_dropped_total").increment(0);
    counter!("spillway_traces_exported_total").increment(0);
    zero("spillway_traces_dropped_total", "reason", &["full", "unreachable", "refused", "shutdown"]);
}

/// The kinds of error that streams mostly break off with; the others begin with their first.
const STREAM_ENDS: [&str; 4] = ["unavailable", "upstream", "timeout", "shutting_down"];

fn build_info(version: &'static str) {
    gauge!("spillway_build_info", "version" => version).set(1.0);
}

/// Tasks of the runtime that have not ended, looked at when somebody asks.
pub fn tasks(alive: usize) {
    gauge!("spillway_tasks").set(alive as f64);
}

pub fn actor_started(actor: &str) {
    gauge!("spillway_actor_up", "actor" => actor.to_owned()).set(1.0);
    for cause in DEATH_CAUSES {
        counter!("spillway_actor_restarts_total", "actor" => actor.to_owned(), "cause" => cause).increment(0);
    }
    tracing::info!(actor, "actor started");
}

/// Why an actor ended that was not to blame.
pub const SUPERVISOR_DIED: &str = "its supervisor died";

pub fn actor_died(actor: &str, cause: &str) {
    gauge!("spillway_actor_up", "actor" => actor.to_owned()).set(0.0);
    counter!("spillway_actor_restarts_total", "actor" => actor.to_owned(), "cause" => cause_label(cause)).increment(1);
    if cause == SUPERVISOR_DIED {
        // Its supervisor's own death was told, unless it was ordered.
        tracing::debug!(actor, cause, "actor died");
    } else {
        tracing::warn!(actor, cause, "actor died");
    }
}

/// All states a local target can be in, for the one-hot gauge.
const GPU_STATES: [&str; 8] = ["cold", "loading", "warm", "draining", "degraded", "down", "backoff", "quarantined"];

pub fn gpu_state(gpu: &str, state: &'static str, epoch: u64, cause: Option<&str>) {
    for name in GPU_STATES {
        let value = if name == state { 1.0 } else { 0.0 };
        gauge!("spillway_gpu_state", "gpu" => gpu.to_owned(), "state" => name).set(value);
    }
    match (state, cause) {
        ("down", Some(cause)) => tracing::warn!(gpu, state, epoch, cause, "gpu state"),
        _ => tracing::info!(gpu, state, epoch, cause, "gpu state"),
    }
}

/// A local target is there, and has died of nothing yet; `causes` are the labels of everything it may die of.
pub fn gpu_configured(gpu: &str, causes: &[&'static str]) {
    for cause in causes {
        counter!("spillway_engine_deaths_total", "gpu" => gpu.to_owned(), "cause" => *cause).increment(0);
    }
    counter!("spillway_requests_barred_total", "gpu" => gpu.to_owned()).increment(0);
    drop(histogram!("spillway_recovery_seconds", "gpu" => gpu.to_owned()));
}

/// Counted by what was known of the cause when it was noticed.
pub fn engine_died(gpu: &str, cause: &'static str) {
    counter!("spillway_engine_deaths_total", "gpu" => gpu.to_owned(), "cause" => cause).increment(1);
}

/// A local target begins that has no model.
pub fn engine_simulated(gpu: &str) {
    tracing::warn!(gpu, "SIMULATED engine: no model answers here");
}

/// Somebody ordered a death or a fault through the admin listener; both names are known ones.
pub fn chaos_ordered(actor: &str, how: &str) {
    counter!("spillway_chaos_orders_total", "actor" => actor.to_owned(), "how" => how.to_owned()).increment(1);
    tracing::warn!(actor, how, "chaos");
}

pub fn leases_limit(gpu: &str, limit: usize) {
    gauge!("spillway_leases_limit", "gpu" => gpu.to_owned()).set(limit as f64);
}

pub fn leases(gpu: &str, held: usize) {
    gauge!("spillway_leases", "gpu" => gpu.to_owned()).set(held as f64);
}

/// What an engine says of itself with a heartbeat.
pub struct EngineLoad {
    pub running: u32,
    pub waiting: u32,
    pub kv_used: u32,
    pub kv_kept: u32,
    pub kv_total: u32,
}

pub fn engine_load(gpu: &str, load: &EngineLoad) {
    for (state, count) in [("running", load.running), ("waiting", load.waiting)] {
        gauge!("spillway_engine_sequences", "gpu" => gpu.to_owned(), "state" => state).set(f64::from(count));
    }
    if load.kv_total > 0 {
        let share = |cells: u32| f64::from(cells) / f64::from(load.kv_total);
        gauge!("spillway_kv_cache_usage_ratio", "gpu" => gpu.to_owned()).set(share(load.kv_used));
        gauge!("spillway_kv_cache_kept_ratio", "gpu" => gpu.to_owned()).set(share(load.kv_kept));
    }
}

/// So many answers were called off, and so many tokens of them had come out after their client had gone.
pub fn clients_left(gpu: &str, answers: u32, tokens: u32) {
    counter!("spillway_clients_left_total", "gpu" => gpu.to_owned()).increment(u64::from(answers));
    counter!("spillway_tokens_after_leaving_total", "gpu" => gpu.to_owned()).increment(u64::from(tokens));
}

pub struct ModelLoaded<'a> {
    pub gpu: &'a str,
    pub device: &'a str,
    pub took: Duration,
    pub gpu_layers: u32,
    pub layers: u32,
    /// Nobody asked for the CPU, and there is no GPU.
    pub chosen_cpu: bool,
}

pub fn model_loaded(loaded: &ModelLoaded<'_>) {
    let ModelLoaded { gpu, device, took, gpu_layers, layers, chosen_cpu } = *loaded;
    histogram!("spillway_model_load_seconds", "gpu" => gpu.to_owned()).record(took.as_secs_f64());
    tracing::info!(gpu, device, gpu_layers, layers, took_ms = took.as_millis() as u64, "model loaded");
    if chosen_cpu {
        tracing::warn!(gpu, "gpu = \"auto\" and no GPU was found: it computes on the CPU");
    }
}

/// Rungs down the memory ladder; 0 = loaded as configured.
pub fn memory_rung(gpu: &str, rung: usize) {
    gauge!("spillway_gpu_memory_rung", "gpu" => gpu.to_owned()).set(rung as f64);
}

/// Memory ran out, and `what` is given up for it.
pub fn memory_given_up(gpu: &str, rung: usize, what: &'static str, plan: &str, cause: &str) {
    memory_rung(gpu, rung);
    counter!("spillway_gpu_memory_steps_total", "gpu" => gpu.to_owned(), "direction" => "down", "what" => what)
        .increment(1);
    tracing::warn!(gpu, rung, gave_up = what, plan, cause, "out of memory: one rung down");
}

/// After a healthy time `what` is taken back.
pub fn memory_taken_back(gpu: &str, rung: usize, what: &'static str, plan: &str) {
    memory_rung(gpu, rung);
    counter!("spillway_gpu_memory_steps_total", "gpu" => gpu.to_owned(), "direction" => "up", "what" => what)
        .increment(1);
    tracing::info!(gpu, rung, took_back = what, plan, "healthy: one rung up");
}

pub fn memory_exhausted(gpu: &str, rung: usize, cause: &str) {
    tracing::error!(gpu, rung, cause, "out of memory, and nothing is left to give up: the cloud serves");
}

pub fn recovered(gpu: &str, took: Duration) {
    histogram!("spillway_recovery_seconds", "gpu" => gpu.to_owned()).record(took.as_secs_f64());
    tracing::info!(gpu, took_ms = took.as_millis() as u64, "gpu serves again");
}

/// An engine died of a request that was alone on it.
pub fn request_barred(gpu: &str) {
    counter!("spillway_requests_barred_total", "gpu" => gpu.to_owned()).increment(1);
    tracing::warn!(gpu, "the engine died of a request that was alone on it; the request is kept from GPUs for a while");
}

pub fn queue_depth(depth: usize) {
    QUEUE_DEPTH.of([]).set(depth as f64);
}

pub fn queue_wait(took: Duration) {
    QUEUE_WAIT.of([]).record(took.as_secs_f64());
}

/// `reason` is full or shutting_down, `priority` the class of the key.
pub fn request_refused(reason: &'static str, priority: &'static str) {
    REFUSED.of([reason, priority]).increment(1);
}

/// Requests that may be in work at once just now.
pub fn admission_limit(limit: usize) {
    gauge!("spillway_admission_limit").set(limit as f64);
}

/// It ended at the door, before a plan was made: what it asks for is wrong, or who asks may not.
pub fn request_turned_away(outcome: &'static str) {
    REQUESTS.of(["none", "none", "none", outcome]).increment(1);
}

/// The line of a request that had no flight.
pub fn request_refused_at_the_door(who: Who, client_id: Option<&str>, status: u16, why: &'static str) {
    tracing::info!(request = %who.request, trace_id = trace_of(who), client_request_id = client_id, status, why, "request refused");
}

pub fn requests_running(running: usize) {
    RUNNING.of([]).set(running as f64);
}

/// What a request was graded as; `spillway route calibrate` reads `fails` from the log.
pub fn graded(who: Who, complexity: &'static str, fails: Option<f64>) {
    tracing::debug!(request = %who.request, trace_id = trace_of(who), complexity, fails, "graded");
}

pub fn route_decision(who: Who, complexity: &'static str, target: &str, reason: &'static str) {
    tracing::debug!(request = %who.request, trace_id = trace_of(who), complexity, target, reason, "route decided");
    DECISIONS.of([complexity, target, reason]).increment(1);
}

pub fn attempt(target: &str, outcome: &'static str) {
    ATTEMPTS.of([target, outcome]).increment(1);
}

pub fn failover(who: Who, from: &str, to: &str, cause: &'static str) {
    tracing::info!(request = %who.request, trace_id = trace_of(who), from, to, cause, "another attempt");
    counter!("spillway_failovers_total", "from" => from.to_owned(), "to" => to.to_owned(), "cause" => cause)
        .increment(1);
}

/// `stage` is detect, redispatch or first_token.
pub fn failover_stage(stage: &'static str, took: Duration) {
    histogram!("spillway_failover_seconds", "stage" => stage).record(took.as_secs_f64());
}

pub fn stream_resumed(how: &'static str) {
    counter!("spillway_streams_resumed_total", "how" => how).increment(1);
}

/// A model with a prefill style did not go on but answered from the start.
pub fn prefix_not_honoured(who: Who, target: &str, model: &str) {
    let (request, trace_id) = (who.request, trace_of(who));
    tracing::warn!(%request, trace_id, target, model, "began an answer anew instead of continuing it: its prefill_style should be none");
}

/// `outcome` is won, lost, failed or capped.
pub fn hedge(outcome: &'static str) {
    counter!("spillway_hedges_total", "outcome" => outcome).increment(1);
}

/// `outcome`: escalated = a harder tier's answer replaced it; kept = the client got it.
pub fn cascade(reason: &'static str, outcome: &'static str) {
    counter!("spillway_cascades_total", "reason" => reason, "outcome" => outcome).increment(1);
}

pub fn stream_broken(cause: &'static str) {
    counter!("spillway_streams_broken_total", "cause" => cause).increment(1);
}

pub fn time_to_first_token(target: &str, took: Duration) {
    FIRST_TOKEN.of([target]).record(took.as_secs_f64());
}

/// `waited`: since the piece before was given on.
pub fn next_piece(target: &str, waited: Duration) {
    NEXT_PIECE.of([target]).record(waited.as_secs_f64());
}

/// What the last word on one request was.
pub struct RequestEnd<'a> {
    pub who: Who,
    /// The client's own name for it.
    pub client_id: Option<&'a str>,
    pub target: &'a str,
    pub model: &'a str,
    pub complexity: &'static str,
    pub outcome: &'static str,
    pub took: Duration,
    /// Time inside targets and the queue.
    pub elsewhere: Duration,
    pub attempts: usize,
}

pub fn request_ended(end: &RequestEnd<'_>) {
    REQUESTS.of([end.target, model_label(end.model), end.complexity, end.outcome]).increment(1);
    DURATION.of([end.target]).record(end.took.as_secs_f64());
    OVERHEAD.of([]).record(end.took.saturating_sub(end.elsewhere).as_secs_f64());
    tracing::info!(
        request = %end.who.request, trace_id = trace_of(end.who), client_request_id = end.client_id, target = end.target, model = end.model, outcome = end.outcome,
        took_ms = end.took.as_millis() as u64, attempts = end.attempts, "request ended"
    );
}

/// Once, where the request ends; `origin` is the target that it failed at, or empty.
pub fn request_failed(who: Who, kind: &'static str, origin: &str) {
    tracing::warn!(request = %who.request, trace_id = trace_of(who), kind, origin, "request failed");
}

/// A bug of ours, met by one request.
pub fn handler_panicked(who: Who) {
    tracing::error!(request = %who.request, trace_id = trace_of(who), "a handler panicked");
}

/// So many traced requests reached the collector.
pub fn traces_exported(count: u64) {
    counter!("spillway_traces_exported_total").increment(count);
}

/// `reason`: full = they came faster than they could be sent; unreachable, refused = the collector did not take them; shutdown =
/// there was no time left.
pub fn traces_dropped(reason: &'static str, count: u64) {
    counter!("spillway_traces_dropped_total", "reason" => reason).increment(count);
}

/// Told when it changes, not with every batch. `why`: what the collector did, in our words.
pub fn collector_up(up: bool, why: &str) {
    if up {
        tracing::info!("the collector takes traces again");
    } else {
        tracing::warn!(why, "the collector takes no traces: those that wait too long are dropped");
    }
}

/// Of a trace, as a field of a line; absent where the request has none.
fn trace_of(who: Who) -> Option<DisplayValue<TraceId>> {
    who.trace.map(tracing::field::display)
}

/// `cached`: the part of `prompt` that came out of a cache.
pub fn tokens(target: &str, model: &str, prompt: u64, cached: u64, completion: u64) {
    let model = model_label(model);
    for (direction, count) in [("in", prompt), ("out", completion)] {
        TOKENS.of([target, model, direction]).increment(count);
    }
    PREFIX_HITS.of([target, model]).increment(cached);
}

pub fn cost(model: &str, nano_usd: u64, saved_nano_usd: u64) {
    COST.of([model_label(model)]).increment(nano_usd);
    SAVED.of([]).increment(saved_nano_usd);
}

pub fn ledger_up(up: bool) {
    gauge!("spillway_ledger_up").set(if up { 1.0 } else { 0.0 });
}

/// How long a request waited for its record.
pub fn ledger_commit(took: Duration) {
    LEDGER_COMMIT.of([]).record(took.as_secs_f64());
}

pub fn ledger_row_dropped() {
    counter!("spillway_ledger_rows_dropped_total").increment(1);
}

pub fn ledger_state(journal_bytes: u64, unapplied: u64, reserved_nano_usd: u64) {
    gauge!("spillway_ledger_journal_bytes").set(journal_bytes as f64);
    gauge!("spillway_ledger_unapplied_records").set(unapplied as f64);
    gauge!("spillway_ledger_reserved_nanousd").set(reserved_nano_usd as f64);
}

/// `group`: "all" is the operator's own budget, "keys" the API key that is nearest to its bound.
pub fn budget_remaining(group: &Arc<str>, ratio: f64) {
    gauge!("spillway_budget_remaining_ratio", "key_group" => Arc::clone(group)).set(ratio);
}

pub fn config_reload(ok: bool) {
    counter!("spillway_config_reloads_total", "outcome" => if ok { "ok" } else { "refused" }).increment(1);
}

/// `cause` is header, stalled_reader, tls or address_full.
pub fn connection_cut(cause: &'static str) {
    counter!("spillway_connections_cut_total", "cause" => cause).increment(1);
}

/// `value`: 0 passing, 1 probing, 2 tripped.
pub fn breaker(target: &str, value: u8) {
    BREAKER.of([target]).set(f64::from(value));
}

/// A provider takes traffic, and refuses no key yet.
pub fn provider_configured(target: &str) {
    gauge!("spillway_provider_key_exhausted", "target" => target.to_owned()).set(0.0);
}

/// `count` of this provider's keys are refused: someone must look.
pub fn keys_exhausted(target: &str, count: usize) {
    gauge!("spillway_provider_key_exhausted", "target" => target.to_owned()).set(count as f64);
    if count > 0 {
        tracing::warn!(target_name = target, count, "keys of this provider are refused or out of credit");
    } else {
        tracing::info!(target_name = target, "the provider accepts every key again");
    }
}

pub fn retry_refused() {
    counter!("spillway_retries_refused_total").increment(1);
}

/// API keys in the store; `unusable` of the active ones were made with another pepper.
pub fn keys(active: usize, ended: usize, unusable: usize) {
    gauge!("spillway_keys", "state" => "active").set((active - unusable.min(active)) as f64);
    gauge!("spillway_keys", "state" => "ended").set(ended as f64);
    gauge!("spillway_keys", "state" => "unusable").set(unusable as f64);
    if unusable > 0 {
        tracing::warn!(unusable, "API keys were made with another pepper and cannot be recognised");
    }
    tracing::debug!(active, ended, "API keys read");
}

pub fn keys_not_renewed(why: &str) {
    tracing::warn!(why, "the key store cannot be read: the keys known before stay as they are");
}

/// `group` is that of a known key, or `none`.
pub fn key_request(group: &str, outcome: &'static str) {
    KEY_REQUESTS.of([group, outcome]).increment(1);
}

/// Readings of one GPU; absent ones are not written.
pub struct GpuReading<'a> {
    pub gpu: &'a str,
    pub memory_used: Option<u64>,
    pub memory_total: Option<u64>,
    pub utilization: Option<f64>,
    pub power_watts: Option<f64>,
    pub temperature_celsius: Option<f64>,
    pub energy_joules: Option<u64>,
}

pub fn gpu_reading(reading: &GpuReading<'_>) {
    let set = |name: &'static str, value: Option<f64>| {
        if let Some(value) = value {
            gauge!(name, "gpu" => reading.gpu.to_owned()).set(value);
        }
    };
    set("spillway_gpu_memory_used_bytes", reading.memory_used.map(|bytes| bytes as f64));
    set("spillway_gpu_memory_total_bytes", reading.memory_total.map(|bytes| bytes as f64));
    set("spillway_gpu_utilization_ratio", reading.utilization);
    set("spillway_gpu_power_watts", reading.power_watts);
    set("spillway_gpu_temperature_celsius", reading.temperature_celsius);
    if let Some(joules) = reading.energy_joules {
        counter!("spillway_gpu_energy_joules_total", "gpu" => reading.gpu.to_owned()).absolute(joules);
    }
}

/// A card was seen for the first time; `labels` are those of every Xid.
pub fn gpu_seen(gpu: &str, labels: &[&'static str]) {
    for label in labels {
        counter!("spillway_gpu_xid_errors_total", "gpu" => gpu.to_owned(), "xid" => *label).increment(0);
    }
}

pub fn gpu_xid(gpu: &str, label: &'static str, xid: u64, meaning: &str) {
    counter!("spillway_gpu_xid_errors_total", "gpu" => gpu.to_owned(), "xid" => label).increment(1);
    tracing::warn!(gpu, xid, meaning, "the driver reported an error");
}

/// `failure`: the label of what went wrong.
pub fn provider_probe(provider: &str, failure: Option<&'static str>) {
    let outcome = failure.unwrap_or("ok");
    counter!("spillway_provider_probes_total", "provider" => provider.to_owned(), "outcome" => outcome).increment(1);
    tracing::debug!(provider, outcome, "provider probed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_nobody_configured_has_no_label_of_its_own() {
        label_models(["configured".to_owned(), "tiny".to_owned()]);
        let labels = ["configured", "none", "found-at-run-time"].map(model_label);
        assert_eq!(labels, ["configured", "none", "other"]);
    }
}
