"""Overview: is it well, where does the traffic go, how long does it take, what does it cost."""

from grafana import Panel, Row, dashboard, variable

GOOD = [(None, "red"), (0.99, "orange"), (0.997, "green")]
# As config/rules.yml counts.
LOCAL = ('on (job, instance, target) group_left () max by (job, instance, target) '
         '(label_replace(spillway_gpu_state{@} * 0 + 1, "target", "$1", "gpu", "(.+)"))')


def quantile(share, histogram, by=""):
    labels = f"le, {by}" if by else "le"
    matchers = '@, target=~"$target"' if by else "@"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({histogram}_bucket{{{matchers}}}[~])))"


BOARD = dashboard(
    "spillway-overview", "Spillway: overview",
    "Traffic, where it went, success, latency, queue and cost of Spillway gateways",
    [
        Row("At a glance",
            Panel("Requests", "Requests that ended, a second", "reqps",
                  ("sum(rate(spillway_requests_total{@}[~]))", "requests"), kind="stat", width=3, height=4),
            Panel("Success", "Share of the requests that somebody could have answered which got a whole answer, over five "
                  "minutes; the objective is 99.7 %", "percentunit",
                  ('min(spillway:success:ratio_rate5m{job=~"$job"})', "success"), kind="stat", width=3, height=4,
                  decimals=2, steps=GOOD),
            Panel("Error budget left", "Of the errors that the objective allows in three days, the share not yet made; below 0 "
                  "the objective is missed", "percentunit",
                  ('min(spillway:error_budget:remaining_ratio3d{job=~"$job"})', "left"), kind="stat", width=3, height=4,
                  decimals=0, steps=[(None, "red"), (0, "orange"), (0.3, "green")]),
            Panel("Local share", "Share of whole answers that local targets gave, over five minutes", "percentunit",
                  ('avg(spillway:local_requests:ratio_rate5m{job=~"$job"})', "local"), kind="stat", width=3, height=4),
            Panel("First token, p95", "95 of 100 attempts had their first token within this time", "s",
                  (quantile(0.95, "spillway_time_to_first_token_seconds"), "p95"), kind="stat", width=3, height=4),
            Panel("Waiting", "Requests that wait for a lease now", "short",
                  ("sum(spillway_queue_depth{@})", "waiting"), kind="stat", width=3, height=4),
            Panel("Cost per hour", "What providers bill, at the pace of the last minutes", "currencyUSD",
                  ("3600e-9 * sum(rate(spillway_cost_nanousd_total{@}[~]))", "cost"), kind="stat", width=3, height=4),
            Panel("Saved share", "Of what the baseline model would have cost in the last hour, the share not spent",
                  "percentunit", ('avg(spillway:saved:ratio_rate1h{job=~"$job"})', "saved"), kind="stat", width=3, height=4)),
        Row("Traffic",
            Panel("Requests by target", "Ended requests by who had the last word on them; `none` were refused or left before "
                  "a target was chosen", "reqps",
                  ('sum by (target) (rate(spillway_requests_total{@, target=~"$target"}[~]))', "{{target}}"), stack=True),
            Panel("Requests by outcome", "`ok` is a whole answer; the others are the error that the client read, or "
                  "`client_gone`", "reqps",
                  ('sum by (outcome) (rate(spillway_requests_total{@, target=~"$target"}[~]))', "{{outcome}}")),
            Panel("Not admitted", "Refused at the door because too many were in work or the gateway was shutting down; and "
                  "connections cut", "reqps",
                  ("sum by (reason, priority) (rate(spillway_requests_refused_total{@}[~]))", "refused: {{reason}}, {{priority}}"),
                  ("sum by (cause) (rate(spillway_connections_cut_total{@}[~]))", "cut: {{cause}}")),
            Panel("Local share", "Share that local targets gave: of whole answers, and of all tokens in and out",
                  "percentunit",
                  (f'sum(rate(spillway_requests_total{{@, outcome="ok"}}[~]) * {LOCAL}) / '
                   'sum(rate(spillway_requests_total{@, outcome="ok"}[~]))', "answers"),
                  (f"sum(rate(spillway_tokens_total{{@}}[~]) * {LOCAL}) / sum(rate(spillway_tokens_total{{@}}[~]))",
                   "tokens"), min=0, max=1),
            Panel("Decisions", "First target chosen, by the complexity of the request", "reqps",
                  ("sum by (complexity, target) (rate(spillway_route_decisions_total{@}[~]))", "{{complexity}} → {{target}}"),
                  stack=True),
            Panel("Reasons", "Why that target came first", "reqps",
                  ("sum by (reason) (rate(spillway_route_decisions_total{@}[~]))", "{{reason}}"), stack=True),
            Panel("Tokens", "Tokens that were read (in) and written (out), by target", "short",
                  ('sum by (target, direction) (rate(spillway_tokens_total{@, target=~"$target"}[~]))',
                   "{{target}} {{direction}} /s")),
            Panel("In work", "Requests that were admitted and have no outcome yet, those of them that wait, and how many may be in "
                  "work just now", "short",
                  ("sum(spillway_requests_running{@})", "running"), ("sum(spillway_queue_depth{@})", "waiting"),
                  ("sum(spillway_admission_limit{@})", "limit")),
            Panel("API keys", "Requests by what the key check said; refused ones never reach a target", "reqps",
                  ("sum by (outcome) (rate(spillway_key_requests_total{@}[~]))", "{{outcome}}"))),
        Row("Success objective (99.7 %)",
            Panel("Success", "Share of answerable requests with a whole answer, over five minutes", "percentunit",
                  ('spillway:success:ratio_rate5m{job=~"$job"}', "{{job}}"), width=12, steps=GOOD, max=1),
            Panel("Burn rate", "How many times faster than allowed errors come. Paged at 14.4 over an hour and at 6 over six "
                  "hours", "short",
                  ('spillway:slo_error:burn_rate5m{job=~"$job"}', "{{job}} 5 min"),
                  ('spillway:slo_error:burn_rate1h{job=~"$job"}', "{{job}} 1 h"),
                  ('spillway:slo_error:burn_rate6h{job=~"$job"}', "{{job}} 6 h"), width=12,
                  steps=[(None, "green"), (6, "orange"), (14.4, "red")])),
        Row("Latency",
            Panel("Request duration", "Admission to the end of the answer", "s",
                  (quantile(0.5, "spillway_request_duration_seconds"), "p50"),
                  (quantile(0.95, "spillway_request_duration_seconds"), "p95"),
                  (quantile(0.99, "spillway_request_duration_seconds"), "p99")),
            Panel("First token", "Start of an attempt to its first token, by target", "s",
                  (quantile(0.5, "spillway_time_to_first_token_seconds", "target"), "{{target}} p50"),
                  (quantile(0.95, "spillway_time_to_first_token_seconds", "target"), "{{target}} p95")),
            Panel("Between tokens", "Wait for the next piece of a stream that flows; a client that is slow to take it does "
                  "not count", "s",
                  (quantile(0.5, "spillway_inter_token_latency_seconds", "target"), "{{target}} p50"),
                  (quantile(0.99, "spillway_inter_token_latency_seconds", "target"), "{{target}} p99")),
            Panel("Own time", "Request time minus target and queue time; promised: under 5 ms", "s",
                  (quantile(0.5, "spillway_overhead_seconds"), "p50"),
                  (quantile(0.99, "spillway_overhead_seconds"), "p99"), steps=[(None, "green"), (0.005, "red")]),
            Panel("Queue wait", "Wait for a decision, and for a lease of a local target", "s",
                  (quantile(0.5, "spillway_queue_wait_seconds"), "p50"),
                  (quantile(0.95, "spillway_queue_wait_seconds"), "p95")),
            Panel("Duration by target", "95 of 100 requests of this target had ended within this time", "s",
                  (quantile(0.95, "spillway_request_duration_seconds", "target"), "{{target}} p95"))),
        Row("The process",
            Panel("Memory", "Resident memory of the gateway; engines are processes of their own and not counted", "bytes",
                  ("process_resident_memory_bytes{@} and on (job, instance) spillway_build_info{@}", "{{instance}}"), min=0),
            Panel("Processor", "Cores that the gateway keeps busy, without its engines", "short",
                  ("rate(process_cpu_seconds_total{@}[~]) and on (job, instance) spillway_build_info{@}", "{{instance}}"),
                  min=0),
            Panel("Open files", "Sockets and files of the gateway, and how many it may have", "short",
                  ("process_open_fds{@} and on (job, instance) spillway_build_info{@}", "{{instance}} open"),
                  ("process_max_fds{@} and on (job, instance) spillway_build_info{@}", "{{instance}} most")),
            Panel("Tasks", "Tasks of the runtime that have not ended: connections, requests, actors, timers. With nothing to do they "
                  "go back to their number", "short",
                  ("spillway_tasks{@}", "{{instance}}"), min=0),
            Panel("Traces", "Traced requests whose spans a collector took, and those that were lost: a full queue, a collector that "
                  "is unreachable or refuses, the end of the process. Nothing where no collector is configured", "reqps",
                  ("sum(rate(spillway_traces_exported_total{@}[~]))", "taken"),
                  ("sum by (reason) (rate(spillway_traces_dropped_total{@}[~]))", "lost: {{reason}}")),
            Panel("Up since", "Time since the gateway started", "s",
                  ("time() - process_start_time_seconds{@} and on (job, instance) spillway_build_info{@}", "{{instance}}"),
                  kind="stat", height=6),
            Panel("Version", "What is running where", "short",
                  ("spillway_build_info{@}", "{{instance}} {{version}}"), kind="table", height=6),
            Panel("Alerts", "What fires now; docs/runbook.md says what to do", "short",
                  ('ALERTS{alertstate="firing", alertname=~"Spillway.*"}', "{{alertname}}"), kind="table", height=6)),
    ],
    variables=[variable("target", "Target", 'label_values(spillway_requests_total{job=~"$job"}, target)',
                        "Local target or provider")],
)
