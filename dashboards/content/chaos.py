"""Chaos and failover: what died, what that did to requests, and how fast it was made good."""

from content.events import DEATHS, ORDERED
from grafana import Panel, Row, dashboard


def stage(share):
    return (f"histogram_quantile({share}, sum by (le, stage) "
            "(increase(spillway_failover_seconds_bucket{@}[=])))")


def share_within(histogram, bound, matchers="@"):
    return (f'sum(increase({histogram}_bucket{{{matchers}, le="{bound}"}}[=])) / '
            f"sum(increase({histogram}_count{{{matchers}}}[=]))")


PROMISE = [(None, "red"), (0.95, "orange"), (0.99, "green")]

BOARD = dashboard(
    "spillway-chaos", "Spillway: chaos and failover",
    "Deaths as annotations, and beside them failovers, streams that went on or broke, breakers and retries",
    [
        Row("In the chosen range",
            Panel("Engine deaths", "All causes", "short", ("sum(increase(spillway_engine_deaths_total{@}[=]))", "engines"),
                  kind="stat", width=4, height=4),
            Panel("Actor deaths", "All causes", "short", ("sum(increase(spillway_actor_restarts_total{@}[=]))", "actors"),
                  kind="stat", width=4, height=4),
            Panel("Moved on within 200 ms", "Share of requests of a dead engine whose next attempt had left within the "
                  "promised 200 ms", "percentunit",
                  (share_within("spillway_failover_seconds", "0.2", '@, stage="redispatch"'), "share"), kind="stat",
                  width=4, height=4, steps=PROMISE),
            Panel("Back within 3 s", "Share of engine deaths after which the target served again within 3 s",
                  "percentunit", (share_within("spillway_recovery_seconds", "3"), "share"), kind="stat", width=4, height=4,
                  steps=[(None, "red"), (0.5, "orange"), (0.95, "green")]),
            Panel("Streams that went on", "Cut streams that went on elsewhere", "short",
                  ("sum(increase(spillway_streams_resumed_total{@}[=]))", "streams"), kind="stat", width=4, height=4),
            Panel("Streams that broke", "Cut streams that ended with an error frame; never shown as complete", "short",
                  ("sum(increase(spillway_streams_broken_total{@}[=]))", "streams"), kind="stat", width=4, height=4,
                  steps=[(None, "green"), (1, "orange")])),
        Row("What died, and what clients noticed",
            Panel("Deaths", "Engines by cause and actors, as they were noticed; the marks are the same events", "short",
                  ("sum by (instance, gpu, cause) (increase(spillway_engine_deaths_total{@}[~])) > 0",
                   "{{instance}} {{gpu}} {{cause}}"),
                  ("sum by (actor) (increase(spillway_actor_restarts_total{@}[~])) > 0", "{{actor}}"),
                  ("sum(increase(spillway_engine_deaths_total{@}[~]))", "engines"), width=6),
            Panel("Requests by outcome", "What clients noticed of it", "reqps",
                  ("sum by (outcome) (rate(spillway_requests_total{@}[~]))", "{{outcome}}"), width=6),
            Panel("Who answered", "While a target is away the others take its requests", "reqps",
                  ('sum by (target) (rate(spillway_requests_total{@, outcome="ok"}[~]))', "{{target}}"), stack=True, width=6),
            Panel("Ordered deaths and faults", "Through /admin/chaos since the gateway started; empty unless [chaos] is enabled",
                  "short", ("sum by (actor, how) (spillway_chaos_orders_total{@})", "{{actor}} {{how}}"), width=6)),
        Row("Failover",
            Panel("Stages after an engine's death", "Of all requests of dead engines in the chosen range, half were through "
                  "each stage after this time: noticed (detect), next attempt left (redispatch), first token there", "s",
                  (stage(0.5), "{{stage}} p50"), (stage(0.99), "{{stage}} p99"), kind="bargauge", min=0),
            Panel("Failovers", "Attempts that replaced a failed one, by from, to and what went wrong", "reqps",
                  ("sum by (from, to, cause) (rate(spillway_failovers_total{@}[~]))", "{{from}} → {{to}}: {{cause}}")),
            Panel("Attempts", "By target and how they ended", "reqps",
                  ("sum by (target, outcome) (rate(spillway_attempts_total{@}[~]))", "{{target}} {{outcome}}")),
            Panel("Streams that went on", "By replay on a local target, from their text at a local server, or from their text "
                  "in the cloud", "short",
                  ("sum by (how) (increase(spillway_streams_resumed_total{@}[~]))", "{{how}}"), min=0),
            Panel("Streams that broke", "By the error in their last frame", "short",
                  ("sum by (cause) (increase(spillway_streams_broken_total{@}[~]))", "{{cause}}"), min=0),
            Panel("Retry budget spent", "Requests that ended because extra attempts are bounded", "short",
                  ("sum(increase(spillway_retries_refused_total{@}[~]))", "refused"), min=0)),
        Row("Providers",
            Panel("Breakers", "0 = passing, 1 = probing, 2 = tripped", "short",
                  ("max by (target) (spillway_breaker_state{@})", "{{target}}"), min=0, max=2,
                  names={0: ("passing", "green"), 1: ("probing", "orange"), 2: ("tripped", "red")}),
            Panel("Refused keys", "Keys of a provider that it refuses: wrong, or out of credit", "short",
                  ("max by (target) (spillway_provider_key_exhausted{@})", "{{target}}"), min=0),
            Panel("Probes", "Silent providers are asked for their models, by outcome", "reqps",
                  ("sum by (provider, outcome) (rate(spillway_provider_probes_total{@}[~]))", "{{provider}} {{outcome}}"))),
        Row("Second attempts that spend money to save time (off by default)",
            Panel("Hedges", "Cloud calls beside a local attempt whose first token is late", "short",
                  ("sum by (outcome) (increase(spillway_hedges_total{@}[~]))", "{{outcome}}"), width=12, min=0),
            Panel("Cascades", "Poor local answers, by what was poor and whether a harder tier's answer replaced them", "short",
                  ("sum by (reason, outcome) (increase(spillway_cascades_total{@}[~]))", "{{reason}} {{outcome}}"),
                  width=12, min=0)),
    ],
    annotations=[*DEATHS, ORDERED],
)
