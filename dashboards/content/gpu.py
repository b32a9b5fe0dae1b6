"""GPU and supervision: the life of local targets and of actors, and what the cards say of themselves."""

from content.events import DEATHS
from grafana import Panel, Row, dashboard, variable

GPU = '@, gpu=~"$gpu"'
# Everything of a target is told by instance, too: two boxes may call theirs alike, and one that is down must not hide behind the other.
SERVES = [(None, "red"), (1, "green")]


def average(histogram, matchers=GPU, by="instance, gpu"):
    """Rare things: how long they took on the average of the interval."""
    return (f"sum by ({by}) (increase({histogram}_sum{{{matchers}}}[~])) / "
            f"sum by ({by}) (increase({histogram}_count{{{matchers}}}[~]))")


def over_range(share, histogram, matchers=GPU, by="instance, gpu"):
    return f"histogram_quantile({share}, sum by (le, {by}) (increase({histogram}_bucket{{{matchers}}}[=])))"


BOARD = dashboard(
    "spillway-gpu", "Spillway: GPU and supervision",
    "Life cycle of local targets, restarts and their causes, recovery, memory, batch and cache, and the cards by NVML",
    [
        Row("Life cycle",
            Panel("Serving", "1 while a target is warm or degraded, so that it may be given requests", "short",
                  (f'max by (instance, gpu) (spillway_gpu_state{{{GPU}, state=~"warm|degraded"}})', "{{instance}} {{gpu}}"), kind="stat",
                  width=4, height=6, steps=SERVES, names={0: ("no", "red"), 1: ("yes", "green")}),
            Panel("State", "The state each local target is in: one line for each state, filled while it is in it", "short",
                  (f"max by (instance, gpu, state) (spillway_gpu_state{{{GPU}}})", "{{instance}} {{gpu}} {{state}}"), kind="state-timeline",
                  width=20, height=6, names={0: ("", "transparent"), 1: ("in it", "blue")}),
            Panel("Engine deaths", "By what was known of the cause when the death was noticed", "short",
                  (f"sum by (instance, gpu, cause) (increase(spillway_engine_deaths_total{{{GPU}}}[~])) > 0", "{{instance}} {{gpu}} {{cause}}"),
                  (f"sum by (instance, gpu) (increase(spillway_engine_deaths_total{{{GPU}}}[~]))", "{{instance}} {{gpu}} all")),
            Panel("Back in service", "Engine death to serving again, on the average of the interval; promised: 3 s for a "
                  "small model", "s", (average("spillway_recovery_seconds"), "{{instance}} {{gpu}}"),
                  steps=[(None, "green"), (3, "red")]),
            Panel("Recovery in the range", "Of all recoveries of the chosen range: half, and 95 of 100, took at most this",
                  "s", (over_range(0.5, "spillway_recovery_seconds"), "{{instance}} {{gpu}} p50"),
                  (over_range(0.95, "spillway_recovery_seconds"), "{{instance}} {{gpu}} p95"), kind="stat", width=4),
            Panel("Model load", "Spawn of an engine to its loaded model, on the average of the range", "s",
                  (f"sum by (instance, gpu) (spillway_model_load_seconds_sum{{{GPU}}}) / "
                   f"sum by (instance, gpu) (spillway_model_load_seconds_count{{{GPU}}})", "{{instance}} {{gpu}}"), kind="stat", width=4)),
        Row("Actors",
            Panel("Deaths of actors", "Each is followed by a restart, by actor and cause", "short",
                  ("sum by (actor, cause) (increase(spillway_actor_restarts_total{@}[~])) > 0", "{{actor}} {{cause}}"),
                  ("sum(increase(spillway_actor_restarts_total{@}[~]))", "all"), width=12),
            Panel("Restarts in the range", "Which actors died most in the chosen range", "short",
                  ("sort_desc(sum by (actor) (increase(spillway_actor_restarts_total{@}[=])))", "{{actor}}"),
                  kind="bargauge", width=6, min=0),
            Panel("Actors that run", "Of the whole tree; one that is being restarted is missing for a moment", "short",
                  ("sum by (instance) (spillway_actor_up{@})", "{{instance}} run"),
                  ("count by (instance) (spillway_actor_up{@})", "{{instance}} of"), width=6, min=0)),
        Row("Batch and cache",
            Panel("Leases", "Requests that hold a place of a local target, and how many places there are", "short",
                  (f"sum by (instance, gpu) (spillway_leases{{{GPU}}})", "{{instance}} {{gpu}} held"),
                  (f"sum by (instance, gpu) (spillway_leases_limit{{{GPU}}})", "{{instance}} {{gpu}} places"), min=0),
            Panel("Batch", "Jobs in the engine's batch, and jobs that wait for a sequence; a request of several answers is "
                  "several jobs", "short",
                  (f"sum by (instance, gpu, state) (spillway_engine_sequences{{{GPU}}})", "{{instance}} {{gpu}} {{state}}"), min=0),
            Panel("KV cells", "In use by requests, and kept for prompts that begin alike", "percentunit",
                  (f"max by (instance, gpu) (spillway_kv_cache_usage_ratio{{{GPU}}})", "{{instance}} {{gpu}} in use"),
                  (f"max by (instance, gpu) (spillway_kv_cache_kept_ratio{{{GPU}}})", "{{instance}} {{gpu}} kept"), min=0, max=1),
            Panel("Prefix hits", "Share of prompt tokens that came out of a cache, by target", "percentunit",
                  ("sum by (target) (rate(spillway_prefix_cache_hit_tokens_total{@}[~])) / "
                   'sum by (target) (rate(spillway_tokens_total{@, direction="in"}[~]))', "{{target}}"), min=0, max=1),
            Panel("Computed for nobody", "Tokens that came out after their client had left", "short",
                  (f"sum by (instance, gpu) (rate(spillway_tokens_after_leaving_total{{{GPU}}}[~]))", "{{instance}} {{gpu}} tokens/s"),
                  (f"sum by (instance, gpu) (rate(spillway_clients_left_total{{{GPU}}}[~]))", "{{instance}} {{gpu}} answers left/s"), min=0),
            Panel("Memory ladder", "Reductions in force for want of memory; 0 = loaded as configured", "short",
                  (f"max by (instance, gpu) (spillway_gpu_memory_rung{{{GPU}}})", "{{instance}} {{gpu}}"), width=4, min=0),
            Panel("Barred prompts", "Prompts kept from GPUs in the chosen range because an engine died of them", "short",
                  (f"sum by (instance, gpu) (increase(spillway_requests_barred_total{{{GPU}}}[=]))", "{{instance}} {{gpu}}"), kind="stat", width=4)),
        Row("Cards, by NVML (empty without an NVIDIA card)",
            Panel("Memory", "In use by anybody, of what the card has; above 97 % a target counts as degraded", "percentunit",
                  ("spillway_gpu_memory_used_bytes{@} / spillway_gpu_memory_total_bytes{@}", "{{instance}} {{gpu}}"),
                  min=0, max=1, steps=[(None, "green"), (0.97, "red")], width=6),
            Panel("Temperature", "Above 88 °C a target counts as degraded, until it is below 83 °C", "celsius",
                  ("spillway_gpu_temperature_celsius{@}", "{{instance}} {{gpu}}"), steps=[(None, "green"), (88, "red")], width=6),
            Panel("Power", "Power draw by the card's own account", "watt", ("spillway_gpu_power_watts{@}", "{{instance}} {{gpu}}"),
                  min=0, width=6),
            Panel("Utilisation", "Share of time in which the card computed anything", "percentunit",
                  ("spillway_gpu_utilization_ratio{@}", "{{instance}} {{gpu}}"), min=0, max=1, width=6),
            Panel("Energy in the range", "Drawn in the chosen range, whoever used the card", "joule",
                  ("increase(spillway_gpu_energy_joules_total{@}[=])", "{{instance}} {{gpu}}"), kind="stat", height=6),
            Panel("Xid errors", "Reported by the driver; 79 = fallen off the bus, 48 = double-bit ECC error", "short",
                  ("sum by (instance, gpu, xid) (increase(spillway_gpu_xid_errors_total{@}[~])) > 0", "{{instance}} {{gpu}} Xid {{xid}}"),
                  ("sum by (instance, gpu) (increase(spillway_gpu_xid_errors_total{@}[~]))", "{{instance}} {{gpu}} all"), width=16, height=6,
                  min=0)),
    ],
    variables=[variable("gpu", "Local target", 'label_values(spillway_gpu_state{job=~"$job"}, gpu)',
                        "By its name in the configuration")],
    annotations=DEATHS,
)
