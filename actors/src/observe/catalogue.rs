//! Every metric, once: name, kind, unit and help text. Histograms carry their buckets, whose bounds include each promise and
//! limit that people hold the figure against, so that "how many kept it" is one series and no interpolation.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Option<Unit>,
    pub help: &'static str,
}

/// What is done in a moment. 0.005: the router's own time.
const SHORT: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0];
/// What a client waits for. 0.1, 0.5, 2 and 5: `max_latency_ms` of the tiers; 0.028, 0.045 and 0.12: the latencies that are
/// published for the default models.
const WAIT: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.028, 0.045, 0.07, 0.1, 0.12, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0,
    10.0, 20.0, 30.0, 60.0, 120.0,
];
/// What follows a death. 0.1: an engine adopted again; 0.2: the cloud attempt on the wire; 2.5: a hang declared; 3: the first
/// token served locally again; 30: a load that makes no progress.
const REPAIR: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.35, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0];

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, unit: None, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit: None, help }
}

const fn bytes(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit: Some(Unit::Bytes), help }
}

const fn seconds(name: &'static str, buckets: &'static [f64], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram(buckets), unit: Some(Unit::Seconds), help }
}

pub const CATALOGUE: &[Metric] = &[
    // Requests.
    counter(
        "spillway_requests_total",
        "Requests that ended, by final target, model, complexity (none: refused before there was one) and outcome",
    ),
    counter("spillway_requests_refused_total", "Requests that were not admitted, by reason and their key's priority"),
    gauge(
        "spillway_admission_limit",
        "Requests that may be in work at once now; fewer than configured while the gateway lags",
    ),
    seconds("spillway_request_duration_seconds", WAIT, "Admission to the end of the answer"),
    seconds("spillway_time_to_first_token_seconds", WAIT, "Start of an attempt to its first token"),
    seconds("spillway_inter_token_latency_seconds", SHORT, "Wait for the next piece of a stream that flows"),
    seconds("spillway_overhead_seconds", SHORT, "Request time minus target and queue time"),
    gauge("spillway_queue_depth", "Requests waiting for a lease"),
    seconds("spillway_queue_wait_seconds", WAIT, "Wait for a routing decision, and for a lease if it is a local one"),
    gauge("spillway_requests_running", "Admitted requests without an outcome yet"),
    gauge("spillway_leases", "Leases held on a local target"),
    gauge("spillway_leases_limit", "Leases that a local target can have at once"),
    counter("spillway_tokens_total", "Tokens by target, model and direction"),
    counter("spillway_prefix_cache_hit_tokens_total", "Prompt tokens that came out of a cache, local or a provider's"),
    counter("spillway_clients_left_total", "Answers whose client left while an engine worked on them"),
    counter("spillway_tokens_after_leaving_total", "Tokens computed after their client had left"),
    // Decisions.
    counter("spillway_route_decisions_total", "First target chosen, by complexity and reason"),
    counter("spillway_attempts_total", "Attempts by target and outcome"),
    counter("spillway_failovers_total", "Attempts that replaced a failed one"),
    seconds(
        "spillway_failover_seconds",
        REPAIR,
        "From a target's failure, as it was noticed: the request knows, the next attempt leaves, its first token",
    ),
    counter("spillway_streams_resumed_total", "Streams that went on elsewhere after a cut"),
    counter("spillway_streams_broken_total", "Streams that ended with an error frame"),
    counter("spillway_hedges_total", "Second attempts in the cloud beside a late local one, by outcome"),
    counter("spillway_cascades_total", "Local answers found poor, by reason and outcome"),
    counter("spillway_requests_barred_total", "Prompts kept from GPUs because an engine died of them"),
    counter("spillway_retries_refused_total", "Requests that ended because the retry budget was spent"),
    // Providers.
    gauge("spillway_breaker_state", "0 passing, 1 probing, 2 tripped"),
    gauge("spillway_provider_key_exhausted", "Keys that the provider refuses (401, 402, 403, spent credit)"),
    counter("spillway_provider_probes_total", "Active probes by provider and outcome"),
    // Actors and engines.
    counter(
        "spillway_actor_restarts_total",
        "Deaths of actors, each of which is followed by a restart, by actor and cause",
    ),
    gauge("spillway_actor_up", "1 while the actor runs"),
    counter("spillway_chaos_orders_total", "Deaths and faults that were ordered through /admin/chaos"),
    gauge("spillway_gpu_state", "1 for the state a local target is in"),
    counter("spillway_engine_deaths_total", "Deaths of engines by local target and cause"),
    seconds("spillway_recovery_seconds", REPAIR, "Engine death to serving again"),
    seconds("spillway_model_load_seconds", REPAIR, "Spawn of an engine to its loaded model"),
    gauge("spillway_engine_sequences", "Jobs in an engine by its last heartbeat: in its batch (running), or waiting"),
    gauge("spillway_kv_cache_usage_ratio", "KV cells that requests hold / KV cells"),
    gauge("spillway_kv_cache_kept_ratio", "KV cells kept for prompts that begin alike / KV cells"),
    gauge("spillway_gpu_memory_rung", "Reductions in force for want of memory; 0 = loaded as configured"),
    counter("spillway_gpu_memory_steps_total", "Rungs down (memory ran out) and up (healthy again)"),
    // Cards, as NVML tells; their label is the card's UUID, which no configuration of targets knows.
    bytes("spillway_gpu_memory_used_bytes", "GPU memory in use"),
    bytes("spillway_gpu_memory_total_bytes", "GPU memory"),
    gauge("spillway_gpu_utilization_ratio", "GPU utilisation, 0 to 1"),
    gauge("spillway_gpu_power_watts", "GPU power draw"),
    gauge("spillway_gpu_temperature_celsius", "GPU temperature"),
    counter("spillway_gpu_energy_joules_total", "Energy drawn since the driver was loaded, in joules"),
    counter("spillway_gpu_xid_errors_total", "Errors reported by the driver, by Xid"),
    // Money and keys.
    counter("spillway_cost_nanousd_total", "Cost in nano-dollars (1e-9 USD)"),
    counter("spillway_saved_nanousd_total", "Baseline cost minus real cost, in nano-dollars"),
    gauge("spillway_budget_remaining_ratio", "Tightest bound's share that is left: all, or a group's poorest key"),
    gauge("spillway_ledger_up", "1 while paid attempts can be written down, so that they may start"),
    seconds("spillway_ledger_commit_seconds", SHORT, "Wait for a record to be written"),
    bytes("spillway_ledger_journal_bytes", "Journal on disk"),
    gauge("spillway_ledger_unapplied_records", "Journal records that the database does not have yet"),
    gauge("spillway_ledger_reserved_nanousd", "Money set aside for attempts under way"),
    counter("spillway_ledger_rows_dropped_total", "Rows without cost that a full disk left no room for"),
    gauge("spillway_keys", "API keys by state"),
    counter("spillway_key_requests_total", "Requests by their key's group and what the key check said"),
    // The process.
    counter("spillway_config_reloads_total", "Configurations read again, by outcome"),
    counter("spillway_connections_cut_total", "Connections that we ended, by cause"),
    counter("spillway_traces_exported_total", "Traced requests whose spans a collector has taken"),
    counter("spillway_traces_dropped_total", "Traced requests whose spans no collector has, by reason"),
    gauge("spillway_tasks", "Tasks of the runtime that have not ended: actors, connections, requests, timers"),
    gauge("spillway_build_info", "1, with the version as label"),
];

/// Tells the recorder all of it; called once after it is installed.
pub(super) fn describe() {
    for Metric { name, kind, unit, help } in CATALOGUE {
        let unit = unit.unwrap_or(Unit::Count);
        match kind {
            Kind::Counter => describe_counter!(*name, unit, *help),
            Kind::Gauge => describe_gauge!(*name, unit, *help),
            Kind::Histogram(_) => describe_histogram!(*name, unit, *help),
        }
    }
}

/// Upper bounds of the buckets of each histogram.
pub fn buckets() -> impl Iterator<Item = (&'static str, &'static [f64])> {
    CATALOGUE.iter().filter_map(|metric| match metric.kind {
        Kind::Histogram(buckets) => Some((metric.name, buckets)),
        Kind::Counter | Kind::Gauge => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_metric_is_there_once_with_a_name_that_tells_its_kind_and_unit() {
        let names: BTreeSet<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        for Metric { name, kind, unit, help } in CATALOGUE {
            assert!(name.starts_with("spillway_") && !help.is_empty() && !help.ends_with('.'), "{name}: {help}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            match unit {
                Some(Unit::Seconds) => assert!(name.ends_with("_seconds"), "{name}"),
                Some(Unit::Bytes) => assert!(name.ends_with("_bytes"), "{name}"),
                _ => assert!(!name.ends_with("_seconds") && !name.ends_with("_bytes"), "{name}"),
            }
        }
    }

    #[test]
    fn what_is_promised_is_the_bound_of_a_bucket() {
        let promises: [(&str, &[f64]); 5] = [
            ("spillway_overhead_seconds", &[0.005]),
            ("spillway_failover_seconds", &[0.2, 2.5]),
            ("spillway_recovery_seconds", &[0.1, 3.0]),
            ("spillway_time_to_first_token_seconds", &[0.1, 0.5, 2.0, 5.0]),
            ("spillway_inter_token_latency_seconds", &[0.001]),
        ];
        for (name, bounds) in promises {
            let (_, buckets) = buckets().find(|(found, _)| *found == name).unwrap();
            assert!(buckets.is_sorted() && bounds.iter().all(|bound| buckets.contains(bound)), "{name}: {buckets:?}");
        }
    }
}
